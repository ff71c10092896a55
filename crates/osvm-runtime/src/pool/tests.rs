//! The pool on fake guests: who gets which guest, and that nothing is left.

use super::*;
use crate::gate::NoGate;
use crate::host::NoHostServices;
use crate::ledger::NoLedger;
use crate::report::as_millis;
use crate::{Answer, CallError, Dirs, Parts, Remains, Report, Runtime, Session, ToolCall};
use osvm_image::{DEFAULT_IMAGE, Store, fixture};
use osvm_policy::{Config, Env};
use osvm_protocol::PROTOCOL_VERSION;
use osvm_protocol::note::ImageNote;
use osvm_vmm::fake::Fake;
use osvm_vmm::{Backend, BootError, Machine, MachineSpec};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::value::RawValue;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// Longest a test waits for what happens in the background. Hit only by a bug.
const PATIENCE: Duration = Duration::from_secs(20);

const TOOLS: &str = r#"[
  {"server":"system","name":"echo","description":"","outputSchema":true,"annotations":{},
   "inputSchema":{"type":"object"}},
  {"server":"system","name":"guest_info","description":"","outputSchema":true,"annotations":{},
   "inputSchema":{"type":"object"}},
  {"server":"other","name":"echo","description":"","outputSchema":true,"annotations":{},
   "inputSchema":{"type":"object"}}]"#;

/// A pool of fake guests, and a runtime that uses it.
struct Bench {
    dir: TempDir,
    pool: Arc<Pool>,
    runtime: Runtime,
    backend: Arc<Flaky>,
}

/// A fake that fails as often as it is told to, and counts its boots.
#[derive(Debug, Default)]
struct Flaky {
    fake: Fake,
    failures: AtomicU32,
    boots: AtomicU32,
}

impl Backend for Flaky {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn probe(&self) -> Result<(), BootError> {
        self.fake.probe()
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        self.boots.fetch_add(1, Ordering::SeqCst);
        let fewer = |failures: u32| failures.checked_sub(1);
        match self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer) {
            Ok(_) => Err(BootError::VmProcess { reason: "as asked".into() }),
            Err(_) => self.fake.boot(spec),
        }
    }
}

fn config(dir: &TempDir, text: &str) -> Config {
    let env = Env::new(None, None, Some(dir.path().into())).unwrap();
    let store = dir.path().join("store");
    let text = format!(r#"{{"unikernel_dir":{store:?},{text}}}"#);
    Config::parse(text, Path::new("config.json"), &env).unwrap()
}

impl Bench {
    /// `text` is the inside of the isolation config.
    fn new(text: &str) -> Self {
        Self::with_failures(text, 0)
    }

    fn with_failures(text: &str, failures: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        install(&dir, TOOLS);
        let backend = Arc::new(Flaky { failures: failures.into(), ..Flaky::default() });
        let pool = Arc::new(Pool::start().unwrap());
        let runtime = Self::runtime(&dir, text, &backend).with_pool(Arc::clone(&pool));
        pool.adopt(runtime.plan());
        Self { dir, pool, runtime, backend }
    }

    fn runtime(dir: &TempDir, text: &str, backend: &Arc<Flaky>) -> Runtime {
        let at = |name: &str| dir.path().join(name);
        Runtime::new(Parts {
            config: config(dir, text),
            backend: Arc::clone(backend) as Arc<dyn Backend>,
            host: Arc::new(NoHostServices),
            gate: Arc::new(NoGate),
            ledger: Arc::new(NoLedger),
            dirs: Dirs { run: at("run"), calls: at("calls") },
            cids: 200..=219,
        })
    }

    /// The runtime and the pool follow another config.
    fn reconfigure(&mut self, text: &str) {
        let runtime = Self::runtime(&self.dir, text, &self.backend);
        self.runtime = runtime.with_pool(Arc::clone(&self.pool));
        self.pool.adopt(self.runtime.plan());
    }

    fn call(&self, server: &str, tool: &str) -> Report {
        self.runtime.call(&tool_call(server, tool), &Cancel::default())
    }

    fn echo(&self) -> Report {
        self.call("system", "echo")
    }

    fn answer(&self, session: Option<&mut Session>, server: &str) -> (Report, Remains) {
        self.runtime.answer(&tool_call(server, "echo"), session, &Cancel::default())
    }

    fn idle(&self) -> Vec<u32> {
        let status = self.pool.status();
        status.shelves.iter().flat_map(|shelf| &shelf.idle).map(|spare| spare.vm_pid).collect()
    }

    /// Waits until so many guests are ready, and returns their process ids.
    #[track_caller]
    fn ready(&self, count: usize) -> Vec<u32> {
        eventually(|| {
            let idle = self.idle();
            (idle.len() == count && self.pool.status().vms as usize == count).then_some(idle)
        })
    }
}

fn install(dir: &TempDir, tools: &str) {
    let name = DEFAULT_IMAGE;
    let note = ImageNote { protocol: PROTOCOL_VERSION, name: name.into(), build: "fake".into() };
    let file = dir.path().join("image");
    std::fs::write(&file, fixture::image(&note, tools)).unwrap();
    Store::new(dir.path().join("store")).install(name, &file, None).unwrap();
}

fn tool_call(server: &str, tool: &str) -> ToolCall {
    let arguments = RawValue::from_string(r#"{"text":"hi"}"#.into()).unwrap();
    ToolCall::new(server, tool, arguments)
}

/// Kills a VM process, and waits until it has ended. Its owner may reap it meanwhile.
fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    let ended = |stat: String| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z');
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat"));
    eventually(|| stat().map_or(true, ended).then_some(()));
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[track_caller]
fn eventually<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
fn result(report: &Report) -> &str {
    match &report.outcome {
        Ok(Answer::Result(result)) => result.get(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_takes_a_ready_guest_and_another_one_takes_its_place() {
    let bench = Bench::new(r#""pool":{"size":2}"#);
    bench.ready(2);
    let before = bench.pool.status().shelves.remove(0).idle;
    let report = bench.echo();
    assert_eq!(result(&report), r#"{"text":"hi"}"#);
    let isolation = &report.isolation;
    assert!(isolation.pooled && !isolation.reused);
    let pid = isolation.vm_pid.unwrap();
    let taken = before.iter().find(|spare| spare.vm_pid == pid).expect("a ready guest was taken");
    assert!(!lives(pid), "it is gone");
    assert_eq!(isolation.vm_boot.map(as_millis), Some(taken.boot_ms));
    assert!(isolation.cid.is_some() && isolation.image_digest.is_some());
    assert!(!bench.ready(2).contains(&pid));
}

#[test]
fn every_call_has_a_guest_of_its_own() {
    let bench = Bench::new(r#""pool":{"size":3}"#);
    let mut pids: Vec<u32> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..20).map(|_| scope.spawn(|| bench.echo())).collect();
        calls.into_iter().map(|call| call.join().unwrap().isolation.vm_pid.unwrap()).collect()
    });
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 20);
    bench.ready(3);
}

#[test]
fn a_call_is_never_given_a_guest_with_the_variables_of_another() {
    let bench = Bench::new(
        r#""pool":{"size":1},"mcp_servers":{"system":{"tools":{
            "guest_info":{"env_vars":{"SECRET":"x"}}}}}"#,
    );
    bench.ready(2);
    let report = bench.call("system", "guest_info");
    assert!(report.isolation.pooled);
    assert!(result(&report).contains(r#""env":["SECRET"]"#));
    bench.ready(2);
    assert!(bench.echo().isolation.pooled);
    let kinds = bench.pool.status().shelves.len();
    assert_eq!(kinds, 2, "one with the variable, one without");
}

#[test]
fn a_guest_that_dies_while_it_waits_is_replaced_and_never_handed_out() {
    let bench = Bench::new(r#""pool":{"size":2}"#);
    let dead = bench.ready(2)[0];
    kill(dead);
    eventually(|| (!bench.idle().contains(&dead)).then_some(()));
    assert!(!bench.ready(2).contains(&dead));
    assert_eq!(bench.pool.status().shelves[0].lost, 1);
    assert_eq!(result(&bench.echo()), r#"{"text":"hi"}"#);
}

#[test]
fn a_guest_that_died_a_moment_ago_is_not_handed_out_either() {
    let bench = Bench::new(r#""pool":{"size":1}"#);
    for _ in 0..20 {
        let pid = bench.ready(1)[0];
        kill(pid);
        let report = bench.echo();
        assert_eq!(result(&report), r#"{"text":"hi"}"#);
        assert_ne!(report.isolation.vm_pid, Some(pid));
    }
}

#[test]
fn boots_that_fail_show_in_the_status_and_are_tried_again() {
    let bench = Bench::with_failures(r#""pool":{"size":1}"#, 2);
    let failure = eventually(|| bench.pool.status().shelves[0].failure.clone());
    assert_eq!(failure, "the VM process ended before the guest ran: as asked");
    bench.ready(1);
    let shelf = bench.pool.status().shelves.remove(0);
    assert_eq!((shelf.failed, shelf.booted, shelf.failure), (2, 1, None));
}

#[test]
fn a_guest_that_is_not_what_was_booted_does_not_get_into_the_pool() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    std::fs::write(&file, fixture::image(&fixture::note(), TOOLS)).unwrap();
    Store::new(dir.path().join("store")).install(DEFAULT_IMAGE, &file, None).unwrap();
    let backend = Arc::new(Flaky::default());
    let runtime = Bench::runtime(&dir, r#""pool":{"size":1}"#, &backend);
    let pool = Pool::start().unwrap();
    pool.adopt(runtime.plan());
    let failure = eventually(|| pool.status().shelves[0].failure.clone());
    assert!(failure.ends_with("which is not what was booted"), "{failure}");
    assert_eq!(pool.status().shelves[0].booted, 0);
}

#[test]
fn an_image_that_was_installed_anew_replaces_its_guests() {
    let mut bench = Bench::new(r#""pool":{"size":2}"#);
    let old = bench.ready(2);
    install(&bench.dir, &TOOLS.replace("  ", " "));
    let report = bench.echo();
    assert!(!report.isolation.pooled, "no guest of the old image serves a call");
    bench.reconfigure(r#""pool":{"size":2}"#);
    let new = bench.ready(2);
    assert!(old.iter().all(|pid| !new.contains(pid) && !lives(*pid)));
    let digest = &bench.pool.status().shelves[0].digest;
    assert_eq!(report.isolation.image_digest.as_ref(), Some(digest));
}

#[test]
fn a_smaller_pool_gives_up_what_is_too_much() {
    let mut bench = Bench::new(r#""pool":{"size":4}"#);
    let old = bench.ready(4);
    bench.reconfigure(r#""pool":{"size":1}"#);
    let kept = bench.ready(1)[0];
    assert_eq!(old.iter().filter(|pid| lives(**pid)).collect::<Vec<_>>(), [&kept]);
    bench.reconfigure(r#""pool":{"size":0}"#);
    bench.ready(0);
}

#[test]
fn unused_guests_make_room_for_calls_of_another_kind() {
    let bench =
        Bench::new(r#""pool":{"size":2,"max_vms":2},"mcp_servers":{"other":{"memory_mb":64}}"#);
    eventually(|| (bench.idle().len() == 2).then_some(()));
    let (held, remains) = bench.answer(None, "system");
    let (other, more) = bench.answer(None, "other");
    assert!(held.outcome.is_ok() && other.outcome.is_ok());
    assert_eq!(bench.pool.status().in_use, 2);
    drop((remains, more));
}

#[test]
fn a_full_house_says_so_with_numbers_at_the_deadline() {
    let bench = Bench::new(
        r#""pool":{"size":0,"max_vms":3,"max_vms_per_server":1},
           "mcp_servers":{"system":{"timeout_secs":1}}"#,
    );
    let (_report, remains) = bench.answer(None, "system");
    let report = bench.echo();
    let error = report.outcome.unwrap_err();
    assert!(matches!(error, CallError::Busy(Busy::Full { in_use: 1, waiting: 0, .. })), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("busy: no VM within 1."), "{text}");
    assert!(
        text.ends_with("s: 1 of 3 VMs are in use (1 of 1 by `system`), 0 calls wait"),
        "{text}"
    );
    assert!(bench.call("other", "echo").outcome.is_ok(), "another server has a place");
    drop(remains);
    assert_eq!(result(&bench.echo()), r#"{"text":"hi"}"#);
    assert_eq!(bench.pool.status().in_use, 0);
}

#[test]
fn a_guest_that_can_never_fit_is_refused_at_once() {
    let bench = Bench::new(r#""pool":{"size":1,"max_memory_mb":64}"#);
    let error = bench.echo().outcome.unwrap_err();
    assert_eq!(error.to_string(), "a guest of 128 MiB does not fit the 64 MiB for all guests");
    assert_eq!(bench.backend.boots.load(Ordering::SeqCst), 0);
}

#[test]
fn whoever_waits_can_be_cancelled() {
    let bench = Bench::new(r#""pool":{"size":0,"max_vms":1}"#);
    let (_report, remains) = bench.answer(None, "system");
    let cancel = Cancel::default();
    let call = tool_call("system", "echo");
    let report = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.runtime.call(&call, &cancel));
        eventually(|| (bench.pool.status().waiting == 1).then_some(()));
        cancel.cancel();
        waiting.join().unwrap()
    });
    assert!(matches!(report.outcome, Err(CallError::Cancelled)));
    assert_eq!(bench.pool.status().waiting, 0);
    drop(remains);
    assert!(bench.echo().outcome.is_ok());
}

#[test]
fn servers_take_turns_for_the_only_place() {
    let bench = Bench::new(r#""pool":{"size":0,"max_vms":1}"#);
    let (_report, remains) = bench.answer(None, "system");
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (waiting, server) in ["system", "system", "system", "other"].into_iter().enumerate() {
            let (bench, order) = (&bench, &order);
            scope.spawn(move || {
                let (_report, remains) = bench.answer(None, server);
                order.lock().unwrap().push(server);
                drop(remains);
            });
            eventually(|| (bench.pool.status().waiting as usize == waiting + 1).then_some(()));
        }
        drop(remains);
    });
    assert_eq!(*order.lock().unwrap(), ["system", "other", "system", "system"]);
}

#[test]
fn closing_destroys_every_unused_guest_and_boots_no_more() {
    let bench = Bench::new(r#""pool":{"size":3}"#);
    let pids = bench.ready(3);
    bench.pool.close();
    assert!(pids.into_iter().all(|pid| !lives(pid)));
    assert_eq!(bench.pool.status().vms, 0);
    assert!(bench.runtime.guests().unwrap().is_empty());
    let report = bench.echo();
    assert!(report.outcome.is_ok() && !report.isolation.pooled, "calls still get places");
}

#[test]
fn an_unused_guest_is_listed_as_such() {
    let bench = Bench::new(r#""pool":{"size":1}"#);
    let pid = bench.ready(1)[0];
    let guests = bench.runtime.guests().unwrap();
    let [guest] = guests.as_slice() else { panic!("{guests:?}") };
    assert_eq!((guest.idle, guest.vm_pid, guest.call), (true, Some(pid), None));
    assert_eq!(guest.tool, DEFAULT_IMAGE);
    assert_eq!(bench.runtime.status(Duration::ZERO).unwrap().unikernels, 1);
}

#[test]
fn the_answer_is_there_before_the_guest_is_gone_and_the_log_is_whole_after() {
    let bench = Bench::new(r#""pool":{"size":1}"#);
    bench.ready(1);
    let (report, remains) = bench.answer(None, "system");
    let pid = report.isolation.vm_pid.unwrap();
    let guests = bench.runtime.guests().unwrap();
    let own = guests.iter().find(|guest| guest.vm_pid == Some(pid)).unwrap();
    assert_eq!((own.idle, own.call), (false, Some(report.call)));
    assert_eq!(own.tool, "system/echo");
    drop(remains);
    assert!(!lives(pid));
    let logs = bench.runtime.logs().list().unwrap();
    let end = logs[0].end.as_ref().unwrap();
    assert_eq!((logs[0].header.id, end.outcome.as_str()), (report.call, "result"));
    assert_eq!(end.vm_pid, Some(pid));
    // A process that is being started holds all descriptors for a moment.
    eventually(|| (!bench.runtime.logs().list().unwrap()[0].live).then_some(()));
}

#[test]
fn a_call_that_cannot_be_logged_has_no_answer_and_leaves_no_guest() {
    let bench = Bench::new(r#""pool":{"size":1},"on_isolation_failure":"fallback""#);
    bench.ready(1);
    std::fs::write(bench.dir.path().join("calls"), "in the way").unwrap();
    let report = bench.echo();
    assert!(matches!(report.outcome, Err(CallError::Log(_))), "{report:?}");
    assert!(report.isolation.pooled && report.isolation.fallback.is_none(), "{report:?}");
    assert!(!lives(report.isolation.vm_pid.unwrap()));
}

#[test]
fn a_batch_that_asks_for_it_shares_a_guest_between_calls_of_one_server() {
    let bench = Bench::new(r#""pool":{"size":0}"#);
    let mut session = Session::default();
    let mut pids = Vec::new();
    for (server, reused) in
        [("system", false), ("system", true), ("system", true), ("other", false), ("system", false)]
    {
        let (report, remains) = bench.answer(Some(&mut session), server);
        assert!(report.outcome.is_ok());
        assert_eq!(report.isolation.reused, reused);
        pids.push(report.isolation.vm_pid.unwrap());
        drop(remains);
    }
    assert!(pids[0] == pids[1] && pids[1] == pids[2]);
    assert!(pids[2] != pids[3] && pids[3] != pids[4]);
    assert!(!lives(pids[0]) && !lives(pids[3]) && lives(pids[4]));
    drop(session);
    assert!(!lives(pids[4]));
    assert_eq!(bench.pool.status().vms, 0);
}

#[test]
fn a_shared_guest_that_died_is_not_used_again() {
    let bench = Bench::new(r#""pool":{"size":0}"#);
    let mut session = Session::default();
    let (report, remains) = bench.answer(Some(&mut session), "system");
    drop(remains);
    kill(report.isolation.vm_pid.unwrap());
    // The fake hangs up from a thread of its own, a moment after its process has ended.
    std::thread::sleep(Duration::from_millis(200));
    let (report, _remains) = bench.answer(Some(&mut session), "system");
    assert_eq!(result(&report), r#"{"text":"hi"}"#);
    assert!(!report.isolation.reused);
}
