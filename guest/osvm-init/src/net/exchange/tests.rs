//! One exchange of a program with the world outside, with a host that answers as the test says.

use super::super::host::Asked;
use super::*;
use osvm_protocol::frame;

/// One exchange, its program's side and its host's.
struct Bench {
    exchange: Exchange,
    asked: Asked,
    frames: Outgoing,
    inbox: Vec<u8>,
    out: Outgoing,
}

impl Bench {
    fn new(request: &str) -> Self {
        let mut inbox = request.as_bytes().to_vec();
        let head = http::head(&mut inbox).unwrap().unwrap();
        let url = head.target.clone();
        let (asked, frames) = (Asked::default(), Outgoing::default());
        Self {
            exchange: Exchange::new(3, head, url),
            asked,
            frames,
            inbox,
            out: Outgoing::default(),
        }
    }

    /// Goes on, and says what the host is asked.
    fn advance(&mut self) -> Option<Value> {
        let mut host = Host { asked: &mut self.asked, outbox: &mut self.frames };
        let state = self.exchange.advance(&mut self.inbox, false, &mut self.out, &mut host);
        assert_eq!(state, State::On);
        let bytes = self.frames.drain();
        let frame = frame::split(&bytes).unwrap()?;
        Some(serde_json::from_slice(frame.payload).unwrap())
    }

    fn answer(&mut self, answer: Value) -> (State, String) {
        let text = serde_json::value::to_raw_value(&answer).unwrap();
        let state = self.exchange.answered(Ok(&text), &mut self.out);
        (state, String::from_utf8(self.out.drain()).unwrap())
    }
}

#[test]
fn a_request_and_its_answer_in_one_piece() {
    let mut bench = Bench::new("GET http://a/x HTTP/1.1\r\nAccept: */*\r\n\r\n");
    let asked = bench.advance().unwrap();
    assert_eq!(asked["method"], "host/http");
    let params = json!({"method": "GET", "url": "http://a/x", "headers": [["accept", "*/*"]],
        "more": false, "max_redirects": 0, "exchange": 3});
    assert_eq!(asked["params"], params);
    assert_eq!(bench.advance(), None);
    let (state, text) = bench.answer(json!({"status": 200, "headers": {"x": "y"}, "body": "hi"}));
    assert_eq!(state, State::Done);
    assert_eq!(text, "HTTP/1.1 200 OK\r\nx: y\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
}

#[test]
fn an_answer_in_pieces_is_chunked_and_asked_for_piece_by_piece() {
    let mut bench = Bench::new("GET http://a/x HTTP/1.1\r\n\r\n");
    bench.advance();
    let head = json!({"status": 200, "headers": {"content-length": "5"}, "body": "abc", "more": 7});
    let (state, text) = bench.answer(head);
    assert_eq!(state, State::On);
    assert!(text.ends_with("Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n"));
    assert!(!text.contains("content-length"), "{text}");
    let asked = bench.advance().unwrap();
    assert_eq!(
        (&asked["method"], &asked["params"]["stream"]),
        (&json!("host/http.read"), &json!(7))
    );
    let (state, text) = bench.answer(json!({"body_base64": "ZGU="}));
    assert_eq!((state, text.as_str()), (State::Done, "2\r\nde\r\n0\r\n\r\n"));
}

#[test]
fn an_answer_that_breaks_off_does_not_end() {
    let mut bench = Bench::new("GET http://a/x HTTP/1.1\r\n\r\n");
    bench.advance();
    bench.answer(json!({"status": 200, "body": "abc", "more": 7}));
    let state = bench.exchange.answered(Err((1008, "gone".into())), &mut bench.out);
    assert_eq!(state, State::Broken);
}

#[test]
fn a_long_body_goes_in_pieces() {
    let body = "x".repeat(PIECE + 10);
    let mut bench = Bench::new(&format!(
        "POST http://a/x HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let asked = bench.advance().unwrap();
    assert_eq!(asked["params"]["more"], true);
    assert_eq!(asked["params"]["body"].as_str().unwrap().len(), PIECE);
    assert_eq!(bench.answer(json!({"stream": 9})), (State::On, String::new()));
    let asked = bench.advance().unwrap();
    assert_eq!(asked["method"], "host/http.write");
    assert_eq!(
        asked["params"],
        json!({"stream": 9, "body": "x".repeat(10), "more": false, "exchange": 3})
    );
    let (state, text) = bench.answer(json!({"status": 204}));
    assert_eq!(state, State::Done);
    assert!(!text.contains("Content-Length"), "{text}");
}

#[test]
fn a_refusal_is_an_answer_in_words() {
    let mut bench = Bench::new("GET http://a/x HTTP/1.1\r\n\r\n");
    bench.advance();
    let refused = Err((1004, "no egress rule allows it".to_owned()));
    assert_eq!(bench.exchange.answered(refused, &mut bench.out), State::Done);
    let text = String::from_utf8(bench.out.drain()).unwrap();
    assert!(text.starts_with("HTTP/1.1 403 ") && text.ends_with("no egress rule allows it\n"));
}
