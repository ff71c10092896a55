//! Ctrl-C and SIGTERM: cancel what runs, so that it ends in order.
//!
//! The first signal cancels, and the command returns its own error. A second one ends osvm at
//! once, as if nothing had been set up; VM processes die with it even then.

use crate::failure::Failure;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

/// Which signal arrived, if one did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// Calls `cancel` when the first signal arrives.
    pub(crate) fn watch(cancel: impl Fn() + Send + 'static) -> Result<Self, Failure> {
        let interrupt = Self::default();
        let seen = interrupt.clone();
        let cannot = |error| Failure::new("host", "cannot watch for signals").caused_by(&error);
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(cannot)?;
        let watcher = move || {
            for signal in signals.forever() {
                if seen.0.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    cancel();
                } else {
                    let _ = emulate_default_handler(signal);
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(watcher).map_err(cannot)?;
        Ok(interrupt)
    }

    /// The signal's number.
    pub(crate) fn signal(&self) -> Option<Signal> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            number => Some(Signal(number)),
        }
    }
}

/// A signal that asked osvm to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(i32);

impl Signal {
    /// Its name, as in `SIGINT`.
    pub(crate) fn name(self) -> &'static str {
        signal_name(self.0).unwrap_or("a signal")
    }

    /// 128 and the signal's number, as shells report it.
    pub(crate) fn exit_code(self) -> u8 {
        u8::try_from(self.0).map_or(u8::MAX, |number| number.saturating_add(128))
    }
}
