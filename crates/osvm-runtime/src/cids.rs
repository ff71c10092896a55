//! CIDs of guests, handed out among all osvm processes of one user.
//!
//! ```text
//! file `cids`, 128 bytes for each CID, at CID × 128
//!   bytes locked (OFD lock, exclusive)  = the CID is in use
//!   bytes themselves                    = who uses it: pid, VM pid, start, call id, tool
//! ```
//!
//! # Invariants
//!
//! - The kernel decides: taking a CID is one `fcntl(F_OFD_SETLK)`, so two processes never get
//!   the same one, and there is nothing to clean up after a crash.
//! - A lock belongs to an open file description of its own, which the VM process holds too. So
//!   a CID stays taken until the last process that could use it is gone, and is free from that
//!   moment on, however they died.
//! - The record is for people. Whether a CID is taken is never read from it.
//! - Calls of one process that follow each other have CIDs that differ, until its range is used up:
//!   what is written about one guest is not mistaken for the next one's.
//!
//! # Not here
//!
//! - Whose turn it is. Who waits tries again until its deadline; queues are the daemon's.

mod record;

use crate::cancel::Cancel;
use crate::dirs::{DirError, private};
use crate::id::CallId;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use osvm_protocol::Cid;
use record::Record;
use rustix::fs::{Mode, OFlags};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;

/// Name of the file in the runtime directory.
const FILE: &str = "cids";

/// First and longest pause between two attempts while all CIDs are taken.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Holders that are named when all CIDs are taken.
const MAX_NAMED: usize = 3;

/// The CIDs that osvm may hand out.
#[derive(Clone, Debug)]
pub struct Cids {
    dir: PathBuf,
    range: RangeInclusive<u32>,
    /// Where looking for a free one begins: behind the one that was taken last. Held while one is
    /// taken, or of two takers the slower one could have the third begin at the second's.
    next: Arc<Mutex<u32>>,
}

/// A CID that is ours. Dropping it, and the end of every process it was passed to, frees it.
#[derive(Debug)]
pub struct Lease {
    cid: Cid,
    /// The only open file description that holds the lock.
    lock: Arc<OwnedFd>,
    record: Record,
}

/// Who asks for a CID.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The call.
    pub call: CallId,
    /// The server whose tool is called.
    pub server: &'a str,
    /// The tool.
    pub tool: &'a str,
}

/// Who holds a CID. A lock that is held is proof that a process lives; the rest is its claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The CID.
    pub cid: Cid,
    /// Process id of the osvm that took it; `None` while it has not said yet.
    pub pid: Option<u32>,
    /// Process id of its VM process, once that runs.
    pub vm_pid: Option<u32>,
    /// When it was taken.
    pub since: Option<SystemTime>,
    /// The call it was taken for.
    pub call: Option<CallId>,
    /// `server/tool`, cut to what fits; the image of a guest that waits for a call.
    pub tool: String,
    /// Whether its guest is booted, unused, and waits for a call.
    pub idle: bool,
    /// Whether its guest is a Linux microVM, whatever its CID is; `tool` is its server then.
    pub micro_vm: bool,
}

/// No CID could be taken.
#[derive(Debug, Error)]
pub enum CidError {
    /// The directory can't be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The file can't be used.
    #[error("cannot use CID file `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// Everything in the range was taken until the deadline.
    #[error("all {count} CIDs ({first} to {last}) are taken: {}", tally(holders))]
    AllTaken {
        /// How many there are.
        count: usize,
        /// The lowest.
        first: u32,
        /// The highest.
        last: u32,
        /// Who held them at the end.
        holders: Vec<Holder>,
    },
    /// The range holds nothing, or an address that vsock reserves.
    #[error("CIDs {first} to {last} cannot be handed out")]
    BadRange {
        /// The lowest.
        first: u32,
        /// The highest.
        last: u32,
    },
    /// The call was cancelled while it waited.
    #[error("cancelled while waiting for a CID")]
    Cancelled,
}

impl CidError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dir(error) => error.hint(),
            Self::AllTaken { .. } => Some(
                "`osvm ps` lists the guests that hold them; try again when one has ended".into(),
            ),
            Self::Io { .. } | Self::BadRange { .. } | Self::Cancelled => None,
        }
    }
}

impl Cids {
    /// The CIDs `range`, shared through a file in `dir`, the runtime directory.
    pub fn new(dir: impl Into<PathBuf>, range: RangeInclusive<u32>) -> Self {
        let next = Arc::new(Mutex::new(*range.start()));
        Self { dir: dir.into(), range, next }
    }

    /// The CIDs that are handed out.
    pub fn range(&self) -> RangeInclusive<u32> {
        self.range.clone()
    }

    /// Takes the next free CID, the lowest one at first; waits for one until `deadline`.
    ///
    /// # Errors
    ///
    /// [`CidError::AllTaken`] at the deadline, naming the holders.
    pub fn take(
        &self,
        claim: Claim<'_>,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Lease, CidError> {
        self.take_for(Record::new(claim), deadline, cancel)
    }

    /// Takes the next free CID for a guest of `image` that will wait for a call; does not wait for
    /// one.
    ///
    /// # Errors
    ///
    /// Those of [`Cids::take`].
    pub fn take_idle(&self, image: &str) -> Result<Lease, CidError> {
        self.take_for(Record::idle(image), Instant::now(), &Cancel::default())
    }

    /// Takes any CID of the range for a Linux guest that runs `server`.
    ///
    /// # Errors
    ///
    /// As for [`Cids::take_idle`].
    pub fn take_micro_vm(&self, server: &str) -> Result<Lease, CidError> {
        self.take_for(Record::micro_vm(server), Instant::now(), &Cancel::default())
    }

    fn take_for(
        &self,
        record: Record,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Lease, CidError> {
        let (first, last) = (*self.range.start(), *self.range.end());
        if Cid::new(first).is_err() || Cid::new(last).is_err() || self.range.is_empty() {
            return Err(CidError::BadRange { first, last });
        }
        let file = self.open()?;
        let mut pause = PAUSE.0;
        loop {
            if let Some(cid) = self.lock_one(&file)? {
                return self.lease(cid, file, record);
            }
            if cancel.is_cancelled() {
                return Err(CidError::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let holders = self.list()?;
                return Err(CidError::AllTaken {
                    count: self.range.clone().count(),
                    first,
                    last,
                    holders,
                });
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Every CID of the range that a living process holds, and who that is.
    ///
    /// # Errors
    ///
    /// [`CidError`] when the file can't be read.
    pub fn list(&self) -> Result<Vec<Holder>, CidError> {
        // Nobody has taken one yet, and looking makes nothing.
        if let Ok(false) = self.dir.join(FILE).try_exists() {
            return Ok(Vec::new());
        }
        let file = self.open()?;
        let taken = self.taken(&file)?;
        let holder = |cid| Record::read(&file, cid).into_holder(cid);
        Ok(taken.into_iter().map(holder).collect())
    }

    /// The CIDs of the range that are locked, in order. Asks about stretches of the file, because
    /// a range may be long and mostly free.
    fn taken(&self, file: &File) -> Result<Vec<Cid>, CidError> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let (first, last) = (first.max(Cid::MIN.get()), last.min(Cid::MAX.get()));
        let mut stretches = vec![(first <= last).then_some((first, last))];
        let mut taken = Vec::new();
        while let Some(stretch) = stretches.pop() {
            let Some((first, last)) = stretch else { continue };
            let mut lock = stretch_lock(first, last);
            fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(|error| self.io(error.into()))?;
            if i32::from(lock.l_type) == libc::F_UNLCK {
                continue;
            }
            let (from, to) = record::covered(lock.l_start, lock.l_len);
            let (from, to) = (from.clamp(first, last), to.clamp(first, last));
            taken.extend((from..=to).filter_map(|raw| Cid::new(raw).ok()));
            stretches.push((first < from).then(|| (first, from - 1)));
            stretches.push((to < last).then(|| (to + 1, last)));
        }
        taken.sort_unstable();
        Ok(taken)
    }

    fn lock_one(&self, file: &File) -> Result<Option<Cid>, CidError> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = if self.range.contains(&next) { *next } else { first };
        for cid in (begin..=last).chain(first..begin).filter_map(|raw| Cid::new(raw).ok()) {
            match fcntl(file, FcntlArg::F_OFD_SETLK(&region(cid))) {
                Ok(_) => {
                    *next = cid.get().saturating_add(1);
                    return Ok(Some(cid));
                }
                // Both mean "taken": fcntl(2).
                Err(nix::Error::EAGAIN | nix::Error::EACCES) => {}
                Err(error) => return Err(self.io(error.into())),
            }
        }
        Ok(None)
    }

    fn lease(&self, cid: Cid, file: File, record: Record) -> Result<Lease, CidError> {
        record.write(&file, cid).map_err(|source| self.io(source))?;
        Ok(Lease { cid, lock: Arc::new(file.into()), record })
    }

    /// A new open file description: the locks of two never pass for each other's.
    fn open(&self) -> Result<File, CidError> {
        let dir = private(&self.dir)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, FILE, flags, Mode::RUSR | Mode::WUSR);
        Ok(file.map_err(|error| self.io(error.into()))?.into())
    }

    fn io(&self, source: io::Error) -> CidError {
        CidError::Io { path: self.dir.join(FILE), source }
    }
}

impl Lease {
    /// The CID.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// What the VM process has to keep open, so that the CID stays taken while it lives.
    pub fn keep(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.lock)
    }

    /// Tells `osvm ps` which process runs the guest.
    pub fn set_vm_pid(&mut self, pid: u32) {
        self.record.vm_pid = Some(pid);
        self.tell();
    }

    /// Tells `osvm ps` that the guest serves a call now.
    pub(crate) fn assign(&mut self, claim: Claim<'_>) {
        let vm_pid = self.record.vm_pid;
        self.record = Record { vm_pid, ..Record::new(claim) };
        self.tell();
    }

    fn tell(&self) {
        // The record is for people only: a call does not fail because nobody can read it.
        let _ = self.record.write(&*self.lock, self.cid);
    }
}

/// The bytes that stand for a CID.
fn region(cid: Cid) -> libc::flock {
    stretch_lock(cid.get(), cid.get())
}

/// The bytes that stand for some CIDs, one after the other.
#[expect(clippy::cast_possible_truncation, reason = "F_WRLCK is 1 and SEEK_SET is 0")]
fn stretch_lock(first: u32, last: u32) -> libc::flock {
    let count = i64::from(last.saturating_sub(first)) + 1;
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: i64::from(first) * record::LEN as i64,
        l_len: count * record::LEN as i64,
        l_pid: 0,
    }
}

/// Who holds how many, the largest first.
fn tally(holders: &[Holder]) -> String {
    let mut counts: Vec<(&Holder, usize)> = Vec::new();
    for holder in holders {
        let same = |other: &Holder| {
            (&other.tool, other.pid, other.idle) == (&holder.tool, holder.pid, holder.idle)
        };
        match counts.iter_mut().find(|(other, _)| same(other)) {
            Some((_, count)) => *count += 1,
            None => counts.push((holder, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut text = String::new();
    for (position, (Holder { tool, pid, idle, .. }, count)) in
        counts.iter().take(MAX_NAMED).enumerate()
    {
        let separator = if position == 0 { "" } else { ", " };
        let what = if *idle { "unused guests of " } else { "" };
        let pid = pid.map_or("?".into(), |pid| pid.to_string());
        // Writing to a string can't fail.
        let _ = write!(text, "{separator}{count} by {what}`{tool}` of process {pid}");
    }
    let rest: usize = counts.iter().skip(MAX_NAMED).map(|(_, count)| count).sum();
    if rest > 0 {
        let _ = write!(text, ", {rest} by others");
    }
    if text.is_empty() { "their holders have just ended".into() } else { text }
}

#[cfg(test)]
mod tests;
