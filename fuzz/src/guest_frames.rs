//! What a Linux guest says of files and connections, as payloads: each is of one kind or none, and what is
//! read can be written again. A connection holds no more of it than the guest had room for.
//!
//! The input is cut into payloads: a byte that says how long one is, then its bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_microvm::exercise_stream;
use osvm_protocol::frame;
use osvm_protocol::linux::net::{CHUNK, WINDOW};
use osvm_protocol::linux::{line, net, workspace};
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;

/// Both ends of a connection that nothing goes over.
static TCP: LazyLock<(TcpStream, TcpStream)> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (here, listener.accept().unwrap().0)
});

fuzz_target!(|bytes: &[u8]| {
    let mut payloads = Vec::new();
    let mut rest = bytes;
    while let Some((len, more)) = rest.split_first() {
        let (payload, more) = more.split_at(usize::from(*len).min(more.len()));
        payloads.push(payload);
        rest = more;
    }
    for payload in &payloads {
        let file = workspace::read(payload);
        let connection = net::read(payload);
        let kinds = [file.is_some(), connection.is_some(), line(payload).is_some()];
        assert!(kinds.iter().filter(|is| **is).count() <= 1, "{payload:?}");
        let again = match (file, connection) {
            (Some(said), _) => workspace::frame(said),
            (_, Some((stream, said))) => net::frame(stream, said),
            _ => continue,
        };
        assert_eq!(frame::split(&again.unwrap()).unwrap().unwrap().payload, *payload);
    }
    let data = payloads.iter().copied();
    let (waiting, pieces, room) = exercise_stream(TCP.0.try_clone().unwrap(), data);
    assert!(waiting <= WINDOW as usize && room <= WINDOW);
    assert!(pieces <= 2 * WINDOW as usize / CHUNK + 1, "{pieces} pieces of {waiting} bytes");
});
