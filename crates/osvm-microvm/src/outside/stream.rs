//! One connection of a guest: bytes between a socket of the host and frames.
//!
//! # Invariants
//!
//! - No more waits for the socket than the guest had room for; a guest that sends more is cut off.
//! - No more is sent to the guest than it has made room for.

use super::{Egress, STACK};
use osvm_protocol::linux::net::{CHUNK, Net, WINDOW};
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A connection.
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) host: String,
    pub(super) port: u16,
    tcp: TcpStream,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What the guest has sent and the socket has not taken.
    queue: VecDeque<Vec<u8>>,
    /// Bytes the guest may still send.
    granted: u32,
    /// Bytes the guest has room for.
    room: u32,
    guest_ended: bool,
    gone: bool,
    /// Directions that still run.
    running: u8,
    sent: u64,
    received: u64,
}

impl Stream {
    pub(super) fn new(id: u32, host: String, port: u16, tcp: TcpStream) -> Self {
        let state = State {
            queue: VecDeque::new(),
            granted: WINDOW,
            room: WINDOW,
            guest_ended: false,
            gone: false,
            running: 2,
            sent: 0,
            received: 0,
        };
        Self { id, host, port, tcp, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Bytes from the guest, and to it, so far.
    pub(super) fn moved(&self) -> (u64, u64) {
        let state = self.lock();
        (state.sent, state.received)
    }

    /// Copies on this thread and another until both directions are over.
    pub(super) fn run(self: &Arc<Self>, egress: &Arc<Egress>) {
        let (stream, other) = (Arc::clone(self), Arc::clone(egress));
        let up = move || {
            stream.up(&other);
            stream.over(&other);
        };
        let thread = std::thread::Builder::new().name("osvm-egress".into()).stack_size(STACK);
        if thread.spawn(up).is_err() {
            self.fail(egress);
            self.over(egress);
        }
        self.down(egress);
        self.over(egress);
    }

    fn over(&self, egress: &Egress) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        let last = state.running == 0;
        drop(state);
        if last {
            egress.closed(self);
        }
    }

    /// From the guest to the socket.
    fn up(&self, egress: &Egress) {
        let mut taken = 0_u32;
        loop {
            let mut state = self.lock();
            while state.queue.is_empty() && !state.gone && !state.guest_ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.gone {
                return;
            }
            let Some(bytes) = state.queue.pop_front() else {
                drop(state);
                // A server that is gone already has its end.
                let _shut = self.tcp.shutdown(Shutdown::Write);
                return;
            };
            drop(state);
            if (&self.tcp).write_all(&bytes).is_err() {
                return self.fail(egress);
            }
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            taken = taken.saturating_add(len);
            let mut state = self.lock();
            state.sent = state.sent.saturating_add(len.into());
            if WINDOW / 4 <= taken {
                state.granted = state.granted.saturating_add(taken);
                drop(state);
                if !egress.say(self.id, Net::Room(taken)) {
                    return self.fail(egress);
                }
                taken = 0;
            }
        }
    }

    /// From the socket to the guest.
    fn down(&self, egress: &Egress) {
        let mut bytes = vec![0; CHUNK];
        loop {
            let mut state = self.lock();
            while state.room == 0 && !state.gone {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.gone {
                return;
            }
            let room = usize::try_from(state.room).unwrap_or(CHUNK).min(CHUNK);
            drop(state);
            let piece = bytes.get_mut(..room).unwrap_or_default();
            let len = match (&self.tcp).read(piece) {
                Ok(0) => {
                    egress.say(self.id, Net::End);
                    return;
                }
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return self.fail(egress),
            };
            let moved = u32::try_from(len).unwrap_or(u32::MAX);
            let mut state = self.lock();
            state.room = state.room.saturating_sub(moved);
            state.received = state.received.saturating_add(moved.into());
            drop(state);
            if !egress.say(self.id, Net::Data(bytes.get(..len).unwrap_or_default())) {
                return self.fail(egress);
            }
        }
    }

    /// What the guest says of it.
    pub(super) fn said(&self, said: Net<'_>) {
        let mut state = self.lock();
        match said {
            // It costs the guest no room, so nothing would bound how many of them wait.
            Net::Data([]) => {}
            Net::Data(bytes) => {
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                match state.granted.checked_sub(len).filter(|_| !state.guest_ended) {
                    Some(left) => state.granted = left,
                    None => state.gone = true,
                }
                // Small pieces are put together, or each would take more memory than it has bytes.
                match state.queue.back_mut() {
                    Some(last) if last.len() + bytes.len() <= CHUNK => {
                        last.extend_from_slice(bytes)
                    }
                    _ => state.queue.push_back(bytes.to_vec()),
                }
            }
            Net::End => state.guest_ended = true,
            Net::Gone => state.gone = true,
            Net::Room(bytes) => state.room = state.room.saturating_add(bytes).min(WINDOW),
        }
        if state.gone {
            state.queue.clear();
            // Whoever reads or writes wakes up.
            let _shut = self.tcp.shutdown(Shutdown::Both);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn fail(&self, egress: &Egress) {
        let known = self.lock().gone;
        self.said(Net::Gone);
        if !known {
            egress.say(self.id, Net::Gone);
        }
    }

    // Plain values and a queue, which no panic leaves half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a connection over `tcp` hear `payloads`, as a guest sends them, while nothing goes on to the socket.
/// Gives the bytes and the pieces that wait then, and the room that the guest has; for fuzzing.
pub fn exercise<'a>(
    tcp: TcpStream,
    payloads: impl IntoIterator<Item = &'a [u8]>,
) -> (usize, usize, u32) {
    let stream = Stream::new(1, String::new(), 0, tcp);
    let told = payloads.into_iter().filter_map(osvm_protocol::linux::net::read);
    told.for_each(|(_, said)| stream.said(said));
    let state = stream.lock();
    (state.queue.iter().map(Vec::len).sum(), state.queue.len(), state.room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_protocol::frame;
    use osvm_protocol::linux::net;
    use std::net::TcpListener;

    #[test]
    fn small_pieces_take_no_more_memory_than_their_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let payload = |said: Net<'_>| {
            let framed = net::frame(1, said).unwrap();
            frame::split(&framed).unwrap().unwrap().payload.to_vec()
        };
        let (empty, one) = (payload(Net::Data(b"")), payload(Net::Data(b"x")));
        let said = (0..WINDOW).flat_map(|_| [empty.as_slice(), &one]);
        let (waiting, pieces, _) = exercise(tcp.try_clone().unwrap(), said.clone());
        assert_eq!((waiting, pieces), (WINDOW as usize, WINDOW as usize / CHUNK));
        // One byte more than there is room for ends it.
        assert_eq!(exercise(tcp, said.chain([one.as_slice()])), (0, 0, WINDOW));
    }
}
