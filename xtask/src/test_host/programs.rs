//! The programs that run on the test host: those of this machine, with their libraries.

use super::tools;
use crate::project::Project;
use crate::tally::Tally;
use crate::{kernel, printer, process};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// What hardware KVM, or the kernel's vsock, makes different. Everything else that the tests check
/// is the same on every host, and was checked outside, where it takes a fraction of the time.
const SUITES: &[Suite] = &[
    Suite {
        name: "kvm",
        part: 0,
        package: "osvm-kvm",
        test: "kvm",
        env: "",
        filters: &[],
        brief: &[],
    },
    // QEMU's own translation, translated once more, would be slower than any deadline.
    Suite {
        name: "qemu-kvm",
        part: 0,
        package: "osvm-qemu",
        test: "conformance",
        env: "",
        filters: &["qemu_keeps_every_promise_under_kvm"],
        brief: &[],
    },
    // A call from the command line, the choice of a backend, and the pool.
    Suite {
        name: "osvm",
        part: 1,
        package: "osvm",
        test: "black_box",
        env: "",
        filters: &["unikernel::", "backends::", "daemon::"],
        brief: &[],
    },
    // Most of its time it waits until a device that went silent has had its time.
    Suite {
        name: "vhost-vsock",
        part: 1,
        package: "osvm-qemu",
        test: "conformance",
        env: "",
        filters: &["qemu_keeps_every_promise_with_the_kernels_vsock"],
        brief: &[],
    },
    // Linux guests, which no KVM can run that interprets.
    Suite {
        name: "linux-kvm",
        part: 0,
        package: "osvm-microvm",
        test: "microvm",
        env: "OSVM_TEST_LINUX_BACKEND=kvm",
        filters: LINUX,
        brief: &[],
    },
    Suite {
        name: "linux-qemu-kvm",
        part: 1,
        package: "osvm-microvm",
        test: "microvm",
        env: "OSVM_TEST_LINUX_BACKEND=qemu-kvm",
        filters: &["what_one_clone_writes_the_next_does_not_see"],
        brief: &[],
    },
    Suite {
        name: "linux-firecracker",
        part: 1,
        package: "osvm-microvm",
        test: "microvm",
        env: "OSVM_TEST_LINUX_BACKEND=firecracker",
        filters: LINUX,
        brief: LINUX_BRIEF,
    },
    // What is beneath: sockets, saved files, ends.
    Suite {
        name: "firecracker",
        part: 1,
        package: FIRECRACKER_PACKAGE,
        test: "linux",
        env: "",
        filters: &[],
        brief: &[],
    },
];
/// What is tried of Linux guests: one that lives on, copies, and ends of many kinds.
const LINUX: &[&str] = &["clones::", "death::", "persistent::", "--skip=python"];
/// The same in short, where another hypervisor is tried with all of them.
const LINUX_BRIEF: &[&str] = &["what_one_clone_writes", "remembers_and_ends_in_order"];
/// The test that makes the root file system of Linux guests.
const MAKES_ROOT: &str = "guest::a_root_is_made_once";
/// Hosts that the suites are spread over.
pub(super) const PARTS: usize = 2;
/// One at a time: emulated processors are slow, and deadlines are not.
const THREADS: &str = "--test-threads=1";
/// Programs that the suites start.
const DRIVEN: &[&str] = &["osvm", "osvm-vm"];
/// PID 1 of the test host.
const INIT: &str = "osvm-test-host-init";
/// The packages that have those programs.
const DRIVEN_PACKAGES: &[&str] = &["osvm", "osvm-test-host-init"];
/// The package whose tests boot Linux guests.
const LINUX_PACKAGE: &str = "osvm-microvm";
/// The package whose tests boot some of them without a root file system.
const FIRECRACKER_PACKAGE: &str = "osvm-firecracker";
/// The root file system that the tests of the former make, in the folder that cargo gives them.
const ROOT: &str = "root-node.erofs";

impl Suite {
    /// Why it can't be run, if it can't.
    fn lacks(&self, project: &Project) -> Option<String> {
        if ![LINUX_PACKAGE, FIRECRACKER_PACKAGE].contains(&self.package) {
            return None;
        }
        if !kernel::built(project).exists() {
            return Some("there is no kernel for Linux guests: run `cargo xtask kernel`".into());
        }
        let meant = self.package == FIRECRACKER_PACKAGE || self.env.ends_with("firecracker");
        let firecracker = meant && tools::firecracker().is_none();
        firecracker.then(|| "there is no Firecracker on `PATH` or in `OSVM_FIRECRACKER`".into())
    }
}

/// What goes into the initramfs.
#[derive(Debug)]
pub(super) struct Programs {
    /// PID 1.
    pub(super) init: PathBuf,
    /// Files that must be there under the path they have on this machine.
    pub(super) files: Vec<PathBuf>,
    /// Programs that must be there likewise.
    pub(super) executables: Vec<PathBuf>,
    /// What is run, in this order.
    pub(super) list: Vec<Program>,
    /// Suites that can't be run.
    pub(super) skipped: Tally,
}

/// Tests of one target of a package, or some of them.
#[derive(Debug)]
struct Suite {
    name: &'static str,
    /// Which host runs it.
    part: usize,
    package: &'static str,
    test: &'static str,
    /// Variables that its tests are given, as `NAME=VALUE`, with spaces between.
    env: &'static str,
    /// What the names of its tests contain, as words for libtest; nothing means all.
    filters: &'static [&'static str],
    /// The same for a run of all suites, where that is less.
    brief: &'static [&'static str],
}

/// One run of a program.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    package: &'static str,
    /// Which host runs it.
    pub(super) part: usize,
    /// Where cargo would run it.
    pub(super) directory: PathBuf,
    path: PathBuf,
    env: &'static str,
    filters: &'static [&'static str],
}

impl Program {
    /// The line that `osvm-test-host-init` reads.
    pub(super) fn line(&self) -> String {
        let mut line = format!(
            "{}\t{}\t{}\t{}\t{THREADS}",
            self.name,
            self.directory.display(),
            self.path.display(),
            self.env
        );
        for argument in self.filters {
            line += "\t";
            line += argument;
        }
        line + "\n"
    }
}

/// Builds the tests of the suites named in `only`, or of all, and the programs they drive. All are
/// the same ones that run on this machine, so that nothing is built twice.
pub(super) fn build(project: &Project, only: &[&str]) -> Result<Programs> {
    for name in only {
        let known = SUITES.iter().any(|suite| suite.name == *name);
        ensure!(known, "there is no suite `{name}`: there are {}", names());
    }
    let mut skipped = Tally::default();
    let mut suites = Vec::new();
    for suite in SUITES.iter().filter(|suite| only.is_empty() || only.contains(&suite.name)) {
        match suite.lacks(project) {
            None => suites.push(suite),
            Some(reason) => {
                printer::note(&format!("{} skipped: {reason}", suite.name));
                skipped += Tally::skip();
            }
        }
    }
    printer::step("building the tests for the test host");
    let mut cargo = process::cargo(&project.root);
    // Programs beside tests: alone they would be built anew, without what only tests need.
    cargo.args(["build", "--tests", "--bins", "--locked"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    if only.is_empty() {
        cargo.arg("--workspace");
    } else {
        let packages = suites.iter().map(|suite| &suite.package).chain(DRIVEN_PACKAGES);
        cargo.args(packages.flat_map(|package| ["--package", package]));
    }
    let messages = process::text(&mut cargo)?;
    let mut programs = Programs { skipped, ..collect(&messages, &suites, only.is_empty())? };
    programs.files.push(project.images());
    if let Some(linux) = programs.list.iter().find(|one| one.package == LINUX_PACKAGE) {
        let mut make = Command::new(&linux.path);
        make.args(["--exact", MAKES_ROOT]).current_dir(&linux.directory);
        process::text(&mut make).context("cannot make a root file system for Linux guests")?;
        programs.files.push(project.target.join("tmp").join(ROOT));
    }
    let kernel = kernel::built(project);
    programs.files.extend(Some(kernel).filter(|kernel| kernel.exists()));
    Ok(programs)
}

fn names() -> String {
    SUITES.iter().map(|suite| format!("`{}`", suite.name)).collect::<Vec<_>>().join(", ")
}

/// Reads cargo's messages: which programs were built, and for what.
/// A `brief` run does less of what takes long.
fn collect(messages: &str, suites: &[&Suite], brief: bool) -> Result<Programs> {
    let mut init = None;
    let (mut files, mut executables) = (Vec::new(), Vec::new());
    let mut list = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("cannot read cargo's message")?;
        let text = |pointer| message.pointer(pointer).and_then(Value::as_str);
        let Some(path) = text("/executable").map(PathBuf::from) else { continue };
        let name = text("/target/name").context("a target has no name")?;
        let manifest = text("/manifest_path").map(PathBuf::from);
        let directory = manifest.and_then(|path| path.parent().map(PathBuf::from));
        let directory = directory.context("a package is nowhere")?;
        let package = directory.file_name().and_then(|name| name.to_str());
        if message.pointer("/profile/test") != Some(&Value::Bool(true)) {
            if name == INIT {
                init = Some(path);
            } else if DRIVEN.contains(&name) && !executables.contains(&path) {
                executables.push(path);
            }
            continue;
        }
        let built = |suite: &&Suite| Some(suite.package) == package && suite.test == name;
        for suite in suites.iter().copied().filter(built) {
            let Suite { name, package, part, env, .. } = suite;
            let filters =
                if brief && !suite.brief.is_empty() { suite.brief } else { suite.filters };
            list.push(Program {
                name,
                package,
                part: *part,
                directory: directory.clone(),
                path: path.clone(),
                env,
                filters,
            });
        }
        if !list.iter().any(|program| program.path == path) {
            continue;
        }
        // Tests look for files of their own, and snapshots for their package.
        for own in [directory.join("tests"), directory.join("Cargo.toml")] {
            if own.exists() && !files.contains(&own) {
                files.push(own);
            }
        }
        executables.push(path);
    }
    let init = init.with_context(|| format!("cargo built no `{INIT}`"))?;
    for Suite { name, package, test, .. } in suites {
        let built = list.iter().any(|program| program.name == *name);
        ensure!(built, "cargo built no test `{test}` of `{package}`");
    }
    list.sort_by_key(|program| SUITES.iter().position(|suite| suite.name == program.name));
    Ok(Programs { init, files, executables, list, skipped: Tally::default() })
}
