//! The byte stream between osvm and one guest.
//!
//! Every backend ends in a stream socket of the host's kernel, so this is a concrete type: a
//! socket pair (embedded VMM, vhost-user), a Unix socket (Firecracker) or AF_VSOCK. Reads and
//! writes block until their deadline. Back-pressure is the kernel's: a guest that does not read
//! fills the socket and the writer waits.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// One connection to a guest.
#[derive(Debug)]
pub struct GuestStream {
    socket: OwnedFd,
}

impl GuestStream {
    /// Wraps a connected stream socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline, `BrokenPipe` when the guest is gone.
    pub fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives at least one byte into `buffer`; 0 means that the guest hung up.
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((received, _)) => return Ok(received),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(Errno::CONNRESET) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says that nothing more will be written; reading goes on.
    pub fn finish_writing(&mut self) -> io::Result<()> {
        Ok(shutdown(&self.socket, Shutdown::Write)?)
    }

    fn wait(&self, events: PollFlags, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&self.socket, events)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for GuestStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
