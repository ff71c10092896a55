//! Where something stands in the text of a config file.

use serde::Serialize;
use std::fmt;

/// A place in a config file, as editors count: both from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Location {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// Turns byte offsets into [`Location`]s without walking the text from its start: a file may be
/// one line of a mebibyte, and every value in it can be asked for.
#[derive(Clone, Debug)]
pub(crate) struct LineIndex {
    /// Offset of the first byte of each line.
    line_starts: Vec<usize>,
    /// Characters before each block of [`BLOCK`] bytes.
    chars_before: Vec<usize>,
}

const BLOCK: usize = 1024;

impl LineIndex {
    pub(crate) fn new(text: &str) -> Self {
        let after_newline =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        let mut chars_before = vec![0];
        let mut total = 0;
        for block in text.as_bytes().chunks(BLOCK) {
            total += count_chars(block);
            chars_before.push(total);
        }
        Self { line_starts: std::iter::once(0).chain(after_newline).collect(), chars_before }
    }

    /// The place of the byte at `offset` of `text`, which is the text this index was made from.
    pub(crate) fn locate(&self, text: &str, offset: usize) -> Location {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|i| self.line_starts.get(i)).copied().unwrap_or(0);
        let column = self.chars_until(text, offset).saturating_sub(self.chars_until(text, start));
        Location { line, column: column + 1 }
    }

    /// The offset of a place given as serde_json gives it: line from 1, column in bytes.
    pub(crate) fn offset(&self, line: usize, byte_column: usize) -> usize {
        let start = line.checked_sub(1).and_then(|i| self.line_starts.get(i)).copied().unwrap_or(0);
        start + byte_column.saturating_sub(1)
    }

    fn chars_until(&self, text: &str, offset: usize) -> usize {
        let block = offset / BLOCK;
        let before = self.chars_before.get(block).copied().unwrap_or(0);
        let rest = text.as_bytes().get(block * BLOCK..offset.min(text.len())).unwrap_or_default();
        before + count_chars(rest)
    }
}

fn count_chars(utf8: &[u8]) -> usize {
    // Every byte that does not continue a character begins one.
    utf8.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_count_characters_not_bytes() {
        check("äöü\n  x", "x", (2, 3));
        check("\"äöü\": 1", "1", (1, 8));
    }

    #[test]
    fn a_long_line_is_counted_across_blocks() {
        let text = format!("{}\n{}x", "ä".repeat(700), "€".repeat(5000));
        check(&text, "x", (2, 5001));
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_counting(
            piece in "(\n|[a-z]|ä|€|😀){0,12}",
            times in 0..200usize,
            pick: prop::sample::Index,
        ) {
            let text = piece.repeat(times);
            let offsets: Vec<_> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let offset = *pick.get(&offsets);
            let before = &text[..offset];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            prop_assert_eq!(LineIndex::new(&text).locate(&text, offset), Location { line, column });
        }
    }

    #[track_caller]
    fn check(text: &str, find: &str, (line, column): (usize, usize)) {
        let offset = text.find(find).unwrap();
        assert_eq!(LineIndex::new(text).locate(text, offset), Location { line, column });
    }
}
