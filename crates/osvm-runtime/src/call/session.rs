//! A guest that serves consecutive calls of one batch, because its client asked for that.
//!
//! # Invariants
//!
//! - Only calls of one server, with a guest of one key, meet in a guest.
//! - A guest is kept after an answer only. After anything else it is destroyed.
//! - Dropping a session destroys its guest.

use super::ToolCall;
use super::remains::Console;
use crate::cids::Lease;
use crate::guest::Shared;
use crate::pool::Place;
use crate::recipe::Key;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::Duration;

/// What is kept from one call of a batch to the next: see [`crate::Runtime::answer`].
#[derive(Debug, Default)]
pub struct Session {
    kept: Option<Kept>,
}

/// A guest between two calls.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) parts: KeptParts,
    key: Key,
    server: String,
    /// How long its boot took.
    pub(super) boot: Option<Duration>,
}

/// The guest and what belongs to it.
#[derive(Debug)]
pub(super) struct KeptParts {
    // In this order they go.
    pub(super) guest: Shared,
    pub(super) lease: Lease,
    pub(super) console: Option<Console>,
    pub(super) place: Option<Place>,
}

impl Session {
    /// The guest, if the call may have it; one that it may not have is destroyed.
    pub(super) fn take(&mut self, key: &Key, call: &ToolCall) -> Option<Kept> {
        let fits = |kept: &Kept| {
            kept.server == call.server && kept.key == *key && is_silent(&kept.parts.guest)
        };
        self.kept.take().filter(fits)
    }

    pub(super) fn keep(
        &mut self,
        parts: KeptParts,
        key: &Key,
        call: &ToolCall,
        boot: Option<Duration>,
    ) {
        self.kept = Some(Kept { parts, key: key.clone(), server: call.server.clone(), boot });
    }
}

/// Whether the guest neither ended nor spoke since its last answer.
fn is_silent(guest: &Shared) -> bool {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let stream = guest.stream();
    poll(&mut [PollFd::from_borrowed_fd(stream, PollFlags::IN)], Some(&NOW))
        .is_ok_and(|events| events == 0)
}
