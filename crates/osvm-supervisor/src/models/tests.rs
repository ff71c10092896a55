//! Requests to a provider that is a socket of the test.

use super::*;
use osvm_agent::Model;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use url::Url;

const KEY: &str = "sk-planted-key";

/// A provider that answers one request with these bytes; returns what it was asked.
fn provider(answer: String) -> (Url, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&request).ends_with("{\"x\":1}") {
            let read = stream.read(&mut piece).unwrap();
            request.extend_from_slice(&piece[..read]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (Url::parse(&url).unwrap(), thread)
}

fn post(kind: Provider, answer: &str) -> (Result<Posted, String>, String, String) {
    let (url, thread) = provider(answer.to_owned());
    let model = Model { provider: kind, name: "m".into(), max_tokens: 1, retry_ms: 1 };
    let config = ModelConfig { model, url, key: Some(KEY.into()), price: None };
    let mut said = String::new();
    let posted = Providers::new(config).post(kind, "{\"x\":1}", &mut |text| {
        said.push_str(text);
        true
    });
    (posted, said, thread.join().unwrap())
}

fn http(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

#[test]
fn the_key_goes_out_in_the_header_of_its_provider() {
    let (posted, said, asked) =
        post(Provider::OpenAi, &http("200 OK", "", "data: a\n\ndata: b\n\n"));
    assert_eq!(posted.unwrap().status, 200);
    assert_eq!(said, "data: a\n\ndata: b\n\n");
    assert!(asked.starts_with("POST /v1/chat/completions HTTP/1.1"), "{asked}");
    assert!(asked.contains("authorization: Bearer sk-planted-key"), "{asked}");
    let (_, _, asked) = post(Provider::Anthropic, &http("200 OK", "", "x\n"));
    assert!(asked.starts_with("POST /v1/messages HTTP/1.1"), "{asked}");
    assert!(asked.contains("x-api-key: sk-planted-key"), "{asked}");
    assert!(asked.contains("anthropic-version: "), "{asked}");
}

#[test]
fn a_key_that_is_sent_back_is_cut_out() {
    let (_, said, _) = post(Provider::OpenAi, &http("200 OK", "", "data: sk-planted-key!\n"));
    assert_eq!(said, "data: [key removed]!\n");
    let refusal = http("401 Unauthorized", "", "no such key: sk-planted-key");
    let (posted, _, _) = post(Provider::OpenAi, &refusal);
    assert_eq!(posted.unwrap().body, "no such key: [key removed]");
}

#[test]
fn a_refusal_is_told_with_the_wait_it_asks_for() {
    let (posted, said, _) =
        post(Provider::OpenAi, &http("429 Too Many Requests", "retry-after: 7\r\n", "slow"));
    let wait = Some(Duration::from_secs(7));
    assert_eq!(posted, Ok(Posted { status: 429, body: "slow".into(), retry_after: wait }));
    assert_eq!(said, "");
}

#[test]
fn a_stream_that_breaks_is_an_error() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ndata: a\n";
    let (posted, _, _) = post(Provider::OpenAi, cut);
    assert!(posted.is_err(), "{posted:?}");
}

#[test]
fn a_redirect_is_not_followed_with_the_key() {
    let redirect = http("302 Found", "location: http://127.0.0.1:1/\r\n", "");
    let (posted, _, _) = post(Provider::OpenAi, &redirect);
    assert_eq!(posted.unwrap().status, 302);
}

#[test]
fn a_provider_that_is_not_there_is_said_in_words_without_the_key() {
    let model = Model { provider: Provider::OpenAi, name: "m".into(), max_tokens: 1, retry_ms: 1 };
    let url = Url::parse("http://127.0.0.1:1/v1").unwrap();
    let config = ModelConfig { model, url, key: Some(KEY.into()), price: None };
    let error = Providers::new(config).post(Provider::OpenAi, "{}", &mut |_| true).unwrap_err();
    assert!(error.starts_with("the model's provider cannot be reached"), "{error}");
    assert!(!error.contains(KEY));
}

#[test]
fn letters_are_never_cut_in_two() {
    let mut pieces = Pieces::default();
    let bytes = "data: ä\ndata: b\nda".as_bytes();
    assert_eq!(pieces.take(&bytes[..7]), None);
    assert_eq!(pieces.take(&bytes[7..]).unwrap(), "data: ä\ndata: b\n");
    assert_eq!(pieces.take(b"ta\n").unwrap(), "data\n");
}
