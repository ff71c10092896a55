//! Reads the serial console of the test host.

use crate::printer;
use crate::tally::Tally;

/// Starts each line that `osvm-test-host-init` means for us.
const MARK: &str = "osvm-test-host:";

/// What the console has said so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    total: Tally,
    /// Counted by the program that runs now.
    current: Tally,
    done: bool,
}

impl Report {
    /// Takes in one line; true when it is a program's own and people may want to see it.
    pub(super) fn see(&mut self, line: &str) -> bool {
        let Some((_, word)) = line.split_once(MARK) else {
            if let Some(tally) = Tally::from_summary(line) {
                self.current += tally;
            }
            return !line.trim().is_empty();
        };
        let words: Vec<&str> = word.split_whitespace().collect();
        match words.as_slice() {
            ["begin", name] => {
                self.current = Tally::default();
                printer::note(&format!("  {name}"));
            }
            ["end", _, code] => self.end_program(*code == "0"),
            ["done"] => self.done = true,
            _ => printer::note(&format!("  test host: {}", word.trim())),
        }
        false
    }

    /// A program that counts nothing is one check; one that fails without saying so has failed.
    fn end_program(&mut self, succeeded: bool) {
        if self.current.is_empty() || (!succeeded && self.current.failed == 0) {
            self.current += Tally::one(succeeded);
        }
        self.total += self.current;
        self.current = Tally::default();
    }

    /// The final count. A host that went away before it was done is a failure.
    pub(super) fn finish(mut self, qemu_succeeded: bool) -> Tally {
        if !self.done || !qemu_succeeded {
            printer::note("  the test host ended before its programs did");
            self.total += Tally::one(false);
        }
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_programs_are_added() {
        let console = "\
osvm-test-host: begin a
test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
osvm-test-host: end a 0
osvm-test-host: begin b
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
osvm-test-host: end b 101
osvm-test-host: done";
        check(console, Tally { passed: 4, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_program_that_dies_without_a_count_has_failed() {
        let console = "osvm-test-host: begin a\nosvm-test-host: end a 139\nosvm-test-host: done";
        check(console, Tally { passed: 0, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_console_that_ends_early_is_a_failure() {
        check("osvm-test-host: begin a\n", Tally { passed: 0, failed: 1, skipped: 0 });
        check("osvm-test-host: failed cannot load", Tally { passed: 0, failed: 1, skipped: 0 });
    }

    #[track_caller]
    fn check(console: &str, expected: Tally) {
        let mut report = Report::default();
        for line in console.lines() {
            report.see(line);
        }
        assert_eq!(report.finish(true), expected);
    }
}
