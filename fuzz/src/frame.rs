//! Frames: any stream of bytes is split, refused or incomplete, and what is split can be put
//! together again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_protocol::frame::{self, HEADER_LEN, MAX_PAYLOAD};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(frame)) = frame::split(rest) {
        assert!(frame.payload.len() <= MAX_PAYLOAD as usize);
        let taken = HEADER_LEN + frame.payload.len();
        assert_eq!(frame::encode(frame.payload).unwrap(), &rest[..taken]);
        assert_eq!(frame.rest, &rest[taken..]);
        rest = frame.rest;
    }
});
