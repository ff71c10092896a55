//! The last words of a server: the end of what it wrote to standard error.
//!
//! A server that floods it costs a fixed amount of memory and a few log lines a second.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much is kept, in bytes.
pub(crate) const KEPT: usize = 64 * 1024;

/// Lines a second that go to osvm's own log.
const LINES_A_SECOND: u32 = 20;

/// Longest line in osvm's own log, in bytes.
const LOGGED: usize = 500;

#[derive(Debug, Default)]
pub(crate) struct Tail(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    second: Option<Instant>,
    logged: u32,
}

impl Tail {
    /// Takes a piece of it.
    pub(crate) fn push(&self, server: &str, piece: &[u8]) {
        let mut state = self.lock();
        let from = piece.len().saturating_sub(KEPT);
        state.bytes.extend(piece.get(from..).unwrap_or_default());
        let over = state.bytes.len().saturating_sub(KEPT);
        state.bytes.drain(..over);
        let now = Instant::now();
        if state.second.is_none_or(|since| Duration::from_secs(1) <= now.duration_since(since)) {
            state.second = Some(now);
            state.logged = 0;
        }
        for line in piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if LINES_A_SECOND <= state.logged {
                break;
            }
            state.logged += 1;
            let line = line.get(..LOGGED).unwrap_or(line);
            let text = String::from_utf8_lossy(line);
            tracing::debug!(server, text = text.trim_end().escape_debug().to_string(), "stderr");
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.iter().copied().collect()
    }

    /// The last line that is not empty, short and without control characters.
    pub(crate) fn last_line(&self) -> Option<String> {
        let bytes = self.bytes();
        let mut lines = bytes.rsplit(|byte| *byte == b'\n');
        let line = lines.find(|line| !line.trim_ascii().is_empty())?;
        let text = String::from_utf8_lossy(line.trim_ascii());
        Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
    }

    // The state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_its_end() {
        let tail = Tail::default();
        for n in 0..100_000 {
            tail.push("s", format!("line {n}\n").as_bytes());
        }
        tail.push("s", &[b'x'; 3 * KEPT]);
        tail.push("s", b"\nthe \x1b[1mend\n\n");
        assert_eq!(tail.bytes().len(), KEPT);
        assert_eq!(tail.last_line().as_deref(), Some("the [1mend"));
    }

    #[test]
    fn nothing_has_no_last_line() {
        assert_eq!(Tail::default().last_line(), None);
    }
}
