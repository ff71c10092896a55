//! Whether a server still lives, beyond its link being up.
//!
//! ```text
//! an answer since the last look ──────────────▶ quiet
//! requests that it got before are on their way ─▶ quiet: it may be busy with them
//! ping, or server/discover ── answer ─────────▶ answered
//!     └─ none in time, PINGS times in a row ──▶ given up: a death
//! ```
//!
//! A server that works on one request at a time answers no ping meanwhile, and is not to be blamed
//! for that. It is asked when every request that it had by then is over, whichever way.

use crate::handshake::{own_call, own_meta};
use crate::mailbox::Lost;
use crate::notice::Notice;
use crate::session::Session;
use crate::status::Ping;
use crate::stop::Stop;
use crate::words::Era;
use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Pings in a row without an answer after which a server is given up.
const PINGS: u32 = 3;

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// There was no reason to ask, or nobody left to ask.
    Quiet,
    /// It answered.
    Well,
    /// It was given up.
    Dead,
}

/// What is known from earlier looks at a link.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Answers it had given by then.
    heard: u64,
    /// Since it answers nothing: the requests that may keep it busy.
    busy: Option<HashSet<u64>>,
}

impl Pulse {
    pub(crate) fn new(heard: u64) -> Self {
        Self { heard, busy: None }
    }

    /// Whether the server has to be asked.
    fn is_due(&mut self, heard: u64, flying: HashSet<u64>) -> bool {
        if heard != self.heard {
            *self = Self::new(heard);
            return false;
        }
        match &mut self.busy {
            None => self.busy.insert(flying).is_empty(),
            Some(busy) => {
                busy.retain(|id| flying.contains(id));
                busy.is_empty()
            }
        }
    }
}

/// Asks the server at the other end of a link, if need be, and gives it up if it does not live.
pub(crate) fn look(
    session: &Session,
    notice: &Notice,
    patience: Duration,
    cancel: &Stop,
) -> Health {
    let channel = &session.channel;
    let pulse = || session.pulse.lock().unwrap_or_else(PoisonError::into_inner);
    if !pulse().is_due(channel.heard(), channel.clients()) {
        return Health::Quiet;
    }
    let method = match session.greeting.era {
        Era::Legacy => "ping",
        Era::Modern => "server/discover",
    };
    for _ in 0..PINGS {
        let heard = channel.heard();
        let asked = Instant::now();
        let meta = own_meta(session.greeting.era, &session.greeting.version);
        let answer = channel.call(&own_call(method, None, meta), asked + patience, cancel);
        match answer {
            // Late is answered, too.
            Err(Lost::Deadline) if channel.heard() == heard => notice.pinged(Ping::now(None)),
            Ok(_) | Err(Lost::Deadline) => {
                notice.pinged(Ping::now(Some(asked.elapsed())));
                notice.breaker.succeeded();
                *pulse() = Pulse::new(channel.heard());
                return Health::Well;
            }
            // Its link is gone, or nobody wants to know any more.
            Err(_) => return Health::Quiet,
        }
    }
    let (times, secs) = (PINGS, patience.as_secs_f64());
    channel.give_up(&format!(
        "it did not answer `{method}` {times} times in a row, for {secs} s each"
    ));
    Health::Dead
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<const N: usize>(ids: [u64; N]) -> HashSet<u64> {
        ids.into()
    }

    #[test]
    fn a_server_that_answers_calls_is_not_asked() {
        let mut pulse = Pulse::new(1);
        assert!(!pulse.is_due(2, ids([])), "it has answered since");
        assert!(pulse.is_due(2, ids([])));
        assert!(!pulse.is_due(3, ids([])));
    }

    #[test]
    fn a_busy_server_is_asked_when_what_it_had_is_over_whatever_came_since() {
        let mut pulse = Pulse::new(1);
        assert!(!pulse.is_due(1, ids([7, 8])));
        assert!(!pulse.is_due(1, ids([8, 9])));
        assert!(pulse.is_due(1, ids([9, 10])));
    }
}
