//! Resources that clients want to hear of: each is asked of its server once, however many clients
//! there are.
//!
//! A server with a handshake is asked by `resources/subscribe`, and tells on its own. One of
//! 2026-07-28 tells as long as a request of ours is open, which has a thread.

use crate::asks::{NOT_FOUND, Outcome, refusal};
use crate::gateway::Gateway;
use crate::hub::Update;
use crate::message::Defect;
use crate::raw::{self, Object};
use crate::words::OSVM_ERROR;
use osvm_upstream::{ClientFacts, Deaf, Era as UpstreamEra, Outgoing, Relay, Reply, Server, Stop};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Longest a server may take to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest an open request is kept before it is made anew.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Between the end of an open request and the next.
const AGAIN: Duration = Duration::from_secs(5);

/// Resources that one client may listen to at once.
pub(crate) const MAX_URIS: usize = 100;

type Key = (String, String);

/// Who listens to what, by server and its URI.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Mutex<HashMap<Key, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    wishes: usize,
    /// Ends the open request, where there is one.
    open: Option<Stop>,
}

/// A wish to hear of a resource. Dropping it ends it.
pub(crate) struct Wish {
    gateway: Weak<Gateway>,
    key: Key,
}

impl fmt::Debug for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wish").field(&self.key).finish()
    }
}

/// A server does not agree.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Its error object.
    Server(Box<RawValue>),
    /// It could not be asked.
    Osvm(Defect),
}

impl Wish {
    /// Asks for updates of `uri`, a URI of that server. Waits for the server where nobody asked
    /// before.
    pub(crate) fn new(gateway: &Arc<Gateway>, server: &str, uri: &str) -> Result<Self, Refused> {
        let key = (server.to_owned(), uri.to_owned());
        let first = {
            let mut all = gateway.subscriptions.lock();
            let entry = all.entry(key.clone()).or_default();
            entry.wishes += 1;
            entry.wishes == 1
        };
        let wish = Self { gateway: Arc::downgrade(gateway), key };
        if first {
            begin(gateway, &wish.key)?;
        }
        Ok(wish)
    }

    /// Whether an update of that resource is meant.
    pub(crate) fn is_for(&self, server: &str, uri: &str) -> bool {
        self.key.0 == server && self.key.1 == uri
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        let Some(gateway) = self.gateway.upgrade() else { return };
        let ended = {
            let mut all = gateway.subscriptions.lock();
            let Some(entry) = all.get_mut(&self.key) else { return };
            entry.wishes = entry.wishes.saturating_sub(1);
            if entry.wishes > 0 {
                return;
            }
            all.remove(&self.key)
        };
        if let Some(open) = ended.and_then(|entry| entry.open) {
            open.stop();
            return;
        }
        let key = self.key.clone();
        // The client that goes away waits for nobody.
        let told = move || {
            if let Err(refused) = ask(&gateway, &key, "resources/unsubscribe") {
                debug!(?refused, "a server goes on telling of a resource");
            }
        };
        if let Err(cause) = thread::Builder::new().name("unsubscribe".into()).spawn(told) {
            warn!(%cause, "a server goes on telling of a resource");
        }
    }
}

fn begin(gateway: &Arc<Gateway>, key: &Key) -> Result<(), Refused> {
    let server = server(gateway, key)?;
    if server.offer().is_none_or(|offer| offer.era != UpstreamEra::Modern) {
        return ask(gateway, key, "resources/subscribe");
    }
    let stop = Stop::default();
    let (ended, weak) = (stop.clone(), Arc::downgrade(gateway));
    let (server, name, uri) = (Arc::clone(server), key.0.clone(), key.1.clone());
    let run = move || keep_open(&server, &Told { gateway: weak, server: name }, &uri, &ended);
    let spawned = thread::Builder::new().name("updates".into()).spawn(run);
    spawned.map_err(|cause| cannot(format!("no thread for a subscription: {cause}")))?;
    if let Some(entry) = gateway.subscriptions.lock().get_mut(key) {
        entry.open = Some(stop);
    }
    Ok(())
}

/// Keeps a request open on which a server of 2026-07-28 tells of one resource.
fn keep_open(server: &Server, told: &Told, uri: &str, ended: &Stop) {
    let params = serde_json::json!({ "notifications": { "resourceSubscriptions": [uri] } });
    let params = raw::to_raw(&params);
    while !ended.is_stopped() && told.gateway.strong_count() > 0 {
        let outgoing = Outgoing {
            method: "subscriptions/listen",
            params: Some(&params),
            client: ClientFacts::default(),
            era_wanted: Some(UpstreamEra::Modern),
            relay: told,
        };
        match server.request(&outgoing, Instant::now() + DAY, ended) {
            Ok(Reply::Error(error)) => {
                debug!(uri, error = error.get(), "a server does not tell of a resource");
                return;
            }
            Ok(Reply::Result(_)) => debug!(uri, "a server has ended a subscription"),
            Err(error) => debug!(uri, %error, "a subscription is lost"),
        }
        let (send, stopped) = std::sync::mpsc::channel();
        let _hook = ended.hook(move || _ = send.send(()));
        let _waited = stopped.recv_timeout(AGAIN);
    }
}

/// Hears what a server tells on an open request.
struct Told {
    gateway: Weak<Gateway>,
    server: String,
}

impl Relay for Told {
    fn progress(&self, _: &RawValue) {}

    fn log(&self, _: &RawValue) {}

    fn notification(&self, method: &str, params: Option<&RawValue>) {
        let ("notifications/resources/updated", Some(params)) = (method, params) else { return };
        let Some(gateway) = self.gateway.upgrade() else { return };
        let Some(mut params) = Object::read(params) else { return };
        // Of the request between osvm and the server, which is no business of clients.
        let meta = params.get("_meta").and_then(Object::read).map(|mut meta| {
            meta.remove("io.modelcontextprotocol/subscriptionId");
            (meta.len() > 0).then(|| meta.to_raw())
        });
        match meta {
            Some(Some(meta)) => params.set("_meta", meta),
            Some(None) => params.remove("_meta"),
            None => {}
        }
        if let Some(uri) = params.text("uri").map(|uri| uri.into_owned()) {
            let server = self.server.clone();
            gateway.hub.updated(Update { server, uri, params: params.to_raw() });
        }
    }

    fn ask(&self, method: &str, _: Option<&RawValue>, _: &Stop) -> Outcome {
        Err(refusal(NOT_FOUND, &format!("nobody answers `{method}` for a subscription")))
    }
}

fn server<'a>(gateway: &'a Gateway, (server, _): &Key) -> Result<&'a Arc<Server>, Refused> {
    let server = gateway.member(server).and_then(|member| member.to_ask());
    server.ok_or_else(|| cannot("its server may not be started".into()))
}

fn cannot(message: String) -> Refused {
    Refused::Osvm(Defect::new(OSVM_ERROR, message))
}

fn ask(gateway: &Gateway, key: &Key, method: &str) -> Result<(), Refused> {
    #[derive(Serialize)]
    struct Params<'a> {
        uri: &'a str,
    }
    let server = server(gateway, key)?;
    let params = raw::to_raw(&Params { uri: &key.1 });
    let outgoing = Outgoing {
        method,
        params: Some(&params),
        client: ClientFacts::default(),
        era_wanted: Some(UpstreamEra::Legacy),
        relay: &Deaf,
    };
    match server.request(&outgoing, Instant::now() + PATIENCE, &Stop::default()) {
        Ok(Reply::Result(_)) => Ok(()),
        Ok(Reply::Error(error)) => Err(Refused::Server(error)),
        Err(error) => Err(cannot(error.to_string())),
    }
}

impl Subscriptions {
    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
