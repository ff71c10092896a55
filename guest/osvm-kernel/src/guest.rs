//! What the unikernel does once it is up.

use osvm_kernel::{Guest, guest_main, image_parts, serve};

guest_main!(run);
image_parts!();

fn run(guest: Guest) -> ! {
    serve(guest, env!("OSVM_IMAGE_NAME"), env!("OSVM_BUILD_ID"))
}
