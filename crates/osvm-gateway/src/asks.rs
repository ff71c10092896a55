//! Requests of servers that only the client can answer, as requests of ours to it.
//!
//! # Invariants
//!
//! - An answer reaches who asked, and only once. One that nobody waits for changes nothing.
//! - Who waits is woken when the request is withdrawn, and the client is told.

use crate::outlet::Outlet;
use crate::raw;
use osvm_protocol::message::Id;
use osvm_upstream::Stop;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::debug;

/// Requests that one client may have to answer at once.
const MAX_OPEN: usize = 64;

/// Longest a client, or the person in front of it, may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// JSON-RPC's code for a method that nobody serves.
pub(crate) const NOT_FOUND: i64 = -32_601;

/// JSON-RPC's code for a failure that is not the asker's.
const FAILED: i64 = -32_603;

/// A result, or an error object.
pub(crate) type Outcome = Result<Box<RawValue>, Box<RawValue>>;

/// The requests that one client has not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Asks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: i128,
    closed: bool,
    open: HashMap<i128, SyncSender<Note>>,
}

#[derive(Debug)]
enum Note {
    Answered(Outcome),
    Withdrawn,
}

/// A request of ours.
#[derive(Debug, Serialize)]
struct Request<'a> {
    jsonrpc: &'static str,
    id: i128,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
struct Cancelled {
    jsonrpc: &'static str,
    method: &'static str,
    params: CancelledParams,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelledParams {
    request_id: i128,
    reason: &'static str,
}

/// A JSON-RPC error object of osvm's own.
pub(crate) fn refusal(code: i64, message: &str) -> Box<RawValue> {
    #[derive(Serialize)]
    struct Error<'a> {
        code: i64,
        message: &'a str,
    }
    raw::to_raw(&Error { code, message })
}

impl Asks {
    /// Asks the client, if `wanted` says that it still hears, and waits for its answer.
    pub(crate) fn ask(
        &self,
        outlet: &Outlet,
        wanted: impl FnOnce() -> bool,
        method: &str,
        params: Option<&RawValue>,
        withdrawn: &Stop,
    ) -> Outcome {
        let (send, notes) = mpsc::sync_channel(2);
        let id = {
            let mut state = self.lock();
            if MAX_OPEN <= state.open.len() {
                return Err(refusal(FAILED, "the client has too many requests to answer"));
            }
            if state.closed {
                return Err(refusal(FAILED, "the client can't be asked: it has hung up"));
            }
            state.last += 1;
            let id = state.last;
            state.open.insert(id, send.clone());
            id
        };
        let _hook = withdrawn.hook(move || _ = send.try_send(Note::Withdrawn));
        let request = Request { jsonrpc: "2.0", id, method, params };
        let outcome = if outlet.send(wanted, &request) {
            match notes.recv_timeout(PATIENCE) {
                Ok(Note::Answered(outcome)) => Ok(outcome),
                Ok(Note::Withdrawn) => Err("withdrawn"),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    Err("not answered in time")
                }
            }
        } else {
            self.lock().open.remove(&id);
            return Err(refusal(FAILED, "the client can't be asked: it does not hear"));
        };
        self.lock().open.remove(&id);
        outcome.unwrap_or_else(|reason| {
            let params = CancelledParams { request_id: id, reason };
            let method = "notifications/cancelled";
            outlet.send(|| true, &Cancelled { jsonrpc: "2.0", method, params });
            Err(refusal(FAILED, &format!("the request to the client was {reason}")))
        })
    }

    /// Takes an answer of the client.
    pub(crate) fn answer(&self, id: Option<&Id<'_>>, outcome: Result<&RawValue, &RawValue>) {
        let number = match id {
            Some(Id::Number(number)) => Some(*number),
            // Some clients write every id as a string.
            Some(Id::Text(text)) => text.parse().ok(),
            None => None,
        };
        let waiting = number.and_then(|number| self.lock().open.remove(&number));
        match waiting {
            Some(waiting) => {
                let outcome = outcome.map(ToOwned::to_owned).map_err(ToOwned::to_owned);
                // There is room for it, or who asked waits no more.
                let _full = waiting.try_send(Note::Answered(outcome));
            }
            None => debug!(?number, "an answer that nobody waits for"),
        }
    }

    /// The client answers nothing any more: those who wait are told.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for waiting in state.open.values() {
            let _awake_already = waiting.try_send(Note::Withdrawn);
        }
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::Arc;

    /// A client that hands on what it reads.
    struct Reader(mpsc::Sender<serde_json::Value>, Vec<u8>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.extend_from_slice(bytes);
            while let Some(end) = self.1.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.1.drain(..=end).collect();
                self.0.send(serde_json::from_slice(&line).unwrap()).unwrap();
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }

    #[test]
    fn an_answer_reaches_who_asked_and_others_change_nothing() {
        let (send, lines) = mpsc::channel();
        let outlet = Outlet::new(Reader(send, Vec::new()), || ());
        let asks = Arc::new(Asks::default());
        let asker = {
            let asks = Arc::clone(&asks);
            std::thread::spawn(move || {
                let params = raw(r#"{"message":"?"}"#);
                let stop = Stop::default();
                asks.ask(&outlet, || true, "elicitation/create", Some(&params), &stop)
            })
        };
        let request = lines.recv().unwrap();
        assert_eq!(request["method"], "elicitation/create");
        assert_eq!(request["params"]["message"], "?");
        let id = Id::Number(request["id"].as_i64().unwrap().into());
        asks.answer(None, Ok(&raw("0")));
        asks.answer(Some(&Id::Number(99)), Ok(&raw("1")));
        asks.answer(Some(&id), Ok(&raw("2.0")));
        asks.answer(Some(&id), Ok(&raw("3")));
        assert_eq!(asker.join().unwrap().unwrap().get(), "2.0");
    }

    #[test]
    fn a_client_is_told_what_it_need_not_answer_any_more() {
        let (send, lines) = mpsc::channel();
        let outlet = Outlet::new(Reader(send, Vec::new()), || ());
        let stop = Stop::default();
        stop.stop();
        let refused = Asks::default().ask(&outlet, || true, "roots/list", None, &stop);
        assert!(refused.unwrap_err().get().contains("withdrawn"));
        let request = lines.recv().unwrap();
        let cancelled = lines.recv().unwrap();
        assert_eq!(cancelled["method"], "notifications/cancelled");
        assert_eq!(cancelled["params"]["requestId"], request["id"]);
    }

    #[test]
    fn who_does_not_hear_is_not_waited_for() {
        let outlet = Outlet::new(io::sink(), || ());
        let stop = Stop::default();
        let asks = Asks::default();
        assert!(asks.ask(&outlet, || false, "roots/list", None, &stop).is_err());
        assert!(asks.lock().open.is_empty());
    }
}
