//! The form of a line: JSON whose last two members are the hash of the line before and the
//! signature.
//!
//! ```text
//! {"seq":7,…,"prev":"<64 digits>","sig":"<128 digits>"}
//! └──────────── signed ─────────┘
//! └──────────────────── hashed ───────────────────────┘
//! ```
//!
//! The checks read the bytes as they stand and never as JSON, so there is no second way to write
//! a line that means the same.

use crate::key::{Key, PublicKey};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Longest line, in bytes.
pub(crate) const MAX_LINE: usize = 1024 * 1024;

/// What a signature of a line begins with, so that it is none of anything else.
const DOMAIN: &[u8] = b"osvm receipt 1\n";

const SEQ: &[u8] = b"{\"seq\":";
const PREV: &[u8] = b",\"prev\":\"";
const SIG: &[u8] = b",\"sig\":\"";

/// SHA-256 of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What the first line of all has as the hash of the line before.
    pub(crate) const NONE: Self = Self([0; 32]);

    /// The hash of a line, without its end.
    pub fn of(line: &[u8]) -> Self {
        Self(Sha256::digest(line).into())
    }

    pub(crate) fn parse(digits: &[u8]) -> Option<Self> {
        unhex(digits).map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A line, by number and hash: all that is before it is fixed by it. Kept elsewhere, it shows
/// whether the receipts were replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Number of the line, from 1.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// The text is no anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "an anchor is a number, `:` and 64 hexadecimal digits, as `osvm receipts verify` prints it"
)]
pub struct BadAnchor;

impl FromStr for Anchor {
    type Err = BadAnchor;

    fn from_str(text: &str) -> Result<Self, BadAnchor> {
        let (seq, hash) = text.split_once(':').ok_or(BadAnchor)?;
        let seq = number(seq.as_bytes()).filter(|seq| *seq > 0).ok_or(BadAnchor)?;
        Ok(Self { seq, hash: Hash::parse(hash.as_bytes()).ok_or(BadAnchor)? })
    }
}

/// Finishes a line: `object` is JSON that begins with `{"seq":`. The end of the line is not part
/// of it.
pub(crate) fn seal(mut object: Vec<u8>, prev: Hash, key: &Key) -> Vec<u8> {
    // The brace that ends it comes behind the signature.
    object.pop();
    object.extend_from_slice(PREV);
    object.extend_from_slice(prev.to_string().as_bytes());
    object.push(b'"');
    let signature = key.sign(&message(&object));
    object.extend_from_slice(SIG);
    object.extend_from_slice(hex(&signature).as_bytes());
    object.extend_from_slice(b"\"}");
    object
}

/// A line that has the form of one. Whether it is genuine is another question.
#[derive(Debug)]
pub(crate) struct Sealed<'a> {
    pub(crate) seq: u64,
    pub(crate) prev: Hash,
    signed: &'a [u8],
    signature: [u8; 64],
}

impl<'a> Sealed<'a> {
    /// Takes a line apart.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let (signed, signature) = member::<64>(line.strip_suffix(b"}")?, SIG)?;
        let (body, prev) = member::<32>(signed, PREV)?;
        let digits = body.strip_prefix(SEQ)?;
        let end = digits.iter().position(|byte| *byte == b',')?;
        let seq = number(digits.get(..end)?)?;
        Some(Self { seq, prev: Hash(prev), signed, signature })
    }

    /// Whether whoever has the secret key wrote it.
    pub(crate) fn is_genuine(&self, key: &PublicKey) -> bool {
        key.check(&message(self.signed), &self.signature)
    }
}

fn message(signed: &[u8]) -> Vec<u8> {
    [DOMAIN, signed].concat()
}

/// Splits the last member off, which holds `N` bytes in hexadecimal digits.
fn member<'a, const N: usize>(text: &'a [u8], name: &[u8]) -> Option<(&'a [u8], [u8; N])> {
    let text = text.strip_suffix(b"\"")?;
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(2 * N)?)?;
    Some((rest.strip_suffix(name)?, unhex(digits)?))
}

/// A number as `serde_json` writes it.
fn number(digits: &[u8]) -> Option<u64> {
    let text = str::from_utf8(digits).ok()?;
    let number = text.parse::<u64>().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    digits.map(char::from).collect()
}

/// The bytes of exactly `2 * N` lower-case hexadecimal digits.
pub(crate) fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_sealed_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::open(dir.path(), true).unwrap();
        let prev = Hash::of(b"x");
        let line = seal(br#"{"seq":7,"kind":"call"}"#.to_vec(), prev, &key);
        let sealed = Sealed::parse(&line).unwrap();
        assert_eq!((sealed.seq, sealed.prev), (7, prev));
        assert!(sealed.is_genuine(&key.public()));
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn every_bit_counts() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::open(dir.path(), true).unwrap();
        let line = seal(br#"{"seq":7,"tool":"a"}"#.to_vec(), Hash::NONE, &key);
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut changed = line.clone();
                changed[at] ^= 1 << bit;
                let genuine = Sealed::parse(&changed).is_some_and(|s| s.is_genuine(&key.public()));
                assert!(!genuine, "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn an_anchor_keeps_its_text() {
        let anchor = Anchor { seq: 12, hash: Hash::of(b"line") };
        assert_eq!(anchor.to_string().parse(), Ok(anchor));
        for text in ["", "12", "0:00", "012:00", "-1:00", "1:xyz"] {
            assert_eq!(text.parse::<Anchor>(), Err(BadAnchor), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _parsed = Sealed::parse(&bytes);
        }

        #[test]
        fn digits_are_bytes(bytes in any::<[u8; 32]>()) {
            prop_assert_eq!(unhex::<32>(hex(&bytes).as_bytes()), Some(bytes));
        }
    }
}
