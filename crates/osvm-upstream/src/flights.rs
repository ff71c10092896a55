//! Requests on their way over one link, and what the server says about them.
//!
//! ```text
//! take_off ─▶ id, Mailbox ─▶ … heard … ─▶ answer │ lost │ cancelled ─▶ dropped, id never again
//! ```
//!
//! # Invariants
//!
//! - An id is given once. An answer to one that is not on its way is dropped, with a log line.
//! - What names a request (progress token, id, its own stream) reaches it. What names none reaches
//!   one only where that can be told: a single request on its way, or, for notifications, a single
//!   client.
//! - A question of a kind that the client did not declare is refused without asking anybody.

use crate::edit;
use crate::mailbox::{Ask, Ending, Lost, Mailbox, Said, unanswerable};
use crate::message::Incoming;
use crate::notice::Notice;
use crate::outgoing::refusal;
use crate::server::Event;
use crate::stop::Stop;
use crate::words::{Asks, Level, META_SUBSCRIPTION};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Requests at once on one link.
pub(crate) const MAX_FLIGHTS: usize = 256;

/// Questions that came before the request they belong to.
const MAX_PARKED: usize = 16;

/// One request, as far as the way back is concerned.
#[derive(Debug)]
pub(crate) struct Passenger {
    pub(crate) owner: u64,
    /// Under which the client in front wants to hear of progress; ours where it has none.
    pub(crate) token: Option<Box<RawValue>>,
    /// Log messages below it are not passed on.
    pub(crate) level: Option<Level>,
    /// What may be asked meanwhile.
    pub(crate) asks: Asks,
    /// Of osvm's own: a handshake, a subscription. Nothing unnamed is meant for it.
    pub(crate) own: bool,
}

/// What is on its way over one link.
#[derive(Debug)]
pub(crate) struct Flights {
    server: String,
    notice: Arc<Notice>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    flying: HashMap<u64, Arc<Flying>>,
    next: u64,
    parked: VecDeque<Ask>,
    /// Answers, also to what nobody waits for any more.
    heard: u64,
    ended: Option<String>,
}

#[derive(Debug)]
struct Flying {
    passenger: Passenger,
    mailbox: Arc<Mailbox>,
}

/// A request on its way; it lands when this is dropped.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    flights: &'a Flights,
    pub(crate) id: u64,
    pub(crate) mailbox: Arc<Mailbox>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.flights.lock().flying.remove(&self.id);
    }
}

impl Flights {
    pub(crate) fn new(server: &str, notice: Arc<Notice>) -> Self {
        let state = State { next: 1, ..State::default() };
        Self { server: server.to_owned(), notice, state: Mutex::new(state) }
    }

    /// The next request's id.
    pub(crate) fn next_id(&self) -> u64 {
        let mut state = self.lock();
        let id = state.next;
        state.next = id.wrapping_add(1);
        id
    }

    /// Registers the request that got `id`.
    pub(crate) fn take_off(&self, id: u64, passenger: Passenger) -> Result<Flight<'_>, Lost> {
        let mailbox = Arc::new(Mailbox::default());
        let mut state = self.lock();
        if let Some(why) = &state.ended {
            return Err(Lost::Gone(why.clone()));
        }
        if MAX_FLIGHTS <= state.flying.len() {
            return Err(Lost::Busy);
        }
        if !passenger.own {
            for ask in std::mem::take(&mut state.parked) {
                // A new mailbox has place for all that is parked.
                let _refused = mailbox.post(Said::Ask(ask));
            }
        }
        let flying = Flying { passenger, mailbox: Arc::clone(&mailbox) };
        state.flying.insert(id, Arc::new(flying));
        Ok(Flight { flights: self, id, mailbox })
    }

    /// Requests of clients that wait.
    pub(crate) fn in_flight(&self) -> usize {
        self.lock().flying.values().filter(|flying| !flying.passenger.own).count()
    }

    /// The same by id.
    pub(crate) fn clients(&self) -> HashSet<u64> {
        let state = self.lock();
        let clients = state.flying.iter().filter(|(_, flying)| !flying.passenger.own);
        clients.map(|(id, _)| *id).collect()
    }

    /// Answers that came so far.
    pub(crate) fn heard(&self) -> u64 {
        self.lock().heard
    }

    /// Whether the link has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.lock().ended.is_none()
    }

    /// Loses everything. The first reason counts; whether this was it.
    pub(crate) fn end(&self, why: &str) -> bool {
        let mut state = self.lock();
        if state.ended.is_some() {
            return false;
        }
        state.ended = Some(why.to_owned());
        state.parked.clear();
        let flying: Vec<_> = state.flying.drain().map(|(_, flying)| flying).collect();
        drop(state);
        for flying in flying {
            flying.mailbox.end(Ending::Lost(Lost::Gone(why.to_owned())));
        }
        true
    }

    /// Ends one request, where the transport knows that nothing more will come.
    pub(crate) fn lose(&self, id: u64, lost: Lost) {
        if let Some(flying) = self.get(id) {
            flying.mailbox.end(Ending::Lost(lost));
        }
    }

    /// Whether a request still waits for its answer.
    pub(crate) fn flies(&self, id: u64) -> bool {
        self.lock().flying.contains_key(&id)
    }

    /// Takes what the server sent. `on` is the request on whose stream it came, if streams are
    /// told apart. Gives back a message for the server, if it is to be answered right away.
    pub(crate) fn hear(&self, incoming: Incoming, on: Option<u64>) -> Option<String> {
        match incoming {
            Incoming::Answer { id, reply } => {
                let mut state = self.lock();
                state.heard = state.heard.wrapping_add(1);
                let flying = id.and_then(|id| state.flying.remove(&id));
                drop(state);
                match flying {
                    Some(flying) => flying.mailbox.end(Ending::Reply(reply)),
                    None => tracing::debug!(server = self.server, ?id, "answer to no request"),
                }
                None
            }
            Incoming::Request { id, method, params } => self.asked(id, method, params, on),
            Incoming::Notification { method, params } => {
                self.told(method, params, on);
                None
            }
        }
    }

    fn asked(
        &self,
        id: Box<RawValue>,
        method: String,
        params: Option<Box<RawValue>>,
        on: Option<u64>,
    ) -> Option<String> {
        if method == "ping" {
            let empty = RawValue::from_string("{}".to_owned()).ok()?;
            return Some(edit::answer(&id, Ok(&empty)));
        }
        let refuse = |error: Box<RawValue>| Some(edit::answer(&id, Err(&error)));
        let ask = || Ask {
            id: id.clone(),
            method: method.clone(),
            params: params.clone(),
            withdrawn: Stop::default(),
        };
        // A progress token in it is the server's own, and names nothing of ours.
        let flying = match on {
            // One that was cancelled meanwhile is asked nothing, and nobody in its place.
            Some(id) => self.get(id).filter(|flying| !flying.passenger.own),
            None => match self.only_one(ask) {
                Found::One(flying) => Some(flying),
                Found::Parked => return None,
                Found::Nobody => None,
            },
        };
        let Some(flying) = flying else {
            return refuse(unanswerable(&method, "it belongs to none of the requests in flight"));
        };
        if !flying.passenger.asks.allow(&method) {
            return refuse(refusal(-32_601, &format!("the client did not declare `{method}`")));
        }
        match flying.mailbox.post(Said::Ask(ask())) {
            Ok(()) => None,
            Err(_) => refuse(unanswerable(&method, "too much waits for the client")),
        }
    }

    fn told(&self, method: String, params: Option<Box<RawValue>>, on: Option<u64>) {
        let named = Named::read(params.as_deref());
        match (method.as_str(), params) {
            ("notifications/cancelled", Some(_)) => {
                let Some(id) = named.request else { return };
                self.lock().parked.retain(|ask| ask.id.get() != id);
                let flying: Vec<_> = self.lock().flying.values().cloned().collect();
                let _found = flying.iter().any(|flying| flying.mailbox.withdraw(&id));
            }
            ("notifications/progress", Some(params)) => {
                let Some(flying) = named.token.and_then(|id| self.get(id)) else { return };
                let token = flying.passenger.token.as_deref();
                let params = edit::with_token(&params, token).unwrap_or(params);
                self.post(&flying, Said::Progress(params));
            }
            ("notifications/message", Some(params)) => {
                let flying = on.map_or_else(|| self.one_client(), |id| self.get(id));
                let Some(flying) = flying else { return };
                if flying.passenger.level.is_none_or(|level| level.admits(&params)) {
                    self.post(&flying, Said::Log(params));
                }
            }
            (_, params) => self.told_more(method, params, named.subscription.or(on)),
        }
    }

    /// A notification that is about no request in particular, or about a subscription.
    fn told_more(&self, method: String, params: Option<Box<RawValue>>, id: Option<u64>) {
        if let Some(flying) = id.and_then(|id| self.get(id))
            && !flying.passenger.own
        {
            self.post(&flying, Said::Other(method, params));
            return;
        }
        match (method.as_str(), params) {
            ("notifications/tools/list_changed", _) => self.notice.tell(Event::ToolsChanged),
            ("notifications/prompts/list_changed", _) => self.notice.tell(Event::PromptsChanged),
            ("notifications/resources/list_changed", _) => {
                self.notice.tell(Event::ResourcesChanged);
            }
            ("notifications/resources/updated", Some(params)) => {
                self.notice.tell(Event::ResourceUpdated(&params));
            }
            ("notifications/subscriptions/acknowledged", _) => {}
            (_, params) => match self.one_client() {
                Some(flying) => self.post(&flying, Said::Other(method, params)),
                None => tracing::debug!(server = self.server, method, "told to nobody"),
            },
        }
    }

    fn post(&self, flying: &Flying, said: Said) {
        if flying.mailbox.post(said).is_err() {
            tracing::debug!(server = self.server, "a notification was dropped");
        }
    }

    fn get(&self, id: u64) -> Option<Arc<Flying>> {
        self.lock().flying.get(&id).cloned()
    }

    /// The request that is the only one of a client; before the first one the question waits for it.
    /// Both in one lock: that request may be registered at this moment.
    fn only_one(&self, ask: impl FnOnce() -> Ask) -> Found {
        let mut state = self.lock();
        let mut clients = state.flying.values().filter(|flying| !flying.passenger.own);
        match (clients.next(), clients.next()) {
            (Some(flying), None) => Found::One(Arc::clone(flying)),
            (None, _) if state.parked.len() < MAX_PARKED => {
                state.parked.push_back(ask());
                Found::Parked
            }
            _ => Found::Nobody,
        }
    }

    /// The newest request, when all are of one client.
    fn one_client(&self) -> Option<Arc<Flying>> {
        let state = self.lock();
        let clients = || state.flying.iter().filter(|(_, flying)| !flying.passenger.own);
        let (_, newest) = clients().max_by_key(|(id, _)| **id)?;
        let owner = newest.passenger.owner;
        clients().all(|(_, flying)| flying.passenger.owner == owner).then(|| Arc::clone(newest))
    }

    // The state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who answers a question that names no request.
enum Found {
    One(Arc<Flying>),
    /// The next request's client.
    Parked,
    Nobody,
}

/// What parameters say about the request that they belong to.
#[derive(Default)]
struct Named {
    token: Option<u64>,
    subscription: Option<u64>,
    /// The id of a request of the server, as text.
    request: Option<String>,
}

impl Named {
    fn read(params: Option<&RawValue>) -> Self {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, default, rename = "progressToken")]
            token: Option<&'a RawValue>,
            #[serde(borrow, default, rename = "requestId")]
            request: Option<&'a RawValue>,
            #[serde(borrow, default, rename = "_meta")]
            meta: Option<&'a RawValue>,
        }
        let Some(params) = params else { return Self::default() };
        let Ok(found) = serde_json::from_str::<Params<'_>>(params.get()) else {
            return Self::default();
        };
        let number = |raw: &RawValue| raw.get().trim_matches('"').parse().ok();
        let members = found.meta.and_then(edit::Members::read);
        let subscription = members.and_then(|members| members.get(META_SUBSCRIPTION));
        Self {
            token: found.token.and_then(number),
            subscription: subscription.and_then(number),
            request: found.request.map(|id| id.get().to_owned()),
        }
    }
}

/// The level of a log message.
pub(crate) fn level_of(params: &RawValue) -> Option<Level> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        level: Cow<'a, str>,
    }
    let params: Params<'_> = serde_json::from_str(params.get()).ok()?;
    Level::named(&params.level)
}
