//! What the unikernel does once it is up.

use osvm_kernel::{Guest, Platform, Registers, guest_main, image_parts};
use osvm_kernel_core::vsock::{Stream, StreamError};
use unikraft_tool_executor::{Facts, serve};

guest_main!(run);
image_parts!();

fn run(guest: Guest) -> ! {
    let facts = Facts {
        memory_bytes: guest.memory_bytes,
        devices: &guest.devices,
        command_line: guest.command_line,
        name: env!("OSVM_IMAGE_NAME"),
        build: env!("OSVM_BUILD_ID"),
        env: &guest.page.env,
        platform: "osvm-kernel",
    };
    let mut vsock = guest.vsock.listen();
    loop {
        let mut stream = Connection(vsock.accept());
        // A connection that failed is over; the next one may be fine.
        let _ = serve(&mut stream, &facts);
    }
}

struct Connection<'v>(Stream<'v, 'static, Registers, Platform>);

impl unikraft_tool_executor::Stream for Connection<'_> {
    type Error = StreamError;

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, StreamError> {
        self.0.read(buf)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.0.write_all(bytes)
    }
}
