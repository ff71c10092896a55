//! Requests of the host to PID 1, and the frames PID 1 sends. Decides nothing: what a request does
//! is [`crate::relay`]'s.

use crate::unique::unix_ns;
use osvm_protocol::PROTOCOL_VERSION;
use osvm_protocol::code::{INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND};
use osvm_protocol::linux::workspace;
use osvm_protocol::linux::{Exit, Health, Info, Log, Stop, Wake, Woken, method};
use osvm_protocol::message::{self, Id, Message, Request, RpcError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;
use std::borrow::Cow;
use std::time::Duration;

/// Longest line of the server's stderr that is passed on, in bytes.
const MAX_LOG: usize = 4096;

/// What the host wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Info,
    Health,
    Freeze,
    Exercise,
    Wake(Wake),
    Stop(Stop),
    WorkspaceReady,
    WorkspaceChanges,
}

/// When this guest got how far, since its kernel started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) kernel: Duration,
    pub(crate) server: Duration,
}

/// Reads a payload that is no line of the server. `Err` holds the frame that refuses it, or nothing
/// if there is nobody to refuse.
pub(crate) fn read(payload: &[u8]) -> Result<(Id<'static>, Order), Vec<u8>> {
    let refuse = |id: Option<&Id<'_>>, code, text: String| {
        message::error(id, &RpcError::new(code, text)).unwrap_or_default()
    };
    let request = match message::parse(payload) {
        Ok(Message::Request(request)) => request,
        // PID 1 asks nothing, so there is nothing to answer.
        Ok(Message::Response(_)) => return Err(Vec::new()),
        Err(error) => return Err(refuse(None, error.code(), error.to_string())),
    };
    let Some(id) = request.id.clone().map(owned) else { return Err(Vec::new()) };
    match order(&request) {
        Ok(order) => Ok((id, order)),
        Err(error) => Err(refuse(Some(&id), error.code, error.message)),
    }
}

fn order(request: &Request<'_>) -> Result<Order, RpcError> {
    Ok(match request.method.as_ref() {
        method::INFO => Order::Info,
        method::HEALTH => Order::Health,
        method::FREEZE => Order::Freeze,
        method::EXERCISE => Order::Exercise,
        method::WAKE => Order::Wake(params(request)?),
        method::STOP => Order::Stop(params(request)?),
        workspace::method::READY => Order::WorkspaceReady,
        workspace::method::CHANGES => Order::WorkspaceChanges,
        other => {
            let text = format!("PID 1 has no method `{other}`");
            return Err(RpcError::new(METHOD_NOT_FOUND, text));
        }
    })
}

fn params<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, RpcError> {
    let text = request.params.map_or("{}", |params| params.get());
    serde_json::from_str(text).map_err(|error| RpcError::new(INVALID_PARAMS, error.to_string()))
}

fn owned(id: Id<'_>) -> Id<'static> {
    match id {
        Id::Number(number) => Id::Number(number),
        Id::Text(text) => Id::Text(Cow::Owned(text.into_owned())),
    }
}

/// A successful answer.
pub(crate) fn answer(id: &Id<'_>, result: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_string(result).unwrap_or_else(|_| "null".into());
    message::result(id, &text).unwrap_or_default()
}

/// An answer that says no.
pub(crate) fn failure(id: &Id<'_>, text: impl Into<String>) -> Vec<u8> {
    message::error(Some(id), &RpcError::new(INTERNAL_ERROR, text)).unwrap_or_default()
}

pub(crate) fn info(times: Times) -> Info {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Info {
        protocol: PROTOCOL_VERSION,
        name: env!("CARGO_PKG_NAME").into(),
        build: env!("CARGO_PKG_VERSION").into(),
        kernel_ms: ms(times.kernel),
        server_ms: ms(times.server),
    }
}

pub(crate) fn health() -> Health {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Health { unix_ns: unix_ns(), available_kb: available_kb(&meminfo).unwrap_or_default() }
}

fn available_kb(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

pub(crate) fn woken(hooks: usize) -> Woken {
    Woken { unix_ns: unix_ns(), hooks: u32::try_from(hooks).unwrap_or(u32::MAX) }
}

/// A line for osvm's log.
pub(crate) fn log(level: &str, line: &[u8]) -> Vec<u8> {
    let message = String::from_utf8_lossy(line.get(..MAX_LOG).unwrap_or(line)).into_owned();
    notification(method::LOG, &Log { level: level.into(), message })
}

/// The last message of a guest.
pub(crate) fn exit(exit: &Exit) -> Vec<u8> {
    notification(method::EXIT, exit)
}

fn notification(method: &str, params: &impl Serialize) -> Vec<u8> {
    let params = to_raw_value(params).ok();
    message::notification(method, params.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_takes_what_it_is_given() {
        let text = br#"{"jsonrpc":"2.0","id":7,"method":"osvm/wake","params":{"unix_ns":5}}"#;
        let wake = Wake { entropy: None, unix_ns: Some(5) };
        assert_eq!(read(text).unwrap(), (Id::Number(7), Order::Wake(wake)));
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_a_reason() {
        let refusal = |text: &[u8]| String::from_utf8(read(text).unwrap_err()).unwrap();
        let unknown = br#"{"jsonrpc":"2.0","id":7,"method":"osvm/format"}"#;
        assert!(refusal(unknown).contains("no method `osvm/format`"));
        assert!(refusal(b"nonsense").contains("-32700"));
        let stop = br#"{"jsonrpc":"2.0","id":7,"method":"osvm/stop","params":{"grace_ms":-1}}"#;
        assert!(refusal(stop).contains("-32602"));
    }

    #[test]
    fn what_wants_no_answer_gets_none() {
        assert!(read(br#"{"jsonrpc":"2.0","method":"osvm/stop"}"#).unwrap_err().is_empty());
        assert!(read(br#"{"jsonrpc":"2.0","id":1,"result":1}"#).unwrap_err().is_empty());
    }

    #[test]
    fn a_log_line_is_cut() {
        assert!(log("info", &[b'x'; 100_000]).len() < MAX_LOG + 200);
    }

    #[test]
    fn available_memory_is_read_from_the_kernels_table() {
        assert_eq!(available_kb("MemFree: 1 kB\nMemAvailable:   29312 kB\n"), Some(29312));
        assert_eq!(available_kb(""), None);
    }
}
