//! A daemon on fake guests, in a directory of its own.

use osvm_daemon::client::{CallReply, Trouble};
use osvm_daemon::message::{CallHead, Failure, Terms};
use osvm_daemon::{Client, ClientError, Door, Host, Options, Stopper, serve};
use osvm_image::{DEFAULT_IMAGE, Store, fixture};
use osvm_policy::{Config, Env};
use osvm_protocol::PROTOCOL_VERSION;
use osvm_protocol::note::ImageNote;
use osvm_runtime::{ClientName, Dirs, NoGate, NoHostServices, NoLedger, Parts, Runtime};
use osvm_vmm::fake::Fake;
use serde_json::Value;
use serde_json::value::RawValue;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest a test waits for what happens in the background. Hit only by a bug.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that runs in a thread of the test.
pub(crate) struct Daemon {
    dir: TempDir,
    terms: Terms,
    stopper: Stopper,
    outdated: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct TestHost {
    dir: PathBuf,
    terms: Terms,
    backend: Arc<Fake>,
    outdated: Arc<AtomicBool>,
}

impl Host for TestHost {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn open(&self) -> Result<Runtime, Failure> {
        let env = Env::new(None, None, Some(self.dir.clone())).unwrap();
        let config = Config::load(Path::new(&self.terms.config), &env);
        let config = config.map_err(|error| Failure::new("config", &error, error.hint()))?;
        Ok(Runtime::new(Parts {
            cids: config.cid_range(),
            config,
            backend: Arc::clone(&self.backend) as Arc<_>,
            host: Arc::new(NoHostServices),
            gate: Arc::new(NoGate),
            ledger: Arc::new(NoLedger),
            dirs: Dirs { run: self.dir.join("run"), calls: self.dir.join("calls") },
        }))
    }

    fn outdated(&self) -> Option<String> {
        self.outdated.load(Ordering::SeqCst).then(|| "as asked".into())
    }
}

impl Daemon {
    /// `text` is the inside of the isolation config.
    pub(crate) fn start(text: &str) -> Self {
        Self::start_with(text, Options { idle_exit: None, drain: Duration::from_secs(5) })
    }

    pub(crate) fn start_with(text: &str, options: Options) -> Self {
        Self::start_all(text, &["hostile"], options)
    }

    /// Guests have a tool `echo` for each of `servers` too.
    pub(crate) fn start_with_servers(text: &str, servers: &[&str]) -> Self {
        let options = Options { idle_exit: None, drain: Duration::from_secs(5) };
        Self::start_all(text, servers, options)
    }

    fn start_all(text: &str, servers: &[&str], options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        install(dir.path(), servers);
        let config = dir.path().join("config.json").display().to_string();
        let terms = Terms { config, policy: None, backend: None };
        let stopper = Stopper::new().unwrap();
        let mut daemon = Self { dir, terms, stopper, outdated: Arc::default(), thread: None };
        daemon.write_config(text);
        daemon.run(options);
        daemon
    }

    /// Runs it again after it has ended.
    pub(crate) fn run(&mut self, options: Options) {
        let host = TestHost {
            dir: self.dir.path().into(),
            terms: self.terms.clone(),
            backend: Arc::new(Fake::new()),
            outdated: Arc::clone(&self.outdated),
        };
        let door = Door::open(&self.run_dir()).unwrap();
        let stopper = self.stopper.clone();
        let run = move || serve(door, Box::new(host), options, &stopper).unwrap();
        self.thread = Some(std::thread::spawn(run));
    }

    pub(crate) fn write_config(&self, text: &str) {
        let store = self.dir.path().join("store");
        let text = format!(r#"{{"unikernel_dir":{store:?},{text}}}"#);
        std::fs::write(&self.terms.config, text).unwrap();
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn terms(&self) -> Terms {
        self.terms.clone()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.run_dir()).unwrap()
    }

    pub(crate) fn head(&self, server: &str, tool: &str) -> CallHead {
        let (server, tool) = (server.into(), tool.into());
        CallHead { server, tool, share: false, client: ClientName::default(), terms: self.terms() }
    }

    pub(crate) fn call(&self, server: &str, tool: &str) -> Result<CallReply, ClientError> {
        self.connect().call(self.head(server, tool), &raw(r#"{"text":"hi"}"#))
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(self.connect().status().unwrap().get()).unwrap()
    }

    /// Waits until the status says so.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut is: impl FnMut(&Value) -> bool) -> Value {
        eventually(what, || Some(self.status()).filter(|status| is(status)))
    }

    /// Waits until so many guests are unused, and returns their processes.
    #[track_caller]
    pub(crate) fn wait_for_idle(&self, count: usize) -> Vec<u64> {
        let idle = |status: &Value| -> Vec<u64> {
            let vms = status["vms"].as_array().unwrap();
            let idle = vms.iter().filter(|vm| vm["idle"] == true && vm["vm_pid"].is_u64());
            idle.map(|vm| vm["vm_pid"].as_u64().unwrap()).collect()
        };
        // A guest has an address while it boots; on its shelf it is once it is ready.
        let ready = |status: &Value| -> usize {
            let shelves = status["pool"]["shelves"].as_array().unwrap();
            shelves.iter().map(|shelf| shelf["idle"].as_array().unwrap().len()).sum()
        };
        let status = self.wait_for("unused guests", |status| {
            idle(status).len() == count && ready(status) == count && status["pool"]["vms"] == count
        });
        idle(&status)
    }

    /// The program of the daemon was replaced.
    pub(crate) fn outdate(&self) {
        self.outdated.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stop(&mut self) {
        self.stopper.stop();
        self.wait_for_end();
    }

    pub(crate) fn wait_for_end(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    /// CIDs that somebody holds.
    pub(crate) fn cids_in_use(&self) -> usize {
        let cids = osvm_runtime::cids::Cids::new(self.run_dir(), 200..=299);
        cids.list().unwrap().len()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn install(dir: &Path, servers: &[&str]) {
    let tool = |server: &str, name: &str| {
        format!(
            r#"{{"server":"{server}","name":"{name}","description":"","outputSchema":true,
                "annotations":{{}},"inputSchema":{{"type":"object"}}}}"#
        )
    };
    let mut tools = vec![tool("system", "echo"), tool("system", "unserved")];
    tools.extend(servers.iter().map(|server| tool(server, "echo")));
    let tools = format!("[{}]", tools.join(","));
    let name = DEFAULT_IMAGE;
    let note = ImageNote { protocol: PROTOCOL_VERSION, name: name.into(), build: "fake".into() };
    let file = dir.join("image");
    std::fs::write(&file, fixture::image(&note, &tools)).unwrap();
    Store::new(dir.join("store")).install(name, &file, None).unwrap();
}

pub(crate) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

pub(crate) fn lives(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The isolation part of a reply.
pub(crate) fn isolation(reply: &CallReply) -> Value {
    serde_json::from_str(reply.isolation.get()).unwrap()
}

#[track_caller]
pub(crate) fn result(reply: &CallReply) -> &str {
    match &reply.outcome {
        Ok(result) => result.get(),
        Err(trouble) => panic!("{trouble:?}"),
    }
}

#[track_caller]
pub(crate) fn failure(reply: &CallReply) -> &Failure {
    match &reply.outcome {
        Err(Trouble::Osvm(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
