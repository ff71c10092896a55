//! VM processes that outlived their osvm.
//!
//! There should be none: the kernel ends a VM process when the pipe that only its osvm writes to
//! is closed. This looks for what should not be, so that somebody would notice.
//!
//! # Invariants
//!
//! - Only processes of this user that run this osvm's own VM program are ever ended, and only
//!   when their osvm is gone.
//! - What is ended is what was looked at: the process is held by a pidfd from before the look.

use crate::failure::Failure;
use crate::vm_program;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Longest name of a process that the kernel keeps, in bytes.
const COMM: usize = 15;

/// Process ids of the VM processes whose osvm is gone.
pub(super) fn find() -> Result<Vec<u32>, Failure> {
    Ok(held()?.into_iter().map(|(pid, _)| pid).collect())
}

/// Ends them, and says which they were.
pub(super) fn end() -> Result<Vec<u32>, Failure> {
    let mut ended = Vec::new();
    for (pid, process) in held()? {
        pidfd_send_signal(&process, Signal::KILL).map_err(|error| {
            let message = format!("cannot end VM process {pid}");
            Failure::new("host", message).caused_by(&io::Error::from(error))
        })?;
        ended.push(pid);
    }
    Ok(ended)
}

fn held() -> Result<Vec<(u32, OwnedFd)>, Failure> {
    // Without a program nothing can be told to be ours.
    let Ok(program) = vm_program::find() else { return Ok(Vec::new()) };
    let program = program.canonicalize().unwrap_or(program);
    let all = processes().map_err(|error| {
        Failure::new("host", "cannot list the processes in `/proc`").caused_by(&error)
    })?;
    let mut found = Vec::new();
    for &pid in &all {
        let Some(process) = open(pid) else { continue };
        if runs(pid, &program) && is_orphan(pid, &all) {
            found.push((pid, process));
        }
    }
    Ok(found)
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

fn processes() -> io::Result<Vec<u32>> {
    let pids =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.collect())
}

/// Whether the process is this user's and runs `program`.
///
/// A VM process hides its program from other processes without privileges; then its name has to
/// do, which it can't change.
fn runs(pid: u32, program: &Path) -> bool {
    let Some(Status { name, user, zombie, .. }) = status(pid) else { return false };
    if user != geteuid().as_raw() || zombie {
        return false;
    }
    match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(exe) => exe == program,
        Err(_) => {
            let expected = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            expected.get(..expected.len().min(COMM)) == Some(&name)
        }
    }
}

/// Whether nobody holds the writing end of the process's lifeline, its standard output.
///
/// Where the lifeline can't be seen, a process is an orphan when it was given to init.
fn is_orphan(pid: u32, all: &[u32]) -> bool {
    let Ok(lifeline) = fs::read_link(format!("/proc/{pid}/fd/1")) else {
        let parent = status(pid).map_or(0, |status| status.parent);
        return parent == 1 || status(parent).is_some_and(|parent| parent.name == "systemd");
    };
    !all.iter().any(|other| *other != pid && writes(*other, &lifeline))
}

/// Whether the process has `file` open for writing.
fn writes(pid: u32, file: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|target: PathBuf| target == file)
            && descriptor
                .file_name()
                .to_str()
                .and_then(|number| fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok())
                .is_some_and(|info| may_write(&info))
    })
}

/// Reads the access mode from the `flags` line of a fdinfo file: octal, as in `open(2)`.
fn may_write(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 0o3 != 0)
}

/// The lines of `/proc/PID/status` that matter here; every process may read them.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    name: String,
    user: u32,
    parent: u32,
    zombie: bool,
}

fn status(pid: u32) -> Option<Status> {
    parse_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_status(text: &str) -> Option<Status> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':').map(str::trim)
    };
    Some(Status {
        name: value("Name")?.into(),
        user: value("Uid")?.split_ascii_whitespace().next()?.parse().ok()?,
        parent: value("PPid")?.parse().ok()?,
        zombie: value("State")?.starts_with(['Z', 'X']),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_file_says_who_runs_what_for_whom() {
        let text =
            "Name:\tosvm-vm\nUmask:\t0022\nState:\tS (sleeping)\nPPid:\t7\nUid:\t5\t5\t5\t5\n";
        let expected = Status { name: "osvm-vm".into(), user: 5, parent: 7, zombie: false };
        assert_eq!(parse_status(text), Some(expected));
    }

    #[test]
    fn a_status_file_without_its_lines_is_nobody() {
        assert_eq!(parse_status("Name:\tx\n"), None);
    }

    #[test]
    fn only_a_descriptor_for_writing_keeps_a_lifeline_alive() {
        assert!(!may_write("pos:\t0\nflags:\t02000000\n"));
        assert!(may_write("pos:\t0\nflags:\t02000001\n"));
        assert!(may_write("flags:\t0100002\n"));
        assert!(!may_write(""));
    }

    #[test]
    fn this_test_is_no_leftover() {
        let own = std::process::id();
        assert!(!runs(own, Path::new("/nonexistent/osvm-vm")));
        assert!(runs(own, &std::env::current_exe().unwrap()));
    }
}
