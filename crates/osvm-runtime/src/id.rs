//! Ids of calls: a time and 80 random bits, in the text form of a ULID.
//!
//! Later calls sort after earlier ones. A guest never learns the id of its call, so nothing it
//! writes to its console can pass for what osvm writes there.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};
use ulid::Ulid;

/// The id of one call: 26 characters in Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(Ulid);

impl CallId {
    /// Length of the text form.
    pub const LEN: usize = ulid::ULID_LEN;

    /// The id of a call that begins now, or of anything else that asks the host for something.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        // The standard library keys its hashers with random bytes of the kernel and never tells
        // the keys, so these 128 bits can't be guessed.
        let random = [0, 1].map(|half: u8| RandomState::new().hash_one((half, since_epoch)));
        let random = random.iter().fold(0, |bits, half| bits << 64 | u128::from(*half));
        Self(Ulid::from_parts(millis, random))
    }

    /// When the call began.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + std::time::Duration::from_millis(self.0.timestamp_ms())
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for CallId {
    type Err = BadCallId;

    fn from_str(text: &str) -> Result<Self, BadCallId> {
        Ulid::from_string(text).map(Self).map_err(|_| BadCallId)
    }
}

impl serde::Serialize for CallId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for CallId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is not a call id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a call id is {len} letters and digits", len = CallId::LEN)]
pub struct BadCallId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_keep_their_text() {
        let (one, other) = (CallId::now(), CallId::now());
        assert_ne!(one, other);
        assert_eq!(one.to_string().len(), CallId::LEN);
        assert_eq!(one.to_string().parse(), Ok(one));
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let early = CallId::now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let late = CallId::now();
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
    }
}
