//! What a call costs, beside the targets of the handbook and our own goals.
//!
//! The handbook's targets decide whether a check passes: they leave room for a busy machine. Our
//! goals are tighter and are shown, never judged here.

use super::Checks;
use crate::bench;
use crate::guest;
use crate::osvm::Osvm;
use crate::project::Project;
use anyhow::Result;

/// A figure by the beginning of its name, what the handbook calls it, and its target there.
const TARGETS: &[(&str, &str, f64)] = &[
    ("calls: of which boot", "boot under 300 ms", 300.0),
    ("calls: of which call", "latency of a call under 50 ms", 50.0),
    ("calls: system echo", "a whole call, from exec to exit, under 350 ms", 350.0),
    ("memory: VM process", "memory of a VM besides the guest's pages under 80 MB", 80_000.0),
    ("size: bootable image", "bootable image under 400 KB", 400.0),
    ("size: musl executor", "executor of at most 1.4 MB", 1400.0),
    ("cids:", "100 CIDs taken and given back in 100 ms", 100.0),
];

/// The groups that hold these figures.
const GROUPS: &[&str] = &["calls", "memory", "size", "cids"];

/// `scripts/benchmark-unikernel-performance.sh`.
pub(super) fn check(project: &Project, checks: &mut Checks) -> Result<()> {
    let osvm = Osvm::find(project)?;
    guest::build(project)?;
    let figures = bench::figures(project, &osvm, GROUPS)?;
    checks.group("targets");
    for (prefix, sentence, target) in TARGETS {
        checks.check(sentence, || {
            let figure = figures.iter().find(|figure| figure.name.starts_with(prefix));
            let figure = figure.ok_or_else(|| anyhow::anyhow!("it was not measured"))?;
            let seen = figure.show();
            anyhow::ensure!(figure.value <= *target, "{seen}");
            Ok(seen)
        });
    }
    Ok(())
}
