//! What osvm and PID 1 of a Linux guest say to each other, on the stream that the server's own
//! messages share.
//!
//! ```text
//! frame( {"mcp": ──── one line of the server ──── } )      both ways, see [`line`] and [`wrap`]
//! frame( JSON-RPC request osvm/… or its answer )           host asks, guest answers
//! frame( JSON-RPC notification host/… )                    guest says
//! frame( JSON-RPC request host/… or its answer )           guest asks, host answers; see [`net`]
//! frame( 02 … )                                            files, both ways; see [`workspace`]
//! ```
//!
//! # Invariants
//!
//! - The envelope of a line is these exact bytes and nothing else, so neither side parses a line to
//!   pass it on, and no line can pass for a message of PID 1.
//!
//! # Not here
//!
//! - What the lines mean. They are MCP, and go through unread.

pub mod net;
pub mod workspace;

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Name of the file in the initial RAM disk that holds the [`Orders`].
pub const ORDERS: &str = "osvm.json";

/// Name of the virtio-serial port that carries the stream.
pub const SERIAL_PORT: &str = "osvm";

/// First bytes of the payload that holds a line of the server.
pub const PREFIX: &[u8] = b"{\"mcp\":";

/// Last byte of the payload that holds a line of the server.
pub const SUFFIX: &[u8] = b"}";

/// Longest line that fits a frame, in bytes.
pub const MAX_LINE: usize = crate::frame::MAX_PAYLOAD as usize - PREFIX.len() - SUFFIX.len();

/// Requests of the host.
pub mod method {
    /// What runs in the guest: [`super::Info`].
    pub const INFO: &str = "osvm/info";
    /// Whether PID 1 and the server live: [`super::Health`].
    pub const HEALTH: &str = "osvm/health";
    /// Stops every process but PID 1 until [`WAKE`], so that nothing runs in a copy of the guest
    /// before the copy is unique.
    pub const FREEZE: &str = "osvm/freeze";
    /// Has programs with hooks run what a first request may have to wait for: nothing that anybody
    /// sees, and nothing that a server says or hears.
    pub const EXERCISE: &str = "osvm/exercise";
    /// Makes a copy of a guest unique and lets its processes go on: [`super::Wake`].
    pub const WAKE: &str = "osvm/wake";
    /// Ends the server, [`super::Stop`]: its stdin is closed, then SIGTERM, then SIGKILL.
    pub const STOP: &str = "osvm/stop";
    /// Notification of the guest: a line for osvm's log, [`super::Log`].
    pub const LOG: &str = "host/log";
    /// Notification of the guest, its last: the server has ended, [`super::Exit`].
    pub const EXIT: &str = "host/exit";
}

/// How the stream reaches the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// The virtio-serial port called [`SERIAL_PORT`].
    VirtioSerial,
    /// vsock, [`crate::PORT`]; the host connects. A copy of a guest has lost the connection of its
    /// original, and takes the next one.
    Vsock,
}

/// All that PID 1 is told before it starts anything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Orders {
    /// [`crate::PROTOCOL_VERSION`] of the host.
    pub protocol: u32,
    /// Where the stream comes from.
    pub channel: Channel,
    /// The program, an absolute path or a name that is looked for in `PATH` of `env`.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its whole environment, in the order given.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: String,
    /// Its user and group, never 0.
    pub uid: u32,
    /// Folders that are made if they are missing and given to the user.
    #[serde(default)]
    pub own: Vec<String>,
    /// Most bytes its files may take, in MiB. They are kept in guest memory.
    pub writable_mib: u32,
    /// Most processes and threads it may have.
    pub max_processes: u32,
    /// Randomness for the kernel to begin with: there may be no other source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<[u8; 32]>,
    /// How far the clock is set back before anything is started, in seconds.
    #[serde(default)]
    pub clock_behind_secs: u32,
    /// Whether generators of random numbers in Node and Python learn of [`method::WAKE`]: the guest
    /// will be copied.
    #[serde(default)]
    pub hooks: bool,
    /// Whether there is a way out, through the host: a proxy, a resolver, and variables that tell
    /// programs of them.
    #[serde(default)]
    pub network: bool,
    /// Where files of the host are to be, by number; [`workspace::MAX_PLACES`] at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<workspace::Place>,
}

/// Answer to [`method::INFO`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Info {
    /// [`crate::PROTOCOL_VERSION`] of the guest.
    pub protocol: u32,
    /// `osvm-init`.
    pub name: String,
    /// Its version.
    pub build: String,
    /// Milliseconds from the start of the kernel to the first instruction of PID 1.
    pub kernel_ms: u64,
    /// Milliseconds from the start of the kernel to the start of the server.
    pub server_ms: u64,
}

/// Answer to [`method::HEALTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Health {
    /// The guest's wall clock, in nanoseconds since 1970.
    pub unix_ns: u64,
    /// Memory that programs can still have, in KiB.
    pub available_kb: u64,
}

/// Parameters of [`method::WAKE`]. Everything is done in the order of the members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Wake {
    /// Fresh randomness for the kernel, which then takes a new key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<[u8; 32]>,
    /// What the wall clock is set to, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_ns: Option<u64>,
}

/// Answer to [`method::WAKE`]; processes run again and those with hooks have done their part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Woken {
    /// The guest's wall clock, in nanoseconds since 1970.
    pub unix_ns: u64,
    /// Processes and threads that had generators of their own and have seeded them anew.
    pub hooks: u32,
}

/// Parameters of [`method::STOP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Stop {
    /// Milliseconds between closing stdin and SIGTERM, and again to SIGKILL.
    pub grace_ms: u32,
}

/// Parameters of [`method::LOG`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Log {
    /// `info` for what the server writes to stderr, `warning` and `error` for PID 1's own.
    pub level: String,
    /// One line.
    pub message: String,
}

/// Parameters of [`method::EXIT`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Exit {
    /// What happened, in words.
    pub reason: String,
    /// The exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel ended it because the guest's memory was full.
    #[serde(default)]
    pub out_of_memory: bool,
}

/// The server's line in `payload`; `None` when it is a message of PID 1 or for it.
pub fn line(payload: &[u8]) -> Option<&[u8]> {
    payload.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)
}

/// The frame that carries `line`.
///
/// # Errors
///
/// [`crate::frame::FrameError::TooLong`] for more than [`MAX_LINE`] bytes.
pub fn wrap(line: &[u8]) -> Result<Vec<u8>, crate::frame::FrameError> {
    let len = line.len().saturating_add(PREFIX.len()).saturating_add(SUFFIX.len());
    let mut frame = crate::frame::Builder::with_capacity(len);
    frame.push(PREFIX);
    frame.push(line);
    frame.push(SUFFIX);
    frame.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_cannot_pass_for_a_message_of_pid_1() {
        let forged = br#"1},"jsonrpc":"2.0","method":"host/exit","x":{"#;
        let frame = wrap(forged).unwrap();
        let payload = crate::frame::split(&frame).unwrap().unwrap().payload;
        assert_eq!(line(payload), Some(forged.as_slice()));
    }

    #[test]
    fn the_longest_line_fits_and_one_more_byte_does_not() {
        assert!(wrap(&alloc::vec![b'1'; MAX_LINE]).is_ok());
        assert!(wrap(&alloc::vec![b'1'; MAX_LINE + 1]).is_err());
    }

    #[test]
    fn a_message_of_pid_1_is_no_line() {
        assert_eq!(line(br#"{"jsonrpc":"2.0","id":1,"result":null}"#), None);
        assert_eq!(line(b"{\"mcp\":"), None);
    }

    proptest! {
        #[test]
        fn what_is_wrapped_comes_out(text: Vec<u8>) {
            let frame = wrap(&text).unwrap();
            let payload = crate::frame::split(&frame).unwrap().unwrap().payload;
            prop_assert_eq!(line(payload), Some(text.as_slice()));
        }
    }
}
