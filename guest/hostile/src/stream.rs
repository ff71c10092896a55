//! What a guest can say on a stream that works.

use core::hint::spin_loop;
use osvm_kernel::{Guest, GuestVsock, Platform, Registers, cpu, die};
use osvm_kernel_core::vsock::Stream;
use osvm_protocol::frame::{self, HEADER_LEN};

/// Longest request that is read, in bytes.
const REQUEST: usize = 16 * 1024;

pub(crate) fn spin(guest: Guest) -> ! {
    let mut vsock = guest.vsock.listen();
    let _stream = vsock.accept();
    loop {
        spin_loop();
    }
}

pub(crate) fn hang_up(guest: Guest) -> ! {
    let mut vsock = guest.vsock.listen();
    loop {
        drop(asked(&mut vsock));
    }
}

pub(crate) fn announce_4gib(guest: Guest) -> ! {
    answer(guest, &u32::MAX.to_le_bytes())
}

pub(crate) fn die_mid_frame(guest: Guest) -> ! {
    let mut vsock = guest.vsock.listen();
    let mut stream = asked(&mut vsock);
    send(&mut stream, &100_u32.to_le_bytes());
    send(&mut stream, br#"{"jsonrpc":"2.0","#);
    cpu::triple_fault()
}

pub(crate) fn flood(guest: Guest) -> ! {
    static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let mut vsock = guest.vsock.listen();
    let mut stream = asked(&mut vsock);
    loop {
        send(&mut stream, &PIECE);
    }
}

pub(crate) fn wrong_id(guest: Guest) -> ! {
    // No peer counts this far.
    answer_frame(guest, br#"{"jsonrpc":"2.0","id":18446744073709551615,"result":{}}"#)
}

pub(crate) fn rubbish_json(guest: Guest) -> ! {
    answer_frame(guest, b"{\"jsonrpc\":\"2.0\",\"id\":\xff\xfe,,,")
}

fn answer_frame(guest: Guest, payload: &[u8]) -> ! {
    match frame::encode(payload) {
        Ok(frame) => answer(guest, &frame),
        Err(error) => die(format_args!("{error}")),
    }
}

/// Answers one request with these bytes, then keeps the stream open.
fn answer(guest: Guest, bytes: &[u8]) -> ! {
    let mut vsock = guest.vsock.listen();
    let mut stream = asked(&mut vsock);
    send(&mut stream, bytes);
    loop {
        // Nothing more is expected; the host ends this.
        if stream.read(&mut [0; 64]).unwrap_or(0) == 0 {
            die(format_args!("the host has hung up"));
        }
    }
}

/// Accepts a stream and takes one whole request.
fn asked(vsock: &mut GuestVsock) -> Stream<'_, 'static, Registers, Platform> {
    let mut stream = vsock.accept();
    let mut request = [0; REQUEST];
    let mut have = 0;
    loop {
        let (now, room) = request.split_at_mut(have);
        let whole = now.first_chunk::<HEADER_LEN>().map(|header| frame::payload_len(*header));
        if matches!(whole, Some(Ok(len)) if HEADER_LEN + len <= have) {
            return stream;
        }
        match stream.read(room) {
            Ok(len @ 1..) => have += len,
            other => die(format_args!("instead of a request came {other:?}")),
        }
    }
}

fn send(stream: &mut Stream<'_, 'static, Registers, Platform>, bytes: &[u8]) {
    if let Err(error) = stream.write_all(bytes) {
        die(format_args!("{error}"));
    }
}
