//! The agent's program and its image: what µVM-1 boots.
//!
//! ```text
//! crates/osvm-agent ─▶ target/guest/osvm-agent ─▶ image `osvm-agent` in ~/.osvm/images
//! ```

use crate::project::Project;
use crate::toolchain::LINUX;
use crate::{guest, printer, process};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The program, and the image it is in.
const NAME: &str = "osvm-agent";

/// Memory of µVM-1, in MiB: a long conversation, and results of 10 MiB on their way.
const MEMORY_MIB: &str = "192";

/// Builds the program, static, and returns where it is: the tests look there.
pub(crate) fn build(project: &Project) -> Result<PathBuf> {
    printer::step("building the agent");
    let mut cargo = process::cargo(&project.root);
    cargo.args(["build", "--release", "--locked", "--package", NAME, "--bin", NAME]);
    cargo.args(["--target", LINUX]).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.args(["--config", &format!("target.{LINUX}.rustflags=[\"-Cstrip=symbols\"]")]);
    process::run(&mut cargo)?;
    let built = project.target.join(LINUX).join("release").join(NAME);
    let program = project.images().join(NAME);
    guest::copy_if_changed(&built, &program)?;
    Ok(program)
}

/// Puts the image into the user's store, if this host can make one.
pub(crate) fn install(project: &Project) -> Result<()> {
    let program = build(project)?;
    if !process::succeeds(Command::new("which").arg("mkfs.erofs")) {
        printer::note("no image of the agent: it needs `sudo apt-get install erofs-utils`");
        return Ok(());
    }
    let root = project.target.join("guest-agent");
    if root.exists() {
        fs::remove_dir_all(&root).context("cannot remove the agent's last root")?;
    }
    guest::copy_if_changed(&program, &root.join("bin").join(NAME))?;
    let mut osvm = Command::new(project.release("osvm"));
    osvm.args(["image", "build", NAME, "--command", "/bin/osvm-agent", "--memory", MEMORY_MIB]);
    process::run(osvm.arg("--rootfs").arg(&root))
}
