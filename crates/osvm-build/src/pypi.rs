//! Servers from the Python package index.
//!
//! Only wheels are taken: they are unpacked, while a source package would run its own build. What
//! pip chose is kept as a list of requirements with hashes; a build with that list gets the same.

use crate::assembly::Assembly;
use crate::error::BuildError;
use crate::jail::Yard;
use crate::packages::Pool;
use crate::python::{self, Python};
use crate::read_file;
use osvm_image::linux::{Source, SourceKind};
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Longest file of pip's that is read, in bytes.
const MAX_FILE: u64 = 32 << 20;

/// The program of the image that starts the server.
const START: &str = "/app/start.py";

/// What a recipe says about a build with pip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a> {
    pub(crate) python: Option<&'a str>,
    /// Debian packages to have at hand.
    pub(crate) debs: &'a [&'a str],
    /// The list of an earlier build.
    pub(crate) lock: Option<&'a [u8]>,
    /// The program to start, when the package has several.
    pub(crate) program: Option<&'a str>,
}

/// What `pip install --report` writes.
#[derive(Debug, Deserialize)]
struct Report {
    install: Vec<Installed>,
}

#[derive(Debug, Deserialize)]
struct Installed {
    metadata: Metadata,
    download_info: DownloadInfo,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

#[derive(Debug, Default, Deserialize)]
struct DownloadInfo {
    archive_info: Option<ArchiveInfo>,
}

#[derive(Debug, Deserialize)]
struct ArchiveInfo {
    hash: Option<String>,
}

/// A function to call: `module:function`.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    module: String,
    function: String,
}

/// Adds Python and the package `spec` (`name==version`) with all it depends on.
pub(crate) fn add(
    yard: &Yard,
    assembly: &mut Assembly,
    spec: &str,
    options: Options<'_>,
) -> Result<Pool, BuildError> {
    let name = check(spec)?;
    let (python, pool, sources) =
        Python::install(yard, &mut assembly.tree, options.python, options.debs)?;
    assembly.sources.extend(sources);
    let site = install(yard, assembly, &python, &[spec.to_owned()], options.lock)?;
    let entry = entry(&metadata(&site, name)?, options.program.unwrap_or(name))?;
    finish(assembly, &python, &site, &entry)?;
    python.compile(yard)?;
    Ok(pool)
}

/// The parts of a `pyproject.toml` that say how to run what it describes.
#[derive(Debug, Deserialize)]
struct PyProject {
    project: Option<Project>,
}

#[derive(Debug, Deserialize)]
struct Project {
    name: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    scripts: std::collections::BTreeMap<String, String>,
}

/// Adds Python and the package in the folder `source`, a checked-out repository.
///
/// Its build is not run: the module that its script names is copied as it is.
pub(crate) fn add_folder(
    yard: &Yard,
    assembly: &mut Assembly,
    source: &Path,
    options: Options<'_>,
) -> Result<Pool, BuildError> {
    let refused = |reason: String| BuildError::refused("`pyproject.toml`", reason);
    let path = source.join("pyproject.toml");
    if !path.is_file() {
        return Err(BuildError::refused(
            "the repository",
            "it has no `package.json` or `pyproject.toml`",
        ));
    }
    let text = read_file(&path, MAX_FILE)?;
    let text = String::from_utf8(text).map_err(|_| refused("it is not UTF-8".into()))?;
    let parsed: PyProject = toml::from_str(&text).map_err(|error| refused(error.to_string()))?;
    let project = parsed.project.ok_or_else(|| refused("it has no `[project]`".into()))?;
    check(&project.name)?;
    for dependency in &project.dependencies {
        if dependency.starts_with('-') || dependency.contains(['@', '/', '\n']) {
            let reason =
                format!("dependency `{}` is not one of the index", dependency.escape_debug());
            return Err(refused(reason));
        }
    }
    let mut scripts = String::from("[console_scripts]\n");
    for (name, target) in &project.scripts {
        // Writing to a `String` can't fail.
        let _ = writeln!(scripts, "{name} = {target}");
    }
    let entry = entry(&scripts, options.program.unwrap_or(&project.name))?;
    let (python, pool, sources) =
        Python::install(yard, &mut assembly.tree, options.python, options.debs)?;
    assembly.sources.extend(sources);
    let site = install(yard, assembly, &python, &project.dependencies, options.lock)?;
    let top = entry.module.split('.').next().unwrap_or_default();
    let places = [source.join("src").join(top), source.join(top), source.join(format!("{top}.py"))];
    let found = places.iter().find(|path| path.exists());
    let found = found.ok_or_else(|| refused(format!("module `{top}` is not in the repository")))?;
    finish(assembly, &python, &site, &entry)?;
    let target = Path::new(&python::site(&python.name)).join(found.file_name().unwrap_or_default());
    assembly.tree.add(found, &target, &|path| !path.starts_with("__pycache__"))?;
    let version = project.version.unwrap_or_else(|| "0".into());
    let info = format!(
        "{}/{}-{version}.dist-info/METADATA",
        python::site(&python.name),
        normal(&project.name)
    );
    let name = &project.name;
    assembly
        .tree
        .text(&info, &format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"))?;
    python.compile(yard)?;
    Ok(pool)
}

/// Lets pip install `specs` into a folder of the build, and keeps what it chose.
fn install(
    yard: &Yard,
    assembly: &mut Assembly,
    python: &Python,
    specs: &[String],
    lock: Option<&[u8]>,
) -> Result<PathBuf, BuildError> {
    let site = yard.sub("site")?;
    let (report, list) = (yard.path().join("report.json"), yard.path().join("requirements.txt"));
    let step = python.pip(yard, "install packages from PyPI");
    let flags = ["install", "--quiet", "--only-binary=:all:", "--no-compile", "--no-cache-dir"];
    let step = step.args(flags).args(["--target".as_ref(), site.as_os_str()]);
    let mut step = step.args(["--report".as_ref(), report.as_os_str()]);
    if let Some(lock) = lock {
        crate::tree::write_all(&list, lock)?;
        step = step.args(["--require-hashes".as_ref(), "-r".as_ref(), list.as_os_str()]);
    } else if specs.is_empty() {
        return Ok(site);
    } else {
        step = step.args(["--"]).args(specs);
    }
    yard.run(step)?;
    let parsed: Report = serde_json::from_slice(&read_file(&report, MAX_FILE)?)
        .map_err(|error| BuildError::refused("pip's report", error.to_string()))?;
    let mut chosen: Vec<Source> = parsed.install.iter().map(source).collect();
    chosen.sort_unstable();
    assembly.locks.push((SourceKind::Pypi, requirements(&chosen).into_bytes()));
    assembly.sources.extend(chosen);
    Ok(site)
}

fn source(installed: &Installed) -> Source {
    let hash = installed.download_info.archive_info.as_ref().and_then(|info| info.hash.as_deref());
    let digest =
        hash.and_then(|hash| hash.split_once('=')).map(|(kind, hex)| format!("{kind}:{hex}"));
    let Metadata { name, version } = &installed.metadata;
    Source {
        kind: SourceKind::Pypi,
        name: normal(name).replace('_', "-"),
        version: version.clone(),
        digest,
    }
}

fn requirements(sources: &[Source]) -> String {
    let mut text = String::new();
    for Source { name, version, digest, .. } in sources {
        let hash = digest.as_ref().map(|digest| format!(" --hash={digest}")).unwrap_or_default();
        // Writing to a `String` can't fail.
        let _ = writeln!(text, "{name}=={version}{hash}");
    }
    text
}

/// Copies what pip installed into the tree, and writes the program that starts the server.
fn finish(
    assembly: &mut Assembly,
    python: &Python,
    site: &Path,
    entry: &Entry,
) -> Result<(), BuildError> {
    forget_scripts(site)?;
    let keep = |path: &Path| path != Path::new("bin");
    assembly.tree.add(site, Path::new(&python::site(&python.name)), &keep)?;
    let Entry { module, function, name } = entry;
    let (first, _) = function.split_once('.').unwrap_or((function, ""));
    let text = format!(
        "import sys\nfrom {module} import {first}\n\nif __name__ == \"__main__\":\n    \
         sys.argv[0] = {name:?}\n    sys.exit({function}())\n"
    );
    assembly.tree.text(START, &text)?;
    assembly.command = python.command(START);
    assembly.env.insert("PYTHONUNBUFFERED".into(), "1".into());
    assembly.memory_mb = 160;
    Ok(())
}

/// Takes the scripts that pip made out of its records: they name the build's own Python, so they
/// would differ between builds, and they are not in the image.
fn forget_scripts(site: &Path) -> Result<(), BuildError> {
    for entry in std::fs::read_dir(site).map_err(BuildError::io(site))? {
        let dir = entry.map_err(BuildError::io(site))?.path();
        let record = dir.join("RECORD");
        if !dir.to_string_lossy().ends_with(".dist-info") || !record.is_file() {
            continue;
        }
        let text = read_file(&record, MAX_FILE)?;
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let script = |line: &&[u8]| line.starts_with(b"../../bin/") || line.starts_with(b"bin/");
        let kept: Vec<u8> = lines.filter(|line| !script(line)).flatten().copied().collect();
        crate::tree::write_all(&record, &kept)?;
    }
    Ok(())
}

/// The name in a requirement such as `name==1.2` or `name[extra]>=1`, if it is one of the index.
fn check(spec: &str) -> Result<&str, BuildError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let end = spec.bytes().position(|byte| !plain(byte)).unwrap_or(spec.len());
    let (name, rest) = spec.split_at(end);
    let known = |byte: u8| plain(byte) || b"[]=<>~!, *+".contains(&byte);
    if name.is_empty() || name.starts_with(['-', '.']) || !rest.bytes().all(known) {
        return Err(BuildError::recipe(format!("`{}` is no package of PyPI", spec.escape_debug())));
    }
    Ok(name)
}

/// A name as the index compares it (PEP 503), with `_` as in file names.
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

/// The text of `entry_points.txt` of the distribution `name`.
fn metadata(site: &Path, name: &str) -> Result<String, BuildError> {
    for entry in std::fs::read_dir(site).map_err(BuildError::io(site))? {
        let entry = entry.map_err(BuildError::io(site))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let stem = file.strip_suffix(".dist-info").and_then(|stem| stem.split_once('-'));
        if stem.is_some_and(|(found, _)| normal(found) == normal(name)) {
            let path = entry.path().join("entry_points.txt");
            let bytes = if path.exists() { read_file(&path, MAX_FILE)? } else { Vec::new() };
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Err(BuildError::refused(format!("package `{name}`"), "pip did not install it"))
}

/// The console script `wanted`, or the only one there is.
fn entry(text: &str, wanted: &str) -> Result<Entry, BuildError> {
    let mut inside = false;
    let mut entries = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[console_scripts]";
        } else if inside && let Some(entry) = parse(line) {
            entries.push(entry);
        }
    }
    let found = entries.iter().position(|entry| normal(&entry.name) == normal(wanted));
    let found = found.or((entries.len() == 1).then_some(0));
    match found {
        Some(found) => Ok(entries.swap_remove(found)),
        None => {
            let names: Vec<_> = entries.iter().map(|entry| format!("`{}`", entry.name)).collect();
            let reason = format!(
                "it has no script `{wanted}`; it has {}",
                if names.is_empty() { "none".into() } else { names.join(", ") }
            );
            Err(BuildError::refused("the Python package", reason))
        }
    }
}

/// `name = module:function`, with names that can stand in a program.
fn parse(line: &str) -> Option<Entry> {
    let (name, target) = line.split_once('=')?;
    let target = target.split('[').next()?.trim();
    let (module, function) = target.split_once(':')?;
    let identifier = |part: &str| {
        let mut bytes = part.bytes();
        let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        first && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let (module, function) = (module.trim(), function.trim());
    let good = module.split('.').chain(function.split('.')).all(identifier);
    let name = name.trim().to_owned();
    good.then(|| Entry { name, module: module.into(), function: function.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_is_one_of_the_index() {
        for (spec, name) in [
            ("mcp-server-time==2026.10.19", "mcp-server-time"),
            ("a[x]>=1,<2", "a"),
            ("a_b", "a_b"),
        ] {
            assert_eq!(check(spec).unwrap(), name);
        }
        for spec in
            ["", "-r x", "--index-url=x", "a @ https://x", "../x", "./x.whl", "a;b", "a\n-r b"]
        {
            assert!(check(spec).is_err(), "{spec}");
        }
    }

    #[test]
    fn the_script_is_the_one_of_the_packages_name_or_the_only_one() {
        let text = "[other]\nx = y:z\n[console_scripts]\nmcp-server-time = mcp_server_time:main\nb = c.d:e.f [extra]\n";
        let time = entry(text, "MCP_server.time").unwrap();
        assert_eq!((time.module.as_str(), time.function.as_str()), ("mcp_server_time", "main"));
        let other = entry(text, "b").unwrap();
        assert_eq!((other.module.as_str(), other.function.as_str()), ("c.d", "e.f"));
        assert!(entry(text, "x").is_err());
        assert_eq!(entry("[console_scripts]\none = m:f\n", "x").unwrap().name, "one");
        assert!(entry("", "x").unwrap_err().to_string().contains("it has none"));
    }

    #[test]
    fn a_script_that_is_no_name_cannot_become_a_program() {
        for line in
            ["x = os:system('id')", "x = a b:c", "x = :f", "x = m:", "x", "x = m:f;g", "x = 1m:f"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_list_of_requirements_has_every_hash() {
        let report = r#"{"version":"1","install":[{"metadata":{"name":"A.b","version":"1.0"},
            "download_info":{"url":"x","archive_info":{"hash":"sha256=ab"}}}]}"#;
        let report: Report = serde_json::from_str(report).unwrap();
        let sources: Vec<_> = report.install.iter().map(source).collect();
        assert_eq!(requirements(&sources), "a-b==1.0 --hash=sha256:ab\n");
    }

    #[test]
    fn scripts_are_taken_out_of_records() {
        let site = tempfile::tempdir().unwrap();
        let dir = site.path().join("a-1.dist-info");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("RECORD"), "../../bin/a,sha256=x,1\na/x.py,sha256=y,2\n").unwrap();
        forget_scripts(site.path()).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("RECORD")).unwrap(), "a/x.py,sha256=y,2\n");
    }
}
