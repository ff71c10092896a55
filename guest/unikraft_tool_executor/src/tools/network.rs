//! What the tools that ask the network have in common.
//!
//! A guest has no network card. These tools need the host to act for them, and no host does yet:
//! their arguments are checked as for any tool, and then the call is refused.

use crate::context::Context;
use crate::tool::{Arguments, Reply};
use osvm_protocol::code::NETWORK_NOT_GRANTED;
use osvm_protocol::message::RpcError;
use osvm_protocol::tool::Annotations;
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer};

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
    ($($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "checked now, used once a host grants the network")]
        struct $name { $($(#[$meta])* $field: $type),* }
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

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Between<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            number if (MIN..=MAX).contains(&number) => Ok(Self),
            number => {
                Err(de::Error::custom(format_args!("{number} is not between {MIN} and {MAX}")))
            }
        }
    }
}

/// Addresses, up to a number of them.
pub(super) struct AtMost<T, const MAX: usize>(core::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let many = alloc::vec::Vec::<T>::deserialize(deserializer)?;
        match many.len() {
            len if len <= MAX => Ok(Self(core::marker::PhantomData)),
            len => Err(de::Error::custom(format_args!("{len} are over the limit of {MAX}"))),
        }
    }
}
