//! What clients of a daemon can rely on.

use crate::support::{Daemon, eventually, failure, isolation, lives, raw, result};
use osvm_daemon::client::Trouble;
use osvm_daemon::message::Terms;
use osvm_daemon::{Client, ClientError, Options, SOCKET};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const NO_POOL: &str = r#""pool":{"size":0}"#;
/// A server whose guests spin for ever.
const SPIN: &str = r#""mcp_servers":{"hostile":{"env_vars":{"HOSTILE":"spin"}}}"#;

#[test]
fn a_call_is_answered_by_a_guest_that_was_ready() {
    let daemon = Daemon::start(r#""pool":{"size":2}"#);
    let ready = daemon.wait_for_idle(2);
    let reply = daemon.call("system", "echo").unwrap();
    assert_eq!(result(&reply), r#"{"text":"hi"}"#);
    let isolation = isolation(&reply);
    assert_eq!((&isolation["pooled"], &isolation["mode"]), (&true.into(), &"unikernel".into()));
    assert!(ready.contains(&isolation["vm_pid"].as_u64().unwrap()));
    eventually("its end", || (!lives(isolation["vm_pid"].as_u64().unwrap())).then_some(()));
    assert!(!daemon.wait_for_idle(2).contains(&isolation["vm_pid"].as_u64().unwrap()));
}

#[test]
fn errors_are_told_as_without_a_daemon() {
    let daemon = Daemon::start(NO_POOL);
    let Err(Trouble::Tool(error)) = daemon.call("system", "unserved").unwrap().outcome else {
        panic!("the fake does not serve it")
    };
    assert_eq!(error.code, -32601);
    let reply = daemon.call("system", "ehco").unwrap();
    let failure = failure(&reply);
    assert_eq!(failure.code, "unknown_tool");
    assert_eq!(failure.message, "server `system` has no tool `ehco`");
    assert_eq!(failure.hint.as_deref(), Some("did you mean `echo`?"));
    assert_eq!(isolation(&reply)["vm_pid"], Value::Null);
}

#[test]
fn arguments_and_results_may_be_as_long_as_the_wire_to_a_guest_allows() {
    let daemon = Daemon::start(NO_POOL);
    let text = format!(r#"{{"text":"{}"}}"#, "x".repeat((10 << 20) - 2048));
    let reply = daemon.connect().call(daemon.head("system", "echo"), &raw(&text)).unwrap();
    assert!(result(&reply) == text);
}

#[test]
fn a_client_that_hangs_up_ends_its_call_and_the_guest() {
    let daemon = Daemon::start(&format!("{NO_POOL},{SPIN}"));
    let client = daemon.connect();
    let hang_up = client.hang_up();
    let head = daemon.head("hostile", "echo");
    let caller = std::thread::spawn(move || { client }.call(head, &raw("{}")));
    let status = daemon.wait_for("a guest", |status| status["vms"][0]["vm_pid"].is_u64());
    let vm = &status["vms"][0];
    assert_eq!((&vm["tool"], &vm["idle"]), (&"hostile/echo".into(), &false.into()));
    hang_up.hang_up();
    assert!(matches!(caller.join().unwrap(), Err(ClientError::Wire(_))));
    let status = daemon.wait_for("the end of the call", |status| status["calls"]["cancelled"] == 1);
    eventually("the end of the guest", || (!lives(vm["vm_pid"].as_u64().unwrap())).then_some(()));
    assert_eq!(status["calls"]["running"], 0);
    daemon.wait_for("a free place", |status| status["pool"]["in_use"] == 0);
    assert_eq!(daemon.cids_in_use(), 0);
}

#[test]
fn a_client_that_hangs_up_while_its_call_waits_leaves_the_queue() {
    let daemon = Daemon::start(&format!(r#""pool":{{"size":0,"max_vms":1}},{SPIN}"#));
    let start = || {
        let client = daemon.connect();
        let hang_up = client.hang_up();
        let head = daemon.head("hostile", "echo");
        (hang_up, std::thread::spawn(move || { client }.call(head, &raw("{}"))))
    };
    let (first, caller) = start();
    daemon.wait_for("a guest", |status| status["pool"]["in_use"] == 1);
    let (second, waiter) = start();
    daemon.wait_for("a queue", |status| status["pool"]["waiting"] == 1);
    second.hang_up();
    daemon.wait_for("no queue", |status| status["pool"]["waiting"] == 0);
    first.hang_up();
    assert!(caller.join().unwrap().is_err() && waiter.join().unwrap().is_err());
    daemon.wait_for("both ends", |status| status["calls"]["cancelled"] == 2);
}

#[test]
fn a_hundred_calls_at_once_have_a_guest_each() {
    let daemon = Daemon::start(r#""pool":{"size":8}"#);
    let mut pids: Vec<u64> = std::thread::scope(|scope| {
        let call = |number: usize| {
            let text = format!(r#"{{"text":"{number}"}}"#);
            let reply = daemon.connect().call(daemon.head("system", "echo"), &raw(&text)).unwrap();
            assert_eq!(result(&reply), text);
            isolation(&reply)["vm_pid"].as_u64().unwrap()
        };
        let calls: Vec<_> = (0..100).map(|number| scope.spawn(move || call(number))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 100);
    daemon.wait_for_idle(8);
    assert_eq!(daemon.status()["calls"]["answered"], 100);
}

#[test]
fn a_batch_may_share_a_guest_for_as_long_as_it_is_connected() {
    let daemon = Daemon::start(NO_POOL);
    let mut client = daemon.connect();
    let mut call = |share| {
        let head = osvm_daemon::message::CallHead { share, ..daemon.head("system", "echo") };
        isolation(&client.call(head, &raw("{}")).unwrap())
    };
    let [first, second, third] = [true, true, false].map(&mut call);
    assert_eq!((&first["reused"], &second["reused"]), (&false.into(), &true.into()));
    assert_eq!(first["vm_pid"], second["vm_pid"]);
    assert_ne!(third["vm_pid"], first["vm_pid"], "a call that did not ask for it has its own");
    let pid = first["vm_pid"].as_u64().unwrap();
    assert!(lives(pid));
    drop(client);
    eventually("its end", || (!lives(pid)).then_some(()));
    daemon.wait_for("a free place", |status| status["pool"]["vms"] == 0);
}

#[test]
fn a_changed_config_applies_to_the_next_call() {
    let daemon = Daemon::start(NO_POOL);
    assert_eq!(isolation(&daemon.call("system", "echo").unwrap())["mode"], "unikernel");
    daemon.write_config(r#""default_execution_mode":"microvm""#);
    let reply = daemon.call("system", "echo").unwrap();
    assert_eq!(failure(&reply).code, "denied");
    daemon.write_config(r#""pool":{"size":1"#);
    let Err(ClientError::Refused(failure)) = daemon.call("system", "echo") else {
        panic!("a config that is wrong lets no call run")
    };
    assert_eq!(failure.code, "config");
    assert_eq!(daemon.status()["failure"]["code"], "config");
    daemon.write_config(r#""pool":{"size":1}"#);
    daemon.wait_for_idle(1);
    assert_eq!(isolation(&daemon.call("system", "echo").unwrap())["pooled"], true);
}

#[test]
fn a_call_on_other_terms_is_refused() {
    let daemon = Daemon::start(NO_POOL);
    let terms = Terms { backend: Some("qemu".into()), ..daemon.terms() };
    let head = osvm_daemon::message::CallHead { terms, ..daemon.head("system", "echo") };
    let error = daemon.connect().call(head, &raw("{}")).unwrap_err();
    assert!(error.is_harmless());
    assert!(matches!(error, ClientError::Refused(failure) if failure.code == "other_daemon"));
}

#[test]
fn ending_lets_calls_finish_and_leaves_nothing() {
    let mut daemon = Daemon::start(
        r#""pool":{"size":2},"mcp_servers":{"hostile":{"timeout_secs":1,
            "env_vars":{"HOSTILE":"spin"}}}"#,
    );
    let mut client = daemon.connect();
    let head = daemon.head("hostile", "echo");
    let caller = std::thread::spawn(move || client.call(head, &raw("{}")).unwrap());
    let serves = |vm: &Value| vm["idle"] == false && vm["vm_pid"].is_u64();
    let status = daemon.wait_for("a call that runs", |status| {
        status["vms"].as_array().unwrap().iter().any(serves)
    });
    let pids: Vec<u64> =
        status["vms"].as_array().unwrap().iter().filter_map(|vm| vm["vm_pid"].as_u64()).collect();
    assert!(!pids.is_empty());
    daemon.connect().stop().unwrap();
    daemon.wait_for_end();
    assert_eq!(failure(&caller.join().unwrap()).code, "timeout", "it had the time it was given");
    assert!(pids.into_iter().all(|pid| !lives(pid)));
    assert_eq!(daemon.cids_in_use(), 0);
    assert!(!daemon.run_dir().join(SOCKET).exists());
    assert!(matches!(Client::connect(&daemon.run_dir()), Err(ClientError::Absent { .. })));
}

#[test]
fn calls_that_take_too_long_are_cancelled_at_the_end() {
    let options = Options { idle_exit: None, drain: Duration::ZERO };
    let mut daemon = Daemon::start_with(&format!("{NO_POOL},{SPIN}"), options);
    let mut client = daemon.connect();
    let head = daemon.head("hostile", "echo");
    let caller = std::thread::spawn(move || client.call(head, &raw("{}")).unwrap());
    daemon.wait_for("a call that runs", |status| status["vms"][0]["vm_pid"].is_u64());
    daemon.stop();
    assert_eq!(failure(&caller.join().unwrap()).code, "interrupted");
    assert_eq!(daemon.cids_in_use(), 0);
}

#[test]
fn it_ends_when_nobody_has_asked_for_long_enough_or_its_program_was_replaced() {
    let options = Options { idle_exit: Some(Duration::from_secs(1)), drain: Duration::ZERO };
    let mut daemon = Daemon::start_with(NO_POOL, options);
    daemon.call("system", "echo").unwrap();
    daemon.wait_for_end();
    let mut daemon = Daemon::start(NO_POOL);
    daemon.outdate();
    daemon.wait_for_end();
}

#[test]
fn rubbish_is_refused_and_others_are_served_all_the_same() {
    let daemon = Daemon::start(NO_POOL);
    let socket = daemon.run_dir().join(SOCKET);
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\xff\xff\xff\xff",
        b"\x05\0\0\0hello",
        b"\x02\0\0\0{}",
        br#"_"#,
        b"\x1e\0\0\0{\"version\":99,\"ask\":\"status\"}  ",
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.contains("daemon_protocol"), "{answer}");
    }
    assert_eq!(result(&daemon.call("system", "echo").unwrap()), r#"{"text":"hi"}"#);
    daemon.wait_for("one client", |status| status["clients"] == 1);
}
