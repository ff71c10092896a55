//! Asks the user before something happens that was not asked for to the letter.

use crate::failure::Failure;
use crate::printer::Printer;
use std::io::{self, BufRead, IsTerminal, Read};

/// Returns if the user wants it: `yes` was given, or the question was answered so.
///
/// # Errors
///
/// The answer was no, or there is no terminal to ask on.
pub(crate) fn confirm(printer: Printer, question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(
            "unconfirmed",
            "nothing was changed: there is no terminal to ask on",
        )
        .hint("`-y` says yes"));
    }
    printer.question(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().lock().take(64).read_line(&mut answer);
    if read.is_ok() && ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::new("unconfirmed", "nothing was changed"))
}
