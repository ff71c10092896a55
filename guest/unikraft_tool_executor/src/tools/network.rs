//! What the tools that ask the network have in common.
//!
//! A guest has no network card. These tools need the host to act for them, and no host does yet:
//! their arguments are checked as for any tool, and then the call is refused.

use crate::context::Context;
use crate::tool::{Arguments, Reply};
use core::fmt;
use core::marker::PhantomData;
use osvm_protocol::code::NETWORK_NOT_GRANTED;
use osvm_protocol::message::RpcError;
use osvm_protocol::tool::Annotations;
use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, SeqAccess, Unexpected, Visitor,
};

/// Reads from the network.
pub(super) const READS: Annotations =
    Annotations { read_only_hint: true, destructive_hint: false, open_world_hint: true };
/// Changes something, for good or not.
pub(super) const WRITES: Annotations =
    Annotations { read_only_hint: false, destructive_hint: false, open_world_hint: true };
/// Changes something for good.
pub(super) const DESTROYS: Annotations =
    Annotations { read_only_hint: false, destructive_hint: true, open_world_hint: true };

/// Checks the arguments, then refuses the call.
pub(super) fn refuse<T: DeserializeOwned>(
    _: &mut Context<'_>,
    arguments: Arguments<'_>,
    _: &mut Reply,
) -> Result<(), RpcError> {
    let _checked: T = arguments.parse()?;
    Err(RpcError::new(
        NETWORK_NOT_GRANTED,
        "this tool needs the network, which this guest was not granted: it takes \
         `network_enabled` and an `egress` rule for the tool in the isolation config, and an \
         osvm whose broker serves them",
    ))
}

/// Declares the arguments of tools that ask the network.
macro_rules! arguments {
    ($($name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "checked now, used once a host grants the network")]
        struct $name { $($field: $type),* }
    )*};
}
pub(super) use arguments;

/// How sure the answer must be.
#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Commitment {
    /// The node has it.
    Processed,
    /// Most validators have voted for it.
    Confirmed,
    /// It cannot be undone.
    Finalized,
}

/// A number of a range.
pub(super) struct Between<const MIN: u64, const MAX: u64>;

// By visitor, as below: an error from within one carries the place of the argument.
impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Between<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(Self)
    }
}

impl<const MIN: u64, const MAX: u64> Visitor<'_> for Between<MIN, MAX> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self, E> {
        if (MIN..=MAX).contains(&number) {
            return Ok(self);
        }
        Err(E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

/// A list of limited length.
pub(super) struct AtMost<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        for len in 1_usize.. {
            if list.next_element::<T>()?.is_none() {
                break;
            }
            if MAX < len {
                return Err(de::Error::invalid_length(len, &self));
            }
        }
        Ok(self)
    }
}
