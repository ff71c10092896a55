//! The daemon as a program: what its calls are run with, and how one is started on demand.
//!
//! A daemon that the CLI starts has a session of its own and outlives the terminal. It ends by
//! itself when nobody has asked for anything for a while.

use crate::cli::{BackendName, CallTool};
use crate::context::Context;
use crate::failure::Failure;
use crate::hosted::HostedServers;
use clap::ValueEnum as _;
use osvm_daemon::message::Terms;
use osvm_daemon::{Client, ClientError, Elsewhere, Host};
use osvm_policy::Env;
use osvm_runtime::{Runtime, ToolCall, private_dir};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, info};

/// Where a daemon that was started on demand writes its warnings, beside the logs of calls.
const LOG: &str = "daemon.log";

/// Longest log of earlier daemons that is kept, in bytes.
const MAX_LOG: u64 = 1024 * 1024;

/// How long a daemon that is started on demand may take until it lets clients in.
const START: Duration = Duration::from_secs(5);

/// Pause between two looks at whether it does.
const PAUSE: Duration = Duration::from_millis(2);

/// How long a daemon that was started on demand stays without anybody asking for anything.
const IDLE_EXIT_SECS: &str = "900";

/// What the daemon runs calls with.
#[derive(Debug)]
pub(crate) struct DaemonHost {
    context: Context,
    env: Env,
    terms: Terms,
    programs: Vec<(PathBuf, Option<Identity>)>,
    /// Servers that no image has, as far as they were called.
    hosted: HostedServers,
}

/// Which file a program is, replaced or not.
type Identity = (u64, u64, i64);

impl DaemonHost {
    pub(crate) fn new(context: Context) -> Result<Self, Failure> {
        let env = context.env()?;
        let terms = terms(&context, &env);
        let own = std::env::current_exe().ok();
        let vm = crate::vm_program::find().ok();
        let programs = own.into_iter().chain(vm).map(|path| {
            let identity = identity(&path);
            (path, identity)
        });
        let programs = programs.collect();
        let hosted = HostedServers::new(&context, &env, true);
        Ok(Self { context, env, terms, programs, hosted })
    }
}

impl Host for DaemonHost {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn open(&self) -> Result<Runtime, osvm_daemon::message::Failure> {
        let config = self.context.config(&self.env);
        let runtime = config.and_then(|config| self.context.runtime(config, &self.env));
        runtime.map_err(Into::into)
    }

    fn elsewhere(
        &self,
        runtime: &Runtime,
        call: &ToolCall,
    ) -> Result<Option<Arc<dyn Elsewhere>>, osvm_daemon::message::Failure> {
        let found = self.hosted.find(&self.context, runtime.config(), &call.server);
        Ok(found?.map(|server| server as Arc<dyn Elsewhere>))
    }

    fn outdated(&self) -> Option<String> {
        let replaced = |(path, before): &&(PathBuf, Option<Identity>)| identity(path) != *before;
        let (path, _) = self.programs.iter().find(replaced)?;
        Some(format!("`{}` was replaced", path.display()))
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = path.metadata().ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.mtime()))
}

/// On which terms calls are run: a daemon on other ones is none for this command.
pub(crate) fn terms(context: &Context, env: &Env) -> Terms {
    let path = config_path(context, env);
    let backend = context.global.backend.as_ref().and_then(BackendName::to_possible_value);
    let policy = context.global.policy.as_ref().map(|path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        path.to_string_lossy().into_owned()
    });
    Terms {
        policy,
        config: path.to_string_lossy().into_owned(),
        backend: backend.map(|backend| backend.get_name().to_owned()),
    }
}

fn config_path(context: &Context, env: &Env) -> PathBuf {
    let path = context.config_path(env);
    std::path::absolute(&path).unwrap_or(path)
}

/// Connects to the daemon; starts one if there is none.
pub(crate) fn connect(context: &Context, env: &Env) -> Result<Client, ClientError> {
    let dir = context.dirs(env).run;
    let absent = match Client::connect(&dir) {
        Err(ClientError::Absent { path, source }) => (path, source),
        connected => return connected,
    };
    let begun = Instant::now();
    let started = start(context, env);
    let mut child = started.map_err(|source| ClientError::Absent { path: absent.0, source })?;
    loop {
        // Asked before connecting: one that is gone by now was not the one that let us in.
        let gone = child.try_wait().ok().flatten();
        match Client::connect(&dir) {
            Err(ClientError::Absent { path, source }) => match gone {
                // Another command may have started one at the same moment: it may still come up.
                _ if begun.elapsed() < START && gone.is_none_or(|status| status.success()) => {
                    std::thread::sleep(PAUSE);
                }
                Some(status) => {
                    let log = log_path(context, env);
                    let reason = format!("it ended with {status}, see `{}`", log.display());
                    return Err(ClientError::Absent { path, source: io::Error::other(reason) });
                }
                None => return Err(ClientError::Absent { path, source }),
            },
            connected => {
                debug!(after_ms = begun.elapsed().as_millis(), "a daemon was started");
                return connected;
            }
        }
    }
}

fn start(context: &Context, env: &Env) -> io::Result<Child> {
    let log = open_log(&log_path(context, env))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["daemon", "--background", "--idle-exit", IDLE_EXIT_SECS]);
    // Named, because a relative path would mean another file there.
    command.arg("--config").arg(config_path(context, env));
    let terms = terms(context, env);
    if let Some(backend) = &terms.backend {
        command.args(["--backend", backend]);
    }
    if let Some(policy) = &terms.policy {
        command.args(["--policy", policy]);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    info!("starting a daemon");
    command.spawn()
}

fn log_path(context: &Context, env: &Env) -> PathBuf {
    context.dirs(env).calls.with_file_name(LOG)
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        private_dir(dir).map_err(io::Error::other)?;
    }
    let long = path.metadata().is_ok_and(|metadata| metadata.len() > MAX_LOG);
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    if long {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    options.open(path)
}

impl CallTool {
    /// Whether the calls go to a daemon.
    pub(crate) fn choice(&self) -> crate::caller::Choice {
        use crate::caller::Choice;
        match (self.daemon, self.no_daemon) {
            (true, _) => Choice::Daemon,
            (_, true) => Choice::Here,
            _ => Choice::AsConfigured,
        }
    }
}
