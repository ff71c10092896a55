//! The key of the secrets file: made on first use, kept in the keyring or in a file.

use crate::error::SecretsError;
use crate::file;
use crate::keyring::Keyring;
use crate::sealed::{KEY, KeyPlace};
use std::path::Path;
use zeroize::Zeroizing;

/// A key.
pub(crate) type Key = Zeroizing<[u8; KEY]>;

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], SecretsError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SecretsError::Random)?;
    Ok(bytes)
}

/// The key at its place, if it is there.
pub(crate) fn load(
    place: KeyPlace,
    path: &Path,
    keyring: Option<&Keyring>,
) -> Result<Option<Key>, SecretsError> {
    match place {
        KeyPlace::File => {
            let Some(bytes) = file::read(path, KEY as u64 + 1)? else { return Ok(None) };
            let key = <[u8; KEY]>::try_from(&bytes[..]);
            let key = key.map_err(|_| SecretsError::Damaged(path.to_owned()))?;
            Ok(Some(Zeroizing::new(key)))
        }
        KeyPlace::Keyring => Ok(keyring.and_then(Keyring::get).and_then(|text| from_hex(&text))),
    }
}

/// Makes a key, and keeps it where it is safest.
pub(crate) fn make(
    path: &Path,
    keyring: Option<&Keyring>,
) -> Result<(Key, KeyPlace), SecretsError> {
    // One of an earlier file that was removed; others may still be encrypted with it.
    if let Some(key) = load(KeyPlace::File, path, None)? {
        return Ok((key, KeyPlace::File));
    }
    let key = Zeroizing::new(random::<KEY>()?);
    if keyring.is_some_and(|keyring| keyring.set(&to_hex(&key))) {
        return Ok((key, KeyPlace::Keyring));
    }
    file::replace(path, &key[..])?;
    Ok((key, KeyPlace::File))
}

fn to_hex(key: &Key) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(2 * KEY));
    for nibble in key.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        let digit = char::from_digit(nibble.into(), 16).and_then(|digit| u8::try_from(digit).ok());
        text.extend(digit);
    }
    text
}

fn from_hex(text: &[u8]) -> Option<Key> {
    let mut key = Zeroizing::new([0; KEY]);
    if text.len() != 2 * KEY {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = <[u8; 2]>::try_from(pair).ok()?;
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form() {
        let key: Key = Zeroizing::new(std::array::from_fn(|i| u8::try_from(i * 8).unwrap()));
        assert_eq!(from_hex(&to_hex(&key)).unwrap(), key);
        assert!(from_hex(b"00").is_none());
        assert!(from_hex(&[b'x'; 2 * KEY]).is_none());
    }
}
