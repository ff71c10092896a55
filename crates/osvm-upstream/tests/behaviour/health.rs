//! Servers that hang, and servers that are only busy.

use crate::support::{Ask, Notes, Scripted, Wire, ask};
use osvm_upstream::{Server, UpstreamError};
use serde_json::{Value, json};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a server that answers, short enough for a test.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers until it is asked to `hang`; then it reads nothing until somebody lets go of it.
fn hangs(let_go: Receiver<()>) -> Scripted {
    let let_go = Mutex::new(let_go);
    Scripted::new(move |_, mut wire: Wire| {
        if wire.legacy().is_none() {
            return;
        }
        while let Some(message) = wire.next() {
            if message["method"] == "hang" {
                let _gone = let_go.lock().unwrap().recv();
            }
            if message.get("id").is_some() {
                wire.result(&message, &json!({}));
            }
        }
    })
}

fn within(server: &Server, method: &str, patience: Duration) -> Result<Value, UpstreamError> {
    let asked = Ask { deadline: Instant::now() + patience, ..Ask::new(method) };
    asked.of(server, &Notes::default())
}

/// Has the server hang after a look at it, and does not wait for it.
fn hang(server: &Server) {
    // What it has answered before says nothing any more.
    assert_eq!(server.look_after(PATIENCE), 0);
    let hung = within(server, "hang", Duration::from_millis(100));
    assert!(matches!(hung, Err(UpstreamError::Deadline { .. })));
}

#[test]
fn a_server_that_answers_is_left_alone() {
    let (_held, let_go) = channel();
    let script = hangs(let_go);
    let server = script.server();
    assert_eq!(server.look_after(PATIENCE), 0, "nothing runs yet");
    ask(&server, "work").unwrap();
    assert_eq!((server.look_after(PATIENCE), server.status().last_ping), (0, None), "it answers");
    assert_eq!(server.look_after(PATIENCE), 0);
    assert!(server.status().last_ping.unwrap().answer_ms.is_some());
    ask(&server, "work").unwrap();
    assert_eq!((script.starts(), server.status().deaths), (1, 0));
}

#[test]
fn a_link_that_nobody_uses_is_ended_and_the_next_request_starts_another() {
    let (release, let_go) = channel();
    let script = hangs(let_go);
    let server = script.server();
    ask(&server, "work").unwrap();
    assert_eq!(server.end_idle(Duration::from_secs(60)), 0, "it was used just now");
    let work = {
        let server = Arc::clone(&server);
        thread::spawn(move || ask(&server, "hang"))
    };
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.end_idle(Duration::ZERO), 0, "a request is on its way");
    release.send(()).unwrap();
    work.join().unwrap().unwrap();
    assert_eq!((server.end_idle(Duration::ZERO), script.ends()), (1, 1));
    ask(&server, "work").unwrap();
    // Nobody's fault, so it is no death.
    assert_eq!((script.starts(), server.status().deaths), (2, 0));
}

#[test]
fn new_requests_do_not_hide_that_a_server_hangs() {
    let (_held, let_go) = channel();
    let script = hangs(let_go);
    let server = script.server();
    ask(&server, "work").unwrap();
    hang(&server);
    let spawn = |patience: Duration| {
        let server = Arc::clone(&server);
        thread::spawn(move || within(&server, "work", patience))
    };
    let first = spawn(PATIENCE * 2);
    thread::sleep(Duration::from_millis(100));
    // It came before the look, so it may be what keeps the server busy.
    assert_eq!(server.look_after(PATIENCE), 0);
    assert!(matches!(first.join().unwrap(), Err(UpstreamError::Deadline { .. })));
    let second = spawn(Duration::from_secs(60));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.look_after(PATIENCE), 1);
    assert!(matches!(second.join().unwrap(), Err(UpstreamError::Gone { .. })));
}

#[test]
fn what_waits_on_a_server_that_is_given_up_fails_at_once_and_the_next_request_starts_another() {
    let (_held, let_go) = channel();
    let script = hangs(let_go);
    let server = script.server();
    ask(&server, "work").unwrap();
    hang(&server);
    let late = {
        let server = Arc::clone(&server);
        thread::spawn(move || {
            // After the look began, so it excuses nothing.
            thread::sleep(PATIENCE / 2);
            let asked = Instant::now();
            (ask(&server, "work").unwrap_err(), asked.elapsed())
        })
    };
    assert_eq!(server.look_after(PATIENCE), 1);
    let (error, waited) = late.join().unwrap();
    assert!(matches!(&error, UpstreamError::Gone { why, .. } if why.contains("`ping`")), "{error}");
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    let status = server.status();
    assert_eq!((status.deaths, status.links.len()), (1, 0));
    assert!(status.last_error.unwrap().contains("did not answer `ping` 3 times in a row"));
    assert_eq!(status.last_ping.unwrap().answer_ms, None);
    ask(&server, "work").unwrap();
    assert_eq!((script.starts(), script.ends()), (2, 1));
}

#[test]
fn a_server_that_works_on_one_request_is_not_blamed_for_answering_no_ping() {
    let (release, let_go) = channel();
    let script = hangs(let_go);
    let server = script.server();
    ask(&server, "work").unwrap();
    let work = {
        let server = Arc::clone(&server);
        thread::spawn(move || ask(&server, "hang"))
    };
    thread::sleep(Duration::from_millis(200));
    assert_eq!((server.look_after(PATIENCE), server.look_after(PATIENCE)), (0, 0));
    release.send(()).unwrap();
    work.join().unwrap().unwrap();
    assert_eq!(server.look_after(Duration::from_secs(10)), 0);
    assert_eq!((script.starts(), server.status().deaths), (1, 0));
}
