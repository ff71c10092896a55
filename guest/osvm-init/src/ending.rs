//! The end of a server in words.

use crate::server::Ended;
use osvm_protocol::linux::Exit;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;

/// Longest record of the kernel's log: CONSOLE_EXT_LOG_MAX of the kernel.
const MAX_RECORD: usize = 8192;

/// What the host is told. `killed` says that PID 1 itself ended the server, and why.
pub(crate) fn words(ended: Ended, pid: i32, killed: Option<String>) -> Exit {
    let out_of_memory = ended.signal == Some(Signal::KILL.as_raw()) && chosen_by_kernel(pid);
    describe(ended, killed, out_of_memory)
}

fn describe(ended: Ended, killed: Option<String>, out_of_memory: bool) -> Exit {
    let reason = match (killed, ended) {
        (Some(why), _) => why,
        (None, _) if out_of_memory => {
            "the server was ended because the guest's memory is full".into()
        }
        (None, Ended { signal: Some(signal), .. }) => {
            format!("the server was ended by {}", name(signal))
        }
        (None, Ended { code: Some(127), .. }) => "the server could not be started".into(),
        (None, Ended { code: Some(code), .. }) => format!("the server exited with code {code}"),
        (None, _) => "the server ended".into(),
    };
    Exit { reason, code: ended.code, signal: ended.signal, out_of_memory }
}

fn name(signal: i32) -> String {
    let known = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::ILL, "SIGILL"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::TERM, "SIGTERM"),
    ];
    let known = known.into_iter().find(|(known, _)| known.as_raw() == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| name.to_owned())
}

/// Whether the kernel's log says that it ended this process for its memory.
fn chosen_by_kernel(pid: i32) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(log) = open("/dev/kmsg", flags, Mode::empty()) else { return false };
    let mut record = [0; MAX_RECORD];
    loop {
        match rustix::io::read(&log, &mut record) {
            Ok(len) => {
                let text = String::from_utf8_lossy(record.get(..len).unwrap_or_default());
                if names(&text, pid) {
                    return true;
                }
            }
            // Records were overwritten before they were read; the next read goes on behind them.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Whether this record says so: `__oom_kill_process` of the kernel.
fn names(record: &str, pid: i32) -> bool {
    let Some((_, rest)) = record.split_once("Killed process ") else { return false };
    rest.split_once(' ').is_some_and(|(number, _)| number == pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_record_names_the_process() {
        let record = "3,241,9811,-;Out of memory: Killed process 61 (node) total-vm:1kB";
        assert!(names(record, 61));
        assert!(!names(record, 6));
        assert!(!names("6,1,1,-;Linux version 61 (node)", 61));
    }

    #[test]
    fn every_end_has_words() {
        let ended = |code, signal| Ended { code, signal };
        let words = |ended, oom| describe(ended, None, oom).reason;
        assert_eq!(words(ended(Some(3), None), false), "the server exited with code 3");
        assert_eq!(words(ended(None, Some(11)), false), "the server was ended by SIGSEGV");
        assert_eq!(words(ended(None, Some(34)), false), "the server was ended by signal 34");
        assert!(words(ended(None, Some(9)), true).contains("memory is full"));
        let killed = describe(ended(None, Some(9)), Some("too long".into()), false);
        assert_eq!(killed.reason, "too long");
    }
}
