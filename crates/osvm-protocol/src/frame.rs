//! Frames, the only thing that crosses between host and guest.
//!
//! ```text
//! ├── len: u32 LE ──┼── payload: len bytes ──┤
//! ```
//!
//! Decoding treats the peer as hostile. It never panics, never allocates, and
//! refuses a length before it waits for the bytes.

use alloc::vec::Vec;
use thiserror::Error;

/// Longest payload either side accepts, in bytes.
pub const MAX_PAYLOAD: u32 = 10 * 1024 * 1024;

/// Bytes in front of every payload.
pub const HEADER_LEN: usize = 4;

/// The peer broke the framing. The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The announced length is over [`MAX_PAYLOAD`].
    #[error("frame of {len} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLong {
        /// The length in the header, or of the payload that was to be sent.
        len: u64,
    },
}

/// The first frame of some input, and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the peer sent.
    pub payload: &'a [u8],
    /// Bytes of later frames.
    pub rest: &'a [u8],
}

/// Splits one frame off the front of `input`.
///
/// `None` means `input` ends inside the frame and the caller should read more.
pub fn split(input: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((header, rest)) = input.split_first_chunk() else {
        return Ok(None);
    };
    let frame = rest.split_at_checked(payload_len(*header)?);
    Ok(frame.map(|(payload, rest)| Frame { payload, rest }))
}

/// Reads the payload length out of a header, in bytes.
pub fn payload_len(header: [u8; HEADER_LEN]) -> Result<usize, FrameError> {
    let len = u32::from_le_bytes(header);
    if MAX_PAYLOAD < len {
        return Err(FrameError::TooLong { len: len.into() });
    }
    Ok(len as usize)
}

/// A frame under construction: the header is left open until [`Builder::finish`].
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// Starts a frame with room for `payload` bytes.
    pub fn with_capacity(payload: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_LEN.saturating_add(payload));
        bytes.extend_from_slice(&[0; HEADER_LEN]);
        Self { bytes }
    }

    /// Appends to the payload.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// Fills in the header and returns the bytes to send.
    pub fn finish(mut self) -> Result<Vec<u8>, FrameError> {
        let len = self.bytes.len().saturating_sub(HEADER_LEN);
        let announced = u32::try_from(len).ok().filter(|len| *len <= MAX_PAYLOAD);
        let announced = announced.ok_or(FrameError::TooLong { len: len as u64 })?;
        if let Some(header) = self.bytes.first_chunk_mut() {
            *header = announced.to_le_bytes();
        }
        Ok(self.bytes)
    }
}

/// Puts a header in front of `payload`.
pub fn encode(payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut frame = Builder::with_capacity(payload.len());
    frame.push(payload);
    frame.finish()
}

#[cfg(test)]
mod tests;
