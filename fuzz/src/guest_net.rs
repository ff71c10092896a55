//! What programs in a Linux guest say to PID 1, and what its host answers: any bytes are a question, a
//! request, an answer or nothing, and what waits for the host is whole frames.
//!
//! The first byte chooses names or requests. The rest is cut into pieces: a byte that says how long one is,
//! then its bytes. Pieces of the program and answers of the host take turns, the program begins.
#![no_main]

use buffers::Outgoing;
use libfuzzer_sys::fuzz_target;
use net::exchange::{Exchange, State};
use net::host::{Asked, Host};
use net::{dns, http};
use osvm_protocol::frame::MAX_PAYLOAD;
use serde_json::value::RawValue;

// PID 1 is a program, so what it consists of is taken by its files.
#[expect(dead_code, reason = "lines and files are not fuzzed here")]
#[path = "../../guest/osvm-init/src/buffers.rs"]
mod buffers;

#[expect(dead_code, reason = "connections are not fuzzed here")]
#[path = "../../guest/osvm-init/src/net"]
mod net {
    pub mod dns;
    pub mod exchange;
    pub mod host;
    pub mod http;
}

fuzz_target!(|bytes: &[u8]| {
    let Some((names, bytes)) = bytes.split_first() else { return };
    if names % 2 == 0 {
        return name(bytes);
    }
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while let Some((len, more)) = rest.split_first() {
        let (piece, more) = more.split_at(usize::from(*len).min(more.len()));
        pieces.push(piece);
        rest = more;
    }
    request(&pieces);
});

fn name(bytes: &[u8]) {
    let Some(question) = dns::read(bytes) else { return };
    assert!(question.name.len() <= 253 && !question.name.is_empty());
    for answer in [dns::Answer::Unknown, dns::Answer::Address([192, 31, 196, 1].into())] {
        let message = dns::write(&question, answer);
        assert!(message.starts_with(&bytes[..2]) && message.len() <= dns::MAX + 16);
    }
}

fn request(pieces: &[&[u8]]) {
    let mut pieces = pieces.iter();
    let mut inbox = Vec::new();
    let head = loop {
        match http::head(&mut inbox) {
            Some(Ok(head)) => break head,
            Some(Err(_)) => return,
            None => {}
        }
        let Some(piece) = pieces.next() else { return };
        inbox.extend_from_slice(piece);
    };
    let url = head.target.clone();
    let mut exchange = Exchange::new(1, head, url);
    let (mut asked, mut frames, mut out) =
        (Asked::default(), Outgoing::default(), Outgoing::default());
    loop {
        let mut host = Host { asked: &mut asked, outbox: &mut frames };
        if exchange.advance(&mut inbox, false, &mut out, &mut host) != State::On {
            return;
        }
        assert!(frames.len() <= MAX_PAYLOAD as usize);
        frames.clear();
        let state = if exchange.wants_input() {
            let Some(piece) = pieces.next() else { return };
            inbox.extend_from_slice(piece);
            State::On
        } else {
            // The program takes all there is.
            out.clear();
            let Some(piece) = pieces.next() else { return };
            match str::from_utf8(piece).ok().map(serde_json::from_str::<Box<RawValue>>) {
                Some(Ok(answer)) => exchange.answered(Ok(&answer), &mut out),
                _ => exchange.answered(Err((1001, "no".into())), &mut out),
            }
        };
        if state != State::On {
            return;
        }
    }
}
