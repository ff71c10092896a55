//! Servers that misbehave: one clear error for each request, and the next one is served.

use crate::support::{Ask, Notes, Scripted, Wire, ask, soon};
use osvm_upstream::{BreakerState, UpstreamError};
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// A server that does `then` with the first request of each link.
fn bad(then: impl Fn(usize, &mut Wire, Value) + Send + Sync + 'static) -> Scripted {
    Scripted::new(move |number, mut wire| {
        wire.legacy();
        if let Some(message) = wire.next() {
            then(number, &mut wire, message);
        }
        // Not gone by itself.
        while wire.next().is_some() {}
    })
}

#[test]
fn lines_that_are_no_messages_are_skipped_and_counted() {
    let script = bad(|_, wire, message| {
        wire.raw(b"Server listening...\n\n\xff\xfe\n[]\n{\"jsonrpc\":\"2.0\"}\n42\n");
        wire.result(&message, &json!("fine"));
    });
    let server = script.server();
    assert_eq!(ask(&server, "m").unwrap(), "fine");
    assert_eq!(server.status().links[0].skipped, 5);
}

#[test]
fn too_many_of_them_end_the_link() {
    let script = bad(|number, wire, message| match number {
        0 => wire.raw("rubbish\n".repeat(1000).as_bytes()),
        _ => wire.result(&message, &json!("fine")),
    });
    let expected = "server `s` was lost: it wrote 101 lines that are no messages";
    check_then_fine(&script, expected);
}

#[test]
fn a_line_over_the_limit_ends_the_link_and_is_not_held() {
    let script = bad(|number, wire, message| match number {
        0 => {
            let piece = vec![b'x'; 1 << 20];
            (0..100).for_each(|_| wire.raw(&piece));
        }
        _ => wire.result(&message, &json!("fine")),
    });
    check_then_fine(&script, "server `s` was lost: it wrote a line of more than 32 MiB");
}

#[test]
fn a_server_that_dies_in_mid_answer_fails_all_that_wait_at_once() {
    let script = Scripted::new(|number, mut wire| {
        wire.legacy();
        if number > 0 {
            return wire.echo();
        }
        for _ in 0..4 {
            wire.next();
        }
        wire.raw(br#"{"jsonrpc":"2.0","id":3,"result":{"hal"#);
    });
    let server = script.server();
    let since = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let error = ask(&server, "m").unwrap_err();
                assert_eq!(error.to_string(), "server `s` was lost: it closed its output");
            });
        }
    });
    assert!(since.elapsed() < Duration::from_secs(5));
    assert!(ask(&server, "m").is_ok());
    let status = server.status();
    assert_eq!((status.starts, status.deaths, status.failures), (2, 1, 0));
    assert_eq!(status.last_error.as_deref(), Some("it closed its output"));
}

#[test]
fn an_answer_that_comes_twice_or_to_nothing_is_dropped() {
    let script = Scripted::new(|_, mut wire| {
        wire.legacy();
        while let Some(message) = wire.next() {
            wire.result(&json!({"id": 4711}), &json!("nobody's"));
            wire.result(&json!({"id": null}), &json!("nobody's"));
            wire.result(&message, &json!("first"));
            wire.result(&message, &json!("second"));
        }
    });
    let server = script.server();
    for _ in 0..5 {
        assert_eq!(ask(&server, "m").unwrap(), "first");
    }
    assert_eq!(script.starts(), 1);
}

#[test]
fn a_server_that_does_not_read_holds_up_its_own_request_only() {
    let script = Scripted::new(|_, mut wire| {
        wire.legacy();
        // Reads on only when osvm has hung up.
        thread::sleep(Duration::from_secs(3));
    });
    let server = script.server();
    ask_until(&server, Duration::from_secs(1));
    let since = Instant::now();
    server.shut_down();
    assert!(since.elapsed() < Duration::from_secs(2));
}

fn ask_until(server: &osvm_upstream::Server, patience: Duration) {
    let params = Some(json!({"long": "x".repeat(4 << 20)}));
    let asked = Ask { params, deadline: Instant::now() + patience, ..Ask::new("m") };
    let error = asked.of(server, &Notes::default()).unwrap_err();
    assert!(matches!(error, UpstreamError::Deadline { .. }), "{error}");
}

#[test]
fn a_flood_of_notifications_is_bounded_and_the_answer_comes_through() {
    let script = bad(|_, wire, message| {
        let params = json!({"level": "info", "data": "x".repeat(1000)});
        let line = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params});
        (0..20_000).for_each(|_| wire.send(&line));
        wire.result(&message, &json!("fine"));
    });
    assert_eq!(ask(&script.server(), "m").unwrap(), "fine");
}

#[test]
fn a_server_that_keeps_dying_is_left_alone_for_a_while() {
    let script = Scripted::new(|number, mut wire| {
        if number > 4 {
            wire.legacy();
            wire.echo();
        }
    });
    let mut spec = script.spec();
    // A start on which it dies twice is one failure.
    spec.probe_timeout = Duration::from_secs(5);
    let server = osvm_upstream::Server::new(spec, None);
    let dying = Scripted::new(|_, _| ());
    let dead = dying.server();
    for _ in 0..5 {
        assert!(matches!(ask(&dead, "m"), Err(UpstreamError::Gone { .. })));
    }
    let starts = dying.starts();
    let error = ask(&dead, "m").unwrap_err();
    assert_eq!(error.to_string(), "server `s` failed 5 times, next try in 1 s");
    assert_eq!(dying.starts(), starts, "started all the same");
    assert!(matches!(dead.status().breaker, BreakerState::Open(_)));
    // The other one comes back.
    while ask(&server, "m").is_err() {}
    assert_eq!(server.status().breaker, BreakerState::Closed);
}

#[test]
fn after_the_while_one_try_decides() {
    let script = Scripted::new(|number, mut wire| {
        if number >= 10 {
            wire.legacy();
            wire.echo();
        }
    });
    let server = script.server();
    for _ in 0..5 {
        assert!(ask(&server, "m").is_err());
    }
    assert_eq!(script.starts(), 10);
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(server.status().breaker, BreakerState::HalfOpen);
    assert!(ask(&server, "m").is_ok());
    assert_eq!(server.status().breaker, BreakerState::Closed);
}

#[test]
fn parameters_that_are_no_object_do_not_reach_the_server() {
    let script = bad(|_, _, _| ());
    let asked = Ask { params: Some(json!([1])), ..Ask::new("m") };
    let error = asked.of(&script.server(), &Notes::default()).unwrap();
    assert_eq!(error["error"]["code"], -32_602);
}

#[track_caller]
fn check_then_fine(script: &Scripted, expected: &str) {
    let server = script.server();
    let asked = Ask { deadline: soon(), ..Ask::new("m") };
    let error = asked.of(&server, &Notes::default()).unwrap_err();
    assert_eq!(error.to_string(), expected);
    assert_eq!(ask(&server, "m").unwrap(), "fine");
    assert_eq!(script.ends(), 1, "the bad one is gone");
}
