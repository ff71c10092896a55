//! Files of host folders on their way into a guest and back, as frames among the others of its stream.
//!
//! ```text
//! payload = 02 ─ kind ─ fields, numbers little-endian
//!   0 folder   mode u32, path
//!   1 file     mode u32, size u64, last change: seconds i64, nanoseconds u32; path
//!   2 data     bytes of the file that was named last
//!   3 link     length of the path u32, path, target
//!   4 gone     path
//!   5 place    number u32 of the place that what follows belongs to; 0 until it is said
//! ```
//!
//! The host sends all there is, folders before what is in them, and then asks [`method::READY`]. Asked
//! [`method::CHANGES`], the guest sends what is not as it was and then answers. Both begin with place 0.
//!
//! # Invariants
//!
//! - A path is relative and made of plain names ([`is_plain`]): joined to a folder it stays below it,
//!   as far as there is no symbolic link on the way.
//!
//! # Not here
//!
//! - Links on the way, and how much is taken: both sides look after themselves.

use crate::frame::{Builder, FrameError};
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// First byte of the payload; no JSON begins with it, and nothing of [`super::net`].
const MARK: u8 = 2;

/// Longest path, in bytes: as Linux has it.
pub const MAX_PATH: usize = 4096;

/// Longest name in a path, in bytes: as Linux has it.
const MAX_NAME: usize = 255;

/// Most folders a path may lead through.
pub const MAX_DEPTH: usize = 64;

/// Most bytes of data in one frame.
pub const CHUNK: usize = 128 * 1024;

/// Most places of one guest.
pub const MAX_PLACES: usize = 16;

/// Requests of the host.
pub mod method {
    /// All files have been sent. Answered with `null` when they are in their place; from then on the
    /// server may change them.
    pub const READY: &str = "osvm/workspace/ready";
    /// What has changed since [`READY`], or since the last time: sent as frames, and answered with
    /// the number of files that had been looked at.
    pub const CHANGES: &str = "osvm/workspace/changes";
}

/// Where the files are to be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Place {
    /// Absolute path of a folder, which is made.
    pub path: String,
    /// Whether the server may change something.
    pub writable: bool,
    /// Whether the server is started only when the files are there.
    pub first: bool,
}

/// What is said of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A folder.
    Folder {
        /// Permission bits.
        mode: u32,
        /// Where.
        path: &'a [u8],
    },
    /// A file, whose bytes follow.
    File {
        /// Permission bits.
        mode: u32,
        /// Bytes it has.
        size: u64,
        /// Its last change: seconds since 1970, and nanoseconds.
        changed: (i64, u32),
        /// Where.
        path: &'a [u8],
    },
    /// Bytes of the file that was named last.
    Data(&'a [u8]),
    /// A symbolic link.
    Link {
        /// Where.
        path: &'a [u8],
        /// What it points to, whatever that is.
        target: &'a [u8],
    },
    /// What was there is there no more.
    Gone {
        /// Where.
        path: &'a [u8],
    },
    /// What follows belongs to the place of this number.
    Place(u32),
}

/// Whether `path` leads nowhere but down: names that are neither empty nor `.` nor `..`, short enough
/// and not too many.
pub fn is_plain(path: &[u8]) -> bool {
    let plain = |name: &[u8]| {
        !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_NAME && !name.contains(&0)
    };
    path.len() <= MAX_PATH
        && path.split(|byte| *byte == b'/').all(plain)
        && path.split(|byte| *byte == b'/').count() <= MAX_DEPTH
}

/// Reads a payload; `None` for one of another kind, or with a path that is not plain.
pub fn read(payload: &[u8]) -> Option<Said<'_>> {
    let ([MARK, kind], bytes) = payload.split_first_chunk::<2>()? else { return None };
    let said = match kind {
        0 => {
            let (mode, path) = bytes.split_first_chunk()?;
            Said::Folder { mode: u32::from_le_bytes(*mode), path }
        }
        1 => {
            let (mode, bytes) = bytes.split_first_chunk()?;
            let (size, bytes) = bytes.split_first_chunk()?;
            let (seconds, bytes) = bytes.split_first_chunk()?;
            let (nanos, path) = bytes.split_first_chunk()?;
            Said::File {
                mode: u32::from_le_bytes(*mode),
                size: u64::from_le_bytes(*size),
                changed: (i64::from_le_bytes(*seconds), u32::from_le_bytes(*nanos)),
                path,
            }
        }
        2 => Said::Data(bytes),
        3 => {
            let (len, bytes) = bytes.split_first_chunk()?;
            let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
            let (path, target) = bytes.split_at_checked(len)?;
            Said::Link { path, target }
        }
        4 => Said::Gone { path: bytes },
        5 => Said::Place(u32::from_le_bytes(bytes.try_into().ok()?)),
        _ => return None,
    };
    let fits = match said {
        Said::Folder { path, .. } | Said::File { path, .. } | Said::Gone { path } => is_plain(path),
        Said::Link { path, target } => is_plain(path) && target.len() <= MAX_PATH,
        Said::Data(_) | Said::Place(_) => true,
    };
    fits.then_some(said)
}

/// The frame that says it.
///
/// # Errors
///
/// [`FrameError::TooLong`] for more data than a frame takes.
pub fn frame(said: Said<'_>) -> Result<alloc::vec::Vec<u8>, FrameError> {
    let mut frame = Builder::with_capacity(64);
    match said {
        Said::Folder { mode, path } => {
            frame.push(&[MARK, 0]);
            frame.push(&mode.to_le_bytes());
            frame.push(path);
        }
        Said::File { mode, size, changed: (seconds, nanos), path } => {
            frame.push(&[MARK, 1]);
            frame.push(&mode.to_le_bytes());
            frame.push(&size.to_le_bytes());
            frame.push(&seconds.to_le_bytes());
            frame.push(&nanos.to_le_bytes());
            frame.push(path);
        }
        Said::Data(bytes) => {
            frame.push(&[MARK, 2]);
            frame.push(bytes);
        }
        Said::Link { path, target } => {
            let len = u32::try_from(path.len()).unwrap_or(u32::MAX);
            frame.push(&[MARK, 3]);
            frame.push(&len.to_le_bytes());
            frame.push(path);
            frame.push(target);
        }
        Said::Gone { path } => {
            frame.push(&[MARK, 4]);
            frame.push(path);
        }
        Said::Place(number) => {
            frame.push(&[MARK, 5]);
            frame.push(&number.to_le_bytes());
        }
    }
    frame.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn round(said: Said<'_>) {
        let frame = frame(said).unwrap();
        let payload = crate::frame::split(&frame).unwrap().unwrap().payload;
        assert_eq!(read(payload), Some(said));
        assert_eq!(super::super::net::read(payload), None);
        assert_eq!(crate::linux::line(payload), None);
    }

    #[test]
    fn what_is_said_comes_out() {
        round(Said::Folder { mode: 0o755, path: b"a" });
        round(Said::File { mode: 0o644, size: 1 << 40, changed: (-1, 999), path: b"a/b c" });
        round(Said::Data(b""));
        round(Said::Data(&[7; 1000]));
        round(Said::Link { path: b"a/l", target: b"../../anywhere" });
        round(Said::Gone { path: b"\xff" });
        round(Said::Place(0xdead_beef));
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_nothing() {
        let long = vec![b'a'; MAX_NAME + 1];
        let deep = [b"a/".repeat(MAX_DEPTH).as_slice(), b"a"].concat();
        let bad: [&[u8]; 10] =
            [b"", b"/a", b"a/", b"a//b", b"..", b"a/../b", b"./a", b"a\0b", &long, &deep];
        for path in bad {
            assert!(!is_plain(path), "{path:?}");
            let frame = frame(Said::Gone { path }).unwrap();
            let payload = crate::frame::split(&frame).unwrap().unwrap().payload;
            assert_eq!(read(payload), None, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn any_payload_is_read_or_refused(rest: Vec<u8>) {
            let payload = [&[MARK][..], &rest].concat();
            if let Some(said) = read(&payload) {
                let again = frame(said).unwrap();
                prop_assert_eq!(crate::frame::split(&again).unwrap().unwrap().payload, payload);
            }
        }
    }
}
