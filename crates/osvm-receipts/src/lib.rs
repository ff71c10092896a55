//! A receipt for every call: one JSON line, signed, and chained to the line before.
//!
//! ```text
//! receipts/
//!   00000001.jsonl   {"seq":1,…,"prev":"000…","sig":"…"}
//!                    {"seq":2,…,"prev":"hash of line 1","sig":"…"}
//!   00000002.jsonl   {"seq":N,…,"prev":"hash of the last line of file 1","sig":"…"}
//!   head             which line is the newest, signed
//!   key, key.pub     ed25519, made on first use
//!   lock             one writer at a time
//! ```
//!
//! # Invariants
//!
//! - A line is written with one call of the kernel and never changed. What a crash cut off is
//!   removed by the next writer, which leaves a line that says so.
//! - The signature covers every byte of a line up to itself, its number and the hash of the line
//!   before it among them. So a line can't be changed, moved, added or left out unseen.
//! - The head is signed too, so the newest lines can't be left out unseen either.
//! - Several processes write here at once. The lock is held for one line.
//! - Nothing of arguments and results is kept but their digests.
//!
//! # Not here
//!
//! - What is written down: the runtime's [`osvm_runtime::Record`].
//! - `fsync`. A receipt survives the end of every process from the moment it is written; what a
//!   loss of power takes with it, `verify` reports as missing.

mod error;
mod head;
mod key;
mod line;
mod lock;
pub mod ocsf;
mod read;
mod record;
mod segment;
mod verify;
mod write;

pub use error::ReceiptError;
pub use key::PublicKey;
pub use line::{Anchor, BadAnchor, Hash};
pub use read::{Kind, Line, Place, Ran, Receipt, Recovered, files, lines};
pub use verify::{Finding, Flaw, Verdict, verify};
pub use write::Receipts;
