//! The Solana node of the tests: a Python environment in `target/solana` with LiteSVM in it, for
//! `xtask/solana/node.py`.
//!
//! # Invariants
//!
//! - What is installed is pinned by version and by hash (`xtask/solana/requirements.txt`).
//! - The environment is there as a whole or not at all: it is marked when it is complete.

use crate::project::Project;
use crate::{packages, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::process::Command;

/// Makes the environment, if it isn't there as the requirements say. `Err` in the inner result is
/// why it can't be had on this host.
pub(crate) fn set_up(project: &Project) -> Result<Result<(), String>> {
    let requirements = project.root.join("xtask/solana/requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read `{}`", requirements.display()))?;
    let home = project.root.join("target/solana");
    let mark = home.join("installed.txt");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(Ok(()));
    }
    if home.exists() {
        fs::remove_dir_all(&home).context("cannot remove the last Python environment")?;
    }
    if let Err(missing) = packages::python_environment(&home, &requirements)? {
        return Ok(Err(missing));
    }
    let node = project.root.join("xtask/solana/node.py");
    if !process::succeeds(Command::new(home.join("bin/python")).arg(node).args(["address", "1"])) {
        bail!("the Solana node of the tests doesn't start");
    }
    fs::write(&mark, wanted).with_context(|| format!("cannot write `{}`", mark.display()))?;
    Ok(Ok(()))
}
