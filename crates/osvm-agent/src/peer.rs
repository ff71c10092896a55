//! The one stream of the agent: JSON-RPC messages, one a line, both ways.
//!
//! Requests of the agent have numbers as ids. What belongs to one that is on its way names it:
//! `model/piece` with `params.request`, `notifications/progress` with `params.progressToken`.
//!
//! # Invariants
//!
//! - A line has a limit, and what is no message is an error that ends the stream: the host is on
//!   the other side, and it makes no mistakes that can be mended here.
//! - Ending all that is on its way ([`Peer::cancel_all`]) is told to the host for each request.

use crate::limits::{MAX_LINE, MAX_SENT};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Messages that may wait for one request. A reader that is behind stops whoever writes.
const QUEUE: usize = 256;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum PeerError {
    /// The host is gone.
    #[error("the host is gone")]
    Gone,
    /// It did not answer in time.
    #[error("no answer within the time that was left")]
    Deadline,
    /// The person cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The stream failed.
    #[error("the stream to the host failed")]
    Io(#[from] io::Error),
    /// The host sent what is no message.
    #[error("the host sent what is no message")]
    Rubbish(#[source] serde_json::Error),
    /// The host sent too long a line.
    #[error("the host sent a line of more than {MAX_LINE} bytes")]
    TooLong,
    /// What is to be said is too long.
    #[error("the message has {0} bytes, {MAX_SENT} are the limit: clear the conversation")]
    Long(usize),
    /// A message can't be written as JSON.
    #[error("a message cannot be written")]
    Unwritable(#[source] serde_json::Error),
}

/// A JSON-RPC error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RpcError {
    /// Its number.
    pub code: i64,
    /// In words.
    pub message: String,
}

/// What was heard of a request that is on its way.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A piece of what a model says.
    Piece(String),
    /// How far a call is.
    Progress(String),
    /// The end.
    Answer(Result<Box<RawValue>, RpcError>),
    /// The person cancelled.
    Cancelled,
}

/// A message of the host that answers nothing.
#[derive(Debug)]
pub struct Incoming {
    /// There is one if it wants an answer.
    pub id: Option<Box<RawValue>>,
    /// What it wants.
    pub method: String,
    /// The details.
    pub params: Option<Box<RawValue>>,
}

/// The way to the host. Clones mean the same one.
#[derive(Clone)]
pub struct Peer(Arc<Shared>);

struct Shared {
    output: Mutex<Box<dyn Write + Send>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    waiting: HashMap<u64, SyncSender<Heard>>,
    over: bool,
    /// From a cancellation until the next prompt.
    cancelled: bool,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

/// A request on its way; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    peer: Peer,
    pub(crate) id: u64,
    heard: Receiver<Heard>,
}

impl Waiting {
    /// The next thing that is heard of it.
    pub(crate) fn next(&self, deadline: Instant) -> Result<Heard, PeerError> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.heard.recv_timeout(left) {
            Ok(heard) => Ok(heard),
            Err(RecvTimeoutError::Timeout) => {
                self.peer.cancel(self.id);
                Err(PeerError::Deadline)
            }
            Err(RecvTimeoutError::Disconnected) if self.peer.is_cancelled() => {
                Err(PeerError::Cancelled)
            }
            Err(RecvTimeoutError::Disconnected) => Err(PeerError::Gone),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.peer.lock().waiting.remove(&self.id);
    }
}

#[derive(Serialize)]
struct Outgoing<'a, P> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    method: &'a str,
    params: P,
}

impl Peer {
    /// Writes to `output`.
    pub fn new(output: impl Write + Send + 'static) -> Self {
        let output = Mutex::new(Box::new(output) as Box<dyn Write + Send>);
        Self(Arc::new(Shared { output, state: Mutex::default() }))
    }

    /// Sends a request whose parameters may name its id.
    pub(crate) fn ask<P: Serialize>(
        &self,
        method: &str,
        params: impl FnOnce(u64) -> P,
    ) -> Result<Waiting, PeerError> {
        let (sender, heard) = mpsc::sync_channel(QUEUE);
        let id = {
            let mut state = self.lock();
            if state.over {
                return Err(PeerError::Gone);
            }
            if state.cancelled {
                return Err(PeerError::Cancelled);
            }
            state.last += 1;
            let id = state.last;
            state.waiting.insert(id, sender);
            id
        };
        let waiting = Waiting { peer: self.clone(), id, heard };
        self.send(&Outgoing { jsonrpc: "2.0", id: Some(id), method, params: params(id) })?;
        Ok(waiting)
    }

    /// Tells the host something.
    pub fn tell(&self, method: &str, params: &impl Serialize) -> Result<(), PeerError> {
        self.send(&Outgoing { jsonrpc: "2.0", id: None, method, params })
    }

    /// Answers a request of the host.
    pub fn answer(
        &self,
        id: &RawValue,
        outcome: Result<&impl Serialize, &RpcError>,
    ) -> Result<(), PeerError> {
        #[derive(Serialize)]
        struct Answer<'a, R> {
            jsonrpc: &'static str,
            id: &'a RawValue,
            #[serde(skip_serializing_if = "Option::is_none")]
            result: Option<R>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a RpcError>,
        }
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        self.send(&Answer { jsonrpc: "2.0", id, result, error })
    }

    /// Ends everything that is on its way, and whatever is asked until [`Peer::begin`].
    pub fn cancel_all(&self) {
        let waiting = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.waiting)
        };
        for (id, heard) in waiting {
            self.cancel(id);
            // Whoever's queue is full finds out when its queue ends.
            let _told = heard.try_send(Heard::Cancelled);
        }
    }

    /// A prompt begins: earlier cancellations are not meant for it.
    pub fn begin(&self) {
        self.lock().cancelled = false;
    }

    /// Whether what is worked on was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    fn cancel(&self, id: u64) {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Cancelled {
            request_id: u64,
        }
        // A host that is gone needs no telling.
        let _told = self.tell("notifications/cancelled", &Cancelled { request_id: id });
    }

    fn send(&self, message: &impl Serialize) -> Result<(), PeerError> {
        let mut line = serde_json::to_vec(message).map_err(PeerError::Unwritable)?;
        // In JSON, line breaks can only stand between tokens.
        line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        // A longer one would end the stream, and the agent with it.
        if MAX_SENT < line.len() {
            return Err(PeerError::Long(line.len()));
        }
        line.push(b'\n');
        let mut output = self.0.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&line)?;
        Ok(output.flush()?)
    }

    fn hear(&self, id: u64, heard: Heard) {
        let sender = match heard {
            Heard::Answer(_) => self.lock().waiting.remove(&id),
            _ => self.lock().waiting.get(&id).cloned(),
        };
        // What nobody waits for any more is dropped.
        let _heard = sender.map(|sender| sender.send(heard));
    }

    /// The host is gone: nobody waits any longer.
    fn over(&self) {
        let mut state = self.lock();
        state.over = true;
        state.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what the host sends.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    peer: Peer,
    line: Vec<u8>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    id: Option<Box<RawValue>>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    params: Option<Box<RawValue>>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<RpcError>,
}

impl<R: BufRead> Lines<R> {
    /// Reads `input`, whose answers belong to the requests of `peer`.
    pub fn new(input: R, peer: Peer) -> Self {
        Self { input, peer, line: Vec::new() }
    }

    /// The next message that answers nothing; `None` when the host is gone.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when the stream is of no more use.
    pub fn hear(&mut self) -> Result<Option<Incoming>, PeerError> {
        let next = self.read();
        if !matches!(next, Ok(Some(_))) {
            self.peer.over();
        }
        next
    }

    fn read(&mut self) -> Result<Option<Incoming>, PeerError> {
        while self.read_line()? {
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            let wire: Wire = serde_json::from_slice(&self.line).map_err(PeerError::Rubbish)?;
            let Wire { id, method, params, result, error } = wire;
            let Some(method) = method else {
                let id = id.and_then(|id| id.get().parse().ok());
                let outcome = error.map_or_else(|| Ok(result.unwrap_or_default()), Err);
                id.into_iter().for_each(|id| self.peer.hear(id, Heard::Answer(outcome.clone())));
                continue;
            };
            match (method.as_str(), &params) {
                ("model/piece", Some(params)) => self.piece(params),
                ("notifications/progress", Some(params)) => self.progress(params),
                _ => return Ok(Some(Incoming { id, method, params })),
            }
        }
        Ok(None)
    }

    fn piece(&self, params: &RawValue) {
        #[derive(Deserialize)]
        struct Piece {
            request: u64,
            text: String,
        }
        if let Ok(Piece { request, text }) = serde_json::from_str(params.get()) {
            self.peer.hear(request, Heard::Piece(text));
        }
    }

    fn progress(&self, params: &RawValue) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Progress {
            progress_token: u64,
            #[serde(default)]
            message: Option<String>,
        }
        if let Ok(Progress { progress_token, message: Some(message) }) =
            serde_json::from_str(params.get())
        {
            self.peer.hear(progress_token, Heard::Progress(message));
        }
    }

    fn read_line(&mut self) -> Result<bool, PeerError> {
        self.line.clear();
        loop {
            let bytes = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                bytes => bytes?,
            };
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let piece = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
            if MAX_LINE < self.line.len().saturating_add(piece.len()) {
                return Err(PeerError::TooLong);
            }
            self.line.extend_from_slice(piece);
            let (read, at_end) = (piece.len() + usize::from(end.is_some()), bytes.is_empty());
            self.input.consume(read);
            if end.is_some() || at_end {
                return Ok(end.is_some() || !self.line.is_empty());
            }
        }
    }
}

/// How long until `deadline`, and no longer than `wish`.
pub(crate) fn within(wish: Duration, deadline: Instant) -> Duration {
    wish.min(deadline.saturating_duration_since(Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn pieces_progress_and_the_answer_reach_the_request_they_name() {
        let sink = Sink::default();
        let peer = Peer::new(sink.clone());
        let waiting = peer.ask("host/model", |id| id).unwrap();
        let input = "\n{\"method\":\"model/piece\",\"params\":{\"request\":1,\"text\":\"a\"}}\n\
            {\"method\":\"model/piece\",\"params\":{\"request\":2,\"text\":\"b\"}}\n\
            {\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"message\":\"c\"}}\n\
            {\"id\":1,\"result\":{\"status\":200}}\n{\"method\":\"agent/prompt\",\"id\":\"p\"}\n";
        let mut lines = Lines::new(Cursor::new(input), peer);
        assert_eq!(lines.hear().unwrap().unwrap().method, "agent/prompt");
        assert!(matches!(waiting.next(soon()), Ok(Heard::Piece(text)) if text == "a"));
        assert!(matches!(waiting.next(soon()), Ok(Heard::Progress(text)) if text == "c"));
        assert!(matches!(waiting.next(soon()), Ok(Heard::Answer(Ok(_)))));
        assert!(lines.hear().unwrap().is_none());
        let sent = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(sent, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"host/model\",\"params\":1}\n");
    }

    #[test]
    fn when_the_host_is_gone_nobody_waits() {
        let peer = Peer::new(Sink::default());
        let waiting = peer.ask("x", |_| ()).unwrap();
        assert!(Lines::new(Cursor::new(""), peer.clone()).hear().unwrap().is_none());
        assert!(matches!(waiting.next(soon()), Err(PeerError::Gone)));
        assert!(matches!(peer.ask("x", |_| ()), Err(PeerError::Gone)));
    }

    #[test]
    fn what_is_cancelled_is_told_to_the_host() {
        let sink = Sink::default();
        let peer = Peer::new(sink.clone());
        let waiting = peer.ask("x", |_| ()).unwrap();
        peer.cancel_all();
        assert!(matches!(waiting.next(soon()), Ok(Heard::Cancelled)));
        let sent = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(sent.contains(r#""method":"notifications/cancelled","params":{"requestId":1}"#));
    }

    #[test]
    fn what_is_too_long_is_not_sent_and_ends_nothing() {
        let sink = Sink::default();
        let peer = Peer::new(sink.clone());
        let long = peer.ask("x", |_| "y".repeat(MAX_SENT));
        assert!(matches!(long, Err(PeerError::Long(_))) && sink.0.lock().unwrap().is_empty());
        assert!(peer.ask("x", |_| "y").is_ok());
    }

    #[test]
    fn rubbish_and_endless_lines_end_the_stream() {
        let peer = Peer::new(Sink::default());
        let rubbish = Lines::new(Cursor::new("rubbish\n"), peer.clone()).hear();
        assert!(matches!(rubbish, Err(PeerError::Rubbish(_))));
        let endless = vec![b'x'; MAX_LINE + 1];
        let endless = Lines::new(Cursor::new(endless), peer).hear();
        assert!(matches!(endless, Err(PeerError::TooLong)));
    }
}
