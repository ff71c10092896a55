//! Which era is spoken, with which capabilities, over how many links.

use crate::support::{Ask, Notes, Scripted, ask};
use osvm_upstream::{Era, Server, UpstreamError};
use serde_json::{Value, json};
use std::thread;
use std::time::Duration;

#[test]
fn a_new_server_is_told_with_every_request_who_asks() {
    let script = Scripted::new(|_, mut wire| {
        wire.modern(&["2026-07-28"]);
        wire.echo();
    });
    let server = script.server();
    let asked = Ask {
        params: Some(json!({"name": "t", "_meta": {"x": 1}})),
        capabilities: Some(json!({"elicitation": {}})),
        level: Some("info"),
        ..Ask::new("tools/call")
    };
    let seen = asked.of(&server, &Notes::default()).unwrap();
    let meta = &seen["params"]["_meta"];
    assert_eq!(meta["x"], 1);
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({"elicitation": {}}));
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "osvm");
    assert_eq!(meta["io.modelcontextprotocol/logLevel"], "info");
    assert_eq!((server.era(), script.starts()), (Some(Era::Modern), 1));
}

#[test]
fn an_old_server_is_initialised_on_the_link_that_was_probed() {
    let script = Scripted::new(|_, mut wire| {
        wire.legacy();
        wire.echo();
    });
    let server = script.server();
    assert_eq!(ask(&server, "m").unwrap(), json!({"method": "m", "params": null}));
    assert_eq!((server.era(), script.starts()), (Some(Era::Legacy), 1));
}

#[test]
fn a_server_that_dies_or_sleeps_on_the_probe_is_started_again() {
    for sleeps in [false, true] {
        let script = Scripted::new(move |number, mut wire| {
            if number == 0 {
                wire.next();
                if sleeps {
                    // Until osvm hangs up.
                    wire.next();
                }
                return;
            }
            wire.legacy();
            wire.echo();
        });
        let server = script.server();
        assert!(ask(&server, "m").is_ok(), "sleeps: {sleeps}");
        assert_eq!(script.starts(), 2);
        assert_eq!(server.status().deaths, 0, "a probe is no death");
    }
}

#[test]
fn the_era_is_remembered_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let old = Scripted::new(|_, mut wire| {
        wire.legacy();
        while let Some(message) = wire.next() {
            wire.result(&message, &json!({"tools": []}));
        }
    });
    let first = Server::new(old.spec(), Some(folder.path().to_owned()));
    assert!(first.offer().is_none());
    first.refresh(crate::support::soon()).unwrap();
    drop(first);
    let script = Scripted::new(|_, mut wire| {
        let message = wire.next().unwrap();
        assert_eq!(message["method"], "initialize", "asked for the era again");
        let info = json!({"name": "s", "version": "1"});
        wire.result(
            &message,
            &json!({"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": info}),
        );
        wire.next();
        wire.echo();
    });
    let second = Server::new(script.spec(), Some(folder.path().to_owned()));
    assert_eq!(second.offer().unwrap().era, Era::Legacy);
    assert!(ask(&second, "m").is_ok());
    assert_eq!(second.status().links[0].version, "2025-06-18");
}

#[test]
fn a_server_that_changed_its_era_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let script = Scripted::new(|number, mut wire| {
        if number == 0 {
            wire.legacy();
            while let Some(message) = wire.next() {
                wire.result(&message, &json!({"tools": []}));
            }
            return;
        }
        if number == 1 {
            let message = wire.next().unwrap();
            return wire.error(&message, -32_601);
        }
        wire.modern(&["2026-07-28"]);
        wire.echo();
    });
    let first = Server::new(script.spec(), Some(folder.path().to_owned()));
    first.refresh(crate::support::soon()).unwrap();
    drop(first);
    let second = Server::new(script.spec(), Some(folder.path().to_owned()));
    assert!(ask(&second, "m").is_ok());
    assert_eq!(second.era(), Some(Era::Modern));
}

#[test]
fn a_server_of_both_eras_is_spoken_to_in_that_of_the_client() {
    let script = Scripted::new(|_, mut wire| {
        let first = wire.next().unwrap();
        if first["method"] == "server/discover" {
            let versions = json!(["2026-07-28", "2025-11-25"]);
            wire.result(&first, &json!({"supportedVersions": versions, "capabilities": {}}));
        } else {
            assert_eq!(first["method"], "initialize");
            wire.result(&first, &json!({"protocolVersion": "2025-11-25", "capabilities": {}}));
            wire.next();
        }
        wire.echo();
    });
    let server = script.server();
    for (era, modern) in [(Era::Legacy, false), (Era::Modern, true), (Era::Legacy, false)] {
        let seen = Ask { era: Some(era), ..Ask::new("m") }.of(&server, &Notes::default()).unwrap();
        assert_eq!(!seen["params"]["_meta"].is_null(), modern, "{era:?}");
    }
    assert_eq!(script.starts(), 2);
    assert_eq!(server.era(), Some(Era::Modern));
}

#[test]
fn an_old_server_sees_the_capabilities_of_the_client_in_front() {
    let script = Scripted::new(|_, mut wire| {
        let Some(initialize) = wire.legacy() else { return };
        while let Some(message) = wire.next() {
            wire.result(&message, &initialize["capabilities"].clone());
        }
    });
    let server = script.server();
    let seen = |capabilities: Value, owner| {
        let capabilities = Some(capabilities);
        Ask { capabilities, owner, ..Ask::new("m") }.of(&server, &Notes::default()).unwrap()
    };
    let form = json!({"elicitation": {"form": {}}, "experimental": {"x": {}}});
    assert_eq!(seen(form.clone(), 1), json!({"elicitation": {"form": {}}}));
    assert_eq!(seen(form, 2), json!({"elicitation": {"form": {}}}));
    assert_eq!(script.starts(), 1, "the same for both clients");
    assert_eq!(seen(json!({}), 1), json!({}));
    assert_eq!(script.starts(), 2);
    // Roots are somebody's.
    assert_eq!(seen(json!({"roots": {}}), 1), json!({"roots": {}}));
    assert_eq!(seen(json!({"roots": {}}), 2), json!({"roots": {}}));
    assert_eq!(script.starts(), 4);
}

#[test]
fn the_link_that_was_idle_longest_makes_place_for_the_ninth() {
    let script = Scripted::new(|_, mut wire| {
        wire.legacy();
        wire.echo();
    });
    let server = script.server();
    for owner in [1, 2, 3, 4, 5, 6, 7, 8, 1, 9, 1] {
        let capabilities = Some(json!({"roots": {}}));
        Ask { capabilities, owner, ..Ask::new("m") }.of(&server, &Notes::default()).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!((script.starts(), script.ends()), (9, 1));
    assert_eq!(server.status().links.len(), 8);
}

#[test]
fn a_revision_that_is_refused_and_named_as_known_is_offered_once_more() {
    let script = Scripted::new(|_, mut wire| {
        let refused = wire.next().unwrap();
        let data = json!({"supported": ["2026-07-28"], "requested": "2026-07-28"});
        let error = json!({"code": -32_022, "message": "no", "data": data});
        wire.send(&json!({"jsonrpc": "2.0", "id": refused["id"], "error": error}));
        wire.modern(&["2026-07-28"]);
        wire.echo();
    });
    let server = script.server();
    assert_eq!(ask(&server, "m").unwrap()["method"], "m");
    assert_eq!((server.era(), script.starts()), (Some(Era::Modern), 1));
}

#[test]
fn a_revision_that_nobody_knows_is_refused() {
    let script = Scripted::new(|_, mut wire| {
        while let Some(message) = wire.next() {
            match message["method"].as_str() {
                Some("initialize") => {
                    wire.result(&message, &json!({"protocolVersion": "1.0", "capabilities": {}}));
                }
                _ => wire.error(&message, -32_601),
            }
        }
    });
    let error = ask(&script.server(), "m").unwrap_err();
    let expected =
        r#"server `s` does not speak MCP: it wants revision "1.0", which osvm does not know"#;
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_link_that_was_greeted_before_serves_one_request() {
    let mut script = Scripted::new(|_, mut wire| wire.echo());
    script.greeting = Some(r#"{"protocolVersion":"2025-11-25","capabilities":{}}"#.to_owned());
    let server = script.server();
    for number in 1..=3 {
        assert_eq!(ask(&server, "m").unwrap()["method"], "m");
        assert_eq!((script.starts(), script.ends()), (number, number));
    }
    assert!(server.status().links.is_empty());
}

#[test]
fn a_server_that_was_shut_down_is_asked_nothing() {
    let script = Scripted::new(|_, mut wire| {
        wire.legacy();
        wire.echo();
    });
    let server = script.server();
    ask(&server, "m").unwrap();
    server.shut_down();
    assert_eq!(script.ends(), 1);
    assert!(matches!(ask(&server, "m"), Err(UpstreamError::ShutDown { .. })));
}
