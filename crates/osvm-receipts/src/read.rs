//! Reading receipts back, as bytes and as what they say.

use crate::error::ReceiptError;
use crate::line::MAX_LINE;
use crate::segment;
use osvm_runtime::{Reach, RunMode};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// The numbers of the files of a directory, oldest first.
///
/// # Errors
///
/// [`ReceiptError::Io`].
pub fn files(dir: &Path) -> Result<Vec<u32>, ReceiptError> {
    segment::list(dir)
}

/// All lines of one file, oldest first. What is no line of osvm's is there as well.
///
/// # Errors
///
/// [`ReceiptError::Io`].
pub fn lines(dir: &Path, number: u32) -> Result<Vec<Line>, ReceiptError> {
    let path = dir.join(segment::name(number));
    let io = |source| ReceiptError::Io { path: path.clone(), source };
    let file = File::open(&path).map_err(io)?;
    let mut pieces = Pieces::new(&file, 0);
    let (mut lines, mut line) = (Vec::new(), 0);
    while let Some((piece, _)) = pieces.next().map_err(io)? {
        line += 1;
        let place = Place { file: path.clone(), line };
        let text = match piece {
            Piece::Line(bytes) => bytes,
            Piece::TooLong | Piece::Torn => Vec::new(),
        };
        lines.push(Line { place, kind: serde_json::from_slice(&text).ok(), text });
    }
    Ok(lines)
}

/// Where a line is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Number of the line in it, from 1; 0 is the file as a whole.
    pub line: u64,
}

/// One line. Nobody has checked it: see [`crate::verify`].
#[derive(Clone, Debug)]
pub struct Line {
    /// Where it is.
    pub place: Place,
    /// As it was written, without its end.
    pub text: Vec<u8>,
    /// What it says, if it says something.
    pub kind: Option<Kind>,
}

/// What a line says.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A call.
    Call(Box<Receipt>),
    /// Something was not as it should be, and was made good as far as it could be.
    Recovery(Recovered),
}

/// A call.
#[derive(Clone, Debug, Deserialize)]
pub struct Receipt {
    /// Number of the line, from 1, through all files.
    pub seq: u64,
    /// When the call began, RFC 3339, UTC.
    pub time: String,
    /// The call.
    pub call: String,
    /// Who called, as it said itself.
    pub client: String,
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// SHA-256 of the arguments.
    pub arguments: String,
    /// SHA-256 of the result or of the tool's error.
    pub result: Option<String>,
    /// `allow`, `deny`, or `none`: it ended before it was decided.
    pub decision: String,
    /// The rule that decided, if it was more than the isolation config.
    pub rule: Option<String>,
    /// What in the isolation config says where the call runs.
    pub origin: String,
    /// `result`, `tool_error`, or the word of the failure.
    pub exit: String,
    /// The failure in words.
    pub reason: Option<String>,
    /// How it ran.
    pub isolation: Ran,
    /// Why it could not be isolated.
    pub isolation_failure: Option<String>,
    /// What it reached.
    pub reaches: Vec<Reach>,
    /// How many more of these there were.
    pub reaches_left_out: u64,
}

/// How a call ran.
#[derive(Clone, Debug, Deserialize)]
pub struct Ran {
    /// The mode.
    pub mode: RunMode,
    /// The hypervisor.
    pub backend: Option<String>,
    /// The guest's address.
    pub cid: Option<u32>,
    /// Process id of the VM process.
    pub vm_pid: Option<u32>,
    /// Name of the image.
    pub image: Option<String>,
    /// SHA-256 of the image.
    pub image_digest: Option<String>,
    /// Boot, in ms.
    pub boot_ms: Option<f64>,
    /// Request to answer, in ms.
    pub call_ms: Option<f64>,
    /// All of it until the receipt was written, in ms.
    pub total_ms: Option<f64>,
    /// Why it ran on the host although it was to be isolated.
    pub fallback: Option<String>,
}

/// What a writer found that was not as it should be.
#[derive(Clone, Debug, Deserialize)]
pub struct Recovered {
    /// Number of the line.
    pub seq: u64,
    /// When, RFC 3339, UTC.
    pub time: String,
    /// Length of the line that a crash cut off, in bytes.
    pub torn_bytes: u64,
    /// Lines that osvm had not written.
    pub foreign_lines: u64,
    /// The head was missing or not genuine.
    pub head_lost: bool,
    /// The newest lines were missing.
    pub lines_lost: bool,
}

/// What a file consists of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A line without its end.
    Line(Vec<u8>),
    /// A line over the limit.
    TooLong,
    /// Bytes without an end, at the end of the file.
    Torn,
}

/// A file, piece by piece. Memory is bounded by the longest line.
#[derive(Debug)]
pub(crate) struct Pieces<'f> {
    reader: BufReader<&'f File>,
    at: u64,
    begun: bool,
}

impl<'f> Pieces<'f> {
    /// Begins at `from`, which is the beginning of a line.
    pub(crate) fn new(file: &'f File, from: u64) -> Self {
        Self { reader: BufReader::new(file), at: from, begun: false }
    }

    /// The next piece, and where it ends.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Piece, u64)>> {
        if !std::mem::replace(&mut self.begun, true) {
            self.reader.seek(SeekFrom::Start(self.at))?;
        }
        let mut line = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        self.at = self.at.saturating_add(read as u64);
        if line.pop_if(|last| *last == b'\n').is_some() {
            return Ok(Some((Piece::Line(line), self.at)));
        }
        let ended = (read as u64) == limit && self.skip_line()?;
        Ok(Some((if ended { Piece::TooLong } else { Piece::Torn }, self.at)))
    }

    /// Leaves a line that is too long behind; false when it has no end.
    fn skip_line(&mut self) -> io::Result<bool> {
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(false);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let skipped = end.map_or(buffer.len(), |end| end + 1);
            self.reader.consume(skipped);
            self.at = self.at.saturating_add(skipped as u64);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_comes_in_pieces_whose_ends_are_known() {
        let mut file = tempfile::tempfile().unwrap();
        let long = vec![b'x'; MAX_LINE + 5];
        let full = vec![b'y'; MAX_LINE];
        let torn = b"torn";
        for part in [&b"skipped\na\n\n"[..], &full, b"\n", &long, b"\nb\n", torn] {
            file.write_all(part).unwrap();
        }
        let mut pieces = Pieces::new(&file, 8);
        let mut next = || pieces.next().unwrap();
        assert_eq!(next(), Some((Piece::Line(b"a".to_vec()), 10)));
        assert_eq!(next(), Some((Piece::Line(Vec::new()), 11)));
        let after_full = 11 + MAX_LINE as u64 + 1;
        assert_eq!(next(), Some((Piece::Line(full.clone()), after_full)));
        let after_long = after_full + long.len() as u64 + 1;
        assert_eq!(next(), Some((Piece::TooLong, after_long)));
        assert_eq!(next(), Some((Piece::Line(b"b".to_vec()), after_long + 2)));
        assert_eq!(next(), Some((Piece::Torn, after_long + 6)));
        assert_eq!(next(), None);
    }
}
