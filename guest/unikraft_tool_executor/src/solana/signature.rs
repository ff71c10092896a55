//! Signatures: 64 bytes of ed25519, checked as Solana checks them.
//!
//! Solana accepts what `ed25519-dalek`'s `verify_strict` accepts: the equation of RFC 8032 without
//! the cofactor, a canonical scalar, and neither the key nor the signature's point of small order.
//! [`verify`] says yes to exactly the same signatures. It does not decompress the signature's
//! point to learn its order: the equation holds only if the signature carries the canonical
//! encoding of the point that was computed, and only eight such encodings are of small order.
//! Where instructions are interpreted that saves 55 thousand of them.

use super::base58;
use super::encoding::Encoding;
use ed25519_dalek::{Signature as Dalek, Verifier, VerifyingKey};

/// 64 bytes that sign something, or do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature(pub(crate) [u8; 64]);

impl Signature {
    /// Reads base58, or else base64 (padding may be missing).
    ///
    /// A text that is base58 of 64 bytes is taken as that, because that is how Solana writes
    /// signatures. Base64 with its padding never is; without padding it is in fewer than one of
    /// 100,000 cases.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        base58::decode_64(text)
            .or_else(|| Encoding::Base64.decode(text).ok()?.try_into().ok())
            .map(Self)
    }
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The key is no point of the curve: nobody can sign with it.
    NotAKey,
    /// The key is of small order: anybody can sign with it.
    WeakKey,
    /// The signature is not of this key and message.
    Mismatch,
}

impl Fault {
    /// For people.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotAKey => "the public key is not a point of the curve",
            Self::WeakKey => "the public key is of small order, so anybody could sign with it",
            Self::Mismatch => "the signature does not belong to this key and message",
        }
    }
}

/// Checks a signature as Solana does.
pub(crate) fn verify(key: &[u8; 32], message: &[u8], signature: &Signature) -> Result<(), Fault> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| Fault::NotAKey)?;
    if key.is_weak() {
        return Err(Fault::WeakKey);
    }
    let signature = Dalek::from_bytes(&signature.0);
    if SMALL_ORDER.contains(signature.r_bytes()) {
        return Err(Fault::Mismatch);
    }
    key.verify(message, &signature).map_err(|_| Fault::Mismatch)
}

/// The canonical encodings of the eight points whose order divides eight.
const SMALL_ORDER: [[u8; 32]; 8] = [
    first_byte_and_rest(0x01, 0x00, 0x00),
    first_byte_and_rest(0xec, 0xff, 0x7f),
    first_byte_and_rest(0x00, 0x00, 0x00),
    first_byte_and_rest(0x00, 0x00, 0x80),
    ORDER_EIGHT_A,
    with_sign(ORDER_EIGHT_A),
    ORDER_EIGHT_B,
    with_sign(ORDER_EIGHT_B),
];

const ORDER_EIGHT_A: [u8; 32] = [
    0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
    0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
];

const ORDER_EIGHT_B: [u8; 32] = [
    0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
    0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
];

const fn first_byte_and_rest(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

const fn with_sign(mut bytes: [u8; 32]) -> [u8; 32] {
    bytes[31] |= 0x80;
    bytes
}

#[cfg(test)]
mod tests;
