//! An osvm in a home of its own, with the servers that a test wants behind it.
//!
//! Only its own home, its own environment: nothing of the user's is read or written.

use crate::osvm::Osvm;
use crate::project::Project;
use crate::{guest, process};
use anyhow::{Context, Result, bail};
use osvm_image::Store;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The home, and the program that is to live in it.
#[derive(Debug)]
pub(crate) struct Stage {
    osvm: PathBuf,
    home: PathBuf,
    path: String,
    backend: Option<&'static str>,
}

/// A program that tests run without knowing how it was built.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

impl Program {
    pub(crate) fn new(command: &Path, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { command: command.display().to_string(), args, env: Vec::new() }
    }

    pub(crate) fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

impl Stage {
    /// Makes the home `name` anew, with the guest images in it.
    pub(crate) fn new(project: &Project, name: &str) -> Result<Self> {
        let osvm = Osvm::find(project)?.path().to_owned();
        let home = project.root.join("target/mcp/homes").join(name);
        if home.exists() {
            fs::remove_dir_all(&home).context("cannot remove the home of the last run")?;
        }
        let run = home.join("run");
        fs::create_dir_all(&run).context("cannot make a home")?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
        let image = project.images().join(guest::IMAGE.file);
        let executor = project.images().join(guest::EXECUTOR.file);
        Store::new(home.join(".osvm/unikernels"))
            .install(guest::IMAGE_NAME, &image, Some(&executor))
            .context("cannot install the guest image: `cargo xtask guest` builds it")?;
        let path = std::env::var("PATH").context("`PATH` is not set")?;
        Ok(Self { osvm, home, path, backend: None })
    }

    /// The same with `folder` first on its `PATH`.
    pub(crate) fn with_programs_of(mut self, folder: &Path) -> Self {
        self.path = format!("{}:{}", folder.display(), self.path);
        self
    }

    /// The same with this backend, whichever osvm would choose.
    pub(crate) fn with_backend(self, backend: &'static str) -> Self {
        Self { backend: Some(backend), ..self }
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Has osvm run `program` on this host as the server `name`.
    pub(crate) fn add(&self, name: &str, program: &Program) -> Result<()> {
        let mut add = self.osvm(&["mcp", "add", name, "--yes", "--execution-mode", "direct"]);
        for (name, value) in &program.env {
            add.arg("--env").arg(format!("{name}={value}"));
        }
        process::text(add.arg("--").arg(&program.command).args(&program.args)).map(drop)
    }

    /// Another program at home here.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.env()).current_dir(&self.home).stdin(Stdio::null());
        command
    }

    /// osvm with these arguments.
    pub(crate) fn osvm(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.osvm);
        command.args(arguments);
        command
    }

    /// `osvm mcp serve` with these arguments, for whoever starts it as a server.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Program {
        let program = Program::new(&self.osvm, ["mcp", "serve"].iter().chain(arguments).copied());
        Program { env: self.env(), ..program }
    }

    fn env(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let mut env = vec![
            ("HOME".into(), text(&self.home)),
            ("XDG_RUNTIME_DIR".into(), text(&self.home.join("run"))),
            ("PATH".into(), self.path.clone()),
        ];
        env.extend(self.backend.map(|backend| ("OSVM_BACKEND".into(), backend.into())));
        env
    }

    /// Starts `osvm mcp serve --http` without a token, at a port that is free.
    pub(crate) fn serve_http(&self, arguments: &[&str]) -> Result<Serving> {
        let mut serve = self.osvm(&["mcp", "serve", "--http", "127.0.0.1:0", "--no-token"]);
        serve.args(arguments).stderr(Stdio::piped());
        let mut process = serve.spawn().context("cannot run osvm")?;
        let stderr = process.stderr.take().context("osvm has no stderr")?;
        let mut serving = Serving { process, url: String::new() };
        let mut lines = BufReader::new(stderr).lines();
        let mut said = String::new();
        for line in lines.by_ref() {
            let line = line.context("cannot read what osvm says")?;
            if let Some(url) = line.strip_prefix("serving MCP at ") {
                serving.url = url.to_owned();
                // Read on, so that it can write on.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(serving);
            }
            said = format!("{said}{line}\n");
        }
        bail!("`osvm mcp serve --http` has ended: {said}")
    }
}

/// A running gateway. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Serving {
    process: Child,
    pub(crate) url: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing left to end.
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// The programs of package `osvm-fixture`, built the way that the tests of the workspace build them:
/// asked for alone, what they depend on would have other features, and be built again.
pub(crate) fn fixture(project: &Project, program: &str) -> Result<PathBuf> {
    let mut cargo = process::cargo(&project.root);
    cargo.args(["test", "--quiet", "--locked", "--workspace", "--no-run"]);
    process::run(cargo.args(["--test", "fixture_programs"]))?;
    Ok(project.target.join("debug").join(program))
}

/// `program`, ended when it takes longer than that.
pub(crate) fn bounded(command: &Command, seconds: u32) -> Command {
    let mut bounded = Command::new("timeout");
    bounded.args(["--kill-after=5", &seconds.to_string()]);
    bounded.arg(command.get_program()).args(command.get_args()).env_clear().stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            bounded.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        bounded.current_dir(directory);
    }
    bounded
}
