//! Connections of a guest through its host, as frames among the others of its stream.
//!
//! ```text
//! guest ── host/connect {stream, host, port} ─▶ host      a JSON-RPC request; null: it is open
//! payload = 01 ─ kind ─ stream: u32 LE ─ bytes             both ways, once it is open
//!                0 data, 1 end of the sender's data, 2 gone, 3 room for so many bytes more: u32 LE
//! ```
//!
//! # Invariants
//!
//! - Neither side sends more bytes than the other has made room for: [`WINDOW`] to begin with, so
//!   what waits anywhere is bounded.
//! - A stream is gone for both sides after [`Net::Gone`], or when both have sent [`Net::End`].
//!
//! # Not here
//!
//! - Who may connect where: the host decides, for each stream anew.

use crate::frame::{Builder, FrameError};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// First byte of the payload; no JSON begins with it.
const MARK: u8 = 1;

/// Bytes before the data.
const HEAD: usize = 6;

/// Bytes each side may send before the other makes room for more.
pub const WINDOW: u32 = 256 * 1024;

/// Most bytes of data in one frame.
pub const CHUNK: usize = 32 * 1024;

/// Streams that one guest may have at once.
pub const MAX_STREAMS: usize = 32;

/// Where the proxy of a guest listens, on 127.0.0.1. The port that proxies have by custom.
pub const PROXY_PORT: u16 = 3128;

/// Requests of the guest.
pub mod method {
    /// Opens a stream: [`super::Connect`], answered with `null`.
    pub const CONNECT: &str = "host/connect";
    /// Whether a name may be reached: [`super::Resolve`], answered with [`super::Resolved`].
    pub const RESOLVE: &str = "host/resolve";
}

/// Parameters of [`method::CONNECT`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Connect {
    /// The guest's number for it, not in use.
    pub stream: u32,
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Parameters of [`method::RESOLVE`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Resolve {
    /// The name.
    pub name: String,
}

/// Answer to [`method::RESOLVE`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Resolved {
    /// TCP ports that rules name for it.
    pub ports: Vec<u16>,
}

/// What is said of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// The sender has no more data; it still takes some.
    End,
    /// There is no such stream any more.
    Gone,
    /// The sender has room for so many bytes more.
    Room(u32),
}

/// Number of the stream and what is said of it; `None` for a payload of another kind.
pub fn read(payload: &[u8]) -> Option<(u32, Net<'_>)> {
    let (head, bytes) = payload.split_first_chunk::<HEAD>()?;
    let [MARK, kind, stream @ ..] = *head else { return None };
    let said = match (kind, bytes) {
        (0, _) => Net::Data(bytes),
        (1, []) => Net::End,
        (2, []) => Net::Gone,
        (3, _) => Net::Room(u32::from_le_bytes(bytes.try_into().ok()?)),
        _ => return None,
    };
    Some((u32::from_le_bytes(stream), said))
}

/// The frame that says `said` of `stream`.
///
/// # Errors
///
/// [`FrameError::TooLong`] for more data than a frame takes.
pub fn frame(stream: u32, said: Net<'_>) -> Result<Vec<u8>, FrameError> {
    let room;
    let (kind, bytes): (u8, &[u8]) = match said {
        Net::Data(bytes) => (0, bytes),
        Net::End => (1, &[]),
        Net::Gone => (2, &[]),
        Net::Room(bytes) => {
            room = bytes.to_le_bytes();
            (3, &room)
        }
    };
    let mut frame = Builder::with_capacity(bytes.len().saturating_add(HEAD));
    frame.push(&[MARK, kind]);
    frame.push(&stream.to_le_bytes());
    frame.push(bytes);
    frame.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(stream: u32, said: Net<'_>) {
        let frame = frame(stream, said).unwrap();
        let payload = crate::frame::split(&frame).unwrap().unwrap().payload;
        assert_eq!(read(payload), Some((stream, said)));
        assert_eq!(crate::linux::line(payload), None);
    }

    #[test]
    fn what_is_said_comes_out() {
        for said in [Net::Data(b""), Net::Data(b"x"), Net::End, Net::Gone, Net::Room(70_000)] {
            round(0xdead_beef, said);
        }
    }

    #[test]
    fn what_has_another_form_is_nothing() {
        for payload in [
            &b""[..],
            b"\x01",
            b"\x01\x00\0\0\0",
            b"{\x00\0\0\0\0",
            b"\x01\x04\0\0\0\0",
            b"\x01\x01\0\0\0\0x",
            b"\x01\x03\0\0\0\0xyz",
        ] {
            assert_eq!(read(payload), None, "{payload:?}");
        }
    }

    proptest! {
        #[test]
        fn any_data_comes_out(stream: u32, data: Vec<u8>) {
            round(stream, Net::Data(&data));
        }

        #[test]
        fn any_payload_is_read_or_refused(payload: Vec<u8>) {
            let _total = read(&payload);
        }
    }
}
