//! One client: what it asks, and who answers.
//!
//! # Invariants
//!
//! - Every request gets one answer, unless it is cancelled; notifications get none.
//! - Only tool calls take time, and they have a thread each. All else is answered at once, in the
//!   order in which it was asked.

use crate::call;
use crate::catalog::{Catalog, CatalogError, Definition, Selection};
use crate::flight::{Flights, Refused};
use crate::lines::{Line, MAX_LINE};
use crate::listen::Listeners;
use crate::message::{Common, Defect, Incoming, NoMessage, Text, owned, parse, read_params};
use crate::outlet::Outlet;
use crate::words::{self, Era};
use osvm_protocol::message::Id;
use osvm_runtime::Runtime;
use rmcp::model::{ErrorCode, ErrorData};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};
use tracing::{debug, info, warn};

/// What all clients of one osvm share.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) runtime: Runtime,
    selection: Selection,
    current: RwLock<Current>,
}

/// The tools as they were read last.
struct Current {
    catalog: Arc<Catalog>,
    /// Whether the images are still the ones that were read.
    unchanged: Box<dyn Fn(&Runtime) -> bool + Send + Sync>,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Serves the tools that `selection` picks, running their calls with `runtime`.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] when an image can't be used, or what is selected is not there.
    pub fn new(runtime: Runtime, selection: &Selection) -> Result<Self, CatalogError> {
        let unchanged = watched(&runtime);
        let catalog = Arc::new(Catalog::read(&runtime, selection)?);
        let current = RwLock::new(Current { catalog, unchanged });
        Ok(Self { runtime, selection: selection.clone(), current })
    }

    /// The tools that clients see.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).catalog)
    }

    /// Reads the tools anew if their images have changed. Tools that can't be read stay as they
    /// were: a call says then what is wrong.
    pub(crate) fn refresh(&self) {
        if (self.current.read().unwrap_or_else(PoisonError::into_inner).unchanged)(&self.runtime) {
            return;
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.unchanged = watched(&self.runtime);
        match Catalog::read(&self.runtime, &self.selection) {
            Ok(catalog) if catalog.looks_like(&current.catalog) => {}
            Ok(catalog) => {
                info!(tools = catalog.tools().len(), "the tools have changed");
                current.catalog = Arc::new(catalog);
            }
            Err(error) => warn!("the tools have changed and can't be read: {error}"),
        }
    }
}

/// Remembers what the images look like now.
fn watched(runtime: &Runtime) -> Box<dyn Fn(&Runtime) -> bool + Send + Sync> {
    let images = runtime.config().images();
    let look = move |runtime: &Runtime| -> Vec<_> {
        images.iter().map(|name| runtime.store().stamp(name).ok()).collect()
    };
    let before = look(runtime);
    Box::new(move |runtime| look(runtime) == before)
}

/// One client.
#[derive(Debug)]
pub(crate) struct Session {
    gateway: Arc<Gateway>,
    outlet: Arc<Outlet>,
    flights: Flights,
    listeners: Listeners,
    handshake: bool,
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
struct ErrorResponse<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Id<'a>>,
    error: ErrorData,
}

/// `result` of `tools/list`. All tools are on the first page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolList<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    result_type: Option<&'static str>,
    tools: Vec<Definition<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_scope: Option<&'static str>,
}

/// `result` of `ping`.
#[derive(Debug, Serialize)]
struct Nothing {}

impl Session {
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        outlet: Arc<Outlet>,
        flights: Flights,
        listeners: Listeners,
    ) -> Self {
        Self { gateway, outlet, flights, listeners, handshake: false }
    }

    /// Takes requests as if `initialize` had come first: it did, in another session of its own.
    pub(crate) fn skip_handshake(&mut self) {
        self.handshake = true;
    }

    /// Takes one line of the client.
    pub(crate) fn hear(&mut self, line: Line<'_>) {
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
            Ok(Incoming::Answer) => debug!("an answer that nobody asked for"),
            Err(NoMessage { id, defect }) => self.refuse(id.as_ref(), defect),
        }
    }

    fn request(
        &mut self,
        id: &Id<'static>,
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), Defect> {
        let common = Common::read(params)?;
        let era = || common.era(self.handshake);
        match method {
            "initialize" if common.era(true)? == Era::Handshake => self.initialize(id, params),
            // Whether the other side lives may be asked before anything else.
            "ping" if common.era(true)? == Era::Handshake => {
                self.answer(id, Nothing {});
                Ok(())
            }
            "server/discover" if era()? == Era::Stateless => {
                self.answer(id, words::discovered());
                Ok(())
            }
            "subscriptions/listen" if era()? == Era::Stateless => {
                self.listeners.listen(id, params, &self.outlet)
            }
            "tools/list" => self.list_tools(id, params, era()?),
            "tools/call" => self.call_tool(id, params, era()?, &common),
            _ => {
                let message = format!("there is no method `{}` here", shown(method));
                Err(Defect::new(ErrorCode::METHOD_NOT_FOUND, message))
            }
        }
    }

    fn initialize(&mut self, id: &Id<'_>, params: Option<&RawValue>) -> Result<(), Defect> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, rename = "protocolVersion")]
            version: Text<'a>,
        }
        let Some(Params { version: Text(version) }) = read_params(params)? else {
            return Err(Defect::params("`initialize` needs `params` with `protocolVersion`"));
        };
        self.handshake = true;
        self.listeners.shake_hands();
        self.answer(id, words::initialized(&version));
        Ok(())
    }

    fn list_tools(&self, id: &Id<'_>, params: Option<&RawValue>, era: Era) -> Result<(), Defect> {
        #[derive(Default, Deserialize)]
        struct Params<'a> {
            #[serde(borrow, default)]
            cursor: Option<&'a RawValue>,
        }
        if read_params::<Params<'_>>(params)?.unwrap_or_default().cursor.is_some() {
            return Err(Defect::params("`cursor` is none of ours: all tools are on one page"));
        }
        self.gateway.refresh();
        let catalog = self.gateway.catalog();
        let stateless = era == Era::Stateless;
        self.answer(
            id,
            ToolList {
                result_type: stateless.then_some("complete"),
                tools: catalog.tools().map(|tool| tool.definition(era)).collect(),
                ttl_ms: stateless.then_some(words::FRESH.as_millis()),
                cache_scope: stateless.then_some("private"),
            },
        );
        Ok(())
    }

    fn call_tool(
        &self,
        id: &Id<'static>,
        params: Option<&RawValue>,
        era: Era,
        common: &Common<'_>,
    ) -> Result<(), Defect> {
        let planned = call::plan(&self.gateway.catalog(), params)?;
        let bytes = params.map_or(0, |params| params.get().len());
        match self.flights.take_off(id.clone(), bytes) {
            Ok(flight) => {
                let call = call::Call {
                    flight,
                    planned,
                    era,
                    progress: common.progress_token().map(ToOwned::to_owned),
                };
                call.start(&self.gateway, &self.outlet);
                Ok(())
            }
            Err(Refused::SameId) => {
                // With its id, this would be taken for the answer of the call that has it.
                warn!(%id, "a request whose id is in use");
                let message =
                    format!("a request with id {} is not answered yet", shown(&id.to_string()));
                self.refuse(None, Defect::new(ErrorCode::INVALID_REQUEST, message));
                Ok(())
            }
            Err(Refused::Busy) => {
                self.answer(id, call::busy(era));
                Ok(())
            }
        }
    }

    fn notification(&self, method: &str, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        struct Cancelled<'a> {
            #[serde(borrow, rename = "requestId")]
            id: Id<'a>,
        }
        if method != "notifications/cancelled" {
            debug!(method, "notification");
            return;
        }
        match read_params::<Cancelled<'_>>(params) {
            Ok(Some(Cancelled { id })) => {
                debug!(%id, "cancelled by the client");
                let id = owned(id);
                self.flights.cancel(&id);
                self.listeners.cancel(&id);
            }
            // Nobody can be told: notifications have no answer.
            _ => warn!("a cancellation without a request id"),
        }
    }

    fn answer(&self, id: &Id<'_>, result: impl Serialize) {
        self.outlet.send(|| true, &Response::new(id, result));
    }

    fn refuse(&self, id: Option<&Id<'_>>, defect: Defect) {
        let Defect { code, message, data } = defect;
        debug!(code = code.0, %message, "refused");
        self.outlet.note_refused(code);
        let error = ErrorData { code, message, data };
        self.outlet.send(|| true, &ErrorResponse { jsonrpc: "2.0", id, error });
    }
}

/// The message that says what is wrong with another one.
pub(crate) fn error_response(id: Option<&Id<'_>>, defect: Defect) -> String {
    let Defect { code, message, data } = defect;
    let error = ErrorData { code, message, data };
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
