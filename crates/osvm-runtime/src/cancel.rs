//! Ending a call from another thread: Ctrl-C, a client that went away.

use osvm_vmm::Killer;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cancels one call. Clones mean the same call.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    guest: Option<Killer>,
}

impl Cancel {
    /// Ends the call at once: its guest is killed now, or as soon as there is one.
    ///
    /// The call returns when its guest is gone. Without effect on a call that has ended.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        if let Some(guest) = &state.guest {
            guest.kill();
        }
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Says what to kill; kills it right away if the call was cancelled meanwhile.
    pub(crate) fn guest_started(&self, killer: Killer) {
        let mut state = self.lock();
        if state.cancelled {
            killer.kill();
        }
        state.guest = Some(killer);
    }

    /// Forgets the guest, which is gone.
    pub(crate) fn guest_ended(&self) {
        self.lock().guest = None;
    }

    // The state is two plain values, which no panic leaves half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn counting() -> (Killer, Arc<AtomicUsize>) {
        let kills = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&kills);
        (Killer::new(move || _ = counter.fetch_add(1, Ordering::SeqCst)), kills)
    }

    #[test]
    fn a_guest_that_starts_after_the_cancel_is_killed() {
        let (killer, kills) = counting();
        let cancel = Cancel::default();
        cancel.clone().cancel();
        cancel.guest_started(killer);
        assert_eq!(kills.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_guest_that_is_gone_is_left_alone() {
        let (killer, kills) = counting();
        let cancel = Cancel::default();
        cancel.guest_started(killer);
        cancel.guest_ended();
        cancel.cancel();
        assert_eq!(kills.load(Ordering::SeqCst), 0);
        assert!(cancel.is_cancelled());
    }
}
