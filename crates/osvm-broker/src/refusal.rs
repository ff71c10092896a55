//! Why the broker did not do what a guest asked for.
//!
//! One enum for all of it, because all of it ends at the same place: in the error a guest is told
//! and in the receipt. No message holds a header's value, a query or a body.

use osvm_protocol::code;
use osvm_protocol::message::RpcError;
use serde::Serialize;
use serde_json::value::to_raw_value;
use std::net::IpAddr;
use std::time::Duration;
use thiserror::Error;

/// Why a request of a guest was refused, or what it failed of.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The config does not enable the network for the tool.
    #[error("`{host}` is out of reach: the network is not enabled for `{server}/{tool}`")]
    NetworkOff {
        /// Whom the guest asked for.
        host: String,
        /// The MCP server.
        server: String,
        /// The tool.
        tool: String,
    },

    /// No egress rule allows the request.
    #[error("no egress rule allows {method} `{host}:{port}{path}`: {nearest}")]
    NoRule {
        /// The method.
        method: String,
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The path of the URL; empty for a connection without HTTP.
        path: String,
        /// Which rule comes nearest, and what it lacks.
        nearest: String,
        /// The rule that would allow it.
        rule: String,
    },

    /// The host is, or its name means, an address that no public service has.
    #[error("`{host}` is out of reach: {address} is {kind}")]
    Address {
        /// The host.
        host: String,
        /// What it resolved to.
        address: IpAddr,
        /// What kind of address that is.
        kind: &'static str,
    },

    /// The rule's requests of this minute are used up.
    #[error("the egress rule for `{host}` allows {per_minute} requests per minute")]
    Rate {
        /// The host.
        host: String,
        /// The limit.
        per_minute: u32,
        /// When one is left again, in milliseconds.
        retry_after_ms: u64,
    },

    /// A body or a file is longer than may be.
    #[error("the {what} is longer than {max} bytes")]
    TooLong {
        /// What is.
        what: &'static str,
        /// The limit.
        max: u64,
        /// Where the limit is written, if it can be changed.
        option: Option<&'static str>,
    },

    /// A secret that a rule names can't be had.
    #[error("secret `{name}` of the egress rule for `{host}` {why}")]
    Secret {
        /// Its name.
        name: String,
        /// The host of the rule.
        host: String,
        /// What is wrong with it.
        why: &'static str,
    },

    /// A redirect leads where it must not.
    #[error("the redirect of `{from}` is not followed: {why}")]
    Redirect {
        /// Who sent it.
        from: String,
        /// Why not.
        why: &'static str,
    },

    /// The server could not be reached, or did not speak HTTP.
    #[error("request to `{host}:{port}` failed: {why}")]
    Failed {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What happened.
        why: String,
    },

    /// The parameters are wrong.
    #[error("{0}")]
    Params(String),

    /// The broker has no such method.
    #[error("`{0}` is not granted to this call")]
    Method(String),

    /// No body goes on under this number.
    #[error("there is no stream {0}")]
    NoStream(u64),

    /// More at once than one call may have.
    #[error("a call has at most {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },

    /// A path that no mount covers, or a mount that exposes what it must not.
    #[error("`{path}` is out of reach: {why}")]
    File {
        /// What the guest asked for.
        path: String,
        /// Why not.
        why: String,
    },

    /// The host's file system says no.
    #[error("cannot {op} `{path}`: {why}")]
    FileFailed {
        /// What was tried.
        op: &'static str,
        /// The guest's path.
        path: String,
        /// What the system answered.
        why: String,
    },

    /// The time ran out.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),

    /// Nobody waits for the answer any more.
    #[error("the call was cancelled")]
    Cancelled,

    /// The broker itself can't work.
    #[error("the broker cannot work: {0}")]
    Broken(String),
}

#[derive(Serialize)]
struct Data<'a> {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

impl Refusal {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NetworkOff { server, .. } => Some(format!(
                "set `\"network_enabled\": true` and list what it may reach in `egress`, in the \
                 isolation config's entry for `{server}`"
            )),
            Self::NoRule { rule, .. } => Some(format!("to allow it, add to `egress`: {rule}")),
            Self::Address { host, address, .. } if *host != address.to_string() => {
                Some(format!("to allow it, add a rule for host `{address}` and ask for that"))
            }
            Self::Address { address, .. } => {
                Some(format!("to allow it, add a rule whose `host` is \"{address}\""))
            }
            Self::Rate { .. } => Some("raise `rate_per_minute` of the rule".into()),
            Self::TooLong { option, .. } => option.map(|option| format!("raise `{option}`")),
            Self::Secret { name, .. } => Some(format!("set it with `osvm secret set {name}`")),
            Self::Redirect { .. } | Self::Failed { .. } | Self::Params(_) | Self::Method(_) => None,
            Self::NoStream(_) | Self::TooMany { .. } | Self::FileFailed { .. } => None,
            Self::File { .. } => Some("see `mounts` in the isolation config".into()),
            Self::TimedOut(_) => Some("raise `timeout_secs`".into()),
            Self::Cancelled | Self::Broken(_) => None,
        }
    }

    /// The error code of the wire.
    pub fn code(&self) -> i64 {
        match self {
            Self::NetworkOff { .. } => code::NETWORK_NOT_GRANTED,
            Self::NoRule { .. } | Self::Address { .. } | Self::Redirect { .. } => {
                code::EGRESS_DENIED
            }
            Self::Rate { .. } | Self::TooMany { .. } => code::LIMIT_REACHED,
            Self::TooLong { .. } => code::TOO_LONG,
            Self::Secret { .. } => code::SECRET_MISSING,
            Self::Failed { .. } => code::REQUEST_FAILED,
            Self::Params(_) | Self::NoStream(_) => code::INVALID_PARAMS,
            Self::Method(_) => code::HOST_METHOD_DENIED,
            Self::File { .. } => code::FILE_DENIED,
            Self::FileFailed { .. } => code::FILE_FAILED,
            Self::TimedOut(_) | Self::Cancelled => code::TIMED_OUT,
            Self::Broken(_) => code::INTERNAL_ERROR,
        }
    }

    /// One word for programs.
    fn reason(&self) -> &'static str {
        match self {
            Self::NetworkOff { .. } => "network_off",
            Self::NoRule { .. } => "no_rule",
            Self::Address { .. } => "address",
            Self::Rate { .. } => "rate",
            Self::TooLong { .. } => "too_long",
            Self::Secret { .. } => "secret",
            Self::Redirect { .. } => "redirect",
            Self::Failed { .. } => "failed",
            Self::Params(_) => "params",
            Self::Method(_) => "method",
            Self::NoStream(_) => "no_stream",
            Self::TooMany { .. } => "too_many",
            Self::File { .. } => "file",
            Self::FileFailed { .. } => "file_failed",
            Self::TimedOut(_) => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Broken(_) => "broken",
        }
    }

    fn host(&self) -> Option<&str> {
        match self {
            Self::NetworkOff { host, .. }
            | Self::NoRule { host, .. }
            | Self::Address { host, .. }
            | Self::Rate { host, .. }
            | Self::Secret { host, .. }
            | Self::Redirect { from: host, .. }
            | Self::Failed { host, .. } => Some(host),
            _ => None,
        }
    }

    /// What the guest is told.
    pub fn to_rpc(&self) -> RpcError {
        let retry_after_ms = match self {
            Self::Rate { retry_after_ms, .. } => Some(*retry_after_ms),
            _ => None,
        };
        let (hint, host) = (self.hint(), self.host());
        let data = Data { reason: self.reason(), hint, retry_after_ms, host };
        RpcError { data: to_raw_value(&data).ok(), ..RpcError::new(self.code(), self.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_the_host_the_reason_and_the_way_out() {
        let refusal = Refusal::NetworkOff {
            host: "example.com".into(),
            server: "solana".into(),
            tool: "get_slot".into(),
        };
        let error = refusal.to_rpc();
        assert_eq!(error.code, code::NETWORK_NOT_GRANTED);
        assert!(error.message.contains("`example.com`"), "{error}");
        let data = error.data.unwrap();
        assert!(data.get().contains(r#""reason":"network_off""#), "{data}");
        assert!(data.get().contains("network_enabled"), "{data}");
    }
}
