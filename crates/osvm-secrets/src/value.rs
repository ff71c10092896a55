//! Names and values.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use zeroize::Zeroizing;

/// Longest name, in bytes. The isolation config has the same limit.
const MAX_NAME: usize = 64;

/// Longest value, in bytes: what fits into a header.
pub const MAX_VALUE: usize = 8 * 1024;

/// Shortest value, in bytes. What is shorter can be guessed, and can't be told from other text where
/// the broker cuts it out of responses.
const MIN_VALUE: usize = 8;

/// The name of a secret: 1 to 64 letters, digits, `_` and `-`, as in `${secret:NAME}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

/// The name can't be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a secret's name has 1 to 64 letters, digits, `_` and `-`")]
pub struct BadName;

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let fits = (1..=MAX_NAME).contains(&text.len()) && text.chars().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(BadName) }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of a secret. Its memory is wiped when it is dropped, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<String>);

/// The value can't be one. The message does not show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadValue {
    /// Too short to be one.
    #[error("a secret has at least 8 bytes")]
    Short,
    /// Too long for a header.
    #[error("a secret has at most 8192 bytes")]
    Long,
    /// It would not fit into a header.
    #[error("a secret is printable ASCII on one line")]
    Text,
}

impl BadValue {
    /// What the user can do next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Short | Self::Long => None,
            Self::Text => Some("encode other bytes first, with Base64 for example"),
        }
    }
}

impl SecretValue {
    /// Takes a value; the text given is wiped in any case.
    ///
    /// # Errors
    ///
    /// What keeps it from being one.
    pub fn new(text: Zeroizing<String>) -> Result<Self, BadValue> {
        if text.len() < MIN_VALUE {
            Err(BadValue::Short)
        } else if MAX_VALUE < text.len() {
            Err(BadValue::Long)
        } else if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            Err(BadValue::Text)
        } else {
            Ok(Self(text))
        }
    }

    /// The value itself. Whoever takes it must not let it reach a guest, a log or an error.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_config_can_say() {
        for name in ["A", "RPC_KEY", "my-key-1", &"x".repeat(64)] {
            assert_eq!(name.parse::<SecretName>().unwrap().as_str(), name);
        }
        for name in ["", "a b", "a}", "ä", "a.b", "a/b", &"x".repeat(65)] {
            assert_eq!(name.parse::<SecretName>(), Err(BadName), "{name}");
        }
    }

    #[test]
    fn a_value_fits_into_a_header() {
        let new = |text: &str| SecretValue::new(Zeroizing::new(text.into())).map(drop);
        assert_eq!(new("with space!"), Ok(()));
        assert_eq!(new("1234567"), Err(BadValue::Short));
        assert_eq!(new(&"x".repeat(MAX_VALUE + 1)), Err(BadValue::Long));
        assert_eq!(new("12345678\n"), Err(BadValue::Text));
        assert_eq!(new("ääääääää"), Err(BadValue::Text));
    }

    #[test]
    fn debug_shows_no_value() {
        let value = SecretValue::new(Zeroizing::new("s3cr3t-value".into())).unwrap();
        assert_eq!(format!("{value:?}"), "SecretValue");
    }
}
