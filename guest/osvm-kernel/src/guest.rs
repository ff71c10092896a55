//! What the unikernel does once it is up.
#![expect(unsafe_code, reason = "exports the symbol that the boot code calls")]

extern crate alloc;

use alloc::vec::Vec;
use osvm_kernel::{Guest, GuestVsock, Platform, Registers, guest_main};
use osvm_kernel_core::vsock::{Stream, StreamError};
use unikraft_tool_executor::{Device, Facts, serve};

guest_main!(run);

fn run(guest: Guest) -> ! {
    let devices: Vec<Device> =
        guest.devices.iter().map(|(address, kind)| Device { address: *address, kind: *kind }).collect();
    let page = guest.page.clone();
    let facts = Facts {
        memory_bytes: guest.memory_bytes,
        devices: &devices,
        command_line: guest.command_line,
        name: "x",
        build: "y",
        env: &page.env,
        platform: "osvm-kernel",
    };
    let mut vsock: GuestVsock = guest.listen();
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
