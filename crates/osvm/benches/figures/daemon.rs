//! A daemon to measure: a process of the measured `osvm`, in a home of its own.

use crate::host::Host;
use anyhow::{Context, Result, bail, ensure};
use osvm_daemon::Client;
use osvm_daemon::client::{CallReply, ClientError, Trouble};
use osvm_daemon::message::{CallHead, Terms};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest the pool may take to fill, or the daemon to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    home: TempDir,
    osvm: PathBuf,
    process: Option<Child>,
    terms: Terms,
}

impl Daemon {
    /// Starts one on `backend`; `config` is the inside of its isolation config.
    pub(crate) fn start(host: &Host, backend: &str, config: &str) -> Result<Self> {
        let home = TempDir::with_prefix("osvm-bench-").context("cannot make a home")?;
        let run = home.path().join("run");
        fs::create_dir(&run).context("cannot make a runtime directory")?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
        let path = home.path().join("config.json");
        let store = host.store.dir();
        fs::write(&path, format!(r#"{{"unikernel_dir":{store:?},{config}}}"#))?;
        let path = path.display().to_string();
        let terms = Terms { config: path, backend: Some(backend.into()), policy: None };
        // Copies, because a daemon ends when its program is built anew meanwhile.
        let copy = |program: &Path| -> Result<PathBuf> {
            let copy = home.path().join(program.file_name().context("no program")?);
            fs::copy(program, &copy).context("cannot copy a program")?;
            Ok(copy)
        };
        copy(&host.osvm_vm)?;
        let osvm = copy(&host.osvm)?;
        let mut daemon = Self { home, osvm, process: None, terms };
        let log = fs::File::create(daemon.home.path().join("daemon.log"))?;
        let mut command = daemon.osvm(&["daemon"]);
        daemon.process = Some(command.stderr(log).spawn().context("cannot run osvm")?);
        daemon.eventually("the daemon to listen", |daemon| Ok(daemon.connect().ok()))?;
        Ok(daemon)
    }

    /// `osvm` with these arguments, as a user of this daemon.
    pub(crate) fn osvm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.osvm);
        let backend = self.terms.backend.as_deref().unwrap_or_default();
        command.args(["--config", &self.terms.config, "--backend", backend]).args(arguments);
        command.env_clear().env("HOME", self.home.path());
        // Backends look for their programs there.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("XDG_RUNTIME_DIR", self.home.path().join("run"));
        command.current_dir(self.home.path()).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The directory with its socket.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.home.path().join("run/osvm")
    }

    pub(crate) fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.run_dir())
    }

    pub(crate) fn head(&self, server: &str, tool: &str) -> CallHead {
        let (server, tool) = (server.into(), tool.into());
        CallHead {
            server,
            tool,
            share: false,
            client: osvm_runtime::ClientName::default(),
            terms: self.terms.clone(),
        }
    }

    /// `system echo` on `client`; anything but the right answer is an error.
    pub(crate) fn echo(&self, client: &mut Client, text: &str) -> Result<CallReply> {
        let arguments = format!(r#"{{"text":"{text}"}}"#);
        let reply = client.call(self.head("system", "echo"), &raw(&arguments)?)?;
        match &reply.outcome {
            Ok(result) => ensure!(result.get() == arguments, "a wrong answer: {}", result.get()),
            Err(Trouble::Tool(error)) => bail!("the tool failed: {}", error.message),
            Err(Trouble::Osvm(failure)) => bail!("{} {:?}", failure.message, failure.causes),
        }
        Ok(reply)
    }

    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(self.connect()?.status()?.get())?)
    }

    /// Waits until so many VMs are unused and nothing else is going on; returns their processes.
    pub(crate) fn wait_for_idle(&self, count: usize) -> Result<Vec<u32>> {
        self.eventually("unused VMs", |daemon| {
            let status = daemon.status()?;
            let idle = idle(&status);
            let vms = status.pointer("/pool/vms").and_then(Value::as_u64);
            let quiet = vms == u64::try_from(count).ok() && idle.len() == count;
            Ok(quiet.then_some(idle))
        })
    }

    /// Polls until `probe` finds something.
    pub(crate) fn eventually<T>(
        &self,
        what: &str,
        probe: impl Fn(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = probe(self)? {
                return Ok(found);
            }
            if PATIENCE < begun.elapsed() {
                let log = fs::read_to_string(self.home.path().join("daemon.log"));
                bail!("waited in vain for {what}: {}", log.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it in order, and waits until it is gone. What it left is in the home.
    pub(crate) fn stop(mut self) -> Result<Self> {
        self.connect()?.stop()?;
        let mut process = self.process.take().context("the daemon has ended")?;
        let status = process.wait().context("cannot wait for the daemon")?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(self)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _gone = kill_process(Pid::from_child(&process), Signal::TERM);
            let _ended = process.wait();
        }
    }
}

/// Processes of the VMs that wait for a call.
pub(crate) fn idle(status: &Value) -> Vec<u32> {
    vms(status, |vm| vm.get("idle") == Some(&Value::Bool(true)))
}

/// Processes of the VMs that are `wanted`.
pub(crate) fn vms(status: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<u32> {
    let vms = status.get("vms").and_then(Value::as_array).into_iter().flatten();
    let pid = |vm: &Value| u32::try_from(vm.get("vm_pid")?.as_u64()?).ok();
    vms.filter(|vm| wanted(vm)).filter_map(pid).collect()
}

pub(crate) fn raw(text: &str) -> Result<Box<RawValue>> {
    RawValue::from_string(text.into()).context("not JSON")
}

/// A sum of lines of a file below `/proc`, in KiB.
pub(crate) fn proc_kb(pid: u32, file: &str, name: &str) -> Result<u64> {
    let path = Path::new("/proc").join(pid.to_string()).join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("no `{}`", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kb = line.and_then(|line| line.split_whitespace().next()).context("no such line")?;
    kb.parse().context("no number")
}
