//! Runs what hardware KVM makes different on small Linux hosts whose KVM is hardware KVM.
//!
//! ```text
//! this machine
//! └── QEMU, TCG, a processor with SVM and nested paging      two of them, each with a part of the suites
//!     └── Debian's cloud kernel + an initramfs: osvm-test-host-init
//!         └── the test programs, with the libraries of this machine
//!             └── guests on /dev/kvm, run by (emulated) hardware: SSE, paging, exits and all
//! ```
//!
//! Behaviour there is that of hardware; times there mean nothing.
//!
//! Where QEMU or the kernel can't be had the run is skipped and says so, unless `OSVM_REQUIRE`
//! names `test-host`.

mod initramfs;
mod kernel;
mod programs;
mod report;
mod tools;

use crate::project::Project;
use crate::tally::Tally;
use crate::{apt, guest, printer, process, toolchain};
use anyhow::{Context, Result, anyhow};
use initramfs::Initramfs;
use report::{Ended, Report};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Debian's package of QEMU for x86.
pub(crate) const QEMU_PACKAGE: &str = "qemu-system-x86";
const QEMU: &str = "qemu-system-x86_64";
/// Memory of the test host, in MiB: the initramfs lives in it, and several guests at once.
const MEMORY_MIB: &str = "3072";
/// When the test host is given up, in seconds.
const DEADLINE_SECS: &str = "2400";

/// What became of the run.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The host booted and the programs ran.
    Ran(Tally),
    /// It could not be tried here, and why.
    Skipped(String),
}

/// `cargo xtask test-host`.
pub(crate) fn run(project: &Project, only: &[&str]) -> Result<ExitCode> {
    toolchain::add_targets()?;
    guest::build(project)?;
    match check(project, only)? {
        Outcome::Ran(tally) => {
            printer::result(&tally.to_string());
            Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Outcome::Skipped(reason) => {
            printer::note(&format!("test-host skipped: {reason}"));
            printer::result(&Tally::skip().to_string());
            Ok(if required() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

/// Boots the host and runs the suites named in `only` on it, or all. The guest images must be there.
pub(crate) fn check(project: &Project, only: &[&str]) -> Result<Outcome> {
    if let Err(error) = find_qemu() {
        return Ok(Outcome::Skipped(format!("{error:#}")));
    }
    let directory = project.target.join("test-host");
    let kernel = match kernel::fetch(&directory) {
        Ok(kernel) => kernel,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let initrd = directory.join("initramfs.cpio");
    let programs = programs::build(project, only)?;
    write_initramfs(project, &programs, &kernel, &initrd)?;
    printer::step("running the KVM tests on hosts with emulated hardware KVM");
    let mut total = programs.skipped;
    let parts: BTreeSet<usize> = programs.list.iter().map(|program| program.part).collect();
    for (part, first) in boot_all(&kernel.image, &initrd, &parts)? {
        if first.tally.failed == 0 || !first.names_its_failures() {
            total += first.tally;
            continue;
        }
        // Emulated processors miss deadlines that no host would: what fails has to fail twice.
        printer::step("once more, because some tests failed");
        let second = boot(&kernel.image, &initrd, part, &first.failing())?;
        total += first.with(second);
    }
    Ok(Outcome::Ran(total))
}

/// Whether a skip counts as a failure.
pub(crate) fn required() -> bool {
    let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
    required.split(',').any(|name| name.trim() == "test-host")
}

/// Makes sure that QEMU is there, by installing it where that is allowed.
fn find_qemu() -> Result<()> {
    if process::succeeds(Command::new(QEMU).arg("--version")) {
        return Ok(());
    }
    if !apt::may_install() {
        anyhow::bail!("there is no `{QEMU}`: install it with `apt-get install {QEMU_PACKAGE}`");
    }
    printer::step(&format!("installing {QEMU_PACKAGE}"));
    apt::install(QEMU_PACKAGE).with_context(|| format!("cannot install `{QEMU_PACKAGE}`"))
}

fn write_initramfs(
    project: &Project,
    programs: &programs::Programs,
    kernel: &kernel::Kernel,
    initrd: &Path,
) -> Result<()> {
    let mut files = Initramfs::default();
    let mut modules = String::new();
    for (number, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("/osvm-test/{number:02}-{name}");
        modules += &format!("{path}\n");
        files.copy(module, &path)?;
    }
    files.text("/osvm-test/modules", &modules);
    tools::add(&mut files)?;
    tools::add_qemu(QEMU, &mut files)?;
    tools::add_firecracker(&mut files)?;
    let scratch = initrd.parent().context("the archive is nowhere")?;
    tools::keep_program(&programs.init, "/init", scratch, &mut files)?;
    for program in &programs.executables {
        tools::keep_program(program, &program.to_string_lossy(), scratch, &mut files)?;
    }
    for file in &programs.files {
        files.keep(file)?;
    }
    // Tests reach their images through the folder of whichever crate loads them.
    let crates = project.root.join("crates");
    for package in crates.read_dir().context("cannot list the crates")? {
        files.directory(&package.context("cannot list the crates")?.path());
    }
    for directory in programs.list.iter().map(|program| &program.directory) {
        files.directory(directory);
    }
    // The suite of promises finds the images from its own folder.
    files.directory(&project.root.join("crates/osvm-vmm"));
    for part in 0..programs::PARTS {
        let list = programs.list.iter().filter(|program| program.part == part);
        let lines: String = list.map(programs::Program::line).collect();
        files.text(&format!("/osvm-test/programs-{part}"), &lines);
    }
    files.write(initrd)
}

/// Boots a host for each part, all at the same time: one keeps one processor of this machine busy.
fn boot_all(kernel: &Path, initrd: &Path, parts: &BTreeSet<usize>) -> Result<Vec<(usize, Ended)>> {
    std::thread::scope(|scope| {
        let hosts: Vec<_> = parts
            .iter()
            .map(|part| (*part, scope.spawn(|| boot(kernel, initrd, *part, ""))))
            .collect();
        let join = |(part, host): (usize, std::thread::ScopedJoinHandle<'_, Result<Ended>>)| {
            let ended =
                host.join().unwrap_or_else(|_| Err(anyhow!("what watches a test host panicked")));
            Ok((part, ended?))
        };
        hosts.into_iter().map(join).collect()
    })
}

/// Boots the host of a part; `only` some of its programs, if any are named.
fn boot(kernel: &Path, initrd: &Path, part: usize, only: &str) -> Result<Ended> {
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=5", DEADLINE_SECS, QEMU]);
    // One processor. Two side by side sometimes wait for each other for ever while one runs a guest.
    // Two that take turns interrupt each other between the moment at which a guest is given an
    // interrupt and its next exit, and then QEMU may give it that interrupt once more, also where it
    // has switched interrupts off: a third of the Linux guests died of that (QEMU 7.2).
    qemu.args(["-M", "q35", "-cpu", "max,+svm", "-accel", "tcg,thread=single", "-smp", "1"]);
    qemu.args(["-m", MEMORY_MIB, "-nodefaults", "-no-user-config", "-no-reboot"]);
    qemu.args(["-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    // Without mitigations TCG has less to translate; a panic restarts, which `-no-reboot` ends.
    // What the kernel does not know becomes the environment of its first program.
    let words = format!(
        "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off OSVM_TEST_PART={part} \
         OSVM_TEST_ONLY={only}"
    );
    qemu.args(["-append", &words]);
    let mut report = Report::default();
    let status = process::watch(qemu, |line| {
        if report.see(line) {
            printer::note(&format!("    {part}: {line}"));
        }
    })?;
    Ok(report.finish(status.success()))
}
