//! Requests that a configured server answers and that are no calls of tools: prompts, resources,
//! completions.
//!
//! They have no receipt and no isolation of their own: each goes to the server where it runs.

use crate::call::{ErrorObject, causes, code, hint};
use crate::catalog::Catalog;
use crate::client::{Client, Facts};
use crate::converse::converse;
use crate::gateway::Gateway;
use crate::message::{Defect, Text, read_params};
use crate::outlet::Outlet;
use crate::parking::Of;
use crate::raw::{self, Object};
use crate::session::shown;
use crate::subscribe::{Refused, Wish};
use crate::translate;
use crate::voice::{Speaking, Voice};
use crate::words::Era;
use osvm_upstream::Reply;
use rmcp::model::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::thread;
use std::time::Instant;
use tracing::error;

/// A request that has a server.
#[derive(Debug)]
pub(crate) struct Planned {
    server: String,
    pub(crate) of: Of,
    /// The parameters as the server gets them.
    params: Box<RawValue>,
    /// A resource as client and server call it, where updates of it are asked for.
    subscribe: Option<(String, String)>,
}

impl Planned {
    /// The server it goes to.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }
}

/// Finds the server of a request. `None` when it is of a method that none gets.
pub(crate) fn plan(
    catalog: &Catalog,
    method: &str,
    params: Option<&RawValue>,
    era: Era,
) -> Result<Option<Planned>, Defect> {
    let features = catalog.features;
    Ok(Some(match method {
        "prompts/get" if features.prompts => prompt(catalog, params)?,
        "resources/read" if features.resources => resource(catalog, "resources/read", params, era)?,
        "resources/subscribe" if features.subscribe && era == Era::Handshake => {
            let planned = resource(catalog, "resources/subscribe", params, era)?;
            let own =
                Object::read(&planned.params).and_then(|p| p.text("uri").map(|u| u.into_owned()));
            let subscribe = own.map(|own| (planned.of.name.clone(), own));
            Planned { subscribe, ..planned }
        }
        "completion/complete" if features.completions => completion(catalog, params)?,
        _ => return Ok(None),
    }))
}

fn prompt(catalog: &Catalog, params: Option<&RawValue>) -> Result<Planned, Defect> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        name: Text<'a>,
    }
    let Some(Params { name: Text(name) }) = read_params(params)? else {
        return Err(Defect::params("`prompts/get` needs `params` with `name`"));
    };
    let entry = catalog.prompt(&name).ok_or_else(|| no_prompt(catalog, &name))?;
    let own = [("name", raw::to_raw(&entry.own))];
    Ok(planned("prompts/get", &entry.server, entry.key.clone(), params, own))
}

fn no_prompt(catalog: &Catalog, name: &str) -> Defect {
    let mut message = format!("no prompt is called `{}`", shown(name));
    if let Some(nearest) = catalog.nearest_prompt(name) {
        message.push_str(&format!(": did you mean `{nearest}`?"));
    }
    Defect::params(message)
}

fn resource(
    catalog: &Catalog,
    method: &'static str,
    params: Option<&RawValue>,
    era: Era,
) -> Result<Planned, Defect> {
    let uri = uri(params, method)?;
    let found = catalog.resource(&uri).ok_or_else(|| no_resource(&uri, era))?;
    let own = [("uri", raw::to_raw(&found.own))];
    Ok(planned(method, found.server, uri, params, own))
}

/// The member `uri` of the parameters.
pub(crate) fn uri(params: Option<&RawValue>, method: &str) -> Result<String, Defect> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        uri: Text<'a>,
    }
    match read_params(params)? {
        Some(Params { uri: Text(uri) }) => Ok(uri.into_owned()),
        None => Err(Defect::params(format!("`{method}` needs `params` with `uri`"))),
    }
}

fn no_resource(uri: &str, era: Era) -> Defect {
    let code = match era {
        Era::Stateless => ErrorCode::INVALID_PARAMS,
        Era::Handshake => ErrorCode::RESOURCE_NOT_FOUND,
    };
    let mut defect = Defect::new(code, format!("no server has a resource `{}`", shown(uri)));
    defect.data = Some(serde_json::json!({ "uri": shown(uri) }));
    defect
}

fn completion(catalog: &Catalog, params: Option<&RawValue>) -> Result<Planned, Defect> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        r#ref: &'a RawValue,
    }
    const METHOD: &str = "completion/complete";
    let Some(Params { r#ref }) = read_params(params)? else {
        return Err(Defect::params("`completion/complete` needs `params` with `ref`"));
    };
    let mut reference = Object::read(r#ref).unwrap_or_default();
    let text = |member: &str| reference.text(member).map(|text| text.into_owned());
    let (server, key) = match text("type").as_deref() {
        Some("ref/prompt") => {
            let name = text("name").ok_or_else(|| Defect::params("`ref` has no `name`"))?;
            let entry = catalog.prompt(&name).ok_or_else(|| no_prompt(catalog, &name))?;
            reference.set("name", raw::to_raw(&entry.own));
            (entry.server.clone(), name)
        }
        Some("ref/resource") => {
            let uri = text("uri").ok_or_else(|| Defect::params("`ref` has no `uri`"))?;
            let missing = || Defect::params(format!("no server has a resource `{}`", shown(&uri)));
            let found = catalog.resource(&uri).ok_or_else(missing)?;
            reference.set("uri", raw::to_raw(&found.own));
            (found.server.to_owned(), uri)
        }
        _ => return Err(Defect::params("`ref` is neither of a prompt nor of a resource")),
    };
    Ok(planned(METHOD, &server, key, params, [("ref", reference.to_raw())]))
}

fn planned<const N: usize>(
    method: &'static str,
    server: &str,
    name: String,
    params: Option<&RawValue>,
    own: [(&'static str, Box<RawValue>); N],
) -> Planned {
    let mut params = params.and_then(Object::read).unwrap_or_default();
    for (member, value) in own {
        params.set(member, value);
    }
    let of = Of { method, name };
    Planned { server: server.to_owned(), of, params: params.to_raw(), subscribe: None }
}

/// A request that has been let through.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) speaking: Speaking,
    pub(crate) planned: Planned,
    pub(crate) client: Arc<Client>,
    pub(crate) facts: Arc<Facts>,
}

impl Pass {
    /// Asks the server in a thread of its own.
    pub(crate) fn start(self, gateway: &Arc<Gateway>) {
        let id = self.speaking.flight.id().clone();
        let outlet = Arc::clone(&self.speaking.outlet);
        let gateway = Arc::clone(gateway);
        let run = move || self.run(&gateway);
        if let Err(cause) = thread::Builder::new().name("pass".into()).spawn(run) {
            error!(%cause, "no thread for a request");
            busy(&outlet, &id);
        }
    }

    fn run(self, gateway: &Arc<Gateway>) {
        let Self { speaking, planned, client, facts } = self;
        let Planned { server, of, params, subscribe } = planned;
        let voice = Voice::new(client, facts, of, speaking);
        if let Some((uri, own)) = subscribe {
            return subscribed(gateway, &voice, &server, &uri, &own);
        }
        let (method, era) = (voice.of.method, voice.facts.era);
        let Some(to_ask) = gateway.member(&server).and_then(|member| member.to_ask()) else {
            return voice.error(None, not_started(&server));
        };
        let deadline = Instant::now() + gateway.runtime.config().resolve(&server, "").timeout;
        match converse(&voice, &gateway.clock, to_ask, &params, deadline, &|_| {}) {
            Ok(Reply::Result(raw)) => match translate::result(&raw, method, era) {
                Some(result) => voice.result(result),
                None => voice.error(None, ErrorObject::broken(raw.get())),
            },
            Ok(Reply::Error(raw)) => match translate::error(&raw, method, era) {
                Some(error) => voice.error(translate::about_the_request(&raw), error),
                None => voice.error(None, ErrorObject::broken(raw.get())),
            },
            Err(trouble) => {
                let hint = hint(&trouble).map(str::to_owned);
                let message = trouble.to_string();
                voice
                    .error(None, ErrorObject::new(code(&trouble), message, causes(&trouble), hint));
            }
        }
    }
}

fn not_started(server: &str) -> ErrorObject {
    let message =
        format!("server `{server}` may not be started: no call of it may run on this host");
    let hint = "see `osvm config explain`: its `execution_mode` says where its tools run";
    ErrorObject::new("denied", message, Vec::new(), Some(hint.into()))
}

fn subscribed(gateway: &Arc<Gateway>, voice: &Voice, server: &str, uri: &str, own: &str) {
    #[derive(Serialize)]
    struct Nothing {}
    let wish = match Wish::new(gateway, server, own) {
        Ok(wish) => wish,
        Err(Refused::Server(error)) => match Object::read(&error) {
            Some(error) => return voice.error(None, error),
            None => return voice.error(None, ErrorObject::broken(error.get())),
        },
        Err(Refused::Osvm(defect)) => return voice.error(None, defect.object()),
    };
    match voice.client.listeners.subscribe(uri, wish) {
        Ok(()) => voice.result(Nothing {}),
        Err(defect) => voice.error(None, defect.object()),
    }
}

/// The answer to a request that can't start because too many have.
pub(crate) fn busy(outlet: &Outlet, id: &osvm_protocol::message::Id<'_>) {
    let message = "too many requests at once".to_owned();
    let hint = Some("wait for an answer, or cancel a request".to_owned());
    let error = ErrorObject::new("busy", message, Vec::new(), hint);
    outlet.answer(
        || true,
        None,
        &crate::session::ErrorResponse { jsonrpc: "2.0", id: Some(id), error },
    );
}
