//! The steps of `cargo xtask test`.

use super::{Outcome, skipped};
use crate::fuzz::Built;
use crate::packages::{self, Missing};
use crate::project::{self, Project};
use crate::tally::Tally;
use crate::test_host::{self, QEMU_PACKAGE};
use crate::toolchain::{self, KERNEL};
use crate::{apt, bench, fuzz, guest, kernel, printer, process, solana};
use anyhow::{Context, Result, anyhow};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

/// How long each fuzz target runs: enough to find what is wrong at first sight. Longer runs are
/// `cargo xtask fuzz SECONDS`.
pub(super) const FUZZ_SECS: u32 = 5;

/// Folders with a workspace, relative to the root of the checkout.
const WORKSPACES: [&str; 3] = ["", "guest", "fuzz"];

/// Guest packages that can be built for, and tested on, the host.
const GUEST_TESTED: &[&str] =
    &["osvm-init", "osvm-kernel-core", "prober", "unikraft_tool_executor"];
/// Guest packages that are built for [`KERNEL`] only.
const GUEST_BARE: &[&str] = &["osvm-kernel", "hostile", "prober"];

/// The four scripts; the first one builds and installs what the others need.
const SCRIPTS: &[&str] = &[
    "build-unikraft-tool-executor.sh",
    "test-unikernel-execution.sh",
    "validate-unikernel-security.sh",
    "benchmark-unikernel-performance.sh",
];

/// Programs that tests need, and Debian's packages that have them.
const PROGRAMS: [(&str, &str); 2] =
    [("qemu-system-x86_64", QEMU_PACKAGE), ("mkfs.erofs", "erofs-utils")];

/// Adds Rust targets and components, programs where this user may install them, and a Solana node.
pub(super) fn set_up(project: &Project) -> Outcome {
    toolchain::add_targets()?;
    toolchain::add_components()?;
    let mut tally = Tally::one(true);
    for (program, package) in PROGRAMS {
        if process::succeeds(Command::new("which").arg(program)) {
            continue;
        }
        if apt::may_install() {
            printer::note(&format!("installing {package}"));
            apt::install(package)?;
        } else {
            let reason = format!("install it with `apt-get install {package}`");
            tally += skipped(program, &reason, false);
        }
    }
    if let Err(reason) = solana::set_up(project)? {
        tally += skipped("tests against a Solana runtime", &reason, required("solana"));
    }
    if let Err(reason) = kvm() {
        tally += skipped("tests on this host's KVM", &reason, required("kvm"));
    }
    Ok(tally)
}

/// Builds the kernel of Linux guests while other steps run. It takes minutes, once.
pub(super) fn begin_guest_kernel(project: &Project) -> JoinHandle<Result<PathBuf>> {
    let project = project.clone();
    thread::spawn(move || kernel::build(&project))
}

/// Waits for the kernel. Without one, tests of Linux guests are skipped.
pub(super) fn end_guest_kernel(kernel: JoinHandle<Result<PathBuf>>) -> Outcome {
    let built = kernel.join().unwrap_or_else(|_| Err(anyhow!("building it panicked")));
    Ok(built.map_or_else(
        |error| skipped("Linux guests", &format!("{error:#}"), required("microvm")),
        |_| Tally::one(true),
    ))
}

/// Every workspace is formatted.
pub(super) fn format(project: &Project) -> Outcome {
    let mut tally = Tally::default();
    for workspace in WORKSPACES {
        let mut cargo = process::cargo(&project.root.join(workspace));
        cargo.args(["fmt", "--all", "--check"]);
        tally += counted(cargo)?;
    }
    Ok(tally)
}

/// No warning anywhere, on host or guest.
pub(super) fn clippy(project: &Project) -> Outcome {
    let clippy = |workspace: &str| {
        let mut cargo = process::cargo(&project.root.join(workspace));
        cargo.args(["clippy", "--quiet", "--locked"]);
        cargo
    };
    let mut host = clippy("");
    host.args(["--workspace", "--all-targets"]);
    let mut tested = clippy("guest");
    tested.args(selected(GUEST_TESTED)).args(["--all-targets", "--all-features"]);
    let mut bare = clippy("guest");
    bare.args(selected(GUEST_BARE)).args(["--release", "--target", KERNEL]);
    let mut tally = Tally::default();
    for mut cargo in [host, tested, bare] {
        cargo.args(["--", "--deny", "warnings"]);
        tally += counted(cargo)?;
    }
    Ok(tally)
}

/// The images build, are small enough, and come out the same a second time.
pub(super) fn guest_images(project: &Project) -> Outcome {
    guest::build(project)?;
    // Tests boot it where this host has a kernel for it.
    crate::agent::build(project)?;
    guest::check_repeatable(project)?;
    Ok(Tally { passed: 2, ..Tally::default() })
}

/// Unit and integration tests of the host crates, on this host's KVM where it has one.
pub(super) fn host_tests(project: &Project) -> Outcome {
    let mut cargo = test_command(&project.root);
    cargo.args(["--workspace", "--locked", "--no-fail-fast"]);
    if kvm().is_ok() && std::env::var_os("OSVM_REQUIRE").is_none() {
        // A test that would skip itself without KVM has no reason to here.
        let linux = kernel::built(project).exists()
            && process::succeeds(Command::new("which").arg("mkfs.erofs"));
        cargo.env("OSVM_REQUIRE", if linux { "guests,kvm,microvm" } else { "guests,kvm" });
        // Of how many copies no two may be alike.
        cargo.env("OSVM_TEST_CLONES", "200");
    }
    counted(cargo)
}

/// Examples in the documentation, those that must not compile among them.
pub(super) fn doc_tests(project: &Project) -> Outcome {
    let mut cargo = process::cargo(&project.root);
    cargo.args(["test", "--workspace", "--locked", "--doc", "--no-fail-fast", "--quiet"]);
    counted(cargo)
}

/// What of the guest can be tested outside a VM.
pub(super) fn guest_tests(project: &Project) -> Outcome {
    let mut cargo = test_command(&project.guest());
    cargo.args(selected(GUEST_TESTED)).args(["--locked", "--no-fail-fast", "--all-features"]);
    let mut tally = counted(cargo)?;
    let mut doc = process::cargo(&project.guest());
    doc.args(["test", "--doc", "--locked", "--quiet"]).args(selected(GUEST_TESTED));
    tally += counted(doc)?;
    Ok(tally)
}

/// What a user runs, in a home of its own.
pub(super) fn scripts(project: &Project) -> Outcome {
    if let Err(reason) = kvm() {
        return Ok(skipped("demo and scripts", &reason, required("kvm")));
    }
    bench::build(project)?;
    let home = project.target.join("test-home");
    if home.exists() {
        fs::remove_dir_all(&home).context("cannot remove the home of the last run")?;
    }
    fs::create_dir_all(&home).context("cannot make a home for the scripts")?;
    let mut tally = Tally::default();
    let mut demo = process::cargo(&project.root);
    demo.args(["xtask", "demo"]);
    tally += counted(at_home(demo, &home)?)?;
    for script in SCRIPTS {
        printer::note(&format!("\n  scripts/{script}"));
        tally += counted(at_home(Command::new(project.root.join("scripts").join(script)), &home)?)?;
    }
    Ok(tally)
}

/// Installs, all at once, what the steps after it run. Sets `missing` where it can't be had.
pub(super) fn packages(project: &Project, missing: &mut Option<Missing>) -> Outcome {
    *missing = packages::had(project, &packages::ALL)?.err();
    Ok(Tally::default())
}

/// A step that needs packages of npm and PyPI, counted as skipped where they can't be had.
pub(super) fn with_packages(
    missing: Option<&Missing>,
    what: &str,
    step: impl FnOnce() -> Result<Result<Tally, Missing>>,
) -> Outcome {
    let outcome = missing.map_or_else(step, |missing| Ok(Err(missing.clone())))?;
    Ok(outcome.unwrap_or_else(|missing| skipped(what, &missing, required("packages"))))
}

/// The KVM tests on hardware KVM, if only emulated.
pub(super) fn in_test_host(project: &Project) -> Outcome {
    match test_host::check(project, &[])? {
        test_host::Outcome::Ran(tally) => Ok(tally),
        test_host::Outcome::Skipped(reason) => {
            Ok(skipped("test-host", &reason, required("test-host")))
        }
    }
}

/// Builds the fuzz targets while other steps run, as far as those leave time for it.
pub(super) fn begin_fuzz_targets(project: &Project) -> JoinHandle<()> {
    let project = project.clone();
    thread::spawn(move || fuzz::build_by_the_way(&project, Built::Soon))
}

/// Runs each of them for a moment.
pub(super) fn fuzzing(project: &Project, begun: JoinHandle<()>) -> Outcome {
    // Whatever came of it: what is missing is built now, and heard of.
    let _built = begun.join();
    fuzz::check(project, FUZZ_SECS, Built::Soon)
}

/// Licences, sources and known faults of what we depend on.
pub(super) fn deny(project: &Project) -> Outcome {
    if !process::succeeds(process::cargo(&project.root).args(["deny", "--version"])) {
        return Ok(skipped("cargo deny", "it is not installed", false));
    }
    let mut tally = Tally::default();
    for workspace in WORKSPACES {
        let mut cargo = process::cargo(&project.root.join(workspace));
        cargo.args(["deny", "--offline", "check", "--config"]).arg(project.root.join("deny.toml"));
        cargo.args(["bans", "licenses", "sources"]);
        tally += counted(cargo)?;
    }
    Ok(tally)
}

/// Runs a program, shows what it writes, and counts what its summaries say. One without a summary
/// is one check; one that fails without saying so has failed.
fn counted(command: Command) -> Outcome {
    let mut tally = Tally::default();
    let status = process::watch(command, |line| {
        printer::note(line);
        if let Some(more) = Tally::from_summary(line) {
            tally += more;
        }
    })?;
    if tally.is_empty() || (!status.success() && tally.failed == 0) {
        tally += Tally::one(status.success());
    }
    Ok(tally)
}

/// nextest runs tests of different crates side by side and kills what hangs; plain cargo will do.
fn test_command(directory: &Path) -> Command {
    let mut cargo = process::cargo(directory);
    if process::succeeds(process::cargo(directory).args(["nextest", "--version"])) {
        cargo.args(["nextest", "run"]);
    } else {
        cargo.args(["test", "--lib", "--bins", "--tests"]);
    }
    cargo
}

fn selected(names: &[&'static str]) -> impl Iterator<Item = &'static str> {
    names.iter().flat_map(|name| ["--package", name])
}

/// Another `HOME`, with the Rust tools still found.
fn at_home(mut command: Command, home: &Path) -> Result<Command> {
    command.env("CARGO_HOME", project::cargo_home()?).env("RUSTUP_HOME", project::rustup_home()?);
    command.env("HOME", home);
    for variable in ["XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "OSVM_CONFIG"] {
        command.env_remove(variable);
    }
    Ok(command)
}

/// Whether this host's KVM can be used, or why not.
fn kvm() -> Result<(), String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|error| format!("cannot open `/dev/kvm`: {error}"))
}

/// Whether the environment turns skipping `name` into a failure.
fn required(name: &str) -> bool {
    let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
    required.split(',').any(|required| required.trim() == name)
}
