//! Small files of the state directory: read whole, written whole or not at all.

use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Longest file that is read, in bytes.
const MAX: u64 = 16 * 1024 * 1024;

/// What a file says; `None` when there is none.
pub(crate) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(MAX).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Puts a complete file, mode 0600, in place of `path`.
pub(crate) fn write(path: &Path, what: &impl serde::Serialize) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    let mut text = serde_json::to_vec_pretty(what)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
