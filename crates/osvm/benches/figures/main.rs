//! Measures osvm: `cargo xtask bench`, which builds the guests and osvm first.
//!
//! ```text
//! calls   the whole program, from exec to exit, and what it says about itself
//! qemu    the same on QEMU, beside a QEMU that boots and exits
//! shares  one call step by step: the host's steps and the guest's
//! guest   instructions and exits from the first instruction to the first answer, counted by KVM
//! memory  what a VM process takes besides the guest's own pages
//! size    image and executor
//! cids    100 CIDs taken and given back
//! pool    a daemon with ready VMs: latency; `pool-rate`: throughput; `pool-crowd`: many VMs at once
//! agent   what the agent adds to a call, and how long `osvm` takes to its prompt
//! gateway what `osvm mcp serve` adds to a call, 1,000 tools listed, memory of a large result
//! microvm Linux microVMs: cold start, clones, pool; `microvm-persistent`: a server that lives on
//! broker  what the broker adds to an HTTP request, and what a receipt costs
//! soak    10,000 calls while VMs are killed and clients hang up; only when asked for
//! ```
//!
//! # Invariants
//!
//! - Prints, and never asserts: a busy machine is no bug.
//! - Works in a home directory of its own; the user's config, store and logs are not touched.
//! - A figure that can't be had is left out with its reason, not guessed.
//!
//! `OSVM` names the `osvm` to measure; by default it is the one beside this program. With `--json`
//! each figure is one line of JSON. A word chooses the groups whose name begins with it.

mod agent;
mod broker;
mod calls;
mod cids;
mod daemon;
mod figure;
mod gateway;
mod guest;
mod host;
mod microvm;
mod pool;
mod qemu;
mod soak;

use anyhow::{Context, Result};
use figure::Figure;
use host::Host;
use std::io::{self, Write};
use std::process::ExitCode;

/// A group of figures, measured together.
type Group = (&'static str, fn(&Host) -> Result<Vec<Figure>>);

const GROUPS: &[Group] = &[
    ("calls", calls::measure),
    ("qemu", qemu::measure),
    ("shares", guest::shares),
    ("guest", guest::counts),
    ("memory", guest::memory),
    ("size", host::sizes),
    ("cids", cids::measure),
    ("pool", pool::latencies),
    ("pool-rate", pool::rates),
    ("pool-crowd", pool::crowds),
    ("gateway", gateway::measure),
    ("agent", agent::measure),
    ("broker", broker::measure),
    (MICROVM, microvm::measure),
    (MICROVM_LIFE, microvm::persistent),
    (SOAK, soak::measure),
];

/// The groups that take minutes, measured only when they are asked for.
const SOAK: &str = "soak";
const MICROVM: &str = "microvm";
const MICROVM_LIFE: &str = "microvm-persistent";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    // Cargo adds `--bench`.
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let host = Host::new().context("cannot prepare the measurements")?;
    let mut figures = Vec::new();
    for (name, measure) in GROUPS {
        let asked = wanted.iter().any(|word| name.starts_with(word));
        if !asked && (!wanted.is_empty() || [SOAK, MICROVM, MICROVM_LIFE].contains(name)) {
            continue;
        }
        match measure(&host) {
            Ok(found) => figures.extend(found),
            // Whoever asks for a soak wants to know whether it held.
            Err(error) if *name == SOAK => return Err(error.context("the soak did not hold")),
            Err(error) => {
                let _ = writeln!(io::stderr(), "{name}: not measured: {error:#}");
            }
        }
    }
    let text = if json { figure::json(&figures)? } else { figure::table(&figures) };
    // Whoever stopped reading wants no more of it.
    let _ = writeln!(io::stdout().lock(), "{text}");
    Ok(())
}
