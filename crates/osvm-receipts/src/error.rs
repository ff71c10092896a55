//! Why receipts can't be kept or read.

use osvm_runtime::{DirError, LedgerError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Receipts can't be kept or read.
#[derive(Debug, Error)]
pub enum ReceiptError {
    /// The directory can't be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A file can't be used.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// Others could read or change the key.
    #[error("key `{}` is not private: it has owner {owner} and mode {mode:o}", path.display())]
    KeyNotPrivate {
        /// The file.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no key.
    #[error("`{}` holds no key of receipts", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// There are receipts, and no key that they could be continued with.
    #[error("there are receipts in `{}`, but their key is missing", dir.display())]
    KeyMissing {
        /// The directory.
        dir: PathBuf,
    },
    /// Another process has been writing for too long.
    #[error("another process has held `{}` for {} s", path.display(), .waited.as_secs())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// There is hardly any room left.
    #[error("there is no room for receipts in `{}`: {free} bytes are free", dir.display())]
    Full {
        /// The directory.
        dir: PathBuf,
        /// How many.
        free: u64,
    },
}

impl ReceiptError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dir(error) => error.hint(),
            Self::KeyNotPrivate { path, .. } => {
                Some(format!("make it yours alone: `chmod 600 {}`", path.display()))
            }
            Self::BadKey { .. } | Self::KeyMissing { .. } => Some(
                "bring the key back, or move the directory away: new receipts begin a new chain"
                    .into(),
            ),
            Self::Locked { .. } => Some("look for a stopped osvm with `ps`".into()),
            Self::Full { .. } => Some("make room: no call runs without a receipt".into()),
            Self::Io { .. } => None,
        }
    }
}

impl From<ReceiptError> for LedgerError {
    fn from(error: ReceiptError) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}
