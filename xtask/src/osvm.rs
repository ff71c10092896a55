//! Running `osvm` the way a script or a user does, and reading what it prints.

use crate::envelope::Envelope;
use crate::install;
use crate::project::Project;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The program, and the config it is to use.
#[derive(Clone, Debug)]
pub(crate) struct Osvm {
    program: PathBuf,
    config: Option<PathBuf>,
    backend: Option<&'static str>,
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Osvm {
    /// The program that `OSVM` names, else the release build, built if it is out of date.
    pub(crate) fn find(project: &Project) -> Result<Self> {
        if let Some(program) = std::env::var_os("OSVM").filter(|program| !program.is_empty()) {
            let program = Path::new(&program).canonicalize();
            let program = program.context("`OSVM` does not name a program")?;
            return Ok(Self { program, config: None, backend: None });
        }
        install::build_osvm(project)?;
        Ok(Self::built(project))
    }

    /// The release build, which must be there.
    pub(crate) fn built(project: &Project) -> Self {
        Self { program: project.release("osvm"), config: None, backend: None }
    }

    /// The same program under another config.
    pub(crate) fn with_config(&self, config: &Path) -> Self {
        Self { config: Some(config.to_owned()), ..self.clone() }
    }

    /// The same program with this backend, whatever the config says.
    pub(crate) fn with_backend(&self, backend: &'static str) -> Self {
        Self { backend: Some(backend), ..self.clone() }
    }

    /// Where the program is.
    pub(crate) fn path(&self) -> &Path {
        &self.program
    }

    /// The program with these arguments, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null());
        if let Some(config) = &self.config {
            command.env("OSVM_CONFIG", config);
        }
        if let Some(backend) = self.backend {
            command.env("OSVM_BACKEND", backend);
        }
        command
    }

    /// Runs it to its end.
    pub(crate) fn say(&self, arguments: &[&str]) -> Result<Said> {
        let output = self.command(arguments).output();
        let output = output.with_context(|| format!("cannot run `{}`", self.program.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// Starts it and lets it run, with nothing of it on the terminal.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("cannot run `{}`", self.program.display()))
    }

    /// Calls a tool. An answer that is an error is an error here.
    pub(crate) fn call(&self, server: &str, tool: &str, arguments: &str) -> Result<Envelope> {
        let said = self.say(&["mcp", "call-tool", "--json", server, tool, arguments])?;
        let call = format!("{server} {tool}");
        Envelope::read(&said.stdout, &call).with_context(|| said.stderr.trim().to_owned())
    }
}
