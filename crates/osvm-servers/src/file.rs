//! Files as such: read only if nobody else could have written them, and replaced in one step.
//!
//! A list of servers decides which programs run, so it is as sensitive as they are. All checks are
//! made on the open file, not on its name.

use crate::error::ServersError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest file that is read, in bytes: 8 MiB. A client's own file can hold its history.
pub const MAX_BYTES: u64 = 8 << 20;

/// The bytes of the file at `path`; `None` if there is none.
///
/// # Errors
///
/// It can't be read, is no file, too long, or not to be trusted.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, ServersError> {
    let failed = |source: io::Error| ServersError::Read { path: path.to_owned(), source };
    // NONBLOCK: a pipe in place of the file must not hold osvm up before it is looked at.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ServersError::NotAFile { path: path.to_owned() });
    }
    check_trust(path, metadata.uid(), metadata.mode(), rustix::process::geteuid().as_raw())?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if MAX_BYTES < bytes.len() as u64 {
        return Err(ServersError::TooLong { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

fn check_trust(path: &Path, owner: u32, mode: u32, user: u32) -> Result<(), ServersError> {
    const ROOT: u32 = 0;
    const PERMISSIONS: u32 = 0o7777;
    if owner != user && owner != ROOT {
        return Err(ServersError::ForeignOwner { path: path.to_owned(), owner, user });
    }
    if mode & 0o002 != 0 {
        return Err(ServersError::WorldWritable {
            path: path.to_owned(),
            mode: mode & PERMISSIONS,
        });
    }
    Ok(())
}

/// Held while a file is read, changed and written, so that no change of another osvm is lost.
#[derive(Debug)]
pub struct Lock {
    _dir: OwnedFd,
}

/// Waits until nobody else changes files in the directory of `path`, which is made if need be.
///
/// # Errors
///
/// The directory can't be made or locked.
pub fn lock(path: &Path) -> Result<Lock, ServersError> {
    let failed = |source: io::Error| ServersError::Write { path: path.to_owned(), source };
    let dir = directory(path);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    rustix::fs::flock(&dir, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    Ok(Lock { _dir: dir })
}

/// Replaces the file at `path` by one with `bytes`, or makes it; directories are made as needed.
///
/// The new file appears whole or not at all, and is on the disk when this returns. A file that was
/// there keeps its permissions; a new one has mode 0600. A link stays one: what it names is
/// replaced.
///
/// # Errors
///
/// What the host answered.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), ServersError> {
    let failed = |source: io::Error| ServersError::Write { path: path.to_owned(), source };
    let (target, mode) = match path.canonicalize() {
        Ok(target) => {
            let mode = target.metadata().map_err(failed)?.mode() & 0o777;
            (target, mode)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), 0o600),
        Err(error) => return Err(failed(error)),
    };
    write_whole(&target, bytes, mode).map_err(failed)
}

fn write_whole(target: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = directory(target);
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = tempfile::Builder::new().prefix(".osvm.").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(target).map_err(|refused| refused.error)?;
    // The name is in the directory, so that has to reach the disk too.
    File::open(dir)?.sync_all()
}

/// Copies the bytes that the file at `path` had to a file beside it, and returns its path.
///
/// # Errors
///
/// What the host answered.
pub fn back_up(path: &Path, bytes: &[u8]) -> Result<PathBuf, ServersError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".osvm-backup");
    let backup = path.with_file_name(name);
    let failed = |source: io::Error| ServersError::Write { path: backup.clone(), source };
    // A link in its place is replaced, not followed: it is nobody's file but ours.
    write_whole(&backup, bytes, 0o600).map_err(failed)?;
    Ok(backup)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
