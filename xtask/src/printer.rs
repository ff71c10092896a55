//! The one way to the terminal: results to stdout, all else to stderr.

use std::io::{self, Write};

/// Prints what the command is for, on stdout.
pub(crate) fn result(text: &str) {
    // A reader that went away wants no more text, so a broken pipe is no failure.
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints what is going on, on stderr.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Announces a step.
pub(crate) fn step(text: &str) {
    note(&format!("\n==> {text}"));
}

/// Prints an error and its causes.
pub(crate) fn error(error: &anyhow::Error) {
    note(&format!("error: {error}"));
    for cause in error.chain().skip(1) {
        note(&format!("  caused by: {cause}"));
    }
}

/// Lays out rows in columns, two spaces apart.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect();
        assert_eq!(table(&[row(&["a", "b"]), row(&["long", "µ", "c"])]), "a     b\nlong  µ  c");
    }
}
