//! Where the agent runs: in µVM-1, or on this host where the user said so.
//!
//! ```text
//! first time: boot ──▶ agent waits ──saved──▶ ~/.osvm/snapshots ──copy──▶ µVM-1
//! after that:                                 ~/.osvm/snapshots ──copy──▶ µVM-1
//! ```
//!
//! # Invariants
//!
//! - There is no way from a microVM to the host: a microVM that can't start is an error.
//! - What is saved is an agent that has heard nothing yet: no prompt, no session, no model.
//! - Dropping [`Launched::rest`] ends the agent, and destroys its microVM.

use crate::backend::{self, Wanted};
use crate::failure::Failure;
use crate::microvm::snapshots;
use crate::printer::Printer;
use osvm_image::linux::{LinuxImage, LinuxStore};
use osvm_microvm::{Cloned, GuestFiles, Host, Persistent, Recipe};
use osvm_policy::Env;
use osvm_runtime::Dirs;
use osvm_supervisor::AgentLink;
use osvm_upstream::{EndLink, Launch, LaunchError, Link, Stop};
use osvm_vmm::linux::LinuxBackend;
use std::any::Any;
use std::fmt;
use std::io::{BufReader, pipe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The image of µVM-1.
const IMAGE: &str = "osvm-agent";

/// What µVM-1 is called in `osvm ps`, among the snapshots, and in its console's file.
const NAME: &str = "osvm-agent";

/// How long µVM-1 may take to be started; its agent is awaited by whoever talks to it.
const START: Duration = Duration::from_secs(60);

/// How long the agent may take to end by itself.
const END: Duration = Duration::from_millis(500);

/// The variable that has the agent run on this host.
const SKIP: &str = "OSVM_SKIP_MICROVM";

/// What the kernel of every Linux guest is told, and no other kernel.
const MARKER: &str = "osvm.microvm";

/// Somewhere an agent can run.
pub(crate) trait AgentPlace: fmt::Debug {
    /// Starts an agent, and says so first.
    fn start(&self, printer: Printer) -> Result<Launched, Failure>;

    /// The place, for the status line.
    fn label(&self) -> &'static str;
}

/// An agent that was started.
pub(crate) struct Launched {
    /// Its stream.
    pub(crate) link: AgentLink,
    /// Ends it when it is dropped.
    pub(crate) rest: Box<dyn Any + Send>,
}

/// The place that flags and environment ask for.
pub(crate) fn choose(
    direct: bool,
    env: &Env,
    dirs: &Dirs,
    wanted: Wanted,
) -> Result<Box<dyn AgentPlace>, Failure> {
    if is_inside() {
        return Err(Failure::new("nested", "this is a microVM of osvm, and osvm does not nest")
            .hint("run `osvm` on the host"));
    }
    if direct || skipped()? {
        return Ok(Box::new(Direct));
    }
    let state = dirs.state().to_owned();
    Ok(Box::new(MicroVm { home: env.home.clone(), dirs: dirs.clone(), state, wanted }))
}

/// Whether this kernel is the one of a Linux guest of osvm.
fn is_inside() -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|word| word == MARKER)
}

fn skipped() -> Result<bool, Failure> {
    match std::env::var(SKIP).unwrap_or_default().as_str() {
        "" | "0" => Ok(false),
        "1" => Ok(true),
        other => {
            let message = format!("`{SKIP}` is 0 or 1, not `{other}`");
            Err(Failure::new("usage", message))
        }
    }
}

/// On this host, in a thread.
#[derive(Debug)]
struct Direct;

impl AgentPlace for Direct {
    fn start(&self, printer: Printer) -> Result<Launched, Failure> {
        printer.note("the agent runs on this host, outside of a microVM");
        let cannot = |error| Failure::new("host", "cannot start the agent").caused_by(&error);
        let (read, to_host) = pipe().map_err(cannot)?;
        let (from_host, write) = pipe().map_err(cannot)?;
        let serve = move || {
            // However its stream ended, the supervisor sees that it did.
            let _ended = osvm_agent::serve(BufReader::new(from_host), to_host);
        };
        thread::Builder::new().name("agent".into()).spawn(serve).map_err(cannot)?;
        let link = AgentLink { read: Box::new(read), write: Box::new(write) };
        // Its stream is all that keeps it.
        Ok(Launched { link, rest: Box::new(()) })
    }

    fn label(&self) -> &'static str {
        "host"
    }
}

/// In a microVM of its own.
#[derive(Debug)]
struct MicroVm {
    home: PathBuf,
    dirs: Dirs,
    state: PathBuf,
    wanted: Wanted,
}

impl AgentPlace for MicroVm {
    fn start(&self, printer: Printer) -> Result<Launched, Failure> {
        let (backend, files, image) = self.parts()?;
        let failed = |error: &dyn std::error::Error, hint| {
            Failure::new("microvm", "µVM-1 cannot start").caused_by(error).hinted(hint)
        };
        let made = osvm_runtime::private_dir(&self.state);
        made.map_err(|error| failed(&error, error.hint()))?;
        let host = Host::new(backend, self.dirs.run.clone(), Some(self.state.clone()))
            .with_copies_that_live_on();
        let recipe = Recipe::of_image(&files, &image);
        let mut recipe = recipe.map_err(|error| failed(&error, error.hint()))?;
        recipe.name = NAME.into();
        let launched = launch(host, recipe, &self.home, printer);
        let Link { read, write, end, .. } = launched.map_err(|error| match &error {
            LaunchError::Failed { hint, .. } => failed(&error, hint.clone()),
            _ => failed(&error, None),
        })?;
        Ok(Launched { link: AgentLink { read, write }, rest: Box::new(Ending(end)) })
    }

    fn label(&self) -> &'static str {
        "μVM-1"
    }
}

/// A copy of the µVM-1 that was saved; the first time it is booted and saved before.
fn launch(host: Host, recipe: Recipe, home: &Path, printer: Printer) -> Result<Link, LaunchError> {
    let (deadline, never) = (Instant::now() + START, Stop::default());
    let copied = Cloned::new(host.clone(), recipe.clone(), 0).map(|cloned| {
        let cloned = cloned.with_snapshots(snapshots(home));
        let known = cloned.has_template().unwrap_or(false);
        printer.note(if known {
            "starting μVM-1 …"
        } else {
            "starting μVM-1 for the first time; from now on it is copied …"
        });
        cloned.launch(deadline, &never)
    });
    match copied {
        Ok(Ok(link)) => Ok(link),
        Ok(Err(error)) => {
            // Something about saving and copying: booting needs neither.
            tracing::warn!("a copy of μVM-1 can't be had, so it is booted: {error}");
            Persistent::new(host, recipe).launch(deadline, &never)
        }
        // A recipe that can't be copied can't be booted as a copy, and that is all.
        Err(_) => Persistent::new(host, recipe).launch(deadline, &never),
    }
}

impl MicroVm {
    /// What µVM-1 is made of; everything that is missing is said at once.
    fn parts(&self) -> Result<(Arc<dyn LinuxBackend>, GuestFiles, LinuxImage), Failure> {
        let mut missing = Vec::new();
        let mut lacks = |what: &dyn std::error::Error, fix: Option<String>| {
            let mut words = what.to_string();
            for cause in crate::printer::causes(what) {
                words.push_str(": ");
                words.push_str(&cause);
            }
            missing.push((words, fix));
        };
        let backend = backend::linux(&self.wanted, &self.dirs);
        let backend = backend.map_err(|error| lacks(&error, error.hint())).ok();
        let home = self.home.join(".osvm");
        let guest = home.join("guest");
        let files = GuestFiles::load(&guest.join("vmlinux"), &guest.join("osvm-init"));
        let files = files.map_err(|error| lacks(&error, error.hint())).ok();
        let image = LinuxStore::new(home.join("images")).load(IMAGE);
        let image = image
            .map_err(|error| lacks(&error, Some("make it with `cargo xtask install`".into())))
            .ok();
        if let (Some(backend), Some(files), Some(image)) = (backend, files, image) {
            return Ok((backend, files, image));
        }
        let mut failure =
            Failure::new("microvm", "µVM-1 cannot start, and the agent runs nowhere else");
        let mut fixes: Vec<String> = Vec::new();
        for (words, fix) in missing {
            failure.causes.push(words);
            fixes.extend(fix.filter(|fix| !fixes.contains(fix)));
        }
        fixes.push("or have the agent run on this host with `--direct`".into());
        Err(failure.hint(fixes.join("; ")))
    }
}

impl Failure {
    fn hinted(self, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }
}

/// Ends µVM-1.
struct Ending(Box<dyn EndLink>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(END);
    }
}
