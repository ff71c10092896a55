//! What one server is, with every value in place.
//!
//! Values of the environment and of headers may be secrets: they are in no `Debug` output and in
//! no digest.

use crate::link::Launch;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One configured server. Plain data: every value is valid on its own.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What the user calls it.
    pub name: String,
    /// Where it is.
    pub target: Target,
    /// How long it may take to answer `server/discover` before it counts as one of the old era.
    pub probe_timeout: Duration,
    /// How long start and handshake may take together.
    pub start_timeout: Duration,
    /// How long it may take to end by itself once its input is closed.
    pub end_timeout: Duration,
    /// The program `osvm-vm`, which ties a process of [`Target::Process`] to osvm's life. Without
    /// it such a process outlives an osvm that is killed.
    pub guard: Option<PathBuf>,
    /// What a process of [`Target::Process`] may take.
    pub limits: Limits,
}

impl Spec {
    /// A server with the usual patience: 10 s for the probe, 60 s to start, 2 s to end.
    pub fn new(name: impl Into<String>, target: Target) -> Self {
        Self {
            name: name.into(),
            target,
            probe_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(60),
            end_timeout: Duration::from_secs(2),
            guard: None,
            limits: Limits::default(),
        }
    }

    /// Tells this server from others, also from what it was before it was configured anew.
    pub(crate) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(&self.name);
        match &self.target {
            Target::Process { command, args, env, cwd } => {
                add("process");
                add(command);
                args.iter().for_each(|arg| add(arg));
                add(&cwd.as_ref().map(|cwd| cwd.display().to_string()).unwrap_or_default());
                env.iter().for_each(|(name, _)| add(name));
            }
            Target::Http { url, headers } => {
                add("http");
                add(url);
                headers.iter().for_each(|(name, _)| add(name));
            }
            Target::Launched(launch) => {
                add("launched");
                add(&launch.identity());
            }
        }
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Where a server is.
#[derive(Clone)]
pub enum Target {
    /// A program on this host, in no virtual machine.
    Process {
        /// The program, looked up in `PATH` like a shell does.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Its environment, besides the few names that every program needs.
        env: Vec<(String, String)>,
        /// Where it runs; osvm's own folder if there is none.
        cwd: Option<PathBuf>,
    },
    /// A server with Streamable HTTP.
    Http {
        /// Its endpoint.
        url: String,
        /// Sent with every request to that endpoint, and to no other place.
        headers: Vec<(String, String)>,
    },
    /// Something that has a pipe, a server in a virtual machine for one.
    Launched(Arc<dyn Launch>),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |pairs: &[(String, String)]| -> Vec<String> {
            pairs.iter().map(|(name, _)| name.clone()).collect()
        };
        match self {
            Self::Process { command, args, env, cwd } => f
                .debug_struct("Process")
                .field("command", command)
                .field("args", &args.len())
                .field("env", &names(env))
                .field("cwd", cwd)
                .finish(),
            Self::Http { url, headers } => f
                .debug_struct("Http")
                // What follows the `?` or stands before an `@` may be a key.
                .field("url", &crate::error::shown_url(url))
                .field("headers", &names(headers))
                .finish(),
            Self::Launched(launch) => f.debug_tuple("Launched").field(launch).finish(),
        }
    }
}

/// What a process on the host may take. Generous: they stop what runs away, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of private writable memory, `RLIMIT_DATA`. Address space is not limited: a Node
    /// process reserves tens of GiB that it never touches.
    pub data: u64,
    /// Open files, `RLIMIT_NOFILE`.
    pub files: u64,
    /// Bytes of the longest file it may write, `RLIMIT_FSIZE`.
    pub file_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { data: 8 << 30, files: 4096, file_size: 8 << 30 }
    }
}
