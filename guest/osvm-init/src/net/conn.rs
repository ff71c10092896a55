//! One connection of a program in the guest, on its way out.
//!
//! ```text
//! proxy ─▶ Head ── CONNECT ─▶ Opening ─▶ Tunnel ─▶ gone
//!            └──── request ─▶ Exchange ─▶ Closing ─▶ gone
//! address of a name ─▶ Opening, or Head on port 80
//! port 53 ─▶ Names
//! ```
//!
//! # Invariants
//!
//! - Nothing is read that there is no room for, here or at the host.

use super::dns;
use super::exchange::{Exchange, State};
use super::host::{For, Host};
use super::http;
use crate::buffers::{Input, Outgoing, fill};
use osvm_protocol::linux::net::{CHUNK, Connect, Net, WINDOW, method};
use rustix::event::epoll::EventFlags;
use serde_json::value::RawValue;
use std::net::{Shutdown, TcpStream};

/// The port on which a program that knows no proxy is taken to speak HTTP.
const HTTP: u16 = 80;

/// Bytes that are read ahead.
const AHEAD: usize = 64 * 1024;

/// Where a connection of a program leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The program says.
    Proxy,
    /// Here, whatever the program says.
    To(String, u16),
    /// To the resolver.
    Names,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: u32,
    pub(crate) stream: TcpStream,
    way: Way,
    stage: Stage,
    inbox: Vec<u8>,
    out: Outgoing,
    /// The program will send nothing more.
    ended: bool,
    /// Broken: it is not written to any more.
    broken: bool,
    /// What is waited for.
    pub(crate) interest: EventFlags,
}

#[derive(Debug)]
enum Stage {
    Head,
    Opening,
    Tunnel(Tunnel),
    Exchange(Box<Exchange>),
    Closing,
    Names,
    Gone,
}

#[derive(Debug)]
struct Tunnel {
    /// Bytes the host has room for.
    room: u32,
    /// Bytes the program has taken of which the host does not know.
    taken: u32,
    /// Bytes the host may still send.
    granted: u32,
    said_end: bool,
    heard_end: bool,
    shut: bool,
}

impl Conn {
    pub(crate) fn new(id: u32, stream: TcpStream, way: Way, host: &mut Host<'_>) -> Self {
        let stage = match &way {
            Way::Proxy | Way::To(_, HTTP) => Stage::Head,
            Way::To(name, port) => open(id, name, *port, host),
            Way::Names => Stage::Names,
        };
        Self {
            id,
            stream,
            way,
            stage,
            inbox: Vec::new(),
            out: Outgoing::default(),
            ended: false,
            broken: false,
            interest: EventFlags::empty(),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.stage, Stage::Gone)
    }

    /// What to wait for now.
    pub(crate) fn wanted(&self) -> EventFlags {
        let read = match &self.stage {
            Stage::Head | Stage::Names => true,
            Stage::Tunnel(tunnel) => 0 < tunnel.room,
            Stage::Exchange(exchange) => exchange.wants_input(),
            Stage::Opening | Stage::Closing | Stage::Gone => false,
        };
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, read && !self.ended && self.inbox.len() < AHEAD);
        wanted.set(EventFlags::OUT, !self.out.is_empty());
        wanted
    }

    /// Reads and writes what can be; names that are asked for go to `ask`.
    pub(crate) fn advance(&mut self, host: &mut Host<'_>, ask: &mut dyn FnMut(dns::Question)) {
        if self.wanted().contains(EventFlags::IN) {
            match fill(&self.stream, &mut self.inbox) {
                Ok(Input::Open) => {}
                Ok(Input::Ended) => self.ended = true,
                Err(_) => (self.ended, self.broken) = (true, true),
            }
        }
        self.think(host, ask);
        self.write(host);
    }

    fn think(&mut self, host: &mut Host<'_>, ask: &mut dyn FnMut(dns::Question)) {
        match &mut self.stage {
            Stage::Head => self.head(host),
            Stage::Names => self.questions(ask),
            Stage::Tunnel(tunnel) => tunnel.send(self.id, &mut self.inbox, self.ended, host),
            Stage::Opening | Stage::Closing | Stage::Exchange(_) | Stage::Gone => {}
        }
        if let Stage::Exchange(exchange) = &mut self.stage {
            let state = exchange.advance(&mut self.inbox, self.ended, &mut self.out, host);
            self.follow(state);
        }
    }

    fn head(&mut self, host: &mut Host<'_>) {
        let head = match http::head(&mut self.inbox) {
            None if self.ended => return self.stage = Stage::Gone,
            None => return,
            Some(Err(why)) => return self.refuse(400, why),
            Some(Ok(head)) => head,
        };
        let url = match (&self.way, head.method.as_str()) {
            (Way::Proxy, "CONNECT") => return self.connect(&head.target, host),
            (Way::Proxy, _) if head.target.contains("://") => head.target.clone(),
            (Way::To(name, port), _) if head.target.starts_with('/') => {
                format!("http://{name}:{port}{}", head.target)
            }
            _ => return self.refuse(400, "this is a proxy: it wants `http://` and a host"),
        };
        self.stage = Stage::Exchange(Box::new(Exchange::new(self.id, head, url)));
    }

    fn connect(&mut self, target: &str, host: &mut Host<'_>) {
        let Some((name, port)) = http::authority(target) else {
            return self.refuse(400, "it wants a host and a port");
        };
        if port == HTTP {
            // What is allowed on this port are requests, so they are what is looked at.
            self.way = Way::To(name, port);
            self.out.push(ESTABLISHED);
            return self.head(host);
        }
        self.stage = open(self.id, &name, port, host);
    }

    fn refuse(&mut self, status: u16, why: &str) {
        self.out.push(&http::refusal(status, why));
        self.stage = Stage::Closing;
    }

    fn follow(&mut self, state: State) {
        match state {
            State::On => {}
            State::Done => self.stage = Stage::Closing,
            State::Broken => self.stage = Stage::Gone,
        }
    }

    fn questions(&mut self, ask: &mut dyn FnMut(dns::Question)) {
        while let Some((len, rest)) = self.inbox.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*len));
            let Some(message) = rest.get(..len) else { break };
            let Some(question) = dns::read(message) else { return self.stage = Stage::Gone };
            ask(question);
            self.inbox.drain(..len + 2);
        }
        if self.ended || dns::MAX + 2 < self.inbox.len() {
            self.stage = Stage::Closing;
        }
    }

    /// The answer to a question for a name.
    pub(crate) fn name(&mut self, message: &[u8], host: &mut Host<'_>) {
        if let Ok(len) = u16::try_from(message.len()) {
            self.out.push(&len.to_be_bytes());
            self.out.push(message);
        }
        self.write(host);
    }

    /// The host's answer to what this connection asked.
    pub(crate) fn answered(
        &mut self,
        outcome: Result<&RawValue, (i64, String)>,
        host: &mut Host<'_>,
    ) {
        match (&mut self.stage, outcome) {
            (Stage::Opening, Ok(_)) => {
                if self.way == Way::Proxy {
                    self.out.push(ESTABLISHED);
                }
                self.stage = Stage::Tunnel(Tunnel::default());
            }
            (Stage::Opening, Err((_, words))) if self.way == Way::Proxy => self.refuse(403, &words),
            (Stage::Opening, Err(_)) => self.stage = Stage::Gone,
            (Stage::Exchange(exchange), outcome) => {
                let state = exchange.answered(outcome, &mut self.out);
                self.follow(state);
            }
            _ => {}
        }
        self.think(host, &mut |_| {});
        self.write(host);
    }

    /// What the host says of the tunnel; false if there is none.
    pub(crate) fn said(&mut self, said: Net<'_>, host: &mut Host<'_>) {
        let Stage::Tunnel(tunnel) = &mut self.stage else { return };
        match said {
            Net::Data(bytes) => {
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                match tunnel.granted.checked_sub(len) {
                    Some(left) => tunnel.granted = left,
                    // More than there is room for.
                    None => return self.drop_tunnel(host),
                }
                self.out.push(bytes);
            }
            Net::End => tunnel.heard_end = true,
            Net::Gone => return self.stage = Stage::Gone,
            Net::Room(bytes) => tunnel.room = tunnel.room.saturating_add(bytes).min(WINDOW),
        }
        self.think(host, &mut |_| {});
        self.write(host);
    }

    fn drop_tunnel(&mut self, host: &mut Host<'_>) {
        host.say(self.id, Net::Gone);
        self.stage = Stage::Gone;
    }

    fn write(&mut self, host: &mut Host<'_>) {
        let before = self.out.len();
        self.broken |= self.out.flush(&self.stream).is_err();
        let written = u32::try_from(before - self.out.len()).unwrap_or(u32::MAX);
        if self.broken {
            return self.give_up(host);
        }
        match &mut self.stage {
            Stage::Tunnel(tunnel) => {
                tunnel.took(self.id, written, host);
                if tunnel.heard_end && self.out.is_empty() && !tunnel.shut {
                    tunnel.shut = true;
                    // A program that is gone already has its end.
                    let _shut = self.stream.shutdown(Shutdown::Write);
                }
                if tunnel.shut && tunnel.said_end {
                    self.stage = Stage::Gone;
                }
            }
            Stage::Closing if self.out.is_empty() => {
                let _shut = self.stream.shutdown(Shutdown::Write);
                self.stage = Stage::Gone;
            }
            _ => {}
        }
    }

    /// The program is gone: so is what the host has for it.
    pub(crate) fn give_up(&mut self, host: &mut Host<'_>) {
        match &mut self.stage {
            Stage::Tunnel(_) | Stage::Opening => host.say(self.id, Net::Gone),
            Stage::Exchange(exchange) => exchange.close(host),
            Stage::Head | Stage::Closing | Stage::Names | Stage::Gone => {}
        }
        self.stage = Stage::Gone;
    }
}

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

fn open(id: u32, name: &str, port: u16, host: &mut Host<'_>) -> Stage {
    let connect = Connect { stream: id, host: name.to_owned(), port };
    if host.ask(For::Connection(id), method::CONNECT, &connect) {
        Stage::Opening
    } else {
        Stage::Gone
    }
}

impl Default for Tunnel {
    fn default() -> Self {
        let (said_end, heard_end, shut) = (false, false, false);
        Self { room: WINDOW, taken: 0, granted: WINDOW, said_end, heard_end, shut }
    }
}

impl Tunnel {
    /// Passes on what the program has sent, as far as there is room.
    fn send(&mut self, id: u32, inbox: &mut Vec<u8>, ended: bool, host: &mut Host<'_>) {
        while 0 < self.room && !inbox.is_empty() {
            let room = usize::try_from(self.room).unwrap_or(usize::MAX);
            let len = inbox.len().min(CHUNK).min(room);
            host.say(id, Net::Data(inbox.get(..len).unwrap_or_default()));
            self.room -= u32::try_from(len).unwrap_or(self.room);
            inbox.drain(..len);
        }
        if ended && inbox.is_empty() && !self.said_end {
            self.said_end = true;
            host.say(id, Net::End);
        }
    }

    /// The program has taken so many bytes more.
    fn took(&mut self, id: u32, bytes: u32, host: &mut Host<'_>) {
        self.taken = self.taken.saturating_add(bytes);
        if WINDOW / 4 <= self.taken {
            host.say(id, Net::Room(self.taken));
            self.granted = self.granted.saturating_add(self.taken).min(WINDOW);
            self.taken = 0;
        }
    }
}
