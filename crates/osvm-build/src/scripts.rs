//! Which scripts the packages of an app want to have run when they are installed, and in which order.
//!
//! A package's scripts come after those of the packages it depends on, and all of one package's
//! together: `preinstall`, `install`, `postinstall`. A package with a `binding.gyp` and no script of
//! the first two kinds is compiled, as npm has it.

use crate::error::BuildError;
use crate::npm::{Lock, MAX_PACKAGE};
use crate::tree::Tree;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Read as _;

/// When scripts run, in this order.
const EVENTS: [&str; 3] = ["preinstall", "install", "postinstall"];

/// What npm runs for a package that only has a `binding.gyp`.
const COMPILE: &str = "node-gyp rebuild";

/// Words of a command that take a compiler.
const COMPILERS: [&str; 7] = ["node-gyp", "make", "cmake", "cmake-js", "gcc", "g++", "cc"];

/// One script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// The package's folder in the app.
    pub(crate) dir: String,
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) event: &'static str,
    pub(crate) command: String,
    /// Nothing needs the package.
    pub(crate) optional: bool,
    /// Whether a compiler is likely to be needed.
    pub(crate) compiles: bool,
}

/// The scripts of all packages but those in `skip`.
pub(crate) fn wanted(lock: &Lock, app: &Tree, skip: &[String]) -> Result<Vec<Script>, BuildError> {
    let mut scripts = Vec::new();
    for path in ordered(lock) {
        let Some(locked) = lock.packages.get(path) else { continue };
        let Some((_, name)) = path.rsplit_once("node_modules/") else { continue };
        let binding = app.exists(format!("{path}/binding.gyp"));
        // Optional packages of other platforms are in the lock file only.
        let there = app.exists(format!("{path}/package.json"));
        let scripted = there && !locked.dev && (locked.has_install_script || binding);
        if !scripted || skip.iter().any(|skip| skip == name) {
            continue;
        }
        let package = package(app, path)?;
        let compiles = |command: &str| {
            let mut words = command.split(|c: char| c.is_whitespace() || ";&|()".contains(c));
            // Modules that bring what was compiled elsewhere are looked for there first.
            let brought = app.exists(format!("{path}/prebuilds/linux-x64"));
            words.any(|word| COMPILERS.contains(&word)) || (binding && !brought)
        };
        scripts.extend(commands(&package, binding).into_iter().map(|(event, command)| Script {
            dir: path.to_owned(),
            package: name.to_owned(),
            version: locked.version.clone().unwrap_or_default(),
            event,
            compiles: compiles(&command),
            command,
            optional: locked.optional,
        }));
    }
    Ok(scripts)
}

fn package(app: &Tree, path: &str) -> Result<Value, BuildError> {
    let path = format!("{path}/package.json");
    let mut bytes = Vec::new();
    let read = app.open(&path)?.take(MAX_PACKAGE).read_to_end(&mut bytes);
    read.map_err(BuildError::io(&path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| BuildError::refused(format!("`{path}`"), error.to_string()))
}

/// What a `package.json` has run, and when.
fn commands(package: &Value, binding: bool) -> Vec<(&'static str, String)> {
    let script = |event| package.get("scripts")?.get(event)?.as_str();
    let mut commands: Vec<_> = EVENTS
        .into_iter()
        .filter_map(|event| Some((event, script(event)?.to_owned())))
        .filter(|(_, command)| !command.trim().is_empty())
        .collect();
    let own = commands.iter().any(|(event, _)| *event != "postinstall");
    if binding && !own && package.get("gypfile") != Some(&Value::Bool(false)) {
        commands.insert(0, ("install", COMPILE.into()));
    }
    commands
}

/// Paths of all packages, those that others need before them.
fn ordered(lock: &Lock) -> Vec<&str> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    // Whoever nobody needs comes last.
    for start in [""].into_iter().chain(lock.packages.keys().map(String::as_str)) {
        let mut open = vec![(start, false)];
        while let Some((path, needed_done)) = open.pop() {
            if needed_done {
                order.push(path);
                continue;
            }
            if !seen.insert(path) {
                continue;
            }
            open.push((path, true));
            let Some(locked) = lock.packages.get(path) else { continue };
            let all =
                [&locked.dependencies, &locked.optional_dependencies, &locked.peer_dependencies];
            let needed: Vec<_> = all
                .into_iter()
                .flat_map(|needed| needed.keys())
                .filter_map(|name| found(lock, path, name))
                .collect();
            open.extend(needed.into_iter().rev().map(|path| (path, false)));
        }
    }
    order
}

/// Where the package at `from` finds the package `name`: beside itself or beside what it is in.
fn found<'a>(lock: &'a Lock, from: &str, name: &str) -> Option<&'a str> {
    let mut inside = Some(from);
    while let Some(dir) = inside {
        let separator = if dir.is_empty() { "" } else { "/" };
        let path = format!("{dir}{separator}node_modules/{name}");
        if let Some((path, _)) = lock.packages.get_key_value(&path) {
            return Some(path);
        }
        inside = match dir.rsplit_once("node_modules/") {
            Some((outer, _)) => Some(outer.trim_end_matches('/')),
            None if dir.is_empty() => None,
            None => Some(""),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    /// An app with these packages: path, `package.json`, further files.
    fn app(dir: &Path, packages: &[(&str, Value, &[&str])]) -> Tree {
        for (path, json, files) in packages {
            let dir = dir.join(path);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("package.json"), json.to_string()).unwrap();
            for file in *files {
                std::fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
                std::fs::write(dir.join(file), "").unwrap();
            }
        }
        Tree::adopt(dir).unwrap()
    }

    fn lock(packages: Value) -> Lock {
        serde_json::from_value(json!({"packages": packages})).unwrap()
    }

    #[test]
    fn a_package_comes_after_those_it_needs() {
        let lock = lock(json!({
            "": {"dependencies": {"a": "1"}},
            "node_modules/a": {"dependencies": {"b": "1", "z": "1"}},
            "node_modules/a/node_modules/b": {"dependencies": {"c": "1"}},
            "node_modules/b": {},
            "node_modules/c": {"peerDependencies": {"a": "1"}},
            "node_modules/z": {},
        }));
        let expected = [
            "node_modules/c",
            "node_modules/a/node_modules/b",
            "node_modules/z",
            "node_modules/a",
            "",
            "node_modules/b",
        ];
        assert_eq!(ordered(&lock), expected);
    }

    #[test]
    fn scripts_of_one_package_run_together_and_those_left_out_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = json!({"scripts": {"postinstall": "c", "install": "b", "preinstall": "a",
            "prepare": "never", "test": "never"}});
        let tree = app(
            dir.path(),
            &[
                ("node_modules/x", scripts.clone(), &[]),
                ("node_modules/skipped", scripts.clone(), &[]),
                ("node_modules/dev", scripts, &[]),
                ("node_modules/none", json!({}), &[]),
            ],
        );
        let lock = lock(json!({
            "node_modules/x": {"version": "1.0.0", "hasInstallScript": true, "optional": true},
            "node_modules/skipped": {"hasInstallScript": true},
            "node_modules/dev": {"hasInstallScript": true, "dev": true},
            "node_modules/none": {"hasInstallScript": true},
            "node_modules/elsewhere": {"hasInstallScript": true},
        }));
        let wanted = wanted(&lock, &tree, &["skipped".into()]).unwrap();
        let said: Vec<_> = wanted.iter().map(|s| (s.event, s.command.as_str())).collect();
        assert_eq!(said, [("preinstall", "a"), ("install", "b"), ("postinstall", "c")]);
        assert!(wanted.iter().all(|s| s.package == "x" && s.optional && !s.compiles));
    }

    #[test]
    fn a_binding_is_compiled_unless_the_package_says_otherwise() {
        let binding: &[&str] = &["binding.gyp"];
        for (json, files, expected) in [
            (json!({}), binding, Some((COMPILE, true))),
            (json!({"gypfile": false}), binding, None),
            (
                json!({"scripts": {"install": "node-gyp-build"}}),
                binding,
                Some(("node-gyp-build", true)),
            ),
            (
                json!({"scripts": {"install": "node-gyp-build"}}),
                &["binding.gyp", "prebuilds/linux-x64/x.node"],
                Some(("node-gyp-build", false)),
            ),
            (
                json!({"scripts": {"install": "a || node-gyp rebuild"}}),
                &[],
                Some(("a || node-gyp rebuild", true)),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let tree = app(dir.path(), &[("node_modules/x", json.clone(), files)]);
            let lock = lock(json!({"node_modules/x": {"hasInstallScript": true}}));
            let wanted = wanted(&lock, &tree, &[]).unwrap();
            let found = wanted.first().map(|script| (script.command.as_str(), script.compiles));
            assert_eq!(found, expected, "{json}");
        }
    }

    #[test]
    fn a_package_json_that_is_a_link_out_of_the_app_is_not_read() {
        let (dir, outside) =
            (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(outside.path(), r#"{"scripts":{"install":"x"}}"#).unwrap();
        let tree = app(dir.path(), &[("node_modules/x", json!({}), &[])]);
        let place = dir.path().join("node_modules/x/package.json");
        std::fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink(outside.path(), place).unwrap();
        let lock = lock(json!({"node_modules/x": {"hasInstallScript": true}}));
        assert_eq!(wanted(&lock, &tree, &[]).unwrap(), []);
    }
}
