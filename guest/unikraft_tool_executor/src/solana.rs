//! What Solana's bytes mean: keys, signatures, transactions, instructions, token accounts.
//!
//! # Invariants
//!
//! - Every decoder is total: any bytes give a value or an error, and the work is bounded by the
//!   length of the bytes.
//! - Nothing here asks the network. What only the chain knows (the contents of an address look-up
//!   table) is reported as unknown.
//!
//! # Not here
//!
//! - JSON. `crate::tools::solana` decides what a caller sees.

pub(crate) mod address;
pub(crate) mod base58;
pub(crate) mod encoding;
pub(crate) mod program;
mod reader;
pub(crate) mod signature;
pub(crate) mod token_state;
pub(crate) mod transaction;
