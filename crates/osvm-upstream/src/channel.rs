//! A link that carries many requests at once, whatever is below it.

use crate::edit::Meta;
use crate::flights::Passenger;
use crate::handshake::Greeting;
use crate::mailbox::Lost;
use crate::outgoing::{Relay, Reply, refusal};
use crate::stop::Stop;
use crate::words::{Asks, Level};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

/// A link that carries many requests at once.
pub(crate) trait Channel: fmt::Debug + Send + Sync {
    /// Sends a request and waits for its answer on this thread.
    fn call(&self, call: &Call<'_>, deadline: Instant, cancel: &Stop) -> Result<Reply, Lost>;

    /// Tells the server something.
    fn notify(&self, method: &str, params: Option<&str>);

    /// Whether it can be used.
    fn is_alive(&self) -> bool;

    /// Requests of clients that wait.
    fn in_flight(&self) -> usize;

    /// The same by id, where a server that hangs can be told from one that is busy with them.
    fn clients(&self) -> HashSet<u64> {
        HashSet::new()
    }

    /// Answers that came so far, late ones among them, where that shows that the server lives.
    fn heard(&self) -> u64 {
        0
    }

    /// Ends it, because the server does not live any more: every request that waits is told so at
    /// once, and it counts as a death.
    fn give_up(&self, _why: &str) {
        self.end(Duration::ZERO);
    }

    /// Lines that were skipped.
    fn skipped(&self) -> u64;

    /// Learns the revision that was agreed on. From now on the end of the link is a death.
    fn agreed(&self, greeting: &Greeting);

    /// Whether the other end speaks a transport that osvm does not. Asked when the handshake
    /// failed.
    fn is_old_transport(&self) -> bool {
        false
    }

    /// Ends it: every request that waits is lost, and what is at the other end is gone when this
    /// returns. Not counted as a death.
    fn end(&self, patience: Duration);
}

/// A request, as a link needs it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) params: Option<&'a RawValue>,
    pub(crate) meta: Meta<'a>,
    pub(crate) owner: u64,
    pub(crate) asks: Asks,
    pub(crate) own: bool,
    pub(crate) relay: &'a dyn Relay,
    /// Only for HTTP: arguments that go into headers too, by name of the header.
    pub(crate) headers: &'a [(String, String)],
}

impl Call<'_> {
    /// What the way back has to know of it.
    pub(crate) fn passenger(&self, token: Option<Box<RawValue>>) -> Passenger {
        Passenger {
            owner: self.owner,
            token,
            level: self.meta.level.and_then(Level::named),
            asks: self.asks,
            own: self.own,
        }
    }

    /// Whether the server may be told that nobody waits any more.
    pub(crate) fn can_be_cancelled(&self) -> bool {
        !matches!(self.method, "initialize" | "server/discover")
    }
}

/// The answer to a request whose parameters are no object.
pub(crate) fn no_object() -> Reply {
    Reply::Error(refusal(-32_602, "`params` is not an object"))
}
