//! The boot page: any bytes are a page or an error, and a page survives being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_protocol::boot::BootPage;

fuzz_target!(|bytes: &[u8]| {
    let Ok(page) = BootPage::decode(bytes) else { return };
    // A body that is valid can grow over the limit when it is written anew: escapes differ.
    let Ok(again) = page.encode() else { return };
    assert_eq!(BootPage::decode(&again).unwrap(), page);
});
