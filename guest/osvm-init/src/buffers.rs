//! Bytes on their way: bounded, in order.

use rustix::fd::AsFd;
use rustix::io::{Errno, Result, read, write};

/// Bytes read at once. They are cleared first, which costs time where code is translated.
const CHUNK: usize = 16 * 1024;

/// Most memory that an empty buffer keeps, in bytes.
const KEPT: usize = 4 * CHUNK;

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// There may be more.
    Open,
    /// There will be no more.
    Ended,
}

/// Appends what can be read from `fd` now to `bytes`.
pub(crate) fn fill(fd: impl AsFd, bytes: &mut Vec<u8>) -> Result<Input> {
    let start = bytes.len();
    bytes.resize(start + CHUNK, 0);
    let outcome = read(fd, bytes.get_mut(start..).unwrap_or_default());
    let len = outcome.unwrap_or_default();
    bytes.truncate(start + len);
    match outcome {
        Ok(0) => Ok(Input::Ended),
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(Input::Open),
        Err(error) => Err(error),
    }
}

/// Forgets `bytes`, and gives back the memory of those that were many.
pub(crate) fn empty(bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.shrink_to(KEPT);
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what waits. Ordinary buffers are kept: where code is translated, giving memory back
    /// and asking for it again costs more than a message.
    pub(crate) fn clear(&mut self) {
        self.sent = 0;
        empty(&mut self.bytes);
    }

    /// All that waits.
    #[cfg(test)]
    pub(crate) fn drain(&mut self) -> Vec<u8> {
        let Self { mut bytes, sent } = std::mem::take(self);
        bytes.split_off(sent)
    }

    /// Writes as much as `fd` takes now.
    pub(crate) fn flush(&mut self, fd: impl AsFd) -> Result<()> {
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match write(&fd, rest) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(len) => self.sent += len,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        if self.is_empty() {
            self.clear();
        } else if CHUNK < self.sent {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// Bytes at the front in which there is no end of a line.
    searched: usize,
}

impl Lines {
    /// Where the stream is read to.
    pub(crate) fn input(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Hands each whole line, without its end, to `take`; then says how long the rest is.
    pub(crate) fn take(&mut self, mut take: impl FnMut(&[u8])) -> usize {
        let mut start = 0;
        while let Some(rest) = self.bytes.get(start.max(self.searched)..) {
            let Some(at) = rest.iter().position(|byte| *byte == b'\n') else { break };
            let end = start.max(self.searched) + at;
            let line = self.bytes.get(start..end).unwrap_or_default();
            take(line.strip_suffix(b"\r").unwrap_or(line));
            start = end + 1;
            self.searched = start;
        }
        self.bytes.drain(..start);
        self.searched = self.bytes.len();
        self.bytes.len()
    }

    /// What is left when the stream ends inside a line.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.searched = 0;
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn lines(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.input().extend_from_slice(piece);
            lines.take(|line| seen.push(line.to_vec()));
        }
        (seen, lines.rest())
    }

    #[test]
    fn a_line_may_come_in_pieces_and_several_at_once() {
        let (seen, rest) = lines(&[b"a", b"b\r\nc\n\nd", b"", b"\ne"]);
        assert_eq!(seen, [b"ab".to_vec(), b"c".to_vec(), Vec::new(), b"d".to_vec()]);
        assert_eq!(rest, b"e");
    }

    #[test]
    fn what_a_pipe_does_not_take_waits() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut outgoing = Outgoing::default();
        let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        outgoing.push(&sent);
        let mut received = Vec::new();
        while received.len() < sent.len() {
            outgoing.flush(&writer).unwrap();
            assert_eq!(fill(&reader, &mut received).unwrap(), Input::Open);
        }
        assert!(outgoing.is_empty() && received == sent);
        drop(writer);
        assert_eq!(fill(&reader, &mut received).unwrap(), Input::Ended);
    }

    proptest! {
        #[test]
        fn however_the_bytes_come_the_lines_are_the_same(text in "[ab\n]{0,40}", cut in 0_usize..40) {
            let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
            prop_assert_eq!(lines(&[one, two]), lines(&[text.as_bytes()]));
        }
    }
}
