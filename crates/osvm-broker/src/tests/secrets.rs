//! A secret reaches its server and nobody else.

use super::{rule, url};
use crate::fixture::{Guest, OneSecret, Tls, broker, policy, response, serve};
use osvm_protocol::code;
use serde_json::json;
use std::sync::Arc;

const VALUE: &str = "s3cr3t/value+of=key";

fn with_secret(port: u16) -> String {
    rule(port)
        .replace("\"ports\"", r#""headers": {"Authorization": "Bearer ${secret:KEY}"}, "ports""#)
}

#[test]
fn a_secret_is_sent_and_cut_out_of_whatever_comes_back() {
    let tls = Tls::new(&["a.test"]);
    let server = serve(Some(&tls), |request| {
        let sent = request.headers()["authorization"].to_str().unwrap().to_owned();
        assert_eq!(sent, format!("Bearer {VALUE}"));
        assert_eq!(request.headers()["accept-encoding"], "identity");
        assert!(!request.headers().contains_key("range"));
        // Across the border of two pieces, too.
        let body = format!(
            "{}{sent} {}",
            "x".repeat((1 << 20) - 12),
            crate::params::base64(sent.as_bytes())
        );
        let mut answer = response(200, body);
        answer.headers_mut().insert("x-echo", sent.parse().unwrap());
        answer
    });
    let broker = broker(Arc::new(OneSecret(VALUE)), Some(tls.roots.clone()));
    let guest = Guest::new(&broker, policy(&with_secret(server.port)));
    let at = format!("https://a.test:{}/", server.port);
    let headers =
        json!({"Authorization": "${secret:KEY}", "Range": "bytes=0-3", "Accept-Encoding": "gzip"});
    let first = guest.http(json!({"url": at, "headers": headers})).unwrap();
    let rest = guest.ask("host/http.read", json!({"stream": first["more"]})).unwrap();
    assert_eq!(first["headers"]["x-echo"], "Bearer [secret KEY removed]");
    assert!(first["headers"]["content-length"].is_null());
    let body = format!("{}{}", first["body"].as_str().unwrap(), rest["body"].as_str().unwrap());
    assert!(body.contains("xBearer [secret KEY removed] "), "{}", &body[body.len() - 100..]);
    assert!(body.ends_with("[secret KEY removed]k="), "{}", &body[body.len() - 100..]);
    let everything = format!("{first}{rest}{:?}{broker:?}", guest.noted());
    assert!(!everything.contains("s3cr3t"));
}

#[test]
fn a_secret_is_not_sent_where_others_listen_in() {
    let server = serve(None, |_| response(200, "ok"));
    let broker = broker(Arc::new(OneSecret(VALUE)), None);
    let guest = Guest::new(&broker, policy(&with_secret(server.port)));
    let error = guest.http(json!({"url": url(server.port, "/")})).unwrap_err();
    assert_eq!(error.code, code::SECRET_MISSING);
    assert!(error.message.contains("https only"), "{error}");
    // A loopback address is this host.
    let rules = with_secret(server.port).replace("a.test", "127.0.0.1");
    let guest = Guest::new(&broker, policy(&rules));
    guest.http(json!({"url": format!("http://127.0.0.1:{}/", server.port)})).unwrap();
}

#[test]
fn a_secret_that_is_not_set_is_named_and_nothing_is_sent() {
    let server = serve(None, |_| response(200, "ok"));
    let broker = broker(Arc::new(OneSecret(VALUE)), None);
    let rules = with_secret(server.port).replace("KEY", "OTHER");
    let guest = Guest::new(&broker, policy(&rules));
    let error = guest.http(json!({"url": url(server.port, "/")})).unwrap_err();
    assert_eq!(error.code, code::SECRET_MISSING);
    assert!(error.data.unwrap().get().contains("osvm secret set OTHER"));
    assert_eq!(server.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_response_in_which_a_secret_could_hide_is_refused() {
    let server = serve(None, |_| {
        let mut answer = response(200, "...");
        answer.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
        answer
    });
    let broker = broker(Arc::new(OneSecret(VALUE)), None);
    let rules = with_secret(server.port).replace("a.test", "127.0.0.1");
    let guest = Guest::new(&broker, policy(&rules));
    let at = format!("http://127.0.0.1:{}/", server.port);
    assert!(guest.refused(json!({"url": at})).contains("compressed"));
}
