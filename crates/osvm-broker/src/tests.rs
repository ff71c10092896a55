//! The broker from a guest's side, with servers on this host.

mod bodies;
mod crowd;
mod defence;
mod secrets;

use crate::fixture::{Guest, plain_broker, policy, response, serve};
use osvm_protocol::code;
use osvm_runtime::{HostServices as _, Reach};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A rule for `a.test` at this port.
pub(super) fn rule(port: u16) -> String {
    format!(
        r#"[{{"host": "a.test", "ports": [{port}], "paths": ["/*"],
             "methods": ["GET", "HEAD", "POST", "PUT"]}}]"#
    )
}

pub(super) fn url(port: u16, path: &str) -> String {
    format!("http://a.test:{port}{path}")
}

#[test]
fn a_request_that_a_rule_allows_is_made_and_noted() {
    let server = serve(None, |request| {
        let text = format!("{} {} {:?}", request.method(), request.uri(), request.body());
        response(201, text)
    });
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    let params = json!({"method": "POST", "url": url(server.port, "/x/../y?z=1#f"), "body": "hi"});
    let answer = guest.http(params).unwrap();
    assert_eq!(answer["status"], 201);
    assert_eq!(answer["body"], "POST /y?z=1 b\"hi\"");
    assert_eq!(answer["headers"]["content-length"], "17");
    let expected = Reach::Http {
        method: "POST".into(),
        host: "a.test".into(),
        port: server.port,
        path: "/y".into(),
        status: Some(201),
        sent_bytes: 2,
        received_bytes: 17,
        refused: None,
    };
    assert_eq!(guest.noted(), [expected]);
}

#[test]
fn host_and_carriage_are_not_the_guests_to_write() {
    let server = serve(None, |request| {
        let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        let host = request.headers()["host"].to_str().unwrap();
        response(200, format!("{host} {}", names.join(",")))
    });
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    let headers = json!({"Host": "evil.test", "Connection": "close", "Transfer-Encoding": "chunked",
        "Content-Length": "99", "Proxy-Authorization": "x", "Expect": "100-continue",
        "X-Http-Method-Override": "DELETE", "X-Mine": "y", "Authorization": "mine"});
    let answer = guest.http(json!({"url": url(server.port, "/"), "headers": headers})).unwrap();
    let expected = format!("a.test:{} authorization,host,user-agent,x-mine", server.port);
    assert_eq!(answer["body"], expected);
}

#[test]
fn a_connection_serves_one_call_and_no_other() {
    let server = serve(None, |_| response(200, "ok"));
    let broker = plain_broker();
    for calls in 1..=3 {
        let guest = Guest::new(&broker, policy(&rule(server.port)));
        for _ in 0..3 {
            guest.http(json!({"url": url(server.port, "/")})).unwrap();
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), calls);
    }
    assert_eq!(broker.calls(), 0);
}

#[test]
fn a_rule_is_used_as_often_as_it_says() {
    let server = serve(None, |_| response(200, "ok"));
    let broker = plain_broker();
    let rules = rule(server.port).replace("\"ports\"", "\"rate_per_minute\": 2, \"ports\"");
    for allowed in [true, true, false] {
        let guest = Guest::new(&broker, policy(&rules));
        let answer = guest.http(json!({"url": url(server.port, "/")}));
        assert_eq!(answer.is_ok(), allowed);
        if let Err(error) = answer {
            assert_eq!(error.code, code::LIMIT_REACHED);
            assert!(error.data.unwrap().get().contains("retry_after_ms"));
        }
    }
}

#[test]
fn a_request_ends_with_its_time_and_with_its_call() {
    // It accepts, and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(&rule(port)));
    let start = Instant::now();
    let error = guest.http(json!({"url": url(port, "/"), "timeout_ms": 100})).unwrap_err();
    assert_eq!(error.code, code::TIMED_OUT);
    assert!(matches!(&guest.noted()[..], [Reach::Http { refused: Some(_), status: None, .. }]));
    let cancel = guest.cancel.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            cancel.cancel();
        });
        assert!(guest.refused(json!({"url": url(port, "/")})).contains("cancelled"));
    });
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_connection_for_a_guest_takes_a_rule_that_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = plain_broker();
    let connect = |rules: &str, host: &str| {
        let guest = Guest::new(&broker, policy(rules));
        let stream = guest.with_request("host/connect", &json!({}), |request| {
            broker.connect(request, host, port)
        });
        (stream.map_err(|refusal| refusal.to_string()), guest.noted())
    };
    let rules = rule(port).replace("\"GET\"", "\"CONNECT\"");
    let (stream, noted) = connect(&rules, "a.test");
    assert_eq!(stream.unwrap().peer_addr().unwrap().port(), port);
    // Whoever copies its bytes does that.
    assert_eq!(noted, []);
    assert!(connect(&rule(port), "a.test").0.unwrap_err().contains("GET, HEAD"));
    for host in ["b.test", "127.0.0.2", "a.test/x", "u@a.test", "a.test:1", "", "::1"] {
        let (stream, noted) = connect(&rules, host);
        assert!(stream.is_err(), "{host}");
        assert_eq!(noted.len(), 1, "{host}");
    }
}

#[test]
fn a_name_has_ports_where_rules_are_about_it_and_is_not_resolved() {
    let broker = plain_broker();
    let rules = r#"[{"host": "*.nowhere.test", "ports": [443, 80]},
        {"host": "a.nowhere.test", "methods": ["CONNECT"], "ports": [8443, 443]}]"#;
    let guest = Guest::new(&broker, policy(rules));
    let ports = |name: &str| {
        let ports = guest.with_request("host/resolve", &json!({}), |r| broker.ports(r, name));
        (ports, guest.noted())
    };
    let (found, noted) = ports("A.nowhere.test.");
    assert_eq!(found, Ok(vec![80, 443, 8443]));
    assert!(
        matches!(&noted[..], [Reach::Http { method, host, refused: None, .. }]
            if method == "DNS" && host == "a.nowhere.test"),
        "{noted:?}"
    );
    for name in ["nowhere.test", "b.test", "", "a.nowhere.test/", "::1", "a b", "127.0.0.1"] {
        let (refused, noted) = ports(name);
        assert!(refused.is_err(), "{name}");
        assert!(matches!(&noted[..], [Reach::Http { refused: Some(_), .. }]), "{name}: {noted:?}");
    }
}

#[test]
fn other_methods_and_wrong_parameters_are_refused_and_noted() {
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy("[]"));
    let error = guest.ask("host/shell", json!({})).unwrap_err();
    assert_eq!(error.code, code::HOST_METHOD_DENIED);
    for params in [json!([]), json!({}), json!({"url": 1}), json!({"url": "x", "more": "yes"})] {
        assert_eq!(guest.http(params).unwrap_err().code, code::INVALID_PARAMS);
    }
    for method in ["host/http.read", "host/http.write", "host/http.close"] {
        let error = guest.ask(method, json!({"stream": 7})).unwrap_err();
        assert_eq!(error.code, code::INVALID_PARAMS);
    }
    guest.with_request("host/http", &json!({}), |request| {
        let request = osvm_runtime::HostRequest { params: None, ..*request };
        assert_eq!(broker.serve(&request).unwrap_err().code, code::INVALID_PARAMS);
    });
    let refused = guest.ask("host/file", json!({"op": "erase", "path": "/in"})).unwrap_err();
    assert_eq!(refused.code, code::INVALID_PARAMS);
    // An attempt that was none is one for the books all the same.
    let noted = guest.noted();
    assert_eq!(noted.len(), 10, "{noted:?}");
    assert!(noted.iter().all(|reach| matches!(reach, Reach::Other { .. })), "{noted:?}");
}
