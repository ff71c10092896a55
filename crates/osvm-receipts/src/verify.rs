//! Whether all receipts are there, in order and as they were written.
//!
//! # What this can't see
//!
//! - Whoever can read the key can write any history. It is the user's own account that is trusted.
//! - Going back to an earlier state as a whole, head included, or doing away with everything, key
//!   included. Against these, keep an [`Anchor`] and the public key somewhere else.
//!
//! Nothing is locked, so calls go on meanwhile. The head is read first: lines may be newer.

use crate::error::ReceiptError;
use crate::head::{self, Tip};
use crate::key::PublicKey;
use crate::line::{Anchor, Hash, Sealed};
use crate::read::{Kind, Piece, Pieces, Place, Recovered};
use crate::segment;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Findings that are told; more would not say more.
const MAX_FINDINGS: usize = 100;

/// What a check came to.
#[derive(Debug)]
pub struct Verdict {
    /// Genuine lines.
    pub lines: u64,
    /// The newest one: keep it elsewhere to see later whether all was replaced.
    pub newest: Option<Anchor>,
    /// All that is wrong, the first thing first; empty means that nothing is.
    pub findings: Vec<Finding>,
    /// What writers found and made good, and where they wrote that down.
    pub recoveries: Vec<(Place, Recovered)>,
    /// Bytes of a line that a crash cut off; the next writer removes them.
    pub torn_bytes: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub flaw: Flaw,
}

/// What may be wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It has not the form of a line.
    NoReceipt,
    /// It was changed, or is not osvm's.
    NotGenuine,
    /// Other lines are missing before it.
    Missing {
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// It stands behind a later one, or is there twice.
    OutOfOrder {
        /// Its number.
        seq: u64,
    },
    /// It is genuine and has the right number, but follows on another line.
    OtherChain,
    /// The file is not there.
    NoFile,
    /// The head is not there.
    NoHead,
    /// The head was changed, or is not osvm's.
    HeadNotGenuine,
    /// The newest lines are missing, according to the head.
    NewestMissing {
        /// The last one that is there.
        last: u64,
        /// The last one that there was.
        head: u64,
    },
    /// The line of the anchor is another one, or is not there.
    NotTheAnchor {
        /// Its number.
        seq: u64,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoReceipt => f.write_str("this is no receipt"),
            Self::NotGenuine => f.write_str("this line was changed, or osvm did not write it"),
            Self::Missing { from, to } if from == to => write!(f, "receipt {from} is missing"),
            Self::Missing { from, to } => write!(f, "receipts {from} to {to} are missing"),
            Self::OutOfOrder { seq } => write!(f, "receipt {seq} does not belong here"),
            Self::OtherChain => f.write_str("this line follows on another one than that before it"),
            Self::NoFile => f.write_str("this file is missing"),
            Self::NoHead => f.write_str("the head is missing, so the newest receipts may be too"),
            Self::HeadNotGenuine => f.write_str("the head was changed, or osvm did not write it"),
            Self::NewestMissing { last, head } => {
                write!(f, "the receipts end with {last}, but there were {head}")
            }
            Self::NotTheAnchor { seq } => {
                write!(f, "receipt {seq} is not the one that the anchor names")
            }
        }
    }
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Checks all receipts of a directory.
///
/// # Errors
///
/// [`ReceiptError`] when they can't be read. What is wrong with them is in the verdict.
pub fn verify(
    dir: &Path,
    key: &PublicKey,
    anchor: Option<Anchor>,
) -> Result<Verdict, ReceiptError> {
    let head = read_head(dir, key)?;
    let mut check = Check {
        key,
        seq: 0,
        hash: Hash::NONE,
        doubtful: 0,
        head,
        anchor,
        saw_head: false,
        verdict: Verdict {
            lines: 0,
            newest: None,
            findings: Vec::new(),
            recoveries: Vec::new(),
            torn_bytes: 0,
        },
    };
    let mut expected = 1;
    for number in segment::list(dir)? {
        if expected < number {
            check.find(Place { file: dir.join(segment::name(expected)), line: 0 }, Flaw::NoFile);
        }
        expected = number.saturating_add(1);
        check.file(&dir.join(segment::name(number)))?;
    }
    check.finish(dir);
    Ok(check.verdict)
}

#[derive(Clone, Copy, Debug)]
enum Head {
    Missing,
    NotGenuine,
    At(Tip),
}

fn read_head(dir: &Path, key: &PublicKey) -> Result<Head, ReceiptError> {
    let path = dir.join(head::FILE);
    match std::fs::read(&path) {
        Ok(bytes) if bytes.is_empty() => Ok(Head::Missing),
        Ok(bytes) => Ok(head::read(&bytes, key).map_or(Head::NotGenuine, Head::At)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Head::Missing),
        Err(source) => Err(ReceiptError::Io { path, source }),
    }
}

struct Check<'k> {
    key: &'k PublicKey,
    /// Number of the last genuine line.
    seq: u64,
    /// Its hash.
    hash: Hash,
    /// Lines since then that were wrong.
    doubtful: u64,
    head: Head,
    anchor: Option<Anchor>,
    saw_head: bool,
    verdict: Verdict,
}

impl Check<'_> {
    fn file(&mut self, path: &Path) -> Result<(), ReceiptError> {
        let io = |source| ReceiptError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let mut pieces = Pieces::new(&file, 0);
        let (mut line, mut begin) = (0, 0);
        while let Some((piece, end)) = pieces.next().map_err(io)? {
            line += 1;
            let place = Place { file: path.to_owned(), line };
            match piece {
                Piece::Line(bytes) => self.line(place, &bytes),
                Piece::TooLong => self.unreadable(place),
                Piece::Torn => self.verdict.torn_bytes += end - begin,
            }
            begin = end;
        }
        Ok(())
    }

    fn line(&mut self, place: Place, bytes: &[u8]) {
        let Some(sealed) = Sealed::parse(bytes) else { return self.unreadable(place) };
        if !sealed.is_genuine(self.key) {
            self.doubtful += 1;
            return self.find(place, Flaw::NotGenuine);
        }
        let hash = Hash::of(bytes);
        // Each line that was found to be wrong may stand in the place of one of osvm's, or not.
        let doubtful = std::mem::take(&mut self.doubtful);
        let next = self.seq.saturating_add(1);
        if sealed.seq < next {
            return self.find(place, Flaw::OutOfOrder { seq: sealed.seq });
        }
        if next.saturating_add(doubtful) < sealed.seq {
            let from = next.saturating_add(doubtful);
            self.find(place.clone(), Flaw::Missing { from, to: sealed.seq - 1 });
        } else if next == sealed.seq && self.hash != sealed.prev {
            self.find(place.clone(), Flaw::OtherChain);
        }
        (self.seq, self.hash) = (sealed.seq, hash);
        self.verdict.lines += 1;
        self.verdict.newest = Some(Anchor { seq: sealed.seq, hash });
        if let Head::At(tip) = self.head {
            self.saw_head |= tip.seq == sealed.seq && tip.hash == hash;
        }
        if let Some(anchor) = self.anchor.take_if(|anchor| anchor.seq <= sealed.seq)
            && (anchor.seq, anchor.hash) != (sealed.seq, hash)
        {
            self.find(place.clone(), Flaw::NotTheAnchor { seq: anchor.seq });
        }
        if let Ok(Kind::Recovery(recovered)) = serde_json::from_slice(bytes)
            && self.verdict.recoveries.len() < MAX_FINDINGS
        {
            self.verdict.recoveries.push((place, recovered));
        }
    }

    fn unreadable(&mut self, place: Place) {
        self.find(place, Flaw::NoReceipt);
        self.doubtful += 1;
    }

    fn find(&mut self, place: Place, flaw: Flaw) {
        if self.verdict.findings.len() < MAX_FINDINGS {
            self.verdict.findings.push(Finding { place, flaw });
        }
    }

    /// What can only be said when all lines were seen.
    fn finish(&mut self, dir: &Path) {
        let place = || Place { file: dir.join(head::FILE), line: 0 };
        match self.head {
            // Whoever wrote the very first line may have died before its head was written.
            Head::Missing if self.seq > 1 => self.find(place(), Flaw::NoHead),
            Head::Missing => {}
            Head::NotGenuine => self.find(place(), Flaw::HeadNotGenuine),
            Head::At(tip) if self.seq.saturating_add(self.doubtful) < tip.seq => {
                let flaw = Flaw::NewestMissing { last: self.seq, head: tip.seq };
                self.find(place(), flaw);
            }
            // It names a line that is gone; what is in its place has been found already, unless
            // nobody could tell.
            Head::At(tip) if !self.saw_head && self.verdict.findings.is_empty() => {
                self.find(place(), Flaw::NotTheAnchor { seq: tip.seq });
            }
            Head::At(_) => {}
        }
        if let Some(anchor) = self.anchor.take() {
            self.find(newest_place(dir), Flaw::NotTheAnchor { seq: anchor.seq });
        }
    }
}

fn newest_place(dir: &Path) -> Place {
    let newest = segment::list(dir).ok().and_then(|mut numbers| numbers.pop());
    let file: PathBuf = newest.map_or_else(|| dir.into(), |number| dir.join(segment::name(number)));
    Place { file, line: 0 }
}
