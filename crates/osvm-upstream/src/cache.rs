//! What servers offered last time, on disk: one file for each, named by the digest of its spec.
//!
//! A file that can't be read is as good as none. Files are written whole or not at all.

use crate::offer::Offer;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 160 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Cache {
    folder: Option<PathBuf>,
    name: String,
}

impl Cache {
    pub(crate) fn new(folder: Option<PathBuf>, digest: &str) -> Self {
        Self { folder, name: format!("{digest}.json") }
    }

    pub(crate) fn read(&self) -> Option<Offer> {
        let path = self.folder.as_ref()?.join(&self.name);
        if fs::metadata(&path).ok()?.len() > MAX_FILE {
            return None;
        }
        let text = fs::read_to_string(&path).ok()?;
        let offer = serde_json::from_str(&text);
        offer.inspect_err(|error| tracing::debug!(%error, ?path, "cannot read the cache")).ok()
    }

    pub(crate) fn write(&self, offer: &Offer) {
        if let Err(error) = self.try_write(offer) {
            // It is only slower without.
            tracing::warn!(%error, folder = ?self.folder, "cannot write the cache");
        }
    }

    fn try_write(&self, offer: &Offer) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Some(folder) = &self.folder else { return Ok(()) };
        fs::create_dir_all(folder)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let fresh = folder.join(format!(".{}.{}.{number}", self.name, std::process::id()));
        let written = fs::write(&fresh, serde_json::to_vec(offer)?);
        let moved = written.and_then(|()| fs::rename(&fresh, folder.join(&self.name)));
        if moved.is_err() {
            // Whatever went wrong, nothing half-written stays.
            let _gone = fs::remove_file(&fresh);
        }
        moved
    }
}
