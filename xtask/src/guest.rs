//! Builds what runs inside a VM.
//!
//! ```text
//! guest/osvm-kernel             ─▶ target/guest/unikraft_tool_executor.img   bootable image
//! guest/hostile                 ─▶ target/guest/hostile.img                  for the tests only
//! guest/prober                  ─▶ target/guest/osvm_prober.img              for `osvm policy prove`
//! guest/unikraft_tool_executor  ─▶ target/guest/unikraft_tool_executor       static Linux program
//! guest/osvm-init               ─▶ target/guest/osvm-init                    PID 1 of Linux guests
//! ```
//!
//! # Invariants
//!
//! - The bytes depend on the sources and the compiler, not on where the checkout, cargo's home or
//!   a registry mirror is: all of them are mapped to fixed names, and the flags of the
//!   environment are not used.
//! - A file over its limit is an error, not a remark.

use crate::project::{self, Project};
use crate::toolchain::{KERNEL, LINUX};
use crate::{printer, process, toolchain};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Whether to prove that the build can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Build only.
    No,
    /// Build a second time from nothing and compare.
    Yes,
}

/// One file that a guest build makes.
#[derive(Debug)]
pub(crate) struct Artifact {
    /// Cargo package and program in the guest workspace.
    package: &'static str,
    binary: &'static str,
    features: &'static str,
    target: &'static str,
    /// Name in `target/guest`.
    pub(crate) file: &'static str,
    /// The most it may take, in bytes.
    pub(crate) limit: Option<u64>,
}

/// The name under which the isolation config knows the image.
pub(crate) const IMAGE_NAME: &str = osvm_image::DEFAULT_IMAGE;

/// The image that tool calls run in.
pub(crate) const IMAGE: Artifact = Artifact {
    package: "osvm-kernel",
    binary: "osvm-kernel",
    features: "",
    target: KERNEL,
    file: "unikraft_tool_executor.img",
    limit: Some(400_000),
};

/// The same tools as a static program for Linux and Unikraft.
pub(crate) const EXECUTOR: Artifact = Artifact {
    package: "unikraft_tool_executor",
    binary: "unikraft_tool_executor",
    features: "std",
    target: LINUX,
    file: "unikraft_tool_executor",
    limit: Some(1_400_000),
};

/// PID 1 of Linux guests.
pub(crate) const INIT: Artifact = Artifact {
    package: "osvm-init",
    binary: "osvm-init",
    features: "",
    target: LINUX,
    file: "osvm-init",
    limit: Some(1_500_000),
};

/// The guests that misbehave. No limit: nobody installs them.
pub(crate) const HOSTILE: Artifact = Artifact {
    package: "hostile",
    binary: "hostile",
    features: "",
    target: KERNEL,
    file: "hostile.img",
    limit: None,
};

/// The name under which `osvm policy prove` finds its image.
pub(crate) const PROBER_NAME: &str = "osvm_prober";

/// The guest that asks for whatever it is told to.
pub(crate) const PROBER: Artifact = Artifact {
    package: "prober",
    binary: "prober",
    features: "",
    target: KERNEL,
    file: "osvm_prober.img",
    limit: Some(300_000),
};

const ARTIFACTS: [&Artifact; 5] = [&IMAGE, &EXECUTOR, &INIT, &HOSTILE, &PROBER];

/// `cargo xtask guest`.
pub(crate) fn run(project: &Project, check: Check) -> Result<()> {
    toolchain::add_targets()?;
    build(project)?;
    let mut rows = vec![["file", "bytes", "limit"].map(String::from).to_vec()];
    for artifact in ARTIFACTS {
        let limit = artifact.limit.map_or_else(|| "none".into(), |limit| limit.to_string());
        let size = size(&project.images().join(artifact.file))?;
        rows.push(vec![artifact.file.into(), size.to_string(), limit]);
    }
    printer::result(&printer::table(&rows));
    if check == Check::Yes {
        check_repeatable(project)?;
        printer::result("a second build from nothing gave the same bytes");
    }
    Ok(())
}

/// Builds everything that is out of date and puts it into `target/guest`.
pub(crate) fn build(project: &Project) -> Result<()> {
    printer::step("building the guest images");
    build_into(project, &project.guest_target(), &project.images())?;
    for artifact in ARTIFACTS {
        let size = size(&project.images().join(artifact.file))?;
        if let Some(limit) = artifact.limit.filter(|limit| *limit < size) {
            bail!("`{}` takes {size} bytes, over its limit of {limit}", artifact.file);
        }
    }
    Ok(())
}

/// Builds again from nothing, elsewhere, and compares.
pub(crate) fn check_repeatable(project: &Project) -> Result<()> {
    printer::step("building the guest images once more, from nothing");
    let again = project.target.join("guest-again");
    if again.exists() {
        fs::remove_dir_all(&again).context("cannot remove the last second build")?;
    }
    let images = again.join("images");
    build_into(project, &again, &images)?;
    for artifact in ARTIFACTS {
        let first = read(&project.images().join(artifact.file))?;
        if first != read(&images.join(artifact.file))? {
            bail!("`{}` differs between two builds of the same sources", artifact.file);
        }
        for path in [&project.root, &project::cargo_home()?] {
            let needle = path.as_os_str().as_encoded_bytes();
            if first.windows(needle.len()).any(|window| window == needle) {
                bail!("`{}` holds the path `{}`", artifact.file, path.display());
            }
        }
    }
    fs::remove_dir_all(&again).context("cannot remove the second build")
}

fn build_into(project: &Project, target_dir: &Path, images: &Path) -> Result<()> {
    // Before the flags: they name the folders that a fetch makes.
    process::run(process::cargo(&project.guest()).args(["fetch", "--quiet", "--locked"]))?;
    for target in [KERNEL, LINUX] {
        let mut cargo = process::cargo(&project.guest());
        cargo.args(["build", "--release", "--locked", "--target", target]);
        cargo.arg("--target-dir").arg(target_dir);
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.arg("--config").arg(flags(project, target)?);
        for artifact in ARTIFACTS.iter().filter(|artifact| artifact.target == target) {
            cargo.args(["--package", artifact.package, "--bin", artifact.binary]);
            if !artifact.features.is_empty() {
                cargo.args(["--features", artifact.features]);
            }
        }
        process::run(&mut cargo)?;
    }
    for artifact in ARTIFACTS {
        let built = target_dir.join(artifact.target).join("release").join(artifact.binary);
        copy_if_changed(&built, &images.join(artifact.file))?;
    }
    Ok(())
}

/// Compiler flags as a cargo setting, which is joined with those in the workspace's own config.
fn flags(project: &Project, target: &str) -> Result<String> {
    let mut flags = vec!["-Cstrip=symbols".to_owned()];
    let mut map = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    map(&project.root, "/osvm");
    let sources = project::cargo_home()?.join("registry/src");
    // One folder for each registry or mirror; which one was used must not show.
    for registry in sources.read_dir().into_iter().flatten().flatten() {
        map(&registry.path(), "/registry");
    }
    let flags = serde_json::to_string(&flags).context("cannot write the flags")?;
    Ok(format!("target.{target}.rustflags={flags}"))
}

/// Leaves a file alone that is right already, so that what was built from it stays up to date.
pub(crate) fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = read(from)?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let write = || format!("cannot write `{}`", to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(write)?;
    // Renamed into place: a test that runs meanwhile sees the old file or the new one.
    let new = to.with_extension("new");
    fs::write(&new, bytes).with_context(write)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).with_context(write)?;
    fs::rename(&new, to).with_context(write)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

fn size(path: &Path) -> Result<u64> {
    let metadata =
        fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(metadata.len())
}
