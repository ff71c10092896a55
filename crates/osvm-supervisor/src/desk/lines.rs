//! Lines in and out: bounded reading, and writers that several threads share.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::io::{self, BufRead, Write};
use std::sync::{Mutex, PoisonError};

/// Longest line of an agent or a gateway, in bytes.
const MAX_LINE: usize = 32 * 1024 * 1024;

/// The members of a message that are acted on.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    #[serde(default)]
    pub(super) id: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) method: Option<String>,
    #[serde(default)]
    pub(super) params: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) result: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) error: Option<Box<RawValue>>,
}

/// Reads one line without its end; `false` when there is none.
pub(super) fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let bytes = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        if bytes.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let piece = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        if MAX_LINE < line.len().saturating_add(piece.len()) {
            let message = format!("a line of more than {MAX_LINE} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        line.extend_from_slice(piece);
        let read = piece.len() + usize::from(end.is_some());
        input.consume(read);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Writes messages, whole lines at a time. A reader that is gone is noticed elsewhere.
pub(super) struct Writer(Mutex<Option<Box<dyn Write + Send>>>);

#[derive(Serialize)]
struct Answer<'a, R> {
    jsonrpc: &'static str,
    id: &'a RawValue,
    result: R,
}

#[derive(Serialize)]
struct Refusal<'a> {
    jsonrpc: &'static str,
    id: &'a RawValue,
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: i64,
    message: &'a str,
}

#[derive(Serialize)]
struct Notification<'a> {
    jsonrpc: &'static str,
    method: &'a str,
    params: &'a RawValue,
}

impl Writer {
    pub(super) fn new(to: Box<dyn Write + Send>) -> Self {
        Self(Mutex::new(Some(to)))
    }

    pub(super) fn answer(&self, id: &RawValue, result: &impl Serialize) {
        self.send(&Answer { jsonrpc: "2.0", id, result });
    }

    pub(super) fn error(&self, id: &RawValue, code: i64, message: &str) {
        self.send(&Refusal { jsonrpc: "2.0", id, error: Error { code, message } });
    }

    pub(super) fn notify(&self, method: &str, params: &RawValue) {
        self.send(&Notification { jsonrpc: "2.0", method, params });
    }

    pub(super) fn send(&self, message: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(message) {
            self.line(&text);
        }
    }

    /// One message, as text.
    pub(super) fn line(&self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// One message, as it came. Line breaks between its tokens become spaces.
    pub(super) fn bytes(&self, message: &[u8]) {
        let mut line = Vec::with_capacity(message.len() + 1);
        line.extend(
            message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }),
        );
        line.push(b'\n');
        let mut to = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = to.as_mut()
            && open.write_all(&line).and_then(|()| open.flush()).is_err()
        {
            *to = None;
        }
    }

    /// Says that nothing more comes.
    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
