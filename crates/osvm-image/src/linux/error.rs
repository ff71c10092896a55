//! What can be wrong with the store of Linux images or with an image in it.

use crate::Digest;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a Linux image cannot be used or stored.
#[derive(Debug, Error)]
pub enum LinuxError {
    /// The name could leave the store, or is one of the store's own.
    #[error("`{name}` is not an image name")]
    BadName {
        /// The name, escaped and cut.
        name: String,
    },
    /// There is no such image.
    #[error("Linux image `{name}` not found")]
    NotFound {
        /// The name that was asked for.
        name: String,
        /// The most similar name in the store.
        nearest: Option<String>,
    },
    /// A file of the store can't be read or written.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The manifest can't be read.
    #[error("manifest `{}` is damaged", path.display())]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// Where and how.
        source: serde_json::Error,
    },
    /// The manifest is longer than what is read, or has impossible contents.
    #[error("manifest `{}` is refused: {reason}", path.display())]
    RefusedManifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest names a blob that is not in the store.
    #[error("blob {digest} of image `{name}` is missing")]
    MissingBlob {
        /// The image.
        name: String,
        /// The blob.
        digest: Digest,
    },
    /// The blob is not what its name says.
    #[error("`{}` was altered: its digest is {found}, not {expected}", path.display())]
    Altered {
        /// The blob.
        path: PathBuf,
        /// The digest in the manifest.
        expected: Digest,
        /// The digest of the file.
        found: Digest,
    },
    /// The key file holds no key that can be used.
    #[error("`{}` is no Ed25519 {kind} key: {reason}", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// `private` or `public`.
        kind: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A signature was asked for and there is none.
    #[error("image `{name}` is not signed")]
    Unsigned {
        /// The image.
        name: String,
    },
    /// The signature is not one of that key over that image.
    #[error("the signature of image `{name}` does not fit")]
    BadSignature {
        /// The image.
        name: String,
    },
}

impl LinuxError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`?"))
            }
            Self::NotFound { nearest: None, .. } => {
                Some("build one with `osvm image build`; `osvm image ls` lists them".into())
            }
            Self::MissingBlob { .. } | Self::Altered { .. } => {
                Some("build the image anew with `osvm image build`".into())
            }
            Self::BadManifest { .. } | Self::RefusedManifest { .. } => {
                Some("remove the image with `osvm image rm` and build it anew".into())
            }
            Self::BadKey { kind: "private", .. } => {
                Some("make one with `openssl genpkey -algorithm ed25519 -out FILE`".into())
            }
            Self::BadKey { .. } => {
                Some("make it from the private one with `openssl pkey -in FILE -pubout`".into())
            }
            Self::Unsigned { .. } => Some("sign it with `osvm image sign`".into()),
            Self::BadName { .. } | Self::Io { .. } | Self::BadSignature { .. } => None,
        }
    }
}
