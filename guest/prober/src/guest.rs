//! The platform's side of the prober.

use osvm_kernel::{Connection, Guest, guest_main, image_parts};

guest_main!(run);
image_parts!();

fn run(guest: Guest) -> ! {
    let mut vsock = guest.vsock.listen();
    loop {
        let mut connection = Connection::new(vsock.accept());
        // A connection that failed is over; the next one may be fine.
        let _ = prober::serve(&mut connection, env!("OSVM_IMAGE_NAME"), env!("OSVM_BUILD_ID"));
    }
}
