//! How often a client was let through to a tool in the last minute, counted over all processes.
//!
//! One small file for each client and tool: the times of its calls, in ms since 1970, eight bytes
//! each. Only kept where the rules ask for it. A file that can't be used counts as full: who can't
//! count lets nobody through that is to be counted.

use osvm_runtime::{DirError, private_dir};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of the window, in ms.
const WINDOW: u64 = 60_000;

/// Calls that are counted; more count as these.
pub(crate) const MOST: usize = 8192;

/// Files above which old ones are removed.
const MAX_FILES: usize = 1000;

/// The files.
#[derive(Debug)]
pub(crate) struct Rates {
    dir: PathBuf,
}

impl Rates {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Tells `decide` how many calls there were, and counts this one if that lets it through.
    pub(crate) fn count<T>(
        &self,
        (client, server, tool): (&str, &str, &str),
        now: SystemTime,
        decide: impl FnOnce(u64) -> (T, bool),
    ) -> io::Result<T> {
        let file = self.open(&[client, server, tool])?;
        flock(&file, FlockOperation::LockExclusive)?;
        let mut bytes = Vec::new();
        (&file).take(8 * MOST as u64).read_to_end(&mut bytes)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let times = bytes.chunks_exact(8).filter_map(|time| time.try_into().ok());
        let recent = |time: &u64| now.abs_diff(*time) < WINDOW;
        let mut times: Vec<u64> = times.map(u64::from_le_bytes).filter(recent).collect();
        let (decided, through) = decide(u64::try_from(times.len()).unwrap_or(u64::MAX));
        if through {
            if times.len() >= MOST {
                times.remove(0);
            }
            times.push(now);
            let bytes: Vec<u8> = times.iter().flat_map(|time| time.to_le_bytes()).collect();
            file.write_all_at(&bytes, 0)?;
            file.set_len(bytes.len() as u64)?;
        }
        Ok(decided)
    }

    fn open(&self, key: &[&str]) -> io::Result<File> {
        private_dir(&self.dir).map_err(|error| match error {
            DirError::Io { source, .. } => source,
            error @ DirError::NotPrivate { .. } => io::Error::other(error),
        })?;
        let mut hash = Sha256::new();
        for part in key {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let name: String =
            hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let path = self.dir.join(name);
        if !path.exists() {
            self.prune();
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Clients choose their names, so there could be files without end.
    fn prune(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        if paths.len() < MAX_FILES {
            return;
        }
        let old = |path: &PathBuf| {
            let age = path.metadata().and_then(|m| m.modified()).ok().map(|t| t.elapsed());
            !matches!(age, Some(Ok(age)) if age < Duration::from_millis(WINDOW))
        };
        for path in paths.iter().filter(|path| old(path)) {
            let _gone = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_calls_is_counted_for_each_client_and_tool() {
        let home = tempfile::tempdir().unwrap();
        let rates = || Rates::new(home.path().join("rates"));
        let start = SystemTime::now();
        let call = |key, secs, through| {
            let now = start + Duration::from_secs(secs);
            rates().count(key, now, |count| (count, through)).unwrap()
        };
        let (one, other) = (("a", "b", "c"), ("a", "bc", ""));
        assert_eq!([call(one, 0, true), call(one, 1, true), call(one, 2, false)], [0, 1, 2]);
        assert_eq!([call(one, 3, true), call(other, 3, true)], [2, 0]);
        assert_eq!(call(one, 61, true), 1);
        assert_eq!(call(one, 200, true), 0);
    }

    #[test]
    fn counters_at_once_lose_no_call() {
        let home = tempfile::tempdir().unwrap();
        let rates = Rates::new(home.path().join("rates"));
        let count = || rates.count(("a", "b", "c"), SystemTime::now(), |count| (count, true));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..25).for_each(|_| assert!(count().is_ok())));
            }
        });
        assert_eq!(count().unwrap(), 200);
    }
}
