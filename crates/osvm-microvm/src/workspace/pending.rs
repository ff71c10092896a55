//! Changes that wait until somebody applies them.
//!
//! ```text
//! <folder>/<id>/change.json    whose they are, where they belong, and what they are
//!               patch          the same for people
//!               <digest>       bytes of each file
//!         .new-<id>            one that is being written, locked by whoever does
//!         .old-<id>            one that is being removed
//! ```
//!
//! # Invariants
//!
//! - One is there as a whole or not at all.
//! - Bounded, for all servers and folders of the user together. What would be too much is refused: nothing that
//!   somebody may still want is dropped for it.
//! - What a process that died has left takes no room: whoever keeps changes next removes it.

use super::apply::{self, ApplyError};
use super::changes::{Change, Changes};
use osvm_image::Digest;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::retry_on_intr;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the shape of `change.json`.
const FORMAT: u32 = 1;

/// Letters of an id.
const ID: usize = 12;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// Changes of so many calls wait at most.
const MAX_SETS: u64 = 256;

/// What they take on the disk together at most, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// What a file takes at least, in bytes.
const BLOCK: u64 = 4096;

/// What names one that is being written, and one that is being removed.
const NEW: &str = ".new-";
const OLD: &str = ".old-";

/// A folder of changes that wait.
#[derive(Clone, Debug)]
pub struct Pending {
    dir: PathBuf,
    max_sets: u64,
    max_bytes: u64,
}

/// Why changes were not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaveError {
    /// There is no room for them.
    #[error(
        "the changes of {sets} calls, {} MiB, wait already, and at most {max_sets}, {} MiB, may: \
         `osvm workspace ls` lists them, `apply` and `rm` make room", bytes >> 20, max_bytes >> 20
    )]
    Full { sets: u64, bytes: u64, max_sets: u64, max_bytes: u64 },
    /// The host refused something.
    #[error("they can't be kept: {0}")]
    Io(#[from] io::Error),
}

/// What one call changed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeSet {
    format: u32,
    /// What names it.
    pub id: String,
    /// The server that was called.
    pub server: String,
    /// The folder they belong to.
    pub host_path: PathBuf,
    /// When the call was answered: seconds since 1970.
    pub made_secs: u64,
    /// What they are, by path.
    pub changes: Vec<Change>,
    /// What else was changed, and is not carried to the host.
    pub left_out: Vec<String>,
}

impl Pending {
    /// The changes in `dir`, which is made when some are kept.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), max_sets: MAX_SETS, max_bytes: MAX_BYTES }
    }

    /// Keeps changes; gives their id.
    pub(super) fn save(
        &self,
        server: &str,
        host_path: &Path,
        changes: &Changes,
        patch: &str,
    ) -> Result<String, SaveError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let id: String = Digest::of(&crate::recipe::entropy()?).hex().chars().take(ID).collect();
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let set = ChangeSet {
            format: FORMAT,
            id: id.clone(),
            server: server.to_owned(),
            host_path: host_path.to_owned(),
            made_secs: made.as_secs(),
            changes: changes.all.clone(),
            left_out: changes.left_out.clone(),
        };
        let fresh = self.dir.join(format!("{NEW}{id}"));
        let written = self.begin(&fresh).map_err(SaveError::Io).and_then(|_mine| {
            for (digest, bytes) in &changes.contents {
                put(&fresh.join(digest.hex()), bytes)?;
            }
            put(&fresh.join("patch"), patch.as_bytes())?;
            let text = serde_json::to_vec(&set).map_err(io::Error::from)?;
            put(&fresh.join("change.json"), &text)?;
            self.admit(&fresh, &self.dir.join(&id))
        });
        written.inspect_err(|_| drop(fs::remove_dir_all(&fresh)))?;
        Ok(id)
    }

    /// Makes a folder that is locked as long as what comes back is held, and removes those of whoever died.
    fn begin(&self, fresh: &Path) -> io::Result<OwnedFd> {
        let _one_at_a_time = locked(&self.dir, FlockOperation::LockExclusive)?;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let left = match name.to_str() {
                Some(name) if name.starts_with(OLD) => true,
                Some(name) if name.starts_with(NEW) => {
                    locked(&entry.path(), FlockOperation::NonBlockingLockExclusive).is_ok()
                }
                _ => false,
            };
            if left {
                // The next one tries again.
                let _removed = fs::remove_dir_all(entry.path());
            }
        }
        DirBuilder::new().mode(0o700).create(fresh)?;
        locked(fresh, FlockOperation::LockExclusive)
    }

    /// Puts what is written in its place, if there is room.
    fn admit(&self, fresh: &Path, place: &Path) -> Result<(), SaveError> {
        let _one_at_a_time = locked(&self.dir, FlockOperation::LockExclusive)?;
        let (mut sets, mut bytes) = (0_u64, 0_u64);
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_id) {
                sets += 1;
                bytes = bytes.saturating_add(size(&entry.path())?);
            }
        }
        let Self { max_sets, max_bytes, .. } = *self;
        if max_sets <= sets || max_bytes < bytes.saturating_add(size(fresh)?) {
            return Err(SaveError::Full { sets, bytes, max_sets, max_bytes });
        }
        Ok(fs::rename(fresh, place)?)
    }

    /// All of them, the newest first.
    ///
    /// # Errors
    ///
    /// The folder can't be read.
    pub fn list(&self) -> io::Result<Vec<ChangeSet>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            all.extend(name.to_str().and_then(|id| self.load(id).ok()));
        }
        all.sort_by(|a, b| (b.made_secs, &a.id).cmp(&(a.made_secs, &b.id)));
        Ok(all)
    }

    /// One of them.
    ///
    /// # Errors
    ///
    /// There is none of that id, or it can't be read.
    pub fn load(&self, id: &str) -> io::Result<ChangeSet> {
        let set: ChangeSet = serde_json::from_slice(&read(&self.place(id)?.join("change.json"))?)?;
        if set.format != FORMAT || set.id != id {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(set)
    }

    /// Its patch.
    ///
    /// # Errors
    ///
    /// There is none of that id, or it can't be read.
    pub fn patch(&self, id: &str) -> io::Result<String> {
        let bytes = read(&self.place(id)?.join("patch"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Puts its changes into the host folder, and forgets it. With `force` also over files that the
    /// call had not seen.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; it is kept then.
    pub fn apply(&self, set: &ChangeSet, force: bool) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Io { path: set.host_path.display().to_string(), source };
        let place = self.place(&set.id).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            open(&set.host_path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let contents = |digest: &Digest| {
            let bytes = read(&place.join(digest.hex()))?;
            if Digest::of(&bytes) == *digest {
                Ok(bytes)
            } else {
                Err(io::Error::other("what was kept of it was changed"))
            }
        };
        if !force {
            apply::check(&root, &set.changes)?;
        }
        apply::put(&root, &set.changes, &contents)?;
        // What is in place may stay listed, and applying it again changes nothing.
        let _gone = self.remove(&set.id);
        Ok(())
    }

    /// Forgets it.
    ///
    /// # Errors
    ///
    /// There is none of that id, or it can't be removed.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        let place = self.place(id)?;
        let old = self.dir.join(format!("{OLD}{id}"));
        fs::rename(place, &old)?;
        match fs::remove_dir_all(old) {
            // Somebody who keeps changes has done it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn place(&self, id: &str) -> io::Result<PathBuf> {
        if !is_id(id) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.dir.join(id))
    }
}

fn is_id(name: &str) -> bool {
    name.len() == ID && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The folder, locked until what comes back is dropped.
fn locked(folder: &Path, how: FlockOperation) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    retry_on_intr(|| flock(&folder, how))?;
    Ok(folder)
}

/// What the files in a folder take.
fn size(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(folder)? {
        let len = entry?.metadata()?.len().div_ceil(BLOCK).max(1);
        bytes = bytes.saturating_add(len.saturating_mul(BLOCK));
    }
    Ok(bytes)
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(pending: &Pending, text: &str) -> Result<String, SaveError> {
        let (digest, size) = (Digest::of(text.as_bytes()), text.len() as u64);
        let after = Some(super::super::State::File { digest, size, mode: 0o644 });
        let all = vec![Change { path: "a".into(), before: None, after }];
        let contents = [(digest, text.as_bytes().to_vec())].into();
        let changes = Changes { all, contents, left_out: Vec::new() };
        pending.save("demo", Path::new("/w"), &changes, "")
    }

    fn names(pending: &Pending) -> usize {
        fs::read_dir(&pending.dir).unwrap().count()
    }

    #[test]
    fn more_than_may_wait_is_refused_and_what_waits_stays() {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending { max_sets: 2, ..Pending::new(dir.path().join("p")) };
        let first = keep(&pending, "1").unwrap();
        let second = keep(&pending, "2").unwrap();
        let full = keep(&pending, "3").unwrap_err().to_string();
        assert!(full.starts_with("the changes of 2 calls, 0 MiB, wait already"), "{full}");
        assert!(full.contains("`osvm workspace ls`"), "{full}");
        assert_eq!((pending.list().unwrap().len(), names(&pending)), (2, 2));
        pending.remove(&first).unwrap();
        let third = keep(&pending, "3").unwrap();
        let mut ids: Vec<_> = pending.list().unwrap().into_iter().map(|set| set.id).collect();
        ids.sort();
        let mut expected = [second, third];
        expected.sort();
        assert_eq!(ids, expected);
    }

    #[test]
    fn what_waits_takes_no_more_room_than_it_may() {
        let dir = tempfile::tempdir().unwrap();
        // Three files of one block each, of which one is the content.
        let pending = Pending { max_bytes: 7 * BLOCK, ..Pending::new(dir.path()) };
        keep(&pending, "1").unwrap();
        keep(&pending, "2").unwrap();
        assert!(matches!(keep(&pending, "3"), Err(SaveError::Full { sets: 2, .. })));
        let pending = Pending { max_bytes: 9 * BLOCK, ..pending };
        let big = "x".repeat(5000);
        assert!(matches!(keep(&pending, &big), Err(SaveError::Full { .. })));
        keep(&pending, "3").unwrap();
    }

    #[test]
    fn what_died_on_its_way_is_removed_and_what_is_on_its_way_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending { max_sets: 1, ..Pending::new(dir.path()) };
        for left in [".new-0123456789ab", ".old-0123456789ac", ".new-0123456789ad"] {
            fs::create_dir(dir.path().join(left)).unwrap();
            fs::write(dir.path().join(left).join("patch"), "x").unwrap();
        }
        let alive = dir.path().join(".new-0123456789ad");
        let _writer = locked(&alive, FlockOperation::LockExclusive).unwrap();
        keep(&pending, "1").unwrap();
        assert_eq!((pending.list().unwrap().len(), names(&pending)), (1, 2));
        assert!(alive.join("patch").exists());
    }
}
