//! Ending a call from another thread: Ctrl-C, a client that went away.

use osvm_vmm::Killer;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cancels one call. Clones mean the same call.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    guest: Option<Killer>,
    /// What else is to be told, by number.
    others: BTreeMap<u64, Killer>,
    last: u64,
}

impl Cancel {
    /// Ends the call at once: its guest is killed now, or as soon as there is one.
    ///
    /// The call returns when its guest is gone. Without effect on a call that has ended.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        state.guest.iter().chain(state.others.values()).for_each(Killer::kill);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Does `act` when the call is cancelled, now if it was already, until the guard is dropped.
    ///
    /// `act` may be done more than once, must not block, and must not use this `Cancel`. It is
    /// never done after the guard is gone.
    #[must_use = "dropping the guard takes it back"]
    pub fn on_cancel(&self, act: impl Fn() + Send + Sync + 'static) -> OnCancel {
        let act = Killer::new(act);
        let mut state = self.lock();
        if state.cancelled {
            act.kill();
        }
        state.last += 1;
        let number = state.last;
        state.others.insert(number, act);
        OnCancel { cancel: self.clone(), number }
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

    // Plain values, which no panic leaves half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that is done when a call is cancelled; dropping it takes that back.
pub struct OnCancel {
    cancel: Cancel,
    number: u64,
}

impl Drop for OnCancel {
    fn drop(&mut self) {
        self.cancel.lock().others.remove(&self.number);
    }
}

impl fmt::Debug for OnCancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnCancel")
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

    #[test]
    fn what_waits_for_a_cancel_hears_it_while_its_guard_lives() {
        let acts = Arc::new(AtomicUsize::new(0));
        let act = || {
            let acts = Arc::clone(&acts);
            move || _ = acts.fetch_add(1, Ordering::SeqCst)
        };
        let cancel = Cancel::default();
        let (kept, gone) = (cancel.on_cancel(act()), cancel.on_cancel(act()));
        drop(gone);
        cancel.cancel();
        assert_eq!(acts.load(Ordering::SeqCst), 1);
        let _late = cancel.on_cancel(act());
        assert_eq!(acts.load(Ordering::SeqCst), 2);
        drop(kept);
    }
}
