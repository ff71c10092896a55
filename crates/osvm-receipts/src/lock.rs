//! One writer at a time, among all processes of the user.

use crate::error::ReceiptError;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE: &str = "lock";

/// A writer holds the lock for less than a millisecond, unless it was stopped.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_millis(2);

/// The lock file of a directory.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

/// Held until dropped. The kernel lets go of it when the process ends.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a File);

impl Lock {
    pub(crate) fn open(dir: &Path) -> Result<Self, ReceiptError> {
        let path = dir.join(FILE);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
        let io = |error: Errno| ReceiptError::Io { path: path.clone(), source: error.into() };
        Ok(Self { file: file.map_err(io)?.into(), path })
    }

    /// Whether this is still the file that others lock too.
    pub(crate) fn is_in_place(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = self.file.metadata().map(identity);
        ours.is_ok_and(|ours| self.path.metadata().is_ok_and(|there| identity(there) == ours))
    }

    /// Waits for the lock.
    pub(crate) fn hold(&self) -> Result<Held<'_>, ReceiptError> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Held(&self.file)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                Err(Errno::WOULDBLOCK) => {
                    let path = self.path.clone();
                    return Err(ReceiptError::Locked { path, waited: PATIENCE });
                }
                Err(error) => {
                    let path = self.path.clone();
                    return Err(ReceiptError::Io { path, source: error.into() });
                }
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Unlocking a lock that is held can't fail.
        let _unlocked = flock(self.0, FlockOperation::Unlock);
    }
}
