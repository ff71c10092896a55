//! Limits and the queue: who may have a VM now, and whose turn is next.
//!
//! ```text
//! server a: t1 t4 t5 ─┐
//! server b: t2        ├─ ring ──▶ next grant      first come first served in a line,
//! server c: t3 t6    ─┘                           one grant a turn between the lines
//! ```
//!
//! # Invariants
//!
//! - VMs that live, in use or not, never exceed the limits, whatever the order of events.
//! - Within a server, tickets are granted in the order in which they were drawn.
//! - Between servers, turns go round: a server that could run is not overtaken twice by the same
//!   other one. A head that does not fit blocks the rest, so small calls can't starve a large one;
//!   a server at its own limit blocks nobody.
//! - Unused VMs never keep a call waiting: they are taken, or given up for it.
//!
//! # Not here
//!
//! - Threads, time, VMs. This is a table of numbers, and the tests are about nothing else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// How many VMs there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// VMs alive at once, in use or not.
    pub max_vms: u32,
    /// VMs that may serve one server at once.
    pub max_vms_per_server: u32,
    /// Guest memory of all VMs together, in MiB; `None` is no limit of its own.
    pub max_memory_mb: Option<u32>,
}

/// A place in the queue. Later ones are larger.
pub(super) type Ticket = u64;

/// Which unused guests fit a call; guests of different ids never do.
pub(super) type ShelfId = u64;

/// The unused guests, as far as the desk needs them.
pub(super) trait Stock {
    /// An unused guest.
    type Spare;

    /// Takes one that fits.
    fn take(&mut self, shelf: ShelfId) -> Option<Self::Spare>;

    /// Gives up the one that is missed least, and says how much memory it has, in MiB.
    fn give_up(&mut self) -> Option<(Self::Spare, u32)>;

    /// How many there are, and their memory in MiB.
    fn total(&self) -> (u32, u64);
}

/// What a call wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) shelf: ShelfId,
    pub(super) memory_mb: u32,
}

/// A turn that came.
#[derive(Debug)]
pub(super) struct Grant<S> {
    pub(super) ticket: Ticket,
    /// The guest to use; without one, the caller may boot its own.
    pub(super) spare: Option<S>,
    /// Guests that made room. They have to be gone before the caller boots its own.
    pub(super) given_up: Vec<S>,
}

/// Counts VMs and keeps the queue.
#[derive(Debug)]
pub(super) struct Desk {
    limits: Limits,
    /// VMs that live, in use or not.
    vms: u32,
    memory_mb: u64,
    in_use: u32,
    waiting: u32,
    next_ticket: Ticket,
    lines: HashMap<Arc<str>, Line>,
    /// Servers with somebody waiting; the first has its turn next.
    ring: VecDeque<Arc<str>>,
}

/// One server.
#[derive(Debug, Default)]
struct Line {
    in_use: u32,
    waiting: VecDeque<(Ticket, Want)>,
}

/// The numbers of a desk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) vms: u32,
    pub(super) memory_mb: u64,
    pub(super) in_use: u32,
    pub(super) waiting: u32,
}

impl Desk {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            vms: 0,
            memory_mb: 0,
            in_use: 0,
            waiting: 0,
            next_ticket: 0,
            lines: HashMap::new(),
            ring: VecDeque::new(),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Other limits from now on. What runs goes on; the caller gives up what is too much.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(super) fn counts(&self) -> Counts {
        let Self { vms, memory_mb, in_use, waiting, .. } = *self;
        Counts { vms, memory_mb, in_use, waiting }
    }

    /// VMs in use by one server, and calls of it that wait.
    pub(super) fn of_server(&self, server: &str) -> (u32, u32) {
        let line = self.lines.get(server);
        line.map_or((0, 0), |line| {
            (line.in_use, u32::try_from(line.waiting.len()).unwrap_or(u32::MAX))
        })
    }

    /// Whether a VM of that size can never be had.
    pub(super) fn is_hopeless(&self, memory_mb: u32) -> bool {
        self.limits.max_memory_mb.is_some_and(|max| max < memory_mb)
    }

    /// Goes to the end of the line of its server.
    pub(super) fn draw(&mut self, server: &Arc<str>, want: Want) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting += 1;
        let line = self.lines.entry(Arc::clone(server)).or_default();
        if line.waiting.is_empty() {
            self.ring.push_back(Arc::clone(server));
        }
        line.waiting.push_back((ticket, want));
        ticket
    }

    /// Leaves the queue without a grant; false if the ticket was not in it.
    pub(super) fn withdraw(&mut self, server: &str, ticket: Ticket) -> bool {
        let Some(line) = self.lines.get_mut(server) else { return false };
        let Some(position) = line.waiting.iter().position(|(drawn, _)| *drawn == ticket) else {
            return false;
        };
        line.waiting.remove(position);
        self.waiting = self.waiting.saturating_sub(1);
        if line.waiting.is_empty() {
            self.ring.retain(|waiting| **waiting != *server);
        }
        self.forget_if_empty(server);
        true
    }

    /// The next turn that can come now. To be asked until there is none.
    pub(super) fn serve<S: Stock>(&mut self, stock: &mut S) -> Option<Grant<S::Spare>> {
        let turn = self.ring.iter().position(|server| {
            let line = self.lines.get(server);
            line.is_some_and(|line| line.in_use < self.limits.max_vms_per_server)
        })?;
        let server = Arc::clone(self.ring.get(turn)?);
        let (ticket, want) = *self.lines.get(&server)?.waiting.front()?;
        let spare = stock.take(want.shelf);
        let mut given_up = Vec::new();
        if spare.is_none() {
            let (unused, unused_mb) = stock.total();
            if !self.fits(want.memory_mb, unused, unused_mb) {
                return None;
            }
            while !self.fits(want.memory_mb, 0, 0) {
                let Some((spare, memory_mb)) = stock.give_up() else { break };
                self.gone(memory_mb);
                given_up.push(spare);
            }
            self.come(want.memory_mb);
        }
        self.ring.remove(turn);
        let line = self.lines.get_mut(&server)?;
        line.waiting.pop_front();
        line.in_use += 1;
        self.in_use += 1;
        self.waiting = self.waiting.saturating_sub(1);
        if !line.waiting.is_empty() {
            self.ring.push_back(server);
        }
        Some(Grant { ticket, spare, given_up })
    }

    /// A call of `server` is over and its VM gone.
    pub(super) fn leave(&mut self, server: &str, memory_mb: u32) {
        self.gone(memory_mb);
        self.in_use = self.in_use.saturating_sub(1);
        if let Some(line) = self.lines.get_mut(server) {
            line.in_use = line.in_use.saturating_sub(1);
        }
        self.forget_if_empty(server);
    }

    /// Whether there is room for another unused VM: nobody waits, and it fits.
    pub(super) fn has_room(&self, memory_mb: u32) -> bool {
        self.waiting == 0 && self.fits(memory_mb, 0, 0)
    }

    /// A VM begins to live, for the stock.
    pub(super) fn come(&mut self, memory_mb: u32) {
        self.vms = self.vms.saturating_add(1);
        self.memory_mb += u64::from(memory_mb);
    }

    /// A VM that served no call is gone.
    pub(super) fn gone(&mut self, memory_mb: u32) {
        self.vms = self.vms.saturating_sub(1);
        self.memory_mb = self.memory_mb.saturating_sub(memory_mb.into());
    }

    /// Whether more VMs live than may, even when `less` of them, with `less_mb` of memory, are gone.
    pub(super) fn is_over(&self, less: u32, less_mb: u64) -> bool {
        let Limits { max_vms, max_memory_mb, .. } = self.limits;
        let memory = self.memory_mb.saturating_sub(less_mb);
        max_vms < self.vms.saturating_sub(less)
            || max_memory_mb.is_some_and(|max| u64::from(max) < memory)
    }

    /// Whether one more VM fits when `less` of those that live, with `less_mb` of memory, are gone.
    fn fits(&self, memory_mb: u32, less: u32, less_mb: u64) -> bool {
        let memory = self.memory_mb.saturating_sub(less_mb) + u64::from(memory_mb);
        self.vms.saturating_sub(less) < self.limits.max_vms
            && self.limits.max_memory_mb.is_none_or(|max| memory <= max.into())
    }

    fn forget_if_empty(&mut self, server: &str) {
        if self.lines.get(server).is_some_and(|l| l.in_use == 0 && l.waiting.is_empty()) {
            self.lines.remove(server);
        }
    }
}

#[cfg(test)]
mod tests;
