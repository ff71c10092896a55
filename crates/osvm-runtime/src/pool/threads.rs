//! The threads of a pool: those that boot guests, and the one that watches over unused ones.

use super::desk::ShelfId;
use super::{Shared, Spare};
use crate::cancel::Cancel;
use crate::cids::Cids;
use crate::error::{CallError, chain};
use crate::recipe::Recipe;
use std::io;
use std::num::NonZero;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Longest time a guest may take to get ready without a call that waits for it.
const BOOT_LIMIT: Duration = Duration::from_secs(15);

/// Guests that are booted at once. More than there are processors only makes each take longer.
const MAX_BOOTING: usize = 8;

/// A guest to boot.
struct Order {
    number: u64,
    shelf: ShelfId,
    recipe: Arc<Recipe>,
    cids: Cids,
    cancel: Cancel,
}

/// Starts them; they end when the pool is closed.
pub(super) fn start(shared: &Arc<Shared>, threads: &mut Vec<JoinHandle<()>>) -> io::Result<()> {
    let processors = available_parallelism().map_or(1, NonZero::get);
    for _ in 0..processors.min(MAX_BOOTING) {
        let shared = Arc::clone(shared);
        let refill = move || {
            while let Some(order) = shared.next_order() {
                let deadline = Instant::now() + BOOT_LIMIT;
                let booted = Spare::boot(&order.recipe, &order.cids, &order.cancel, deadline);
                shared.booted(&order, booted);
            }
        };
        threads.push(Builder::new().name("pool-refill".into()).spawn(refill)?);
    }
    let shared = Arc::clone(shared);
    let watch = move || {
        while let Some(names) = shared.watch.wait() {
            names.into_iter().for_each(|name| shared.lost(name));
        }
    };
    threads.push(Builder::new().name("pool-watch".into()).spawn(watch)?);
    Ok(())
}

impl Shared {
    /// Waits until a guest is missing and there is room for it; `None` once the pool is closed.
    fn next_order(&self) -> Option<Order> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let (cids, now) = (state.cids.clone(), Instant::now());
            let super::State { shelves, desk, boots, last_boot, calm_until, .. } = &mut *state;
            let calm =
                calm_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            let short = shelves.next_short(now, |memory_mb| desk.has_room(memory_mb));
            let pause = match (short, cids) {
                (Ok(_), Some(_)) if !calm.is_zero() => Some(calm),
                (Ok(shelf), Some(cids)) => {
                    shelf.booting += 1;
                    desk.come(shelf.memory_mb());
                    *last_boot += 1;
                    let cancel = Cancel::default();
                    boots.insert(*last_boot, cancel.clone());
                    let (number, shelf, recipe) = (*last_boot, shelf.id, Arc::clone(&shelf.recipe));
                    return Some(Order { number, shelf, recipe, cids, cancel });
                }
                (Err(pause), _) => pause,
                (Ok(_), None) => None,
            };
            state = match pause {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    let woken = self.work.wait_timeout(state, pause);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Puts the guest on its shelf, or says why there is none.
    fn booted(&self, order: &Order, booted: Result<Spare, CallError>) {
        let memory_mb = order.recipe.key.memory.mib();
        let mut state = self.lock();
        state.boots.remove(&order.number);
        let closed = state.closed;
        let image = &order.recipe.key.image;
        let shelf = state.shelves.get_mut(order.shelf);
        let unwanted = match (booted, shelf) {
            (Ok(spare), Some(shelf)) => {
                shelf.booting = shelf.booting.saturating_sub(1);
                shelf.retry.succeeded();
                shelf.counts.booted += 1;
                shelf.counts.failure = None;
                debug!(cid = spare.cid(), vm_pid = spare.vm_pid(), "a guest of `{image}` is ready");
                state.keep(self, order.shelf, spare)
            }
            (Ok(spare), None) => Some(spare),
            (Err(error), shelf) => {
                if let Some(shelf) = shelf {
                    shelf.booting = shelf.booting.saturating_sub(1);
                    shelf.retry.failed(Instant::now());
                    shelf.counts.failed += 1;
                    let reason = chain(&error);
                    if !closed {
                        warn!(reason, "no guest of `{image}` for the pool");
                    }
                    shelf.counts.failure = Some(reason);
                }
                state.desk.gone(memory_mb);
                None
            }
        };
        state.serve();
        drop(state);
        self.dismiss(unwanted.map(|spare| (spare, memory_mb)).into_iter().collect());
    }

    /// An unused guest ended, or spoke without having been asked.
    fn lost(&self, name: u64) {
        let lost = self.lock().shelves.lose(name);
        // A call may have taken it meanwhile, and looked at it itself.
        if let Some((spare, memory_mb)) = lost {
            let (cid, vm_pid) = (spare.cid(), spare.vm_pid());
            warn!(cid, vm_pid, "an unused guest ended before a call came");
            self.dismiss(vec![(spare, memory_mb)]);
            self.work.notify_one();
        }
    }
}

impl super::State {
    /// Gives the guest back if it is no longer wanted.
    fn keep(&mut self, shared: &Shared, shelf: ShelfId, spare: Spare) -> Option<Spare> {
        let unwanted = self.shelves.put(shelf, spare);
        // Under the lock, so that nobody takes it before it is watched.
        if unwanted.is_none()
            && let Some((name, spare)) = self.shelves.last(shelf)
        {
            shared.watch(*name, spare);
        }
        unwanted
    }
}
