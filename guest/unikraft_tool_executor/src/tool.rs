//! What a tool is: its definition for people and models, and the function that runs it.

use crate::context::Context;
use crate::json::{self, Object};
use alloc::format;
use alloc::string::String;
use osvm_protocol::code::INVALID_PARAMS;
use osvm_protocol::frame::Builder;
use osvm_protocol::message::RpcError;
use osvm_protocol::tool::Annotations;
use serde::Deserialize;
use serde_json::value::RawValue;

/// One tool, declared once.
pub(crate) struct Tool {
    /// The server it belongs to.
    pub(crate) server: &'static str,
    /// Its name, unique within the server.
    pub(crate) name: &'static str,
    /// What it does, for people and models.
    pub(crate) description: &'static str,
    /// JSON Schema 2020-12 of the arguments.
    pub(crate) input: &'static str,
    /// JSON Schema 2020-12 of the result.
    pub(crate) output: &'static str,
    /// What the tool may do.
    pub(crate) annotations: Annotations,
    /// Whether it can only answer with the network granted.
    pub(crate) needs_network: bool,
    /// Runs it.
    pub(crate) run: Run,
}

/// Checks the arguments, does the work and writes the result.
pub(crate) type Run = fn(&mut Context<'_>, Arguments<'_>, &mut Reply) -> Result<(), RpcError>;

/// Computes from its arguments alone.
pub(crate) const PURE: Annotations =
    Annotations { read_only_hint: true, destructive_hint: false, open_world_hint: false };

/// The `params` of a request, not parsed yet.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a>(pub(crate) Option<&'a RawValue>);

impl<'a> Arguments<'a> {
    /// Reads them as `T`, an error names the argument that is wrong.
    pub(crate) fn parse<T: Deserialize<'a>>(self) -> Result<T, RpcError> {
        let text = self.0.map_or("{}", RawValue::get);
        serde_json::from_str(text).map_err(|_| explain::<T>(text))
    }
}

/// Reads the arguments again with the path of each value at hand, which is too costly for
/// arguments that are right.
#[cold]
fn explain<'a, T: Deserialize<'a>>(text: &'a str) -> RpcError {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found: Result<T, _> = serde_path_to_error::deserialize(&mut deserializer);
    let Err(error) = found else {
        return RpcError::new(INVALID_PARAMS, "arguments cannot be read");
    };
    let path = format!("{}", error.path());
    let reason = without_position(format!("{}", error.inner()));
    let message = match path.as_str() {
        "." => format!("wrong arguments: {reason}"),
        path => format!("wrong argument `{path}`: {reason}"),
    };
    RpcError::new(INVALID_PARAMS, message)
}

/// `serde_json` ends its messages with a line and column, which mean nothing to a caller who
/// never saw the text.
fn without_position(mut message: String) -> String {
    if let Some(at) = message.rfind(" at line ") {
        message.truncate(at);
    }
    message
}

/// Where a tool writes its result: straight into the frame that is sent.
pub(crate) struct Reply {
    frame: Builder,
}

impl Reply {
    /// Continues a frame that was opened with `begin_result`.
    pub(crate) fn new(frame: Builder) -> Self {
        Self { frame }
    }

    /// Writes the result, an object. A tool calls this once, as the last thing it does.
    pub(crate) fn object(&mut self, members: impl FnOnce(&mut Object<'_>)) {
        json::object(&mut self.frame, members);
    }

    /// Gives the frame back.
    pub(crate) fn into_frame(self) -> Builder {
        self.frame
    }
}
