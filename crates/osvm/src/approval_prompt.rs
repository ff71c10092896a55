//! Asks the person at the terminal whether a call may run.

use crate::printer::Printer;
use osvm_rules::{Pending, Prompt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::sync::{Arc, Mutex, PoisonError};

/// How long a look at the keyboard takes before the question may be over.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// One question at a time, on stderr; the answer is a line of stdin.
#[derive(Debug)]
pub(crate) struct Terminal {
    printer: Printer,
    one: Mutex<()>,
}

/// A prompt, where somebody sits at stdin and stderr.
pub(crate) fn prompt(printer: Printer) -> Option<Arc<dyn Prompt>> {
    let there = io::stdin().is_terminal() && io::stderr().is_terminal();
    there.then(|| Arc::new(Terminal { printer, one: Mutex::new(()) }) as Arc<dyn Prompt>)
}

impl Prompt for Terminal {
    fn ask(&self, pending: &Pending, is_over: &dyn Fn() -> bool) -> Option<bool> {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let Pending { server, tool, arguments, why, rule, .. } = pending;
        let colon = if why.is_empty() { "" } else { ": " };
        let question = format!(
            "`{server}/{tool}` needs your approval{colon}{why}\n  arguments: {arguments}\n  rule: \
             {rule}\nLet it run? [y/N] "
        );
        self.printer.question(&question);
        let stdin = io::stdin();
        while !is_over() {
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            if poll(&mut fds, Some(&LOOK)).is_ok_and(|ready| ready > 0) {
                let mut answer = String::new();
                let read = stdin.lock().take(64).read_line(&mut answer);
                let answer = answer.trim().to_ascii_lowercase();
                return Some(read.is_ok() && ["y", "yes"].contains(&answer.as_str()));
            }
        }
        self.printer.note("");
        None
    }
}
