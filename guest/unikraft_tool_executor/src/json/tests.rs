//! What is written here, `serde_json` reads.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn written(members: impl FnOnce(&mut Object<'_>)) -> Value {
    let mut frame = Builder::with_capacity(0);
    object(&mut frame, members);
    let bytes = frame.finish().unwrap();
    serde_json::from_slice(&bytes[osvm_protocol::frame::HEADER_LEN..]).unwrap()
}

#[test]
fn every_kind_of_value_has_its_place() {
    let value = written(|o| {
        o.text("text", "a");
        o.flag("yes", true);
        o.flag("no", false);
        o.null("nothing");
        o.object("empty", |_| ());
        o.array("list", |list| {
            list.text("a");
            list.number(1);
            list.object(|o| o.number("n", 2));
        });
        o.array("none", |_| ());
    });
    assert_eq!(
        value,
        json!({"text": "a", "yes": true, "no": false, "nothing": null, "empty": {},
               "list": ["a", 1, {"n": 2}], "none": []})
    );
}

#[test]
fn the_ends_of_the_range_are_exact() {
    for number in [0, 9, 10, u64::MAX] {
        assert_eq!(written(|o| o.number("n", number)), json!({ "n": number }));
    }
}

#[test]
fn every_ascii_character_survives() {
    let text: String = (0..128).map(char::from).collect();
    assert_eq!(written(|o| o.text("t", &text)), json!({ "t": text }));
}

proptest! {
    #[test]
    fn eight_bytes_at_a_time_find_what_one_at_a_time_finds(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'a')], 0..40),
    ) {
        let first = bytes.iter().position(|byte| must_escape(*byte));
        prop_assert_eq!(plain_len(&bytes), first.unwrap_or(bytes.len()));
    }

    #[test]
    fn any_string_survives(text in "\\PC*|[\u{0}-\u{ff}]*") {
        assert_eq!(written(|o| o.text("t", &text)), json!({ "t": text }));
    }

    #[test]
    fn any_number_survives(number: u64) {
        assert_eq!(written(|o| o.number("n", number)), json!({ "n": number }));
    }
}
