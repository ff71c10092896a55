//! What Debian's package manager can give, where it is there and this user may use it.

use crate::process;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Whether packages can be downloaded with `apt-get`.
pub(crate) fn available() -> bool {
    process::succeeds(Command::new("apt-get").arg("--version"))
        && process::succeeds(Command::new("dpkg-deb").arg("--version"))
}

/// Whether packages can be installed.
pub(crate) fn may_install() -> bool {
    let root = process::text(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    root && available()
}

/// Installs `package` with what it needs, and nothing that is only recommended.
pub(crate) fn install(package: &str) -> Result<()> {
    let mut first = Command::new("apt-get");
    first.env("DEBIAN_FRONTEND", "noninteractive");
    first.args(["install", "--quiet", "--quiet", "--yes", "--no-install-recommends", package]);
    if process::succeeds(&mut first) {
        return Ok(());
    }
    // A fresh machine has no package lists yet.
    update()?;
    let mut second = Command::new("apt-get");
    second.env("DEBIAN_FRONTEND", "noninteractive");
    process::run(second.args(["install", "--quiet", "--yes", "--no-install-recommends", package]))
}

/// Fetches the package lists. Works for root only, so a failure is left to what needs the lists.
pub(crate) fn update() -> Result<()> {
    process::run(Command::new("apt-get").args(["update", "--quiet", "--quiet"]))
}

/// The package that `package`, a name that only points to the newest version, needs and whose
/// name begins with `prefix`.
pub(crate) fn dependency(package: &str, prefix: &str) -> Result<String> {
    let text = process::text(Command::new("apt-cache").args(["depends", "--important", package]))?;
    let depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let found = depends.map(str::to_owned).find(|name| name.starts_with(prefix));
    found.with_context(|| format!("apt knows no package behind `{package}`"))
}

/// As [`dependency`], with new package lists if the lists that are there know nothing.
pub(crate) fn dependency_or_update(package: &str, prefix: &str) -> Result<String> {
    match dependency(package, prefix) {
        Ok(package) => Ok(package),
        Err(_) => {
            update()?;
            dependency(package, prefix)
        }
    }
}

/// The version of `package` that would be downloaded now.
pub(crate) fn candidate(package: &str) -> Result<String> {
    let text = process::text(Command::new("apt-cache").args(["policy", package]))?;
    let found = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    found.map(str::to_owned).with_context(|| format!("apt knows no version of `{package}`"))
}

/// Downloads `package` into `directory` and unpacks it to `directory/root`.
pub(crate) fn unpack(package: &str, directory: &Path) -> Result<()> {
    // Quiet: as root, apt warns that its own user can't write here, and then downloads all the same.
    let mut download = Command::new("apt-get");
    download.args(["download", "--quiet", "--quiet", package]).current_dir(directory);
    if !process::succeeds(&mut download) {
        bail!("`apt-get download {package}` failed");
    }
    let archive = find(directory, package)?;
    let root = directory.join("root");
    let mut unpack = Command::new("dpkg-deb");
    process::run(unpack.arg("--extract").arg(&archive).arg(&root))?;
    std::fs::remove_file(&archive).with_context(|| format!("cannot remove `{}`", archive.display()))
}

fn find(directory: &Path, package: &str) -> Result<std::path::PathBuf> {
    for entry in directory.read_dir().context("cannot read the download folder")? {
        let path = entry.context("cannot read the download folder")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
            return Ok(path);
        }
    }
    bail!("`apt-get download {package}` left no file")
}
