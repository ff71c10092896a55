//! `cargo xtask kernel`: builds the kernel of Linux guests from Debian's sources.
//!
//! ```text
//! linux-source (apt) + guest/linux/kernel.config ─▶ target/guest-kernel/KEY/vmlinux
//!                                                └▶ target/guest-kernel/vmlinux   what tests boot
//! ```
//!
//! # Invariants
//!
//! - KEY is the digest of the source's version, the compiler's and our configuration: a kernel that
//!   is up to date is never built again, and one that is not is never used.
//! - Time, user and host of the build are fixed, so the same key gives the same bytes.
//! - A setting of ours that the sources did not take is an error, not a remark.

use crate::guest::copy_if_changed;
use crate::project::Project;
use crate::{apt, printer, process};
use anyhow::{Context, Result, bail};
use osvm_image::Digest;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that needs the newest sources of this release.
const META_PACKAGE: &str = "linux-source";
/// Packages that hold sources begin like this.
const PREFIX: &str = "linux-source-6";
/// What building needs besides a compiler: a program, and Debian's package that has it.
const TOOLS: [(&str, &str); 6] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("xz", "xz-utils"),
];
/// The header that building needs, and Debian's package that has it.
const HEADER: (&str, &str) = ("/usr/include/libelf.h", "libelf-dev");

/// What is left in the archive, more than half of it: sources for processors and devices that no guest
/// has. Kconfig reads the settings of all of them.
const LEFT_OUT: [&str; 9] = [
    "Documentation/*.rst",
    "arch/[a-o]*.[chsS]",
    "arch/[p-v]*.[chsS]",
    "arch/*.dts*",
    "drivers/gpu/*.[ch]",
    "drivers/media/*.[ch]",
    "drivers/net/ethernet/*.[ch]",
    "drivers/net/wireless/*.[ch]",
    "sound/*.[ch]",
];

/// Builds of other machines have these too.
const FIXED: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "2026-01-01"),
    ("KBUILD_BUILD_USER", "osvm"),
    ("KBUILD_BUILD_HOST", "osvm"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// `cargo xtask kernel`.
pub(crate) fn run(project: &Project) -> Result<()> {
    let kernel = build(project)?;
    let bytes = fs::read(&kernel).with_context(|| format!("cannot read `{}`", kernel.display()))?;
    let (size, digest) = (bytes.len(), Digest::of(&bytes));
    printer::result(&format!("{} has {size} bytes, {digest}", kernel.display()));
    Ok(())
}

/// The kernel, built if it is not up to date.
pub(crate) fn build(project: &Project) -> Result<PathBuf> {
    let current = built(project);
    if !apt::available() {
        if current.exists() {
            printer::note("there is no apt, so the kernel that is there stays");
            return Ok(current);
        }
        bail!("there is no apt to download Debian's `{META_PACKAGE}` with");
    }
    let config = project.root.join("guest/linux/kernel.config");
    let config = fs::read_to_string(&config)
        .with_context(|| format!("cannot read `{}`", config.display()))?;
    let source = apt::dependency_or_update(META_PACKAGE, PREFIX)?;
    let version = apt::candidate(&source)?;
    let compiler = process::text(Command::new("gcc").arg("-dumpfullversion")).unwrap_or_default();
    let parts = [source.as_str(), &version, compiler.trim(), &config].join("\n");
    let key = Digest::of(parts.as_bytes()).hex();
    let home = current.with_file_name(key.get(..16).unwrap_or(&key));
    let made = home.join("vmlinux");
    if !made.exists() {
        printer::note(&format!("building the guest kernel from {source} {version}, for minutes"));
        tools()?;
        compile(&home, &source, &config)?;
    }
    copy_if_changed(&made, &current)?;
    Ok(current)
}

/// Where the kernel is when it has been built: the tests look there.
pub(crate) fn built(project: &Project) -> PathBuf {
    project.root.join("target/guest-kernel/vmlinux")
}

fn tools() -> Result<()> {
    let missing = |tool: &str| !process::succeeds(Command::new("which").arg(tool));
    let programs = TOOLS.iter().filter(|(tool, _)| missing(tool)).map(|(_, package)| *package);
    let header = Some(HEADER.1).filter(|_| !Path::new(HEADER.0).exists());
    let packages: Vec<_> = programs.chain(header).collect();
    if packages.is_empty() {
        return Ok(());
    }
    if !apt::may_install() {
        bail!("the kernel needs `sudo apt-get install {}`", packages.join(" "));
    }
    packages.iter().try_for_each(|package| apt::install(package))
}

/// Leaves `home/vmlinux` and nothing else.
fn compile(home: &Path, source: &str, config: &str) -> Result<()> {
    let work = home.join("work");
    if work.exists() {
        fs::remove_dir_all(&work).context("cannot remove an unfinished build")?;
    }
    fs::create_dir_all(&work).with_context(|| format!("cannot make `{}`", work.display()))?;
    apt::unpack(source, &work)?;
    let archive = work.join(format!("root/usr/src/{source}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.args(LEFT_OUT.map(|pattern| format!("--exclude={source}/{pattern}")));
    process::run(tar.arg("-xf").arg(&archive).arg("-C").arg(&work))?;
    let tree = work.join(source);
    configure(&tree, config)?;
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    process::run(make(&tree).arg(format!("-j{jobs}")).arg("vmlinux"))?;
    fs::rename(tree.join("vmlinux"), home.join("vmlinux")).context("cannot keep the kernel")?;
    fs::remove_dir_all(&work).context("cannot remove the kernel's sources")
}

fn configure(tree: &Path, config: &str) -> Result<()> {
    settle(tree, "tinyconfig")?;
    let file = tree.join(".config");
    let read = || fs::read_to_string(&file).context("cannot read the kernel's configuration");
    // The later line counts.
    let text = format!("{}\n{config}", read()?);
    fs::write(&file, text).context("cannot write the kernel's configuration")?;
    settle(tree, "olddefconfig")?;
    let lost = lost(config, &read()?);
    if !lost.is_empty() {
        bail!("these sources do not take `{}`", lost.join("`, `"));
    }
    Ok(())
}

/// Quietly: it warns of every setting that is given twice, which is what we do.
fn settle(tree: &Path, target: &str) -> Result<()> {
    if !process::succeeds(make(tree).arg(target)) {
        bail!("`make {target}` failed in `{}`", tree.display());
    }
    Ok(())
}

/// Settings of ours that the finished configuration does not have.
fn lost<'a>(ours: &'a str, finished: &str) -> Vec<&'a str> {
    let has = |line: &str| finished.lines().any(|known| known == line);
    let kept =
        |line: &str| match line.strip_prefix("# ").and_then(|l| l.strip_suffix(" is not set")) {
            // What is off may also be absent.
            Some(name) => !finished.lines().any(|known| known.starts_with(&format!("{name}="))),
            None => has(line),
        };
    let settings = ours.lines().filter(|line| line.contains("CONFIG_"));
    settings.filter(|line| !kept(line)).collect()
}

fn make(tree: &Path) -> Command {
    // At a lower priority: it takes minutes, and whoever asked for it works on.
    let mut command = Command::new("nice");
    command.args(["make", "--silent", "-C"]).arg(tree).envs(FIXED);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_was_not_taken_is_named() {
        let ours =
            "# Remark\nCONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_C is not set\nCONFIG_D=7\n";
        let finished = "CONFIG_A=y\nCONFIG_C=y\nCONFIG_D=8\n";
        assert_eq!(lost(ours, finished), ["# CONFIG_C is not set", "CONFIG_D=7"]);
    }
}
