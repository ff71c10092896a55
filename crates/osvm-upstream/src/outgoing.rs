//! A request on its way to a server, and who hears of it meanwhile.

use crate::stop::Stop;
use crate::words::Era;
use serde_json::value::RawValue;

/// One request.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// The method.
    pub method: &'a str,
    /// Its parameters, an object. Passed on as they are, but for `_meta`.
    pub params: Option<&'a RawValue>,
    /// On whose behalf.
    pub client: ClientFacts<'a>,
    /// The era in which a server that knows both is to be asked; `None` for either.
    pub era_wanted: Option<Era>,
    /// Hears what the server says while it works on this.
    pub relay: &'a dyn Relay,
}

impl std::fmt::Debug for Outgoing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, client, era_wanted, .. } = self;
        f.debug_struct("Outgoing")
            .field("method", method)
            .field("client", client)
            .field("era_wanted", era_wanted)
            .finish_non_exhaustive()
    }
}

/// What the client in front is and can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientFacts<'a> {
    /// Tells clients apart: what a server says to nobody in particular is passed on only where
    /// one client is served.
    pub owner: u64,
    /// The capabilities it declared, an object.
    pub capabilities: Option<&'a RawValue>,
    /// Name and version, an object; osvm's own if there is none.
    pub info: Option<&'a RawValue>,
    /// From which level on it wants log messages: `debug` to `emergency`.
    pub log_level: Option<&'a str>,
    /// Whether it wants to hear of progress, also where `_meta` has no token of its own.
    pub wants_progress: bool,
}

/// What a server answered.
#[derive(Debug)]
pub enum Reply {
    /// The result, `input_required` among it.
    Result(Box<RawValue>),
    /// A JSON-RPC error object.
    Error(Box<RawValue>),
}

/// What a server sends while it works on a request. Called on the thread of that request.
pub trait Relay: Sync {
    /// The request takes this link: what its maker knows of it. The first thing that is said.
    fn link(&self, _facts: &serde_json::Map<String, serde_json::Value>) {}

    /// Parameters of `notifications/progress`, under the token the request came with.
    fn progress(&self, params: &RawValue);

    /// Parameters of `notifications/message`.
    fn log(&self, params: &RawValue);

    /// Any other notification that belongs to this request.
    fn notification(&self, method: &str, params: Option<&RawValue>);

    /// A request that only the client can answer: `elicitation/create`,
    /// `sampling/createMessage`, `roots/list`. `withdrawn` is stopped when the server takes it
    /// back or the request ends.
    ///
    /// # Errors
    ///
    /// The JSON-RPC error object for the server.
    fn ask(
        &self,
        method: &str,
        params: Option<&RawValue>,
        withdrawn: &Stop,
    ) -> Result<Box<RawValue>, Box<RawValue>>;
}

/// A [`Relay`] that hears nothing and is asked nothing.
#[derive(Clone, Copy, Debug)]
pub struct Deaf;

impl Relay for Deaf {
    fn progress(&self, _: &RawValue) {}

    fn log(&self, _: &RawValue) {}

    fn notification(&self, _: &str, _: Option<&RawValue>) {}

    fn ask(
        &self,
        method: &str,
        _: Option<&RawValue>,
        _: &Stop,
    ) -> Result<Box<RawValue>, Box<RawValue>> {
        Err(refusal(-32_601, &format!("nobody here answers `{method}`")))
    }
}

/// A JSON-RPC error object of our own.
pub(crate) fn refusal(code: i64, message: &str) -> Box<RawValue> {
    let error = serde_json::json!({ "code": code, "message": message });
    // A value of strings and numbers can always be written.
    serde_json::value::to_raw_value(&error).unwrap_or_default()
}
