//! The stream of one guest as frames: lines of the server, answers of PID 1, its last word.
//!
//! # Invariants
//!
//! - What comes from the guest is bounded before it is kept, and a frame that is no message is
//!   skipped or ends the guest; nothing in it is trusted.
//! - Lines that come while something else is waited for are kept, up to [`MAX_KEPT`] bytes.

use osvm_protocol::code::HOST_METHOD_DENIED;
use osvm_protocol::frame::{self, FrameError};
use osvm_protocol::linux::{self, Exit, Log, method};
use osvm_protocol::message::{self, Id, Message, Request, Response, RpcError};
use osvm_vmm::{GuestStream, clean};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::VecDeque;
use std::io;
use std::time::Instant;

/// Longest line of a guest that reaches osvm's log, in bytes.
const MAX_LOG: usize = 1024;

/// Lines of one guest that reach osvm's log.
const MAX_LOGGED: u32 = 1000;

/// Bytes of lines kept while PID 1 is asked something.
const MAX_KEPT: usize = frame::MAX_PAYLOAD as usize;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Why the guest can't be talked to any more.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// The server ended; PID 1 says how.
    #[error("{}", .0.reason)]
    Ended(Exit),
    /// The stream ended without a word.
    #[error("the guest hung up")]
    HungUp,
    /// It did not answer in time.
    #[error("the guest did not answer in time")]
    Deadline,
    /// It broke the framing.
    #[error("the guest broke the framing")]
    Frame(#[from] FrameError),
    /// It wrote more than is kept while it was asked something.
    #[error("the guest wrote more than {MAX_KEPT} bytes that nobody asked for")]
    Flood,
    /// PID 1 refused a request.
    #[error("the guest refused `{method}`: {reason}")]
    Refused {
        /// What it was asked.
        method: String,
        /// Its words.
        reason: String,
    },
    /// The server refused a request.
    #[error("the server answered `{method}` with an error: {reason}")]
    ServerRefused {
        /// What it was asked.
        method: String,
        /// Its words.
        reason: String,
    },
    /// The host side failed.
    #[error("the stream to the guest failed: {0}")]
    Io(io::Error),
}

/// One frame of the guest that matters.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A line of the server.
    Line(Vec<u8>),
    /// An answer of PID 1.
    Answer { id: u64, result: Result<Box<RawValue>, String> },
    /// A request of PID 1.
    Asked(Asked),
    /// What PID 1 says of a stream: the payload.
    Net(Vec<u8>),
    /// What PID 1 says of a file: the payload.
    File(Vec<u8>),
}

/// A request of PID 1, unread.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) method: String,
    pub(crate) params: Option<Box<RawValue>>,
}

/// Both directions of a guest's stream.
#[derive(Debug)]
pub struct Talk {
    name: String,
    stream: GuestStream,
    inbox: Vec<u8>,
    /// Where the next frame begins in `inbox`.
    at: usize,
    lines: VecDeque<Vec<u8>>,
    kept: usize,
    next_id: u64,
    logged: u32,
}

impl Talk {
    /// Talks over `stream` to the guest of server `name`.
    pub fn new(name: String, stream: GuestStream) -> Self {
        Self {
            name,
            stream,
            inbox: Vec::new(),
            at: 0,
            lines: VecDeque::new(),
            kept: 0,
            next_id: 1,
            logged: 0,
        }
    }

    /// A second handle to the same stream, for writing from another thread.
    pub(crate) fn writer(&self) -> io::Result<GuestStream> {
        use std::os::fd::AsFd as _;
        Ok(GuestStream::new(self.stream.as_fd().try_clone_to_owned()?))
    }

    /// Asks PID 1 and waits for its answer.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, Gone> {
        let id = self.next_id;
        self.next_id += 1;
        let frame = request(id, method, params)?;
        self.write(&frame, deadline)?;
        let refused = |reason: String| Gone::Refused { method: method.to_owned(), reason };
        loop {
            match self.hear(deadline)? {
                Heard::Line(line) => self.keep(line)?,
                Heard::Asked(asked) => self.refuse(asked.id, deadline)?,
                Heard::Net(_) | Heard::File(_) => {}
                Heard::Answer { id: answered, .. } if answered != id => {}
                Heard::Answer { result: Ok(result), .. } => {
                    return serde_json::from_str(result.get())
                        .map_err(|error| refused(error.to_string()));
                }
                Heard::Answer { result: Err(reason), .. } => return Err(refused(reason)),
            }
        }
    }

    /// Sends the server a request of our own and waits for its result. What else it says meanwhile
    /// is dropped: nobody has asked it anything yet.
    ///
    /// # Errors
    ///
    /// [`Gone`]; [`Gone::ServerRefused`] when the answer is an error.
    pub fn request(
        &mut self,
        method: &str,
        params: &impl Serialize,
        deadline: Instant,
    ) -> Result<Box<RawValue>, Gone> {
        let id = format!("osvm-{}", self.next_id);
        self.next_id += 1;
        let params = to_raw_value(params).map_err(|error| Gone::Io(error.into()))?;
        let text = serde_json::json!({
            "jsonrpc": "2.0", "id": id, "method": method, "params": params,
        });
        self.line(text.to_string().as_bytes(), deadline)?;
        loop {
            let line = match self.hear(deadline)? {
                Heard::Line(line) => line,
                Heard::Asked(asked) => {
                    self.refuse(asked.id, deadline)?;
                    continue;
                }
                Heard::Answer { .. } | Heard::Net(_) | Heard::File(_) => continue,
            };
            match message::parse(&line) {
                Ok(Message::Response(Response { id: Some(Id::Text(text)), outcome }))
                    if text == id =>
                {
                    return outcome.map(RawValue::to_owned).map_err(|error| Gone::ServerRefused {
                        method: method.to_owned(),
                        reason: clean(error.message.as_bytes(), MAX_LOG),
                    });
                }
                Ok(Message::Request(asked)) => self.decline(&asked, deadline)?,
                _ => {}
            }
        }
    }

    /// A client without capabilities is asked nothing but `ping`, which must be answered.
    fn decline(&mut self, asked: &message::Request<'_>, deadline: Instant) -> Result<(), Gone> {
        let Some(id) = &asked.id else { return Ok(()) };
        let answer = if asked.method == "ping" {
            serde_json::json!({"jsonrpc": "2.0", "id": id, "result": {}})
        } else {
            let error =
                serde_json::json!({"code": -32601, "message": "this client offers nothing"});
            serde_json::json!({"jsonrpc": "2.0", "id": id, "error": error})
        };
        self.line(answer.to_string().as_bytes(), deadline)
    }

    /// Refuses a request: while the guest is prepared it works for nobody.
    pub(crate) fn refuse(&mut self, id: u64, deadline: Instant) -> Result<(), Gone> {
        let error = RpcError::new(HOST_METHOD_DENIED, "the guest works for no call");
        let frame = message::error(Some(&Id::from(id)), &error)?;
        self.write(&frame, deadline)
    }

    /// Sends the server a notification.
    pub(crate) fn notify(&mut self, method: &str, deadline: Instant) -> Result<(), Gone> {
        let text = serde_json::json!({"jsonrpc": "2.0", "method": method});
        self.line(text.to_string().as_bytes(), deadline)
    }

    fn line(&mut self, line: &[u8], deadline: Instant) -> Result<(), Gone> {
        let frame = linux::wrap(line)?;
        self.write(&frame, deadline)
    }

    fn write(&mut self, frame: &[u8], deadline: Instant) -> Result<(), Gone> {
        self.stream.write_all(frame, deadline).map_err(gone)
    }

    /// Says something that has no answer.
    pub(crate) fn frame(&mut self, frame: &[u8], deadline: Instant) -> Result<(), Gone> {
        self.write(frame, deadline)
    }

    pub(crate) fn keep(&mut self, line: Vec<u8>) -> Result<(), Gone> {
        self.kept = self.kept.saturating_add(line.len());
        if MAX_KEPT < self.kept {
            return Err(Gone::Flood);
        }
        self.lines.push_back(line);
        Ok(())
    }

    /// A line that was kept, or the next thing the guest says.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Heard, Gone> {
        if let Some(line) = self.lines.pop_front() {
            self.kept = self.kept.saturating_sub(line.len());
            return Ok(Heard::Line(line));
        }
        self.hear(deadline)
    }

    /// The next thing the guest says, whatever was kept.
    pub(crate) fn hear(&mut self, deadline: Instant) -> Result<Heard, Gone> {
        loop {
            let rest = self.inbox.get(self.at..).unwrap_or_default();
            if let Some(frame) = frame::split(rest)? {
                let used = rest.len() - frame.rest.len();
                let heard = match linux::line(frame.payload) {
                    Some(line) => Some(Heard::Line(line.to_vec())),
                    None if linux::net::read(frame.payload).is_some() => {
                        Some(Heard::Net(frame.payload.to_vec()))
                    }
                    None if linux::workspace::read(frame.payload).is_some() => {
                        Some(Heard::File(frame.payload.to_vec()))
                    }
                    None => {
                        let payload = frame.payload.to_vec();
                        self.said_by_pid_1(&payload)?
                    }
                };
                self.at += used;
                if let Some(heard) = heard {
                    return Ok(heard);
                }
                continue;
            }
            self.inbox.drain(..self.at);
            self.at = 0;
            self.read(deadline)?;
        }
    }

    fn read(&mut self, deadline: Instant) -> Result<(), Gone> {
        let start = self.inbox.len();
        self.inbox.resize(start + CHUNK, 0);
        let free = self.inbox.get_mut(start..).unwrap_or_default();
        let outcome = self.stream.read(free, deadline);
        self.inbox.truncate(start + outcome.as_ref().copied().unwrap_or_default());
        match outcome.map_err(gone)? {
            0 => Err(Gone::HungUp),
            _ => Ok(()),
        }
    }

    fn said_by_pid_1(&mut self, payload: &[u8]) -> Result<Option<Heard>, Gone> {
        match message::parse(payload) {
            Ok(Message::Response(Response { id: Some(Id::Number(id)), outcome })) => {
                let result = outcome.map(RawValue::to_owned);
                let result = result.map_err(|error| clean(error.message.as_bytes(), MAX_LOG));
                Ok(u64::try_from(id).ok().map(|id| Heard::Answer { id, result }))
            }
            Ok(Message::Request(Request { id: Some(Id::Number(id)), method, params, .. })) => {
                let (method, params) = (method.into_owned(), params.map(RawValue::to_owned));
                let id = u64::try_from(id).ok();
                Ok(id.map(|id| Heard::Asked(Asked { id, method, params })))
            }
            Ok(Message::Request(said)) => {
                let params = said.params.map_or("{}", RawValue::get);
                match said.method.as_ref() {
                    method::LOG => self.log(params),
                    method::EXIT => {
                        if let Ok(mut exit) = serde_json::from_str::<Exit>(params) {
                            exit.reason = clean(exit.reason.as_bytes(), MAX_LOG);
                            return Err(Gone::Ended(exit));
                        }
                    }
                    _ => {}
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn log(&mut self, params: &str) {
        let Ok(Log { level, message }) = serde_json::from_str(params) else { return };
        self.logged = self.logged.saturating_add(1);
        if MAX_LOGGED < self.logged {
            return;
        }
        let (server, message) = (&self.name, clean(message.as_bytes(), MAX_LOG));
        match level.as_str() {
            "error" | "warning" => tracing::warn!(%server, "{message}"),
            _ => tracing::info!(%server, "{message}"),
        }
    }
}

/// A request to PID 1 as a frame.
pub(crate) fn request(id: u64, method: &str, params: &impl Serialize) -> Result<Vec<u8>, Gone> {
    let params = to_raw_value(params).map_err(|error| Gone::Io(error.into()))?;
    Ok(message::request(&Id::from(id), None, method, Some(&params))?)
}

fn gone(error: io::Error) -> Gone {
    match error.kind() {
        io::ErrorKind::TimedOut => Gone::Deadline,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Gone::HungUp,
        _ => Gone::Io(error),
    }
}

#[cfg(test)]
mod tests;
