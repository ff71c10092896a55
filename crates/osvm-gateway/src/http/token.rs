//! The bearer token of the HTTP server: made once, kept in a file that only its user can read.

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Bytes of randomness in a token.
const ENTROPY: usize = 32;

/// Longest file that is read for one, in bytes.
const LONGEST: u64 = 1024;

/// What a client has to show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

// A token in a log is a token in the wrong hands.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The token can't be used.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The host refused it.
    #[error("cannot read or make the token `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// Others can read it.
    #[error("the token `{}` can be read by others: it has mode {mode:o}", path.display())]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not one.
    #[error("`{}` holds no token", path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
    },
}

impl TokenError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::NotPrivate { path, .. } | Self::NoToken { path } => {
                Some(format!("remove it, and a new one is made: `rm {}`", path.display()))
            }
        }
    }
}

impl Token {
    /// The token in `path`; a new one where there is none.
    ///
    /// # Errors
    ///
    /// [`TokenError`] when it can't be read or made, or others could read it.
    pub fn load_or_create(path: &Path) -> Result<Self, TokenError> {
        let io = |source| TokenError::Io { path: path.into(), source };
        match File::open(path) {
            Ok(file) => Self::read(&file, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match Self::create(path) {
                // Another osvm was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Self::read(&File::open(path).map_err(io)?, path)
                }
                created => created.map_err(io),
            },
            Err(error) => Err(io(error)),
        }
    }

    fn create(path: &Path) -> io::Result<Self> {
        let token = random_hex::<ENTROPY>()?;
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        // Written aside and linked, so that nobody ever finds half a token.
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut file| file.write_all(format!("{token}\n").as_bytes()))
            .and_then(|()| std::fs::hard_link(&aside, path));
        let _left_behind = std::fs::remove_file(&aside);
        written.map(|()| Self(token))
    }

    fn read(file: &File, path: &Path) -> Result<Self, TokenError> {
        let io = |source| TokenError::Io { path: path.into(), source };
        let mode = file.metadata().map_err(io)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::NotPrivate { path: path.into(), mode });
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(io)?;
        let token = text.trim();
        let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
        // Whoever writes one by hand should not write a short one.
        if token.len() < 16 || !plain {
            return Err(TokenError::NoToken { path: path.into() });
        }
        Ok(Self(token.to_owned()))
    }

    /// The token itself, for its user.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `shown` is this token. Takes as long for a near miss as for any other.
    pub(crate) fn is(&self, shown: &str) -> bool {
        Sha256::digest(&self.0) == Sha256::digest(shown)
    }
}

/// `N` random bytes in hexadecimal.
pub(crate) fn random_hex<const N: usize>() -> io::Result<String> {
    let mut random = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(hex(&random))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_is_made_once_and_only_its_user_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/token");
        let token = Token::load_or_create(&path).unwrap();
        assert_eq!(token.reveal().len(), 2 * ENTROPY);
        assert_eq!(Token::load_or_create(&path).unwrap(), token);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(token.is(token.reveal()) && !token.is("") && !token.is(&token.reveal()[1..]));
        assert!(!format!("{token:?}").contains(token.reveal()));
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn a_token_that_others_can_read_or_that_is_short_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        Token::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Token::load_or_create(&path).unwrap_err();
        assert!(matches!(error, TokenError::NotPrivate { mode: 0o644, .. }), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(Token::load_or_create(&path), Err(TokenError::NoToken { .. })));
    }
}
