//! Lines from a server that may send anything: each one whole, or the end of the link.
//!
//! A line over the limit is refused as soon as it is over it, so it never costs more memory than
//! the limit.

use std::io::{self, BufRead};

/// Longest line that is read, in bytes. A result of 10 MiB fits with its text escaped twice.
pub const MAX_LINE: usize = 32 * 1024 * 1024;

/// Why there is no line.
#[derive(Debug)]
pub enum LineError {
    /// It is longer than the limit.
    TooLong,
    /// The pipe failed.
    Io(io::Error),
}

/// Reads one line, without its end; `None` at the end of the input.
///
/// The line is its own buffer, so that whoever keeps it need not copy it.
///
/// # Errors
///
/// When there can be no further line: the rest of a line that is too long is not read.
pub fn read(input: &mut impl BufRead, limit: usize) -> Result<Option<Vec<u8>>, LineError> {
    let mut line = Vec::new();
    loop {
        let chunk = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk.map_err(LineError::Io)?,
        };
        if chunk.is_empty() {
            // A last line without an end is a line like any other.
            return Ok((!line.is_empty()).then_some(line));
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let (part, _) = chunk.split_at(end.unwrap_or(chunk.len()));
        if limit.saturating_sub(line.len()) < part.len() {
            return Err(LineError::TooLong);
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read, repeat};

    #[test]
    fn lines_end_at_a_line_feed_or_with_the_input() {
        check(b"a\n\nbc", &[b"a", b"", b"bc"], false);
    }

    #[test]
    fn a_line_of_the_limit_is_whole_and_one_byte_more_ends_it_all() {
        check(b"12345678\n", &[b"12345678"], false);
        check(b"a\n123456789\nx\n", &[b"a"], true);
    }

    #[test]
    fn nothing_is_no_line() {
        check(b"", &[], false);
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_is_read() {
        let mut input = BufReader::new(repeat(b'x').take(100 << 20));
        assert!(matches!(read(&mut input, 1 << 20), Err(LineError::TooLong)));
        assert!(input.into_inner().limit() > 98 << 20, "read on behind the limit");
    }

    #[track_caller]
    fn check(input: &[u8], expected: &[&[u8]], too_long: bool) {
        // Pieces of every size, since a pipe may deliver any.
        for piece in 1..=input.len().max(1) {
            let mut input = BufReader::with_capacity(piece, input);
            for line in expected {
                assert_eq!(read(&mut input, 8).unwrap().as_deref(), Some(*line));
            }
            match read(&mut input, 8) {
                Ok(None) => assert!(!too_long),
                Err(LineError::TooLong) => assert!(too_long),
                other => panic!("{other:?}"),
            }
        }
    }
}
