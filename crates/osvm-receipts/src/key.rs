//! The key that signs receipts: made on first use, readable by its owner alone.

use crate::error::ReceiptError;
use crate::line::{hex, unhex};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use zeroize::Zeroizing;

/// The secret half, in the directory of receipts.
const SECRET: &str = "key";

/// The public half, in hexadecimal digits.
const PUBLIC: &str = "key.pub";

const LEN: usize = 32;

/// Signs receipts. The secret is wiped from memory when this is dropped.
pub(crate) struct Key(SigningKey);

/// Tells whether receipts are genuine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl Key {
    /// Reads the key of a directory that the caller has locked; makes one if `may_make`.
    pub(crate) fn open(dir: &Path, may_make: bool) -> Result<Self, ReceiptError> {
        let path = dir.join(SECRET);
        let io = |source| ReceiptError::Io { path: path.clone(), source };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) if may_make => return Self::make(dir),
            Err(rustix::io::Errno::NOENT) => {
                return Err(ReceiptError::KeyMissing { dir: dir.into() });
            }
            Err(error) => return Err(io(error.into())),
        };
        let metadata = file.metadata().map_err(io)?;
        let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o7777);
        if owner != rustix::process::geteuid().as_raw() || mode & 0o077 != 0 {
            return Err(ReceiptError::KeyNotPrivate { path, owner, mode });
        }
        let bad = || ReceiptError::BadKey { path: path.clone() };
        if metadata.len() != LEN as u64 {
            return Err(bad());
        }
        let mut secret = Zeroizing::new([0; LEN]);
        file.read_exact(&mut *secret).map_err(io)?;
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    fn make(dir: &Path) -> Result<Self, ReceiptError> {
        let mut secret = Zeroizing::new([0; LEN]);
        let path = dir.join(SECRET);
        let io = |source| ReceiptError::Io { path: path.clone(), source };
        getrandom::fill(&mut *secret).map_err(|error| io(io::Error::other(error)))?;
        let key = Self(SigningKey::from_bytes(&secret));
        // The public half first: a crash in between leaves no key, and the next one starts over.
        let public = format!("{}\n", key.public());
        replace(dir, PUBLIC, 0o644, public.as_bytes())?;
        replace(dir, SECRET, 0o600, &*secret)?;
        Ok(key)
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.public())
    }
}

/// Puts a complete file in place, and on the disk: a key that is lost ends its chain.
fn replace(dir: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<(), ReceiptError> {
    let temporary = dir.join(format!(".{name}.new"));
    let io = |source| ReceiptError::Io { path: dir.join(name), source };
    let write = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(mode);
        let mut file = File::from(rustix::fs::open(&temporary, flags, mode)?);
        rustix::fs::fchmod(&file, mode)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&temporary, dir.join(name))
    };
    write().map_err(io)
}

impl PublicKey {
    /// The key that the receipts of a directory are to be checked with.
    ///
    /// # Errors
    ///
    /// [`ReceiptError`] when there is none, or what is there is none.
    pub fn open(dir: &Path) -> Result<Self, ReceiptError> {
        let path = dir.join(PUBLIC);
        let io = |source| ReceiptError::Io { path: path.clone(), source };
        let mut text = String::new();
        let file = File::open(&path).map_err(io)?;
        file.take(1024).read_to_string(&mut text).map_err(io)?;
        Self::parse(&text).ok_or_else(|| ReceiptError::BadKey { path: path.clone() })
    }

    /// Reads 64 hexadecimal digits, as `key.pub` has them.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = unhex::<LEN>(text.trim().as_bytes())?;
        VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak()).map(Self)
    }

    pub(crate) fn check(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        // The strict form: what one verifier takes, every other one takes too.
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Key::open(dir.path(), false), Err(ReceiptError::KeyMissing { .. })));
        let made = Key::open(dir.path(), true).unwrap().public();
        assert_eq!(Key::open(dir.path(), true).unwrap().public(), made);
        assert_eq!(PublicKey::open(dir.path()).unwrap(), made);
        let path = dir.path().join(SECRET);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Key::open(dir.path(), true).unwrap_err();
        assert!(matches!(error, ReceiptError::KeyNotPrivate { mode: 0o640, .. }), "{error}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SECRET);
        replace(dir.path(), SECRET, 0o600, b"short").unwrap();
        assert!(matches!(Key::open(dir.path(), true), Err(ReceiptError::BadKey { .. })));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(matches!(Key::open(dir.path(), true), Err(ReceiptError::Io { .. })));
        assert_eq!(PublicKey::parse("00"), None);
        // The neutral element signs everything.
        let weak = format!("01{}", "00".repeat(31));
        assert_eq!(PublicKey::parse(&weak), None);
    }
}
