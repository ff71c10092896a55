//! What a unikernel does once it is up: serve the executor's tools, one connection after another.

use crate::{Guest, Platform, Registers};
use osvm_kernel_core::vsock::{Stream, StreamError};
use unikraft_tool_executor::{Facts, serve as serve_tools};

/// Listens and serves for as long as the guest runs. `name` and `build` are those of its image.
pub fn serve(guest: Guest, name: &str, build: &str) -> ! {
    let facts = Facts {
        memory_bytes: guest.memory_bytes,
        devices: &guest.devices,
        command_line: guest.command_line,
        name,
        build,
        env: &guest.page.env,
        platform: "osvm-kernel",
    };
    let mut vsock = guest.vsock.listen();
    loop {
        let mut connection = Connection::new(vsock.accept());
        // A connection that failed is over; the next one may be fine.
        let _ = serve_tools(&mut connection, &facts);
    }
}

/// A vsock stream as the executor wants it.
#[derive(Debug)]
pub struct Connection<'v>(Stream<'v, 'static, Registers, Platform>);

impl<'v> Connection<'v> {
    /// Wraps what [`crate::GuestVsock`] has accepted.
    pub fn new(stream: Stream<'v, 'static, Registers, Platform>) -> Self {
        Self(stream)
    }
}

impl unikraft_tool_executor::Stream for Connection<'_> {
    type Error = StreamError;

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, StreamError> {
        self.0.read(buf)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.0.write_all(bytes)
    }
}
