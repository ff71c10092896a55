//! Servers that live on: asked whether they do, and started again when they do not.

use crate::support::{Ask, Notes, Scripted, Wire, ask, eventually};
use osvm_upstream::{BreakerState, Care, Kept, Server, UpstreamError};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

fn care(interval: Duration) -> Care {
    let patience = Duration::from_millis(200);
    Care { interval: Some(interval), patience, idle: MINUTE, wanted: Arc::new(|_| true) }
}

fn keep(server: &Arc<Server>) -> Kept {
    server.keep(care(Duration::from_millis(50))).unwrap()
}

/// Answers all, counts pings, and ends when it is told to `crash`; `hang` has it answer no more.
fn scripted(pings: &Arc<AtomicUsize>) -> Scripted {
    let pings = Arc::clone(pings);
    Scripted::new(move |_, mut wire: Wire| {
        if wire.legacy().is_none() {
            return;
        }
        while let Some(message) = wire.next() {
            match message["method"].as_str() {
                Some("crash") => return wire.hang_up(),
                Some("hang") => while wire.next().is_some() {},
                Some("ping") => _ = pings.fetch_add(1, Ordering::SeqCst),
                _ => {}
            }
            if message.get("id").is_some() {
                wire.result(&message, &json!({}));
            }
        }
    })
}

#[track_caller]
fn crash(server: &Server) {
    assert!(matches!(ask(server, "crash"), Err(UpstreamError::Gone { .. })));
}

#[test]
fn a_server_that_crashed_is_started_again_without_a_call() {
    let script = scripted(&Arc::default());
    let server = script.server();
    let _kept = keep(&server);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(script.starts(), 0, "nobody has asked for it yet");
    ask(&server, "work").unwrap();
    crash(&server);
    eventually("a restart", || server.status().restarts == 1);
    let status = server.status();
    assert_eq!((status.starts, status.deaths, status.links.len()), (2, 1, 1));
    assert!(!status.restarting);
    // Its first answer, to a ping, is what the breaker waits for.
    eventually("a ping", || server.status().failures == 0);
    ask(&server, "work").unwrap();
    assert_eq!(script.starts(), 2);
}

#[test]
fn a_server_that_hangs_is_ended_after_three_pings_and_started_again() {
    let script = scripted(&Arc::default());
    let server = script.server();
    let _kept = keep(&server);
    ask(&server, "work").unwrap();
    let asked = Ask { deadline: Instant::now() + Duration::from_millis(100), ..Ask::new("hang") };
    assert!(matches!(asked.of(&server, &Notes::default()), Err(UpstreamError::Deadline { .. })));
    eventually("a restart", || server.status().restarts == 1);
    let status = server.status();
    assert_eq!((status.deaths, script.ends()), (1, 1));
    let error = status.last_error.unwrap();
    assert!(error.contains("`ping` 3 times in a row, for 0.2 s each"), "{error}");
}

#[test]
fn a_server_that_is_busy_or_answers_calls_is_not_pinged() {
    let pings = Arc::new(AtomicUsize::new(0));
    let script = scripted(&pings);
    let server = script.server();
    let _kept = server.keep(care(Duration::from_millis(400))).unwrap();
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        ask(&server, "work").unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(pings.load(Ordering::SeqCst), 0);
    eventually("a ping", || 0 < pings.load(Ordering::SeqCst));
    let asked = Instant::now();
    let quiet = Ask { deadline: asked + Duration::from_secs(2), ..Ask::new("hang") };
    assert!(quiet.of(&server, &Notes::default()).is_err());
    // Nobody blamed it while that request was on its way.
    assert_eq!((server.status().deaths, script.starts()), (0, 1));
}

#[test]
fn what_was_ended_because_nobody_used_it_is_not_started_again() {
    let script = scripted(&Arc::default());
    let server = script.server();
    let _kept = keep(&server);
    ask(&server, "work").unwrap();
    // A ping that is on its way holds the link for a moment.
    eventually("its end", || server.end_idle(Duration::ZERO) == 1);
    thread::sleep(Duration::from_millis(300));
    let status = server.status();
    assert_eq!((status.starts, status.restarts, status.restarting), (1, 0, false));
    ask(&server, "work").unwrap();
    assert_eq!((script.starts(), server.status().restarts), (2, 0), "that is no restart");
}

#[test]
fn a_restart_does_not_put_off_the_end_of_a_server_that_nobody_uses() {
    let script = scripted(&Arc::default());
    let server = script.server();
    let _kept = keep(&server);
    ask(&server, "work").unwrap();
    thread::sleep(Duration::from_millis(300));
    crash(&server);
    let crashed = Instant::now();
    eventually("a restart", || server.status().restarts == 1);
    let idle = crashed.elapsed();
    eventually("its end", || server.end_idle(idle) == 1);
}

#[test]
fn what_nobody_has_used_for_too_long_is_not_started_again() {
    let script = scripted(&Arc::default());
    let server = script.server();
    let care = Care { idle: Duration::ZERO, ..care(Duration::from_millis(50)) };
    let _kept = server.keep(care).unwrap();
    ask(&server, "work").unwrap();
    crash(&server);
    thread::sleep(Duration::from_millis(300));
    assert_eq!((script.starts(), server.status().restarting), (1, false));
}

#[test]
fn who_keeps_it_is_asked_whether_it_was_ended_on_purpose() {
    let script = scripted(&Arc::default());
    let server = script.server();
    let asked: Arc<Mutex<Vec<Map<String, Value>>>> = Arc::default();
    let told = Arc::clone(&asked);
    let wanted = Arc::new(move |facts: &Map<String, Value>| {
        told.lock().unwrap().push(facts.clone());
        false
    });
    let _kept = server.keep(Care { wanted, ..care(MINUTE) }).unwrap();
    ask(&server, "work").unwrap();
    crash(&server);
    eventually("a question", || !asked.lock().unwrap().is_empty());
    thread::sleep(Duration::from_millis(200));
    assert_eq!((script.starts(), server.status().restarts), (1, 0));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[test]
fn a_server_that_keeps_crashing_is_started_ever_more_seldom() {
    // Lives just long enough to shake hands.
    let script = Scripted::new(|_, mut wire: Wire| {
        if wire.legacy().is_some() {
            let _work = wire.next();
            thread::sleep(Duration::from_millis(10));
            wire.hang_up();
        }
    });
    let server = script.server();
    let _kept = server.keep(care(Duration::from_millis(1))).unwrap();
    assert!(ask(&server, "work").is_err());
    eventually("an open breaker", || {
        matches!(server.status().breaker, BreakerState::Open(_)) && 5 <= server.status().failures
    });
    let (starts, since) = (script.starts(), Instant::now());
    assert!((5..=6).contains(&starts), "{starts}");
    assert!(server.status().restarting);
    // A second, then two: one more start by then, perhaps two.
    thread::sleep(Duration::from_millis(2500).saturating_sub(since.elapsed()));
    let more = script.starts() - starts;
    assert!((1..=2).contains(&more), "{more}");
}

#[test]
fn who_lets_go_of_a_server_has_it_started_no_more() {
    let script = scripted(&Arc::default());
    let server = script.server();
    let kept = keep(&server);
    ask(&server, "work").unwrap();
    drop(kept);
    crash(&server);
    thread::sleep(Duration::from_millis(200));
    assert_eq!((script.starts(), server.status().restarting), (1, false));
    let kept = keep(&server);
    ask(&server, "work").unwrap();
    let gone = Arc::downgrade(&server);
    drop(server);
    eventually("its end", || gone.strong_count() == 0 && script.ends() == 2);
    drop(kept);
}
