//! Bytes of an MCP server: lines, messages and events are read or refused, and nothing that is
//! read is longer than its limit or different from what was sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_upstream::wire::{Events, Incoming, LineError, parse, read};
use std::io::BufReader;

const LIMIT: usize = 256;

fuzz_target!(|bytes: &[u8]| {
    let (piece, bytes) = bytes.split_first().unwrap_or((&1, &[]));
    let piece = usize::from(*piece).max(1);
    let mut input = BufReader::with_capacity(piece, bytes);
    loop {
        match read(&mut input, LIMIT) {
            Ok(Some(line)) => {
                assert!(line.len() <= LIMIT && !line.contains(&b'\n'));
                check(line);
            }
            Ok(None) | Err(LineError::TooLong) => break,
            Err(LineError::Io(error)) => panic!("{error}"),
        }
    }
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    let at_once = Events::new(LIMIT).feed(bytes, |event| whole.push(event));
    let mut events = Events::new(LIMIT);
    let by_and_by =
        bytes.chunks(piece).try_for_each(|chunk| events.feed(chunk, |event| pieces.push(event)));
    assert_eq!(at_once, by_and_by);
    assert_eq!(whole, pieces);
    for event in whole {
        assert!(event.data.len() <= LIMIT + 16);
        check(event.data);
    }
});

fn check(line: Vec<u8>) {
    let text = String::from_utf8_lossy(&line).into_owned();
    match parse(line) {
        Ok(Incoming::Answer { reply, .. }) => {
            let (osvm_upstream::Reply::Result(raw) | osvm_upstream::Reply::Error(raw)) = reply;
            assert!(text.contains(raw.get()), "an answer that nobody sent");
        }
        Ok(Incoming::Request { id, .. }) => assert!(text.contains(id.get())),
        Ok(Incoming::Notification { .. }) | Err(_) => {}
    }
}
