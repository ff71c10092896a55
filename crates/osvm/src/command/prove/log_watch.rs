//! Sees the lines that a guest gets into the log of the host.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// Where the runtime says that a line is a guest's.
const GUEST: &str = "osvm::guest";

/// What got into the log.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// How many.
    pub(super) count: AtomicUsize,
    /// The longest, in bytes.
    pub(super) longest: AtomicUsize,
    /// Whether one had control characters.
    pub(super) alive: AtomicBool,
}

/// Runs `work` and counts the lines of guests meanwhile, on this thread; other log lines are lost.
pub(super) fn watching<T>(work: impl FnOnce() -> T) -> (T, Arc<Lines>) {
    let lines = Arc::new(Lines::default());
    let dispatch = Dispatch::new(Watcher(Arc::clone(&lines)));
    (tracing::dispatcher::with_default(&dispatch, work), lines)
}

struct Watcher(Arc<Lines>);

impl Subscriber for Watcher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == GUEST
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.longest.fetch_max(message.0.len(), Ordering::Relaxed);
        if message.0.chars().any(char::is_control) {
            self.0.alive.store(true, Ordering::Relaxed);
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// The text of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _into_a_string = write!(self.0, "{value:?}");
        }
    }
}
