//! Addresses: 32 bytes, shown as base58, on the ed25519 curve or off it.
//!
//! An address on the curve can belong to a key pair. One off the curve can only be derived from a
//! program, which is what makes it the program's own.

use super::base58::{self, Base58Error};
use alloc::string::String;
use curve25519_dalek::edwards::CompressedEdwardsY;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Most seeds an address is derived from, the bump among them.
pub(crate) const MAX_SEEDS: usize = 16;
/// Most bytes of one seed.
pub(crate) const MAX_SEED_LEN: usize = 32;

/// What Solana appends before it hashes, so that a derived address is never a hash of something
/// else.
const DERIVATION_MARKER: &[u8] = b"ProgramDerivedAddress";

/// Most base58 digits 32 bytes can have.
const MAX_DIGITS: usize = 44;

/// 32 bytes that name an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) [u8; 32]);

/// The text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum AddressError {
    /// Not base58.
    #[error(transparent)]
    Base58(#[from] Base58Error),
    /// Base58 of another length.
    #[error("{0} bytes long, an address has 32")]
    Length(usize),
}

impl Address {
    /// Reads base58.
    pub(crate) fn parse(text: &str) -> Result<Self, AddressError> {
        base58::decode_32(text).map(Self).ok_or_else(|| match base58::decode(text, MAX_DIGITS) {
            Ok(bytes) => AddressError::Length(bytes.len()),
            Err(error) => error.into(),
        })
    }

    /// Writes base58.
    pub(crate) fn text(&self) -> String {
        base58::encode_32(&self.0)
    }

    /// Whether the bytes are a point of the curve.
    pub(crate) fn is_on_curve(&self) -> bool {
        CompressedEdwardsY(self.0).decompress().is_some()
    }
}

/// Why no address comes out of these seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum DeriveError {
    /// More than [`MAX_SEEDS`] with the bump.
    #[error("{0} seeds and a bump are over the limit of {MAX_SEEDS} seeds")]
    TooManySeeds(usize),
    /// One is longer than [`MAX_SEED_LEN`].
    #[error("seed {at} is {len} bytes long, the limit is {MAX_SEED_LEN}")]
    SeedTooLong {
        /// Its position, from 0.
        at: usize,
        /// Its length in bytes.
        len: usize,
    },
    /// The hash for the bump asked for is on the curve.
    #[error("bump {0} gives an address on the curve, which no program can own")]
    OnCurve(u8),
    /// No bump gives an address off the curve.
    #[error("no bump gives an address off the curve")]
    NoBump,
}

/// The first address off the curve, with the bump counted down from 255: what Solana calls
/// `find_program_address`.
pub(crate) fn find(seeds: &[&[u8]], program: &Address) -> Result<(Address, u8), DeriveError> {
    let hash = absorb(seeds)?;
    (0..=u8::MAX)
        .rev()
        .find_map(|bump| off_curve(&hash, bump, program).map(|address| (address, bump)))
        .ok_or(DeriveError::NoBump)
}

/// The address for one bump: `create_program_address` with the bump as the last seed.
pub(crate) fn create(seeds: &[&[u8]], bump: u8, program: &Address) -> Result<Address, DeriveError> {
    off_curve(&absorb(seeds)?, bump, program).ok_or(DeriveError::OnCurve(bump))
}

fn absorb(seeds: &[&[u8]]) -> Result<Sha256, DeriveError> {
    if MAX_SEEDS <= seeds.len() {
        return Err(DeriveError::TooManySeeds(seeds.len()));
    }
    let mut hash = Sha256::new();
    for (at, seed) in seeds.iter().enumerate() {
        if MAX_SEED_LEN < seed.len() {
            return Err(DeriveError::SeedTooLong { at, len: seed.len() });
        }
        hash.update(seed);
    }
    Ok(hash)
}

fn off_curve(seeds: &Sha256, bump: u8, program: &Address) -> Option<Address> {
    let hash = seeds.clone().chain_update([bump]).chain_update(program.0);
    let address = Address(hash.chain_update(DERIVATION_MARKER).finalize().into());
    (!address.is_on_curve()).then_some(address)
}
