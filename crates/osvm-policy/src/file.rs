//! The config as a file: reading it only if nobody else could have written it, and creating the
//! default on first use.
//!
//! The file decides what is isolated, so it is as sensitive as the programs it protects. All
//! checks are made on the open file, not on its name.

use crate::error::ConfigError;
use rustix::fs::{Mode, OFlags};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use tempfile::NamedTempFile;

/// Longest config file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// The bytes of the file at `path`, if it can be trusted: it belongs to the user or to root, is not
/// writable by everybody, and is at most [`MAX_FILE_BYTES`] long.
///
/// # Errors
///
/// Those of [`crate::Config::load`], but that it is wrong.
pub fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ConfigError::Missing { path: path.to_owned() },
        _ => ConfigError::Read { path: path.to_owned(), source },
    };
    // NONBLOCK: a pipe in place of the file must not hold osvm up before it is looked at.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ConfigError::NotAFile { path: path.to_owned() });
    }
    check_trust(path, metadata.uid(), metadata.mode(), rustix::process::geteuid().as_raw())?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if MAX_FILE_BYTES < read as u64 {
        return Err(ConfigError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

fn check_trust(path: &Path, owner: u32, mode: u32, user: u32) -> Result<(), ConfigError> {
    const ROOT: u32 = 0;
    const PERMISSIONS: u32 = 0o7777;
    if owner != user && owner != ROOT {
        return Err(ConfigError::ForeignOwner { path: path.to_owned(), owner, user });
    }
    if mode & 0o002 != 0 {
        return Err(ConfigError::WorldWritable { path: path.to_owned(), mode: mode & PERMISSIONS });
    }
    Ok(())
}

/// Writes `text` to a new file at `path`, mode 0600, and makes its parent directories, mode 0700.
///
/// The file appears whole or not at all. `false` means that somebody else's file was there first;
/// it is left alone.
pub(crate) fn create(path: &Path, text: &str) -> Result<bool, ConfigError> {
    let failed = |source| ConfigError::Create { path: path.to_owned(), source };
    let written = write_aside(path, text).map_err(failed)?;
    match written.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(refused) => Err(failed(refused.error)),
    }
}

/// A file with `text` in the directory of `path`, which goes away unless it is given that name.
fn write_aside(path: &Path, text: &str) -> io::Result<NamedTempFile> {
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Mode 0600 is what `tempfile` gives its files.
    let mut file = tempfile::Builder::new().prefix(".isolation_config.").tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests;
