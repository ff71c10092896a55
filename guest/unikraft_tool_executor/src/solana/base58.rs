//! Base58 with Bitcoin's alphabet, for keys, signatures and byte strings of any length.
//!
//! Keys and signatures go through `five8`. Byte strings go through the limbs below, because crate
//! `bs58` works digit by digit: where every instruction is interpreted, that made a 215-byte
//! transaction cost 190 thousand instructions to read and 370 thousand to write.
//!
//! # Invariants
//!
//! - The work grows with the square of the length, so every caller bounds it.

use alloc::string::String;
use alloc::vec::Vec;
use thiserror::Error;

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// 58⁵, the largest power of 58 below 2³².
const BIG_DIGIT: u64 = 656_356_768;
/// Digits in one big digit.
const DIGITS: usize = 5;
/// Bits of a limb that are used.
const LIMB_BITS: u32 = 32;
const LIMB_MASK: u64 = 0xffff_ffff;
const LIMB_BYTES: usize = 4;

/// The text is not base58 of the length wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Base58Error {
    /// Not a digit of the alphabet.
    #[error("character `{0}` is not base58")]
    BadCharacter(char),
    /// More digits than the caller takes.
    #[error("{digits} base58 digits are over the limit of {limit}")]
    TooLong {
        /// Digits given.
        digits: usize,
        /// Digits the caller takes.
        limit: usize,
    },
}

/// Writes a key, an address or a hash.
pub(crate) fn encode_32(bytes: &[u8; 32]) -> String {
    let mut digits = [0; five8::BASE58_ENCODED_32_MAX_LEN];
    let len = five8::encode_32(bytes, &mut digits);
    text(digits.get(..len.into()).unwrap_or_default())
}

/// Writes a signature.
pub(crate) fn encode_64(bytes: &[u8; 64]) -> String {
    let mut digits = [0; five8::BASE58_ENCODED_64_MAX_LEN];
    let len = five8::encode_64(bytes, &mut digits);
    text(digits.get(..len.into()).unwrap_or_default())
}

/// Reads a key, an address or a hash; `None` when the text is not base58 of 32 bytes.
pub(crate) fn decode_32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    five8::decode_32(text, &mut bytes).ok().map(|()| bytes)
}

/// Reads a signature; `None` when the text is not base58 of 64 bytes.
pub(crate) fn decode_64(text: &str) -> Option<[u8; 64]> {
    let mut bytes = [0; 64];
    five8::decode_64(text, &mut bytes).ok().map(|()| bytes)
}

/// Writes bytes of any length.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let number = bytes.get(zeros..).unwrap_or_default();
    // Big digits, the lowest first.
    let mut big: Vec<u64> = Vec::with_capacity(number.len() / 3 + 1);
    for word in number.chunks(LIMB_BYTES) {
        let mut carry = word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        for digit in &mut big {
            let value = (*digit << (8 * word.len())) + carry;
            *digit = value % BIG_DIGIT;
            carry = value / BIG_DIGIT;
        }
        while carry != 0 {
            big.push(carry % BIG_DIGIT);
            carry /= BIG_DIGIT;
        }
    }
    let mut digits = Vec::with_capacity(zeros + big.len() * DIGITS);
    for mut value in big {
        for _ in 0..DIGITS {
            digits.push(digit(value % 58));
            value /= 58;
        }
    }
    while digits.pop_if(|digit| *digit == b'1').is_some() {}
    digits.resize(digits.len() + zeros, b'1');
    digits.reverse();
    text(&digits)
}

/// Reads at most `limit` digits.
pub(crate) fn decode(text: &str, limit: usize) -> Result<Vec<u8>, Base58Error> {
    if limit < text.len() {
        return Err(Base58Error::TooLong { digits: text.len(), limit });
    }
    let zeros = text.bytes().take_while(|digit| *digit == b'1').count();
    let number = text.as_bytes().get(zeros..).unwrap_or_default();
    // Limbs of 32 bits, the lowest first.
    let mut limbs: Vec<u64> = Vec::with_capacity(number.len() / DIGITS + 1);
    for chunk in number.chunks(DIGITS) {
        let (mut carry, mut power) = (0, 1);
        for digit in chunk {
            carry = carry * 58 + value(*digit).ok_or_else(|| bad_character(text))?;
            power *= 58;
        }
        for limb in &mut limbs {
            let value = *limb * power + carry;
            *limb = value & LIMB_MASK;
            carry = value >> LIMB_BITS;
        }
        if carry != 0 {
            limbs.push(carry);
        }
    }
    let mut bytes = Vec::with_capacity(zeros + limbs.len() * LIMB_BYTES);
    for limb in limbs {
        let [a, b, c, d, ..] = limb.to_le_bytes();
        bytes.extend_from_slice(&[a, b, c, d]);
    }
    while bytes.pop_if(|byte| *byte == 0).is_some() {}
    bytes.resize(bytes.len() + zeros, 0);
    bytes.reverse();
    Ok(bytes)
}

#[cold]
fn bad_character(text: &str) -> Base58Error {
    let is_bad =
        |character: &char| u8::try_from(*character).ok().is_none_or(|digit| value(digit).is_none());
    Base58Error::BadCharacter(text.chars().find(is_bad).unwrap_or('?'))
}

/// The digit for a value below 58.
fn digit(value: u64) -> u8 {
    let value = usize::from(value.to_le_bytes()[0]);
    ALPHABET.get(value).copied().unwrap_or(b'1')
}

/// The value of a digit.
fn value(digit: u8) -> Option<u64> {
    VALUES.get(usize::from(digit)).filter(|value| **value < 58).map(|value| u64::from(*value))
}

static VALUES: [u8; 128] = values();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "computed when built: an index out of range or a value over 57 would not compile"
)]
const fn values() -> [u8; 128] {
    let mut values = [u8::MAX; 128];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
}

/// Digits are ASCII, so this is always all of them.
fn text(digits: &[u8]) -> String {
    str::from_utf8(digits).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_base58_is_named() {
        assert_eq!(decode("ab0", 9), Err(Base58Error::BadCharacter('0')));
        assert_eq!(decode("aß", 9), Err(Base58Error::BadCharacter('ß')));
        assert_eq!(decode("abcd", 3), Err(Base58Error::TooLong { digits: 4, limit: 3 }));
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(encode(&[]), "");
        assert_eq!(decode("", 0), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn encoding_agrees_with_bs58(zeros in 0..9_usize, bytes: Vec<u8>) {
            let bytes = [vec![0; zeros], bytes].concat();
            let digits = bs58::encode(&bytes).into_string();
            assert_eq!(encode(&bytes), digits);
            assert_eq!(decode(&digits, 1000).unwrap(), bytes);
        }

        #[test]
        fn keys_and_signatures_agree_with_bs58(key: [u8; 32], low: [u8; 32], zeros in 0..=32_usize) {
            let mut key = key;
            key[..zeros].fill(0);
            let signature: [u8; 64] = [key, low].concat().try_into().unwrap();
            assert_eq!(encode_32(&key), bs58::encode(key).into_string());
            assert_eq!(decode_32(&encode_32(&key)), Some(key));
            assert_eq!(encode_64(&signature), bs58::encode(signature).into_string());
            assert_eq!(decode_64(&encode_64(&signature)), Some(signature));
        }

        #[test]
        fn decoding_agrees_with_bs58(text in "[1-9A-HJ-NP-Za-km-z]{0,200}|\\PC{0,50}") {
            assert_eq!(decode(&text, 1000).ok(), bs58::decode(&text).into_vec().ok());
            let fixed = bs58::decode(&text).into_vec().ok().and_then(|bytes| bytes.try_into().ok());
            assert_eq!(decode_32(&text), fixed);
        }
    }
}
