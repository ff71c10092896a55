//! What a guest reaches of the world outside, and on whose behalf.
//!
//! ```text
//! PID 1 ── host/http, host/resolve ─▶ HostServices ─▶ answer
//!   │ └─── host/connect ────────────▶ HostServices ─▶ TcpStream ◀─▶ Stream ◀─▶ PID 1
//!   clone: the call it serves, its policy, its trace
//!   persistent: the server's policy; every call in flight has it in its trace
//! ```
//!
//! # Invariants
//!
//! - A guest that works for nobody, and is not persistent, gets nothing: so does a template.
//! - Bounded: requests that are served at once, streams, and bytes that wait.
//! - What a call's guest reached is in the call's trace before the call is over.

mod stream;

use crate::talk::Asked;
use osvm_policy::Resolved;
use osvm_protocol::code::{HOST_METHOD_DENIED, INVALID_PARAMS};
use osvm_protocol::linux::net::{self, MAX_STREAMS, Net, method};
use osvm_protocol::message::{self, Id, RpcError};
use osvm_runtime::{
    CallId, Cancel, HostRequest, HostServices, LongGuest, LongGuests, OnBehalf, Reach, Trace,
};
use osvm_vmm::GuestStream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stream::Stream;
pub use stream::exercise;

/// Requests of one guest that are served at once.
const MAX_BUSY: usize = 32;

/// Exchanges of a persistent guest that go on at once.
const MAX_EXCHANGES: usize = 32;

/// How long one thing may take that a persistent guest asks for.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a guest may leave its stream full.
const STUCK: Duration = Duration::from_secs(60);

/// Stack of a thread that serves a guest, in bytes.
const STACK: usize = 512 * 1024;

/// Who serves the guests of one server, and the list they are on.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Does what is allowed.
    pub services: Arc<dyn HostServices>,
    /// Knows which call a guest works for; the list of the runtime that calls the server.
    pub guests: LongGuests,
    /// What a persistent guest may do: the policy of the server, with an empty tool name.
    pub policy: Arc<Resolved>,
}

/// The way out of one guest.
pub(crate) struct Egress {
    outside: Outside,
    persistent: bool,
    writer: Arc<Mutex<GuestStream>>,
    state: Mutex<State>,
    /// Ends what is done for a persistent guest.
    cancel: Cancel,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    streams: HashMap<u32, Arc<Stream>>,
    exchanges: HashMap<u32, Arc<OnBehalf>>,
    busy: usize,
    ended: bool,
}

/// A call, and how far each stream was when it began.
struct Call {
    behalf: Arc<OnBehalf>,
    before: HashMap<u32, (u64, u64)>,
}

#[derive(Deserialize)]
struct Tag {
    exchange: u32,
}

/// Whether an answer goes on.
#[derive(Deserialize)]
struct Rest {
    more: Option<u64>,
    stream: Option<u64>,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").field("persistent", &self.persistent).finish_non_exhaustive()
    }
}

impl LongGuest for Egress {
    fn begins(&self, behalf: Arc<OnBehalf>) {
        let mut state = self.lock();
        let before = state.streams.iter().map(|(id, stream)| (*id, stream.moved())).collect();
        state.calls.push(Call { behalf, before });
    }

    fn ends(&self, call: CallId) {
        let mut state = self.lock();
        let Some(at) = state.calls.iter().position(|known| known.behalf.call == call) else {
            return;
        };
        let call = state.calls.swap_remove(at);
        for stream in state.streams.values() {
            call.note(stream);
        }
        if !self.persistent {
            drop(state);
            self.end();
            self.outside.services.ended(call.behalf.call, &call.behalf.trace);
        }
    }
}

impl Call {
    /// Notes what went over a stream during the call.
    fn note(&self, stream: &Stream) {
        let (sent, received) = stream.moved();
        let (sent_before, received_before) =
            self.before.get(&stream.id).copied().unwrap_or_default();
        self.behalf.trace.note(Reach::Http {
            method: "CONNECT".into(),
            host: stream.host.clone(),
            port: stream.port,
            path: String::new(),
            status: None,
            sent_bytes: sent.saturating_sub(sent_before),
            received_bytes: received.saturating_sub(received_before),
            refused: None,
        });
    }
}

impl Egress {
    pub(crate) fn new(
        outside: Outside,
        persistent: bool,
        writer: Arc<Mutex<GuestStream>>,
    ) -> Arc<Self> {
        let (state, cancel) = (Mutex::default(), Cancel::default());
        Arc::new(Self { outside, persistent, writer, state, cancel })
    }

    /// The list this guest is on.
    pub(crate) fn guests(&self) -> &LongGuests {
        &self.outside.guests
    }

    /// A request of PID 1: served on a thread of its own, so that the guest can go on talking.
    pub(crate) fn asked(self: &Arc<Self>, asked: Asked) {
        let id = asked.id;
        {
            let mut state = self.lock();
            if state.ended || MAX_BUSY <= state.busy {
                drop(state);
                return self.refuse(id, "too much is asked at once");
            }
            state.busy += 1;
        }
        let egress = Arc::clone(self);
        let serve = move || {
            let stream = egress.serve(&asked);
            // A connection that stands is bounded as a stream, and takes no request's place.
            egress.lock().busy -= 1;
            if let Some(stream) = stream {
                stream.run(&egress);
            }
        };
        let thread = std::thread::Builder::new().name("osvm-egress".into()).stack_size(STACK);
        if thread.spawn(serve).is_err() {
            self.lock().busy -= 1;
            self.refuse(id, "the host has no thread for it");
        }
    }

    /// Answers; gives the connection, if one was asked for and stands.
    fn serve(&self, asked: &Asked) -> Option<Arc<Stream>> {
        let outcome = match asked.method.as_str() {
            method::CONNECT => return self.connect(asked),
            method::RESOLVE => self.once(asked, |request| {
                let resolve: net::Resolve = params(request)?;
                let ports = self.outside.services.ports(request, &resolve.name)?;
                to_raw_value(&net::Resolved { ports })
                    .map_err(|error| RpcError::new(INVALID_PARAMS, error.to_string()))
            }),
            method if method.starts_with("host/http") => self.http(asked),
            _ => self.once(asked, |request| self.outside.services.serve(request)),
        };
        self.answer(asked.id, outcome);
        None
    }

    /// Something that is done when it is answered.
    fn once(
        &self,
        asked: &Asked,
        act: impl FnOnce(&HostRequest<'_>) -> Result<Box<RawValue>, RpcError>,
    ) -> Result<Box<RawValue>, RpcError> {
        let behalf = self.behalf()?;
        let outcome = act(&request(&behalf, asked));
        self.settle(&behalf);
        outcome
    }

    /// One step of an exchange; all steps are on behalf of the same.
    fn http(&self, asked: &Asked) -> Result<Box<RawValue>, RpcError> {
        let text = asked.params.as_deref().map_or("{}", RawValue::get);
        let tag: Tag = serde_json::from_str(text).map_err(|_| bad("`exchange` is missing"))?;
        let known = self.lock().exchanges.get(&tag.exchange).cloned();
        let behalf = match known {
            Some(behalf) => behalf,
            None if asked.method == "host/http" => self.behalf()?,
            None => return Err(bad("there is no such exchange")),
        };
        let outcome = self.outside.services.serve(&request(&behalf, asked));
        let goes_on = outcome.as_ref().is_ok_and(|answer| {
            let rest = serde_json::from_str::<Rest>(answer.get());
            rest.is_ok_and(|rest| rest.more.is_some() || rest.stream.is_some())
        });
        let mut state = self.lock();
        if goes_on && state.exchanges.len() < MAX_EXCHANGES && !state.ended {
            state.exchanges.insert(tag.exchange, behalf);
        } else {
            state.exchanges.remove(&tag.exchange);
            drop(state);
            self.settle(&behalf);
        }
        outcome
    }

    fn connect(&self, asked: &Asked) -> Option<Arc<Stream>> {
        let opened = self.behalf().and_then(|behalf| {
            let request = request(&behalf, asked);
            let connect: net::Connect = params(&request)?;
            if MAX_STREAMS <= self.lock().streams.len() {
                return Err(RpcError::new(HOST_METHOD_DENIED, "too many connections"));
            }
            let tcp = self.outside.services.connect(&request, &connect.host, connect.port);
            self.settle(&behalf);
            Ok((connect, tcp?))
        });
        let (connect, tcp) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.answer(asked.id, Err(error));
                return None;
            }
        };
        let stream = Arc::new(Stream::new(connect.stream, connect.host, connect.port, tcp));
        {
            let mut state = self.lock();
            let full = MAX_STREAMS <= state.streams.len();
            if state.ended || full || state.streams.contains_key(&stream.id) {
                drop(state);
                let why = if full { "too many connections" } else { "its number is in use" };
                self.refuse(asked.id, why);
                return None;
            }
            state.streams.insert(stream.id, Arc::clone(&stream));
        }
        self.answer(asked.id, Ok(RawValue::NULL.to_owned()));
        Some(stream)
    }

    /// What PID 1 says of a stream.
    pub(crate) fn said(&self, id: u32, said: Net<'_>) {
        let stream = self.lock().streams.get(&id).cloned();
        if let Some(stream) = stream {
            stream.said(said);
        }
    }

    /// A stream is over, for both sides.
    fn closed(&self, stream: &Stream) {
        let mut state = self.lock();
        if state.streams.remove(&stream.id).is_some() {
            for call in &state.calls {
                call.note(stream);
            }
        }
    }

    /// On whose behalf something is asked now.
    fn behalf(&self) -> Result<Arc<OnBehalf>, RpcError> {
        let state = self.lock();
        if self.persistent && !state.ended {
            return Ok(Arc::new(OnBehalf {
                call: CallId::now(),
                policy: (*self.outside.policy).clone(),
                deadline: Instant::now() + PATIENCE,
                cancel: self.cancel.clone(),
                trace: Arc::default(),
            }));
        }
        let call = state.calls.first().map(|call| Arc::clone(&call.behalf));
        call.ok_or_else(|| RpcError::new(HOST_METHOD_DENIED, "the guest works for no call"))
    }

    /// Something that a guest asked for is done. If the guest is persistent, the calls in flight
    /// have it in their traces.
    fn settle(&self, behalf: &OnBehalf) {
        if !self.persistent {
            // Its call may be over by now: what was begun since then, nobody else would end.
            if self.lock().ended {
                self.outside.services.ended(behalf.call, &behalf.trace);
            }
            return;
        }
        self.outside.services.ended(behalf.call, &behalf.trace);
        let (reaches, _) = behalf.trace.take();
        let state = self.lock();
        for reach in reaches {
            if state.calls.is_empty() {
                let server = &behalf.policy.server;
                tracing::info!(server, "reached while no call was in flight: {reach:?}");
            }
            for call in &state.calls {
                call.behalf.trace.note(reach.clone());
            }
        }
    }

    fn refuse(&self, id: u64, why: &str) {
        self.answer(id, Err(RpcError::new(HOST_METHOD_DENIED, why)));
    }

    fn answer(&self, id: u64, outcome: Result<Box<RawValue>, RpcError>) {
        let id = Id::from(id);
        let frame = match &outcome {
            Ok(result) => message::result(&id, result.get()),
            Err(error) => message::error(Some(&id), error),
        };
        let frame = frame.or_else(|_| {
            message::error(Some(&id), &RpcError::new(1003, "the answer is longer than a frame"))
        });
        if let Ok(frame) = frame {
            self.write(&frame);
        }
    }

    fn say(&self, stream: u32, said: Net<'_>) -> bool {
        net::frame(stream, said).is_ok_and(|frame| self.write(&frame))
    }

    /// False when the guest is gone, or does not read.
    fn write(&self, frame: &[u8]) -> bool {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(frame, Instant::now() + STUCK).is_ok()
    }

    /// Nothing is done for the guest any more.
    pub(crate) fn end(&self) {
        let (streams, exchanges) = {
            let mut state = self.lock();
            state.ended = true;
            let streams: Vec<_> = state.streams.values().cloned().collect();
            (streams, std::mem::take(&mut state.exchanges))
        };
        self.cancel.cancel();
        for stream in streams {
            stream.said(Net::Gone);
        }
        for behalf in exchanges.values() {
            self.settle(behalf);
        }
    }

    // Lists that no panic leaves half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request<'a>(behalf: &'a OnBehalf, asked: &'a Asked) -> HostRequest<'a> {
    let trace: &Trace = &behalf.trace;
    HostRequest {
        call: behalf.call,
        policy: &behalf.policy,
        method: &asked.method,
        params: asked.params.as_deref(),
        deadline: behalf.deadline,
        cancel: &behalf.cancel,
        trace,
    }
}

fn params<T: DeserializeOwned>(request: &HostRequest<'_>) -> Result<T, RpcError> {
    let text = request.params.map_or("{}", RawValue::get);
    serde_json::from_str(text).map_err(|error| bad(&error.to_string()))
}

fn bad(why: &str) -> RpcError {
    RpcError::new(INVALID_PARAMS, why)
}
