//! What the conformance suite prints and writes, read and shown.

use crate::printer;
use crate::tally::Tally;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// One scenario.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) name: String,
    /// Whether the revision requires it.
    pub(super) required: bool,
    pub(super) outcome: Outcome,
    /// How many checks passed and failed, in the suite's words.
    checks: String,
}

/// How a scenario ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// It is required, and the suite says nothing of it.
    Missing,
    /// It can't pass, for that reason.
    Cannot(&'static str),
    /// It passed, and was said not to.
    Surprise,
}

impl Scenario {
    /// Whether it counts as passed, or as failed.
    pub(super) fn counts_as(&self, passed: bool) -> bool {
        self.required
            && match self.outcome {
                Outcome::Passed => passed,
                Outcome::Failed | Outcome::Missing | Outcome::Surprise => !passed,
                Outcome::Cannot(_) => false,
            }
    }
}

/// The scenarios below `side:` in a file of requirements. It is YAML, of which only lists are used.
pub(super) fn required(text: &str, side: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| line.strip_suffix(':') != Some(side)).skip(1);
    let lines = lines.take_while(|line| line.is_empty() || line.starts_with([' ', '#']));
    lines.filter_map(|line| line.trim().strip_prefix("- ")).map(str::to_owned).collect()
}

/// The scenarios of a summary: lines like `✓ ping: 2 passed, 0 failed`. All that are required are
/// there.
pub(super) fn read(said: &str, required: &[String]) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = said
        .lines()
        .filter_map(|line| {
            let passed = line.strip_prefix("✓ ").map(|rest| (Outcome::Passed, rest));
            let failed = || line.strip_prefix("✗ ").map(|rest| (Outcome::Failed, rest));
            let (outcome, rest) = passed.or_else(failed)?;
            let (name, checks) = rest.split_once(": ")?;
            let (name, checks) = (name.to_owned(), checks.to_owned());
            Some(Scenario { required: required.contains(&name), name, outcome, checks })
        })
        .collect();
    for name in required {
        if scenarios.iter().all(|scenario| scenario.name != *name) {
            let (name, checks) = (name.clone(), "not run".into());
            scenarios.push(Scenario { name, required: true, outcome: Outcome::Missing, checks });
        }
    }
    scenarios
}

/// For people: how each one ended. Those that can't pass are named together, below their reason.
pub(super) fn table(scenarios: &[Scenario]) -> String {
    let mut rows = Vec::new();
    let mut cannot: Vec<(&str, Vec<&str>)> = Vec::new();
    for scenario in scenarios {
        let word = match scenario.outcome {
            Outcome::Passed if scenario.required => "passed",
            Outcome::Failed | Outcome::Missing if scenario.required => "FAILED",
            Outcome::Passed => "passed, not required",
            Outcome::Failed | Outcome::Missing => "failed, not required",
            Outcome::Surprise => "FAILED: passed, so take it off the list of what can't",
            Outcome::Cannot(reason) => {
                match cannot.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, names)) => names.push(&scenario.name),
                    None => cannot.push((reason, vec![&scenario.name])),
                }
                continue;
            }
        };
        rows.push(vec![format!("  {}", scenario.name), scenario.checks.clone(), word.to_owned()]);
    }
    let mut text = printer::table(&rows);
    for (reason, names) in cannot {
        text.push_str(&format!("\n  {} can't pass: {reason}:\n    ", names.len()));
        text.push_str(&names.join(", "));
    }
    text
}

/// How many of those that have to pass do.
pub(super) fn tally(scenarios: &[Scenario]) -> Tally {
    let mut tally = Tally::default();
    for scenario in scenarios {
        tally.passed += u64::from(scenario.counts_as(true));
        tally.failed += u64::from(scenario.counts_as(false));
    }
    tally
}

/// What the checks of one scenario complain of, from the results that the suite wrote.
pub(super) fn failures(results: &Path, scenario: &str) -> Vec<String> {
    let folders = fs::read_dir(results).into_iter().flatten().flatten().map(|entry| entry.path());
    let checks = folders.filter(|folder| is_of(folder, scenario)).filter_map(|folder| {
        let text = fs::read_to_string(folder.join("checks.json")).ok()?;
        serde_json::from_str::<Vec<Value>>(&text).ok()
    });
    let text = |check: &Value, member: &str| {
        check.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let failed = checks.flatten().filter(|check| text(check, "status") == "FAILURE");
    failed
        .map(|check| format!("{}: {}", text(&check, "id"), text(&check, "errorMessage")))
        .collect()
}

/// The results of a scenario are in a folder with its name and a time.
fn is_of(folder: &Path, scenario: &str) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix("server-").unwrap_or(&name);
    name.strip_prefix(scenario).is_some_and(|rest| rest.starts_with("-20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "=== SUMMARY ===\n✓ ping: 2 passed, 0 failed\n✗ tools-list: 1 passed, 1 failed\n\
        ✗ tasks: 0 passed, 3 failed\n\nNot scored:\n  ✗ tasks (extension)\n";

    #[test]
    fn what_is_required_and_not_run_counts_as_failed() {
        let required = ["ping", "tools-list", "caching"].map(str::to_owned);
        let scenarios = read(SAID, &required);
        assert_eq!(tally(&scenarios), Tally { passed: 1, failed: 2, skipped: 0 });
        assert_eq!(scenarios.len(), 4);
        let text = table(&scenarios);
        assert!(text.contains("failed, not required") && text.contains("not run"), "{text}");
    }

    #[test]
    fn only_the_list_of_one_side_is_required() {
        let text =
            "# server:\nserver:\n  - a\n  # why\n  - b\n\nclient:\n  - c\nnot_scored:\n  - d\n";
        assert_eq!(required(text, "server"), ["a", "b"]);
        assert_eq!(required(text, "client"), ["c"]);
        assert!(required(text, "other").is_empty());
    }

    #[test]
    fn results_of_a_longer_name_are_of_another_scenario() {
        assert!(is_of(Path::new("r/server-tools-list-2026-11-22T06"), "tools-list"));
        assert!(is_of(Path::new("r/ping-2026-11-22T06"), "ping"));
        assert!(!is_of(Path::new("r/server-tools-list-more-2026-11-22T06"), "tools-list"));
    }
}
