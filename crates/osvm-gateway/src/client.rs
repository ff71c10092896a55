//! What osvm knows of one client, for as long as the client is there.

use crate::asks::Asks;
use crate::flight::Flights;
use crate::listen::Listeners;
use crate::message::{Common, is_object};
use crate::parking::Parking;
use crate::raw::Object;
use crate::words::Era;
use osvm_runtime::ClientName;
use osvm_upstream::ClientFacts;
use serde_json::value::RawValue;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Levels of log messages, from the least to the most important; see RFC 5424.
const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// What a client of before 2026-07-28 hears as long as it has not chosen.
const USUAL_LEVEL: &str = "info";

/// Longest capabilities and names that are kept of a client, in bytes.
const MAX_KEPT: usize = 64 * 1024;

/// One client: one pipe, one session over HTTP, or one stateless request over HTTP.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its number, which tells it from others.
    pub(crate) number: u64,
    /// Its calls.
    pub(crate) flights: Flights,
    /// What it wants to be told.
    pub(crate) listeners: Listeners,
    /// What it was asked.
    pub(crate) asks: Asks,
    /// Its calls that wait for it to come back.
    pub(crate) parking: Arc<Parking>,
    /// What it said in its handshake.
    handshake: Mutex<Option<Arc<Facts>>>,
}

/// What a client is and can do, as far as servers may know.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) era: Era,
    capabilities: Option<Box<RawValue>>,
    info: Option<Box<RawValue>>,
    level: Option<String>,
    /// For receipts and people.
    pub(crate) name: ClientName,
}

impl Client {
    pub(crate) fn new(number: u64, parking: Arc<Parking>) -> Self {
        Self {
            number,
            flights: Flights::default(),
            listeners: Listeners::default(),
            asks: Asks::default(),
            parking,
            handshake: Mutex::new(None),
        }
    }

    /// The client can't answer any more, and does not come back to calls that wait for it.
    pub(crate) fn hang_up(&self) {
        self.asks.close();
        self.parking.close();
    }

    /// Ends all that it has begun.
    pub(crate) fn end(&self) {
        self.flights.cancel_all();
        self.hang_up();
        self.listeners.end();
    }

    /// Waits until none of its calls is left; `false` when `patience` was not enough.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        self.flights.wait(patience) && self.parking.wait(patience)
    }

    /// Keeps what the client says in its handshake.
    pub(crate) fn shake_hands(&self, capabilities: Option<&RawValue>, info: Option<&RawValue>) {
        let facts = Facts::new(Era::Handshake, capabilities, info, Some(USUAL_LEVEL.into()));
        *self.lock() = Some(Arc::new(facts));
        self.listeners.shake_hands();
    }

    /// Whether there was a handshake.
    pub(crate) fn has_shaken_hands(&self) -> bool {
        self.lock().is_some()
    }

    /// Has the client hear log messages from `level` on; `false` when there is no such level.
    pub(crate) fn set_level(&self, level: &str) -> bool {
        if rank(level).is_none() {
            return false;
        }
        let mut handshake = self.lock();
        if let Some(facts) = &mut *handshake {
            let Facts { era, capabilities, info, name, .. } = &**facts;
            *facts = Arc::new(Facts {
                era: *era,
                capabilities: capabilities.clone(),
                info: info.clone(),
                level: Some(level.to_owned()),
                name: name.clone(),
            });
        }
        true
    }

    /// What is known for a request of that era.
    pub(crate) fn facts(&self, era: Era, common: &Common<'_>) -> Arc<Facts> {
        match (era, &*self.lock()) {
            (Era::Handshake, Some(facts)) => Arc::clone(facts),
            (Era::Handshake, None) => Arc::new(Facts::new(era, None, None, None)),
            (Era::Stateless, _) => {
                let level = common.level().filter(|level| rank(level).is_some());
                let level = level.map(|level| level.into_owned());
                Arc::new(Facts::new(era, common.capabilities(), common.info(), level))
            }
        }
    }

    // What is in it is replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Facts>>> {
        self.handshake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn new(
        era: Era,
        capabilities: Option<&RawValue>,
        info: Option<&RawValue>,
        level: Option<String>,
    ) -> Self {
        let short = |raw: &&RawValue| is_object(raw) && raw.get().len() <= MAX_KEPT;
        let info = info.filter(short);
        let name = info.and_then(Object::read).and_then(|info| {
            let name = info.text("name")?;
            Some(match info.text("version") {
                Some(version) => ClientName::new(&format!("{name}/{version}")),
                None => ClientName::new(&name),
            })
        });
        Self {
            era,
            capabilities: capabilities.filter(short).map(passed_on),
            info: info.map(ToOwned::to_owned),
            level,
            name: name.unwrap_or_default(),
        }
    }

    /// The same, as servers are told.
    pub(crate) fn for_servers(&self, owner: u64, wants_progress: bool) -> ClientFacts<'_> {
        ClientFacts {
            owner,
            capabilities: self.capabilities.as_deref(),
            info: self.info.as_deref(),
            log_level: self.level.as_deref(),
            wants_progress,
        }
    }

    /// Whether the client answers requests of this method.
    pub(crate) fn answers(&self, method: &str) -> bool {
        let needed = match method {
            "elicitation/create" => "elicitation",
            "sampling/createMessage" => "sampling",
            "roots/list" => "roots",
            _ => return false,
        };
        let capabilities = self.capabilities.as_deref().and_then(Object::read);
        capabilities.is_some_and(|all| all.get(needed).is_some_and(is_object))
    }

    /// Whether the client answers any request.
    pub(crate) fn answers_any(&self) -> bool {
        ["elicitation/create", "sampling/createMessage", "roots/list"]
            .iter()
            .any(|method| self.answers(method))
    }

    /// Whether the client wants to hear a log message with these parameters.
    pub(crate) fn wants_log(&self, params: &RawValue) -> bool {
        let Some(from) = self.level.as_deref().and_then(rank) else { return false };
        let level = Object::read(params).and_then(|p| p.text("level").map(|t| t.into_owned()));
        level.as_deref().and_then(rank).is_none_or(|level| from <= level)
    }
}

fn rank(level: &str) -> Option<usize> {
    LEVELS.iter().position(|known| *known == level)
}

/// The capabilities without those that need osvm to know more than it does: tasks outlive their
/// call, and nothing here does.
fn passed_on(capabilities: &RawValue) -> Box<RawValue> {
    const TASKS: &str = "io.modelcontextprotocol/tasks";
    let Some(mut all) = Object::read(capabilities) else { return capabilities.to_owned() };
    all.remove("tasks");
    let extensions = all.get("extensions").and_then(Object::read).map(|mut extensions| {
        extensions.remove(TASKS);
        extensions.to_raw()
    });
    if let Some(extensions) = extensions {
        all.set("extensions", extensions);
    }
    all.to_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }

    fn client(capabilities: &str) -> Client {
        let client = Client::new(1, Arc::default());
        client.shake_hands(Some(&raw(capabilities)), Some(&raw(r#"{"name":"n","version":"1"}"#)));
        client
    }

    #[test]
    fn a_client_is_asked_only_what_it_says_it_answers() {
        let facts =
            client(r#"{"elicitation":{},"roots":null}"#).facts(Era::Handshake, &Common::default());
        assert!(facts.answers("elicitation/create") && facts.answers_any());
        assert!(!facts.answers("roots/list") && !facts.answers("sampling/createMessage"));
        assert!(!facts.answers("tools/call"));
        assert_eq!(facts.name.as_str(), "n/1");
    }

    #[test]
    fn servers_are_not_promised_what_osvm_does_not_carry() {
        let text =
            r#"{"tasks":{},"x":1.0,"extensions":{"io.modelcontextprotocol/tasks":{},"y":{}}}"#;
        assert_eq!(passed_on(&raw(text)).get(), r#"{"x":1.0,"extensions":{"y":{}}}"#);
    }

    #[test]
    fn log_messages_below_the_level_are_not_for_the_client() {
        let client = client("{}");
        let wants = |level: &str| {
            let params = raw(&format!(r#"{{"level":"{level}","data":1}}"#));
            client.facts(Era::Handshake, &Common::default()).wants_log(&params)
        };
        assert!(wants("info") && !wants("debug"));
        assert!(client.set_level("error") && !client.set_level("loud"));
        assert!(wants("critical") && !wants("warning"));
        let stateless = client.facts(Era::Stateless, &Common::default());
        assert!(!stateless.wants_log(&raw(r#"{"level":"emergency"}"#)));
    }
}
