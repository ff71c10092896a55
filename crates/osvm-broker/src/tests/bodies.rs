//! Bodies in pieces, and what is left out of responses.

use super::{rule, url};
use crate::fixture::{Guest, plain_broker, policy, response, serve};
use osvm_protocol::code;
use osvm_runtime::Reach;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};

const MIB: usize = 1 << 20;

fn received(reach: &Reach) -> (u64, bool) {
    match reach {
        Reach::Http { received_bytes, refused, .. } => (*received_bytes, refused.is_some()),
        Reach::File { .. } | Reach::Other { .. } => panic!(),
    }
}

#[test]
fn a_long_response_comes_in_pieces_and_stays_text() {
    // No piece ends between two characters.
    let body = "ä€x".repeat(MIB / 2);
    let whole = body.clone();
    let server = serve(None, move |_| response(200, body.clone()));
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    let mut answer = guest.http(json!({"url": url(server.port, "/")})).unwrap();
    assert_eq!(answer["headers"]["content-length"], whole.len().to_string());
    let mut text = String::new();
    let mut pieces = 0;
    loop {
        let piece = answer["body"].as_str().unwrap();
        assert!(piece.len() <= MIB);
        text.push_str(piece);
        pieces += 1;
        let Some(stream) = answer["more"].as_u64() else { break };
        answer = guest.ask("host/http.read", json!({"stream": stream})).unwrap();
    }
    assert!(text == whole && (3..100).contains(&pieces), "{pieces}");
    let noted: Vec<_> = guest.noted().iter().map(received).collect();
    assert_eq!(noted, [(whole.len() as u64, false)]);
}

#[test]
fn bytes_that_are_no_text_come_as_base64() {
    let server = serve(None, |_| response(200, &b"\xff\x00"[..]));
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    let answer = guest.http(json!({"url": url(server.port, "/")})).unwrap();
    assert_eq!((&answer["body"], &answer["body_base64"]), (&Value::Null, &json!("/wA=")));
}

#[test]
fn a_long_request_goes_in_pieces() {
    let server = serve(None, |request| response(200, request.body().len().to_string()));
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    let piece = "x".repeat(MIB);
    let first = json!({"url": url(server.port, "/"), "method": "PUT", "body": piece, "more": true});
    let mut answer = guest.http(first).unwrap();
    for i in 1..=3 {
        let stream = answer["stream"].as_u64().unwrap();
        let params = json!({"stream": stream, "body": piece, "more": i < 3});
        answer = guest.ask("host/http.write", params).unwrap();
    }
    assert_eq!(
        (answer["status"].as_u64(), &answer["body"]),
        (Some(200), &json!((4 * MIB).to_string()))
    );
    let noted = guest.noted();
    assert!(
        matches!(&noted[..], [Reach::Http { sent_bytes, .. }] if *sent_bytes == 4 * MIB as u64)
    );
}

#[test]
fn bodies_are_as_long_as_the_rule_says() {
    let server = serve(None, |request| match request.uri().path() {
        "/long" => response(200, vec![b'x'; 1001]),
        _ => response(200, vec![b'x'; 1000]),
    });
    let broker = plain_broker();
    let rules = rule(server.port).replace("\"ports\"", "\"max_bytes\": 1000, \"ports\"");
    let guest = Guest::new(&broker, policy(&rules));
    let at = |path, len| json!({"url": url(server.port, path), "method": "POST", "body": "x".repeat(len)});
    guest.http(at("/", 1000)).unwrap();
    for params in [at("/", 1001), at("/long", 1)] {
        assert_eq!(guest.http(params).unwrap_err().code, code::TOO_LONG);
    }
    let mut first = at("/", 600);
    first["more"] = json!(true);
    let stream = guest.http(first).unwrap()["stream"].clone();
    let params = json!({"stream": stream, "body": "x".repeat(401)});
    assert_eq!(guest.ask("host/http.write", params).unwrap_err().code, code::TOO_LONG);
}

#[test]
fn a_response_without_end_ends_at_the_limit() {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let flood = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _request = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let chunk = [&b"10000\r\n"[..], &[b'x'; 65536], b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {}
    });
    let broker = plain_broker();
    let rules = rule(port).replace("\"ports\"", "\"max_bytes\": 5000000, \"ports\"");
    let guest = Guest::new(&broker, policy(&rules));
    let mut answer = guest.http(json!({"url": url(port, "/")}));
    let error = loop {
        match answer {
            Ok(piece) => answer = guest.ask("host/http.read", json!({"stream": piece["more"]})),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, code::TOO_LONG);
    flood.join().unwrap();
}

#[test]
fn cookies_and_headers_of_the_connection_are_left_out() {
    let server = serve(None, |_| {
        let mut answer = response(200, "ok");
        for (name, value) in [
            ("set-cookie", "session=1"),
            ("keep-alive", "timeout=9"),
            ("x-own", "mine"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("proxy-authenticate", "Basic"),
        ] {
            answer.headers_mut().append(name, value.parse().unwrap());
        }
        answer.headers_mut().append("x-own", "yours".parse().unwrap());
        answer
    });
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    let answer = guest.http(json!({"url": url(server.port, "/")})).unwrap();
    let names: Vec<_> = answer["headers"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["content-length", "date", "x-own"]);
    assert_eq!(answer["headers"]["x-own"], "mine, yours");
}

#[test]
fn what_a_call_left_open_is_noted_and_dropped_with_it() {
    let server = serve(None, |_| response(200, vec![b'x'; 3 * MIB]));
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    let answer = guest.http(json!({"url": url(server.port, "/")})).unwrap();
    let closed = guest.http(json!({"url": url(server.port, "/")})).unwrap();
    assert!(guest.noted().is_empty());
    guest.ask("host/http.close", json!({"stream": closed["more"]})).unwrap();
    assert!(matches!(received(&guest.noted()[0]), (bytes, false) if MIB as u64 <= bytes));
    assert!(answer["more"].is_u64() && broker.calls() == 1);
    osvm_runtime::HostServices::ended(&broker, guest.call, &guest.trace);
    assert!(matches!(received(&guest.noted()[0]), (bytes, true) if MIB as u64 <= bytes));
    assert_eq!(broker.calls(), 0);
}

#[test]
fn a_call_has_so_many_bodies_open_and_no_more() {
    let server = serve(None, |_| response(200, vec![b'x'; 2 * MIB]));
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    for _ in 0..8 {
        guest.http(json!({"url": url(server.port, "/")})).unwrap();
    }
    let error = guest.http(json!({"url": url(server.port, "/")})).unwrap_err();
    assert_eq!(error.code, code::LIMIT_REACHED);
}
