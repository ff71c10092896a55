//! Reads the serial console of the test host.

use crate::printer;
use crate::tally::Tally;
use std::collections::BTreeSet;
use std::time::Instant;

/// Starts each line that `osvm-test-host-init` means for us.
const MARK: &str = "osvm-test-host:";

/// What the console has said so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    total: Tally,
    /// Counted by the program that runs now.
    current: Tally,
    /// Tests that failed, by program and name.
    failed: BTreeSet<String>,
    program: String,
    /// When that program was started.
    since: Option<Instant>,
    done: bool,
}

/// What one run came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// The final count.
    pub(super) tally: Tally,
    /// Tests that failed, by program and name.
    pub(super) failed: BTreeSet<String>,
}

impl Ended {
    /// Whether every failure is that of a test with a name: then another run can tell more.
    pub(super) fn names_its_failures(&self) -> bool {
        u64::try_from(self.failed.len()) == Ok(self.tally.failed)
    }

    /// The programs with failed tests, as a list with commas.
    pub(super) fn failing(&self) -> String {
        let program = |name: &String| name.split(' ').next().unwrap_or_default().to_owned();
        let programs: BTreeSet<String> = self.failed.iter().map(program).collect();
        programs.into_iter().collect::<Vec<_>>().join(",")
    }

    /// The count of a run and of a second one of the programs that failed in it: a test has failed
    /// if it failed in both.
    pub(super) fn with(self, second: Self) -> Tally {
        let both = self.failed.intersection(&second.failed).count();
        let mut tally = self.tally;
        if second.names_its_failures() {
            let both = u64::try_from(both).unwrap_or(u64::MAX);
            tally.passed += tally.failed.saturating_sub(both);
            tally.failed = both;
        }
        for name in self.failed.symmetric_difference(&second.failed) {
            printer::note(&format!("  FLAKY, failed in one run of two: {name}"));
        }
        tally
    }
}

impl Report {
    /// Takes in one line; true when it is a program's own and people may want to see it.
    pub(super) fn see(&mut self, line: &str) -> bool {
        let Some((_, word)) = line.split_once(MARK) else {
            if let Some(tally) = Tally::from_summary(line) {
                self.current += tally;
            }
            let failed =
                line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
            if let Some(name) = failed {
                self.failed.insert(format!("{} {name}", self.program));
            }
            return !line.trim().is_empty();
        };
        let words: Vec<&str> = word.split_whitespace().collect();
        match words.as_slice() {
            ["begin", name] => {
                self.current = Tally::default();
                self.program = (*name).to_owned();
                self.since = Some(Instant::now());
                printer::note(&format!("  {name}"));
            }
            ["end", _, code] => self.end_program(*code == "0"),
            ["done"] => self.done = true,
            _ => printer::note(&format!("  test host: {}", word.trim())),
        }
        false
    }

    /// A program that counts nothing has failed, whatever it says: its tests have other names by
    /// now. So has one that fails without saying so.
    fn end_program(&mut self, succeeded: bool) {
        if self.current.is_empty() || (!succeeded && self.current.failed == 0) {
            self.current += Tally::one(false);
        }
        self.total += self.current;
        self.current = Tally::default();
        if let Some(since) = self.since.take() {
            printer::note(&format!("  {}: {} s", self.program, since.elapsed().as_secs()));
        }
    }

    /// The final count. A host that went away before it was done is a failure.
    pub(super) fn finish(mut self, qemu_succeeded: bool) -> Ended {
        if !self.done || !qemu_succeeded {
            printer::note("  the test host ended before its programs did");
            self.total += Tally::one(false);
        }
        Ended { tally: self.total, failed: self.failed }
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
    fn a_program_whose_tests_are_none_of_those_asked_for_has_failed() {
        let console = "\
osvm-test-host: begin a
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 88 filtered out; finished in 0.00s
osvm-test-host: end a 0
osvm-test-host: done";
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
        assert_eq!(report.finish(true).tally, expected);
    }

    #[test]
    fn a_test_has_failed_if_it_failed_in_both_of_two_runs() {
        let run = |failing: &[&str]| {
            let mut report = Report::default();
            report.see("osvm-test-host: begin a");
            for name in ["one", "two", "three"] {
                let end = if failing.contains(&name) { "FAILED" } else { "ok" };
                report.see(&format!("test {name} ... {end}"));
            }
            let (passed, failed) = (3 - failing.len(), failing.len());
            report
                .see(&format!("test result: FAILED. {passed} passed; {failed} failed; 0 ignored"));
            report.see("osvm-test-host: end a 101");
            report.see("osvm-test-host: done");
            report.finish(true)
        };
        let tally = run(&["one", "two"]).with(run(&["two", "three"]));
        assert_eq!(tally, Tally { passed: 2, failed: 1, skipped: 0 });
    }
}
