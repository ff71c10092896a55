//! What a gate and a ledger do to calls, and calls of tools that no unikernel has.

use super::*;
use crate::gate::{Question, Refusal};
use crate::hosted::{HostedError, HostedReply, Site, Terms};
use crate::ledger::{Decision, LedgerError, Record};
use crate::trace::Reach;
use osvm_policy::Env;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// Keeps what it is given, as long as it is told to.
#[derive(Debug, Default)]
struct Books {
    full: AtomicBool,
    torn: AtomicBool,
    records: Mutex<Vec<Record>>,
}

fn broken(is_broken: &AtomicBool) -> Result<(), LedgerError> {
    match is_broken.load(Ordering::SeqCst) {
        true => Err(LedgerError::new("no room", Some("make room".into()))),
        false => Ok(()),
    }
}

impl Ledger for Books {
    fn ready(&self) -> Result<(), LedgerError> {
        broken(&self.full)
    }

    fn write(&self, record: &Record) -> Result<(), LedgerError> {
        self.records.lock().unwrap().push(record.clone());
        broken(&self.torn)
    }
}

/// Lets nobody through who calls tool `unserved`, and asks a slow person where there is little time.
#[derive(Debug)]
struct Keeper;

/// The `timeout_secs` that a slow person uses up.
const TIGHT: Duration = Duration::from_secs(1);

impl Gate for Keeper {
    fn decide(&self, ask: &Question<'_>) -> Result<Permit, Refusal> {
        let rule = Some("rule 1".to_owned());
        match ask.tool {
            "unserved" => Err(Refusal { rule, reason: "no".into(), hint: Some("ask".into()) }),
            _ if ask.policy.timeout == TIGHT => {
                // A person who takes all the time that the tool has.
                std::thread::sleep(TIGHT);
                Ok(Permit { rule, waited: TIGHT })
            }
            _ => Ok(Permit { rule, waited: Duration::ZERO }),
        }
    }
}

/// Notes what a guest asks for, and when it is over.
#[derive(Debug, Default)]
struct Notes(Arc<Mutex<Vec<CallId>>>);

impl HostServices for Notes {
    fn serve(&self, request: &HostRequest<'_>) -> Result<Box<RawValue>, RpcError> {
        let (op, path) = ("read".into(), "/x".into());
        request.trace.note(Reach::File { op, path, bytes: 3, refused: None });
        Ok(RawValue::NULL.to_owned())
    }

    fn ended(&self, call: CallId, _trace: &Trace) {
        self.0.lock().unwrap().push(call);
    }
}

struct Watched {
    books: Arc<Books>,
    ended: Arc<Mutex<Vec<CallId>>>,
    runtime: Runtime,
    _dir: TempDir,
}

fn watched(backend: impl Backend + 'static, servers: &str) -> Watched {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let env = Env::new(None, None, Some(dir.path().into())).unwrap();
    let config = format!(r#"{{"unikernel_dir":{:?},"mcp_servers":{servers}}}"#, at("store"));
    let (books, notes) = (Arc::new(Books::default()), Notes::default());
    let ended = Arc::clone(&notes.0);
    let runtime = Runtime::new(Parts {
        config: Config::parse(config, Path::new("config.json"), &env).unwrap(),
        backend: Arc::new(backend),
        host: Arc::new(notes),
        gate: Arc::new(Keeper),
        ledger: Arc::clone(&books) as Arc<dyn Ledger>,
        dirs: Dirs { run: at("run"), calls: at("calls") },
        cids: 200..=201,
    });
    bench::install_into(&runtime, dir.path());
    Watched { books, ended, runtime, _dir: dir }
}

impl Watched {
    fn call(&self, server: &str, tool: &str, arguments: &str) -> Report {
        let arguments = RawValue::from_string(arguments.into()).unwrap();
        let call = ToolCall::new(server, tool, arguments);
        self.runtime.call(&call, &Cancel::default())
    }

    fn hosted(&self, server: &str, hosted: &dyn Hosted) -> Report {
        let call = ToolCall::new(server, "read", RawValue::NULL.to_owned());
        self.runtime.call_hosted(&call, hosted, &Cancel::default())
    }

    fn only_record(&self) -> Record {
        let records = self.books.records.lock().unwrap();
        assert_eq!(records.len(), 1, "{records:?}");
        records[0].clone()
    }
}

#[test]
fn every_call_leaves_one_record_however_it_ends() {
    for (tool, arguments, decision, exit) in [
        ("echo", r#"{"text":"hi"}"#, Decision::Allow, "result"),
        ("unserved", "{}", Decision::Deny, "denied"),
        ("absent", "{}", Decision::None, "unknown_tool"),
        ("echo", r#"{"text":1}"#, Decision::None, "arguments"),
    ] {
        let watched = watched(Fake::new(), "{}");
        let report = watched.call("system", tool, arguments);
        let record = watched.only_record();
        assert_eq!((record.decision, record.exit.as_str()), (decision, exit));
        assert_eq!((record.call, record.tool.as_str()), (report.call, tool));
        assert_eq!(record.result.is_some(), exit == "result");
        assert_eq!(record.rule.is_some(), decision != Decision::None);
        assert_eq!(record.isolation.vm_pid.is_some(), exit == "result");
        assert_eq!(*watched.ended.lock().unwrap(), [report.call]);
    }
}

#[test]
fn a_tool_has_all_its_time_however_long_a_person_took() {
    let watched = watched(Fake::new(), r#"{"system":{"timeout_secs":1}}"#);
    let report = watched.call("system", "echo", r#"{"text":"hi"}"#);
    assert_eq!(result(&report), r#"{"text":"hi"}"#);
    assert!(TIGHT <= report.isolation.total.unwrap(), "the report tells the whole time");
}

#[test]
fn what_a_guest_reached_is_in_the_record() {
    let ask = r#"{"jsonrpc":"2.0","id":1,"method":"host/file","params":{}}"#;
    let watched = watched(asking(ask), "{}");
    watched.call("system", "echo", r#"{"text":"hi"}"#);
    assert!(matches!(&*watched.only_record().reaches, [Reach::File { bytes: 3, .. }]));
}

#[test]
fn nothing_starts_that_could_leave_no_record() {
    let watched = watched(Fake::new(), "{}");
    watched.books.full.store(true, Ordering::SeqCst);
    let report = watched.call("system", "echo", r#"{"text":"hi"}"#);
    let error = error(&report);
    assert!(matches!(error, CallError::Ledger(_)), "{error}");
    assert_eq!((error.code(), error.hint().as_deref()), ("receipts", Some("make room")));
    assert_eq!(report.isolation.vm_pid, None);
    assert!(watched.books.records.lock().unwrap().is_empty());
}

#[test]
fn an_answer_whose_record_is_lost_is_withheld() {
    let watched = watched(Fake::new(), "{}");
    watched.books.torn.store(true, Ordering::SeqCst);
    let report = watched.call("system", "echo", r#"{"text":"hi"}"#);
    assert!(matches!(error(&report), CallError::NoReceipt { .. }), "{report:?}");
    // What was refused before it began is told as that.
    let report = watched.call("system", "unserved", "{}");
    assert!(matches!(error(&report), CallError::Denied(Denial::Refused(_))), "{report:?}");
}

/// A server on the host or elsewhere, which tells where it was called.
struct Server {
    site: Site,
    fails_in: Option<RunMode>,
}

impl Hosted for Server {
    fn site(&self) -> Site {
        self.site
    }

    fn call(&self, terms: &Terms<'_>) -> Result<HostedReply, HostedError> {
        if self.fails_in == Some(terms.place) {
            return Err(HostedError {
                code: "server",
                message: "no VM".into(),
                causes: vec!["no kernel".into()],
                hint: None,
                isolation_failure: true,
            });
        }
        let place = serde_json::value::to_raw_value(&terms.place).unwrap();
        let cid = (terms.place == RunMode::MicroVm).then_some(7);
        Ok(HostedReply { cid, ..HostedReply::new(Answer::Mcp(place)) })
    }
}

const PROCESS: Server = Server { site: Site::Process, fails_in: None };

#[test]
fn a_program_runs_only_where_the_config_says_so() {
    let servers = r#"{"vm":{"execution_mode":"microvm"},"host":{"execution_mode":"direct"}}"#;
    let watched = watched(Fake::new(), servers);
    let report = watched.hosted("unnamed", &PROCESS);
    let refused = error(&report);
    assert!(matches!(refused, CallError::Denied(Denial::NotUnikernel { .. })), "{refused}");
    let hint = refused.hint().unwrap();
    assert!(
        hint.contains(r#""mcp_servers": {"unnamed": {"execution_mode": "microvm"}}"#),
        "{hint}"
    );
    assert_eq!(watched.only_record().decision, Decision::Deny);
    for (server, hosted, mode) in [
        ("vm", &PROCESS, RunMode::MicroVm),
        ("host", &PROCESS, RunMode::Direct),
        ("unnamed", &Server { site: Site::Remote, fails_in: None }, RunMode::Remote),
    ] {
        let report = watched.hosted(server, hosted);
        let Ok(Answer::Mcp(place)) = &report.outcome else { panic!("{report:?}") };
        assert_eq!(place.get(), format!("{:?}", mode.as_str()));
        assert_eq!(report.isolation.mode, mode);
        assert!(report.isolation.call.is_some() && report.isolation.total.is_some());
        assert!(watched.runtime.logs().open(report.call).is_ok());
    }
}

#[test]
fn a_microvm_that_cannot_be_had_is_denied_or_falls_back_as_configured() {
    let servers = r#"{"deny":{"execution_mode":"microvm"},
        "fallback":{"execution_mode":"microvm","on_isolation_failure":"fallback"}}"#;
    let watched = watched(Fake::new(), servers);
    let broken = Server { site: Site::Process, fails_in: Some(RunMode::MicroVm) };
    let report = watched.hosted("deny", &broken);
    assert_eq!(
        (error(&report).code(), crate::error::chain(error(&report))),
        ("server", "no VM: no kernel".into())
    );
    assert_eq!(report.isolation.mode, RunMode::MicroVm);
    let report = watched.hosted("fallback", &broken);
    assert!(report.outcome.is_ok(), "{report:?}");
    assert_eq!(report.isolation.mode, RunMode::Direct);
    assert_eq!(report.isolation.fallback.as_deref(), Some("no VM: no kernel"));
    let record = watched.books.records.lock().unwrap()[1].clone();
    assert_eq!(record.isolation_failure.as_deref(), Some("no VM: no kernel"));
}
