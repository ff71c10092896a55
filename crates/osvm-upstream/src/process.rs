//! A server that is a program on this host: started clean, bounded, always ended.
//!
//! ```text
//! osvm ── stdin  ──▶ program ── stdout ──▶ osvm
//!                    │ own process group, no core dumps, limits
//!                    └─ stderr ──▶ Tail
//! osvm-vm guard ties it to osvm's life, and becomes it
//! ```
//!
//! # Invariants
//!
//! - Of osvm's environment it gets the names that every program needs, and what its entry says.
//! - It ends in this order: input closed, SIGTERM, SIGKILL; signals go to its whole group, before
//!   its leader is reaped, so a recycled number is never hit.
//! - When it is gone both pipes are hung up for osvm, even if somebody it started holds them.

use crate::link::{EndLink, LaunchError, Link};
use crate::notice::Notice;
use crate::spec::Limits;
use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open, prlimit,
};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Names of osvm's own environment that a server gets.
const KEPT: [&str; 5] = ["PATH", "HOME", "LANG", "TERM", "TMPDIR"];

/// Beginnings of such names.
const KEPT_PREFIX: [&str; 2] = ["LC_", "XDG_"];

/// What to start.
#[derive(Clone, Copy)]
pub(crate) struct Program<'a> {
    pub(crate) server: &'a str,
    pub(crate) command: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [(String, String)],
    pub(crate) cwd: Option<&'a Path>,
    pub(crate) guard: Option<&'a Path>,
    pub(crate) limits: Limits,
}

/// Starts it.
pub(crate) fn start(program: Program<'_>, notice: &Arc<Notice>) -> Result<Link, LaunchError> {
    let path = find(program)?;
    spawn(program, &path, notice).map_err(|error| LaunchError::Failed {
        what: format!("cannot run `{}`", path.display()),
        hint: None,
        source: Some(error.into()),
    })
}

/// Its environment: of osvm's own what is needed, then what the entry says.
fn environment(program: Program<'_>) -> Vec<(OsString, OsString)> {
    let kept = std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            KEPT.contains(&name) || KEPT_PREFIX.iter().any(|prefix| name.starts_with(prefix))
        })
    });
    let given = program.env.iter().map(|(name, value)| (name.into(), value.into()));
    kept.chain(given).collect()
}

fn find(program: Program<'_>) -> Result<PathBuf, LaunchError> {
    let paths = environment(program).into_iter().rfind(|(name, _)| name == "PATH");
    let cwd = match program.cwd {
        Some(cwd) => cwd.to_owned(),
        None => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
    };
    if !cwd.is_dir() {
        return Err(LaunchError::Failed {
            what: format!("there is no folder `{}` to run it in", cwd.display()),
            hint: None,
            source: None,
        });
    }
    let found = which::which_in(program.command, paths.map(|(_, value)| value), cwd);
    found.map_err(|error| LaunchError::Failed {
        what: format!("cannot find `{}`", program.command),
        hint: Some(format!("install `{}`, or configure its full path", program.command)),
        source: Some(error.into()),
    })
}

fn spawn(program: Program<'_>, path: &Path, notice: &Arc<Notice>) -> io::Result<Link> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let ((stdin, write), (read, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
    for fd in [&write, &read, &errors] {
        fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
    }
    let (mut command, lifeline) = command(program, path, stdout)?;
    command.args(program.args).env_clear().envs(environment(program)).process_group(0);
    command.stdin(stdin).stderr(stderr);
    if let Some(cwd) = program.cwd {
        command.current_dir(cwd);
    }
    let mut child = command.spawn()?;
    // It holds the other ends of the pipes, which would never hang up.
    drop(command);
    let gone = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let pid = Pid::from_child(&child);
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            child.kill()?;
            child.wait()?;
            return Err(error.into());
        }
    };
    let number = child.id();
    let end =
        Ending { child, pid, pidfd, gone: Arc::clone(&gone), status: None, _lifeline: lifeline };
    if program.guard.is_none() {
        limit(pid, program.limits)?;
    }
    let (name, tail) = (program.server.to_owned(), Arc::clone(notice));
    let mut errors = Half { fd: errors, gone: Arc::clone(&gone), late: 0 };
    thread::Builder::new().name("mcp-stderr".into()).spawn(move || {
        let mut piece = [0; 8192];
        while let Ok(len @ 1..) = errors.read(&mut piece) {
            tail.tail.push(&name, piece.get(..len).unwrap_or_default());
        }
    })?;
    let facts = [("pid", json!(number)), ("guarded", json!(program.guard.is_some()))];
    Ok(Link {
        read: Box::new(Half { fd: read, gone: Arc::clone(&gone), late: 0 }),
        write: Box::new(Half { fd: write, gone, late: 0 }),
        greeting: None,
        end: Box::new(end),
        facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    })
}

/// The program itself, or the guard that becomes it; and the lifeline.
fn command(
    program: Program<'_>,
    path: &Path,
    stdout: OwnedFd,
) -> io::Result<(Command, Option<OwnedFd>)> {
    let Some(guard) = program.guard else {
        let mut command = Command::new(path);
        command.stdout(stdout);
        return Ok((command, None));
    };
    let (lifeline_end, lifeline) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut command = Command::new(guard);
    let Limits { data, files, file_size } = program.limits;
    command.args(["guard", "--server", "--stdout", "3", "--data", &data.to_string()]);
    command.args(["--files", &files.to_string(), "--file-size", &file_size.to_string()]);
    command.arg(path).stdout(Stdio::from(lifeline_end));
    let mapping = FdMapping { parent_fd: stdout, child_fd: 3 };
    command.fd_mappings(vec![mapping]).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok((command, Some(lifeline)))
}

/// Without a guard the limits come from here, a moment after the start.
fn limit(pid: Pid, limits: Limits) -> io::Result<()> {
    let Limits { data, files, file_size } = limits;
    let all = [
        (Resource::Core, 0),
        (Resource::Data, data),
        (Resource::Nofile, files),
        (Resource::Fsize, file_size),
    ];
    for (resource, most) in all {
        // What the host grants already is never raised.
        let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        let rule = Rlimit { current: Some(most), maximum: Some(most) };
        match prlimit(Some(pid), resource, rule) {
            // It has ended already.
            Err(Errno::SRCH) => return Ok(()),
            other => other?,
        };
    }
    Ok(())
}

/// One end of a pipe, which also ends when the process is gone.
#[derive(Debug)]
struct Half {
    fd: OwnedFd,
    gone: Arc<OwnedFd>,
    /// Pages read since the process is gone, in bytes: more than a pipe holds is somebody else's.
    late: usize,
}

/// What a pipe may hold, in bytes: the most a user without privileges can make it.
const PIPE: usize = 1024 * 1024;

impl Half {
    /// Waits until it is ready; `false` when the process is gone.
    fn ready(&mut self, event: PollFlags) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.fd, event), PollFd::new(&*self.gone, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let [fd, gone] = &fds;
        // What was written before the end is still read.
        let over = !gone.revents().is_empty() && (event != PollFlags::IN || PIPE < self.late);
        self.late += if gone.revents().is_empty() { 0 } else { 4096 };
        Ok(!over && !fd.revents().is_empty())
    }
}

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.ready(PollFlags::IN)? {
                return Ok(0);
            }
            match rustix::io::read(&self.fd, &mut *buffer) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if !self.ready(PollFlags::OUT)? {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match rustix::io::write(&self.fd, bytes) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Ending {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    gone: Arc<OwnedFd>,
    status: Option<ExitStatus>,
    // Held, not used: its end hangs up the lifeline.
    _lifeline: Option<OwnedFd>,
}

impl Ending {
    /// Whether the leader ends within `patience`. It is not reaped by this.
    fn ends(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { return false };
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl EndLink for Ending {
    fn end(&mut self, patience: Duration) {
        if self.status.is_some() {
            return;
        }
        let half = patience / 2;
        if !self.ends(half) && !half.is_zero() {
            // It fails when the group is gone, which is what is asked for.
            let _gone = kill_process_group(self.pid, Signal::TERM);
            let _ended = self.ends(half);
        }
        // Also those that the leader left behind.
        let _gone = kill_process_group(self.pid, Signal::KILL);
        self.status = self.child.wait().ok();
        let _written = rustix::io::write(self.gone.as_fd(), &1_u64.to_ne_bytes());
    }

    fn last_words(&mut self) -> Option<String> {
        self.status.map(|status| status.to_string())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}
