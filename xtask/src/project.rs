//! Where things are in the repository and in the target directory.

use crate::process;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The checkout, and where cargo builds it.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory of the host workspace.
    pub(crate) target: PathBuf,
}

impl Project {
    /// Finds the checkout this program belongs to.
    pub(crate) fn find() -> Result<Self> {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = xtask.parent().context("xtask has no parent folder")?.to_owned();
        let metadata = metadata(&root)?;
        let target = metadata.get("target_directory").and_then(Value::as_str);
        let target = target.context("cargo names no target directory")?.into();
        Ok(Self { root, target })
    }

    /// The guest workspace.
    pub(crate) fn guest(&self) -> PathBuf {
        self.root.join("guest")
    }

    /// Cargo's target directory of the guest workspace. Not the host's: the two build the same
    /// crates with other flags, and would take turns waiting for one lock.
    pub(crate) fn guest_target(&self) -> PathBuf {
        self.guest().join("target")
    }

    /// Where finished images are put: one place, whatever target directory cargo was given,
    /// because the tests look there.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("target/guest")
    }

    /// The release build of a program of the host workspace.
    pub(crate) fn release(&self, program: &str) -> PathBuf {
        self.target.join("release").join(program)
    }
}

/// What cargo knows about the packages of the workspace in `directory`.
pub(crate) fn metadata(directory: &Path) -> Result<Value> {
    let mut cargo = process::cargo(directory);
    let text = process::text(cargo.args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("cannot read what `cargo metadata` wrote")
}

/// Where cargo keeps what it downloads.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    home_of("CARGO_HOME", ".cargo")
}

/// Where rustup keeps the compilers.
pub(crate) fn rustup_home() -> Result<PathBuf> {
    home_of("RUSTUP_HOME", ".rustup")
}

fn home_of(variable: &str, default: &str) -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let found = set(variable).or_else(|| set("HOME").map(|home| home.join(default)));
    found.with_context(|| format!("neither `{variable}` nor `HOME` is set"))
}
