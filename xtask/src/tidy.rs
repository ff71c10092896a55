//! `cargo xtask tidy`: checks what no compiler checks.
//!
//! Every check returns lines for people: what is wrong, where, and what to do. None of them changes
//! a file.

mod code_map;
mod layers;
mod names;
mod sources;
mod traces;

use crate::printer;
use crate::project::{self, Project};
use crate::tally::Tally;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// One text file of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root of the checkout.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// `cargo xtask tidy`.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    let tally = check(project)?;
    printer::result(&tally.to_string());
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every check and prints what it finds.
pub(crate) fn check(project: &Project) -> Result<Tally> {
    let sources = read_all(&project.root)?;
    let rust: Vec<&Source> = sources.iter().filter(|file| file.path.ends_with(".rs")).collect();
    let packages = packages(project)?;
    let architecture = sources.iter().find(|file| file.path == "ARCHITECTURE.md");
    let architecture = architecture.map_or("", |file| file.text.as_str());
    let edges: Vec<_> = packages.iter().flat_map(Package::edges).collect();
    let folders: Vec<_> = packages.iter().map(|package| package.folder.as_str()).collect();
    let checks: [(&str, Vec<String>); 8] = [
        ("crates depend on what they may", layers::violations(&edges)),
        ("ARCHITECTURE.md shows who may use whom", layers::undocumented(architecture)),
        ("ARCHITECTURE.md maps every folder", code_map::violations(architecture, &folders)),
        ("every Rust file says what it is", sources::without_header(&rust)),
        ("no Rust file is too long", sources::too_long(&rust)),
        ("long tests have a file of their own", sources::long_inline_tests(&rust)),
        ("test names state behaviour, no test is switched off", names::violations(&rust)),
        ("no trace of one machine", traces::violations(&sources, &project.root)),
    ];
    let mut tally = Tally::default();
    for (name, complaints) in checks {
        tally += Tally::one(complaints.is_empty());
        if !complaints.is_empty() {
            printer::note(&format!("tidy: not so: {name}"));
        }
        for complaint in complaints {
            printer::note(&format!("  {complaint}"));
        }
    }
    Ok(tally)
}

/// A package of ours and what it names in its manifest.
#[derive(Debug)]
struct Package {
    name: String,
    /// Relative to the root of the checkout.
    folder: String,
    dependencies: Vec<(layers::Kind, String)>,
}

impl Package {
    fn edges(&self) -> impl Iterator<Item = layers::Edge<'_>> {
        let edge = |(kind, to): &(layers::Kind, String)| (self.name.as_str(), *kind, to.clone());
        self.dependencies.iter().map(edge).map(|(from, kind, to)| layers::Edge { from, kind, to })
    }
}

fn packages(project: &Project) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for workspace in ["", "guest", "fuzz"] {
        let directory = project.root.join(workspace);
        if !directory.join("Cargo.toml").exists() {
            bail!("there is no `{}`", directory.join("Cargo.toml").display());
        }
        let metadata = project::metadata(&directory)?;
        let packages_of = metadata
            .get("packages")
            .and_then(Value::as_array)
            .context("cargo lists no packages")?;
        for package in packages_of {
            packages.push(package_from(package, &project.root)?);
        }
    }
    Ok(packages)
}

fn package_from(package: &Value, root: &Path) -> Result<Package> {
    let name =
        package.get("name").and_then(Value::as_str).context("a package has no name")?.to_owned();
    let manifest =
        package.get("manifest_path").and_then(Value::as_str).context("a package is nowhere")?;
    let folder = Path::new(manifest).parent().and_then(|folder| folder.strip_prefix(root).ok());
    let folder = folder.context("a package is outside the checkout")?;
    let mut dependencies = Vec::new();
    for dependency in package.get("dependencies").and_then(Value::as_array).into_iter().flatten() {
        let kind = layers::Kind::from_cargo(dependency.get("kind").and_then(Value::as_str));
        let name = dependency.get("name").and_then(Value::as_str);
        if let (Some(name), Some(_)) = (name, dependency.get("path")) {
            dependencies.push((kind, name.to_owned()));
        }
    }
    Ok(Package { name, folder: folder.to_string_lossy().into_owned(), dependencies })
}

/// Every text file that git knows or would add.
fn read_all(root: &Path) -> Result<Vec<Source>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = crate::process::text(&mut git).context("cannot list the files of the checkout")?;
    let mut sources = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        let file: PathBuf = root.join(path);
        // A file may be deleted and not committed yet, and data files need not be text.
        if let Ok(text) = fs::read_to_string(&file) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources.dedup_by(|a, b| a.path == b.path);
    Ok(sources)
}
