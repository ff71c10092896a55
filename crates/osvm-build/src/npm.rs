//! Servers from npm.
//!
//! npm resolves and unpacks; nothing of a package is run here ([`crate::builder`] runs scripts). The first build resolves the tree of
//! dependencies and keeps the lock file; a build with that lock file gets the same tree.

use crate::assembly::Assembly;
use crate::builder::Workshop;
use crate::error::BuildError;
use crate::jail::Yard;
use crate::node;
use crate::scripts;
use crate::tree::Tree;
use osvm_image::linux::{Source, SourceKind};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest `package.json` that is read, in bytes.
pub(crate) const MAX_PACKAGE: u64 = 4 << 20;

/// Longest lock file that is read, in bytes.
pub(crate) const MAX_LOCK: u64 = 32 << 20;

/// Where servers are in an image.
const APP: &str = "/app";

/// What a recipe says about a build with npm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a> {
    /// Packages whose install scripts are left out knowingly.
    pub(crate) skip_scripts: &'a [String],
    /// A lock file of an earlier build.
    pub(crate) lock: Option<&'a [u8]>,
    /// Whether all modules become one.
    pub(crate) bundle: bool,
    /// Whether the recipe says what is started, so that the package need not.
    pub(crate) commanded: bool,
    /// Where scripts are run; without it a package that needs one is refused.
    pub(crate) workshop: Option<Workshop<'a>>,
}

/// The parts of a lock file (version 2 or 3) that are used.
#[derive(Debug, Deserialize)]
pub(crate) struct Lock {
    #[serde(default)]
    pub(crate) packages: BTreeMap<String, Locked>,
}

/// A package in a lock file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Locked {
    pub(crate) version: Option<String>,
    integrity: Option<String>,
    pub(crate) has_install_script: bool,
    pub(crate) dev: bool,
    pub(crate) optional: bool,
    /// Names of what it needs; which versions, npm has decided.
    pub(crate) dependencies: BTreeMap<String, Value>,
    pub(crate) optional_dependencies: BTreeMap<String, Value>,
    pub(crate) peer_dependencies: BTreeMap<String, Value>,
}

/// Adds the package `spec` (`name@version`) and all it depends on.
pub(crate) fn add(
    yard: &Yard,
    assembly: &mut Assembly,
    spec: &str,
    options: Options<'_>,
) -> Result<(), BuildError> {
    let (name, wanted) = split(spec)?;
    let version = resolve(yard, name, wanted)?;
    let app = yard.sub("app")?;
    let package = json!({"private": true, "dependencies": {name: version}});
    write(&app.join("package.json"), package.to_string().as_bytes())?;
    if let Some(lock) = options.lock {
        write(&app.join("package-lock.json"), lock)?;
    }
    install(yard, &app, &format!("{name}@{version}"), options.lock.is_some())?;
    let inside = PathBuf::from("node_modules").join(name);
    finish(yard, assembly, &app, &inside, options)
}

/// Adds the package in the folder `source`, a checked-out repository.
pub(crate) fn add_folder(
    yard: &Yard,
    assembly: &mut Assembly,
    source: &Path,
    options: Options<'_>,
) -> Result<(), BuildError> {
    let lock = source.join("package-lock.json");
    if let Some(bytes) = options.lock {
        write(&lock, bytes)?;
    }
    install(yard, source, "the repository's dependencies", lock.exists())?;
    finish(yard, assembly, source, Path::new(""), options)
}

/// Takes what npm installed into `app`; the server is the package in its folder `inside`.
fn finish(
    yard: &Yard,
    assembly: &mut Assembly,
    app: &Path,
    inside: &Path,
    options: Options<'_>,
) -> Result<(), BuildError> {
    let lock = app.join("package-lock.json");
    let bytes = crate::read_file(&lock, MAX_LOCK)?;
    let parsed: Lock = serde_json::from_slice(&bytes)
        .map_err(|error| BuildError::refused("npm's lock file", error.to_string()))?;
    let tree = Tree::adopt(app)?;
    let scripts = scripts::wanted(&parsed, &tree, options.skip_scripts)?;
    if let Some(first) = scripts.first() {
        let needs = || BuildError::NeedsScript { package: first.package.clone() };
        let workshop = options.workshop.ok_or_else(needs)?;
        assembly.scripts = Some(workshop.run(yard, app, &scripts)?);
    }
    let sources = sources(&parsed, app);
    let entry = match entry(&Tree::adopt(app)?, inside) {
        Ok(entry) if options.bundle => Some(crate::bundle::make(yard, assembly, app, &entry)?),
        Err(BuildError::Refused { .. }) if options.commanded && !options.bundle => None,
        entry => Some(entry?),
    };
    // npm's own notes; they would name the registry, and nothing reads them.
    let notes = [Path::new("node_modules/.package-lock.json"), Path::new("package-lock.json")];
    let keep = |path: &Path| !notes.contains(&path) && !path.starts_with(".git");
    assembly.tree.add(app, Path::new(APP), &keep)?;
    assembly.sources.extend(sources);
    assembly.locks.push((SourceKind::Npm, bytes));
    if let Some(entry) = entry {
        assembly.command = vec![node::PROGRAM.into(), format!("{APP}/{}", entry.display())];
    }
    assembly.env.insert("NODE_ENV".into(), "production".into());
    Ok(())
}

/// `name@wanted` or `@scope/name@wanted`; without `@wanted`, the newest release.
fn split(spec: &str) -> Result<(&str, &str), BuildError> {
    let bad = || BuildError::recipe(format!("`{}` is no npm package", spec.escape_debug()));
    let plain = |text: &str, more: &[u8]| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
        !text.is_empty() && text.len() <= 214 && text.bytes().all(fits)
    };
    let word = |text: &str| plain(text, b"-_.~") && !text.starts_with(['-', '.']);
    // The first byte may be the scope's `@`.
    let at = spec.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(at, _)| at);
    let (name, wanted) = at.map_or((spec, "latest"), |at| {
        (spec.get(..at).unwrap_or_default(), spec.get(at + 1..).unwrap_or_default())
    });
    let named = match name.strip_prefix('@') {
        Some(scoped) => {
            scoped.split_once('/').is_some_and(|(scope, name)| word(scope) && word(name))
        }
        None => word(name),
    };
    if named && plain(wanted, b"-_.+^~<>=|* ") && !wanted.starts_with('-') {
        return Ok((name, wanted));
    }
    Err(bad())
}

/// The exact version behind a tag or a range.
fn resolve(yard: &Yard, name: &str, wanted: &str) -> Result<String, BuildError> {
    let spec = format!("{name}@{wanted}");
    let step = node::npm(yard, format!("find `{spec}` on npm"))?.with_network();
    let said = yard.run(step.args(["view", &spec, "version", "--json"]))?;
    let refused = |reason: &str| BuildError::refused(format!("package `{spec}`"), reason);
    // One version for a tag or an exact version, a list with the newest last for a range.
    let version = match serde_json::from_slice(&said) {
        Ok(Value::String(version)) => Some(version),
        Ok(Value::Array(versions)) => versions.last().and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let version = version.ok_or_else(|| refused("the registry has no such version"))?;
    split(&format!("{name}@{version}")).map(|_| version)
}

fn install(yard: &Yard, dir: &Path, what: &str, locked: bool) -> Result<(), BuildError> {
    let step = node::npm(yard, format!("install {what}"))?.with_network().within(dir);
    let flags = [
        if locked { "ci" } else { "install" },
        "--ignore-scripts",
        "--omit=dev",
        "--omit-lockfile-registry-resolved",
        // The image's machine, not the builder's.
        "--os=linux",
        "--cpu=x64",
        "--libc=glibc",
    ];
    yard.run(step.args(flags)).map(drop)
}

/// Every package that was installed.
fn sources(lock: &Lock, app: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    for (path, locked) in &lock.packages {
        let dir = app.join(path);
        let Some((_, name)) = path.rsplit_once("node_modules/") else { continue };
        // Optional packages of other platforms are in the lock file only.
        if locked.dev || !dir.join("package.json").exists() {
            continue;
        }
        sources.push(Source {
            kind: SourceKind::Npm,
            name: name.to_owned(),
            version: locked.version.clone().unwrap_or_default(),
            digest: locked.integrity.as_deref().and_then(node::hex),
        });
    }
    sources
}

/// The server's program, relative to the app's folder, from `bin` of its `package.json`. Links that
/// scripts or repositories leave are followed inside the app.
fn entry(app: &Tree, inside: &Path) -> Result<PathBuf, BuildError> {
    let path = inside.join("package.json");
    let mut bytes = Vec::new();
    let read = app.open(&path)?.take(MAX_PACKAGE).read_to_end(&mut bytes);
    read.map_err(BuildError::io(&path))?;
    let refused = |reason: String| BuildError::refused("the server's `package.json`", reason);
    let parsed: Value =
        serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    let name = parsed.get("name").and_then(Value::as_str).unwrap_or_default();
    let short = name.rsplit('/').next().unwrap_or_default();
    let program = match parsed.get("bin") {
        Some(Value::String(program)) => Some(program.as_str()),
        Some(Value::Object(programs)) => {
            let only = programs.values().next().filter(|_| programs.len() == 1);
            programs.get(short).or(only).and_then(Value::as_str)
        }
        _ => parsed.get("main").and_then(Value::as_str),
    };
    let program = program
        .ok_or_else(|| refused("it names no one program; say which with `--command`".into()))?;
    let program = Path::new(program.trim_start_matches("./"));
    let normal = |component| matches!(component, std::path::Component::Normal(_));
    if !program.components().all(normal) {
        return Err(refused(format!("program `{}` is outside of it", program.display())));
    }
    if !app.exists(inside.join(program)) {
        let reason = "is not there; if it is made by a build script, build the package elsewhere \
                      and bring it with `--rootfs`, or use its release on npm";
        return Err(refused(format!("program `{}` {reason}", program.display())));
    }
    Ok(inside.join(program))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    crate::tree::write_all(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_a_name_and_a_version() {
        for (spec, expected) in [
            ("@scope/name@1.2.3", ("@scope/name", "1.2.3")),
            ("name@^1", ("name", "^1")),
            ("name", ("name", "latest")),
            ("@scope/name", ("@scope/name", "latest")),
        ] {
            assert_eq!(split(spec).unwrap(), expected, "{spec}");
        }
    }

    #[test]
    fn what_is_no_spec_is_refused() {
        for spec in [
            "",
            "@",
            "@/x",
            "@scope",
            "-g",
            "x@",
            "../x",
            "x@--flag",
            "a/b/c@1",
            "x@file:y",
            "https://host/x.tgz",
            "git+ssh://x",
            "x@1;rm",
            "@../x@1",
            ".bin",
        ] {
            assert!(split(spec).is_err(), "{spec}");
        }
    }

    fn package(dir: &Path, json: &Value, files: &[&str]) -> Result<PathBuf, BuildError> {
        let inside = Path::new("node_modules/x");
        let package = dir.join(inside);
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("package.json"), json.to_string()).unwrap();
        for file in files {
            std::fs::create_dir_all(package.join(file).parent().unwrap()).unwrap();
            std::fs::write(package.join(file), "").unwrap();
        }
        entry(&Tree::adopt(dir).unwrap(), inside)
    }

    #[test]
    fn the_program_is_the_packages_only_bin_or_the_one_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["dist/index.js"];
        for bin in [
            json!({"bin": "dist/index.js"}),
            json!({"bin": {"any": "./dist/index.js"}}),
            json!({"name": "@a/x", "bin": {"x": "dist/index.js", "y": "z.js"}}),
            json!({"main": "dist/index.js"}),
        ] {
            let entry = package(dir.path(), &bin, &files).unwrap();
            assert_eq!(entry, Path::new("node_modules/x/dist/index.js"), "{bin}");
        }
        for bin in [
            json!({"bin": "../../etc/passwd"}),
            json!({"bin": "/etc/passwd"}),
            json!({"bin": "missing.js"}),
            json!({"bin": {"a": "dist/index.js", "b": "dist/index.js"}}),
            json!({}),
        ] {
            let error = package(dir.path(), &bin, &files).unwrap_err();
            assert!(matches!(error, BuildError::Refused { .. }), "{bin}: {error}");
        }
    }

    #[test]
    fn packages_of_other_platforms_are_no_sources() {
        let app = tempfile::tempdir().unwrap();
        let dir = app.path().join("node_modules/plain");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("package.json"), "{}").unwrap();
        let lock: Lock = serde_json::from_value(json!({"packages": {
            "": {"name": "app"},
            "node_modules/plain": {"version": "2.0.0", "integrity": "sha512-AAE="},
            "node_modules/other-platform": {"version": "3.0.0", "hasInstallScript": true},
        }}))
        .unwrap();
        let sources = sources(&lock, app.path());
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0].digest.as_deref(), Some("sha512:0001"));
    }
}
