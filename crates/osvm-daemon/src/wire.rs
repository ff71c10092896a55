//! Frames over the daemon's socket, bounded in length and time.
//!
//! # Invariants
//!
//! - A length is refused before its bytes are waited for, and memory grows with what arrives.
//! - A peer may be silent between two requests for as long as it likes; one that has begun a
//!   frame, or does not read its answer, has [`PATIENCE`].

use osvm_protocol::frame::{self, FrameError, HEADER_LEN};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a peer may take for the rest of a frame it began, and to read what it is sent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Read at once, in bytes: an ordinary message in one go.
const CHUNK: usize = 16 * 1024;

/// The stream gave no frame, or took none.
#[derive(Debug, Error)]
pub enum WireError {
    /// The peer hung up between two frames.
    #[error("the other side hung up")]
    HungUp,
    /// The peer announced or was to be sent a frame over the limit.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer hung up in mid-frame, was too slow, or the host failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// One side of a connection, cut into frames.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Arc<UnixStream>,
    /// Bytes that came and were not handed out yet.
    buffer: Vec<u8>,
}

/// What a reader does while nothing comes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// Waits for the first byte without end, and then only so long.
    Idle,
    /// Waits for the first byte until then.
    Until(Instant),
}

impl Wire {
    pub(crate) fn new(stream: Arc<UnixStream>) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The socket itself, to be watched or hung up.
    pub(crate) fn stream(&self) -> Arc<UnixStream> {
        Arc::clone(&self.stream)
    }

    /// The next frame of at most `limit` bytes; `None` if it did not begin in time.
    pub(crate) fn read(&mut self, limit: usize, wait: Wait) -> Result<Option<Vec<u8>>, WireError> {
        let mut deadline = match wait {
            Wait::Idle => None,
            Wait::Until(deadline) => Some(deadline),
        };
        loop {
            if let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() {
                let len = frame::payload_len(*header)?;
                if limit < len {
                    return Err(FrameError::TooLong { len: len as u64 }.into());
                }
                if let Some(end) = HEADER_LEN.checked_add(len).filter(|e| *e <= self.buffer.len()) {
                    let rest = self.buffer.split_off(end);
                    let mut payload = std::mem::replace(&mut self.buffer, rest);
                    payload.drain(..HEADER_LEN);
                    return Ok(Some(payload));
                }
            }
            let begun = !self.buffer.is_empty();
            match self.receive(deadline) {
                Ok(0) if begun => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(0) => return Err(WireError::HungUp),
                // From its first byte on, a frame has so long and no longer.
                Ok(_) if !begun => deadline = Some(Instant::now() + PATIENCE),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !begun => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends all of `bytes`; `blocked` is called before waiting for a peer that does not read.
    pub(crate) fn write(&self, mut bytes: &[u8], mut blocked: impl FnMut()) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match send(&*self.stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => {
                    blocked();
                    self.wait(PollFlags::OUT, Some(deadline))?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Option<Instant>) -> io::Result<usize> {
        let filled = self.buffer.len();
        // Twice as much as there is, so that 10 MiB arrive in few steps and 10 bytes cost little.
        self.buffer.resize(filled + filled.clamp(CHUNK, 1 << 20), 0);
        let received = loop {
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            match recv(&*self.stream, room, RecvFlags::DONTWAIT) {
                Ok((received, _)) => break Ok(received),
                Err(Errno::AGAIN) => {
                    if let Err(error) = self.wait(PollFlags::IN, deadline) {
                        break Err(error);
                    }
                }
                Err(Errno::CONNRESET) => break Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => break Err(error.into()),
            }
        };
        self.buffer.truncate(filled + received.as_ref().copied().unwrap_or(0));
        received
    }

    fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
        let timeout = match deadline {
            None => None,
            Some(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Err(io::ErrorKind::TimedOut.into()),
                left => Some(Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?),
            },
        };
        match poll(&mut [PollFd::new(&*self.stream, events)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(Arc::new(ours)), theirs)
    }

    fn soon() -> Wait {
        Wait::Until(Instant::now() + Duration::from_secs(10))
    }

    #[test]
    fn frames_that_come_together_are_read_one_by_one() {
        let (mut wire, mut peer) = pair();
        peer.write_all(b"\x02\0\0\0hi\0\0\0\0\x01\0\0\0!").unwrap();
        for expected in [&b"hi"[..], b"", b"!"] {
            assert_eq!(wire.read(10, soon()).unwrap().unwrap(), expected);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_comes() {
        let (mut wire, mut peer) = pair();
        peer.write_all(b"\x0b\0\0\0").unwrap();
        let error = wire.read(10, Wait::Idle).unwrap_err();
        assert!(matches!(error, WireError::Frame(FrameError::TooLong { len: 11 })), "{error}");
    }

    #[test]
    fn silence_ends_at_its_time_and_a_hang_up_is_told_from_it() {
        let (mut wire, peer) = pair();
        assert!(wire.read(10, Wait::Until(Instant::now())).unwrap().is_none());
        drop(peer);
        assert!(matches!(wire.read(10, Wait::Idle), Err(WireError::HungUp)));
    }

    #[test]
    fn a_hang_up_in_mid_frame_is_an_error() {
        let (mut wire, mut peer) = pair();
        peer.write_all(b"\x05\0\0\0hel").unwrap();
        drop(peer);
        assert!(matches!(wire.read(10, Wait::Idle), Err(WireError::Io(_))));
    }

    #[test]
    fn a_long_answer_goes_through_a_small_socket() {
        let (wire, peer) = pair();
        let mut reader = Wire::new(Arc::new(peer));
        let bytes = frame::encode(&vec![7; 5 << 20]).unwrap();
        let sender = std::thread::spawn(move || {
            let mut blocked = 0;
            wire.write(&bytes, || blocked += 1).unwrap();
            blocked
        });
        let payload = reader.read(10 << 20, soon()).unwrap().unwrap();
        assert_eq!(payload.len(), 5 << 20);
        assert!(sender.join().unwrap() > 0);
    }
}
