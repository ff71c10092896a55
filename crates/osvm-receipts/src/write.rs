//! Appending: one line for each call, whoever else appends.
//!
//! ```text
//! lock ─▶ head ─▶ is the file as long as the head says?
//!                   ├── yes ──────────────────────────────────▶ line ─▶ head ─▶ unlock
//!                   └── no: lines without a head, a torn line… ─▶ recovery line, if it matters
//! ```

use crate::error::ReceiptError;
use crate::head::{self, Tip};
use crate::key::{Key, PublicKey};
use crate::line::{Hash, Sealed, seal};
use crate::lock::Lock;
use crate::read::{Piece, Pieces};
use crate::record::{self, Recovery};
use crate::segment::{self, Segment};
use osvm_runtime::{Ledger, LedgerError, Record, private_dir};
use rustix::fs::{Mode, OFlags, fstatvfs};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::warn;

/// Room that has to be left for the receipt of a call that is about to start, in bytes.
const MIN_FREE: u64 = 4 * 1024 * 1024;

/// The receipts of one user. Nothing is opened before the first call.
#[derive(Debug)]
pub struct Receipts {
    dir: PathBuf,
    max_len: u64,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    lock: Lock,
    books: Books,
}

/// What is written to while the lock is held.
#[derive(Debug)]
struct Books {
    dir: PathBuf,
    max_len: u64,
    key: Key,
    public: PublicKey,
    head: File,
    segment: Segment,
    /// What this process wrote last, and the head of it.
    known: Option<(Tip, [u8; head::LEN])>,
}

impl Receipts {
    /// The receipts in `dir`, which is made on first use.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), max_len: segment::MAX_LEN, open: Mutex::new(None) }
    }

    /// The same, with a new file as soon as one is `max_len` bytes long.
    #[must_use]
    pub fn with_file_len(self, max_len: u64) -> Self {
        Self { max_len, ..self }
    }

    /// Appends the line of a call; says which number it got.
    ///
    /// # Errors
    ///
    /// [`ReceiptError`]; what was written of the line is taken back as far as possible.
    pub fn append(&self, record: &Record) -> Result<u64, ReceiptError> {
        let mut slot = self.slot();
        let open = self.opened(&mut slot)?;
        let appended = open.lock.hold().and_then(|_held| open.books.append(record));
        if appended.is_err() {
            // Whatever it was, the next call looks at everything anew.
            *slot = None;
        }
        appended
    }

    fn check(&self) -> Result<(), ReceiptError> {
        let mut slot = self.slot();
        let Open { books, .. } = self.opened(&mut slot)?;
        let io = |error: rustix::io::Errno| books.segment.io(error.into());
        let volume = fstatvfs(&books.segment.file).map_err(io)?;
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        if free < MIN_FREE {
            return Err(ReceiptError::Full { dir: self.dir.clone(), free });
        }
        Ok(())
    }

    fn opened<'s>(
        &self,
        slot: &'s mut MutexGuard<'_, Option<Open>>,
    ) -> Result<&'s mut Open, ReceiptError> {
        // The directory may have been moved away while a daemon lives.
        if slot.as_ref().is_some_and(|open| !open.lock.is_in_place()) {
            **slot = None;
        }
        match &mut **slot {
            Some(open) => Ok(open),
            none => Ok(none.insert(Open::new(&self.dir, self.max_len)?)),
        }
    }

    // What is in it is replaced as a whole, so no panic leaves it half-changed.
    fn slot(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for Receipts {
    fn ready(&self) -> Result<(), LedgerError> {
        Ok(self.check()?)
    }

    fn write(&self, record: &Record) -> Result<(), LedgerError> {
        self.append(record)?;
        Ok(())
    }
}

impl Open {
    fn new(dir: &Path, max_len: u64) -> Result<Self, ReceiptError> {
        private_dir(dir)?;
        let lock = Lock::open(dir)?;
        let held = lock.hold()?;
        let path = dir.join(head::FILE);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let head = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
        let io = |source| ReceiptError::Io { path: path.clone(), source };
        let head = File::from(head.map_err(|error| io(error.into()))?);
        let begun = head.metadata().map_err(io)?.len() > 0;
        let newest = if begun { None } else { segment::list(dir)?.pop() };
        let key = Key::open(dir, !begun && newest.is_none())?;
        // The right one as a rule; else the first append finds it.
        let mut bytes = [0; head::LEN];
        let tip = head.read_exact_at(&mut bytes, 0).ok();
        let public = key.public();
        let tip = tip.and_then(|()| head::read(&bytes, &public));
        let number = tip.map_or(newest.unwrap_or(1), |tip| tip.segment);
        let segment = Segment::open(dir, number)?;
        let known = tip.map(|tip| (tip, bytes));
        drop(held);
        let dir = dir.to_owned();
        Ok(Self { lock, books: Books { dir, max_len, key, public, head, segment, known } })
    }
}

impl Books {
    fn append(&mut self, record: &Record) -> Result<u64, ReceiptError> {
        let (mut tip, found) = self.tip()?;
        if tip.end >= self.max_len {
            self.go_to(tip.segment.saturating_add(1))?;
            (tip.segment, tip.end) = (self.segment.number, self.segment.len()?);
        }
        if found != Recovery::default() {
            warn!(?found, "the receipts were not as they should be: a line says so");
            self.write(&mut tip, |seq| record::recovery(found, seq))?;
        }
        self.write(&mut tip, |seq| record::call(record, seq))?;
        Ok(tip.seq)
    }

    fn write(
        &mut self,
        tip: &mut Tip,
        object: impl FnOnce(u64) -> serde_json::Result<Vec<u8>>,
    ) -> Result<(), ReceiptError> {
        let seq = tip.seq.saturating_add(1);
        let object = object(seq).map_err(|error| self.segment.io(error.into()))?;
        let mut line = seal(object, tip.hash, &self.key);
        let hash = Hash::of(&line);
        line.push(b'\n');
        if let Err(error) = self.segment.file.write_all(&line) {
            // Without this the next writer removes what was written.
            let _torn = self.segment.file.set_len(tip.end);
            return Err(self.segment.io(error));
        }
        let end = tip.end.saturating_add(line.len() as u64);
        *tip = Tip { seq, hash, segment: self.segment.number, end };
        let bytes = head::write(tip, &self.key);
        let written = self.head.write_all_at(&bytes, 0);
        let path = || self.dir.join(head::FILE);
        written.map_err(|source| ReceiptError::Io { path: path(), source })?;
        self.known = Some((*tip, bytes));
        Ok(())
    }

    /// The newest line, and what was wrong behind it.
    fn tip(&mut self) -> Result<(Tip, Recovery), ReceiptError> {
        let mut bytes = [0; head::LEN];
        let read = self.head.read_exact_at(&mut bytes, 0).is_ok();
        if let Some((tip, known)) = self.known
            && read
            && known == bytes
            && self.segment.number == tip.segment
            && self.segment.len()? == tip.end
            && !self.has_next()
        {
            return Ok((tip, Recovery::default()));
        }
        let mut found = Recovery::default();
        let mut tip = match head::read(&bytes, &self.public).filter(|_| read) {
            Some(tip) => tip,
            None => self.without_head(&mut found)?,
        };
        self.go_to(tip.segment)?;
        let len = self.segment.len()?;
        if len < tip.end {
            found.lines_lost = true;
            tip.end = self.end_last_line(len)?;
        }
        self.scan(&mut tip, &mut found)?;
        while self.has_next() {
            self.go_to(tip.segment.saturating_add(1))?;
            (tip.segment, tip.end) = (self.segment.number, 0);
            self.scan(&mut tip, &mut found)?;
        }
        Ok((tip, found))
    }

    /// Goes on from a line that has no head yet, past what is no line of osvm's, and removes what
    /// a crash cut off.
    fn scan(&self, tip: &mut Tip, found: &mut Recovery) -> Result<(), ReceiptError> {
        let mut pieces = Pieces::new(&self.segment.file, tip.end);
        while let Some((piece, end)) = pieces.next().map_err(|error| self.segment.io(error))? {
            match piece {
                Piece::Line(line) => match self.next_after(tip, &line) {
                    Some(seq) => (tip.seq, tip.hash) = (seq, Hash::of(&line)),
                    None => found.foreign_lines = found.foreign_lines.saturating_add(1),
                },
                Piece::TooLong => found.foreign_lines = found.foreign_lines.saturating_add(1),
                Piece::Torn => {
                    found.torn_bytes = found.torn_bytes.saturating_add(end - tip.end);
                    let cut = self.segment.file.set_len(tip.end);
                    return cut.map_err(|error| self.segment.io(error));
                }
            }
            tip.end = end;
        }
        Ok(())
    }

    /// The number of a line, if it is the one that comes after `tip`.
    fn next_after(&self, tip: &Tip, line: &[u8]) -> Option<u64> {
        let sealed = Sealed::parse(line)?;
        let follows = tip.seq.checked_add(1) == Some(sealed.seq) && sealed.prev == tip.hash;
        (follows && sealed.is_genuine(&self.public)).then_some(sealed.seq)
    }

    /// The newest genuine line, where nothing says which one that is.
    fn without_head(&mut self, found: &mut Recovery) -> Result<Tip, ReceiptError> {
        for number in segment::list(&self.dir)?.into_iter().rev() {
            self.go_to(number)?;
            let mut lines = Vec::new();
            let mut pieces = Pieces::new(&self.segment.file, 0);
            while let Some((piece, end)) = pieces.next().map_err(|error| self.segment.io(error))? {
                if let Piece::Line(line) = piece {
                    lines.push((line, end));
                }
            }
            for (line, end) in lines.into_iter().rev() {
                if let Some(sealed) = Sealed::parse(&line)
                    && sealed.is_genuine(&self.public)
                {
                    // The first line of all may have been written by whoever died behind it.
                    found.head_lost = sealed.seq > 1;
                    let hash = Hash::of(&line);
                    return Ok(Tip { seq: sealed.seq, hash, segment: number, end });
                }
            }
        }
        Ok(Tip::NONE)
    }

    /// What is left of a line that was cut stays, as a line of its own: it is evidence.
    fn end_last_line(&mut self, len: u64) -> Result<u64, ReceiptError> {
        let mut last = [b'\n'];
        let read = match len.checked_sub(1) {
            Some(at) => self.segment.file.read_exact_at(&mut last, at),
            None => Ok(()),
        };
        let ended = read.and_then(|()| match last {
            [b'\n'] => Ok(()),
            _ => self.segment.file.write_all(b"\n"),
        });
        ended.map_err(|error| self.segment.io(error))?;
        self.segment.len()
    }

    fn has_next(&self) -> bool {
        let next = segment::name(self.segment.number.saturating_add(1));
        match self.dir.join(next).symlink_metadata() {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn go_to(&mut self, number: u32) -> Result<(), ReceiptError> {
        let gone = || {
            self.segment
                .file
                .metadata()
                .is_ok_and(|m| std::os::unix::fs::MetadataExt::nlink(&m) == 0)
        };
        if self.segment.number != number || gone() {
            self.segment = Segment::open(&self.dir, number)?;
        }
        Ok(())
    }
}
