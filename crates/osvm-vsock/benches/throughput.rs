//! What the device costs: 10 MiB each way, and one small call, through the driver of the tests.
//!
//! The driver's own copies are part of each figure, so they are lower bounds.
#![expect(clippy::print_stdout, reason = "figures are what a benchmark is for")]
#![expect(dead_code, reason = "the driver serves the tests as well")]
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark may fail"
)]

#[path = "../src/tests/guest.rs"]
mod guest;

use guest::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const LEN: usize = 10 << 20;
const RUNS: usize = 20;

fn main() {
    for rx_buffer in [4096, 64 * 1024 + 44] {
        report(&format!("10 MiB to the guest, rx buffers of {rx_buffer}"), || to_guest(rx_buffer));
    }
    for packet in [4096, 64 * 1024] {
        report(&format!("10 MiB to the host, packets of {packet}"), || to_host(packet));
    }
    report("connect, one request, one answer", call);
}

fn report(what: &str, mut run: impl FnMut() -> Duration) {
    let mut times: Vec<_> = (0..RUNS).map(|_| run()).collect();
    times.sort();
    let (min, median) = (times[0], times[RUNS / 2]);
    println!("{what}: min {min:?}, median {median:?}");
}

/// A guest and a connection to it.
fn connected(rx_buffer: u32) -> (Guest, UnixStream, u32) {
    let mut guest = Guest::boot(64, rx_buffer);
    guest.window = 256 * 1024;
    let (host, port) = guest.connected(1);
    host.set_nonblocking(false).unwrap();
    (guest, host, port)
}

fn to_guest(rx_buffer: u32) -> Duration {
    let (mut guest, mut host, port) = connected(rx_buffer);
    guest.streams.get_mut(&port).unwrap().received.reserve(LEN);
    let bytes = vec![1; LEN];
    let start = Instant::now();
    let writer = std::thread::spawn(move || host.write_all(&bytes).map(|()| host));
    while guest.streams[&port].received.len() < LEN {
        guest.service();
        if guest.step() == 0 {
            std::thread::yield_now();
        }
    }
    let time = start.elapsed();
    writer.join().unwrap().unwrap();
    time
}

fn to_host(packet: usize) -> Duration {
    let (mut guest, mut host, port) = connected(4096);
    let bytes = vec![1; packet];
    let start = Instant::now();
    let reader = std::thread::spawn(move || host.read_exact(&mut vec![0; LEN]).map(|()| host));
    let mut sent = 0;
    while sent < LEN {
        match guest.write(port, &bytes, LEN - sent) {
            0 => {
                guest.service();
                if guest.step() == 0 {
                    std::thread::yield_now();
                }
            }
            len => sent += len,
        }
    }
    while !reader.is_finished() {
        guest.service();
    }
    reader.join().unwrap().unwrap();
    start.elapsed()
}

/// What the device adds to one call of a tool, set-up of the driver not counted.
fn call() -> Duration {
    let mut guest = Guest::boot(8, 4096);
    let start = Instant::now();
    let mut host = guest.connect(1);
    host.write_all(&[b'q'; 100]).unwrap();
    while guest.step() != 0 {}
    let port = *guest.streams.keys().next().unwrap();
    assert_eq!(guest.streams[&port].received.len(), 100);
    guest.write(port, &[b'a'; 200], 200);
    assert_eq!(host.read(&mut [0; 300]).unwrap(), 200);
    start.elapsed()
}
