//! One client: what it asks, and who answers.
//!
//! # Invariants
//!
//! - Every request gets one answer, unless it is cancelled; notifications get none.
//! - What runs a tool or asks a server takes time, and has a thread for it. All else is answered
//!   at once, in the order in which it was asked. Only right after the start of osvm a client
//!   waits for servers that were never asked before.

use crate::call;
use crate::catalog::{List, Page};
use crate::client::Client;
use crate::flight::{Flight, Refused};
use crate::gateway::Gateway;
use crate::lines::{Line, MAX_LINE};
use crate::message::{Common, Defect, Incoming, NoMessage, Text, owned, parse, read_params};
use crate::outlet::Outlet;
use crate::parking::{Of, Parking, Resumed};
use crate::pass;
use crate::voice::Speaking;
use crate::words::{self, Era};
use osvm_protocol::message::Id;
use osvm_upstream::Era as UpstreamEra;
use rmcp::model::{ErrorCode, ErrorData};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use tracing::{debug, warn};

/// One client, heard through one way in and told through one way out.
#[derive(Debug)]
pub(crate) struct Session {
    gateway: Arc<Gateway>,
    outlet: Arc<Outlet>,
    client: Arc<Client>,
}

/// An answer.
#[derive(Debug, Serialize)]
pub(crate) struct Response<'a, R> {
    jsonrpc: &'static str,
    id: &'a Id<'a>,
    result: R,
}

impl<'a, R> Response<'a, R> {
    pub(crate) fn new(id: &'a Id<'a>, result: R) -> Self {
        Self { jsonrpc: "2.0", id, result }
    }
}

/// An answer that says what was wrong. Without an id when none could be read.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorResponse<'a, E> {
    pub(crate) jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a Id<'a>>,
    pub(crate) error: E,
}

/// `result` of a list.
#[derive(Debug)]
struct ListResult<'a> {
    list: List,
    page: Page<'a>,
    stateless: bool,
}

impl Serialize for ListResult<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = to.serialize_map(None)?;
        if self.stateless {
            map.serialize_entry("resultType", "complete")?;
        }
        map.serialize_entry(self.list.member(), &self.page.entries)?;
        if let Some(next) = &self.page.next {
            map.serialize_entry("nextCursor", next)?;
        }
        if self.stateless {
            map.serialize_entry("ttlMs", &words::FRESH.as_millis())?;
            map.serialize_entry("cacheScope", "private")?;
        }
        map.end()
    }
}

/// `result` of requests that only want to be heard.
#[derive(Debug, Serialize)]
struct Nothing {}

impl Session {
    pub(crate) fn new(gateway: Arc<Gateway>, outlet: Arc<Outlet>, client: Arc<Client>) -> Self {
        Self { gateway, outlet, client }
    }

    /// Takes one line of the client.
    pub(crate) fn hear(&self, line: Line<'_>) {
        let bytes = match line {
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => return,
            Line::Whole(bytes) => bytes,
            Line::TooLong(length) => {
                let message = format!("the message has {length} bytes, {MAX_LINE} are the limit");
                return self.refuse(None, Defect::new(ErrorCode::INVALID_REQUEST, message));
            }
        };
        match parse(bytes) {
            Ok(Incoming::Request { id, method, params }) => {
                debug!(%id, %method, "request");
                if let Err(defect) = self.request(&id, &method, params) {
                    self.refuse(Some(&id), defect);
                }
            }
            Ok(Incoming::Notification { method, params }) => self.notification(&method, params),
            Ok(Incoming::Answer { id, outcome }) => self.client.asks.answer(id.as_ref(), outcome),
            Err(NoMessage { id, defect }) => self.refuse(id.as_ref(), *defect),
        }
    }

    fn request(
        &self,
        id: &Id<'static>,
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), Defect> {
        let common = Common::read(params)?;
        let era = || common.era(self.client.has_shaken_hands());
        match method {
            "initialize" if common.era(true)? == Era::Handshake => self.initialize(id, params),
            // Whether the other side lives may be asked before anything else.
            "ping" if common.era(true)? == Era::Handshake => self.answer(id, Nothing {}),
            "server/discover" if era()? == Era::Stateless => {
                let catalog = self.gateway.catalog();
                self.answer(id, words::discovered(&catalog, self.gateway.is_mixed()))
            }
            "subscriptions/listen" if era()? == Era::Stateless => {
                self.client.listeners.listen(&self.gateway, id, params, &self.outlet)
            }
            "logging/setLevel"
                if era()? == Era::Handshake && self.gateway.catalog().features.logging =>
            {
                self.set_level(id, params)
            }
            "resources/unsubscribe"
                if era()? == Era::Handshake && self.gateway.catalog().features.subscribe =>
            {
                self.client.listeners.unsubscribe(&pass::uri(params, method)?);
                self.answer(id, Nothing {})
            }
            "tools/call" => self.call_tool(id, params, era()?, &common),
            _ => match self.list(method) {
                Some(list) => self.show(id, list, params, era()?),
                None => self.pass(id, method, params, era()?, &common),
            },
        }
    }

    fn initialize(&self, id: &Id<'_>, params: Option<&RawValue>) -> Result<(), Defect> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, rename = "protocolVersion")]
            version: Text<'a>,
            #[serde(borrow, default)]
            capabilities: Option<&'a RawValue>,
            #[serde(borrow, default, rename = "clientInfo")]
            info: Option<&'a RawValue>,
        }
        let Some(Params { version: Text(version), capabilities, info }) = read_params(params)?
        else {
            return Err(Defect::params("`initialize` needs `params` with `protocolVersion`"));
        };
        self.client.shake_hands(capabilities, info);
        let catalog = self.gateway.catalog();
        self.answer(id, words::initialized(&version, &catalog, self.gateway.is_mixed()))
    }

    fn set_level(&self, id: &Id<'_>, params: Option<&RawValue>) -> Result<(), Defect> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow)]
            level: Text<'a>,
        }
        match read_params(params)? {
            Some(Params { level: Text(level) }) if self.client.set_level(&level) => {
                self.answer(id, Nothing {})
            }
            _ => Err(Defect::params("`level` is none of the levels of RFC 5424")),
        }
    }

    /// The list that a method asks for, where there can be entries in it.
    fn list(&self, method: &str) -> Option<List> {
        let features = self.gateway.catalog().features;
        List::of(method).filter(|list| match list {
            List::Tools => true,
            List::Prompts => features.prompts,
            List::Resources | List::Templates => features.resources,
        })
    }

    fn show(
        &self,
        id: &Id<'_>,
        list: List,
        params: Option<&RawValue>,
        era: Era,
    ) -> Result<(), Defect> {
        #[derive(Default, Deserialize)]
        struct Params<'a> {
            #[serde(borrow, default)]
            cursor: Option<Text<'a>>,
        }
        let cursor = read_params::<Params<'_>>(params)?.unwrap_or_default().cursor;
        self.gateway.settle_first();
        self.gateway.refresh();
        // Before the list is taken: a change in between is told, not lost.
        self.client.listeners.shown(list, self.gateway.hub.lists());
        let catalog = self.gateway.catalog();
        let page = catalog.page(list, era, cursor.as_ref().map(|Text(cursor)| &**cursor))?;
        self.answer(id, ListResult { list, page, stateless: era == Era::Stateless })
    }

    fn call_tool(
        &self,
        id: &Id<'static>,
        params: Option<&RawValue>,
        era: Era,
        common: &Common<'_>,
    ) -> Result<(), Defect> {
        let planned = match call::plan(&self.gateway.catalog(), params) {
            Err(_) => {
                // It may be of a server that has not told yet.
                self.gateway.settle_first();
                call::plan(&self.gateway.catalog(), params)?
            }
            Ok(planned) => planned,
        };
        let Some(flight) = self.take_off(id, params, |id| {
            self.outlet.answer(|| true, None, &Response::new(id, call::busy(era)));
        }) else {
            return Ok(());
        };
        let speaking = self.speaking(flight, common);
        let parked = planned.may_be_parked().then(|| (planned.of(), planned.server()));
        let Some(speaking) = self.resume(parked, era, common, speaking)? else { return Ok(()) };
        let (client, facts) = (Arc::clone(&self.client), self.client.facts(era, common));
        call::Call { speaking, planned, client, facts }.start(&self.gateway);
        Ok(())
    }

    fn pass(
        &self,
        id: &Id<'static>,
        method: &str,
        params: Option<&RawValue>,
        era: Era,
        common: &Common<'_>,
    ) -> Result<(), Defect> {
        let plan = || pass::plan(&self.gateway.catalog(), method, params, era);
        let planned = plan().or_else(|_| {
            self.gateway.settle_first();
            plan()
        })?;
        let Some(planned) = planned else {
            let message = format!("there is no method `{}` here", shown(method));
            return Err(Defect::new(ErrorCode::METHOD_NOT_FOUND, message));
        };
        let Some(flight) = self.take_off(id, params, |id| pass::busy(&self.outlet, id)) else {
            return Ok(());
        };
        let speaking = self.speaking(flight, common);
        let of = Some((planned.of.clone(), planned.server()));
        let Some(speaking) = self.resume(of, era, common, speaking)? else { return Ok(()) };
        let (client, facts) = (Arc::clone(&self.client), self.client.facts(era, common));
        pass::Pass { speaking, planned, client, facts }.start(&self.gateway);
        Ok(())
    }

    fn speaking(&self, flight: Flight, common: &Common<'_>) -> Speaking {
        let token = common.progress_token().map(ToOwned::to_owned);
        Speaking { outlet: Arc::clone(&self.outlet), flight, token }
    }

    /// Goes on with a call that waits for this request, if there is one. Gives back the request
    /// where it is one of its own.
    fn resume(
        &self,
        of: Option<(Of, &str)>,
        era: Era,
        common: &Common<'_>,
        speaking: Speaking,
    ) -> Result<Option<Speaking>, Defect> {
        let state = common.state().filter(|state| Parking::is_token(state));
        let (Era::Stateless, Some((of, server)), Some(state)) = (era, of, state) else {
            return Ok(Some(speaking));
        };
        let responses = common.responses.map(ToOwned::to_owned);
        let resumed = Box::new(Resumed { speaking, responses });
        let Err(back) = self.client.parking.resume(&state, &of, resumed) else { return Ok(None) };
        let offer = self.gateway.member(server).and_then(|member| member.offer());
        // The server may be an osvm too, and the state its own.
        if offer.is_some_and(|offer| offer.era == UpstreamEra::Modern) {
            return Ok(Some(back.speaking));
        }
        Err(Defect::params("`requestState` belongs to no call that waits: it was used, or is over"))
    }

    /// A place among the requests of this client. Without one, the client has been told.
    fn take_off(
        &self,
        id: &Id<'static>,
        params: Option<&RawValue>,
        busy: impl FnOnce(&Id<'static>),
    ) -> Option<Flight> {
        let bytes = params.map_or(0, |params| params.get().len());
        match self.client.flights.take_off(id.clone(), bytes) {
            Ok(flight) => Some(flight),
            Err(Refused::SameId) => {
                // With its id, this would be taken for the answer of the request that has it.
                warn!(%id, "a request whose id is in use");
                let message =
                    format!("a request with id {} is not answered yet", shown(&id.to_string()));
                self.refuse(None, Defect::new(ErrorCode::INVALID_REQUEST, message));
                None
            }
            Err(Refused::Busy) => {
                busy(id);
                None
            }
        }
    }

    fn notification(&self, method: &str, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        struct Cancelled<'a> {
            #[serde(borrow, rename = "requestId")]
            id: Id<'a>,
        }
        match method {
            "notifications/cancelled" => match read_params::<Cancelled<'_>>(params) {
                Ok(Some(Cancelled { id })) => {
                    debug!(%id, "cancelled by the client");
                    let id = owned(id);
                    self.client.flights.cancel(&id);
                    self.client.listeners.cancel(&id);
                }
                // Nobody can be told: notifications have no answer.
                _ => warn!("a cancellation without a request id"),
            },
            "notifications/roots/list_changed" if self.client.has_shaken_hands() => {
                let facts = self.client.facts(Era::Handshake, &Common::default());
                let client = facts.for_servers(self.client.number, false);
                for server in self.gateway.fleet.members().flat_map(|member| member.servers()) {
                    server.notify(&client, method, params);
                }
            }
            _ => debug!(method, "notification"),
        }
    }

    fn answer(&self, id: &Id<'_>, result: impl Serialize) -> Result<(), Defect> {
        self.outlet.answer(|| true, None, &Response::new(id, result));
        Ok(())
    }

    fn refuse(&self, id: Option<&Id<'_>>, defect: Defect) {
        let code = defect.code;
        debug!(code = code.0, message = %defect.message, "refused");
        let error = defect.object();
        let response = ErrorResponse { jsonrpc: "2.0", id, error };
        self.outlet.answer(|| true, Some(code), &response);
    }
}

impl Defect {
    /// The error object.
    pub(crate) fn object(self) -> ErrorData {
        let Self { code, message, data } = self;
        ErrorData { code, message, data }
    }
}

/// The message that says what is wrong with another one.
pub(crate) fn error_response(id: Option<&Id<'_>>, defect: Defect) -> String {
    let error = defect.object();
    // Text and numbers can't fail to be written.
    serde_json::to_string(&ErrorResponse { jsonrpc: "2.0", id, error }).unwrap_or_default()
}

/// A client's own word in an answer, cut where it is longer than any name.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 128;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}
