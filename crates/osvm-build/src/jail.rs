//! Runs one program of the build where it can neither read the user's files nor keep anything.
//!
//! # Invariants
//!
//! - Landlock lets it read what belongs to the system and write below the build's own folder.
//!   Without Landlock nothing is run.
//! - It has no capabilities and gets no new privileges, a clean environment, and a HOME that is
//!   thrown away. Steps that need no network can't open a TCP connection.
//! - It and everything it started is killed when its time is over, and what it says is bounded.
//!
//! # How
//!
//! Landlock, capabilities and "no new privileges" belong to a thread, and children inherit them
//! from the thread that starts them. So a thread locks itself in, starts the program and ends.
//! Nothing has to happen between `fork` and `exec`, which would take `unsafe` code.

use crate::error::BuildError;
use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What belongs to the system and tells nothing about the user.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/proc",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/cache/apt",
    "/run/systemd/resolve",
    "/etc/alternatives",
    "/etc/apt",
    "/etc/ca-certificates",
    "/etc/debian_version",
    "/etc/dpkg",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pip.conf",
    "/etc/pki",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl",
];

/// Devices without memory.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// Where programs of the system are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the user's environment that say how to reach a registry. Not credentials of
/// their own, but an address may carry some; whoever sets it means it to be used.
const NETWORK: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "npm_config_registry",
    "PIP_INDEX_URL",
];

/// Variables that name a file of certificates, which the program then may read.
const CERTIFICATES: &[&str] =
    &["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "npm_config_cafile", "GIT_SSL_CAINFO"];

/// Processor time in seconds, and largest file in 512-byte blocks (8 GiB).
const LIMITS: &str = "ulimit -c 0; ulimit -t 1800; ulimit -f 16777216; exec \"$@\"";

/// Most that is kept of what a program says, in bytes.
const MAX_OUTPUT: u64 = 64 << 20;

/// Most that an error shows of it, in bytes.
const MAX_TAIL: u64 = 4096;

/// The folder of one build: what confined programs may write to.
#[derive(Debug)]
pub(crate) struct Yard {
    dir: tempfile::TempDir,
}

/// One program to run.
#[derive(Debug)]
pub(crate) struct Step {
    /// What for, after "cannot".
    pub(crate) what: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Where it runs, below the build's folder.
    pub(crate) dir: PathBuf,
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// What it may read besides.
    pub(crate) read: Vec<PathBuf>,
    pub(crate) network: bool,
    pub(crate) timeout: Duration,
}

impl Yard {
    pub(crate) fn new() -> Result<Self, BuildError> {
        let parent = std::env::temp_dir();
        let dir = tempfile::Builder::new().prefix("osvm-build-").tempdir_in(&parent);
        let dir = dir.map_err(BuildError::io(&parent))?;
        let yard = Self { dir };
        yard.sub("home")?;
        yard.sub("tmp")?;
        Ok(yard)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A folder in it, made if need be.
    pub(crate) fn sub(&self, name: &str) -> Result<PathBuf, BuildError> {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).map_err(BuildError::io(&path))?;
        Ok(path)
    }

    /// A step with the defaults: in the build's folder, no network, ten minutes.
    pub(crate) fn step(&self, what: impl Into<String>, program: impl Into<PathBuf>) -> Step {
        Step {
            what: what.into(),
            program: program.into(),
            args: Vec::new(),
            dir: self.path().to_owned(),
            env: Vec::new(),
            read: Vec::new(),
            network: false,
            timeout: Duration::from_secs(600),
        }
    }

    /// Runs a step to its end and returns what it wrote to stdout.
    pub(crate) fn run(&self, step: Step) -> Result<Vec<u8>, BuildError> {
        tracing::debug!(program = %step.program.display(), args = ?step.args, "build step");
        let log = || tempfile::tempfile().map_err(BuildError::io(std::env::temp_dir()));
        let (mut out, mut err) = (log()?, log()?);
        let clone = |file: &File| file.try_clone().map_err(BuildError::io(self.path()));
        let (child_out, child_err) = (clone(&out)?, clone(&err)?);
        let mut command = self.command(&step);
        command.stdout(child_out).stderr(child_err);
        let rules = Rules { yard: self.path(), read: &step.read, network: step.network };
        let child = std::thread::scope(|scope| scope.spawn(|| rules.start(&mut command)).join());
        let mut child = child
            .map_err(|_| BuildError::NoJail(io::Error::other("the starting thread died")))??;
        let outcome = wait(&mut child, step.timeout).map_err(BuildError::io(&step.program))?;
        if let Some(outcome) = outcome {
            let output = last(&mut err).or_else(|_| last(&mut out)).unwrap_or_default();
            let program = step.program.file_name().unwrap_or_default().to_string_lossy().into();
            return Err(BuildError::Step { what: step.what, program, outcome, output });
        }
        let mut bytes = Vec::new();
        out.seek(SeekFrom::Start(0))
            .and_then(|_| out.take(MAX_OUTPUT).read_to_end(&mut bytes))
            .map_err(BuildError::io(&step.program))?;
        Ok(bytes)
    }

    fn command(&self, step: &Step) -> Command {
        // Limits are set by the shell, because they belong to a process and not to a thread.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", LIMITS, "sh"]).arg(&step.program).args(&step.args);
        command.current_dir(&step.dir).stdin(Stdio::null()).process_group(0).env_clear();
        let mut path = OsString::from(PATH);
        if let Some(dir) = step.program.parent() {
            path = [dir.as_os_str(), &path].join(":".as_ref());
        }
        command.env("PATH", path).env("LANG", "C.UTF-8").env("TZ", "UTC");
        command.env("HOME", self.path().join("home")).env("TMPDIR", self.path().join("tmp"));
        if step.network {
            for name in NETWORK.iter().chain(CERTIFICATES) {
                if let Some(value) = std::env::var_os(name) {
                    command.env(name, value);
                }
            }
        }
        command.envs(step.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Step {
    pub(crate) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    pub(crate) fn within(mut self, dir: &Path) -> Self {
        self.dir = dir.to_owned();
        self
    }

    pub(crate) fn reading(mut self, path: &Path) -> Self {
        self.read.push(path.to_owned());
        self
    }

    pub(crate) fn with_network(mut self) -> Self {
        self.network = true;
        self
    }
}

struct Rules<'a> {
    yard: &'a Path,
    read: &'a [PathBuf],
    network: bool,
}

impl Rules<'_> {
    /// Locks the calling thread in, and starts `command` from it.
    fn start(&self, command: &mut Command) -> Result<Child, BuildError> {
        let none = CapabilitySet::empty();
        let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
        let no_jail = |error: rustix::io::Errno| BuildError::NoJail(error.into());
        set_capabilities(None, none).map_err(no_jail)?;
        set_no_new_privs(true).map_err(no_jail)?;
        let enforced =
            self.restrict().map_err(|error| BuildError::NoJail(io::Error::other(error)))?;
        if !enforced {
            return Err(BuildError::NoJail(io::Error::other("the kernel has no Landlock")));
        }
        command.spawn().map_err(BuildError::io(command.get_program()))
    }

    fn restrict(&self) -> Result<bool, RulesetError> {
        let abi = ABI::V6;
        let read = AccessFs::from_read(abi);
        let certificates = CERTIFICATES.iter().filter_map(std::env::var_os);
        let rules = Ruleset::default().handle_access(AccessFs::from_all(abi))?;
        let rules =
            if self.network { rules } else { rules.handle_access(AccessNet::from_all(abi))? };
        // What is not there is left out.
        let status = rules
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules(self.read, read))?
            .add_rules(path_beneath_rules(certificates, read))?
            .add_rules(path_beneath_rules(DEVICES, read | AccessFs::WriteFile))?
            .add_rules(path_beneath_rules([self.yard], AccessFs::from_all(abi)))?
            .restrict_self()?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    }
}

/// Waits for the child, and ends it when its time is over. `None` is success, else how it ended.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<String>> {
    let deadline = Instant::now() + timeout;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    let ended = ends_before(pid, deadline);
    // Whatever it started and left behind goes with it.
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait()?;
    if !ended? {
        return Ok(Some(format!("did not end within {} s", timeout.as_secs())));
    }
    Ok((!status.success()).then(|| format!("ended with {status}")))
}

fn ends_before(pid: Pid, deadline: Instant) -> io::Result<bool> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.try_into().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The last lines of a log; an error when there are none.
fn last(file: &mut File) -> io::Result<String> {
    let len = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(len.saturating_sub(MAX_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a shell script in a jail; `None`, and a word on stderr, where there is no Landlock.
    fn shell(yard: &Yard, script: &str) -> Option<Result<String, BuildError>> {
        let step = yard.step("run a script", "/bin/sh").args(["-c", script]);
        match yard.run(step) {
            Err(BuildError::NoJail(error)) if std::env::var_os("OSVM_REQUIRE").is_none() => {
                eprintln!("SKIPPED: {error}");
                None
            }
            ran => Some(ran.map(|out| String::from_utf8(out).unwrap())),
        }
    }

    #[test]
    fn a_step_writes_to_the_build_folder_only() {
        let yard = Yard::new().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let script = format!("echo in > file; echo out > {}/file", outside.path().display());
        let Some(ran) = shell(&yard, &script) else { return };
        assert!(matches!(ran, Err(BuildError::Step { .. })), "{ran:?}");
        assert_eq!(std::fs::read_to_string(yard.path().join("file")).unwrap(), "in\n");
        assert!(!outside.path().join("file").exists());
    }

    #[test]
    fn a_step_cannot_read_files_that_are_not_the_systems() {
        let yard = Yard::new().unwrap();
        let secret = tempfile::NamedTempFile::new().unwrap();
        let script = format!("cat {}", secret.path().display());
        let Some(ran) = shell(&yard, &script) else { return };
        assert!(ran.unwrap_err().to_string().contains("Permission denied"));
    }

    #[test]
    fn a_step_has_a_clean_environment_and_no_capabilities() {
        let yard = Yard::new().unwrap();
        let Some(ran) = shell(&yard, "env; grep CapEff /proc/self/status") else { return };
        let said = ran.unwrap();
        assert!(said.contains(&format!("HOME={}/home", yard.path().display())), "{said}");
        assert!(said.contains("CapEff:\t0000000000000000"), "{said}");
        assert!(!said.contains("CARGO"), "{said}");
    }

    #[test]
    fn a_step_without_network_cannot_connect() {
        let yard = Yard::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'");
        let Some(ran) = shell(&yard, &script) else { return };
        assert!(ran.unwrap_err().to_string().contains("Permission denied"));
    }

    #[test]
    fn a_step_that_does_not_end_is_ended_with_its_children() {
        let yard = Yard::new().unwrap();
        let mut step = yard.step("wait", "/bin/sh").args(["-c", "sleep 1000 & sleep 1000"]);
        step.timeout = Duration::from_millis(200);
        match yard.run(step) {
            Err(BuildError::NoJail(error)) => eprintln!("SKIPPED: {error}"),
            ran => assert!(ran.unwrap_err().to_string().contains("did not end")),
        }
    }
}
