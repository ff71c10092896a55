//! A guest's console as the host keeps it: bounded, with the last words at hand.
//!
//! A guest may write for ever, so only the first [`MAX_LOG`] bytes reach the file. The end is kept
//! in memory besides, because that is where a dying guest says why.

use crate::text::clean;
use std::fs::File;
use std::io::Write;

/// Bytes of console kept in the file of one guest.
pub(crate) const MAX_LOG: usize = 64 * 1024;

/// Bytes of console kept for [`Console::last_words`].
const TAIL: usize = 1024;

/// How a guest of ours, or its Linux kernel, begins the line that says why it ends.
const MARKERS: [&str; 3] =
    ["osvm-guest: panic: ", "osvm-guest: fault: ", "Kernel panic - not syncing: "];

/// Where one guest's console output goes.
#[derive(Debug)]
pub struct Console {
    log: File,
    logged: usize,
    cut: bool,
    tail: Vec<u8>,
}

impl Console {
    /// Appends to `log`.
    pub fn new(log: File) -> Self {
        Self { log, logged: 0, cut: false, tail: Vec::new() }
    }

    /// Takes what the guest wrote. Never fails: a full disk must not end a call.
    pub fn append(&mut self, bytes: &[u8]) {
        let kept = bytes.get(..MAX_LOG.saturating_sub(self.logged)).unwrap_or(bytes);
        let _written = self.log.write_all(kept);
        self.logged += kept.len();
        if kept.len() < bytes.len() && !self.cut {
            let _written = self.log.write_all(b"\n[osvm: the guest wrote more than is kept]\n");
            self.cut = true;
        }
        self.tail.extend_from_slice(bytes);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    /// What the guest said about its own end, cleaned; `None` when it said nothing of the kind.
    pub fn last_words(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.tail);
        let line = text.lines().rev().find(|line| MARKERS.iter().any(|m| line.contains(m)))?;
        let words = MARKERS.iter().find_map(|marker| Some(line.split_once(marker)?.1))?;
        Some(clean(words.as_bytes(), TAIL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    fn console() -> (Console, File) {
        let log = tempfile::tempfile().unwrap();
        (Console::new(log.try_clone().unwrap()), log)
    }

    #[test]
    fn the_last_words_are_found_behind_other_output() {
        let (mut console, _log) = console();
        console.append(b"booting\nosvm-guest: panic: out of ");
        console.append(b"memory\nbye\n");
        assert_eq!(console.last_words().as_deref(), Some("out of memory"));
    }

    #[test]
    fn ordinary_output_is_no_last_word() {
        let (mut console, _log) = console();
        console.append(b"panic is what I never do\n");
        assert_eq!(console.last_words(), None);
    }

    #[test]
    fn an_endless_guest_fills_neither_disk_nor_memory() {
        let (mut console, mut log) = console();
        for _ in 0..100 {
            console.append(&[b'x'; 4096]);
        }
        let mut kept = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut kept).unwrap();
        assert!(kept.len() < MAX_LOG + 100, "{}", kept.len());
        assert_eq!(kept.matches("more than is kept").count(), 1);
        assert!(console.tail.len() <= TAIL);
    }
}
