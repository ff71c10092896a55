//! The life of one guest.
//!
//! ```text
//! Booted ──connect──▶ Ready ──call──▶ Ended
//!    │                  │               ▲
//!    └── drop ──────────┴── drop ───────┴── the guest is gone
//! ```
//!
//! # Invariants
//!
//! - One guest serves one call: [`Ready::call`] consumes it.
//! - Every way out destroys the guest, because dropping a [`Machine`] does. There is no cleanup
//!   code to forget.
//! - Whoever cancels the call kills the guest in every state.

use crate::cancel::Cancel;
use crate::error::{CallError, EndCause, GuestFault, Phase};
use crate::exchange::{Answer, Broken};
use crate::wire::{Wire, WireError};
use osvm_image::ArgumentError;
use osvm_protocol::PORT;
use osvm_protocol::frame::FrameError;
use osvm_vmm::{Backend, BootError, ConnectError, Machine, MachineSpec, Usage};
use std::time::{Duration, Instant};

pub use crate::exchange::Exchange;

/// A guest that runs and has not accepted a connection yet.
#[derive(Debug)]
pub struct Booted {
    machine: Box<dyn Machine>,
    cancel: Cancel,
}

/// A guest that has accepted a connection. Good for one call.
#[derive(Debug)]
pub struct Ready {
    // Declared first, so it drops first: the stream closes before the guest dies.
    wire: Wire,
    machine: Box<dyn Machine>,
    cancel: Cancel,
}

/// What is left of a guest that is gone.
#[derive(Debug)]
pub struct Ended {
    /// The answer, or why there is none.
    pub outcome: Result<Answer, CallError>,
    /// What the guest used when it answered.
    pub usage: Usage,
    /// From the request to the answer.
    pub call: Duration,
    /// From the answer until the guest and all it held were gone.
    pub destroy: Duration,
}

impl Booted {
    /// Starts a guest that `cancel` can kill from now on.
    ///
    /// # Errors
    ///
    /// Those of the backend.
    pub fn boot(
        backend: &dyn Backend,
        spec: &MachineSpec,
        cancel: &Cancel,
    ) -> Result<Self, BootError> {
        let machine = backend.boot(spec)?;
        cancel.guest_started(machine.killer());
        Ok(Self { machine, cancel: cancel.clone() })
    }

    /// Process id of the VM process.
    pub fn vm_pid(&self) -> u32 {
        self.machine.vm_pid()
    }

    /// Waits until the executor in the guest accepts a connection.
    ///
    /// # Errors
    ///
    /// Those of the backend; the guest is gone then.
    pub fn connect(mut self, deadline: Instant) -> Result<Ready, ConnectError> {
        let stream = self.machine.connect(PORT, deadline)?;
        Ok(Ready { wire: Wire::new(stream), machine: self.machine, cancel: self.cancel })
    }
}

impl Ready {
    /// Runs the tool, then destroys the guest.
    ///
    /// Takes `self`, so a used guest cannot be used again:
    ///
    /// ```compile_fail,E0382
    /// # fn demo(ready: osvm_runtime::guest::Ready, exchange: &osvm_runtime::guest::Exchange<'_>) {
    /// ready.call(exchange);
    /// ready.call(exchange); // error[E0382]: use of moved value
    /// # }
    /// ```
    pub fn call(mut self, exchange: &Exchange<'_>) -> Ended {
        let start = Instant::now();
        let outcome = exchange.run(&mut self.wire);
        let call = start.elapsed();
        let usage = self.machine.usage();
        let outcome = outcome.map_err(|broken| {
            explain(broken, exchange, || Some(EndCause::Guest(self.machine.death())))
        });
        let start = Instant::now();
        let Self { wire, machine, cancel } = self;
        drop(wire);
        drop(machine);
        cancel.guest_ended();
        Ended { outcome, usage, call, destroy: start.elapsed() }
    }
}

/// Turns what broke into what the caller of a tool should know. `death` is asked only when the
/// executor hung up, because asking ends it.
pub(crate) fn explain(
    broken: Broken,
    exchange: &Exchange<'_>,
    death: impl FnOnce() -> Option<EndCause>,
) -> CallError {
    if exchange.cancel.is_cancelled() {
        return CallError::Cancelled;
    }
    let fault = match broken {
        Broken::Wire(WireError::TimedOut) => {
            return CallError::Deadline { limit: exchange.policy.timeout, phase: Phase::Tool };
        }
        Broken::Request(FrameError::TooLong { len }) => {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            return ArgumentError::TooLong { len }.into();
        }
        Broken::Wire(WireError::HungUp) => GuestFault::HungUp(death()),
        Broken::Wire(WireError::MidFrame) => GuestFault::MidFrame(death()),
        Broken::Wire(WireError::Frame(error)) => GuestFault::TooLong(error),
        Broken::Wire(WireError::Flood) => GuestFault::Flood,
        Broken::Wire(WireError::Io(error)) => GuestFault::Stream(error),
        Broken::Rubbish(error) => GuestFault::Rubbish(error),
        Broken::WrongId(id) => GuestFault::WrongId { id },
    };
    fault.into()
}
