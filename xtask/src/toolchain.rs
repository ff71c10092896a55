//! The Rust targets that guests are built for.

use crate::{printer, process};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// What the unikernel is built for: no operating system, soft float, no red zone.
pub(crate) const KERNEL: &str = "x86_64-unknown-none";
/// What the executor for Linux and Unikraft is built for: static, no libc of the host.
pub(crate) const LINUX: &str = "x86_64-unknown-linux-musl";

/// Adds the targets that are missing.
pub(crate) fn add_targets() -> Result<()> {
    let missing: Vec<_> = [KERNEL, LINUX].into_iter().filter(|target| !has(target)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    printer::step(&format!("adding Rust targets {}", missing.join(", ")));
    if !process::succeeds(Command::new("rustup").arg("--version")) {
        bail!(
            "the Rust targets {} are missing and there is no `rustup` to add them: see https://rustup.rs",
            missing.join(" and ")
        );
    }
    process::run(Command::new("rustup").args(["target", "add"]).args(&missing))
        .context("cannot add the targets the guests are built for")
}

/// Adds the components that the tests need. Without rustup they have to be there.
pub(crate) fn add_components() -> Result<()> {
    let has = |tool: &str| process::succeeds(Command::new("cargo").args([tool, "--version"]));
    if has("fmt") && has("clippy") {
        return Ok(());
    }
    printer::step("adding rustfmt and clippy");
    process::run(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))
}

/// Whether the compiler in use has a standard library for `target`.
fn has(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    let directory = process::text(rustc.args(["--print", "target-libdir", "--target", target]));
    directory.is_ok_and(|path| std::path::Path::new(path.trim()).is_dir())
}
