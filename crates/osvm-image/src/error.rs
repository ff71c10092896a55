//! What can be wrong with the store or an image in it.

use crate::Digest;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why an image, or an executor, cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The name could leave the store.
    #[error("`{name}` is not an image name")]
    BadName {
        /// The name, escaped and cut.
        name: String,
    },
    /// There is no such file.
    #[error("unikernel image not found: `{}`", path.display())]
    NotFound {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The file is there and can't be read or written.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The file is longer than [`crate::MAX_IMAGE`], or not a file.
    #[error("`{}` is not a regular file of at most {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The file lies in the store, but was never installed there.
    #[error("`{}` is not in the index of the image store", path.display())]
    NotIndexed {
        /// The file.
        path: PathBuf,
    },
    /// The file is not the one that was installed.
    #[error("`{}` was altered: its digest is {found}, {expected} was installed", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// The digest in the index.
        expected: Digest,
        /// The digest of the file.
        found: Digest,
    },
    /// The index can't be read.
    #[error("index `{}` of the image store is damaged", path.display())]
    BadIndex {
        /// The index.
        path: PathBuf,
        /// Where and how.
        source: serde_json::Error,
    },
    /// The file is not an image of osvm's.
    #[error("`{}` is not an osvm image: {reason}", path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// The image speaks another version of the wire.
    #[error("`{}` speaks protocol {found}, this osvm speaks {expected}", path.display())]
    WrongProtocol {
        /// The file.
        path: PathBuf,
        /// The version in its note.
        found: u32,
        /// [`osvm_protocol::PROTOCOL_VERSION`].
        expected: u32,
    },
}

impl ImageError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotFound { .. } | Self::WrongProtocol { .. } => {
                Some("build and install it with `scripts/build-unikraft-tool-executor.sh`")
            }
            Self::NotIndexed { .. } | Self::Altered { .. } | Self::BadIndex { .. } => {
                Some("install it anew with `scripts/build-unikraft-tool-executor.sh`")
            }
            Self::NotAnImage { .. } => Some("build an image with `cargo xtask guest`"),
            Self::BadName { .. } => {
                Some("`unikernel_image` is a name in the image store, without a path")
            }
            Self::Io { .. } => Some("run `osvm doctor` to see the state of the image store"),
            Self::TooLong { .. } => None,
        }
    }
}
