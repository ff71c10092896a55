//! Why a call got no answer.

use crate::calls::LogError;
use crate::cids::CidError;
use crate::direct::DirectError;
use crate::gate::Refusal;
use crate::hosted::{HostedError, HostedFailure};
use crate::ledger::LedgerError;
use crate::pool::Busy;
use osvm_image::{ArgumentError, ImageError, LookupError};
use osvm_protocol::frame::FrameError;
use osvm_protocol::message::MessageError;
use osvm_vmm::{BadMemorySize, BootError, ConnectError, Death};
use std::io;
use std::time::Duration;
use thiserror::Error;

/// Why a tool gave no answer. The guest, if there was one, is gone.
#[derive(Debug, Error)]
pub enum CallError {
    /// The policy asks for what can't be given.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// There is no image to boot.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image has no such tool.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The arguments do not fit the tool.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// There is no address for the guest.
    #[error(transparent)]
    Cid(#[from] CidError),
    /// There is no room for another VM.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The call can't be logged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The guest did not boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The guest did not get ready.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Time was up.
    #[error("no answer within {} s: killed while {phase}", limit.as_secs_f64())]
    Deadline {
        /// `timeout_secs`.
        limit: Duration,
        /// What was going on.
        phase: Phase,
    },
    /// Somebody cancelled the call.
    #[error("the call was cancelled")]
    Cancelled,
    /// The guest broke the protocol.
    #[error(transparent)]
    Guest(#[from] GuestFault),
    /// The executor did not run on the host.
    #[error(transparent)]
    Direct(#[from] DirectError),
    /// A server that is no unikernel gave no answer.
    #[error(transparent)]
    Hosted(Box<HostedFailure>),
    /// A call whose record could not be kept does not start.
    #[error("no receipt of the call could be kept, so it was not started")]
    Ledger(#[source] LedgerError),
    /// The call is over, and there is no record of it.
    #[error("the call ran ({outcome}), but left no receipt: its answer is withheld")]
    NoReceipt {
        /// `result`, `tool_error`, or the word of the failure.
        outcome: String,
        /// Why.
        source: LedgerError,
    },
}

/// What was going on at the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Somebody was asked whether the call may run.
    Permit,
    /// The guest booted.
    Boot,
    /// The tool worked.
    Tool,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Permit => "it waited for its permission",
            Self::Boot => "the guest was booting",
            Self::Tool => "the tool was running",
        })
    }
}

/// What the policy asks for and osvm can't give. Never a reason to fall back: the user asked for
/// something else than a fallback gives.
#[derive(Debug, Error)]
pub enum Denial {
    /// The rules, or a person, do not let it run.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The tool of an image is to run in a microVM.
    #[error("`{server}/{tool}` is configured for mode `microvm`, but is a tool of a unikernel")]
    MicroVm {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
    },
    /// The tool of a program is to run in a unikernel, which is what happens where nobody says
    /// anything.
    #[error("`{server}/{tool}` is a tool of a program, which a unikernel cannot run")]
    NotUnikernel {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
    },
    /// No guest can have that much memory, or that little.
    #[error("`memory_mb` cannot be given")]
    Memory(#[from] BadMemorySize),
    /// The variables do not fit what the guest is told at boot.
    #[error("`env_vars` cannot be given")]
    Env(#[from] osvm_protocol::boot::BootPageError),
}

/// How a guest broke the protocol.
#[derive(Debug, Error)]
pub enum GuestFault {
    /// It ended between two frames.
    #[error("the tool executor ended without an answer")]
    HungUp(#[source] Option<EndCause>),
    /// It ended inside a frame.
    #[error("the tool executor ended in the middle of a message")]
    MidFrame(#[source] Option<EndCause>),
    /// It announced a frame over the limit.
    #[error("the tool executor announced too long a message")]
    TooLong(#[source] FrameError),
    /// It sent what is no message.
    #[error("the tool executor sent rubbish")]
    Rubbish(#[source] MessageError),
    /// It answered what was not asked.
    #[error("the tool executor answered request {id}, which was not asked")]
    WrongId {
        /// The id in the answer, cleaned and cut.
        id: String,
    },
    /// It sent more than one call may, and no answer.
    #[error("the tool executor sent messages without end and no answer")]
    Flood,
    /// It says that it is something else than what was booted.
    #[error("the tool executor says that it is `{what}`, which is not what was booted")]
    Stranger {
        /// What it said, cleaned and cut.
        what: String,
    },
    /// The host side failed.
    #[error("the stream to the tool executor failed")]
    Stream(#[source] io::Error),
}

/// How an executor ended that hung up.
#[derive(Debug, Error)]
pub enum EndCause {
    /// In a guest.
    #[error(transparent)]
    Guest(#[from] Death),
    /// As a process of the host.
    #[error("its process ended with {0}")]
    Process(std::process::ExitStatus),
}

impl CallError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Denied(denial) => denial.hint(),
            Self::Image(error) => error.hint().map(str::to_owned),
            Self::Lookup(error) => error.hint(),
            Self::Arguments(error) => error.hint(),
            Self::Cid(error) => error.hint(),
            Self::Busy(error) => error.hint(),
            Self::Log(error) => error.hint(),
            Self::Boot(error) => error.hint(),
            Self::Direct(error) => error.hint(),
            Self::Hosted(failure) => failure.hint.clone(),
            Self::Ledger(error) | Self::NoReceipt { source: error, .. } => {
                error.hint().map(str::to_owned)
            }
            Self::Deadline { .. } => {
                Some("`timeout_secs` in the isolation config is the limit of a call".into())
            }
            Self::Connect(_) | Self::Guest(_) => {
                Some("`osvm logs` shows what the guest wrote to its console".into())
            }
            Self::Cancelled => None,
        }
    }

    /// Whether isolation could not be had, so that a fallback, if configured, may run the tool.
    ///
    /// No `_` arm: a new variant must decide this to compile. Errors of the tool, of its
    /// arguments and of its guest once it runs are final; so is time that has run out.
    pub fn is_isolation_failure(&self) -> bool {
        match self {
            Self::Image(_) | Self::Boot(_) => true,
            Self::Cid(error) => match error {
                CidError::Dir(_) | CidError::Io { .. } | CidError::BadRange { .. } => true,
                CidError::AllTaken { .. } | CidError::Cancelled => false,
            },
            Self::Connect(error) => match error {
                ConnectError::Refused { .. } | ConnectError::Died(_) | ConnectError::Io(_) => true,
                ConnectError::Deadline { .. } => false,
            },
            Self::Hosted(failure) => failure.isolation_failure,
            Self::Denied(_)
            | Self::Lookup(_)
            | Self::Arguments(_)
            | Self::Busy(_)
            | Self::Log(_)
            | Self::Deadline { .. }
            | Self::Cancelled
            | Self::Guest(_)
            | Self::Direct(_)
            | Self::Ledger(_)
            | Self::NoReceipt { .. } => false,
        }
    }
}

impl From<HostedError> for CallError {
    fn from(error: HostedError) -> Self {
        Self::Hosted(Box::new(error.into()))
    }
}

impl Denial {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::MicroVm { .. } => Some(
                "set `execution_mode` of the tool to \"unikernel\" in the isolation config".into(),
            ),
            Self::NotUnikernel { server, .. } => {
                // A name is quoted as it stands in the file.
                let server = serde_json::Value::from(server.as_str());
                Some(format!(
                    "in the isolation config, `\"mcp_servers\": {{{server}: {{\"execution_mode\": \
                     \"microvm\"}}}}` runs it in a microVM; with \"direct\" it runs on the host, \
                     without isolation"
                ))
            }
            Self::Memory(_) => Some("64 to 256 is recommended for `memory_mb`".into()),
            Self::Env(_) => None,
        }
    }
}

/// The error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
