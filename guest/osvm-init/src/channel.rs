//! The stream to the host: a virtio-serial port, or the first connection on vsock.

use crate::Error;
use osvm_protocol::PORT;
use osvm_protocol::linux::{Channel, SERIAL_PORT};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open as open_file};
use std::fs;
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VsockListener};

/// Where the kernel lists the ports.
const PORTS: &str = "/sys/class/virtio-ports";

/// How long the port may take to appear.
const DEADLINE: Duration = Duration::from_secs(5);

/// Opens the stream, which neither reads nor writes wait on.
pub(crate) fn open(channel: Channel) -> Result<OwnedFd, Error> {
    match channel {
        Channel::VirtioSerial => serial(),
        Channel::Vsock => accept().map_err(Error::during("take the host's connection")),
    }
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

fn accept() -> std::io::Result<OwnedFd> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT)?;
    let (stream, _host) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok(OwnedFd::from(stream))
}
