//! Resources that clients want to hear of: each is asked of its server once, however many clients
//! there are.

use crate::gateway::Gateway;
use crate::message::Defect;
use crate::raw;
use crate::words::OSVM_ERROR;
use osvm_upstream::{ClientFacts, Deaf, Outgoing, Reply, Stop};
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

/// Resources that one client may listen to at once.
pub(crate) const MAX_URIS: usize = 1000;

type Key = (String, String);

/// Who listens to what, by server and its URI.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Mutex<HashMap<Key, usize>>);

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
            let count = all.entry(key.clone()).or_default();
            *count += 1;
            *count == 1
        };
        let wish = Self { gateway: Arc::downgrade(gateway), key };
        if first {
            ask(gateway, &wish.key, "resources/subscribe")?;
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
        {
            let mut all = gateway.subscriptions.lock();
            let Some(count) = all.get_mut(&self.key) else { return };
            *count -= 1;
            if *count > 0 {
                return;
            }
            all.remove(&self.key);
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

fn ask(gateway: &Gateway, (server, uri): &Key, method: &str) -> Result<(), Refused> {
    #[derive(Serialize)]
    struct Params<'a> {
        uri: &'a str,
    }
    let cannot = |message: String| Refused::Osvm(Defect::new(OSVM_ERROR, message));
    let server = gateway.member(server).and_then(|member| member.to_ask());
    let server = server.ok_or_else(|| cannot("its server may not be started".into()))?;
    let params = raw::to_raw(&Params { uri });
    let outgoing = Outgoing {
        method,
        params: Some(&params),
        client: ClientFacts::default(),
        era_wanted: None,
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
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
