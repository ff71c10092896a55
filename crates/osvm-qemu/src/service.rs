//! The thread that serves one QEMU guest: its vsock device, its console, its events.
//!
//! ```text
//! vhost-user socket ─┐
//! ring kicks ────────┤              ┌─▶ host sockets (GuestStream)
//! host sockets ──────┼─▶ Service ───┼─▶ rings, interrupts
//! connect orders ────┤              ├─▶ console file
//! console, QMP ──────┘              └─▶ Fate: why the guest ended
//! ```
//!
//! # Invariants
//!
//! - The thread ends when QEMU is gone, because the vhost-user socket hangs up then. Nothing else
//!   ends it, so whoever drops the machine kills QEMU first and joins the thread after.
//! - A guest that breaks the rules of its device is killed here, and the reason kept.
//!
//! # Not here
//!
//! - Starting and reaping QEMU: [`crate::machine`].

use crate::qmp;
use crate::vhost_user::Rings;
use osvm_vmm::{Console, Death, Killer};
use osvm_vsock::{Abuse, Device, Event, Progress, QueueName, Refusal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

/// An order to open a stream to the guest.
#[derive(Debug)]
pub(crate) struct Connect {
    /// The port inside the guest.
    pub(crate) port: u32,
    /// The host's end that the device serves.
    pub(crate) socket: OwnedFd,
    /// Takes the answer.
    pub(crate) answer: SyncSender<Result<(), Refusal>>,
}

/// Sends orders to the service and wakes it up.
#[derive(Debug)]
pub(crate) struct Orders {
    sender: Sender<Connect>,
    wake: OwnedFd,
}

impl Orders {
    /// Orders for the service that holds the other ends.
    pub(crate) fn new(sender: Sender<Connect>, wake: OwnedFd) -> Self {
        Self { sender, wake }
    }

    /// Hands an order over. If the service is gone the answer's channel hangs up.
    pub(crate) fn send(&self, order: Connect) {
        // A failed send drops the order, and with it the answer's sender.
        let _hung_up = self.sender.send(order);
        let _pending = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// Why the guest ended, as far as its service knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    /// What the device or QEMU said first.
    pub(crate) cause: Option<Death>,
    /// What the guest said on its console.
    pub(crate) last_words: Option<String>,
}

/// The ends of everything the service listens to.
#[derive(Debug)]
pub(crate) struct Ends {
    /// The vhost-user socket; `None` where the host's kernel has the device.
    pub(crate) vhost: Option<std::os::unix::net::UnixStream>,
    /// Readable when an order is waiting.
    pub(crate) wake: OwnedFd,
    /// The guest's console, non-blocking.
    pub(crate) console: OwnedFd,
    /// QEMU's machine protocol, non-blocking.
    pub(crate) qmp: OwnedFd,
}

/// The state of the thread.
pub(crate) struct Service {
    ends: Ends,
    vhost: Option<BackendReqHandler<Mutex<Rings>>>,
    rings: Arc<Mutex<Rings>>,
    device: Device,
    orders: Receiver<Connect>,
    waiting: BTreeMap<u64, SyncSender<Result<(), Refusal>>>,
    next_token: u64,
    console: Console,
    events: qmp::Events,
    killer: Killer,
    fate: Arc<Mutex<Fate>>,
}

/// What a look at the descriptors found.
#[derive(Default)]
struct Found {
    vhost: bool,
    device: bool,
    orders: bool,
    console: bool,
    qmp: bool,
}

impl Service {
    /// A service over `rings`, ready to [`Service::run`] in a thread of its own.
    pub(crate) fn new(
        mut ends: Ends,
        rings: Rings,
        device: Device,
        orders: Receiver<Connect>,
        console: Console,
        killer: Killer,
    ) -> std::io::Result<Self> {
        let rings = Arc::new(Mutex::new(rings));
        let handler = match ends.vhost.take() {
            Some(stream) => {
                ends.vhost = Some(stream.try_clone()?);
                Some(BackendReqHandler::from_stream(stream, Arc::clone(&rings)))
            }
            None => None,
        };
        Ok(Self {
            ends,
            vhost: handler,
            rings,
            device,
            orders,
            waiting: BTreeMap::new(),
            next_token: 0,
            console,
            events: qmp::Events::default(),
            killer,
            fate: Arc::default(),
        })
    }

    /// Where the service leaves what it learns about the guest's end.
    pub(crate) fn fate(&self) -> Arc<Mutex<Fate>> {
        Arc::clone(&self.fate)
    }

    /// Serves until QEMU is gone.
    pub(crate) fn run(mut self) {
        while let Some(found) = self.wait() {
            if found.console {
                self.read_console();
            }
            if found.qmp && self.read_qmp() == Stream::Ended {
                break;
            }
            if found.vhost && self.read_vhost() == Stream::Ended {
                break;
            }
            if found.orders {
                self.take_orders();
            }
            if found.device {
                self.device.service_host();
            }
            if let Err(abuse) = self.move_packets() {
                self.end_guest(Death::DeviceAbuse { device: "vsock", reason: abuse.to_string() });
                break;
            }
            self.pass_on_events();
        }
        self.read_console();
        self.read_qmp();
        lock(&self.fate).last_words = self.console.last_words();
    }

    /// Sleeps until something is to be done; `None` when the host fails.
    fn wait(&mut self) -> Option<Found> {
        let rings = lock(&self.rings);
        let mut fds = vec![
            PollFd::new(&self.ends.wake, PollFlags::IN),
            PollFd::new(&self.ends.console, PollFlags::IN),
            PollFd::new(&self.ends.qmp, PollFlags::IN),
            PollFd::from_borrowed_fd(self.device.epoll_fd(), PollFlags::IN),
        ];
        let kicks = fds.len();
        fds.extend(rings.kicks().map(|kick| PollFd::from_borrowed_fd(kick, PollFlags::IN)));
        let vhost = fds.len();
        fds.extend(self.ends.vhost.iter().map(|end| PollFd::new(end, PollFlags::IN)));
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let is = |index: usize| ready.get(index).copied().unwrap_or(false);
        if ready.get(kicks..vhost).unwrap_or_default().contains(&true) {
            rings.clear_kicks();
        }
        Some(Found { orders: is(0), console: is(1), qmp: is(2), device: is(3), vhost: is(vhost) })
    }

    fn read_console(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = rustix::io::read(&self.ends.console, &mut buffer) {
            self.console.append(buffer.get(..len).unwrap_or_default());
        }
    }

    fn read_qmp(&mut self) -> Stream {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.ends.qmp, &mut buffer) {
                Ok(0) => return Stream::Ended,
                Ok(len) => {
                    if let Some(death) = self.events.feed(buffer.get(..len).unwrap_or_default()) {
                        self.end_guest(death);
                    }
                }
                Err(Errno::AGAIN) => return Stream::Open,
                Err(Errno::INTR) => {}
                Err(_) => return Stream::Ended,
            }
        }
    }

    fn read_vhost(&mut self) -> Stream {
        match self.vhost.as_mut().map(BackendReqHandler::handle_request) {
            None | Some(Ok(())) => Stream::Open,
            Some(Err(VhostError::Disconnected | VhostError::SocketBroken(_))) => Stream::Ended,
            Some(Err(error)) => {
                let reason = format!("QEMU broke the vhost-user protocol: {error}");
                self.end_guest(Death::VmmFailed { reason });
                Stream::Ended
            }
        }
    }

    fn take_orders(&mut self) {
        let _count = rustix::io::read(&self.ends.wake, &mut [0; 8]);
        while let Ok(order) = self.orders.try_recv() {
            let token = self.next_token;
            self.next_token = token.wrapping_add(1);
            self.waiting.insert(token, order.answer);
            self.device.connect(order.port, order.socket, token);
        }
    }

    /// Moves packets between rings and host sockets until both sides have to wait.
    fn move_packets(&mut self) -> Result<(), Abuse> {
        let mut rings = lock(&self.rings);
        loop {
            let mut more = false;
            if let Some((memory, queue)) = rings.queue(QueueName::Tx) {
                let progress = self.device.process_tx(memory, queue)?;
                more |= signal(&rings, QueueName::Tx, progress);
            }
            if let Some((memory, queue)) = rings.queue(QueueName::Rx) {
                let progress = self.device.process_rx(memory, queue)?;
                more |= signal(&rings, QueueName::Rx, progress);
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn pass_on_events(&mut self) {
        let events: Vec<Event> = self.device.take_events().collect();
        for event in events {
            let (token, answer) = match event {
                Event::Accepted { token } => (token, Ok(())),
                Event::Refused { token, reason } => (token, Err(reason)),
                // Nothing listens on the host: all that a guest may ask goes over its one stream.
                Event::Incoming(peer) => {
                    self.device.refuse(peer);
                    continue;
                }
            };
            if let Some(waiting) = self.waiting.remove(&token) {
                // Who asked may have given up; then the answer is for nobody.
                let _gone = waiting.try_send(answer);
            }
        }
    }

    /// Keeps the first reason and ends the guest.
    fn end_guest(&mut self, death: Death) {
        lock(&self.fate).cause.get_or_insert(death);
        self.killer.kill();
    }
}

/// Whether a stream from QEMU can give more.
#[derive(PartialEq, Eq)]
enum Stream {
    Open,
    Ended,
}

fn signal(rings: &Rings, queue: QueueName, progress: Progress) -> bool {
    if progress.interrupt {
        rings.interrupt(queue);
    }
    progress.more
}

/// A poisoned lock means that a thread panicked while it held plain data, which is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
