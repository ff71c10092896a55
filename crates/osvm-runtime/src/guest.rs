//! The life of one guest.
//!
//! ```text
//! Booted ──connect──▶ Ready ──call──▶ Ended
//!    │                 │ └──share──▶ Shared ──call, call, …
//!    └── drop ─────────┴── drop ──────┴── drop ─▶ the guest is gone
//! ```
//!
//! # Invariants
//!
//! - One guest serves one call: [`Ready::call`] consumes it, and what is left of it ([`Used`])
//!   can only be destroyed. So a pool, which keeps [`Ready`] guests, can't get a used one back.
//! - The one exception has a type of its own: [`Shared`], for the calls of one batch whose
//!   client asked for it. Nothing turns a [`Shared`] guest into a [`Ready`] one.
//! - Every way out destroys the guest, because dropping a [`Machine`] does. There is no cleanup
//!   code to forget.
//! - Whoever cancels the call kills the guest in every state.

use crate::cancel::Cancel;
use crate::error::{CallError, EndCause, GuestFault, Phase};
use crate::exchange::{Answer, Broken, FIRST_ID};
use crate::wire::{Wire, WireError};
use osvm_image::ArgumentError;
use osvm_protocol::PORT;
use osvm_protocol::frame::FrameError;
use osvm_vmm::{Backend, BootError, ConnectError, Machine, MachineSpec, Usage};
use std::os::fd::BorrowedFd;
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
pub struct Ready(Live);

/// A guest that serves the calls of one batch, one after the other.
#[derive(Debug)]
pub struct Shared {
    live: Live,
    next_id: u64,
}

/// A guest that has served. Dropping it destroys it, and there is nothing else to do with it.
#[derive(Debug)]
pub struct Used {
    _live: Live,
}

/// What is left of a guest that is gone.
#[derive(Debug)]
pub struct Ended {
    /// The answer, or why there is none.
    pub outcome: Result<Answer, CallError>,
    /// What the guest used when the call ended.
    pub usage: Usage,
    /// From the request to the answer.
    pub call: Duration,
    /// From the answer until the guest and all it held were gone.
    pub destroy: Duration,
}

/// What came out of a call; its guest still lives.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) outcome: Result<Answer, CallError>,
    pub(crate) usage: Usage,
    pub(crate) call: Duration,
}

#[derive(Debug)]
struct Live {
    // Declared first, so it drops first: the stream closes before the guest dies.
    wire: Wire,
    machine: Box<dyn Machine>,
    cancel: Cancel,
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
        Ok(Ready(Live { wire: Wire::new(stream), machine: self.machine, cancel: self.cancel }))
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
    pub fn call(self, exchange: &Exchange<'_>) -> Ended {
        let (Called { outcome, usage, call }, used) = self.call_once(exchange, || Ok(()));
        Ended { outcome, usage, call, destroy: used.destroy() }
    }

    /// Runs the tool. The guest lives until what is left of it is dropped, so that an answer
    /// need not wait for that.
    ///
    /// `meanwhile` is done while the guest works; where it fails there is no answer.
    pub(crate) fn call_once(
        mut self,
        exchange: &Exchange<'_>,
        meanwhile: impl FnOnce() -> Result<(), CallError>,
    ) -> (Called, Used) {
        let called = self.0.call(exchange, FIRST_ID, meanwhile);
        (called, Used { _live: self.0 })
    }

    /// Gives the guest to a batch whose client asked for calls that share one.
    pub fn share(self) -> Shared {
        Shared { live: self.0, next_id: FIRST_ID }
    }

    /// Gives the guest to a call: from now on `cancel` kills it, and nothing else does.
    pub(crate) fn assign(&mut self, cancel: &Cancel) {
        self.0.assign(cancel);
    }

    /// Process id of the VM process.
    pub(crate) fn vm_pid(&self) -> u32 {
        self.0.machine.vm_pid()
    }

    /// The stream, to be waited for. A guest that is asked nothing says nothing.
    pub(crate) fn stream(&self) -> BorrowedFd<'_> {
        self.0.wire.as_fd()
    }

    /// The stream and the machine, for what is asked of a guest that is no call.
    pub(crate) fn parts(&mut self) -> (&mut Wire, &mut dyn Machine) {
        (&mut self.0.wire, &mut *self.0.machine)
    }
}

impl Shared {
    /// Runs the next tool of the batch; `meanwhile` as in [`Ready::call_once`].
    pub(crate) fn call(
        &mut self,
        exchange: &Exchange<'_>,
        meanwhile: impl FnOnce() -> Result<(), CallError>,
    ) -> Called {
        let id = self.next_id;
        self.next_id += 1;
        self.live.call(exchange, id, meanwhile)
    }

    /// Gives the guest to the next call of its batch.
    pub(crate) fn assign(&mut self, cancel: &Cancel) {
        self.live.assign(cancel);
    }

    /// Process id of the VM process.
    pub(crate) fn vm_pid(&self) -> u32 {
        self.live.machine.vm_pid()
    }

    /// The stream. Between two calls nothing comes out of it.
    pub(crate) fn stream(&self) -> BorrowedFd<'_> {
        self.live.wire.as_fd()
    }

    /// The batch is over.
    pub(crate) fn retire(self) -> Used {
        Used { _live: self.live }
    }
}

impl Used {
    /// Destroys the guest and all it held; says how long that took.
    pub(crate) fn destroy(self) -> Duration {
        let start = Instant::now();
        drop(self);
        start.elapsed()
    }
}

impl Live {
    fn call(
        &mut self,
        exchange: &Exchange<'_>,
        id: u64,
        meanwhile: impl FnOnce() -> Result<(), CallError>,
    ) -> Called {
        let start = Instant::now();
        let asked = exchange.ask(&mut self.wire, id);
        let answered =
            meanwhile().map(|()| asked.and_then(|()| exchange.answered(&mut self.wire, id)));
        let call = start.elapsed();
        let usage = self.machine.usage();
        let explain =
            |broken| explain(broken, exchange, || Some(EndCause::Guest(self.machine.death())));
        let outcome = answered.and_then(|answered| answered.map_err(explain));
        Called { outcome, usage, call }
    }

    fn assign(&mut self, cancel: &Cancel) {
        self.cancel.guest_ended();
        self.cancel = cancel.clone();
        cancel.guest_started(self.machine.killer());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.cancel.guest_ended();
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
        Broken::Wire(error) => from_wire(error, death),
        Broken::Rubbish(error) => GuestFault::Rubbish(error),
        Broken::WrongId(id) => GuestFault::WrongId { id },
    };
    fault.into()
}

/// What a broken stream says about the guest behind it.
pub(crate) fn from_wire(error: WireError, death: impl FnOnce() -> Option<EndCause>) -> GuestFault {
    match error {
        WireError::HungUp => GuestFault::HungUp(death()),
        WireError::MidFrame => GuestFault::MidFrame(death()),
        WireError::Frame(error) => GuestFault::TooLong(error),
        WireError::Flood => GuestFault::Flood,
        WireError::TimedOut => GuestFault::Stream(std::io::ErrorKind::TimedOut.into()),
        WireError::Io(error) => GuestFault::Stream(error),
    }
}
