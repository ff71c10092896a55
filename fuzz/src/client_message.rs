//! Messages of MCP clients: any bytes are a message or a defect, and what is edited stays an object.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let is_request = osvm_gateway::reads_as_message(bytes);
    // A line break between messages changes nothing.
    let line = [bytes, b" "].concat();
    assert_eq!(osvm_gateway::reads_as_message(&line), is_request);
});
