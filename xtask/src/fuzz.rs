//! `cargo xtask fuzz`: runs each fuzz target for a while.
//!
//! libFuzzer needs the compiler's coverage pass, which is a stable flag, and a C++ compiler for
//! itself. So the targets run here without a nightly compiler and without cargo-fuzz; with those,
//! `cargo +nightly fuzz run TARGET` works as well and adds the address sanitizer.

use crate::project::Project;
use crate::tally::Tally;
use crate::{printer, process};
use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Edge coverage with inline counters, and the tables libFuzzer reads them by.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table --cfg=fuzzing -Cdebug-assertions";

/// How the targets are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Built {
    /// For many inputs a second.
    Fast,
    /// In half the time, for a run of a few seconds.
    Soon,
}

impl Built {
    /// The profile in the manifest of the targets, which is also the name of its folder.
    fn profile(self) -> &'static str {
        match self {
            Self::Fast => "release",
            Self::Soon => "smoke",
        }
    }
}

/// `cargo xtask fuzz`.
pub(crate) fn run(project: &Project, seconds: u32) -> Result<ExitCode> {
    let tally = check(project, seconds, Built::Fast)?;
    printer::result(&tally.to_string());
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the targets, then runs each for `seconds`, as many at once as there are cores.
pub(crate) fn check(project: &Project, seconds: u32, built: Built) -> Result<Tally> {
    if !process::succeeds(Command::new("c++").arg("--version")) {
        printer::note("fuzzing skipped: libFuzzer needs a C++ compiler, and there is no `c++`");
        return Ok(Tally::skip());
    }
    printer::step("building the fuzz targets");
    process::run(&mut cargo(project, built))?;
    printer::step(&format!("fuzzing each target for {seconds} s"));
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let left = Mutex::new(targets(project)?);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || -> Result<Tally> {
        let mut tally = Tally::default();
        while let Some(target) = next() {
            tally += Tally::one(fuzz(project, &target, seconds, built)?);
        }
        Ok(tally)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut tally = Tally::default();
        for worker in workers {
            let worked = worker.join().map_err(|_| anyhow!("a thread that fuzzes panicked"))?;
            tally += worked?;
        }
        Ok(tally)
    })
}

/// Builds the targets in time that nobody else has a use for, and without a word: whoever runs them
/// builds what is missing, and hears why that can't be done.
pub(crate) fn build_by_the_way(project: &Project, built: Built) {
    let cargo = cargo(project, built);
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(cargo.get_program()).args(cargo.get_args()).arg("--quiet");
    for (name, value) in cargo.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = cargo.get_current_dir() {
        command.current_dir(directory);
    }
    let _built = process::succeeds(&mut command);
}

fn cargo(project: &Project, built: Built) -> Command {
    let directory = project.root.join("fuzz");
    let mut cargo = process::cargo(&directory);
    cargo.args(["build", "--locked", "--bins", "--target", TARGET, "--profile", built.profile()]);
    cargo.arg("--target-dir").arg(directory.join("target"));
    cargo.env("RUSTFLAGS", COVERAGE).env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
}

/// The programs of the fuzz workspace.
fn targets(project: &Project) -> Result<Vec<String>> {
    let metadata = crate::project::metadata(&project.root.join("fuzz"))?;
    let targets = metadata.pointer("/packages/0/targets").and_then(Value::as_array);
    let names = targets
        .context("no fuzz targets")?
        .iter()
        .filter_map(|target| target.get("name")?.as_str().map(str::to_owned));
    Ok(names.collect())
}

fn fuzz(project: &Project, target: &str, seconds: u32, built: Built) -> Result<bool> {
    let directory = project.root.join("fuzz");
    let folder = |name: &str| -> Result<PathBuf> {
        let path = directory.join(name).join(target);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make `{}`", path.display()))?;
        Ok(path)
    };
    let program = directory.join("target").join(TARGET).join(built.profile()).join(target);
    let mut command = Command::new(program);
    command.arg(folder("corpus")?);
    // Inputs that are kept in the repository are read, and never added to.
    let seeds = directory.join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", folder("artifacts")?.display()));
    command.args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1", "-verbosity=0"]);
    let mut lines = Vec::new();
    let status = process::watch(command, |line| lines.push(line.to_owned()))?;
    // All of it when something was found, else only how much was tried.
    let shown = lines.iter().filter(|line| !status.success() || line.starts_with("stat::"));
    let shown: String = shown.map(|line| format!("\n  {line}")).collect();
    printer::note(&format!("{target}{shown}"));
    Ok(status.success())
}
