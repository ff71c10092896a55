//! The boot page: what the host tells a guest before its first instruction.
//!
//! ```text
//! ├ "OSVMBOOT" ┼ body_len: u32 LE ┼ body: body_len bytes of JSON ┤
//! ```
//!
//! It travels as the boot module (PVH) or initial RAM disk (Linux boot protocol), the one
//! channel every hypervisor has, and holds what must not stand on a command line: command lines
//! show up in process lists and logs. A guest without one boots with an empty page.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// First bytes of every boot page.
pub const MAGIC: [u8; 8] = *b"OSVMBOOT";

/// Longest body either side accepts, in bytes.
pub const MAX_BODY: u32 = 64 * 1024;

const HEADER_LEN: usize = MAGIC.len() + 4;

/// The contents. Unknown members are ignored, so an older guest can read a newer page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct BootPage<'a> {
    /// Environment variables for the tool, name and value, in the order given.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// The bytes are not a boot page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BootPageError {
    /// The page does not begin with [`MAGIC`] and a length.
    #[error("boot page has no header")]
    NoHeader,
    /// The body is announced longer than [`MAX_BODY`] or than the bytes given.
    #[error("boot page announces {len} bytes")]
    BadLength {
        /// The announced length.
        len: u64,
    },
    /// The body is not the JSON of a [`BootPage`].
    #[error("boot page is not readable")]
    BadBody,
}

impl<'a> BootPage<'a> {
    /// The bytes a VMM hands to the guest.
    pub fn encode(&self) -> Result<Vec<u8>, BootPageError> {
        let body = serde_json::to_vec(self).map_err(|_| BootPageError::BadBody)?;
        let too_long = BootPageError::BadLength { len: body.len() as u64 };
        let len = u32::try_from(body.len()).ok().filter(|len| *len <= MAX_BODY).ok_or(too_long)?;
        let mut page = Vec::with_capacity(HEADER_LEN + body.len());
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&len.to_le_bytes());
        page.extend_from_slice(&body);
        Ok(page)
    }

    /// Reads a page; bytes after the body (padding) are ignored.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BootPageError> {
        let (magic, rest) = bytes.split_first_chunk().ok_or(BootPageError::NoHeader)?;
        let (len, rest) = rest.split_first_chunk().ok_or(BootPageError::NoHeader)?;
        if *magic != MAGIC {
            return Err(BootPageError::NoHeader);
        }
        let len = u32::from_le_bytes(*len);
        let body = rest.get(..len as usize).filter(|_| len <= MAX_BODY);
        let body = body.ok_or(BootPageError::BadLength { len: len.into() })?;
        serde_json::from_slice(body).map_err(|_| BootPageError::BadBody)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_of_another_kind_is_refused() {
        assert_eq!(BootPage::decode(b"070701000000"), Err(BootPageError::NoHeader));
    }

    #[test]
    fn a_body_longer_than_the_page_is_refused() {
        let mut page = BootPage::default().encode().unwrap();
        page.pop();
        assert_eq!(BootPage::decode(&page), Err(BootPageError::BadLength { len: 2 }));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_what_is_decoded(env: Vec<(String, String)>, padding: u8) {
            let env = env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            let page = BootPage { env };
            let mut bytes = page.encode().unwrap();
            bytes.resize(bytes.len() + usize::from(padding), 0);
            assert_eq!(BootPage::decode(&bytes).unwrap(), page);
        }

        #[test]
        fn any_bytes_are_a_page_or_an_error(bytes: Vec<u8>) {
            let _ = BootPage::decode(&bytes);
        }
    }
}
