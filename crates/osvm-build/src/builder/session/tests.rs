//! Sessions with guests that say whatever they like.

use super::*;
use serde_json::{Value, json};

fn script(package: &str, optional: bool) -> Script {
    Script {
        dir: format!("node_modules/{package}"),
        package: package.into(),
        version: "1.0.0".into(),
        event: "install",
        command: "x".into(),
        optional,
        compiles: false,
    }
}

/// Says `lines` in an app that has one file, and gives the app and how it ended.
fn told(
    scripts: &[Script],
    lines: &[(&str, Value)],
) -> (tempfile::TempDir, Option<Result<Vec<ScriptRun>, BuildError>>) {
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("app");
    std::fs::create_dir_all(app.join("a")).unwrap();
    std::fs::write(app.join("a/old"), "old").unwrap();
    let mut tree = Tree::adopt(&app).unwrap();
    let mut session = Session::new(&mut tree, scripts, tempfile::tempfile().unwrap(), &|_| {});
    for (method, params) in lines {
        let line = json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string();
        if session.hear(line.as_bytes()).is_break() {
            break;
        }
    }
    let outcome = session.finish();
    (dir, outcome)
}

fn ends(number: usize, code: i32) -> (&'static str, Value) {
    ("ends", json!({"number": number, "code": code, "signal": null, "said": "last words\u{1b}[1m"}))
}

fn done() -> (&'static str, Value) {
    ("done", json!({}))
}

#[test]
fn changes_get_into_the_app_and_what_compilers_leave_does_not() {
    let base64 = |text: &str| json!({"base64": STANDARD.encode(text)});
    let (dir, outcome) = told(
        &[script("x", false)],
        &[
            ("begins", json!({"number": 0})),
            ends(0, 0),
            ("gone", json!({"path": "a/old"})),
            ("folder", json!({"path": "b/build"})),
            ("link", json!({"path": "b/link", "target": "/usr/bin/x"})),
            ("file", json!({"path": "b/build/x.node", "executable": true})),
            ("data", base64("one ")),
            ("data", base64("two")),
            ("file", json!({"path": "b/build/Release/obj.target/x.o", "executable": false})),
            ("data", base64("object")),
            ("file", json!({"path": "empty", "executable": false})),
            done(),
        ],
    );
    let runs = outcome.unwrap().unwrap();
    assert_eq!((runs.len(), runs[0].outcome), (1, ScriptOutcome::Ok));
    let app = dir.path().join("app");
    assert!(!app.join("a/old").exists() && !app.join("b/build/Release").exists());
    assert_eq!(std::fs::read_to_string(app.join("b/build/x.node")).unwrap(), "one two");
    assert_eq!(std::fs::read_link(app.join("b/link")).unwrap(), Path::new("/usr/bin/x"));
    assert_eq!(std::fs::read(app.join("empty")).unwrap(), b"");
}

#[test]
fn no_path_leads_out_of_the_app() {
    for path in ["../out", "a/../../out", "/../out"] {
        let file = json!({"path": path, "executable": false});
        let (dir, outcome) = told(&[], &[("file", file), done()]);
        assert!(matches!(outcome, Some(Err(BuildError::Refused { .. }))), "{path}");
        assert!(!dir.path().join("out").exists(), "{path}");
    }
    // A link is followed inside the app only.
    let link = json!({"path": "up", "target": ".."});
    let file = json!({"path": "up/out", "executable": false});
    let (dir, outcome) = told(&[], &[("link", link), ("file", file), done()]);
    assert!(outcome.unwrap().is_ok());
    assert!(!dir.path().join("out").exists() && dir.path().join("app/out").exists());
}

#[test]
fn a_script_that_fails_is_named_with_its_last_words() {
    let (dir, outcome) = told(&[script("x", false)], &[ends(0, 3), ("gone", json!({"path": "a"}))]);
    let error = outcome.unwrap().unwrap_err();
    let expected = "`install` of package `x` ended with exit status 3:\nlast words[1m";
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().unwrap().contains("--skip-script x"));
    assert!(dir.path().join("app/a/old").exists());
}

#[test]
fn a_package_that_nothing_needs_may_fail() {
    let scripts = [script("x", true), script("x", true), script("y", false)];
    let (_, outcome) = told(&scripts, &[ends(0, 1), ends(2, 0), done()]);
    let outcomes: Vec<_> = outcome.unwrap().unwrap().iter().map(|run| run.outcome).collect();
    assert_eq!(outcomes, [ScriptOutcome::Failed, ScriptOutcome::Ok]);
}

#[test]
fn a_guest_that_leaves_out_a_script_or_talks_nonsense_is_refused() {
    let scripts = [script("x", false)];
    for lines in [
        vec![done()],
        vec![("gone", json!({"path": "a"}))],
        vec![ends(7, 0)],
        vec![ends(0, 0), ("data", json!({"base64": "AA=="}))],
        vec![
            ends(0, 0),
            ("file", json!({"path": "f", "executable": false})),
            ("data", json!({"base64": "?"})),
        ],
        vec![("other", json!({}))],
        vec![("failed", json!({"reason": "no"}))],
    ] {
        let (dir, outcome) = told(&scripts, &lines);
        assert!(matches!(outcome, Some(Err(BuildError::Refused { .. }))), "{lines:?}");
        assert!(dir.path().join("app/a/old").exists(), "{lines:?}");
    }
    assert!(told(&scripts, &[ends(0, 0)]).1.is_none());
}
