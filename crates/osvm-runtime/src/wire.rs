//! Frames over the stream to a guest.
//!
//! # Invariants
//!
//! - A length is refused before its bytes are waited for.
//! - Memory grows with what has arrived, never with what was announced.
//! - A guest can't send for ever without answering: messages and bytes are counted.

use osvm_protocol::frame::{self, FrameError, HEADER_LEN, MAX_PAYLOAD};
use osvm_vmm::GuestStream;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

/// Frames a guest may send in one call, its answer included.
pub(crate) const MAX_FRAMES: u32 = 10_000;

/// Bytes a guest may send in one call: requests to the host of any size, and the answer.
pub(crate) const MAX_BYTES: u64 = 8 * MAX_PAYLOAD as u64;

/// Read at once, in bytes: an ordinary answer in one go.
const CHUNK: usize = 16 * 1024;

/// The stream to a guest, cut into frames.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: GuestStream,
    /// Bytes received: the current frame from the front, and what came after it.
    buffer: Vec<u8>,
    /// Length of the frame that was handed out last and is still at the front.
    handed_out: usize,
    frames: u32,
    bytes: u64,
}

/// Why there is no further frame.
#[derive(Debug)]
pub(crate) enum WireError {
    /// The deadline came first.
    TimedOut,
    /// The guest hung up between two frames.
    HungUp,
    /// The guest hung up inside a frame.
    MidFrame,
    /// The guest announced a frame over the limit.
    Frame(FrameError),
    /// The guest sent more than one call may.
    Flood,
    /// The host side failed.
    Io(io::Error),
}

impl Wire {
    pub(crate) fn new(stream: GuestStream) -> Self {
        Self { stream, buffer: Vec::new(), handed_out: 0, frames: 0, bytes: 0 }
    }

    /// Begins to count anew, for another request.
    pub(crate) fn begin(&mut self) {
        (self.frames, self.bytes) = (0, 0);
    }

    /// Whether nothing came behind the last frame.
    pub(crate) fn is_drained(&self) -> bool {
        self.buffer.len() <= self.handed_out
    }

    /// The stream itself, to be waited for.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Sends a frame, header included.
    pub(crate) fn send(&mut self, frame: &[u8], deadline: Instant) -> Result<(), WireError> {
        self.stream.write_all(frame, deadline).map_err(from_io)
    }

    /// Waits for the next frame and returns its payload.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<&[u8], WireError> {
        self.buffer.drain(..std::mem::take(&mut self.handed_out));
        let len = loop {
            match frame::split(&self.buffer).map_err(WireError::Frame)? {
                Some(frame) => break HEADER_LEN + frame.payload.len(),
                None => self.receive(deadline)?,
            }
        };
        self.frames += 1;
        if self.frames > MAX_FRAMES {
            return Err(WireError::Flood);
        }
        self.handed_out = len;
        Ok(self.buffer.get(HEADER_LEN..len).unwrap_or_default())
    }

    fn receive(&mut self, deadline: Instant) -> Result<(), WireError> {
        let filled = self.buffer.len();
        // Twice as much as there is, so that 10 MiB arrive in few steps and 10 bytes cost little.
        self.buffer.resize(filled + filled.clamp(CHUNK, 1 << 20), 0);
        let room = self.buffer.get_mut(filled..).unwrap_or_default();
        let received = self.stream.read(room, deadline);
        let received = received.inspect_err(|_| self.buffer.truncate(filled)).map_err(from_io)?;
        self.buffer.truncate(filled + received);
        self.bytes = self.bytes.saturating_add(received as u64);
        match received {
            0 if filled == 0 => Err(WireError::HungUp),
            0 => Err(WireError::MidFrame),
            _ if self.bytes > MAX_BYTES => Err(WireError::Flood),
            _ => Ok(()),
        }
    }
}

fn from_io(error: io::Error) -> WireError {
    match error.kind() {
        io::ErrorKind::TimedOut => WireError::TimedOut,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => WireError::HungUp,
        _ => WireError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn pair() -> (Wire, UnixStream) {
        let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
        let (host, guest) = socketpair(kind.0, kind.1, kind.2, None).unwrap();
        (Wire::new(GuestStream::new(host)), guest.into())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn frames_that_come_together_are_handed_out_one_by_one() {
        let (mut wire, mut guest) = pair();
        guest.write_all(b"\x02\0\0\0hi\x00\0\0\0\x01\0\0\0!").unwrap();
        assert_eq!(wire.next(soon()).unwrap(), b"hi");
        assert_eq!(wire.next(soon()).unwrap(), b"");
        assert_eq!(wire.next(soon()).unwrap(), b"!");
    }

    #[test]
    fn a_frame_of_the_longest_size_arrives_whole() {
        let (mut wire, mut guest) = pair();
        let frame = frame::encode(&vec![7; MAX_PAYLOAD as usize]).unwrap();
        let sender = std::thread::spawn(move || guest.write_all(&frame).unwrap());
        assert!(wire.next(soon()).unwrap().iter().all(|byte| *byte == 7));
        sender.join().unwrap();
    }

    #[test]
    fn an_announcement_over_the_limit_costs_no_memory() {
        let (mut wire, mut guest) = pair();
        guest.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(wire.next(soon()), Err(WireError::Frame(_))));
        assert!(wire.buffer.capacity() <= 2 * CHUNK);
    }

    #[test]
    fn a_hang_up_inside_a_frame_is_told_from_one_between_frames() {
        let (mut wire, mut guest) = pair();
        guest.write_all(b"\x01\0\0\0!\x05\0\0\0hel").unwrap();
        drop(guest);
        assert_eq!(wire.next(soon()).unwrap(), b"!");
        assert!(matches!(wire.next(soon()), Err(WireError::MidFrame)));
        let (mut wire, guest) = pair();
        drop(guest);
        assert!(matches!(wire.next(soon()), Err(WireError::HungUp)));
    }

    #[test]
    fn empty_frames_without_end_are_a_flood() {
        let (mut wire, mut guest) = pair();
        let sender = std::thread::spawn(move || while guest.write_all(&[0; 4096]).is_ok() {});
        let end = loop {
            if let Err(error) = wire.next(soon()) {
                break error;
            }
        };
        assert!(matches!(end, WireError::Flood), "{end:?}");
        assert_eq!(wire.frames, MAX_FRAMES + 1);
        drop(wire);
        sender.join().unwrap();
    }
}
