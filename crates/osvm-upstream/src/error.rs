//! Why a server could not be asked.

use crate::link::LaunchError;
use std::time::Duration;

/// A request that got no answer from the server.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It can't be started or reached.
    #[error("cannot start server `{server}`")]
    Start {
        /// Its name.
        server: String,
        /// Why.
        source: LaunchError,
    },
    /// It is left alone for a while.
    #[error("server `{server}` failed {failures} times, next try in {} s", wait.as_secs_f64().ceil())]
    Open {
        /// Its name.
        server: String,
        /// How often in a row.
        failures: u32,
        /// Until then.
        wait: Duration,
    },
    /// It started, and the handshake failed.
    #[error("server `{server}` does not speak MCP: {why}")]
    Handshake {
        /// Its name.
        server: String,
        /// What it did instead.
        why: String,
    },
    /// The link ended while the request waited.
    #[error("server `{server}` was lost: {why}")]
    Gone {
        /// Its name.
        server: String,
        /// What ended it.
        why: String,
    },
    /// There was no answer in time.
    #[error("server `{server}` did not answer `{method}` in time")]
    Deadline {
        /// Its name.
        server: String,
        /// What it was asked.
        method: String,
    },
    /// Whoever asked wants no answer any more.
    #[error("the request to server `{server}` was cancelled")]
    Cancelled {
        /// Its name.
        server: String,
    },
    /// Too much waits for it already.
    #[error("server `{server}` has too many requests waiting")]
    Busy {
        /// Its name.
        server: String,
    },
    /// An HTTP server wants other credentials.
    #[error("server `{server}` refused the credentials with HTTP status {status}")]
    Unauthorized {
        /// Its name.
        server: String,
        /// 401 or 403.
        status: u16,
    },
    /// An HTTP server answered with something that is no MCP.
    #[error("server `{server}` answered with HTTP status {status}: {why}")]
    Http {
        /// Its name.
        server: String,
        /// The status.
        status: u16,
        /// The start of what it said.
        why: String,
    },
    /// MCP has no such transport, or osvm does not speak it.
    #[error("server `{server}` can't be reached over {transport}")]
    Transport {
        /// Its name.
        server: String,
        /// How it was to be reached.
        transport: &'static str,
    },
    /// osvm is about to end.
    #[error("server `{server}` has been shut down")]
    ShutDown {
        /// Its name.
        server: String,
    },
}

impl UpstreamError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Start { source, .. } => source.hint(),
            Self::Unauthorized { .. } => Some(
                "give it the header it wants, `Authorization` in most cases, from the secret store",
            ),
            Self::Transport { transport, .. } => Some(match *transport {
                "WebSocket" => {
                    "MCP has no WebSocket transport: use the server's http:// or https:// URL"
                }
                "HTTP+SSE" => {
                    "use the server's Streamable HTTP endpoint, often `/mcp` instead of `/sse`"
                }
                _ => "use a URL that begins with http:// or https://",
            }),
            Self::Open { .. }
            | Self::Handshake { .. }
            | Self::Gone { .. }
            | Self::Deadline { .. }
            | Self::Cancelled { .. }
            | Self::Busy { .. }
            | Self::Http { .. }
            | Self::ShutDown { .. } => None,
        }
    }
}

/// A URL without what may be a key in it.
pub(crate) fn shown_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}
