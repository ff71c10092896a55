//! Counting what passed, failed and was skipped, over programs that count for themselves.

use std::fmt;
use std::ops::AddAssign;

/// How many checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// One check.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), skipped: 0 }
    }

    /// One check that could not be made here.
    pub(crate) fn skip() -> Self {
        Self { skipped: 1, ..Self::default() }
    }

    /// Whether nothing was counted.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// What the summary line of a test runner or of one of our scripts says:
    ///
    /// - libtest: `test result: ok. 5 passed; 0 failed; 1 ignored; …`
    /// - nextest: `Summary [   0.5s] 5 tests run: 5 passed, 1 skipped`
    /// - ours: `5 passed, 0 failed, 1 skipped`
    pub(crate) fn from_summary(line: &str) -> Option<Self> {
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ")?.1,
            None => line
                .trim_start()
                .strip_prefix("Summary [")
                .map_or(Some(line), |rest| rest.split_once("run: ").map(|(_, counts)| counts))?,
        };
        let mut tally = Self::default();
        let mut known = 0;
        for part in counts.split([',', ';']) {
            let (number, words) = part.trim().split_once(' ')?;
            // Prose is no summary, but a summary may end in prose: `finished in 0.5s`.
            let Ok(number) = number.parse() else {
                if known == 0 {
                    return None;
                }
                continue;
            };
            let count = match words.split(' ').next()? {
                "passed" => &mut tally.passed,
                "failed" => &mut tally.failed,
                "skipped" | "ignored" => &mut tally.skipped,
                _ => continue,
            };
            *count = number;
            known += 1;
        }
        (known > 0).then_some(tally)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_is_understood() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s";
        check(line, Some(Tally { passed: 5, failed: 2, skipped: 1 }));
    }

    #[test]
    fn nextest_is_understood() {
        let line = "     Summary [   0.52s] 7 tests run: 5 passed (1 slow), 2 failed, 4 skipped";
        check(line, Some(Tally { passed: 5, failed: 2, skipped: 4 }));
    }

    #[test]
    fn what_a_runner_quotes_of_a_test_is_not_counted_again() {
        check("    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured", None);
    }

    #[test]
    fn our_scripts_are_understood() {
        check("5 passed, 0 failed", Some(Tally { passed: 5, failed: 0, skipped: 0 }));
        check("5 passed, 1 failed, 2 skipped", Some(Tally { passed: 5, failed: 1, skipped: 2 }));
    }

    #[test]
    fn other_lines_are_no_summary() {
        for line in ["", "ok", "running 3 tests", "three passed, 1 failed", "1 thing, 2 others"] {
            check(line, None);
        }
    }

    #[track_caller]
    fn check(line: &str, expected: Option<Tally>) {
        assert_eq!(Tally::from_summary(line), expected);
    }
}
