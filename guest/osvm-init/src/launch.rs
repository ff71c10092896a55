//! `osvm-init launch`: drops every right and becomes the server.
//!
//! ```text
//! launch UID PROCESSES CWD COMMAND ARG…      environment: the server's own
//! ```
//!
//! A program of its own, because between `fork` and `exec` of PID 1 nothing safe may run.

use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, setrlimit, setsid};
use rustix::thread::{set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Files a server may have open: what systemd gives a service.
const MAX_FILES: u64 = 524_288;

/// How readily the kernel ends the server when memory is full; PID 1 is never chosen.
const OUT_OF_MEMORY_SCORE: &str = "500";

/// The exit code of a server that could not be started, as shells have it.
const NOT_STARTED: u8 = 127;

/// The words of the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) uid: u32,
    pub(crate) max_processes: u32,
    pub(crate) cwd: OsString,
    pub(crate) command: OsString,
    pub(crate) args: Vec<OsString>,
}

impl Order {
    /// The command line after [`crate::LAUNCH`].
    pub(crate) fn words(&self) -> Vec<OsString> {
        let numbers = [self.uid.to_string().into(), self.max_processes.to_string().into()];
        let mut words: Vec<OsString> = numbers.to_vec();
        words.extend([self.cwd.clone(), self.command.clone()]);
        words.extend(self.args.iter().cloned());
        words
    }

    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut number = || words.next()?.to_str()?.parse().ok();
        let (uid, max_processes) = (number()?, number()?);
        let (cwd, command) = (words.next()?, words.next()?);
        Some(Self { uid, max_processes, cwd, command, args: words.collect() })
    }
}

/// Becomes the server. What it says goes to the server's stderr, and so to osvm's log.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(order) = Order::parse(words) else {
        crate::say("osvm-init: bad launch order\n");
        return ExitCode::from(2);
    };
    let command = order.command.to_string_lossy().into_owned();
    match drop_rights(&order) {
        Ok(()) => {
            let error = Command::new(&order.command).args(&order.args).exec();
            crate::say(&format!("osvm-init: cannot run `{command}`: {error}\n"));
        }
        Err(error) => crate::say(&format!("osvm-init: cannot prepare `{command}`: {error}\n")),
    }
    ExitCode::from(NOT_STARTED)
}

fn drop_rights(order: &Order) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE)?;
    chdir(&order.cwd)?;
    setsid()?;
    for (resource, most) in [
        (Resource::Nproc, u64::from(order.max_processes)),
        (Resource::Nofile, MAX_FILES),
        (Resource::Core, 0),
    ] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    // A privilege that is gone can't come back by running a program.
    set_no_new_privs(true)?;
    set_thread_groups(&[])?;
    set_thread_gid(Gid::from_raw(order.uid))?;
    // The last step: it takes the capabilities with it.
    set_thread_uid(Uid::from_raw(order.uid))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_the_command_line() {
        let order = Order {
            uid: 1000,
            max_processes: 64,
            cwd: "/a b".into(),
            command: "/usr/bin/node".into(),
            args: vec!["--flag".into(), "".into(), "x y".into()],
        };
        let words = order.words().into_iter();
        assert_eq!(Order::parse(words), Some(order));
    }

    #[test]
    fn an_order_without_a_command_is_refused() {
        for line in ["", "1000", "1000 64 /", "x 64 / /bin/true"] {
            let words = line.split_whitespace().map(OsString::from);
            assert_eq!(Order::parse(words), None, "{line}");
        }
    }
}
