//! The head: which line is the newest, signed.
//!
//! It is written behind each line, in place and in one go, always with the same length. A writer
//! that dies in between leaves a head that is one line late, which the next writer makes good.

use crate::key::{Key, PublicKey};
use crate::line::{Hash, hex, unhex};
use serde::{Deserialize, Serialize};

/// Name of the file.
pub(crate) const FILE: &str = "head";

/// Its length, in bytes. Below a page, so no reader sees half of one.
pub(crate) const LEN: usize = 512;

const DOMAIN: &[u8] = b"osvm receipts head 1\n";

/// The newest line, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tip {
    /// Its number; 0 when there is none.
    pub(crate) seq: u64,
    pub(crate) hash: Hash,
    /// Number of its file.
    pub(crate) segment: u32,
    /// Length of the file with the line in it, in bytes.
    pub(crate) end: u64,
}

impl Tip {
    /// Before the first line.
    pub(crate) const NONE: Self = Self { seq: 0, hash: Hash::NONE, segment: 1, end: 0 };
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Head {
    seq: u64,
    segment: u32,
    end: u64,
    hash: String,
    sig: String,
}

/// The head of `tip`.
pub(crate) fn write(tip: &Tip, key: &Key) -> [u8; LEN] {
    let head = Head {
        seq: tip.seq,
        segment: tip.segment,
        end: tip.end,
        hash: tip.hash.to_string(),
        sig: hex(&key.sign(&message(tip))),
    };
    // Numbers and digits always serialise, in at most 310 bytes.
    let text = serde_json::to_vec(&head).unwrap_or_default();
    let mut bytes = [b' '; LEN];
    for (to, from) in bytes.iter_mut().zip(text) {
        *to = from;
    }
    if let Some(last) = bytes.last_mut() {
        *last = b'\n';
    }
    bytes
}

/// What a head says, if it is genuine.
pub(crate) fn read(bytes: &[u8], key: &PublicKey) -> Option<Tip> {
    let Head { seq, segment, end, hash, sig } = serde_json::from_slice(bytes).ok()?;
    let tip = Tip { seq, segment, end, hash: Hash::parse(hash.as_bytes())? };
    key.check(&message(&tip), &unhex(sig.as_bytes())?).then_some(tip)
}

fn message(tip: &Tip) -> Vec<u8> {
    let Tip { seq, hash, segment, end } = tip;
    let fields = format!("{seq} {segment} {end} {hash}\n");
    [DOMAIN, fields.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_back_and_any_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::open(dir.path(), true).unwrap();
        let (seq, end) = (u64::MAX, u64::MAX);
        let tip = Tip { seq, hash: Hash::of(b"x"), segment: u32::MAX, end };
        let bytes = write(&tip, &key);
        assert_eq!(read(&bytes, &key.public()), Some(tip));
        let used = bytes.iter().rposition(|byte| *byte == b'}').unwrap();
        for at in 0..=used {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(read(&changed, &key.public()), None, "byte {at}");
        }
    }
}
