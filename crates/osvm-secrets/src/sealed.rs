//! The secrets file: all names and values, encrypted as one.
//!
//! ```text
//! ├ "OSVMSEC1" ┼ key is in the keyring: 0 or 1 ┼ nonce: 24 bytes ┼ XChaCha20-Poly1305 of ┤
//!   for each secret: name length: u8, name, value length: u16 little-endian, value
//! ```
//!
//! What stands before the nonce is authenticated too. A nonce is random, and new at each write.

use crate::value::{SecretName, SecretValue};
use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"OSVMSEC1";
const HEAD: usize = MAGIC.len() + 1;
const NONCE: usize = 24;
const TAG: usize = 16;

/// Bytes of a key.
pub(crate) const KEY: usize = 32;

/// All secrets.
pub(crate) type Values = BTreeMap<SecretName, SecretValue>;

/// Where a file says that its key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyPlace {
    File,
    Keyring,
}

/// Says where the key of a file is; none if it is no such file.
pub(crate) fn key_place(file: &[u8]) -> Option<KeyPlace> {
    match file.strip_prefix(MAGIC)?.first()? {
        0 => Some(KeyPlace::File),
        1 => Some(KeyPlace::Keyring),
        _ => None,
    }
}

/// Encrypts all secrets; none if there is too much or the cipher fails.
pub(crate) fn seal(
    values: &Values,
    key: &[u8; KEY],
    nonce: [u8; NONCE],
    place: KeyPlace,
) -> Option<Vec<u8>> {
    let size: usize = values.iter().map(|(n, v)| 3 + n.as_str().len() + v.reveal().len()).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(size));
    for (name, value) in values {
        text.push(u8::try_from(name.as_str().len()).ok()?);
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(&u16::try_from(value.reveal().len()).ok()?.to_le_bytes());
        text.extend_from_slice(value.reveal().as_bytes());
    }
    let mut file = MAGIC.to_vec();
    file.push(u8::from(place == KeyPlace::Keyring));
    let head = file.clone();
    let cipher = XChaCha20Poly1305::new(key.into());
    let nonce = XNonce::from(nonce);
    let tag = cipher.encrypt_inout_detached(&nonce, &head, text.as_mut_slice().into()).ok()?;
    file.extend_from_slice(&nonce);
    file.extend_from_slice(&text);
    file.extend_from_slice(&tag);
    Some(file)
}

/// Decrypts a file; none if it is not what [`seal`] made with this key.
pub(crate) fn open(file: &[u8], key: &[u8; KEY]) -> Option<Values> {
    let (head, rest) = file.split_at_checked(HEAD)?;
    let (nonce, rest) = rest.split_at_checked(NONCE)?;
    let (text, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = XNonce::from(<[u8; NONCE]>::try_from(nonce).ok()?);
    let tag = Tag::from(<[u8; TAG]>::try_from(tag).ok()?);
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher.decrypt_inout_detached(&nonce, head, text.as_mut_slice().into(), &tag).ok()?;
    let mut values = Values::new();
    let mut rest = &text[..];
    while let Some((len, tail)) = rest.split_first() {
        let (name, tail) = tail.split_at_checked(usize::from(*len))?;
        let (len, tail) = tail.split_first_chunk()?;
        let (value, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let value = Zeroizing::new(str::from_utf8(value).ok()?.to_owned());
        values.insert(str::from_utf8(name).ok()?.parse().ok()?, SecretValue::new(value).ok()?);
        rest = tail;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        let value = |text: &str| SecretValue::new(Zeroizing::new(text.into())).unwrap();
        pairs.iter().map(|(n, v)| (n.parse().unwrap(), value(v))).collect()
    }

    #[test]
    fn what_was_sealed_opens_with_its_key_alone() {
        let values = values(&[("A", "value of a"), ("B", "value of b")]);
        let file = seal(&values, &[1; KEY], [2; NONCE], KeyPlace::File).unwrap();
        assert_eq!(open(&file, &[1; KEY]).unwrap(), values);
        assert!(open(&file, &[3; KEY]).is_none());
        assert!(!file.windows(5).any(|window| window == b"value"));
    }

    #[test]
    fn a_file_with_any_bit_changed_does_not_open() {
        let file = seal(&values(&[("A", "value of a")]), &[1; KEY], [2; NONCE], KeyPlace::File);
        let file = file.unwrap();
        for place in 0..file.len() {
            let mut changed = file.clone();
            changed[place] ^= 1;
            assert!(open(&changed, &[1; KEY]).is_none(), "byte {place}");
        }
        for len in 0..file.len() {
            assert!(open(&file[..len], &[1; KEY]).is_none(), "length {len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_secrets_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _total = (key_place(&bytes), open(&bytes, &[1; KEY]));
        }
    }
}
