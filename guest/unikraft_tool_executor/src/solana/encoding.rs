//! Byte strings as text: UTF-8, base58, base64 and hexadecimal.

use super::base58::{self, Base58Error};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use thiserror::Error;

/// Most base58 digits read as one byte string: reading costs the square of the length.
const BASE58_DIGITS: usize = 5_600;

/// Padding is written, and may be missing in what is read.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How bytes are written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// The bytes of the text itself.
    Utf8,
    /// Bitcoin's alphabet.
    Base58,
    /// RFC 4648, section 4; padding may be missing.
    Base64,
    /// RFC 4648, section 8, in either case.
    Hex,
}

/// How Solana writes whole transactions and accounts as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packed {
    /// See [`Encoding::Base58`].
    Base58,
    /// See [`Encoding::Base64`].
    Base64,
}

impl From<Packed> for Encoding {
    fn from(packed: Packed) -> Self {
        match packed {
            Packed::Base58 => Self::Base58,
            Packed::Base64 => Self::Base64,
        }
    }
}

/// The text is not of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum EncodingError {
    /// Not base58, or too much of it.
    #[error(transparent)]
    Base58(#[from] Base58Error),
    /// Not base64.
    #[error("not base64")]
    Base64,
    /// Not hexadecimal.
    #[error("not an even number of hexadecimal digits")]
    Hex,
}

impl Encoding {
    /// The name a caller uses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "utf8",
            Self::Base58 => "base58",
            Self::Base64 => "base64",
            Self::Hex => "hex",
        }
    }

    /// Reads the bytes.
    pub(crate) fn decode(self, text: &str) -> Result<Vec<u8>, EncodingError> {
        match self {
            Self::Utf8 => Ok(text.as_bytes().to_owned()),
            Self::Base58 => Ok(base58::decode(text, BASE58_DIGITS)?),
            Self::Base64 => LENIENT.decode(text).map_err(|_| EncodingError::Base64),
            Self::Hex => hex_bytes(text).ok_or(EncodingError::Hex),
        }
    }
}

/// Writes base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Writes hexadecimal digits, lowercase.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
        }
    }
    text
}

fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks() else { return None };
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

fn nibble(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_of_base64_may_be_missing() {
        assert_eq!(Encoding::Base64.decode("aGk=").unwrap(), b"hi");
        assert_eq!(Encoding::Base64.decode("aGk").unwrap(), b"hi");
    }

    #[test]
    fn what_is_not_of_its_encoding_is_refused() {
        assert_eq!(Encoding::Base64.decode("a b="), Err(EncodingError::Base64));
        assert_eq!(Encoding::Hex.decode("abc"), Err(EncodingError::Hex));
        assert_eq!(Encoding::Hex.decode("0x"), Err(EncodingError::Hex));
        let long = "2".repeat(BASE58_DIGITS + 1);
        assert!(matches!(Encoding::Base58.decode(&long), Err(EncodingError::Base58(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(bytes: Vec<u8>) {
            assert_eq!(Encoding::Hex.decode(&hex(&bytes)).unwrap(), bytes);
            assert_eq!(Encoding::Hex.decode(&hex(&bytes).to_uppercase()).unwrap(), bytes);
            assert_eq!(Encoding::Base64.decode(&base64(&bytes)).unwrap(), bytes);
            assert_eq!(Encoding::Base58.decode(&base58::encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn any_text_is_bytes_or_an_error(text in "\\PC*") {
            for encoding in [Encoding::Utf8, Encoding::Base58, Encoding::Base64, Encoding::Hex] {
                let _ = encoding.decode(&text);
            }
        }
    }
}
