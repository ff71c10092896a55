//! A server process does not outlive osvm, however osvm ends.
//!
//! This program plays three parts: `guard …` is what `osvm-vm` is; `hold` is an osvm that has a
//! server and waits to be killed; anything else is the test.
#![cfg(test)]

use osvm_upstream::{ClientFacts, Deaf, Outgoing, Reply, Server, Spec, Stop, Target};
use rustix::process::{Pid, test_kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const NAME: &str = "a_server_and_what_it_started_die_with_an_osvm_that_is_killed";

/// Answers a handshake, then every request with its own process id and that of its child, which
/// knows nothing of standard input.
const SERVER: &str = r#"sleep 1000 </dev/null & while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *server/discover*) echo '{"jsonrpc":"2.0","id":'$id',"error":{"code":-32601,"message":""}}' ;;
    *'"initialize"'*) echo '{"jsonrpc":"2.0","id":'$id',"result":{"protocolVersion":"2025-11-25","capabilities":{}}}' ;;
    *notifications/*) ;;
    *) echo '{"jsonrpc":"2.0","id":'$id',"result":['$$','$!',"'$(ulimit -n)'"]}' ;;
  esac
done; sleep 1000"#;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_ref().and_then(|word| word.to_str()) {
        Some(osvm_kvm::guard::WORD) => return osvm_kvm::guard::main(args),
        Some("hold") => hold(),
        Some("--list") => {
            let ignored = args.any(|word| word == "--ignored");
            if !ignored {
                println!("{NAME}: test");
            }
        }
        _ => test(),
    }
    ExitCode::SUCCESS
}

fn hold() {
    let target = Target::Process {
        command: "sh".to_owned(),
        args: vec!["-c".to_owned(), SERVER.to_owned()],
        env: Vec::new(),
        cwd: None,
    };
    let guard = Some(std::env::current_exe().unwrap());
    let server = Server::new(Spec { guard, ..Spec::new("s", target) }, None);
    let outgoing = Outgoing {
        method: "m",
        params: None,
        client: ClientFacts::default(),
        era_wanted: None,
        relay: &Deaf,
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let reply = server.request(&outgoing, deadline, &Stop::default()).unwrap();
    let Reply::Result(result) = reply else { panic!("{reply:?}") };
    println!("{result}");
    std::thread::sleep(Duration::from_secs(60));
}

fn test() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .arg("hold")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (leader, child, files): (i32, i32, String) = serde_json::from_str(&line).unwrap();
    assert_eq!(files, "4096", "the guard's limit");
    let pids = [leader, child].map(|pid| Pid::from_raw(pid).unwrap());
    assert!(pids.iter().all(|pid| test_kill_process(*pid).is_ok()));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    // A zombie whose reaper is slow is dead all the same.
    let lives = |pid: &Pid| {
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        std::fs::read_to_string(path).is_ok_and(|stat| !stat.contains(") Z "))
    };
    while pids.iter().any(lives) {
        assert!(Instant::now() < until, "a server outlived osvm");
        std::thread::sleep(Duration::from_millis(5));
    }
}
