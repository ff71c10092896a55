//! Lines from a client that may send anything: each one whole, or refused.
//!
//! A line over the limit is thrown away as it arrives, so it costs time and no memory.

use std::io::{self, BufRead};

/// Longest line that is read, in bytes: 10 MiB of arguments, as the wire to a guest allows, and
/// the message around them.
pub const MAX_LINE: usize = osvm_protocol::frame::MAX_PAYLOAD as usize + 64 * 1024;

/// What a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A line, without its end.
    Whole(&'a [u8]),
    /// One over [`MAX_LINE`], and how long it was.
    TooLong(u64),
}

/// Reads one line into `buffer`; `None` at the end of the input.
pub(crate) fn read<'a>(
    input: &mut impl BufRead,
    buffer: &'a mut Vec<u8>,
    limit: usize,
) -> io::Result<Option<Line<'a>>> {
    // What an unusually long line needed is not kept for the many short ones after it.
    if buffer.capacity() > 1024 * 1024 {
        *buffer = Vec::new();
    }
    buffer.clear();
    let mut length: u64 = 0;
    loop {
        let chunk = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            // A last line without an end is a line like any other.
            return Ok((length > 0).then(|| finish(buffer, length, limit)));
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let (part, _) = chunk.split_at(end.unwrap_or(chunk.len()));
        length = length.saturating_add(part.len() as u64);
        if length <= limit as u64 {
            buffer.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(Some(finish(buffer, length, limit)));
        }
    }
}

fn finish(buffer: &[u8], length: u64, limit: usize) -> Line<'_> {
    if length <= limit as u64 { Line::Whole(buffer) } else { Line::TooLong(length) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn lines_end_at_a_line_feed_or_with_the_input() {
        check(b"a\n\nbc", &[Line::Whole(b"a"), Line::Whole(b""), Line::Whole(b"bc")]);
    }

    #[test]
    fn a_line_of_the_limit_is_whole_and_one_byte_more_is_not() {
        check(
            b"12345678\n123456789\nx\n",
            &[Line::Whole(b"12345678"), Line::TooLong(9), Line::Whole(b"x")],
        );
    }

    #[test]
    fn a_long_line_without_an_end_is_refused_too() {
        check(&[b'x'; 100], &[Line::TooLong(100)]);
    }

    #[test]
    fn nothing_is_no_line() {
        check(b"", &[]);
    }

    #[track_caller]
    fn check(input: &[u8], expected: &[Line<'_>]) {
        // Pieces of every size, since a pipe may deliver any.
        for piece in 1..=input.len().max(1) {
            let mut input = BufReader::with_capacity(piece, input);
            let mut buffer = Vec::new();
            for line in expected {
                assert_eq!(read(&mut input, &mut buffer, 8).unwrap(), Some(*line));
                assert!(buffer.len() <= 8);
            }
            assert_eq!(read(&mut input, &mut buffer, 8).unwrap(), None);
        }
    }
}
