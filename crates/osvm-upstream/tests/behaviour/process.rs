//! Servers that are programs on this host.

use crate::support::{ask, eventually};
use osvm_upstream::{Server, Spec, Target, UpstreamError};
use rustix::process::{Pid, test_kill_process};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An old server as a shell script: a handshake, then `then` for each request, whose id is `$id`.
const SHELL: &str = r#"
answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *server/discover*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":""}}\n' "$id" ;;
    *'"initialize"'*) answer '{"protocolVersion":"2025-11-25","capabilities":{}}' ;;
    *notifications/*) ;;
    *) THEN ;;
  esac
done
"#;

fn shell(then: &str, env: &[(&str, &str)]) -> Spec {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let target = Target::Process {
        command: "sh".to_owned(),
        args: vec!["-c".to_owned(), SHELL.replace("THEN", then)],
        env: env.iter().map(pair).collect(),
        cwd: Some("/".into()),
    };
    Spec { end_timeout: Duration::from_secs(4), ..Spec::new("sh", target) }
}

fn server(then: &str) -> Arc<Server> {
    Server::new(shell(then, &[]), None)
}

fn pid(value: &Value) -> Pid {
    Pid::from_raw(value.as_i64().unwrap().try_into().unwrap()).unwrap()
}

fn lives(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

#[test]
fn its_environment_is_what_every_program_needs_and_what_its_entry_says() {
    let then = r#"answer "[\"$(env | cut -d= -f1 | sort | tr '\n' ' ')\",\"$K\",\"$PWD\"]""#;
    let server = Server::new(shell(then, &[("K", "v w")]), None);
    let answer = ask(&server, "m").unwrap();
    let names = answer[0].as_str().unwrap();
    // The shell adds those of its own.
    let known = ["K", "PATH", "HOME", "LANG", "TERM", "TMPDIR", "PWD", "SHLVL", "OLDPWD", "_"];
    let strange = names.split_whitespace().find(|name| {
        !known.contains(name) && !name.starts_with("LC_") && !name.starts_with("XDG_")
    });
    assert_eq!(strange, None, "{names}");
    assert_eq!((answer[1].as_str(), answer[2].as_str()), (Some("v w"), Some("/")));
}

#[test]
fn its_limits_are_set() {
    let then = "answer \"[\\\"$(ulimit -c)\\\",\\\"$(ulimit -n)\\\",\\\"$(ulimit -d)\\\"]\"";
    let server = server(then);
    // Without a guard the limits come a moment after the start.
    eventually("the limits", || {
        let answer = ask(&server, "m").unwrap();
        answer[0] == "0" && answer[1] == "4096" && answer[2] == "8388608"
    });
}

#[test]
fn shutting_down_closes_its_input_and_leaves_nothing_of_its_group() {
    let server = server("sleep 1000 & answer \"[$$,$!]\"");
    let answer = ask(&server, "m").unwrap();
    let (leader, child) = (pid(&answer[0]), pid(&answer[1]));
    assert!(lives(leader) && lives(child));
    assert_eq!(server.status().links[0].facts["pid"], answer[0]);
    let since = Instant::now();
    server.shut_down();
    assert!(since.elapsed() < Duration::from_secs(2), "the shell ends with its input");
    assert!(!lives(leader));
    eventually("the end of the child", || !lives(child));
}

#[test]
fn one_that_ignores_its_input_is_asked_to_end_and_then_killed() {
    for trap in ["", "trap '' TERM; "] {
        let then = format!("answer $$; {trap}exec 0</dev/null; while :; do sleep 1; done");
        let spec = Spec { end_timeout: Duration::from_millis(600), ..shell(&then, &[]) };
        let server = Server::new(spec, None);
        let leader = pid(&ask(&server, "m").unwrap());
        drop(server);
        assert!(!lives(leader), "{trap:?}");
    }
}

#[test]
fn a_flood_on_stderr_is_kept_to_its_end() {
    let then = "yes flooding | head -c 1000000 >&2; echo the end >&2; answer 1";
    let server = server(then);
    ask(&server, "m").unwrap();
    eventually("the end", || server.logs().ends_with(b"the end\n"));
    assert_eq!(server.logs().len(), 64 * 1024);
}

#[test]
fn its_end_is_told_with_its_status_and_its_last_words() {
    let server = server("echo out of luck >&2; sleep 0.2; exit 7");
    let error = ask(&server, "m").unwrap_err();
    let expected =
        "server `sh` was lost: it ended with exit status: 7, after it wrote `out of luck`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_process_that_leaves_its_group_with_the_pipe_does_not_hold_osvm_up() {
    let server = server("setsid sleep 3 & answer 1");
    ask(&server, "m").unwrap();
    let since = Instant::now();
    server.shut_down();
    assert!(since.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_program_that_is_not_there_is_named_with_a_way_out() {
    let target = Target::Process {
        command: "no-such-program".to_owned(),
        args: Vec::new(),
        env: vec![("TOKEN".to_owned(), "hunter2".to_owned())],
        cwd: None,
    };
    let spec = Spec::new("x", target);
    assert!(!format!("{spec:?}").contains("hunter2"));
    let error = ask(&Server::new(spec, None), "m").unwrap_err();
    assert!(matches!(&error, UpstreamError::Start { .. }));
    let hint = "install `no-such-program`, or configure its full path";
    assert_eq!(error.hint(), Some(hint));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "cannot find `no-such-program`");
}
