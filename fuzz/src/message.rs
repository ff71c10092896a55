//! Messages: any payload is a message or an error, and what is read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_protocol::message::{self, Message};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Message::Response(response)) = message::parse(bytes) else { return };
    let (Some(id), Ok(result)) = (&response.id, response.outcome) else { return };
    let Ok(frame) = message::result(id, result.get()) else { return };
    let payload = &frame[osvm_protocol::frame::HEADER_LEN..];
    let Ok(Message::Response(again)) = message::parse(payload) else {
        panic!("what osvm wrote is not a response");
    };
    assert_eq!(again.id.as_ref(), Some(id));
    assert_eq!(again.outcome.unwrap().get(), result.get());
});
