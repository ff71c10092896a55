//! Ed25519 signatures over an image's digest, with keys in the files that OpenSSL writes.

use super::LinuxError;
use crate::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// What is signed begins with this, so that a signature fits nothing else.
const CONTEXT: &str = "osvm Linux image v1\n";

/// Longest key file that is read, in bytes.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// DER of a public Ed25519 key up to the key itself: `SubjectPublicKeyInfo` of RFC 8410, section 4.
const PUBLIC_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];

/// A signature, as it lies beside a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The public key, in base64. Says who signed, proves nothing.
    pub key: String,
    /// 64 bytes, in base64.
    pub signature: String,
}

/// Signs images.
#[derive(Debug)]
pub struct PrivateKey(Ed25519KeyPair);

/// Checks signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PrivateKey {
    /// Reads a PKCS #8 key in PEM, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    ///
    /// [`LinuxError::BadKey`] and [`LinuxError::Io`].
    pub fn read(path: &Path) -> Result<Self, LinuxError> {
        let bad = |reason| LinuxError::BadKey { path: path.into(), kind: "private", reason };
        let der = pem(path, "PRIVATE KEY")?.ok_or_else(|| bad("it is not PEM `PRIVATE KEY`"))?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map(Self)
            .map_err(|_| bad("it holds another kind of key"))
    }

    /// Signs the image whose manifest has `digest`.
    pub fn sign(&self, digest: Digest) -> Signature {
        Signature {
            key: STANDARD.encode(self.0.public_key()),
            signature: STANDARD.encode(self.0.sign(&message(digest))),
        }
    }
}

impl PublicKey {
    /// Reads a key in PEM, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    ///
    /// [`LinuxError::BadKey`] and [`LinuxError::Io`].
    pub fn read(path: &Path) -> Result<Self, LinuxError> {
        let bad = |reason| LinuxError::BadKey { path: path.into(), kind: "public", reason };
        let der = pem(path, "PUBLIC KEY")?.ok_or_else(|| bad("it is not PEM `PUBLIC KEY`"))?;
        let key = der.strip_prefix(&PUBLIC_PREFIX).filter(|key| key.len() == 32);
        key.map(|key| Self(key.to_vec())).ok_or_else(|| bad("it holds another kind of key"))
    }

    /// Whether `signature` is one of this key over the image whose manifest has `digest`.
    pub fn verifies(&self, digest: Digest, signature: &Signature) -> bool {
        STANDARD.decode(&signature.signature).is_ok_and(|signature| {
            let key = UnparsedPublicKey::new(&ED25519, &self.0);
            key.verify(&message(digest), &signature).is_ok()
        })
    }
}

fn message(digest: Digest) -> Vec<u8> {
    format!("{CONTEXT}{digest}\n").into_bytes()
}

/// The bytes of the first block with `label` in a PEM file.
fn pem(path: &Path, label: &str) -> Result<Option<Vec<u8>>, LinuxError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_KEY_FILE).read_to_string(&mut text))
        .map_err(|source| LinuxError::Io { path: path.into(), source })?;
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let body = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    Ok(body.and_then(|(body, _)| {
        let body: String = body.split_whitespace().collect();
        STANDARD.decode(body).ok()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Test keys of RFC 8410, section 10: the private key and the public key that goes with it.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----\n";

    fn keys(
        private: &str,
        public: &str,
    ) -> (Result<PrivateKey, LinuxError>, Result<PublicKey, LinuxError>) {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (private, public) = (file("private", private), file("public", public));
        (PrivateKey::read(&private), PublicKey::read(&public))
    }

    #[test]
    fn a_signature_fits_its_key_and_its_image_only() {
        let (private, public) = keys(PRIVATE, PUBLIC);
        let (private, public) = (private.unwrap(), public.unwrap());
        let digest = Digest::of(b"manifest");
        let signature = private.sign(digest);
        assert!(public.verifies(digest, &signature));
        assert!(!public.verifies(Digest::of(b"another"), &signature));
        assert!(!PublicKey(vec![7; 32]).verifies(digest, &signature));
        let cut = Signature { signature: signature.signature[4..].into(), ..signature.clone() };
        assert!(!public.verifies(digest, &cut));
        let none = Signature { signature: "?".into(), ..signature };
        assert!(!public.verifies(digest, &none));
    }

    #[test]
    fn a_file_without_such_a_key_is_named() {
        for text in ["", "-----BEGIN PRIVATE KEY-----", &PRIVATE.replace("MC4C", "MC4D")] {
            assert!(matches!(keys(text, PUBLIC).0, Err(LinuxError::BadKey { .. })), "{text}");
        }
        for text in ["", PRIVATE, &PUBLIC.replace("MCow", "MCox")] {
            assert!(matches!(keys(PRIVATE, text).1, Err(LinuxError::BadKey { .. })), "{text}");
        }
    }
}
