//! A call without a VM: the executor as a plain process of the host, with the user's rights.
//!
//! Only where the isolation config says so, as `"execution_mode": "direct"` or as the fallback.
//! The process gets a clean environment, limits, and a process group of its own, and is killed
//! at the deadline. None of that is isolation.
//!
//! # Invariants
//!
//! - What was checked is what runs: the program is started from its sealed memory file.
//! - Every way out ends the process group and reaps the process, because dropping it does.
//! - Should osvm die first, its end of the stream closes, which ends an executor that reads; one
//!   that computes is ended by its limit on CPU time.

use crate::error::{CallError, EndCause};
use crate::exchange::{Answer, Exchange, FIRST_ID};
use crate::guest::explain;
use crate::wire::Wire;
use osvm_image::{Executor, ImageError};
use osvm_vmm::{GuestStream, Killer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process_group, pidfd_open, pidfd_send_signal,
    prlimit,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use thiserror::Error;

/// Longest log an executor writes, in bytes.
const MAX_LOG: u64 = 1024 * 1024;

/// Descriptors an executor may have open.
const MAX_FILES: u64 = 64;

/// How long an executor that hung up may take to end by itself.
const LAST_MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The executor did not run on the host.
#[derive(Debug, Error)]
pub enum DirectError {
    /// There is none, or not the one that was installed.
    #[error("no executor to run on the host")]
    Executor(#[source] ImageError),
    /// It could not be started.
    #[error("cannot run `{}`", path.display())]
    Start {
        /// The program in the image store.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
}

impl DirectError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Executor(error) => error.hint().map(str::to_owned),
            Self::Start { .. } => None,
        }
    }
}

/// Runs one call.
pub(crate) fn run(
    executor: &Executor,
    exchange: &Exchange<'_>,
    log: File,
) -> Result<Answer, CallError> {
    let start = |source| DirectError::Start { path: executor.path.clone(), source };
    let (stream, mut process) = Process::start(executor, exchange, log).map_err(start)?;
    exchange.cancel.guest_started(process.killer());
    let mut wire = Wire::new(stream);
    let outcome = exchange.run(&mut wire, FIRST_ID);
    let outcome = outcome
        .map_err(|broken| explain(broken, exchange, || process.status().map(EndCause::Process)));
    drop(process);
    exchange.cancel.guest_ended();
    outcome
}

/// A process that leads its own group.
#[derive(Debug)]
struct Process {
    child: Child,
    pidfd: Arc<OwnedFd>,
    reaped: bool,
}

impl Process {
    fn start(
        executor: &Executor,
        exchange: &Exchange<'_>,
        log: File,
    ) -> io::Result<(GuestStream, Self)> {
        let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(kind.0, kind.1, kind.2, None)?;
        let program = format!("/proc/self/fd/{}", executor.file.as_raw_fd());
        let mut command = Command::new(program);
        command.arg0(executor.path.file_name().unwrap_or(executor.path.as_os_str()));
        command.arg("--stdio").env_clear().current_dir(Path::new("/")).process_group(0);
        command.envs(exchange.policy.env_vars.iter().map(|(name, value)| (name, value)));
        command.stdin(theirs.try_clone()?).stdout(theirs).stderr(log);
        let mut child = command.spawn()?;
        let limited = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .and_then(|pidfd| limit(&child, exchange).map(|()| pidfd));
        match limited {
            Ok(pidfd) => {
                let process = Self { child, pidfd: Arc::new(pidfd), reaped: false };
                Ok((GuestStream::new(ours), process))
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    fn killer(&self) -> Killer {
        let pidfd = Arc::clone(&self.pidfd);
        Killer::new(move || {
            // It fails when the process is gone already, which is what was asked for.
            let _gone = pidfd_send_signal(&pidfd, Signal::KILL);
        })
    }

    /// How the process ended that hung up; `None` if it had to be killed.
    fn status(&mut self) -> Option<ExitStatus> {
        let ended = poll(&mut [PollFd::new(&*self.pidfd, PollFlags::IN)], Some(&LAST_MOMENT));
        let status = self.end()?;
        ended.is_ok_and(|ready| ready > 0).then_some(status)
    }

    /// Kills the group and reaps the process, once: until then its number, which is the
    /// group's, can't be another's.
    fn end(&mut self) -> Option<ExitStatus> {
        if std::mem::replace(&mut self.reaped, true) {
            return None;
        }
        let _gone = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.child.wait().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Bounds what the process takes. It has run for some microseconds by then, which is one more
/// reason why this is no isolation.
fn limit(child: &Child, exchange: &Exchange<'_>) -> rustix::io::Result<()> {
    let policy = exchange.policy;
    let limits = [
        (Resource::Core, 0),
        (Resource::Cpu, policy.timeout.as_secs().saturating_add(1)),
        (Resource::Fsize, MAX_LOG),
        (Resource::Nofile, MAX_FILES),
        (Resource::As, u64::from(policy.memory_mb) << 20),
    ];
    for (resource, limit) in limits {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        match prlimit(Some(Pid::from_child(child)), resource, limit) {
            // An executor that has ended already takes nothing any more.
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
