//! Whether a server still lives, beyond its link being up.
//!
//! ```text
//! ping, or server/discover ── answer ──▶ well
//!     └─ none in time ─▶ suspect ─ a request that it got before may keep it busy ─▶ asked again
//!                           └───── none of those is left ─▶ given up: a death
//! ```
//!
//! A server that works on one request at a time answers no ping meanwhile, and is not to be blamed
//! for that. It is given up when every request that it had by then is over, whichever way.

use crate::handshake::{own_call, own_meta};
use crate::mailbox::Lost;
use crate::session::Session;
use crate::stop::Stop;
use crate::words::Era;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answered, or its link is gone anyway.
    Well,
    /// It did not, but may be busy.
    Suspect,
    /// It was given up.
    Dead,
}

impl Health {
    pub(crate) fn is_dead(&self) -> bool {
        *self == Self::Dead
    }
}

/// Asks the server at the other end of a link, and gives it up if it does not live.
pub(crate) fn look(session: &Session, patience: Duration, cancel: &Stop) -> Health {
    let (era, version) = (session.greeting.era, session.greeting.version.as_str());
    let method = match era {
        Era::Legacy => "ping",
        Era::Modern => "server/discover",
    };
    let before = session.channel.clients();
    let call = own_call(method, None, own_meta(era, version));
    let answered = session.channel.call(&call, Instant::now() + patience, cancel);
    let mut suspect = session.suspect.lock().unwrap_or_else(PoisonError::into_inner);
    if !matches!(answered, Err(Lost::Deadline)) {
        *suspect = None;
        return Health::Well;
    }
    let flying = session.channel.clients();
    let busy = suspect.get_or_insert(before);
    busy.retain(|id| flying.contains(id));
    if !busy.is_empty() {
        return Health::Suspect;
    }
    drop(suspect);
    session.channel.give_up(&format!("it did not answer `{method}` for {} s", patience.as_secs()));
    Health::Dead
}
