//! What a guest may ask of the host while it works: methods under `host/`.
//!
//! The runtime serves `host/log` itself. Everything else goes to a [`HostServices`], which the
//! broker implements; without one every such request is refused.

use crate::cancel::Cancel;
use crate::exchange::Exchange;
use crate::id::CallId;
use crate::trace::{Reach, Trace};
use osvm_policy::Resolved;
use osvm_protocol::code;
use osvm_protocol::message::RpcError;
use osvm_vmm::clean;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::net::TcpStream;
use std::time::Instant;
use tracing::Level;

/// Lines one call may write to the log of the host.
const MAX_LINES: u32 = 1000;

/// Longest line, in bytes.
const MAX_LINE: usize = 1024;

/// Serves requests of guests.
pub trait HostServices: fmt::Debug + Send + Sync {
    /// Answers one request; the guest waits meanwhile.
    ///
    /// The request is the guest's, so nothing in it is to be trusted. An answer over the frame
    /// limit reaches the guest as an error.
    ///
    /// # Errors
    ///
    /// What the guest is told.
    fn serve(&self, request: &HostRequest<'_>) -> Result<Box<RawValue>, RpcError>;

    /// Opens a connection for a guest that speaks for itself, TLS for example. Who copies its bytes
    /// notes it when it ends, as a [`Reach::Http`] with method `CONNECT`; a refusal is noted here.
    ///
    /// # Errors
    ///
    /// What the guest is told.
    fn connect(
        &self,
        request: &HostRequest<'_>,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, RpcError> {
        let _nobody_is_asked = (host, port);
        Err(denied(request))
    }

    /// The ports at which the policy lets `name` be reached, found without asking anybody for its
    /// address.
    ///
    /// # Errors
    ///
    /// What the guest is told; also when there is no such port.
    fn ports(&self, request: &HostRequest<'_>, name: &str) -> Result<Vec<u16>, RpcError> {
        let _nobody_is_asked = name;
        Err(denied(request))
    }

    /// The call is over, however it ended, and asks for nothing more. Called for every call, also
    /// for one that never asked. What was begun for it and not finished is noted in its `trace`.
    fn ended(&self, call: CallId, trace: &Trace) {
        let _nothing_was_kept_for_it = (call, trace);
    }
}

/// One request of a guest, and on whose behalf it is.
#[derive(Debug)]
pub struct HostRequest<'a> {
    /// The call.
    pub call: CallId,
    /// What the policy says about the tool that runs.
    pub policy: &'a Resolved,
    /// `host/…`.
    pub method: &'a str,
    /// The guest's parameters, unread.
    pub params: Option<&'a RawValue>,
    /// When the call ends.
    pub deadline: Instant,
    /// Whether the call still wants an answer.
    pub cancel: &'a Cancel,
    /// Where what is done for the guest, or refused to it, is written down.
    pub trace: &'a Trace,
}

/// Refuses everything.
#[derive(Clone, Copy, Debug)]
pub struct NoHostServices;

impl HostServices for NoHostServices {
    fn serve(&self, request: &HostRequest<'_>) -> Result<Box<RawValue>, RpcError> {
        Err(denied(request))
    }
}

/// Refuses a request, and notes that.
fn denied(request: &HostRequest<'_>) -> RpcError {
    let method = clean(request.method.as_bytes(), MAX_LINE);
    let message = format!("`{method}` is not granted to this call");
    request.trace.note(Reach::Other { method, refused: message.clone() });
    RpcError::new(code::HOST_METHOD_DENIED, message)
}

/// The lines that one guest writes to the host's log, counted.
#[derive(Debug, Default)]
pub(crate) struct GuestLog {
    lines: u32,
}

/// A line that may be shown.
struct Taken {
    level: Level,
    message: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    level: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
}

impl GuestLog {
    /// Takes the parameters of one `host/log`.
    pub(crate) fn write(
        &mut self,
        params: Option<&RawValue>,
        exchange: &Exchange<'_>,
    ) -> Result<Box<RawValue>, RpcError> {
        let taken = self.take(params)?;
        let Some(Taken { level, message }) = taken else { return Ok(RawValue::NULL.to_owned()) };
        let (server, tool) = (&exchange.policy.server, &exchange.policy.tool);
        let cid = exchange.cid;
        match level {
            Level::WARN => {
                tracing::warn!(target: "osvm::guest", server, tool, cid, "{message}");
            }
            Level::DEBUG => {
                tracing::debug!(target: "osvm::guest", server, tool, cid, "{message}");
            }
            _ => tracing::info!(target: "osvm::guest", server, tool, cid, "{message}"),
        }
        Ok(RawValue::NULL.to_owned())
    }

    /// The line, unless there have been too many.
    fn take(&mut self, params: Option<&RawValue>) -> Result<Option<Taken>, RpcError> {
        let line = params.and_then(|params| serde_json::from_str::<Line<'_>>(params.get()).ok());
        let Some(line) = line else {
            let message = "`host/log` takes {\"level\", \"message\"}";
            return Err(RpcError::new(code::INVALID_PARAMS, message));
        };
        self.lines = self.lines.saturating_add(1);
        if self.lines > MAX_LINES {
            if self.lines == MAX_LINES + 1 {
                tracing::warn!("the guest logs more than {MAX_LINES} lines: the rest is dropped");
            }
            return Ok(None);
        }
        let message = cut(&line.message);
        // What a guest calls an error is no error of osvm's.
        let level = match &*line.level {
            "error" | "warn" | "warning" => Level::WARN,
            "debug" | "trace" => Level::DEBUG,
            _ => Level::INFO,
        };
        Ok(Some(Taken { level, message }))
    }
}

/// The beginning of a text, on one line and safe to print.
fn cut(text: &str) -> String {
    let beginning = text.floor_char_boundary(MAX_LINE);
    let mut line = clean(text.get(..beginning).unwrap_or_default().as_bytes(), MAX_LINE);
    // What stands for a control character is longer than it.
    line.truncate(line.floor_char_boundary(MAX_LINE));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(log: &mut GuestLog, params: &str) -> Result<Option<String>, i64> {
        let params = RawValue::from_string(params.into()).unwrap();
        let taken = log.take(Some(&params));
        taken.map(|line| line.map(|line| line.message)).map_err(|error| error.code)
    }

    #[test]
    fn a_line_is_taken_and_rubbish_is_refused() {
        let mut log = GuestLog::default();
        let line = take(&mut log, r#"{"level":"info","message":"hi"}"#);
        assert_eq!(line, Ok(Some("hi".into())));
        assert_eq!(take(&mut log, "[1]"), Err(code::INVALID_PARAMS));
        assert!(log.take(None).is_err_and(|error| error.code == code::INVALID_PARAMS));
    }

    #[test]
    fn lines_are_counted_and_the_rest_is_dropped() {
        let mut log = GuestLog { lines: u32::MAX };
        assert_eq!(take(&mut log, r#"{"message":"x"}"#), Ok(None));
        assert_eq!(log.lines, u32::MAX);
    }

    #[test]
    fn a_line_can_neither_be_long_nor_act_on_a_terminal() {
        for text in [format!("\x1b[2J{}", "ä".repeat(2000)), "\x07\n".repeat(600)] {
            let cut = cut(&text);
            assert!(cut.len() <= MAX_LINE, "{}", cut.len());
            assert!(!cut.contains(char::is_control));
        }
    }
}
