//! Many calls at once while VM processes are killed, clients hang up and guests misbehave.
//!
//! The short form of `cargo xtask bench soak`.

use crate::support::{Daemon, eventually, lives, raw};
use osvm_daemon::ClientError;
use osvm_daemon::client::Trouble;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

const CALLS: u64 = 300;
const CLIENTS: usize = 24;

/// How guests of a server misbehave, by its name; `spin` is for calls that are hung up on.
const HOSTILE: [&str; 7] = [
    "panic",
    "triple_fault",
    "die_mid_frame",
    "announce_4gib",
    "flood",
    "wrong_id",
    "never_accept",
];

/// What came of the calls.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicUsize,
    killed: AtomicUsize,
    hostile: AtomicUsize,
    hung_up: AtomicUsize,
}

#[test]
fn whatever_happens_every_call_ends_in_its_own_way_and_nothing_is_left() {
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    let servers = HOSTILE
        .map(|name| format!(r#""{name}":{{"timeout_secs":2,"env_vars":{{"HOSTILE":"{name}"}}}}"#));
    let config = format!(
        r#""pool":{{"size":4,"max_vms":20,"max_vms_per_server":12}},"mcp_servers":{{{}}}"#,
        servers.join(",")
    );
    let mut daemon = Daemon::start_with_servers(&config, &HOSTILE);
    let (tally, seen) = (Tally::default(), Mutex::new(BTreeSet::new()));
    let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_now_and_then(&daemon, &seen, &over));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if CALLS <= number {
                            return;
                        }
                        call(&daemon, number, &tally);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        over.store(true, Ordering::Relaxed);
        killer.join().unwrap();
    });
    daemon.wait_for("the end of all calls", |status| {
        status["calls"]["running"] == 0 && status["pool"]["in_use"] == 0
    });
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let total = count(&tally.answered) + count(&tally.killed);
    let total = total + count(&tally.hostile) + count(&tally.hung_up);
    assert_eq!(total as u64, CALLS, "{tally:?}");
    assert!(count(&tally.answered) > count(&tally.killed), "{tally:?}");
    assert!(count(&tally.hostile) > 20 && count(&tally.hung_up) > 20, "{tally:?}");
    daemon.stop();
    assert_eq!(daemon.cids_in_use(), 0);
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() > 20, "{}", seen.len());
    assert_eq!(seen.into_iter().filter(|pid| lives(*pid)).count(), 0);
    drop(daemon);
    // Only where each test has a process of its own can its descriptors be counted.
    if std::env::var_os("NEXTEST").is_some() {
        eventually("its descriptors", || (files() <= before).then_some(()));
    }
}

/// One call: most are good, every fifth has a guest that misbehaves, every seventh is hung up on.
fn call(daemon: &Daemon, number: u64, tally: &Tally) {
    let add = |counter: &AtomicUsize| _ = counter.fetch_add(1, Ordering::Relaxed);
    let hostile =
        (number.is_multiple_of(5)).then(|| HOSTILE[(number / 5) as usize % HOSTILE.len()]);
    let server = hostile.unwrap_or("system");
    let mut client = daemon.connect();
    let text = format!(r#"{{"text":"{number}"}}"#);
    let hang_up = number.is_multiple_of(7).then(|| {
        let hang_up = client.hang_up();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(number % 20));
            hang_up.hang_up();
        })
    });
    let reply = client.call(daemon.head(server, "echo"), &raw(&text));
    let is_hung_up = hang_up.is_some();
    hang_up.into_iter().for_each(|thread| thread.join().unwrap());
    match reply.map(|reply| reply.outcome) {
        Err(ClientError::Wire(_)) if is_hung_up => add(&tally.hung_up),
        Ok(Ok(result)) => {
            assert_eq!(hostile, None, "{}", result.get());
            assert_eq!(result.get(), text, "an answer is the right one");
            add(&tally.answered);
        }
        Ok(Err(Trouble::Osvm(failure))) => {
            let expected = ["guest", "boot", "timeout"].contains(&failure.code.as_str());
            assert!(expected, "{failure:?}");
            add(if hostile.is_some() { &tally.hostile } else { &tally.killed });
        }
        other => panic!("{other:?}"),
    }
}

/// Kills VM processes that the daemon says are its own, used or not.
fn kill_now_and_then(daemon: &Daemon, seen: &Mutex<BTreeSet<u64>>, over: &AtomicBool) {
    let mut turn = 0;
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        let status = daemon.status();
        let pids: Vec<u64> = status["vms"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|vm| vm["vm_pid"].as_u64())
            .collect();
        seen.lock().unwrap().extend(&pids);
        if let Some(pid) = pids.get(turn % pids.len().max(1)) {
            let pid = Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
            // It may have ended by itself meanwhile.
            let _ended = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(15));
    }
}
