//! What a tool is: its definition for people and models, and the function that runs it.

use crate::answer::Part;
use crate::context::Context;
use crate::json::{self, Object};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use osvm_protocol::code::INVALID_PARAMS;
use osvm_protocol::frame::Builder;
use osvm_protocol::message::RpcError;
use osvm_protocol::tool::Annotations;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
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

/// Reads from the network.
pub(crate) const READS: Annotations =
    Annotations { read_only_hint: true, destructive_hint: false, open_world_hint: true };

/// Changes something on the network, for good or not.
pub(crate) const WRITES: Annotations =
    Annotations { read_only_hint: false, destructive_hint: false, open_world_hint: true };

/// Changes something on the network for good.
pub(crate) const DESTROYS: Annotations =
    Annotations { read_only_hint: false, destructive_hint: true, open_world_hint: true };

/// The `params` of a request, not parsed yet.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a>(pub(crate) Option<&'a RawValue>);

impl<'a> Arguments<'a> {
    /// Reads them as `T`, if they fit. Faster than [`Arguments::fields`], which can say what is
    /// wrong, but compiled once for every `T`.
    pub(crate) fn fast<T: Deserialize<'a>>(self) -> Option<T> {
        serde_json::from_str(self.text()).ok()
    }

    fn text(self) -> &'a str {
        self.0.map_or("{}", RawValue::get)
    }
}

/// One argument, not read yet.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    part: Part<'a>,
    /// What errors call it.
    name: &'a str,
}

impl<'a> Arguments<'a> {
    /// The arguments of these names, and no others.
    pub(crate) fn fields<const N: usize>(
        self,
        names: [&'static str; N],
    ) -> Result<[Field<'a>; N], RpcError> {
        let mut fields = names.map(|name| Field { part: Part::missing(name), name });
        fill(self.text(), None, &mut fields)?;
        Ok(fields)
    }
}

/// Fills in the members of an object; `of` is the argument it is, if it is not all of them.
#[inline(never)]
fn fill<'a>(text: &'a str, of: Option<&str>, fields: &mut [Field<'a>]) -> Result<(), RpcError> {
    let wrong = |reason: &dyn fmt::Display| match of {
        Some(name) => invalid(name, reason),
        None => RpcError::new(INVALID_PARAMS, format!("wrong arguments: {reason}")),
    };
    let Ok(Members(members)) = serde_json::from_str(text) else {
        return Err(wrong(&"not an object"));
    };
    for (name, value) in members {
        let Some(field) = fields.iter_mut().find(|field| field.name == name) else {
            let known = fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none" } else { &known };
            return Err(wrong(&format_args!("unknown field `{name}`, there is {known}")));
        };
        if !field.part.is_missing() {
            return Err(wrong(&format_args!("`{name}` is there twice")));
        }
        field.part = Part::new(field.part.name(), value);
    }
    Ok(())
}

impl<'a> Field<'a> {
    /// What errors call it.
    pub(crate) fn name(self) -> &'a str {
        self.name
    }

    /// What was given.
    pub(crate) fn part(self) -> Part<'a> {
        self.part
    }

    /// Whether nothing was given, or `null`.
    pub(crate) fn is_nothing(self) -> bool {
        self.part.is_nothing()
    }

    /// An element of this list.
    pub(crate) fn element(self, part: Part<'a>) -> Self {
        Self { part, name: self.name }
    }

    /// The members of these names of an object, and no others. Errors name the whole argument.
    pub(crate) fn fields<const N: usize>(
        self,
        names: [&'static str; N],
    ) -> Result<[Field<'a>; N], RpcError> {
        let mut fields = names.map(|name| Field { part: Part::missing(name), name });
        fill(self.part.raw().get(), Some(self.name), &mut fields)?;
        Ok(fields)
    }

    /// A string.
    #[inline(never)]
    pub(crate) fn text(self) -> Result<Cow<'a, str>, RpcError> {
        if self.part.is_missing() {
            return Err(self.invalid(&"it is missing"));
        }
        self.part.text().map_err(|_| self.invalid(&"not a string"))
    }

    /// Says what is wrong with this argument.
    #[cold]
    pub(crate) fn invalid(self, reason: &dyn fmt::Display) -> RpcError {
        invalid(self.name, reason)
    }
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// An argument that has the right type and is still wrong.
#[cold]
pub(crate) fn invalid(name: &str, reason: &dyn fmt::Display) -> RpcError {
    RpcError::new(INVALID_PARAMS, format!("wrong argument `{name}`: {reason}"))
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

    /// Writes the result, an object, and returns what its closure does. A tool calls this once, as
    /// the last thing it does; when it fails after all, what it wrote is dropped.
    pub(crate) fn object<R>(&mut self, members: impl FnOnce(&mut Object<'_>) -> R) -> R {
        json::object(&mut self.frame, members)
    }

    /// Gives the frame back.
    pub(crate) fn into_frame(self) -> Builder {
        self.frame
    }
}
