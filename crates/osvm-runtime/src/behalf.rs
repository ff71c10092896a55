//! On whose behalf a guest asks, where guests and calls do not begin and end together: guests of
//! hosted servers.
//!
//! ```text
//! link to a guest ─▶ LongGuests::add ───────────────── until the guest is gone
//! call in it ──────▶ Terms::works_in ─▶ LongGuest::begins ─ … ─ ends
//! ```
//!
//! # Invariants
//!
//! - [`LongGuest::ends`] returns before the call's trace is taken, so what it notes is recorded.

use crate::cancel::Cancel;
use crate::id::CallId;
use crate::trace::Trace;
use osvm_policy::Resolved;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A call that a guest works for.
#[derive(Debug)]
pub struct OnBehalf {
    /// The call.
    pub call: CallId,
    /// What the isolation config says about its tool.
    pub policy: Resolved,
    /// When it ends.
    pub deadline: Instant,
    /// Whether it still wants an answer.
    pub cancel: Cancel,
    /// Where what is done for the guest, or refused to it, is written down.
    pub trace: Arc<Trace>,
}

/// A guest that may live before and after a call, and work for several at once.
pub trait LongGuest: Send + Sync {
    /// It works for this call from now on.
    fn begins(&self, call: Arc<OnBehalf>);

    /// It does not any more. What is still to be noted of the call is noted before this returns.
    fn ends(&self, call: CallId);
}

/// The guests that live, by CID. Clones are the same list.
#[derive(Clone, Default)]
pub struct LongGuests(Arc<Mutex<HashMap<u32, Arc<dyn LongGuest>>>>);

impl fmt::Debug for LongGuests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lock().keys()).finish()
    }
}

impl LongGuests {
    /// Lists a guest until the guard is dropped.
    #[must_use = "dropping the guard takes the guest off the list"]
    pub fn add(&self, cid: u32, guest: Arc<dyn LongGuest>) -> Listed {
        self.lock().insert(cid, guest);
        Listed { guests: self.clone(), cid }
    }

    /// The guest with this CID.
    pub fn get(&self, cid: u32) -> Option<Arc<dyn LongGuest>> {
        self.lock().get(&cid).map(Arc::clone)
    }

    /// Has the guest with this CID work for `call` until the guard is dropped.
    pub(crate) fn works(&self, cid: u32, call: impl FnOnce() -> OnBehalf) -> Option<Working> {
        let guest = self.get(cid)?;
        let call = call();
        let id = call.call;
        guest.begins(Arc::new(call));
        Some(Working { guest, call: id })
    }

    // A map that no panic leaves half-changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<dyn LongGuest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest's place in the list.
#[derive(Debug)]
pub struct Listed {
    guests: LongGuests,
    cid: u32,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.guests.lock().remove(&self.cid);
    }
}

/// A guest that works for a call; dropping it says that it does not any more.
pub struct Working {
    guest: Arc<dyn LongGuest>,
    call: CallId,
}

impl fmt::Debug for Working {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Working").field(&self.call).finish()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.guest.ends(self.call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counted(Mutex<Vec<CallId>>);

    impl LongGuest for Counted {
        fn begins(&self, call: Arc<OnBehalf>) {
            self.0.lock().unwrap().push(call.call);
        }

        fn ends(&self, call: CallId) {
            self.0.lock().unwrap().retain(|known| *known != call);
        }
    }

    fn call() -> OnBehalf {
        let env = osvm_policy::Env::new(None, None, Some("/home/u".into())).unwrap();
        let config = osvm_policy::Config::parse(b"{}", std::path::Path::new("c.json"), &env);
        let config = config.unwrap();
        OnBehalf {
            call: CallId::now(),
            policy: config.resolve("server", "tool"),
            deadline: Instant::now(),
            cancel: Cancel::default(),
            trace: Arc::default(),
        }
    }

    #[test]
    fn a_guest_works_for_a_call_until_the_guard_is_dropped() {
        let (guests, guest) = (LongGuests::default(), Arc::new(Counted::default()));
        let listed = guests.add(100, Arc::clone(&guest) as Arc<dyn LongGuest>);
        let (one, other) = (guests.works(100, call).unwrap(), guests.works(100, call).unwrap());
        assert_eq!(guest.0.lock().unwrap().len(), 2);
        drop(one);
        assert_eq!(*guest.0.lock().unwrap(), [other.call]);
        assert!(guests.works(101, call).is_none());
        drop(listed);
        assert!(guests.works(100, call).is_none());
    }
}
