//! What a tool may use besides its arguments.

use crate::Facts;
use crate::json::Object;
use alloc::boxed::Box;
use osvm_protocol::message::RpcError;
use serde_json::value::RawValue;

/// Handed to every tool for one call.
pub(crate) struct Context<'a> {
    /// What the platform knows about this guest.
    pub(crate) facts: &'a Facts<'a>,
    /// The way to the host while the tool works.
    pub(crate) host: &'a mut dyn Host,
}

impl<'a> Context<'a> {
    /// The value of an environment variable of this guest.
    pub(crate) fn env(&self, name: &str) -> Option<&'a str> {
        let facts: &'a Facts<'a> = self.facts;
        facts.env.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// Asks the host for something on the stream the call came in on.
pub(crate) trait Host {
    /// Sends a `host/…` request, whose parameters `params` writes, and waits for its answer.
    ///
    /// An error is the host's own, or says that the host broke the protocol.
    fn call(
        &mut self,
        method: &str,
        params: &dyn Fn(&mut Object<'_>),
    ) -> Result<Box<RawValue>, RpcError>;
}
