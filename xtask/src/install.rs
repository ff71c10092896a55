//! `cargo xtask install`: puts the guest images where osvm looks for them.

use crate::guest::{IMAGE_NAME, PROBER_NAME};
use crate::project::Project;
use crate::{agent, guest, kernel, printer, process, toolchain};
use anyhow::{Context, Result};
use osvm_image::Store;
use std::path::PathBuf;

/// `cargo xtask install`.
pub(crate) fn run(project: &Project) -> Result<()> {
    toolchain::add_targets()?;
    guest::build(project)?;
    build_osvm(project)?;
    let store = images(project)?;
    linux(project)?;
    agent::install(project)?;
    printer::result(&format!("installed {IMAGE_NAME} and {PROBER_NAME} in {}", store.display()));
    printer::result(&format!("osvm is {}", project.release("osvm").display()));
    Ok(())
}

/// Builds the release form of the programs a user runs.
pub(crate) fn build_osvm(project: &Project) -> Result<()> {
    printer::step("building osvm");
    let mut cargo = process::cargo(&project.root);
    process::run(cargo.args(["build", "--release", "--locked", "--package", "osvm", "--bins"]))
}

/// Puts what `target/guest` holds into the store and returns where that is.
pub(crate) fn images(project: &Project) -> Result<PathBuf> {
    let store = store()?;
    let image = project.images().join(guest::IMAGE.file);
    let executor = project.images().join(guest::EXECUTOR.file);
    store
        .install(IMAGE_NAME, &image, Some(&executor))
        .with_context(|| format!("cannot install `{}`", image.display()))?;
    let prober = project.images().join(guest::PROBER.file);
    store
        .install(PROBER_NAME, &prober, None)
        .with_context(|| format!("cannot install `{}`", prober.display()))?;
    Ok(store.dir().to_owned())
}

/// Puts the kernel of Linux guests, if it has been built, and their PID 1 where osvm looks for them.
pub(crate) fn linux(project: &Project) -> Result<()> {
    let kernel = kernel::built(project);
    if !kernel.exists() {
        printer::note("no kernel for Linux guests: `cargo xtask kernel` builds it");
        return Ok(());
    }
    let folder = home()?.join(".osvm/guest");
    guest::copy_if_changed(&kernel, &folder.join("vmlinux"))?;
    guest::copy_if_changed(&project.images().join(guest::INIT.file), &folder.join("osvm-init"))?;
    printer::result(&format!("installed kernel and PID 1 of Linux guests in {}", folder.display()));
    Ok(())
}

/// The user's image store.
pub(crate) fn store() -> Result<Store> {
    Ok(Store::new(home()?.join(".osvm/unikernels")))
}

fn home() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(PathBuf::from).context("`HOME` is not set")
}
