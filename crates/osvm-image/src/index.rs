//! `images.json`: what was installed in the store.

use crate::{Digest, ImageError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Name of the index in the store.
pub(crate) const FILE: &str = "images.json";

/// Longest index that is read, in bytes.
const MAX_INDEX: u64 = 1024 * 1024;

/// One installed image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Entry {
    /// SHA-256 of the bootable image.
    pub digest: Digest,
    /// Length of the bootable image, in bytes.
    pub size: u64,
    /// Version of the wire it speaks.
    pub protocol: u32,
    /// Identifies the sources it was built from.
    pub build: String,
    /// When it was installed, RFC 3339, UTC.
    pub installed: String,
    /// The same tools as a Linux program, when that is installed too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<FileEntry>,
}

/// A file that belongs to an installed image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FileEntry {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Its length, in bytes.
    pub size: u64,
}

pub(crate) type Index = BTreeMap<String, Entry>;

/// Reads the index; a store without one has nothing installed.
pub(crate) fn read(dir: &Path) -> Result<Index, ImageError> {
    let path = dir.join(FILE);
    let mut text = String::new();
    let read = std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_INDEX + 1).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::new()),
        Err(source) => return Err(ImageError::Io { path, source }),
    }
    if text.len() as u64 > MAX_INDEX {
        return Err(ImageError::TooLong { path, limit: MAX_INDEX });
    }
    serde_json::from_str(&text).map_err(|source| ImageError::BadIndex { path, source })
}

/// Replaces the index as a whole.
pub(crate) fn write(dir: &Path, index: &Index) -> Result<(), ImageError> {
    let path = dir.join(FILE);
    let mut text = serde_json::to_vec_pretty(index)
        .map_err(|source| ImageError::BadIndex { path: path.clone(), source })?;
    text.push(b'\n');
    replace(&path, 0o644, &text).map_err(|source| ImageError::Io { path, source })
}

/// Puts a complete file in place of `path`, or leaves it as it was.
pub(crate) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
