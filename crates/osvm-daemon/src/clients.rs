//! The clients of a daemon: who is connected, whose call runs, and what one of them is told.
//!
//! ```text
//! connected ── head, arguments ──▶ running ── answer ──▶ connected ── hang-up ──▶ gone
//!                                     └── hang-up: cancelled ──────────────────────▲
//! ```
//!
//! # Invariants
//!
//! - One call at a time on a connection; who wants more opens more.
//! - While a call runs, its connection is watched: a hang-up cancels it.
//! - A guest that a batch shares lives no longer than its connection, and is given up when the
//!   next call does not come soon.

use crate::client::CallReply;
use crate::message::{Ask, CallHead, Failure, Head, MAX_HEAD, Reply, VERSION, tell};
use crate::server::Shared;
use crate::status::{Counters, status};
use crate::wire::{PATIENCE, Wait, Wire, WireError};
use osvm_protocol::frame::{self, MAX_PAYLOAD};
use osvm_runtime::watch::{Sign, Watch};
use osvm_runtime::{Cancel, Report, Session, ToolCall};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::debug;

/// Connections at once. Each is a thread.
const MAX_CLIENTS: usize = 4096;

/// How long a guest waits for the next call of its batch.
const BATCH_PAUSE: Duration = Duration::from_secs(5);

/// Everybody who is connected.
#[derive(Debug)]
pub(crate) struct Clients {
    list: Mutex<List>,
    /// Told whenever a client is gone.
    gone: Condvar,
    hang_ups: Watch,
    counters: Counters,
}

#[derive(Debug, Default)]
struct List {
    clients: HashMap<u64, Client>,
    last: u64,
    /// No further calls.
    closed: bool,
    /// When the last client left.
    quiet_since: Option<Instant>,
}

#[derive(Debug)]
struct Client {
    stream: Arc<UnixStream>,
    /// The call that runs.
    call: Option<Cancel>,
}

impl Clients {
    pub(crate) fn new() -> io::Result<Self> {
        let list = List { quiet_since: Some(Instant::now()), ..List::default() };
        Ok(Self {
            list: Mutex::new(list),
            gone: Condvar::new(),
            hang_ups: Watch::new()?,
            counters: Counters::default(),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().clients.len()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// For how long nobody has been connected.
    pub(crate) fn quiet(&self) -> Duration {
        self.lock().quiet_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Takes in a connection; `None` when there are too many, or the daemon is ending.
    pub(crate) fn enter(&self, stream: &Arc<UnixStream>) -> Option<u64> {
        let mut list = self.lock();
        if list.closed || MAX_CLIENTS <= list.clients.len() {
            return None;
        }
        list.last += 1;
        list.quiet_since = None;
        let id = list.last;
        list.clients.insert(id, Client { stream: Arc::clone(stream), call: None });
        Some(id)
    }

    /// Cancels the calls of clients that hang up, until the daemon ends.
    pub(crate) fn watch_hang_ups(&self) {
        while let Some(ids) = self.hang_ups.wait() {
            for id in ids {
                let call = self.lock().clients.get(&id).and_then(|client| client.call.clone());
                if let Some(call) = call {
                    debug!(client = id, "the client hung up: its call is cancelled");
                    call.cancel();
                }
            }
        }
    }

    /// No further calls: connections without a call that runs are closed.
    pub(crate) fn close(&self) {
        let mut list = self.lock();
        list.closed = true;
        for client in list.clients.values().filter(|client| client.call.is_none()) {
            // It fails when the client is gone already.
            let _gone = client.stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until nobody is connected; false if somebody still is at `deadline`.
    pub(crate) fn wait_for_end(&self, deadline: Instant) -> bool {
        let mut list = self.lock();
        while !list.clients.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            list = self.gone.wait_timeout(list, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Cancels every call that runs.
    pub(crate) fn cancel_all(&self) {
        let calls: Vec<Cancel> =
            self.lock().clients.values().filter_map(|client| client.call.clone()).collect();
        calls.iter().for_each(Cancel::cancel);
    }

    /// Ends [`Clients::watch_hang_ups`].
    pub(crate) fn stop_watching(&self) {
        self.hang_ups.stop();
    }

    /// A client is gone.
    pub(crate) fn leave(&self, id: u64) {
        let mut list = self.lock();
        list.clients.remove(&id);
        if list.clients.is_empty() {
            list.quiet_since = Some(Instant::now());
        }
        drop(list);
        self.gone.notify_all();
    }

    /// Notes the call that `id` runs; false when none may begin any more.
    fn begin(&self, id: u64, cancel: &Cancel) -> bool {
        let mut list = self.lock();
        let closed = list.closed;
        match list.clients.get_mut(&id) {
            Some(client) if !closed => client.call = Some(cancel.clone()),
            _ => return false,
        }
        true
    }

    /// Notes that the call is over; false when no other one may follow.
    fn end(&self, id: u64) -> bool {
        let mut list = self.lock();
        let closed = list.closed;
        if let Some(client) = list.clients.get_mut(&id) {
            client.call = None;
        }
        !closed
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one client until it hangs up, or breaks the protocol, or the daemon ends.
pub(crate) fn serve(shared: &Shared, id: u64, stream: Arc<UnixStream>) {
    let mut client = Conversation { shared, id, wire: Wire::new(stream), session: None };
    match client.talk() {
        Ok(()) | Err(WireError::HungUp) => {}
        Err(error) => debug!(client = id, %error, "the connection to a client is over"),
    }
    // The guest of a batch first, so that a client that is gone has nothing left.
    drop(client);
    shared.clients.leave(id);
}

/// Refuses a client that can't be served.
pub(crate) fn turn_away(stream: &Arc<UnixStream>) {
    let refusal =
        refused("daemon_full", "the daemon serves as many clients as it can, or is ending");
    if let Ok(bytes) = encode(&refusal, None) {
        // Its socket is empty, so this fits, or the client is gone.
        let _gone = Wire::new(Arc::clone(stream)).write(&bytes, || {});
    }
}

/// One client and what was said so far.
struct Conversation<'a> {
    shared: &'a Shared,
    id: u64,
    wire: Wire,
    /// What calls of a batch share.
    session: Option<Session>,
}

impl Conversation<'_> {
    fn talk(&mut self) -> Result<(), WireError> {
        loop {
            let wait = match self.session {
                Some(_) => Wait::Until(Instant::now() + BATCH_PAUSE),
                None => Wait::Idle,
            };
            let Some(head) = self.wire.read(MAX_HEAD, wait)? else {
                self.session = None;
                continue;
            };
            let go_on = match serde_json::from_slice::<Head>(&head) {
                Err(error) => {
                    let message = format!("the daemon cannot read the request: {error}");
                    self.reply(&refused("daemon_protocol", &message))?;
                    false
                }
                Ok(Head { version, .. }) if version != VERSION => {
                    let message = format!(
                        "the daemon speaks version {VERSION} of its protocol, the client {version}"
                    );
                    self.reply(&refused("daemon_protocol", &message))?;
                    false
                }
                Ok(Head { ask: Ask::Call(call), .. }) => self.call(call)?,
                Ok(Head { ask: Ask::Status, .. }) => {
                    let status =
                        status(&self.shared.service, &self.shared.clients, self.shared.since)
                            .and_then(|status| {
                                let status = serde_json::value::to_raw_value(&status);
                                status.map_err(|error| Failure::new("daemon", &error, None))
                            });
                    self.reply(&status.map_or_else(Reply::Refused, Reply::Status))?;
                    true
                }
                Ok(Head { ask: Ask::Stop, .. }) => {
                    let told = self.reply(&Reply::Stopping);
                    self.shared.stopper.stop();
                    told?;
                    true
                }
            };
            if !go_on {
                return Ok(());
            }
        }
    }

    /// Runs one call; false when no other one may follow.
    fn call(&mut self, head: CallHead) -> Result<bool, WireError> {
        let wait = Wait::Until(Instant::now() + PATIENCE);
        let arguments = self.wire.read(MAX_PAYLOAD as usize, wait)?;
        let arguments = arguments.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
        let arguments: Box<RawValue> = match serde_json::from_slice(&arguments) {
            Ok(arguments) => arguments,
            Err(error) => {
                let message = format!("the arguments are not JSON: {error}");
                return self.reply(&refused("arguments", &message)).map(|()| true);
            }
        };
        if head.terms != *self.shared.service.host().terms() {
            let message = "the daemon was started for another config or backend";
            return self.reply(&refused("other_daemon", message)).map(|()| true);
        }
        let runtime = match self.shared.service.runtime() {
            Ok(runtime) => runtime,
            Err(failure) => return self.reply(&Reply::Refused(failure)).map(|()| true),
        };
        let call =
            ToolCall { client: head.client, ..ToolCall::new(head.server, head.tool, arguments) };
        let elsewhere = match self.shared.service.host().elsewhere(&runtime, &call) {
            Ok(elsewhere) => elsewhere,
            Err(failure) => return self.reply(&Reply::Refused(failure)).map(|()| true),
        };
        let cancel = Cancel::default();
        let clients = &self.shared.clients;
        if !clients.begin(self.id, &cancel) {
            return self.reply(&refused("daemon_stopping", "the daemon is ending")).map(|()| false);
        }
        clients.hang_ups.add(self.id, &*self.wire.stream(), Sign::HangUp)?;
        clients.counters.begin();
        let session = if head.share { Some(self.session.get_or_insert_default()) } else { None };
        let (report, mut remains) = match elsewhere {
            Some(elsewhere) => (elsewhere.run(&runtime, &call, &cancel), None),
            None => {
                let (report, remains) = runtime.answer(&call, session, &cancel);
                (report, Some(remains))
            }
        };
        clients.hang_ups.remove(&*self.wire.stream());
        clients.counters.end(&report);
        let go_on = clients.end(self.id);
        let mut bury = || remains.take().into_iter().for_each(|r| self.shared.undertaker.bury(r));
        let told = answer(report);
        // A client that does not read keeps no VM.
        let written = told.and_then(|bytes| Ok(self.wire.write(&bytes, &mut bury)?));
        bury();
        written.map(|()| go_on)
    }

    fn reply(&self, reply: &Reply) -> Result<(), WireError> {
        Ok(self.wire.write(&encode(reply, None)?, || {})?)
    }
}

/// The frames that tell how a call went.
fn answer(report: Report) -> Result<Vec<u8>, WireError> {
    let (reply, result) = tell(CallReply::from(report));
    encode(&reply, result.as_deref()).or_else(|_| {
        // The error of a tool may fill a frame by itself.
        encode(&refused("guest", "the answer is too long to be passed on"), None)
    })
}

fn encode(reply: &Reply, result: Option<&RawValue>) -> Result<Vec<u8>, WireError> {
    let head = serde_json::to_vec(reply).map_err(io::Error::other)?;
    let mut bytes = frame::encode(&head)?;
    if let Some(result) = result {
        bytes.extend_from_slice(&frame::encode(result.get().as_bytes())?);
    }
    Ok(bytes)
}

fn refused(code: &str, message: &str) -> Reply {
    Reply::Refused(Failure {
        code: code.into(),
        message: message.into(),
        causes: Vec::new(),
        hint: None,
    })
}
