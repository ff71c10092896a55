//! Image files: any bytes are an image with its note and tools, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let Ok((_, tools)) = osvm_image::describe(bytes, Path::new("image")) else { return };
    for tool in tools.iter() {
        let _ = tools.get(&tool.server, &tool.name).unwrap();
    }
    let _ = tools.get("solana", "decode_transaction");
});
