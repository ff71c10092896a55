//! The guest's console: a serial port the guest can write to, and the file it ends up in.
//!
//! # Invariants
//!
//! - At most [`LIMIT`] bytes of a guest reach the file, then one line that says so.
//! - Writing never blocks: what a pipe or a terminal does not take at once is lost.
//! - The line in which a guest says why it gives up is kept, however much it has written before.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;

/// The first serial port of a PC (16550): its eight ports begin here.
pub(super) const PORT: u16 = 0x3f8;
/// Line status register.
const STATUS: u16 = PORT + 5;
/// Transmitter empty, holding register empty: always ready for the next byte.
const READY: u8 = 0x60;

/// Most bytes of one guest that reach the file.
pub(super) const LIMIT: usize = 64 * 1024;
/// What stands at the end of a file that was cut.
pub(super) const CUT: &[u8] = b"\nosvm: the guest's console is cut here, after 64 KiB\n";
/// Longest line that is looked at for last words, in bytes.
const MAX_LINE: usize = 512;
/// How a guest of ours, or its Linux kernel, begins the line that says why it gives up.
const LAST_WORDS: [&[u8]; 3] =
    [b"osvm-guest: panic: ", b"osvm-guest: fault: ", b"Kernel panic - not syncing: "];

/// The serial port and what has come through it.
#[derive(Debug)]
pub(super) struct Console {
    file: OwnedFd,
    pending: Vec<u8>,
    left: usize,
    line: Vec<u8>,
    last_words: Option<Vec<u8>>,
}

impl Console {
    /// A console that appends to `file`.
    pub(super) fn new(file: OwnedFd) -> Self {
        let (pending, line) = (Vec::with_capacity(MAX_LINE), Vec::with_capacity(MAX_LINE));
        Self { file, pending, left: LIMIT, line, last_words: None }
    }

    /// Whether `port` belongs to the serial port.
    pub(super) fn has(port: u16) -> bool {
        (PORT..PORT + 8).contains(&port)
    }

    /// The guest reads a port of it.
    pub(super) fn read(port: u16) -> u8 {
        if port == STATUS { READY } else { 0 }
    }

    /// The guest writes to a port of it. Only the data register does anything.
    pub(super) fn write(&mut self, port: u16, data: &[u8]) {
        if port == PORT {
            data.iter().for_each(|byte| self.put(*byte));
        }
    }

    fn put(&mut self, byte: u8) {
        if byte == b'\n' {
            self.end_line();
        } else if self.line.len() < MAX_LINE {
            self.line.push(byte);
        }
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        self.pending.push(byte);
        if self.left == 0 {
            self.pending.extend_from_slice(CUT);
        }
        if byte == b'\n' || self.left == 0 || MAX_LINE <= self.pending.len() {
            self.flush();
        }
    }

    fn end_line(&mut self) {
        let line = after_time(&self.line);
        if let Some(words) = LAST_WORDS.iter().find_map(|start| line.strip_prefix(*start)) {
            // The first reason counts; what follows is often its consequence.
            self.last_words.get_or_insert_with(|| words.trim_ascii_end().to_vec());
        }
        self.line.clear();
    }

    /// Writes what is waiting. To be called before anything that takes long.
    pub(super) fn flush(&mut self) {
        while !self.pending.is_empty() {
            let mut file = [PollFd::new(&self.file, PollFlags::OUT)];
            let ready = poll(&mut file, Some(&Timespec::default()));
            // A pipe that is ready takes 4096 bytes (PIPE_BUF) without blocking, which is more
            // than ever waits here; a regular file is always ready.
            let written = match ready {
                Ok(1) => rustix::io::write(&self.file, &self.pending).unwrap_or(0),
                _ => 0,
            };
            if written == 0 {
                break;
            }
            self.pending.drain(..written.min(self.pending.len()));
        }
        self.pending.clear();
    }

    /// Why the guest gave up, if it said so: the line without its beginning.
    pub(super) fn last_words(&mut self) -> Option<String> {
        self.end_line();
        let words = self.last_words.as_deref()?;
        Some(String::from_utf8_lossy(words).into_owned())
    }
}

/// A line of Linux's log without the time in front, `[    0.123456] `; others as they are.
fn after_time(line: &[u8]) -> &[u8] {
    let rest = line.strip_prefix(b"[").and_then(|rest| {
        let end = rest.iter().position(|byte| !matches!(byte, b' ' | b'.' | b'0'..=b'9'))?;
        rest.get(end..)?.strip_prefix(b"] ")
    });
    rest.unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    #[test]
    fn lines_reach_the_file() {
        check(b"booting\nready\n", b"booting\nready\n", None);
    }

    #[test]
    fn an_unfinished_line_reaches_the_file_at_the_end() {
        check(b"boot", b"boot", None);
    }

    #[test]
    fn a_guest_that_never_stops_writing_is_cut_with_one_line_that_says_so() {
        let expected = [&[b'x'; LIMIT], CUT].concat();
        check(&[b'x'; 3 * LIMIT], &expected, None);
    }

    #[test]
    fn last_words_are_kept_even_when_the_console_is_full() {
        let mut text = vec![b'x'; LIMIT];
        let mut expected = text.clone();
        expected.extend_from_slice(CUT);
        text.extend_from_slice(b"\nosvm-guest: panic: out of memory\n");
        check(&text, &expected, Some("out of memory"));
    }

    #[test]
    fn the_first_reason_is_the_one_reported() {
        let text = b"osvm-guest: fault: page fault at 0x0\nosvm-guest: panic: while panicking";
        check(text, text, Some("page fault at 0x0"));
    }

    #[test]
    fn a_line_that_mentions_a_panic_is_not_one() {
        check(b"log: osvm-guest: panic: no\n", b"log: osvm-guest: panic: no\n", None);
    }

    #[test]
    fn linux_says_why_with_the_time_and_a_carriage_return() {
        let text = b"[    1.250000] Kernel panic - not syncing: Attempted to kill init!\r\n";
        check(text, text, Some("Attempted to kill init!"));
        check(
            b"[x] Kernel panic - not syncing: no\n",
            b"[x] Kernel panic - not syncing: no\n",
            None,
        );
    }

    #[test]
    fn a_pipe_nobody_reads_does_not_block() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut console = Console::new(writer.into());
        for _ in 0..2 * LIMIT / 16 {
            console.write(PORT, b"0123456789abcde\n");
        }
        drop(console);
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        assert!(received.len() <= LIMIT + CUT.len());
    }

    #[test]
    fn the_port_is_always_ready_to_send() {
        assert_eq!(Console::read(PORT + 5) & 0x20, 0x20);
        assert!(Console::has(PORT + 7) && !Console::has(PORT + 8));
    }

    #[track_caller]
    fn check(written: &[u8], in_file: &[u8], last_words: Option<&str>) {
        let file = File::from(memfd_create("console", MemfdFlags::CLOEXEC).unwrap());
        let mut console = Console::new(file.try_clone().unwrap().into());
        written.iter().for_each(|byte| console.write(PORT, &[*byte]));
        console.flush();
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        let mut contents = vec![0; len];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert!(contents == in_file, "{} bytes in the file", contents.len());
        assert_eq!(console.last_words().as_deref(), last_words);
    }
}
