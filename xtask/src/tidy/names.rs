//! Test names, and tests that are switched off.

use super::Source;

/// The one name with the prefix: people and tools call this test by it.
const EXCEPTION: &str = "test_spawn_and_terminate_unikernel";

/// One line for each test that is named after what it calls, or that never runs.
pub(super) fn violations(files: &[&Source]) -> Vec<String> {
    let mut lines = Vec::new();
    for file in files {
        let mut is_test = false;
        for (number, line) in (1..).zip(file.text.lines()) {
            let line = line.trim();
            let place = format!("{}:{number}", file.path);
            is_test |= line.starts_with("#[test]");
            if line.starts_with("#[ignore") {
                lines.push(format!("{place}: a test is switched off: mend it or remove it"));
            }
            let Some(name) = function_name(line) else { continue };
            if is_test && name.starts_with("test_") && name != EXCEPTION {
                lines.push(format!("{place}: `{name}` should state behaviour, without `test_`"));
            }
            is_test = false;
        }
    }
    lines
}

fn function_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_refused_on_tests_only() {
        check("#[test]\nfn test_parse() {}\n", 1);
        check("fn test_image() {}\n#[test]\nfn an_image_is_read() {}\n", 0);
        check(&format!("#[test]\nfn {EXCEPTION}() {{}}\n"), 0);
    }

    #[test]
    fn a_test_that_never_runs_is_refused() {
        check(concat!("#[test]\n#", "[ignore]\nfn parses() {}\n"), 1);
    }

    #[track_caller]
    fn check(text: &str, complaints: usize) {
        let file = Source { path: "a.rs".into(), text: text.into() };
        assert_eq!(violations(&[&file]).len(), complaints);
    }
}
