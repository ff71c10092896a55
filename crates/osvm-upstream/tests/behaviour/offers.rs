//! Lists of what a server offers, and results, to the letter.

use crate::support::{Ask, Notes, Scripted, Wire, soon};
use osvm_upstream::{ClientFacts, Deaf, Outgoing, Reply, Server, Stop};
use serde_json::json;
use serde_json::value::RawValue;

/// A new server that answers `tools/list` with `page`, given the cursor.
fn listing(page: impl Fn(Option<&str>) -> String + Send + Sync + 'static) -> Scripted {
    Scripted::new(move |_, mut wire: Wire| {
        wire.modern(&["2026-07-28"]);
        while let Some(message) = wire.next() {
            assert_eq!(message["method"], "tools/list", "asked for what it does not have");
            let page = page(message["params"]["cursor"].as_str());
            wire.raw(
                format!(r#"{{"jsonrpc":"2.0","id":{},{page}}}{}"#, message["id"], '\n').as_bytes(),
            );
        }
    })
}

#[test]
fn every_page_is_followed_and_definitions_stay_the_text_they_are() {
    let script = listing(|cursor| match cursor {
        None => r#""result":{"tools":[{"name":"a", "x":1.0}],"nextCursor":"p\"2"}"#.to_owned(),
        Some("p\"2") => {
            r#""result":{"tools":[{"z":1e400,"name":"b"}],"nextCursor":null}"#.to_owned()
        }
        other => panic!("{other:?}"),
    });
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(script.spec(), Some(folder.path().to_owned()));
    server.refresh(soon()).unwrap();
    // What another process reads is the same.
    let again = Server::new(script.spec(), Some(folder.path().to_owned()));
    for server in [server, again] {
        let offer = server.offer().unwrap();
        let tools: Vec<_> = offer.tools.iter().map(|tool| tool.get()).collect();
        assert_eq!(tools, [r#"{"name":"a", "x":1.0}"#, r#"{"z":1e400,"name":"b"}"#]);
        assert!(offer.server_info.as_ref().unwrap().get().contains(r#""name":"s""#));
    }
}

#[test]
fn lists_without_an_end_are_given_up() {
    for (page, why) in [
        (r#""result":{"tools":[],"nextCursor":"again"}"#, "is answered with the same page again"),
        (r#""result":{"tools":{}}"#, "is answered without a list"),
        (r#""result":7"#, "is answered with no object"),
        (
            r#""error":{"code":-32603,"message":"m"}"#,
            r#"is answered with the error {"code":-32603,"message":"m"}"#,
        ),
    ] {
        let script = listing(move |_| page.to_owned());
        let error = script.server().refresh(soon()).unwrap_err();
        let expected = format!("server `s` does not speak MCP: `tools/list` {why}");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_method_that_is_not_there_offers_nothing() {
    let script = listing(|_| r#""error":{"code":-32601,"message":"m"}"#.to_owned());
    assert!(script.server().refresh(soon()).unwrap().tools.is_empty());
}

#[test]
fn a_result_of_ten_mebibytes_arrives_to_the_letter() {
    let body = format!(r#"{{"z":1.0,"a":"{}" , "n":1e400}}"#, "ü\\n".repeat(10 << 18));
    let sent = body.clone();
    let script = Scripted::new(move |_, mut wire| {
        wire.modern(&["2026-07-28"]);
        let message = wire.next().unwrap();
        let line = format!(r#"{{"result":{sent},"id":{},"jsonrpc":"2.0"}}"#, message["id"]);
        wire.raw(format!("{line}\n").as_bytes());
        while wire.next().is_some() {}
    });
    let server = script.server();
    let params = RawValue::from_string("{}".to_owned()).unwrap();
    let outgoing = Outgoing {
        method: "tools/call",
        params: Some(&params),
        client: ClientFacts::default(),
        era_wanted: None,
        relay: &Deaf,
    };
    let reply = server.request(&outgoing, soon(), &Stop::default()).unwrap();
    let Reply::Result(result) = reply else { panic!("{reply:?}") };
    assert!(result.get() == body, "{} bytes for {}", result.get().len(), body.len());
}

#[test]
fn an_error_of_the_server_is_an_answer() {
    let script = Scripted::new(|_, mut wire| {
        wire.modern(&["2026-07-28"]);
        while let Some(message) = wire.next() {
            wire.error(&message, 42);
        }
    });
    let answer = Ask::new("m").of(&script.server(), &Notes::default()).unwrap();
    assert_eq!(answer, json!({"error": {"code": 42, "message": "no"}}));
}
