//! How Rust files begin, and how long they may get.

use super::Source;

/// Files longer than this are hard to keep in one's head.
const MAX_LINES: usize = 600;

/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Inline tests up to this many lines stay where they are, whatever the code around them.
const SHORT_TESTS: usize = 60;

/// One line for each file that does not open with `//!`.
pub(super) fn without_header(files: &[&Source]) -> Vec<String> {
    let bare = files.iter().filter(|file| !file.text.starts_with("//! "));
    bare.map(|file| format!("`{}` does not open with `//!` and what it is for", file.path))
        .collect()
}

/// One line for each file over [`MAX_LINES`], and for each exception that needs none any more.
pub(super) fn too_long(files: &[&Source]) -> Vec<String> {
    let mut lines = Vec::new();
    for file in files {
        let count = file.text.lines().count();
        let excepted = LONG_FILES.iter().any(|(path, _)| *path == file.path);
        match (MAX_LINES < count, excepted) {
            (true, false) => {
                lines
                    .push(format!("`{}` has {count} lines, over {MAX_LINES}: split it", file.path));
            }
            (false, true) => {
                lines.push(format!("`{}` is short enough: drop it from LONG_FILES", file.path));
            }
            (true, true) | (false, false) => {}
        }
    }
    let gone = LONG_FILES.iter().filter(|(path, _)| files.iter().all(|file| file.path != *path));
    lines.extend(gone.map(|(path, _)| format!("`{path}` is gone: drop it from LONG_FILES")));
    lines
}

/// One line for each file whose inline tests are longer than its code.
pub(super) fn long_inline_tests(files: &[&Source]) -> Vec<String> {
    let mut lines = Vec::new();
    for file in files {
        let total = file.text.lines().count();
        let before = file.text.lines().take_while(|line| !line.starts_with("mod tests {")).count();
        let tests = total.saturating_sub(before);
        if SHORT_TESTS < tests && before < tests {
            let tests_file = file.path.replace(".rs", "/tests.rs");
            lines.push(format!(
                "`{}` has {tests} lines of tests below {before} of code: move them to `{tests_file}`",
                file.path
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_header_is_named() {
        let file = source("use std::fmt;\n");
        assert_eq!(without_header(&[&file]).len(), 1);
        assert!(without_header(&[&source("//! Formats.\nuse std::fmt;\n")]).is_empty());
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        assert!(too_long(&[&source(&"\n".repeat(MAX_LINES))]).is_empty());
        assert_eq!(too_long(&[&source(&"\n".repeat(MAX_LINES + 1))]).len(), 1);
    }

    #[test]
    fn tests_longer_than_code_move_out() {
        let tests = format!("mod tests {{\n{}}}\n", "\n".repeat(80));
        assert_eq!(long_inline_tests(&[&source(&tests)]).len(), 1);
        assert!(long_inline_tests(&[&source(&("\n".repeat(90) + &tests))]).is_empty());
    }

    fn source(text: &str) -> Source {
        Source { path: "a.rs".into(), text: text.into() }
    }
}
