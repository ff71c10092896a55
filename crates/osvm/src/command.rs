//! What each command does, one module for each.

pub(crate) mod add;
pub(crate) mod agent;
pub(crate) mod ask;
mod batch;
pub(crate) mod call_tool;
pub(crate) mod client;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod doctor;
pub(crate) mod exchange;
mod git;
pub(crate) mod image;
pub(crate) mod lives;
pub(crate) mod logs;
pub(crate) mod microvm;
pub(crate) mod policy;
mod prove;
pub(crate) mod ps;
pub(crate) mod receipts;
pub(crate) mod secret;
pub(crate) mod serve;
pub(crate) mod servers;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod test;
pub(crate) mod tools;
pub(crate) mod trust;
pub(crate) mod workspace;

use crate::failure::Failure;
use std::process::ExitCode;

/// How a command ended when it could do its work.
pub(crate) type Outcome = Result<Status, Failure>;

/// How osvm ends. Scripts depend on these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It worked; the tool ran and answered.
    Success,
    /// The tool ran and reported an error. osvm did its job.
    ToolFailed,
    /// osvm could not do it, or could not read the command line.
    OsvmFailed,
    /// A signal ended it; the code is 128 and the signal's number, as shells have it.
    Interrupted(u8),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Success => Self::SUCCESS,
            Status::ToolFailed => Self::from(1),
            Status::OsvmFailed => Self::from(2),
            Status::Interrupted(code) => Self::from(code),
        }
    }
}
