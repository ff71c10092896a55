//! What keeps a VM process from starting its guest, on its way to the control socket.

use crate::control::NotStarted;
use std::{fmt, io};

/// One failed step.
#[derive(Debug)]
pub(crate) struct StepFailed {
    what: &'static str,
    errno: i32,
}

impl fmt::Display for StepFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, errno } = self;
        match errno {
            0 => write!(f, "it could not {what}"),
            errno => write!(f, "it could not {what}: {}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// Names the step that failed: `open().or_fail("map guest memory")`.
pub(crate) trait OrFail<T> {
    /// Turns the host's refusal into a [`StepFailed`].
    fn or_fail(self, what: &'static str) -> Result<T, StepFailed>;
}

impl<T, E: Errno> OrFail<T> for Result<T, E> {
    fn or_fail(self, what: &'static str) -> Result<T, StepFailed> {
        self.map_err(|error| StepFailed { what, errno: error.errno() })
    }
}

/// Errors that carry the host's answer.
pub(crate) trait Errno {
    /// The number; 0 where it was not the host that refused.
    fn errno(&self) -> i32;
}

impl Errno for io::Error {
    fn errno(&self) -> i32 {
        self.raw_os_error().unwrap_or(0)
    }
}

impl Errno for rustix::io::Errno {
    fn errno(&self) -> i32 {
        self.raw_os_error()
    }
}

impl Errno for kvm_ioctls::Error {
    fn errno(&self) -> i32 {
        kvm_ioctls::Error::errno(*self)
    }
}

impl From<StepFailed> for NotStarted {
    fn from(StepFailed { what, errno }: StepFailed) -> Self {
        Self::Step { what: what.into(), errno }
    }
}
