//! The other side of the socket: asking a daemon.

use crate::door::{SOCKET, is_own};
use crate::message::{Ask, CallHead, Failure, Head, Outcome, Reply, Told, VERSION};
use crate::wire::{PATIENCE, Wait, Wire, WireError};
use osvm_protocol::code;
use osvm_protocol::frame::{self, FrameError, MAX_PAYLOAD};
use osvm_protocol::message::RpcError;
use osvm_runtime::{Answer, CallId, Report};
use serde_json::value::RawValue;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;

/// A connection to a daemon. One question at a time.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
}

/// Hangs up, from any thread: the call that runs is cancelled.
#[derive(Clone, Debug)]
pub struct HangUp(Arc<UnixStream>);

/// How a call went.
#[derive(Debug)]
pub struct CallReply {
    /// The call.
    pub call: CallId,
    /// The tool's result, or why there is none.
    pub outcome: Result<Box<RawValue>, Trouble>,
    /// How it ran: the JSON of an [`osvm_runtime::Isolation`].
    pub isolation: Box<RawValue>,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum Trouble {
    /// The tool says so.
    Tool(RpcError),
    /// osvm could not get one.
    Osvm(Failure),
}

/// The daemon gave no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is none.
    #[error("no daemon answers at `{}`", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// Somebody else is on the other side.
    #[error("the daemon at `{}` belongs to another user", path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
    },
    /// It did nothing, and says why.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The connection ended, and with it the call.
    #[error("the connection to the daemon failed")]
    Wire(#[from] WireError),
    /// It answered what can't be understood.
    #[error("the daemon's answer cannot be read: {reason}")]
    Rubbish {
        /// What is wrong with it.
        reason: String,
    },
}

impl Client {
    /// Connects to the daemon of a runtime directory.
    ///
    /// # Errors
    ///
    /// [`ClientError::Absent`] when there is none.
    pub fn connect(dir: &Path) -> Result<Self, ClientError> {
        let path = dir.join(SOCKET);
        match UnixStream::connect(&path) {
            Ok(stream) if is_own(&stream) => Ok(Self { wire: Wire::new(Arc::new(stream)) }),
            Ok(_) => Err(ClientError::Foreign { path }),
            Err(source) => Err(ClientError::Absent { path, source }),
        }
    }

    /// What ends the call that runs.
    pub fn hang_up(&self) -> HangUp {
        HangUp(self.wire.stream())
    }

    /// Calls a tool, and waits for as long as the daemon lets it run.
    ///
    /// # Errors
    ///
    /// [`ClientError`] when nothing is known of a call. [`ClientError::Refused`] means that there
    /// was none.
    pub fn call(&mut self, head: CallHead, arguments: &RawValue) -> Result<CallReply, ClientError> {
        let arguments = frame::encode(arguments.get().as_bytes()).map_err(WireError::from)?;
        match self.ask(Ask::Call(head), &arguments, Wait::Idle)? {
            Reply::Call(told) => self.told(*told),
            reply => Err(unexpected(reply)),
        }
    }

    /// What the daemon holds and does: the JSON of a [`crate::DaemonStatus`].
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<Box<RawValue>, ClientError> {
        match self.ask(Ask::Status, &[], soon())? {
            Reply::Status(status) => Ok(status),
            reply => Err(unexpected(reply)),
        }
    }

    /// Ends the daemon; returns when it has hung up, which it does when this connection is the
    /// next to be closed. Calls of others may still be finishing.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn stop(mut self) -> Result<(), ClientError> {
        match self.ask(Ask::Stop, &[], soon())? {
            Reply::Stopping => {}
            reply => return Err(unexpected(reply)),
        }
        match self.wire.read(0, soon()) {
            Err(WireError::HungUp) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(ClientError::Rubbish { reason: "it goes on talking".into() }),
        }
    }

    fn ask(&mut self, ask: Ask, more: &[u8], wait: Wait) -> Result<Reply, ClientError> {
        let head = serde_json::to_vec(&Head { version: VERSION, ask }).map_err(rubbish)?;
        let mut bytes = frame::encode(&head).map_err(WireError::from)?;
        bytes.extend_from_slice(more);
        // A daemon that turns a client away may have hung up already; what it says comes first.
        let written = self.wire.write(&bytes, || {}).map_err(WireError::from);
        let reply = self.frame(wait);
        let reply = match (written, reply) {
            (Err(error), Err(_)) => return Err(error.into()),
            (_, reply) => reply?,
        };
        match serde_json::from_slice(&reply).map_err(rubbish)? {
            Reply::Refused(failure) => Err(ClientError::Refused(failure)),
            reply => Ok(reply),
        }
    }

    fn told(&mut self, told: Told) -> Result<CallReply, ClientError> {
        let Told { call, outcome, isolation } = told;
        let outcome = match outcome {
            Outcome::Result => {
                let result = self.frame(soon())?;
                Ok(serde_json::from_slice(&result).map_err(rubbish)?)
            }
            Outcome::ToolError(error) => Err(Trouble::Tool(error)),
            Outcome::Failed(failure) => Err(Trouble::Osvm(failure)),
        };
        Ok(CallReply { call, outcome, isolation })
    }

    fn frame(&mut self, wait: Wait) -> Result<Vec<u8>, WireError> {
        let frame = self.wire.read(MAX_PAYLOAD as usize, wait)?;
        Ok(frame.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?)
    }
}

impl From<Report> for CallReply {
    /// A call of this process, told as a daemon tells its own.
    fn from(report: Report) -> Self {
        let Report { call, outcome, isolation } = report;
        // Plain numbers and words always serialise, so `null` is never written in practice.
        let isolation = serde_json::value::to_raw_value(&isolation);
        let isolation = isolation.unwrap_or_else(|_| RawValue::NULL.to_owned());
        let outcome = match outcome {
            Ok(Answer::Result(result) | Answer::Mcp(result)) => Ok(result),
            Ok(Answer::ToolError(error)) => Err(Trouble::Tool(error)),
            Ok(Answer::McpError(error)) => Err(Trouble::Tool(mcp_error(&error))),
            Err(error) => Err(Trouble::Osvm(Failure::from(&error))),
        };
        Self { call, outcome, isolation }
    }
}

/// A server's error object, as far as it is one.
fn mcp_error(error: &RawValue) -> RpcError {
    serde_json::from_str(error.get()).unwrap_or_else(|_| {
        let message = "the server answered with an error that cannot be read";
        RpcError::new(code::INTERNAL_ERROR, message)
    })
}

impl HangUp {
    /// Hangs up. Without effect on a connection that is over.
    pub fn hang_up(&self) {
        let _over = self.0.shutdown(Shutdown::Both);
    }
}

impl ClientError {
    /// Whether the request can't have been acted on, so that it may be made in another way.
    pub fn is_harmless(&self) -> bool {
        match self {
            Self::Absent { .. } | Self::Foreign { .. } | Self::Refused(_) => true,
            Self::Wire(error) => matches!(error, WireError::Frame(FrameError::TooLong { .. })),
            Self::Rubbish { .. } => false,
        }
    }
}

fn soon() -> Wait {
    Wait::Until(Instant::now() + PATIENCE)
}

fn rubbish(error: serde_json::Error) -> ClientError {
    ClientError::Rubbish { reason: error.to_string() }
}

fn unexpected(reply: Reply) -> ClientError {
    let what = match reply {
        Reply::Call(_) => "how a call went",
        Reply::Refused(_) => "a refusal",
        Reply::Status(_) => "its status",
        Reply::Stopping => "that it ends",
    };
    ClientError::Rubbish { reason: format!("it told {what}, which was not asked") }
}
