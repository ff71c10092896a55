//! The programs that run on the test host: those of this machine, with their libraries.

use crate::project::Project;
use crate::{printer, process};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

/// Packages whose tests start VMs.
const PACKAGES: &[&str] = &["osvm-kvm", "osvm-qemu", "osvm"];
/// PID 1 of the test host.
const INIT: &str = "osvm-test-host-init";

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
}

/// One run of a program.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    /// Where cargo would run it.
    pub(super) directory: PathBuf,
    path: PathBuf,
    arguments: &'static [&'static str],
}

impl Program {
    /// The line that `osvm-test-host-init` reads.
    pub(super) fn line(&self) -> String {
        let mut line =
            format!("{}\t{}\t{}", self.name, self.directory.display(), self.path.display());
        for argument in self.arguments {
            line += "\t";
            line += argument;
        }
        line + "\n"
    }
}

/// Builds the tests and the programs they drive: the same ones that run on this machine, so that
/// nothing is built twice.
pub(super) fn build(project: &Project) -> Result<Programs> {
    printer::step("building the KVM tests for the test host");
    let mut tests = process::cargo(&project.root);
    tests.args(["test", "--no-run", "--lib", "--bins", "--tests"]);
    let mut programs = process::cargo(&project.root);
    programs.args(["build", "--bins"]);
    let mut messages = String::new();
    for mut cargo in [tests, programs] {
        cargo.args(["--workspace", "--locked", "--message-format", "json-render-diagnostics"]);
        messages += &process::text(&mut cargo)?;
    }
    let mut programs = collect(&messages)?;
    programs.files.push(project.images());
    Ok(programs)
}

/// Reads cargo's messages: which programs were built, and for what.
fn collect(messages: &str) -> Result<Programs> {
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
        if name != INIT && !package.is_some_and(|package| PACKAGES.contains(&package)) {
            continue;
        }
        let is_test = message.pointer("/profile/test") == Some(&Value::Bool(true));
        if name == INIT {
            if !is_test {
                init = Some(path);
            }
            continue;
        }
        if is_test {
            // Tests look for files of their own, and snapshots for their package.
            for own in [directory.join("tests"), directory.join("Cargo.toml")] {
                if own.exists() && !files.contains(&own) {
                    files.push(own);
                }
            }
            list.push(Program {
                name: name.to_owned(),
                directory,
                path: path.clone(),
                // One at a time: emulated processors are slow, and deadlines are not. QEMU's own
                // translation is checked outside; translated twice it is slower than deadlines.
                arguments: &["--test-threads=1", "--skip=under_tcg"],
            });
        }
        if !executables.contains(&path) {
            executables.push(path);
        }
    }
    let init = init.with_context(|| format!("cargo built no `{INIT}`"))?;
    Ok(Programs { init, files, executables, list })
}
