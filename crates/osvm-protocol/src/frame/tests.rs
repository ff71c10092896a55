//! What frames promise, on good and hostile bytes.

use super::*;
use proptest::prelude::*;

#[test]
fn half_a_header_asks_for_more() {
    check(b"\x02\0", Ok(None));
}

#[test]
fn half_a_payload_asks_for_more() {
    check(b"\x02\0\0\0h", Ok(None));
}

#[test]
fn bytes_after_the_frame_are_left_alone() {
    check(b"\x02\0\0\0hi!", Ok(Some(Frame { payload: b"hi", rest: b"!" })));
}

#[test]
fn too_long_is_refused_before_the_payload_arrives() {
    let len = MAX_PAYLOAD + 1;
    check(&len.to_le_bytes(), Err(FrameError::TooLong { len: len.into() }));
}

#[test]
fn the_longest_payload_is_accepted() {
    check(&MAX_PAYLOAD.to_le_bytes(), Ok(None));
}

#[test]
fn a_payload_over_the_limit_is_not_encoded() {
    let payload = vec![0; MAX_PAYLOAD as usize + 1];
    assert_eq!(encode(&payload), Err(FrameError::TooLong { len: payload.len() as u64 }));
}

proptest! {
    #[test]
    fn what_is_encoded_is_what_is_split(payload: Vec<u8>, rest: Vec<u8>) {
        let mut bytes = encode(&payload).unwrap();
        bytes.extend_from_slice(&rest);
        check(&bytes, Ok(Some(Frame { payload: &payload, rest: &rest })));
    }

    #[test]
    fn every_prefix_of_a_good_frame_is_incomplete_not_wrong(payload: Vec<u8>, cut: prop::sample::Index) {
        let frame = encode(&payload).unwrap();
        check(&frame[..cut.index(frame.len())], Ok(None));
    }

    #[test]
    fn any_bytes_are_split_refused_or_incomplete(bytes: Vec<u8>) {
        if let Ok(Some(frame)) = split(&bytes) {
            assert_eq!(HEADER_LEN + frame.payload.len() + frame.rest.len(), bytes.len());
        }
    }
}

/// The only line that knows the API. A changed signature changes this, not the tests.
#[track_caller]
fn check(input: &[u8], expected: Result<Option<Frame<'_>>, FrameError>) {
    assert_eq!(split(input), expected);
}
