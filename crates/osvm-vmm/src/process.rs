//! One VM process: started with a few descriptors, watched through a pidfd, always reaped.
//!
//! ```text
//! osvm ── stdin  ── whatever the backend talks through ──▶ VM process
//!      ── stdout ── lifeline: a pipe nobody writes to  ──▶
//!      ◀─ stderr ── its last words, bounded            ───
//! ```
//!
//! # Invariants
//!
//! - A [`VmProcess`] that is gone from memory is gone from the host: dropping it kills the
//!   process and waits for its end, and the kernel has freed all it held before that wait ends.
//! - Only osvm holds the writing end of the lifeline. However osvm dies, the kernel hangs up the
//!   reading end. What the VM process does about it is its own business.
//! - Signals go through the pidfd, so a recycled process id is never hit.
//! - A process that writes more than a pipe holds to its stderr loses the rest; it never blocks.
//! - The process gets no environment variables and no descriptors but those named here.
//!
//! # Not here
//!
//! - What the process does, and how it is told: each backend has its own way.

use crate::Killer;
use crate::text::clean;
use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest report read from a VM process, in bytes.
pub const MAX_REPORT: usize = 4096;

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments, without its own name.
    pub args: &'a [OsString],
    /// What it reads as standard input.
    pub stdin: OwnedFd,
    /// Further descriptors and the numbers they get. Leave it empty where descriptors can be
    /// sent over a socket: without mappings the process is started with `vfork`, which spares
    /// the copy of osvm's page tables.
    pub fds: Vec<(OwnedFd, i32)>,
}

/// A running VM process. Dropping it ends the process and waits until it is gone.
#[derive(Debug)]
pub struct VmProcess {
    child: Child,
    pidfd: Arc<OwnedFd>,
    report: OwnedFd,
    // Held, not used: its end hangs up the lifeline.
    _lifeline: OwnedFd,
}

impl VmProcess {
    /// Starts the process.
    ///
    /// # Errors
    ///
    /// What the host answered, `NotFound` and `PermissionDenied` among it.
    pub fn spawn(launch: Launch<'_>) -> io::Result<Self> {
        let (lifeline_end, lifeline) = pipe_with(PipeFlags::CLOEXEC)?;
        let (report, report_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut command = Command::new(launch.program);
        command.args(launch.args).env_clear();
        command.stdin(launch.stdin).stdout(lifeline_end).stderr(Stdio::from(report_end));
        if !launch.fds.is_empty() {
            let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
            let mappings = launch.fds.into_iter().map(mapping).collect();
            command.fd_mappings(mappings).map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        let mut child = command.spawn()?;
        match pidfd(&child) {
            Ok(pidfd) => Ok(Self { child, pidfd: Arc::new(pidfd), report, _lifeline: lifeline }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL, from any thread, also when it is long gone.
    pub fn killer(&self) -> Killer {
        let pidfd = Arc::clone(&self.pidfd);
        Killer::new(move || {
            // It fails when the process is gone already, which is what was asked for.
            let _gone = pidfd_send_signal(&pidfd, Signal::KILL);
        })
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for its end, until `deadline`; `None` means that it still runs.
    pub fn wait(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Ok(None);
            }
            let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut [PollFd::new(&*self.pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends it if it still runs, and waits until it is gone.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.killer().kill();
        self.child.wait()
    }

    /// Memory that it shares with no other process, in KiB; `None` once it has ended.
    pub fn private_kb(&self) -> Option<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        anonymous(&std::fs::read_to_string(path).ok()?)
    }

    /// What it has written to stderr so far, cut to [`MAX_REPORT`] bytes and cleaned.
    pub fn report(&mut self) -> String {
        let mut bytes = Vec::with_capacity(MAX_REPORT);
        while bytes.len() < MAX_REPORT {
            let mut piece = [0; 512];
            match rustix::io::read(&self.report, &mut piece) {
                Ok(0) => break,
                Ok(len) => bytes.extend_from_slice(piece.get(..len).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        clean(&bytes, MAX_REPORT)
    }
}

impl Drop for VmProcess {
    fn drop(&mut self) {
        // Without a way to report it here; the process got its SIGKILL in any case.
        let _status = self.end();
    }
}

/// `Anonymous` of proc_pid_smaps(5), in KiB: what was written by this process or for it. The other
/// counters take a page of a file for private while no second process has it mapped.
fn anonymous(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    // The child is not reaped yet, so its number cannot have been given to another process.
    Ok(pidfd_open(Pid::from_child(child), PidfdFlags::empty())?)
}

#[cfg(test)]
mod tests;
