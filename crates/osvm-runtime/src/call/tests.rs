//! Whole calls on a fake hypervisor: how each one ends, and what is left of it.

mod bench;
mod recorded;

use super::*;
use crate::calls::LogLine;
use crate::cids::Claim;
use crate::error::{EndCause, GuestFault, Phase};
use crate::gate::NoGate;
use crate::host::{HostRequest, NoHostServices};
use crate::ledger::NoLedger;
use bench::{Bench, NoKvm, Scripted, program, read_frame};
use osvm_image::{ImageError, LookupError};
use osvm_protocol::code;
use osvm_protocol::frame::{self, MAX_PAYLOAD};
use osvm_protocol::message::RpcError;
use osvm_vmm::fake::Fake;
use osvm_vmm::{BootError, ConnectError, Death, Machine, MachineSpec};
use serde_json::value::RawValue;
use std::io::Write as _;
use std::sync::Mutex;

const FALLBACK: &str = r#""on_isolation_failure":"fallback""#;
const ANSWER: &[u8] = b"\x34\0\0\0{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"from\":\"outside\"}}";

fn fake(options: &str) -> Bench {
    Bench::new(Fake::new(), options).install(b"no program")
}

fn scripted(backend: Scripted) -> Bench {
    Bench::new(backend, r#""timeout_secs":20"#).install(b"no program")
}

fn result(report: &Report) -> &str {
    match &report.outcome {
        Ok(Answer::Result(result)) => result.get(),
        other => panic!("{other:?}"),
    }
}

fn error(report: &Report) -> &CallError {
    report.outcome.as_ref().unwrap_err()
}

#[test]
fn a_tool_answers_from_a_guest_of_its_own() {
    let bench = fake("");
    let report = bench.echo();
    assert_eq!(result(&report), r#"{"text":"hi"}"#);
    let isolation = &report.isolation;
    assert_eq!((isolation.mode, isolation.backend), (RunMode::Unikernel, Some("fake")));
    assert_eq!(isolation.cid, Some(200));
    assert_eq!(isolation.image.as_deref(), Some(osvm_image::DEFAULT_IMAGE));
    assert!(isolation.image_digest.as_ref().unwrap().starts_with("sha256:"));
    assert!(isolation.vm_pid.is_some() && isolation.guest_memory_kb.is_some());
    assert!(isolation.boot.unwrap() + isolation.call.unwrap() < isolation.total.unwrap());
    assert_eq!(isolation.fallback, None);
    let end = bench.end(&report).unwrap();
    assert_eq!((end.outcome.as_str(), end.vm_pid), ("result", isolation.vm_pid));
    assert_eq!((end.isolation_failure, end.fell_back), (None, false));
}

#[test]
fn an_error_of_the_tool_is_an_answer() {
    let bench = fake(FALLBACK);
    let report = bench.call("unserved", "{}");
    let Ok(Answer::ToolError(error)) = &report.outcome else { panic!("{report:?}") };
    assert_eq!(error.code, code::METHOD_NOT_FOUND);
    assert_eq!(report.isolation.fallback, None);
    assert_eq!(bench.end(&report).unwrap().outcome, "tool error -32601");
}

#[test]
fn variables_of_the_config_reach_the_guest() {
    let report = fake(r#""env_vars":{"RPC":"x","EMPTY":""}"#).call("guest_info", "{}");
    assert!(result(&report).contains(r#""env":["RPC", "EMPTY"]"#), "{}", result(&report));
}

#[test]
fn calls_at_once_run_in_guests_of_their_own() {
    let (started, both) = (Mutex::new(0), Arc::new(std::sync::Barrier::new(2)));
    let bench = scripted(Scripted::new(move |mut stream| {
        read_frame(&mut stream);
        both.wait();
        let _ = stream.write_all(ANSWER);
    }));
    let arguments = RawValue::from_string(r#"{"text":""}"#.into()).unwrap();
    let call = ToolCall::new("system", "echo", arguments);
    let cids = std::thread::scope(|scope| {
        let call = || {
            *started.lock().unwrap() += 1;
            bench.runtime.call(&call, &Cancel::default()).isolation.cid.unwrap()
        };
        let calls = [scope.spawn(call), scope.spawn(call)];
        calls.map(|call| call.join().unwrap())
    });
    assert_ne!(cids[0], cids[1]);
    assert_eq!(*started.lock().unwrap(), 2);
}

#[test]
fn wrong_names_and_arguments_start_nothing() {
    let bench = fake(FALLBACK);
    for (tool, arguments, expected) in [
        ("ehco", "{}", "server `system` has no tool `ehco`"),
        ("echo", "{}", "argument `text` is missing: it must be a string"),
        ("echo", r#"{"text":1}"#, "argument `text` is a number: it must be a string"),
        ("echo", r#"{"text":"","x":1}"#, "argument `x` is not known: there are `text`"),
        ("echo", "[]", "the argument object is not a JSON object"),
    ] {
        let report = bench.call(tool, arguments);
        let error = error(&report).to_string();
        assert!(error.ends_with(expected), "{error}");
        let total = report.isolation.total;
        let nothing = Isolation { total, ..Isolation::none(RunMode::Unikernel) };
        assert_eq!(report.isolation, nothing);
        assert_eq!(bench.end(&report), None);
    }
}

#[test]
fn an_unknown_server_is_answered_with_the_nearest() {
    let arguments = RawValue::from_string("{}".into()).unwrap();
    let call = ToolCall::new("sytem", "echo", arguments);
    let report = fake("").runtime.call(&call, &Cancel::default());
    let error = error(&report);
    assert!(matches!(error, CallError::Lookup(LookupError::UnknownServer { .. })), "{error}");
    assert_eq!(error.hint().as_deref(), Some("did you mean `system`?"));
}

#[test]
fn without_an_image_the_call_is_denied_and_the_status_says_so() {
    let bench = Bench::new(Fake::new(), "");
    let report = bench.echo();
    let error = error(&report);
    assert!(matches!(error, CallError::Image(ImageError::NotFound { .. })), "{error}");
    assert!(error.to_string().starts_with("unikernel image not found: `/"), "{error}");
    assert_eq!(report.isolation.fallback, None);
    let end = bench.end(&report).unwrap();
    assert_eq!((end.isolation_failure, end.fell_back), (Some(error.to_string()), false));
    let status = bench.runtime.status(Duration::ZERO).unwrap().to_string();
    assert!(
        status.starts_with("OSVM: 0μVMs 0uK* • system(uK:cfg) • net:none • up:0s\n* "),
        "{status}"
    );
    assert!(status.ends_with(&error.to_string()), "{status}");
}

#[test]
fn without_kvm_the_call_is_denied_unless_the_config_says_otherwise() {
    let bench = Bench::new(NoKvm, "").install(&program::answering(ANSWER));
    let report = bench.echo();
    assert!(matches!(error(&report), CallError::Boot(_)));
    assert_eq!((report.isolation.boot, report.isolation.call), (None, None));
    assert_eq!(report.isolation.image, None);
}

#[test]
fn a_fallback_answers_and_is_visible_everywhere() {
    let bench = Bench::new(NoKvm, FALLBACK).install(&program::answering(ANSWER));
    let report = bench.echo();
    assert_eq!(result(&report), r#"{"from":"outside"}"#);
    let reason = Some("cannot open `/dev/kvm`: entity not found".to_owned());
    let Isolation { call, total, .. } = report.isolation;
    let expected =
        Isolation { fallback: reason.clone(), call, total, ..Isolation::none(RunMode::Direct) };
    assert_eq!(report.isolation, expected);
    assert!(call.is_some());
    let end = bench.end(&report).unwrap();
    assert_eq!((end.isolation_failure, end.fell_back), (reason, true));
    let status = bench.runtime.status(Duration::ZERO).unwrap();
    assert!(status.isolation_failure.is_some());
}

#[test]
fn a_fallback_without_an_image_still_checks_the_executor() {
    let bench = Bench::new(Fake::new(), FALLBACK).install(&program::answering(ANSWER));
    let store = bench.runtime.store();
    std::fs::remove_file(store.image_path(osvm_image::DEFAULT_IMAGE)).unwrap();
    assert_eq!(result(&bench.echo()), r#"{"from":"outside"}"#);
    std::fs::write(store.executor_path(osvm_image::DEFAULT_IMAGE), "altered").unwrap();
    let report = bench.echo();
    let Err(CallError::Direct(DirectError::Executor(cause))) = &report.outcome else {
        panic!("{report:?}")
    };
    assert!(matches!(cause, ImageError::Altered { .. }), "{cause}");
    assert!(report.isolation.fallback.is_some());
}

#[test]
fn a_guest_that_misbehaves_is_no_reason_to_fall_back() {
    let options = format!(r#"{FALLBACK},"env_vars":{{"HOSTILE":"wrong_id"}}"#);
    let bench = Bench::new(Fake::new(), &options).install(&program::answering(ANSWER));
    let report = bench.echo();
    assert!(matches!(error(&report), CallError::Guest(GuestFault::WrongId { .. })));
    assert_eq!(report.isolation.mode, RunMode::Unikernel);
    assert_eq!(report.isolation.fallback, None);
}

#[test]
fn what_a_unikernel_cannot_be_given_is_denied_not_left_out() {
    let bench = fake(&format!(r#"{FALLBACK},"execution_mode":"microvm""#));
    let report = bench.echo();
    let error = error(&report);
    assert!(matches!(error, CallError::Denied(_)), "{error}");
    assert!(error.to_string().starts_with("`system/echo` is "), "{error}");
    assert!(error.hint().is_some());
    assert_eq!((report.isolation.vm_pid, report.isolation.fallback), (None, None));
}

#[test]
fn direct_mode_runs_on_the_host_and_says_so() {
    let bench = Bench::new(NoKvm, r#""execution_mode":"direct""#);
    let bench = bench.install(&program::answering(ANSWER));
    let report = bench.echo();
    assert_eq!(result(&report), r#"{"from":"outside"}"#);
    assert_eq!(report.isolation.mode, RunMode::Direct);
    assert_eq!((report.isolation.fallback.as_ref(), report.isolation.cid), (None, None));
    let end = bench.end(&report).unwrap();
    assert_eq!((end.isolation_failure, end.fell_back), (None, false));
    assert!(matches!(error(&bench.call("ehco", "{}")), CallError::Lookup(_)));
}

#[test]
fn an_executor_on_the_host_is_killed_on_time() {
    let options = r#""execution_mode":"direct","timeout_secs":1"#;
    let bench = Bench::new(NoKvm, options).install(&program::spinning());
    let report = bench.echo();
    let error = error(&report);
    assert!(matches!(error, CallError::Deadline { phase: Phase::Tool, .. }), "{error}");
    assert!(report.isolation.total.unwrap() < Duration::from_secs(5));
}

#[test]
fn an_executor_on_the_host_that_ends_says_how() {
    let options = r#""execution_mode":"direct""#;
    let bench = Bench::new(NoKvm, options).install(&program::exiting());
    let report = bench.echo();
    let CallError::Guest(GuestFault::HungUp(Some(EndCause::Process(status)))) = error(&report)
    else {
        panic!("{report:?}")
    };
    assert_eq!(status.code(), Some(3));
}

#[test]
fn hostile_guests_end_each_in_its_own_error() {
    let check = |name: &str, expected: fn(&CallError) -> bool| {
        let options = format!(r#""env_vars":{{"HOSTILE":"{name}"}}"#);
        let report = fake(&options).echo();
        assert!(expected(error(&report)), "{name}: {:?}", report.outcome);
        assert!(report.isolation.vm_pid.is_some());
        assert_eq!(report.isolation.call, None);
    };
    check("triple_fault", |error| {
        matches!(error, CallError::Connect(ConnectError::Died(Death::TripleFault)))
    });
    check("panic", |error| {
        matches!(error, CallError::Connect(ConnectError::Died(Death::Panicked { .. })))
    });
    check("announce_4gib", |error| matches!(error, CallError::Guest(GuestFault::TooLong(_))));
    check("wrong_id", |error| {
        let id = u64::MAX.to_string();
        matches!(error, CallError::Guest(GuestFault::WrongId { id: found }) if *found == id)
    });
    check("die_mid_frame", |error| {
        let CallError::Guest(GuestFault::MidFrame(Some(cause))) = error else { return false };
        matches!(cause, EndCause::Guest(Death::ShutDown))
    });
}

#[test]
fn a_guest_that_never_accepts_is_killed_on_time() {
    let report = fake(r#""timeout_secs":1,"env_vars":{"HOSTILE":"never_accept"}"#).echo();
    let error = error(&report);
    assert!(matches!(error, CallError::Deadline { phase: Phase::Boot, .. }), "{error}");
    assert_eq!(error.to_string(), "no answer within 1 s: killed while the guest was booting");
    assert!(report.isolation.total.unwrap() >= Duration::from_secs(1));
}

#[test]
fn a_tool_that_never_answers_is_killed_on_time() {
    let backend = Scripted::new(|mut stream| while !read_frame(&mut stream).is_empty() {});
    let report = Bench::new(backend, r#""timeout_secs":1"#).install(b"no program").echo();
    let error = error(&report);
    assert!(matches!(error, CallError::Deadline { phase: Phase::Tool, .. }), "{error}");
}

#[test]
fn rubbish_is_told_from_a_hang_up() {
    let rubbish = scripted(Scripted::answering(b"\x03\0\0\0{{{")).echo();
    assert!(matches!(error(&rubbish), CallError::Guest(GuestFault::Rubbish(_))));
    let nothing = scripted(Scripted::answering(b"")).echo();
    let error = error(&nothing);
    let CallError::Guest(GuestFault::HungUp(Some(EndCause::Guest(death)))) = error else {
        panic!("{error:?}")
    };
    assert!(matches!(death, Death::Killed { .. }), "{death}");
}

#[test]
fn requests_without_end_are_a_flood() {
    let report = scripted(Scripted::new(|mut stream| {
        let note = frame::encode(br#"{"jsonrpc":"2.0","method":"host/x"}"#).unwrap();
        while stream.write_all(&note).is_ok() {}
    }));
    assert!(matches!(error(&report.echo()), CallError::Guest(GuestFault::Flood)));
}

#[test]
fn an_answer_of_the_longest_size_comes_through() {
    let text = "x".repeat(MAX_PAYLOAD as usize - 100);
    let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{text}"}}"#);
    let answer = frame::encode(answer.as_bytes()).unwrap();
    let report = scripted(Scripted::new(move |mut stream| {
        read_frame(&mut stream);
        let _ = stream.write_all(&answer);
    }));
    assert_eq!(result(&report.echo()).len(), text.len() + 2);
}

/// A guest that sends `request` and gives the host's answer as its result.
fn asking(request: &'static str) -> Scripted {
    Scripted::new(move |mut stream| {
        read_frame(&mut stream);
        stream.write_all(&frame::encode(request.as_bytes()).unwrap()).unwrap();
        let answer = String::from_utf8(read_frame(&mut stream)).unwrap();
        let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{answer}}}"#);
        let _ = stream.write_all(&frame::encode(answer.as_bytes()).unwrap());
    })
}

#[test]
fn what_a_guest_asks_of_the_host_is_refused_by_default() {
    let ask = r#"{"jsonrpc":"2.0","id":"a","method":"host/http","params":{}}"#;
    assert_eq!(
        result(&scripted(asking(ask)).echo()),
        r#"{"jsonrpc":"2.0","id":"a","error":{"code":1002,"message":"`host/http` is not granted to this call"}}"#
    );
    let ask = r#"{"jsonrpc":"2.0","id":7,"method":"osvm/x"}"#;
    assert!(result(&scripted(asking(ask)).echo()).contains("-32601"));
    let ask = r#"{"jsonrpc":"2.0","id":7,"method":"host/log","params":{"message":"hi"}}"#;
    assert!(result(&scripted(asking(ask)).echo()).contains(r#""result":null"#));
}

#[test]
fn what_the_host_serves_reaches_the_guest() {
    #[derive(Debug)]
    struct Names;
    impl HostServices for Names {
        fn serve(&self, request: &HostRequest<'_>) -> Result<Box<RawValue>, RpcError> {
            let asked = request.params.unwrap().get();
            let answer = format!("[{:?},{asked}]", request.policy.tool);
            Ok(RawValue::from_string(answer).unwrap())
        }
    }
    let ask = r#"{"jsonrpc":"2.0","id":1,"method":"host/file","params":{"path":"x"}}"#;
    let bench = Bench::with_host(asking(ask), "", Names).install(b"no program");
    assert!(result(&bench.echo()).contains(r#""result":["echo",{"path":"x"}]"#));
}

#[test]
fn a_cancelled_call_ends_at_once_in_every_state() {
    let cancelled = Cancel::default();
    cancelled.cancel();
    for options in ["", r#""execution_mode":"direct""#] {
        let report = fake(options).call_with("echo", r#"{"text":""}"#, &cancelled);
        assert!(matches!(error(&report), CallError::Cancelled), "{:?}", report.outcome);
        assert_eq!(report.isolation.vm_pid, None);
    }

    for behaviour in ["never_accept", "good"] {
        let options = format!(r#""env_vars":{{"HOSTILE":"{behaviour}"}}"#);
        let deaf = Bench::new(Fake::new(), &options).install(b"no program");
        let cancel = Cancel::default();
        std::thread::scope(|scope| {
            let arguments = r#"{"text":"hi"}"#;
            let call = scope.spawn(|| deaf.call_with("echo", arguments, &cancel));
            std::thread::sleep(Duration::from_millis(100));
            cancel.cancel();
            let report = call.join().unwrap();
            match behaviour {
                "good" => assert_eq!(result(&report), arguments),
                _ => assert!(matches!(error(&report), CallError::Cancelled)),
            }
            assert!(report.isolation.total.unwrap() < Duration::from_secs(10));
        });
    }
}

#[test]
fn a_guest_cancelled_while_it_boots_is_no_reason_to_fall_back() {
    /// Stands for a boot that fails because its VM process was killed.
    #[derive(Debug)]
    struct Killed(Cancel);
    impl Backend for Killed {
        fn name(&self) -> &'static str {
            "killed"
        }
        fn probe(&self) -> Result<(), BootError> {
            Ok(())
        }
        fn boot(&self, _spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
            self.0.cancel();
            Err(BootError::VmProcess { reason: "killed".into() })
        }
    }
    let cancel = Cancel::default();
    let bench = Bench::new(Killed(cancel.clone()), FALLBACK).install(&program::answering(ANSWER));
    let report = bench.call_with("echo", r#"{"text":""}"#, &cancel);
    assert!(matches!(error(&report), CallError::Cancelled), "{:?}", report.outcome);
    assert_eq!(report.isolation.fallback, None);
}

#[test]
fn when_all_cids_are_taken_the_call_fails_at_its_deadline() {
    let bench = fake(r#""timeout_secs":1"#);
    let claim = Claim { call: CallId::now(), server: "a", tool: "b" };
    let take = || bench.runtime.cids().take(claim, Instant::now(), &Cancel::default()).unwrap();
    let leases = [take(), take()];
    let arguments = RawValue::from_string(r#"{"text":""}"#.into()).unwrap();
    let call = ToolCall::new("system", "echo", arguments);
    let report = bench.runtime.call(&call, &Cancel::default());
    let error = error(&report).to_string();
    assert!(error.starts_with("all 2 CIDs (200 to 201) are taken: 2 by `a/b`"), "{error}");
    assert_eq!(report.isolation.vm_pid, None);
    drop(leases);
    assert_eq!(result(&bench.echo()), r#"{"text":"hi"}"#);
}
