//! One HTTP request of a program, put to the host as `host/http`.
//!
//! ```text
//! body ─ piece ─▶ host/http ── room ─▶ host/http.write … ─▶ head and piece ─▶ host/http.read …
//! ```
//!
//! # Invariants
//!
//! - One question is open at a time, and the next piece is asked for when the program has taken the
//!   last, so two pieces at most wait in memory.
//! - An answer that breaks off in the middle does not look as if it had ended.

use super::host::{For, Host};
use super::http::{self, Body, Head};
use crate::buffers::Outgoing;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Bytes of a body that go to the host at once.
const PIECE: usize = 128 * 1024;

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Number of the connection, by which the host tells exchanges apart.
    id: u32,
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    chunks: bool,
    waits: bool,
    body: Body,
    piece: Vec<u8>,
    /// Where the host keeps what goes on.
    stream: Option<u64>,
    asked: bool,
    answer: Answering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answering {
    /// The head has not come.
    NotYet,
    /// Pieces follow, each a chunk.
    Chunks,
    /// Pieces follow, up to the end of the connection.
    Plain,
}

/// How an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    On,
    /// All is said; what waits is still to be written.
    Done,
    /// It can't go on, and the program has to see that.
    Broken,
}

#[derive(Debug, Deserialize)]
struct Answer {
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    body_base64: Option<String>,
    more: Option<u64>,
    stream: Option<u64>,
}

impl Exchange {
    pub(crate) fn new(id: u32, head: Head, url: String) -> Self {
        let Head { method, headers, chunks, waits, body, .. } = head;
        Self {
            id,
            method,
            url,
            headers,
            chunks,
            waits,
            body,
            piece: Vec::new(),
            stream: None,
            asked: false,
            answer: Answering::NotYet,
        }
    }

    /// Whether it would take bytes from the program.
    pub(crate) fn wants_input(&self) -> bool {
        !self.asked && self.answer == Answering::NotYet && self.body != Body::Done
    }

    /// Does what can be done now. `ended`: the program will send nothing more.
    pub(crate) fn advance(
        &mut self,
        inbox: &mut Vec<u8>,
        ended: bool,
        out: &mut Outgoing,
        host: &mut Host<'_>,
    ) -> State {
        if self.asked {
            return State::On;
        }
        if self.answer != Answering::NotYet {
            if out.is_empty() {
                let params = json!({"stream": self.stream, "exchange": self.id});
                self.asked = host.ask(For::Connection(self.id), "host/http.read", &params);
            }
            return State::On;
        }
        if std::mem::take(&mut self.waits) && self.body != Body::Done {
            out.push(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if let Err(why) = self.body.take(inbox, &mut self.piece, PIECE) {
            out.push(&http::refusal(400, why));
            self.close(host);
            return State::Done;
        }
        let whole = self.body == Body::Done;
        if whole || PIECE <= self.piece.len() {
            self.send(!whole, host);
        } else if ended {
            self.close(host);
            return State::Broken;
        }
        State::On
    }

    fn send(&mut self, more: bool, host: &mut Host<'_>) {
        let piece = std::mem::take(&mut self.piece);
        let (member, body) = match String::from_utf8(piece) {
            Ok(text) => ("body", text),
            Err(error) => ("body_base64", STANDARD.encode(error.as_bytes())),
        };
        let mut params = json!({"more": more, "exchange": self.id});
        let mut put = |name: &str, value: Value| {
            if let Some(params) = params.as_object_mut() {
                params.insert(name.to_owned(), value);
            }
        };
        if !body.is_empty() {
            put(member, body.into());
        }
        let method = match self.stream {
            Some(stream) => {
                put("stream", stream.into());
                "host/http.write"
            }
            None => {
                put("method", self.method.as_str().into());
                put("url", self.url.as_str().into());
                put("headers", json!(self.headers));
                // Redirects are the program's: it knows what it asked for.
                put("max_redirects", 0.into());
                "host/http"
            }
        };
        self.asked = host.ask(For::Connection(self.id), method, &params);
    }

    /// Takes what the host answered.
    pub(crate) fn answered(
        &mut self,
        outcome: Result<&RawValue, (i64, String)>,
        out: &mut Outgoing,
    ) -> State {
        self.asked = false;
        let answer = outcome.and_then(|text| {
            let read = serde_json::from_str::<Answer>(text.get());
            read.map_err(|error| (0, format!("the host's answer makes no sense: {error}")))
        });
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if self.answer != Answering::NotYet => return State::Broken,
            Err((code, words)) => {
                out.push(&http::refusal(status(code), &words));
                return State::Done;
            }
        };
        if self.answer == Answering::NotYet {
            let Some(status) = answer.status else {
                // Room for the next piece.
                self.stream = answer.stream.or(self.stream);
                return State::On;
            };
            self.head(status, &answer, out);
        }
        let body = match (&answer.body, &answer.body_base64) {
            (Some(text), _) => Ok(text.as_bytes().to_vec()),
            (None, Some(text)) => STANDARD.decode(text),
            (None, None) => Ok(Vec::new()),
        };
        let Ok(body) = body else { return State::Broken };
        self.stream = answer.more;
        let chunks = self.answer == Answering::Chunks;
        if chunks && !body.is_empty() {
            out.push(format!("{:x}\r\n", body.len()).as_bytes());
        }
        out.push(&body);
        if chunks && !body.is_empty() {
            out.push(b"\r\n");
        }
        if self.stream.is_some() {
            return State::On;
        }
        if chunks {
            out.push(b"0\r\n\r\n");
        }
        State::Done
    }

    fn head(&mut self, status: u16, answer: &Answer, out: &mut Outgoing) {
        let mut head = format!("HTTP/1.1 {status} {}\r\n", http::reason(status));
        let mut line = |name: &str, value: &str| {
            // The host has checked them; a line break here would be another head.
            if !name.contains(['\r', '\n', ':']) && !value.contains(['\r', '\n']) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        };
        let bodiless = self.method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
        for (name, value) in &answer.headers {
            let length = name.eq_ignore_ascii_case("content-length");
            let framing = name.eq_ignore_ascii_case("transfer-encoding");
            if !framing && (!length || bodiless) {
                line(name, value);
            }
        }
        self.answer = Answering::Plain;
        if !bodiless {
            if answer.more.is_none() {
                let text = answer.body.as_ref().map(String::len);
                let coded = || Some(STANDARD.decode(answer.body_base64.as_ref()?).ok()?.len());
                line("Content-Length", &text.or_else(coded).unwrap_or_default().to_string());
            } else if self.chunks {
                line("Transfer-Encoding", "chunked");
                self.answer = Answering::Chunks;
            }
        }
        line("Connection", "close");
        head.push_str("\r\n");
        out.push(head.as_bytes());
    }

    /// Says that the program wants no more.
    pub(crate) fn close(&mut self, host: &mut Host<'_>) {
        let params = json!({"stream": self.stream.take().unwrap_or_default(), "exchange": self.id});
        host.ask(For::Nobody, "host/http.close", &params);
    }
}

/// The status that tells a program of the host's refusal: codes of `docs/protocol.md`.
fn status(code: i64) -> u16 {
    match code {
        1001 | 1002 | 1004 | 1007 | 1009 => 403,
        1005 => 429,
        1006 => 413,
        -32602 => 400,
        _ => 502,
    }
}

#[cfg(test)]
mod tests;
