//! The way out of a guest that has no network: a proxy, a resolver, and addresses that lead to names.
//!
//! ```text
//! HTTP_PROXY=127.0.0.1:3128 ─▶ request ─▶ host/http          CONNECT ─▶ host/connect
//! 127.0.0.1:53 ─▶ host/resolve ─▶ 192.31.196.x, one for each allowed name
//! 192.31.196.x:port ─▶ port 80: host/http                    else: host/connect
//! ```
//!
//! # Invariants
//!
//! - Nothing is allowed here: every request and every connection is the host's to allow, under the
//!   name that the program asked for.
//! - Bounded: connections, names, ports and bytes that wait. While much waits for the host, nothing is
//!   read from programs.
//! - Total: programs are hostile, and PID 1 survives what they send.
//!
//! # Not here
//!
//! - What programs are told of it: variables and `/etc/resolv.conf`, see `server` and `mounts`.

mod conn;
mod dns;
mod exchange;
mod host;
mod http;
mod names;

use crate::buffers::Outgoing;
use crate::{Error, loopback};
use conn::{Conn, Way};
use host::{Asked, For, Host};
use names::{Given, Names, Waiter};
use osvm_protocol::linux::net::{self as wire, MAX_STREAMS, PROXY_PORT};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::time::Timespec;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

/// Ports of names that are listened on at once. Each is a descriptor, of which PID 1 may have 1024.
const MAX_LISTENERS: usize = 768;

/// Questions that are read in a row before others get their turn.
const QUESTIONS: usize = 16;

/// Events looked at in a row.
const EVENTS: usize = 64;

/// Where resolvers are asked.
const DNS_PORT: u16 = 53;

/// Tokens of what is waited for: a connection's number, the datagram socket, or a listener's number.
const DATAGRAMS: u64 = 1 << 32;
const LISTENERS: u64 = 1 << 33;

/// The way out.
#[derive(Debug)]
pub(crate) struct Net {
    epoll: OwnedFd,
    listeners: BTreeMap<u64, (TcpListener, Way)>,
    datagrams: UdpSocket,
    conns: BTreeMap<u32, Conn>,
    names: Names,
    asked: Asked,
    last: u32,
    last_listener: u64,
}

impl Net {
    /// Listens on the loopback interface.
    pub(crate) fn new() -> Result<Self, Error> {
        let during = Error::during::<std::io::Error>;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| e.into());
        let epoll = epoll.map_err(during("wait for connections"))?;
        let resolver = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT));
        let datagrams = UdpSocket::bind(resolver).map_err(during("listen for questions"))?;
        datagrams.set_nonblocking(true).map_err(during("listen for questions"))?;
        let mut net = Self {
            epoll,
            listeners: BTreeMap::new(),
            datagrams,
            conns: BTreeMap::new(),
            names: Names::default(),
            asked: Asked::default(),
            last: 0,
            last_listener: LISTENERS,
        };
        let added = loopback::add_block(names::BLOCK);
        added.map_err(Error::during("give the loopback interface addresses of names"))?;
        net.watch_datagrams().map_err(during("listen for questions"))?;
        let localhost = Ipv4Addr::LOCALHOST;
        net.listen(localhost, DNS_PORT, Way::Names).map_err(during("listen for questions"))?;
        net.listen(localhost, PROXY_PORT, Way::Proxy).map_err(during("listen as a proxy"))?;
        Ok(net)
    }

    /// Readable when there is something to do.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn watch_datagrams(&self) -> std::io::Result<()> {
        let data = EventData::new_u64(DATAGRAMS);
        Ok(epoll::add(&self.epoll, &self.datagrams, data, EventFlags::IN)?)
    }

    fn listen(&mut self, address: Ipv4Addr, port: u16, way: Way) -> std::io::Result<()> {
        let listener = TcpListener::bind((address, port))?;
        listener.set_nonblocking(true)?;
        self.last_listener += 1;
        let token = self.last_listener;
        epoll::add(&self.epoll, &listener, EventData::new_u64(token), EventFlags::IN)?;
        self.listeners.insert(token, (listener, way));
        Ok(())
    }

    /// Does what can be done now; never waits.
    pub(crate) fn serve(&mut self, outbox: &mut Outgoing) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spare = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(&self.epoll, spare, Some(&none)).is_err() {
            return;
        }
        for event in events {
            match event.data.u64() {
                DATAGRAMS => self.read_datagrams(outbox),
                token if LISTENERS <= token => self.accept(token, outbox),
                token => {
                    if let Ok(id) = u32::try_from(token) {
                        self.with(id, outbox, |conn, host, ask| conn.advance(host, ask));
                    }
                }
            }
        }
    }

    fn accept(&mut self, token: u64, outbox: &mut Outgoing) {
        let Some((listener, way)) = self.listeners.get(&token) else { return };
        let Ok((stream, _)) = listener.accept() else { return };
        let way = way.clone();
        // One too many is hung up on.
        if self.conns.len() < MAX_STREAMS && stream.set_nonblocking(true).is_ok() {
            self.add(stream, way, outbox);
        }
    }

    fn add(&mut self, stream: TcpStream, way: Way, outbox: &mut Outgoing) {
        self.last = self.last.wrapping_add(1);
        while self.conns.contains_key(&self.last) {
            self.last = self.last.wrapping_add(1);
        }
        let id = self.last;
        let mut host = Host { asked: &mut self.asked, outbox };
        let conn = Conn::new(id, stream, way, &mut host);
        self.conns.insert(id, conn);
        self.with(id, outbox, |conn, host, ask| conn.advance(host, ask));
    }

    /// Has a connection do something, then sees what it waits for, and what names it asked for.
    fn with(
        &mut self,
        id: u32,
        outbox: &mut Outgoing,
        act: impl FnOnce(&mut Conn, &mut Host<'_>, &mut dyn FnMut(dns::Question)),
    ) {
        let mut asked = Vec::new();
        if let Some(conn) = self.conns.get_mut(&id) {
            let mut host = Host { asked: &mut self.asked, outbox };
            act(conn, &mut host, &mut |question| asked.push(question));
            self.settle(id, outbox);
        }
        for question in asked {
            self.resolve(Waiter::Connection(id, question), outbox);
        }
    }

    /// Waits for what the connection wants now, or lets go of it.
    fn settle(&mut self, id: u32, outbox: &mut Outgoing) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (wanted, known) = (conn.wanted(), conn.interest);
        let data = EventData::new_u64(id.into());
        // What is not waited for is taken out, because a hang-up would be told again and again.
        let changed = match (known.is_empty(), wanted.is_empty()) {
            _ if conn.is_gone() || wanted == known => Ok(()),
            (true, _) => epoll::add(&self.epoll, &conn.stream, data, wanted),
            (false, true) => epoll::delete(&self.epoll, &conn.stream),
            (false, false) => epoll::modify(&self.epoll, &conn.stream, data, wanted),
        };
        conn.interest = wanted;
        if changed.is_err() {
            conn.give_up(&mut Host { asked: &mut self.asked, outbox });
        }
        if conn.is_gone() {
            self.conns.remove(&id);
        }
    }

    fn read_datagrams(&mut self, outbox: &mut Outgoing) {
        let mut bytes = [0; dns::MAX + 1];
        for _ in 0..QUESTIONS {
            let Ok((len, from)) = self.datagrams.recv_from(&mut bytes) else { return };
            if let Some(question) = bytes.get(..len).and_then(dns::read) {
                self.resolve(Waiter::Datagram(from, question), outbox);
            }
        }
    }

    fn resolve(&mut self, waiter: Waiter, outbox: &mut Outgoing) {
        if let Some(answer) = self.names.known(waiter.question()) {
            return self.tell(&waiter, answer, outbox);
        }
        let name = waiter.question().name.clone();
        match self.names.wait(waiter) {
            Ok(true) => {
                let params = wire::Resolve { name: name.clone() };
                let mut host = Host { asked: &mut self.asked, outbox };
                host.ask(For::Name(name), wire::method::RESOLVE, &params);
            }
            Ok(false) => {}
            Err(waiter) => self.tell(&waiter, dns::Answer::Failed, outbox),
        }
    }

    fn tell(&mut self, waiter: &Waiter, answer: dns::Answer, outbox: &mut Outgoing) {
        let message = dns::write(waiter.question(), answer);
        match waiter {
            Waiter::Datagram(to, _) => {
                // A program that reads no answers loses them.
                let _sent = self.datagrams.send_to(&message, to);
            }
            Waiter::Connection(id, _) => {
                self.with(*id, outbox, |conn, host, _| conn.name(&message, host));
            }
        }
    }

    /// Takes an answer of the host.
    pub(crate) fn answered(
        &mut self,
        id: u64,
        outcome: Result<&RawValue, (i64, String)>,
        outbox: &mut Outgoing,
    ) {
        match self.asked.answered(id) {
            Some(For::Connection(id)) => {
                self.with(id, outbox, |conn, host, _| conn.answered(outcome, host));
            }
            Some(For::Name(name)) => {
                let ports = outcome.ok().and_then(|text| {
                    serde_json::from_str::<wire::Resolved>(text.get()).ok().map(|found| found.ports)
                });
                self.named(&name, ports, outbox);
            }
            Some(For::Nobody) | None => {}
        }
    }

    /// The host said at which ports a name may be reached, or that it may not.
    fn named(&mut self, name: &str, ports: Option<Vec<u16>>, outbox: &mut Outgoing) {
        let given = ports.map(|ports| (self.names.address(name, Instant::now()), ports));
        let answer = match given {
            None => dns::Answer::Unknown,
            Some((None, _)) => dns::Answer::Failed,
            Some((Some(Given { address, again }), ports)) => {
                if again {
                    self.stop_listening(address);
                }
                for port in ports {
                    if !self.is_listening(address, port) && self.listeners.len() < MAX_LISTENERS {
                        // A port that a program holds on all addresses is that program's.
                        let _listening = self.listen(address, port, Way::To(name.into(), port));
                    }
                }
                dns::Answer::Address(address)
            }
        };
        for waiter in self.names.waited(name) {
            self.tell(&waiter, answer, outbox);
        }
    }

    fn is_listening(&self, address: Ipv4Addr, port: u16) -> bool {
        let at = |listener: &TcpListener| listener.local_addr().ok();
        self.listeners.values().any(|(listener, _)| at(listener) == Some((address, port).into()))
    }

    /// The address is another name's from now on. Connections that are open stay with theirs.
    fn stop_listening(&mut self, address: Ipv4Addr) {
        self.listeners.retain(|_, (listener, _)| {
            listener.local_addr().is_ok_and(|at| at.ip() != std::net::IpAddr::from(address))
        });
    }

    /// Takes what the host says of a stream.
    pub(crate) fn said(&mut self, stream: u32, said: wire::Net<'_>, outbox: &mut Outgoing) {
        self.with(stream, outbox, |conn, host, _| conn.said(said, host));
    }

    /// This is a copy: its original's connections are not its own.
    pub(crate) fn forget(&mut self) {
        self.conns.clear();
        self.asked.forget();
        self.names.forget_waiters();
    }
}
