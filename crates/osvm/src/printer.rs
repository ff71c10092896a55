//! The only way out of osvm: results to stdout, words for people to stderr.
//!
//! # Invariants
//!
//! - stdout carries what was asked for and nothing else, so it can be piped and parsed.
//! - A reader that goes away early is success: it has seen what it wanted.
//! - Text that a guest or a tool wrote never reaches a terminal with its control characters
//!   alive: they are shown as escapes.
//! - Colors never carry meaning, and go away where `NO_COLOR` or the stream says so.
//!
//! # Not here
//!
//! - Log lines (`logging`), which are written by `tracing-subscriber`.

use crate::cli::ColorWhen;
use crate::failure::Failure;
use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;
use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Style of the word `error`.
const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Style of the word `hint` and of headings.
const ACCENT: Style = AnsiColor::Cyan.on_default().bold();

/// Writes to the terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    quiet: bool,
}

impl Printer {
    /// A printer; `quiet` drops what is neither a result nor an error.
    pub(crate) fn new(quiet: bool, color: ColorWhen) -> Self {
        match color {
            ColorWhen::Auto => ColorChoice::Auto,
            ColorWhen::Always => ColorChoice::AlwaysAnsi,
            ColorWhen::Never => ColorChoice::Never,
        }
        .write_global();
        Self { quiet }
    }

    /// Whether log lines and errors on stderr are colored.
    pub(crate) fn colors_stderr() -> bool {
        AutoStream::choice(&io::stderr()) != ColorChoice::Never
    }

    /// Writes a result and ends the line.
    pub(crate) fn result(self, text: &str) -> Result<(), Failure> {
        Self::stdout(text, if text.ends_with('\n') { "" } else { "\n" })
    }

    /// Writes a piece of a result as it comes; the line goes on.
    pub(crate) fn piece(self, text: &str) -> Result<(), Failure> {
        Self::stdout(text, "")
    }

    fn stdout(text: &str, end: &str) -> Result<(), Failure> {
        let text = if io::stdout().is_terminal() { escape(text) } else { Cow::Borrowed(text) };
        let mut out = io::stdout().lock();
        let written = out
            .write_all(text.as_bytes())
            .and_then(|()| out.write_all(end.as_bytes()))
            .and_then(|()| out.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::new("output", "cannot write to stdout").caused_by(&error)),
            Ok(()) => Ok(()),
        }
    }

    /// Writes a result that is one JSON document the size of a few lines, for people too.
    pub(crate) fn pretty_json(self, value: &impl Serialize) -> Result<(), Failure> {
        self.result(&serde_json::to_string_pretty(value).map_err(unprintable)?)
    }

    /// Writes a result that is one JSON document, on one line.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        self.result(&serde_json::to_string(value).map_err(unprintable)?)
    }

    /// Writes one line for people, unless `--quiet`.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            Self::stderr(&format!("{}\n", escape(text)));
        }
    }

    /// Writes a question, and stays on its line for the answer.
    pub(crate) fn question(self, text: &str) {
        Self::stderr(&escape(text));
    }

    /// Writes why a command failed.
    pub(crate) fn failure(self, failure: &Failure) {
        Self::stderr(&render(failure));
    }

    /// Writes what the command-line parser has to say; help goes to stdout.
    pub(crate) fn usage(self, error: &clap::Error) -> Result<(), Failure> {
        let text = error.render().ansi().to_string();
        if error.use_stderr() {
            Self::stderr(&text);
            return Ok(());
        }
        match anstream::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::new("output", "cannot write to stdout").caused_by(&error))
            }
            _ => Ok(()),
        }
    }

    fn stderr(text: &str) {
        // With stderr gone there is nobody left to tell.
        let _ = anstream::stderr().lock().write_all(text.as_bytes());
    }
}

fn unprintable(error: serde_json::Error) -> Failure {
    Failure::new("output", "cannot write the result as JSON").caused_by(&error)
}

/// An error the way every command shows one, with styles.
fn render(failure: &Failure) -> String {
    let mut text = format!("{ERROR}error{ERROR:#}: {}\n", escape(&failure.message));
    for cause in &failure.causes {
        let _ = writeln!(text, "  caused by: {}", escape(cause));
    }
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "\n{ACCENT}hint{ACCENT:#}: {}", escape(hint));
    }
    text
}

/// The chain below an error, outermost first.
pub(crate) fn causes(error: &dyn Error) -> Vec<String> {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts
}

/// Shows control characters and those that reorder text as `\u` escapes.
///
/// In JSON text these can only stand inside strings, where the escape means the same character.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Lines up rows of text in columns, two spaces apart, without trailing blanks.
pub(crate) fn table<R: AsRef<[String]>>(rows: &[R]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        let row = row.as_ref();
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.as_ref().iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_sequence_of_a_tool_is_shown_not_obeyed() {
        check_escape("\u{1b}[2Jgone", "\\u001b[2Jgone");
    }

    #[test]
    fn text_that_reorders_its_neighbours_is_shown_as_escapes() {
        check_escape("a\u{202e}b", "a\\u202eb");
    }

    #[test]
    fn line_breaks_tabs_and_letters_of_any_script_stay() {
        check_escape("ä\n\tμ 日本", "ä\n\tμ 日本");
    }

    #[test]
    fn escaped_json_still_means_the_same() {
        let before = "{\"a\":\"\u{9b}2J\u{7f}\"}";
        let after: serde_json::Value = serde_json::from_str(&escape(before)).unwrap();
        assert_eq!(after, serde_json::from_str::<serde_json::Value>(before).unwrap());
    }

    #[test]
    fn columns_line_up_and_lines_end_where_their_text_ends() {
        let rows = [["CID".into(), "IMAGE".into()], ["200".into(), "μ".into()]];
        assert_eq!(table(&rows), "CID  IMAGE\n200  μ\n");
    }

    #[test]
    fn an_error_shows_its_causes_and_then_one_hint() {
        let mut failure = Failure::new("kvm", "cannot open `/dev/kvm`");
        failure.causes.push("Permission denied (os error 13)".into());
        failure.hint = Some("run `osvm doctor`".into());
        let plain = anstream::adapter::strip_str(&render(&failure)).to_string();
        assert_eq!(
            plain,
            "error: cannot open `/dev/kvm`\n  caused by: Permission denied (os error 13)\n\n\
             hint: run `osvm doctor`\n"
        );
    }

    #[track_caller]
    fn check_escape(text: &str, shown: &str) {
        assert_eq!(escape(text), shown);
    }
}
