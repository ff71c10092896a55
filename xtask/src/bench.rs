//! `cargo xtask bench`: builds what is measured, then measures it.
//!
//! The measuring is the program `osvm-figures`, which links the VMM and the runtime; this module only
//! prepares it and reads its figures.

use crate::osvm::Osvm;
use crate::project::Project;
use crate::{guest, kernel, printer, process, toolchain};
use anyhow::{Context, Result};
use serde_json::Value;
use std::process::Command;

/// One value that was measured.
#[derive(Debug)]
pub(crate) struct Figure {
    /// What it is.
    pub(crate) name: String,
    /// The value or the median.
    pub(crate) value: f64,
    unit: String,
    goal: Option<f64>,
}

impl Figure {
    /// The value, and our goal if there is one.
    pub(crate) fn show(&self) -> String {
        let goal = self.goal.map(|goal| format!(" (goal: {goal} {})", self.unit));
        format!("{:.1} {}{}", self.value, self.unit, goal.unwrap_or_default())
    }
}

/// `cargo xtask bench`.
pub(crate) fn run(project: &Project, name: Option<&str>) -> Result<()> {
    toolchain::add_targets()?;
    guest::build(project)?;
    build(project)?;
    if name == Some(MICROVM) {
        kernel::build(project)?;
    }
    let mut command = program(project, &Osvm::built(project));
    process::run(command.args(name))
}

/// The program, and the package it is in.
const PROGRAM: &str = "osvm-figures";

/// The group of Linux microVMs, which need a kernel besides.
const MICROVM: &str = "microvm";

/// The figures of these groups, of this `osvm`.
pub(crate) fn figures(project: &Project, osvm: &Osvm, groups: &[&str]) -> Result<Vec<Figure>> {
    cargo(project, &["--bin", PROGRAM])?;
    printer::step("measuring");
    let printed = process::text(program(project, osvm).arg("--json").args(groups))?;
    printed.lines().filter(|line| line.starts_with('{')).map(read).collect()
}

/// Builds osvm and what measures it, side by side.
pub(crate) fn build(project: &Project) -> Result<()> {
    printer::step("building osvm, and what measures it");
    cargo(project, &["--bins"])
}

fn cargo(project: &Project, targets: &[&str]) -> Result<()> {
    let mut cargo = process::cargo(&project.root);
    cargo.args(["build", "--release", "--locked"]);
    // Always both: of a package by itself, what it depends on may have other features.
    process::run(cargo.args(["--package", "osvm", "--package", PROGRAM]).args(targets))
}

/// What measures, and the osvm that is measured.
fn program(project: &Project, osvm: &Osvm) -> Command {
    let mut command = Command::new(project.release(PROGRAM));
    command.env("OSVM", osvm.path());
    command
}

fn read(line: &str) -> Result<Figure> {
    let figure: Value = serde_json::from_str(line).context("a figure is not JSON")?;
    let text = |name| figure.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name| figure.get(name).and_then(Value::as_f64);
    Ok(Figure {
        name: text("name").context("a figure has no name")?,
        value: number("value").context("a figure has no value")?,
        unit: text("unit").unwrap_or_default(),
        goal: number("goal"),
    })
}
