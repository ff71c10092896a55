//! The stream to the host: a virtio-serial port, or a connection on vsock.
//!
//! ```text
//! virtio-serial: one port, there as long as the machine is; a copy of the guest has it too
//! vsock:         the host connects; a copy of the guest finds its connection gone, and takes another
//! ```

use crate::Error;
use crate::buffers::{Input, Outgoing, fill};
use osvm_protocol::PORT;
use osvm_protocol::linux::{Channel, SERIAL_PORT};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open as open_file};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use std::fs;
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VsockListener};

/// Where the kernel lists the ports.
const PORTS: &str = "/sys/class/virtio-ports";

/// How long the port may take to appear.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long closing a connection may wait until the host has what was written. The kernel sends in
/// the background, and the machine may stop right after its last words.
const LINGER: Duration = Duration::from_secs(1);

/// The stream. Neither reads nor writes wait on it.
#[derive(Debug)]
pub(crate) struct Stream {
    fd: OwnedFd,
    /// Where the next one comes from.
    listener: Option<VsockListener>,
}

impl Stream {
    /// Opens it; on vsock, as soon as the host has connected.
    pub(crate) fn open(channel: Channel) -> Result<Self, Error> {
        match channel {
            Channel::VirtioSerial => Ok(Self { fd: serial()?, listener: None }),
            Channel::Vsock => {
                let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT);
                let listener = listener.map_err(Error::during("listen on vsock"))?;
                Ok(Self { fd: accept(&listener)?, listener: Some(listener) })
            }
        }
    }

    /// Waits for the next connection, and is that from then on. False where there is only one.
    pub(crate) fn again(&mut self) -> Result<bool, Error> {
        let Some(listener) = &self.listener else { return Ok(false) };
        self.fd = accept(listener)?;
        Ok(true)
    }

    /// Appends what can be read now to `bytes`.
    pub(crate) fn read(&self, bytes: &mut Vec<u8>) -> rustix::io::Result<Input> {
        match (fill(&self.fd, bytes), &self.listener) {
            // A port whose other end is closed reads as empty, and may be opened again; `poll` tells.
            (Ok(_), None) => Ok(Input::Open),
            (Err(error), Some(_)) if is_gone(error) => Ok(Input::Ended),
            (input, _) => input,
        }
    }

    /// Writes as much of `outbox` as is taken now.
    pub(crate) fn write(&self, outbox: &mut Outgoing) -> rustix::io::Result<Input> {
        match outbox.flush(&self.fd) {
            Ok(()) => Ok(Input::Open),
            Err(error) if self.listener.is_some() && is_gone(error) => Ok(Input::Ended),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How the kernel says that a connection is no more: the host closed it, or this is a copy.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::CONNRESET | Errno::NOTCONN | Errno::PIPE)
}

fn serial() -> Result<OwnedFd, Error> {
    let deadline = Instant::now() + DEADLINE;
    // The driver learns the ports' names from the device, a moment after it found them.
    let path = loop {
        match find() {
            Some(path) => break path,
            None if deadline < Instant::now() => {
                let what = format!("find the virtio-serial port `{SERIAL_PORT}`");
                return Err(Error::new(what, "it did not appear in time"));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_file(&path, flags, Mode::empty()).map_err(Error::during(format!("open `{path}`")))
}

fn find() -> Option<String> {
    let named = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == SERIAL_PORT)
    };
    let entry = fs::read_dir(PORTS).ok()?.filter_map(Result::ok).find(named)?;
    Some(format!("/dev/{}", entry.file_name().to_str()?))
}

fn accept(listener: &VsockListener) -> Result<OwnedFd, Error> {
    let accept = || -> std::io::Result<OwnedFd> {
        let (stream, _host) = listener.accept()?;
        stream.set_nonblocking(true)?;
        let stream = OwnedFd::from(stream);
        set_socket_linger(&stream, Some(LINGER))?;
        Ok(stream)
    };
    accept().map_err(Error::during("take the host's connection"))
}
