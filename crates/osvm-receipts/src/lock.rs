//! One writer at a time, among all processes of the user, each in its turn.
//!
//! # Invariants
//!
//! - The kernel keeps the queue: whoever waits sleeps in `flock`, and those who come later stand behind it.
//! - A wait ends. It goes on as long as others get their turns, and is given up when nobody does.

use crate::error::ReceiptError;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

const FILE: &str = "lock";

/// How long one writer may hold the lock, of which it needs less than a millisecond unless it was
/// stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a writer waits in all, however many are in front of it.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// Threads of this process that may wait. One that was given up waits on, because nothing ends it but its
/// turn.
const MAX_WAITING: usize = 16;

/// Stack of a thread that waits, in bytes.
const STACK: usize = 128 * 1024;

static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The lock file of a directory.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
    patience: Duration,
}

/// Held until dropped. The kernel lets go of it when the process ends.
#[derive(Debug)]
pub(crate) struct Held(File);

impl Lock {
    pub(crate) fn open(dir: &Path) -> Result<Self, ReceiptError> {
        let path = dir.join(FILE);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
        let io = |error: Errno| ReceiptError::Io { path: path.clone(), source: error.into() };
        Ok(Self { file: file.map_err(io)?.into(), path, patience: PATIENCE })
    }

    /// Whether this is still the file that others lock too.
    pub(crate) fn is_in_place(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = self.file.metadata().map(identity);
        ours.is_ok_and(|ours| self.path.metadata().is_ok_and(|there| identity(there) == ours))
    }

    /// Waits for the lock.
    pub(crate) fn hold(&self) -> Result<Held, ReceiptError> {
        let file = self.own_file().map_err(|error| self.io(error))?;
        let held = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Held(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => self.wait(file)?,
            Err(error) => return Err(self.io(error.into())),
        };
        held.count();
        Ok(held)
    }

    /// The same file under a description of its own: to that a lock belongs, and one that comes after its wait
    /// was given up must not be taken for another one.
    fn own_file(&self) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        File::options().read(true).write(true).open(path)
    }

    fn wait(&self, file: File) -> Result<Held, ReceiptError> {
        let begun = Instant::now();
        let given_up = || ReceiptError::Locked { path: self.path.clone(), waited: begun.elapsed() };
        let count = WAITING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < MAX_WAITING).then_some(count + 1)
        });
        if count.is_err() {
            return Err(given_up());
        }
        let (say, hear) = mpsc::sync_channel(1);
        let sleep = move || {
            let held = lock(file);
            WAITING.fetch_sub(1, Ordering::Relaxed);
            // If nobody listens any more, what comes back is dropped, and the lock with it.
            let _given_up = say.send(held);
        };
        let thread = std::thread::Builder::new().name("osvm-receipts".into()).stack_size(STACK);
        thread.spawn(sleep).map_err(|error| {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            self.io(error)
        })?;
        let mut turns = turns(&self.file);
        loop {
            match hear.recv_timeout(self.patience) {
                Ok(held) => return held.map_err(|error| self.io(error.into())),
                Err(RecvTimeoutError::Disconnected) => return Err(given_up()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = self::turns(&self.file);
            if now == turns || MAX_WAIT <= begun.elapsed() {
                return Err(given_up());
            }
            turns = now;
        }
    }

    fn io(&self, source: io::Error) -> ReceiptError {
        ReceiptError::Io { path: self.path.clone(), source }
    }
}

fn lock(file: File) -> Result<Held, Errno> {
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Held(file)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// How often somebody got the lock. A file that does not say counts as one where nobody did.
fn turns(file: &File) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0).map_or(0, |()| u64::from_le_bytes(bytes))
}

impl Held {
    /// Tells those who wait that it goes on.
    fn count(&self) {
        let next = turns(&self.0).wrapping_add(1).to_le_bytes();
        // Where it can't be said, those who wait are only less patient.
        let _said = self.0.write_all_at(&next, 0);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Unlocking a lock that is held can't fail.
        let _unlocked = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn impatient(dir: &Path, millis: u64) -> Lock {
        Lock { patience: Duration::from_millis(millis), ..Lock::open(dir).unwrap() }
    }

    #[test]
    fn whoever_waits_gets_its_turn_though_all_together_take_longer_than_one_may() {
        let dir = tempfile::tempdir().unwrap();
        let served = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let first = Lock::open(dir.path()).unwrap().hold().unwrap();
            for n in 0..12 {
                let lock = impatient(dir.path(), 150);
                let served = &served;
                scope.spawn(move || {
                    let _held = lock.hold().unwrap();
                    served.lock().unwrap().push(n);
                    std::thread::sleep(Duration::from_millis(50));
                });
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(first);
        });
        assert_eq!(served.into_inner().unwrap().len(), 12);
    }

    #[test]
    fn a_holder_that_stands_still_is_given_up_and_nothing_is_locked_by_it_later() {
        let dir = tempfile::tempdir().unwrap();
        let stopped = Lock::open(dir.path()).unwrap().hold().unwrap();
        let lock = impatient(dir.path(), 50);
        assert!(matches!(lock.hold(), Err(ReceiptError::Locked { .. })));
        drop(stopped);
        let _held = impatient(dir.path(), 2000).hold().unwrap();
        assert!(matches!(lock.hold(), Err(ReceiptError::Locked { .. })));
    }
}
