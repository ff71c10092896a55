//! The checks behind the scripts of the handbook: what a user can verify on their own machine.
//!
//! Each check is a sentence that is true or false, printed with what was seen. The last line is
//! `N passed, N failed`, with `, N skipped` where something can't be looked at on this host.

mod execution;
mod performance;
mod processes;
mod security;

use crate::printer;
use crate::project::Project;
use crate::tally::Tally;
use anyhow::{Result, bail};
use std::process::ExitCode;

/// What was seen, or what was wrong.
type Seen = Result<String>;

/// The checks so far.
#[derive(Debug, Default)]
struct Checks {
    tally: Tally,
}

impl Checks {
    /// Starts a group.
    fn group(&self, name: &str) {
        printer::result(&format!("\n{name}"));
    }

    /// Makes one check.
    fn check(&mut self, sentence: &str, look: impl FnOnce() -> Seen) {
        let seen = look();
        self.tally += Tally::one(seen.is_ok());
        match seen {
            Ok(seen) if seen.is_empty() => printer::result(&format!("  ok    {sentence}")),
            Ok(seen) => printer::result(&format!("  ok    {sentence}: {seen}")),
            Err(error) => printer::result(&format!("  FAIL  {sentence}: {error:#}")),
        }
    }

    /// Names what can't be looked at here, and why.
    fn skip(&mut self, sentence: &str, reason: &str) {
        self.tally += Tally::skip();
        printer::result(&format!("  skip  {sentence}: {reason}"));
    }

    fn finish(self) -> ExitCode {
        let Tally { passed, failed, skipped } = self.tally;
        let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
        printer::result(&format!("\n{passed} passed, {failed} failed{skipped}"));
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// `cargo xtask check NAME`.
pub(crate) fn run(project: &Project, name: &str) -> Result<ExitCode> {
    let mut checks = Checks::default();
    match name {
        "install" => execution::install(project, &mut checks),
        "execution" => execution::check(project, &mut checks)?,
        "performance" => performance::check(project, &mut checks)?,
        "security" => security::check(project, &mut checks)?,
        _ => bail!("there is no check `{name}`: install, execution, performance, security"),
    }
    Ok(checks.finish())
}

/// Fails unless `value` is `expected`.
fn same<T: PartialEq + std::fmt::Debug>(value: &T, expected: &T) -> Result<()> {
    if value != expected {
        bail!("it is {value:?}, not {expected:?}");
    }
    Ok(())
}
