//! Guests that are booted before their calls come, and who may have one.
//!
//! ```text
//!            refill threads                     take()
//! recipe ──boot──▶ connect ──▶ osvm/info ──▶ shelf ──▶ one call ──▶ destroyed
//!                                              │
//!          watch thread: died, or spoke ◀──────┘ ──▶ destroyed, another one is booted
//! ```
//!
//! # Invariants
//!
//! - A shelf holds [`crate::guest::Ready`] guests only, and a call consumes the one it takes. So
//!   a VM that served a call can't get back here; that is a matter of types.
//! - A call gets a guest of its own key: image, memory, variables and backend are the same as if
//!   it had booted its own.
//! - Limits count VMs that live, unused ones too. Unused ones make room for calls.
//! - No thread that holds the lock waits for a VM: they are booted and destroyed outside of it.
//! - Dropping the pool destroys every unused guest.
//!
//! # Not here
//!
//! - Which guests a config asks for: [`crate::Runtime::plan`].
//! - Sockets and clients: `osvm-daemon`.

mod desk;
mod shelf;
mod spare;
mod status;
mod threads;

use crate::cancel::Cancel;
use crate::cids::Cids;
use crate::recipe::Recipe;
use crate::watch::{Sign, Watch};
use desk::{Desk, Grant, Ticket, Want};
use osvm_vmm::Killer;
use shelf::Shelves;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};
use thiserror::Error;
use tracing::warn;

pub use desk::Limits;
pub(crate) use spare::{Spare, console};
pub use status::{PoolStatus, ShelfStatus, SpareStatus};

/// How long after a guest was taken no other one is booted in its place, unless its call ends
/// before: a boot at that moment would take the processor from the call it makes room for.
const CALM: Duration = Duration::from_millis(20);

/// Calls that may wait at once. Each is a thread of somebody, so there are other limits too.
const MAX_WAITING: u32 = 10_000;

/// Unused guests, limits and a queue, for all calls of one process.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What a pool is to hold.
#[derive(Debug)]
pub struct Plan {
    /// How many VMs there may be.
    pub limits: Limits,
    /// Unused guests to keep of each kind.
    pub size: u32,
    pub(crate) recipes: Vec<Arc<Recipe>>,
    pub(crate) cids: Cids,
    /// Kinds of guests that the config asks for and that can't be made: why not.
    pub problems: Vec<String>,
}

/// A call got no VM.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Busy {
    /// Not in time.
    #[error(
        "busy: no VM within {:.3} s: {in_use} of {max_vms} VMs are in use ({server_in_use} of \
         {max_vms_per_server} by `{server}`){}, {waiting} calls wait",
        waited.as_secs_f64(),
        memory(*memory_mb, *max_memory_mb)
    )]
    Full {
        /// The server whose tool was called.
        server: String,
        /// VMs that serve calls.
        in_use: u32,
        /// `max_vms`.
        max_vms: u32,
        /// VMs that serve calls of this server.
        server_in_use: u32,
        /// `max_vms_per_server`.
        max_vms_per_server: u32,
        /// Memory of all VMs, in MiB.
        memory_mb: u64,
        /// `max_memory_mb`.
        max_memory_mb: Option<u32>,
        /// Calls that wait, without this one.
        waiting: u32,
        /// How long it waited.
        waited: Duration,
    },
    /// Not ever.
    #[error("a guest of {memory_mb} MiB does not fit the {max_memory_mb} MiB for all guests")]
    TooLarge {
        /// What the tool's guest has.
        memory_mb: u32,
        /// `max_memory_mb`.
        max_memory_mb: u32,
    },
    /// The call was cancelled while it waited.
    #[error("cancelled while waiting for a VM")]
    Cancelled,
}

fn memory(memory_mb: u64, max_memory_mb: Option<u32>) -> String {
    max_memory_mb.map_or(String::new(), |max| format!(", {memory_mb} of {max} MiB are taken"))
}

impl Busy {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Full { .. } => Some(
                "try again later, or allow more with `max_vms` in `pool` of the isolation config"
                    .into(),
            ),
            Self::TooLarge { .. } => {
                Some("raise `max_memory_mb` in `pool` of the isolation config".into())
            }
            Self::Cancelled => None,
        }
    }
}

/// What a call was given: the right to one VM, and perhaps one that is ready.
#[derive(Debug)]
pub(crate) struct Taken {
    // Declared first, so that it is gone before its place is given to another call.
    pub(crate) spare: Option<Spare>,
    pub(crate) place: Place,
}

/// The right to one VM. Dropping it lets the next call have one, so it is to be dropped last.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<Shared>,
    server: Arc<str>,
    memory_mb: u32,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the refill threads.
    work: Condvar,
    /// Unused guests, by the names they have on their shelves.
    watch: Watch,
}

#[derive(Debug)]
struct State {
    desk: Desk,
    shelves: Shelves,
    cids: Option<Cids>,
    problems: Vec<String>,
    /// Turns that came and were not picked up yet.
    turns: HashMap<Ticket, Grant<Spare>>,
    /// Who sleeps until their turn comes.
    sleepers: HashMap<Ticket, Thread>,
    /// Cancels the boots that are under way, for when the pool ends.
    boots: HashMap<u64, Cancel>,
    last_boot: u64,
    /// Nothing is booted for a shelf until then.
    calm_until: Option<Instant>,
    closed: bool,
}

impl Pool {
    /// A pool without guests and without room for any, until [`Pool::adopt`] says otherwise.
    ///
    /// # Errors
    ///
    /// The host has no threads or descriptors left.
    pub fn start() -> io::Result<Self> {
        let none = Limits { max_vms: 0, max_vms_per_server: 0, max_memory_mb: None };
        let state = State {
            desk: Desk::new(none),
            shelves: Shelves::default(),
            cids: None,
            problems: Vec::new(),
            turns: HashMap::new(),
            sleepers: HashMap::new(),
            boots: HashMap::new(),
            last_boot: 0,
            calm_until: None,
            closed: false,
        };
        let shared =
            Shared { state: Mutex::new(state), work: Condvar::new(), watch: Watch::new()? };
        // Made first, so that a thread that can't be started ends those that could.
        let pool = Self { shared: Arc::new(shared), threads: Mutex::default() };
        threads::start(&pool.shared, &mut pool.threads())?;
        Ok(pool)
    }

    /// Holds what `plan` says from now on. Unused guests of other kinds are destroyed.
    pub fn adopt(&self, plan: Plan) {
        let Plan { limits, size, recipes, cids, problems } = plan;
        let surplus = {
            let mut state = self.shared.lock();
            if state.closed {
                return;
            }
            state.desk.set_limits(limits);
            state.cids = Some(cids);
            state.problems = problems;
            let mut surplus = state.shelves.adopt(recipes, size);
            surplus.extend(state.over_limits(&surplus));
            surplus
        };
        self.shared.dismiss(surplus);
        self.shared.lock().serve();
        self.shared.work.notify_all();
    }

    /// Destroys the unused guests and boots no more. Calls still get places.
    pub fn close(&self) {
        let (surplus, boots) = {
            let mut state = self.shared.lock();
            state.closed = true;
            let boots: Vec<Cancel> = state.boots.values().cloned().collect();
            (state.shelves.adopt(Vec::new(), 0), boots)
        };
        boots.iter().for_each(Cancel::cancel);
        self.shared.work.notify_all();
        self.shared.watch.stop();
        self.shared.dismiss(surplus);
        for thread in std::mem::take(&mut *self.threads()) {
            // A thread that panicked is as gone as one that returned.
            let _ended = thread.join();
        }
    }

    /// Gives a call the right to a VM as soon as its turn comes, and a ready one if there is one.
    pub(crate) fn take(
        &self,
        recipe: &Recipe,
        server: &str,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Taken, Busy> {
        let begun = Instant::now();
        let server: Arc<str> = server.into();
        let memory_mb = recipe.key.memory.mib();
        let (ticket, grant) = {
            let mut state = self.shared.lock();
            if let (true, Some(max_memory_mb)) =
                (state.desk.is_hopeless(memory_mb), state.desk.limits().max_memory_mb)
            {
                return Err(Busy::TooLarge { memory_mb, max_memory_mb });
            }
            if MAX_WAITING <= state.desk.counts().waiting {
                return Err(state.busy(&server, begun));
            }
            let shelf = state.shelves.id_of(&recipe.key);
            let ticket = state.desk.draw(&server, Want { shelf, memory_mb });
            state.serve();
            let grant = state.turns.remove(&ticket);
            match &grant {
                None => drop(state.sleepers.insert(ticket, std::thread::current())),
                Some(grant) if grant.spare.is_some() => state.keep_calm(begun),
                Some(_) => {}
            }
            (ticket, grant)
        };
        let grant = match grant {
            Some(grant) => grant,
            None => self.wait(ticket, &server, deadline, cancel)?,
        };
        let place = Place { shared: Arc::clone(&self.shared), server, memory_mb };
        // Gone before a guest is booted in their place.
        drop(grant.given_up);
        let spare = grant.spare.and_then(|spare| self.fit(spare, recipe));
        // A place on the shelf is free, to be filled when the call is over, or takes long.
        self.shared.work.notify_one();
        Ok(Taken { spare, place })
    }

    /// Sleeps until the turn of `ticket` comes.
    fn wait(
        &self,
        ticket: Ticket,
        server: &str,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Grant<Spare>, Busy> {
        let begun = Instant::now();
        let sleeper = std::thread::current();
        cancel.guest_started(Killer::new(move || sleeper.unpark()));
        let outcome = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            {
                let mut state = self.shared.lock();
                if let Some(grant) = state.turns.remove(&ticket) {
                    break Ok(grant);
                }
                let cancelled = cancel.is_cancelled();
                if cancelled || left.is_zero() {
                    state.sleepers.remove(&ticket);
                    state.desk.withdraw(server, ticket);
                    // Those behind it may fit where it did not.
                    state.serve();
                    break Err(if cancelled { Busy::Cancelled } else { state.busy(server, begun) });
                }
            }
            std::thread::park_timeout(left);
        };
        cancel.guest_ended();
        outcome
    }

    /// The guest if it lives and is silent, else another one like it, if there is one.
    fn fit(&self, mut spare: Spare, recipe: &Recipe) -> Option<Spare> {
        loop {
            spare.watched().iter().for_each(|fd| self.shared.watch.remove(fd));
            if spare.is_fit() {
                return Some(spare);
            }
            warn!(vm_pid = spare.vm_pid(), "an unused guest ended before its call came");
            drop(spare);
            let mut state = self.shared.lock();
            let id = state.shelves.id_of(&recipe.key);
            let shelf = state.shelves.get_mut(id)?;
            shelf.counts.lost += 1;
            let (_, next) = shelf.spares.pop_front()?;
            // The call has one place, and the one that is gone left its own.
            state.desk.gone(recipe.key.memory.mib());
            spare = next;
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    // Nothing that holds the lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Destroys guests that are on no shelf any more, and then counts them as gone.
    fn dismiss(&self, spares: Vec<(Spare, u32)>) {
        for (spare, memory_mb) in spares {
            drop(spare);
            let mut state = self.lock();
            state.desk.gone(memory_mb);
            state.serve();
        }
    }

    /// Watches a guest that was put on its shelf. One that can't be watched is still checked
    /// before it is handed out.
    fn watch(&self, name: u64, spare: &Spare) {
        for fd in spare.watched() {
            if let Err(error) = self.watch.add(name, fd, Sign::Anything) {
                warn!(%error, "an unused guest cannot be watched");
            }
        }
    }
}

impl State {
    /// Lets every turn come that can.
    fn serve(&mut self) {
        while let Some(grant) = self.desk.serve(&mut self.shelves) {
            if let Some(sleeper) = self.sleepers.remove(&grant.ticket) {
                sleeper.unpark();
            }
            self.turns.insert(grant.ticket, grant);
        }
    }

    /// Puts off boots for shelves. Calls that follow each other do not put them off for ever.
    fn keep_calm(&mut self, now: Instant) {
        if self.calm_until.is_none_or(|until| until <= now) {
            self.calm_until = now.checked_add(CALM);
        }
    }

    /// Unused guests to destroy for the limits to hold, besides those that are on their way out.
    fn over_limits(&mut self, leaving: &[(Spare, u32)]) -> Vec<(Spare, u32)> {
        use desk::Stock as _;
        let mut less = u32::try_from(leaving.len()).unwrap_or(u32::MAX);
        let mut less_mb: u64 = leaving.iter().map(|(_, memory_mb)| u64::from(*memory_mb)).sum();
        let mut surplus = Vec::new();
        while self.desk.is_over(less, less_mb) {
            let Some((spare, memory_mb)) = self.shelves.give_up() else { break };
            less = less.saturating_add(1);
            less_mb += u64::from(memory_mb);
            surplus.push((spare, memory_mb));
        }
        surplus
    }

    fn busy(&self, server: &str, since: Instant) -> Busy {
        let (counts, limits) = (self.desk.counts(), self.desk.limits());
        Busy::Full {
            server: server.into(),
            in_use: counts.in_use,
            max_vms: limits.max_vms,
            server_in_use: self.desk.of_server(server).0,
            max_vms_per_server: limits.max_vms_per_server,
            memory_mb: counts.memory_mb,
            max_memory_mb: limits.max_memory_mb,
            waiting: counts.waiting,
            waited: since.elapsed(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.desk.leave(&self.server, self.memory_mb);
        state.serve();
        state.calm_until = None;
        drop(state);
        self.shared.work.notify_one();
    }
}

#[cfg(test)]
mod tests;
