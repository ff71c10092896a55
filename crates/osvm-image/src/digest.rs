//! SHA-256 digests in the form `sha256:<hex>`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;
use thiserror::Error;

const PREFIX: &str = "sha256:";

/// SHA-256 of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest and the length of what `reader` gives until it ends.
    ///
    /// # Errors
    ///
    /// Whatever `reader` answers.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Self, u64)> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut len = 0_u64;
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok((Self(hash.finalize().into()), len)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            hash.update(buffer.get(..read).unwrap_or_default());
            len = len.saturating_add(read as u64);
        }
    }

    /// The 64 hexadecimal digits, without what tells the kind of digest.
    pub fn hex(&self) -> String {
        self.to_string().split_off(PREFIX.len())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a digest.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("a digest is `sha256:` and 64 hexadecimal digits")]
pub struct BadDigest;

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let hex = text.strip_prefix(PREFIX).ok_or(BadDigest)?.as_bytes();
        let mut digest = [0; 32];
        if hex.len() != 2 * digest.len() {
            return Err(BadDigest);
        }
        for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = pair.iter().try_fold(0, |byte, digit| Ok((byte << 4) | nibble(*digit)?))?;
        }
        Ok(Self(digest))
    }
}

fn nibble(digit: u8) -> Result<u8, BadDigest> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(BadDigest),
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4, example for the empty message.
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_standard_one() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
    }

    #[test]
    fn a_reader_gives_the_digest_and_length_of_its_bytes() {
        let bytes = vec![7; (1 << 18) + 3];
        let (digest, len) = Digest::of_reader(bytes.as_slice()).unwrap();
        assert_eq!((digest, len), (Digest::of(&bytes), bytes.len() as u64));
        assert_eq!(format!("sha256:{}", digest.hex()), digest.to_string());
    }

    #[test]
    fn text_of_another_shape_is_refused() {
        let long = format!("{EMPTY}00");
        let upper = EMPTY.to_uppercase();
        for text in ["", "sha256:", "e3b0", &EMPTY[7..], &EMPTY[..70], &long, &upper] {
            assert_eq!(text.parse::<Digest>(), Err(BadDigest), "{text}");
        }
    }
}
