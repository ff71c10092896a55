//! Why the store can't be used. No message holds a value.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why secrets can't be read or changed.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// A file or directory of the store.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file that somebody else may have read or written.
    #[error("`{}` {why}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },

    /// The file is none of this store, or was changed, or the key is another.
    #[error("`{}` cannot be decrypted: it was changed, or its key was", .0.display())]
    Damaged(PathBuf),

    /// There are secrets and no key for them.
    #[error("the key of `{}` is missing: {place}", path.display())]
    NoKey {
        /// The secrets.
        path: PathBuf,
        /// Where the key should be.
        place: String,
    },

    /// No more secrets fit.
    #[error("there are {0} secrets already, which is the most")]
    Full(usize),

    /// The system gives no random bytes.
    #[error("the system has no random bytes")]
    Random,
}

impl SecretsError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsafe { path, .. } => Some(format!(
                "make it yours alone with `chmod 600 {0}`; if others may have read it, set the \
                 secrets anew",
                path.display()
            )),
            Self::Damaged(path) => {
                Some(format!("restore it, or remove `{}` and set the secrets anew", path.display()))
            }
            Self::NoKey { path, .. } => Some(format!(
                "unlock the keyring or restore the key; else remove `{}` and set the secrets anew",
                path.display()
            )),
            Self::Full(_) => Some("remove one with `osvm secret rm NAME`".into()),
            Self::Io { .. } | Self::Random => None,
        }
    }
}
