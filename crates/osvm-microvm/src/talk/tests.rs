//! Frames between host and init, over a pair of sockets instead of a guest.

use super::*;
use osvm_protocol::linux::wrap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn talk() -> (Talk, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Talk::new("demo".into(), GuestStream::new(ours.into())), theirs)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn notification(method: &str, params: &str) -> Vec<u8> {
    let params = RawValue::from_string(params.to_owned()).unwrap();
    message::notification(method, Some(&params)).unwrap()
}

#[test]
fn lines_that_come_before_an_answer_are_kept_in_order() {
    let (mut talk, mut guest) = talk();
    guest.write_all(&wrap(b"{\"a\":1}").unwrap()).unwrap();
    guest.write_all(&notification("host/log", r#"{"level":"info","message":"hi"}"#)).unwrap();
    guest.write_all(&wrap(b"{\"b\":2}").unwrap()).unwrap();
    guest.write_all(&message::result(&Id::from(1), "7").unwrap()).unwrap();
    assert_eq!(talk.ask::<u32>("osvm/health", &(), soon()).unwrap(), 7);
    for expected in [b"{\"a\":1}", b"{\"b\":2}"] {
        let Heard::Line(line) = talk.next(soon()).unwrap() else { panic!("no line") };
        assert_eq!(line, expected);
    }
}

#[test]
fn the_reason_of_an_end_is_what_pid_1_said() {
    let (mut talk, mut guest) = talk();
    guest
        .write_all(&notification("host/exit", r#"{"reason":"the server exited","code":3}"#))
        .unwrap();
    let gone = talk.next(soon()).unwrap_err();
    assert_eq!(gone.to_string(), "the server exited");
}

#[test]
fn a_server_cannot_speak_for_pid_1() {
    let (mut talk, mut guest) = talk();
    let forged = notification("host/exit", r#"{"reason":"forged"}"#);
    guest.write_all(&wrap(forged.get(4..).unwrap()).unwrap()).unwrap();
    assert!(matches!(talk.next(soon()), Ok(Heard::Line(_))));
}

#[test]
fn a_frame_over_the_limit_is_refused_before_it_comes() {
    let (mut talk, mut guest) = talk();
    guest.write_all(&u32::MAX.to_le_bytes()).unwrap();
    assert!(matches!(talk.next(soon()), Err(Gone::Frame(_))));
}

#[test]
fn a_guest_that_floods_while_it_is_asked_is_given_up() {
    let (mut talk, mut guest) = talk();
    let flood = std::thread::spawn(move || {
        let frame = wrap(&[b'1'; 1 << 20]).unwrap();
        while guest.write_all(&frame).is_ok() {}
    });
    assert!(matches!(talk.ask::<u32>("osvm/health", &(), soon()), Err(Gone::Flood)));
    drop(talk);
    flood.join().unwrap();
}

#[test]
fn a_server_that_asks_its_client_is_told_no_and_a_ping_is_answered() {
    let (mut talk, mut guest) = talk();
    for line in [
        r#"{"jsonrpc":"2.0","id":9,"method":"roots/list"}"#,
        r#"{"jsonrpc":"2.0","id":10,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":"osvm-1","result":{"ok":true}}"#,
    ] {
        guest.write_all(&wrap(line.as_bytes()).unwrap()).unwrap();
    }
    let result = talk.request("tools/list", &serde_json::json!({}), soon()).unwrap();
    assert_eq!(result.get(), r#"{"ok":true}"#);
    drop(talk);
    let mut said = String::new();
    guest.read_to_string(&mut said).unwrap();
    assert!(said.contains(r#""id":9"#) && said.contains("-32601"));
    assert!(said.contains(r#"{"jsonrpc":"2.0","id":10,"result":{}}"#), "{said}");
}

#[test]
fn a_silent_guest_costs_no_more_than_the_deadline() {
    let (mut talk, _guest) = talk();
    let soon = Instant::now() + Duration::from_millis(20);
    assert!(matches!(talk.next(soon), Err(Gone::Deadline)));
}
