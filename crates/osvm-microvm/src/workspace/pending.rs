//! Changes that wait until somebody applies them.
//!
//! ```text
//! <folder>/<id>/change.json    whose they are, where they belong, and what they are
//!               patch          the same for people
//!               <digest>       bytes of each file
//! ```
//!
//! # Invariants
//!
//! - One is there as a whole or not at all.

use super::apply::{self, ApplyError};
use super::changes::{Change, Changes};
use osvm_image::Digest;
use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the shape of `change.json`.
const FORMAT: u32 = 1;

/// Letters of an id.
const ID: usize = 12;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A folder of changes that wait.
#[derive(Clone, Debug)]
pub struct Pending {
    dir: PathBuf,
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
        Self { dir: dir.into() }
    }

    /// Keeps changes; gives their id.
    pub(super) fn save(
        &self,
        server: &str,
        host_path: &Path,
        changes: &Changes,
        patch: &str,
    ) -> io::Result<String> {
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
        let fresh = self.dir.join(format!(".new-{id}"));
        let keep = || -> io::Result<()> {
            DirBuilder::new().mode(0o700).create(&fresh)?;
            for (digest, bytes) in &changes.contents {
                put(&fresh.join(digest.hex()), bytes)?;
            }
            put(&fresh.join("patch"), patch.as_bytes())?;
            put(&fresh.join("change.json"), &serde_json::to_vec(&set)?)?;
            fs::rename(&fresh, self.dir.join(&id))
        };
        keep().inspect_err(|_| drop(fs::remove_dir_all(&fresh)))?;
        Ok(id)
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
        apply::put(&root, &set.changes, &contents, force)?;
        // What is in place may stay listed, and applying it again changes nothing.
        let _gone = fs::remove_dir_all(&place);
        Ok(())
    }

    /// Forgets it.
    ///
    /// # Errors
    ///
    /// There is none of that id, or it can't be removed.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        fs::remove_dir_all(self.place(id)?)
    }

    fn place(&self, id: &str) -> io::Result<PathBuf> {
        if id.len() != ID || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.dir.join(id))
    }
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}
