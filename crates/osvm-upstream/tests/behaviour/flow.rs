//! Many requests on one link, and what the server says meanwhile.

use crate::support::{Ask, Notes, Scripted, Wire, ask, eventually};
use osvm_upstream::{Event, Server, UpstreamError};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// An old server that does `then` with each request.
fn old(then: impl Fn(&mut Wire, Value) + Send + Sync + 'static) -> Scripted {
    Scripted::new(move |_, mut wire| {
        if wire.legacy().is_none() {
            return;
        }
        while let Some(message) = wire.next() {
            then(&mut wire, message);
        }
    })
}

#[test]
fn answers_find_their_requests_in_any_order() {
    let waiting: Mutex<Vec<Value>> = Mutex::default();
    let script = old(move |wire, message| {
        let mut waiting = waiting.lock().unwrap();
        waiting.push(message);
        if waiting.len() == 8 {
            for message in waiting.drain(..).rev() {
                wire.result(&message, &message["method"]);
            }
        }
    });
    let server = script.server();
    thread::scope(|scope| {
        for n in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let method = format!("m{n}");
                assert_eq!(ask(server, &method).unwrap(), json!(method));
            });
        }
    });
    assert_eq!(script.starts(), 1);
}

#[test]
fn progress_comes_under_the_token_it_was_asked_for() {
    let script = old(|wire, message| {
        let token = &message["params"]["_meta"]["progressToken"];
        assert_eq!(token, &message["id"], "a token of osvm's own");
        for (token, n) in [(json!(99_999), 0), (token.clone(), 1), (token.clone(), 2)] {
            let params = json!({"progressToken": token, "progress": n});
            wire.send(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
                              "params": params}));
        }
        wire.result(&message, &json!({}));
    });
    let notes = Notes::default();
    let params = Some(json!({"_meta": {"progressToken": "mine"}}));
    Ask { params, ..Ask::new("m") }.of(&script.server(), &notes).unwrap();
    assert_eq!(
        notes.heard(),
        [
            r#"progress {"progressToken":"mine","progress":1}"#,
            r#"progress {"progressToken":"mine","progress":2}"#
        ]
        .map(|line| {
            // The server wrote the members in the order of its own map.
            let (word, params) = line.split_once(' ').unwrap();
            let params: Value = serde_json::from_str(params).unwrap();
            format!("{word} {params}")
        })
    );
}

/// Asks `method` while it works, and answers with what it got.
fn asking(method: &'static str) -> Scripted {
    old(move |wire, message| {
        wire.send(&json!({"jsonrpc": "2.0", "id": "q", "method": method, "params": {}}));
        let answer = wire.next().unwrap();
        assert_eq!(answer["id"], "q");
        wire.result(&message, &json!({"got": answer["result"], "error": answer["error"]["code"]}));
    })
}

#[test]
fn a_question_reaches_the_client_that_declared_it() {
    for (method, capability) in [
        ("elicitation/create", "elicitation"),
        ("sampling/createMessage", "sampling"),
        ("roots/list", "roots"),
    ] {
        let notes = Notes { answer: Some(json!({"yes": 1})), ..Notes::default() };
        let capabilities = Some(json!({capability: {}}));
        let asked = Ask { capabilities, ..Ask::new("m") };
        let got = asked.of(&asking(method).server(), &notes).unwrap();
        assert_eq!(got, json!({"got": {"yes": 1}, "error": null}));
        assert_eq!(notes.heard(), [format!("asked {method}")]);
    }
}

#[test]
fn a_question_that_the_client_did_not_declare_is_refused() {
    for method in ["elicitation/create", "something/else"] {
        let notes = Notes::default();
        let capabilities = Some(json!({"sampling": {}}));
        let asked = Ask { capabilities, ..Ask::new("m") };
        let got = asked.of(&asking(method).server(), &notes).unwrap();
        assert_eq!(got, json!({"got": null, "error": -32_601}));
        assert!(notes.heard().is_empty());
    }
}

#[test]
fn a_ping_is_answered_by_osvm() {
    let got = ask(&asking("ping").server(), "m").unwrap();
    assert_eq!(got, json!({"got": {}, "error": null}));
}

#[test]
fn a_question_that_may_belong_to_two_is_refused() {
    let first: Mutex<Option<Value>> = Mutex::default();
    let script = old(move |wire, message| {
        let mut first = first.lock().unwrap();
        let Some(one) = first.take() else {
            *first = Some(message);
            return;
        };
        wire.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "roots/list"}));
        let refused = wire.next().unwrap()["error"]["code"].clone();
        wire.result(&one, &refused);
        wire.result(&message, &refused);
    });
    let server = script.server();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let notes = Notes { answer: Some(json!("r")), ..Notes::default() };
                let capabilities = Some(json!({"roots": {}}));
                let got = Ask { capabilities, ..Ask::new("m") }.of(&server, &notes).unwrap();
                assert_eq!(got, -32_603);
                assert!(notes.heard().is_empty());
            });
        }
    });
}

#[test]
fn a_progress_token_of_a_question_is_the_servers_own_and_names_no_request() {
    let script = old(|wire, message| {
        let meta = json!({"_meta": {"progressToken": 4711}});
        wire.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "roots/list", "params": meta}));
        let answer = wire.next().unwrap();
        wire.result(&message, &answer["result"]);
    });
    let notes = Notes { answer: Some(json!("r")), ..Notes::default() };
    let capabilities = Some(json!({"roots": {}}));
    let got = Ask { capabilities, ..Ask::new("m") }.of(&script.server(), &notes).unwrap();
    assert_eq!(got, "r");
}

#[test]
fn a_progress_token_of_a_question_that_is_the_id_of_a_request_names_no_request_either() {
    let script = old(|wire, one| {
        let other = wire.next().unwrap();
        let meta = json!({"_meta": {"progressToken": one["id"]}});
        wire.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "roots/list", "params": meta}));
        let refused = wire.next().unwrap()["error"]["code"].clone();
        wire.result(&one, &refused);
        wire.result(&other, &refused);
    });
    let server = script.server();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let notes = Notes { answer: Some(json!("r")), ..Notes::default() };
                let capabilities = Some(json!({"roots": {}}));
                let got = Ask { capabilities, ..Ask::new("m") }.of(&server, &notes).unwrap();
                assert_eq!(got, -32_603);
                assert!(notes.heard().is_empty());
            });
        }
    });
}

#[test]
fn a_question_before_the_first_request_waits_for_it() {
    let script = Scripted::new(|_, mut wire| {
        wire.legacy();
        wire.send(&json!({"jsonrpc": "2.0", "id": "early", "method": "roots/list"}));
        let (one, other) = (wire.next().unwrap(), wire.next().unwrap());
        let (request, answer) = if one["id"] == "early" { (other, one) } else { (one, other) };
        wire.result(&request, &answer["result"]);
    });
    let notes = Notes { answer: Some(json!("r")), ..Notes::default() };
    let capabilities = Some(json!({"roots": {}}));
    let got = Ask { capabilities, ..Ask::new("m") }.of(&script.server(), &notes);
    assert_eq!(got.unwrap(), "r");
}

#[test]
fn a_cancelled_request_is_taken_back_and_nothing_more_is_heard_of_it() {
    let (told, heard) = std::sync::mpsc::channel();
    let script = old(move |wire, message| match message["method"].as_str() {
        Some("notifications/cancelled") => {
            told.send(message["params"]["requestId"].clone()).unwrap();
            let id = &message["params"]["requestId"];
            let params = json!({"progressToken": id, "progress": 1});
            wire.send(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
                              "params": params}));
            wire.send(&json!({"jsonrpc": "2.0", "id": id, "result": "late"}));
        }
        Some("slow") => told.send(message["id"].clone()).unwrap(),
        _ => wire.result(&message, &json!("fine")),
    });
    let server = script.server();
    let notes = Notes::default();
    let asked = Ask::new("slow");
    let cancel = asked.cancel.clone();
    let stopping = thread::spawn(move || {
        let id = heard.recv().unwrap();
        cancel.stop();
        (id, heard)
    });
    let error = asked.of(&server, &notes).unwrap_err();
    assert!(matches!(error, UpstreamError::Cancelled { .. }), "{error}");
    let (id, heard) = stopping.join().unwrap();
    assert_eq!(heard.recv().unwrap(), id);
    assert_eq!(ask(&server, "m").unwrap(), "fine", "the link goes on");
    assert!(notes.heard().is_empty());
}

#[test]
fn a_request_past_its_deadline_is_taken_back() {
    let (told, heard) = std::sync::mpsc::channel();
    let script = old(move |_, message| told.send(message["method"].clone()).unwrap());
    let server = script.server();
    let asked = Ask { deadline: Instant::now() + Duration::from_millis(900), ..Ask::new("m") };
    let error = asked.of(&server, &Notes::default()).unwrap_err();
    assert_eq!(error.to_string(), "server `s` did not answer `m` in time");
    assert_eq!(heard.recv().unwrap(), "m");
    assert_eq!(heard.recv().unwrap(), "notifications/cancelled");
}

#[test]
fn logs_come_from_the_level_on_that_each_client_wants() {
    let level: Mutex<Value> = Mutex::default();
    let script = old(move |wire, message| {
        if message["method"] == "logging/setLevel" {
            *level.lock().unwrap() = message["params"]["level"].clone();
            return wire.result(&message, &json!({}));
        }
        for level in ["debug", "warning"] {
            let params = json!({"level": level});
            wire.send(&json!({"jsonrpc": "2.0", "method": "notifications/message",
                              "params": params}));
        }
        wire.result(&message, &level.lock().unwrap().clone());
    });
    let server = script.server();
    for (wanted, set, heard) in
        [("error", "error", 0), ("debug", "debug", 2), ("warning", "debug", 1)]
    {
        let notes = Notes::default();
        let got = Ask { level: Some(wanted), ..Ask::new("m") }.of(&server, &notes).unwrap();
        assert_eq!((got, notes.heard().len()), (json!(set), heard), "{wanted}");
    }
}

#[test]
fn changed_lists_are_told_to_who_listens() {
    let script = old(|wire, message| {
        for method in ["tools/list_changed", "resources/updated", "prompts/list_changed"] {
            let method = format!("notifications/{method}");
            wire.send(&json!({"jsonrpc": "2.0", "method": method, "params": {"uri": "u"}}));
        }
        wire.result(&message, &json!({}));
    });
    let server = script.server();
    check_changes(&server, &["ToolsChanged", "u", "PromptsChanged"], 2);
}

#[test]
fn a_new_server_is_listened_to_for_changed_lists() {
    let script = Scripted::new(|_, mut wire| {
        let discover = wire.next().unwrap();
        let capabilities = json!({"tools": {"listChanged": true}, "prompts": {}});
        wire.result(
            &discover,
            &json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities}),
        );
        while let Some(message) = wire.next() {
            if message["method"] == "subscriptions/listen" {
                assert_eq!(message["params"]["notifications"], json!({"toolsListChanged": true}));
                let meta = json!({"io.modelcontextprotocol/subscriptionId": message["id"]});
                for method in ["subscriptions/acknowledged", "tools/list_changed"] {
                    let method = format!("notifications/{method}");
                    let params = json!({"_meta": meta});
                    wire.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
                }
            } else if message.get("id").is_some() {
                wire.result(&message, &json!({}));
            }
        }
    });
    check_changes(&script.server(), &["ToolsChanged"], 1);
}

#[track_caller]
fn check_changes(server: &Arc<Server>, expected: &[&str], changed: u64) {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let writing = Arc::clone(&heard);
    server.listen(move |event| {
        let line = match event {
            Event::ResourceUpdated(params) => {
                serde_json::from_str::<Value>(params.get()).unwrap()["uri"].as_str().unwrap().into()
            }
            event => format!("{event:?}"),
        };
        writing.lock().unwrap().push(line);
    });
    ask(server, "m").unwrap();
    eventually("the last change", || heard.lock().unwrap().len() == expected.len());
    assert_eq!(*heard.lock().unwrap(), expected);
    assert_eq!(server.changed(), changed);
}
