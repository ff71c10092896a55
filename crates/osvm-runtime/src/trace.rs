//! What a call reached of the world outside, written down while it runs.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Requests of one call that are told one by one; the rest is counted.
const MAX_KEPT: usize = 1000;

/// Longest text in a note, in bytes.
const MAX_TEXT: usize = 1024;

/// The requests of one call, in order. Several threads may note at once.
#[derive(Debug, Default)]
pub struct Trace(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    kept: Vec<Reach>,
    left_out: u64,
}

/// One thing that was done for a guest, or refused to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// A request of the broker.
    Http {
        /// HTTP method.
        method: String,
        /// Host in the URL.
        host: String,
        /// TCP port.
        port: u16,
        /// Path of the URL, without the query.
        path: String,
        /// Status of the answer, if there was one.
        status: Option<u16>,
        /// Length of the body that was sent, in bytes.
        sent_bytes: u64,
        /// Length of the body that came back, in bytes.
        received_bytes: u64,
        /// Why it was refused, if it was.
        refused: Option<String>,
    },
    /// A file of a mount.
    File {
        /// `read`, `write`, `list`, `stat`.
        op: String,
        /// The path as the guest knows it.
        path: String,
        /// Bytes read or written.
        bytes: u64,
        /// Why it was refused, if it was.
        refused: Option<String>,
    },
    /// A request that the host does not serve, or that made no sense.
    Other {
        /// The method as the guest called it, such as `host/exec`.
        method: String,
        /// Why it was refused.
        refused: String,
    },
}

impl Trace {
    /// Writes one down. Texts are cut to 1 KiB; after 1,000 they are only counted.
    pub fn note(&self, mut reach: Reach) {
        let mut noted = self.lock();
        if noted.kept.len() >= MAX_KEPT {
            noted.left_out = noted.left_out.saturating_add(1);
            return;
        }
        reach.cut();
        noted.kept.push(reach);
    }

    /// What was noted so far, and how many more there were; the trace is empty then.
    pub fn take(&self) -> (Vec<Reach>, u64) {
        let Noted { kept, left_out } = std::mem::take(&mut *self.lock());
        (kept, left_out)
    }

    // A list and a number, which no panic leaves half-changed.
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reach {
    fn cut(&mut self) {
        let cut = |text: &mut String| text.truncate(text.floor_char_boundary(MAX_TEXT));
        match self {
            Self::Http { method, host, path, refused, .. } => {
                [method, host, path].into_iter().chain(refused).for_each(cut);
            }
            Self::File { op, path, refused, .. } => {
                [op, path].into_iter().chain(refused).for_each(cut);
            }
            Self::Other { method, refused } => [method, refused].into_iter().for_each(cut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_asks_without_end_takes_no_memory() {
        let trace = Trace::default();
        for _ in 0..MAX_KEPT + 7 {
            let path = "ä".repeat(MAX_TEXT);
            trace.note(Reach::File { op: "read".into(), path, bytes: 1, refused: None });
        }
        let (kept, left_out) = trace.take();
        assert_eq!((kept.len(), left_out), (MAX_KEPT, 7));
        assert!(matches!(&kept[0], Reach::File { path, .. } if path.len() == MAX_TEXT));
        assert_eq!(trace.take(), (Vec::new(), 0));
    }
}
