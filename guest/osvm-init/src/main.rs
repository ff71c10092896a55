//! PID 1 of a Linux guest: prepares the machine, starts one MCP server, carries its lines.
//!
//! ```text
//! kernel ──▶ osvm-init (PID 1) ── /osvm.json: what to start
//!               │ mounts, loopback, switch root
//!               │ workspace: files of the host, if there are some
//!               ├──▶ osvm-init launch ──exec──▶ server, own user, no new privileges
//!               └──▶ relay: stream ◀──▶ stdin, stdout, stderr; requests of the host; net
//! ```
//!
//! # Invariants
//!
//! - When the server ends, the host is told why, and the machine stops. PID 1 never ends first: if
//!   it can't go on it says so on the console, in the form the host looks for, and stops the machine.
//! - The host is trusted, the server is not: what it writes is bounded and never parsed.
//!
//! # Not here
//!
//! - What crosses the stream: `osvm_protocol::linux`.

mod buffers;
mod channel;
mod control;
mod ending;
mod launch;
mod loopback;
mod mounts;
mod net;
mod orders;
mod random;
mod relay;
mod server;
mod unique;
mod workspace;

use channel::Stream;
use rustix::system::{RebootCommand, reboot};
use std::fmt::Display;
use std::process::ExitCode;

/// The word that makes this program a launcher: see [`launch`].
const LAUNCH: &str = "launch";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == LAUNCH) {
        return launch::main(args);
    }
    if std::process::id() != 1 {
        say("osvm-init is the first process of a Linux guest, and nothing else\n");
        return ExitCode::from(2);
    }
    match run() {
        Ok(()) => {}
        // The host looks for these words.
        Err(error) => say(&format!("osvm-guest: panic: {error}\n")),
    }
    stop_machine()
}

fn run() -> Result<(), Error> {
    let started = mounts::uptime();
    mounts::early()?;
    let orders = orders::read()?;
    mounts::switch_root(&orders)?;
    loopback::bring_up().map_err(Error::during("bring up the loopback interface"))?;
    if let Some(entropy) = orders.entropy {
        random::reseed(entropy).map_err(Error::during("give the kernel randomness"))?;
    }
    unique::set_back(orders.clock_behind_secs)?;
    let stream = Stream::open(orders.channel)?;
    let hooks = unique::Hooks::new(orders.hooks)?;
    let net = orders.network.then(net::Net::new).transpose()?;
    let mut workspace = workspace::Workspace::new(&orders.places, orders.uid)?;
    if let Some(first) = workspace.as_mut().filter(|workspace| workspace.is_first()) {
        first.fill_first(&stream)?;
    }
    let server = server::start(&orders, hooks.env())?;
    let times = control::Times { kernel: started, server: mounts::uptime() };
    relay::Relay::new(stream, server, hooks, (net, workspace), times).run()
}

/// Without ACPI a machine is stopped by resetting it: the host takes that for the end.
fn stop_machine() -> ExitCode {
    rustix::fs::sync();
    let _refused = reboot(RebootCommand::Restart);
    ExitCode::FAILURE
}

/// Writes to the console.
fn say(text: &str) {
    // Nobody is left to tell if this fails.
    let _written = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
}

/// Why PID 1 can't go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {why}")]
struct Error {
    what: String,
    why: String,
}

impl Error {
    fn new(what: impl Into<String>, why: impl Display) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }

    /// For `map_err`.
    fn during<E: Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |why| Self::new(what, why)
    }
}
