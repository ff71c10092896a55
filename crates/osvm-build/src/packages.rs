//! Files of Debian packages, downloaded and unpacked for this build; never installed.
//!
//! `apt-get download` checks each package against the signed lists of the host's archive. No
//! script of a package is run. On a host without apt, libraries come from the host itself.
//!
//! Packages that were asked for go into the image; those they depend on are only a pool, from
//! which the libraries are taken that some program in the image needs (`elf`).

use crate::error::BuildError;
use crate::jail::Yard;
use crate::programs;
use crate::tree::Tree;
use osvm_image::Digest;
use osvm_image::linux::{Source, SourceKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What a package has for people, not for programs.
const FOR_PEOPLE: &[&str] = &[
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/bash-completion",
    "usr/share/applications",
    "usr/share/pixmaps",
    "usr/share/bug",
    "usr/share/gitweb",
];

/// Dependencies that are looked into for libraries; the name of anything else is no library's.
const LIBRARIES: &[&str] = &["lib", "zlib"];

/// Unpacked packages, and where each is.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    packages: BTreeMap<String, Package>,
    /// Set on a host without apt.
    host: bool,
}

#[derive(Debug)]
struct Package {
    dir: PathBuf,
    source: Source,
}

/// A file found in a pool.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) source: Source,
}

impl Pool {
    /// Downloads and unpacks `wanted` and the libraries they depend on. With `optional`, a host
    /// without apt gives a pool of its own files.
    pub(crate) fn fetch(yard: &Yard, wanted: &[&str], optional: bool) -> Result<Self, BuildError> {
        let purpose = "fetch Debian packages";
        let apt = match programs::find("apt-get", purpose, "apt") {
            Err(BuildError::NoTool { .. }) if optional => {
                return Ok(Self { packages: BTreeMap::new(), host: true });
            }
            apt => apt?,
        };
        for name in wanted {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:".contains(&byte);
            if name.is_empty() || name.starts_with('-') || !name.bytes().all(plain) {
                return Err(BuildError::recipe(format!(
                    "`{}` is no Debian package",
                    name.escape_debug()
                )));
            }
        }
        let unpacker = programs::find("dpkg-deb", "unpack Debian packages", "dpkg")?;
        let names = dependencies(yard, wanted)?;
        let known = versions(yard, &names)?;
        let downloads = yard.sub("debian")?;
        // As root, apt would change to a user who can't write here.
        let step = yard.step("download Debian packages", apt).with_network().within(&downloads);
        let flags = ["download", "--quiet", "--quiet", "-o", "APT::Sandbox::User=root", "-o"];
        let cache = format!("Dir::Cache={}", yard.sub("apt")?.display());
        let versioned = known.iter().map(|(name, known)| format!("{name}={}", known.version));
        yard.run(step.args(flags).args([cache]).args(versioned))?;
        let archives = archives(&downloads)?;
        let mut packages = BTreeMap::new();
        for (name, known) in known {
            let archive = archives.get(&name).ok_or_else(|| {
                BuildError::refused(format!("package `{name}`"), "apt-get left no file of it")
            })?;
            let digest = known.check(&name, archive)?;
            let dir = yard.sub(&format!("pool/{name}"))?;
            let step = yard.step(format!("unpack package `{name}`"), &unpacker);
            yard.run(step.args(["--extract".as_ref(), archive.as_os_str(), dir.as_os_str()]))?;
            let kind = SourceKind::Debian;
            let version = known.version;
            let source =
                Source { kind, name: name.clone(), version, digest: Some(digest.to_string()) };
            packages.insert(name, Package { dir, source });
        }
        Ok(Self { packages, host: false })
    }

    /// Where the first package that has `path` has it.
    pub(crate) fn find(&self, path: &Path) -> Option<PathBuf> {
        let paths = self.packages.values().map(|package| package.dir.join(path));
        paths.into_iter().find(|path| path.exists())
    }

    /// Copies the package `name` into the tree, without what it has for people and what `keep`
    /// refuses. Returns where it is from.
    pub(crate) fn install(
        &self,
        tree: &mut Tree,
        name: &str,
        keep: &dyn Fn(&Path) -> bool,
    ) -> Result<Source, BuildError> {
        let package = self.packages.get(name).ok_or_else(|| {
            BuildError::refused(format!("package `{name}`"), "it was not fetched")
        })?;
        let wanted =
            |path: &Path| !FOR_PEOPLE.iter().any(|people| path.starts_with(people)) && keep(path);
        tree.add(&package.dir, Path::new("/"), &wanted)?;
        Ok(package.source.clone())
    }

    /// Finds a file by the folders it may be in; links are followed inside its package.
    pub(crate) fn library(&self, dirs: &[PathBuf], name: &str) -> Option<Found> {
        for package in self.packages.values() {
            for dir in dirs {
                let path = package.dir.join(dir).join(name);
                // A link out of its package can't be meant for this pool.
                let real = path.canonicalize().ok().filter(|real| real.starts_with(&package.dir));
                if let Some(path) = real.filter(|real| real.is_file()) {
                    return Some(Found { path, source: package.source.clone() });
                }
            }
        }
        if !self.host {
            return None;
        }
        let path = dirs
            .iter()
            .map(|dir| Path::new("/").join(dir).join(name))
            .find(|path| path.is_file())?;
        let (digest, _) = Digest::of_reader(File::open(&path).ok()?).ok()?;
        let shown = path.display().to_string();
        let source = Source {
            kind: SourceKind::Files,
            name: shown,
            version: String::new(),
            digest: Some(digest.to_string()),
        };
        Some(Found { path, source })
    }
}

/// What the signed lists say of a package.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    version: String,
    sha256: String,
}

impl Known {
    fn check(&self, name: &str, archive: &Path) -> Result<Digest, BuildError> {
        let file = File::open(archive).map_err(BuildError::io(archive))?;
        let (digest, _) = Digest::of_reader(file).map_err(BuildError::io(archive))?;
        if digest.hex() == self.sha256 {
            return Ok(digest);
        }
        let reason = format!("its SHA-256 is {digest}, the archive's list says {}", self.sha256);
        Err(BuildError::refused(format!("package `{name}`"), reason))
    }
}

/// The Python that the distribution calls `python3`: `python3.11`.
pub(crate) fn python(yard: &Yard) -> Result<String, BuildError> {
    let program = programs::find("apt-cache", "find Debian packages", "apt")?;
    let step = yard.step("find the distribution's Python", program);
    let text = yard.run(step.args(["depends", "--important", "python3-minimal"]))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let names = text.lines().filter_map(|line| line.split_once(": ")).map(|(_, name)| name);
    let python =
        names.filter_map(|name| name.strip_suffix("-minimal")).find(|name| is_python(name));
    python.map(str::to_owned).ok_or_else(|| BuildError::refused("apt", "it knows no Python 3"))
}

/// Whether a name is `python3.` and digits.
pub(crate) fn is_python(name: &str) -> bool {
    let minor = name.strip_prefix("python3.").unwrap_or_default();
    !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit())
}

/// `wanted`, and every library package they depend on directly or not.
fn dependencies(yard: &Yard, wanted: &[&str]) -> Result<BTreeSet<String>, BuildError> {
    let mut all = related(yard, wanted)?;
    all.retain(|name| LIBRARIES.iter().any(|prefix| name.starts_with(prefix)));
    all.extend(wanted.iter().map(|name| (*name).to_owned()));
    Ok(all)
}

/// Every package that `wanted` depend on directly or not, of those that are for this machine.
fn related(yard: &Yard, wanted: &[&str]) -> Result<BTreeSet<String>, BuildError> {
    let program = programs::find("apt-cache", "find Debian packages", "apt")?;
    let step = yard.step("find what Debian packages depend on", program);
    let flags = [
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
    ];
    let text = yard.run(step.args(flags).args(wanted.iter().copied()))?;
    let text = String::from_utf8_lossy(&text);
    let names = text.lines().filter(|line| !line.starts_with([' ', '<', '|']));
    let plain = names.filter(|name| !name.ends_with("-perl") && !name.contains(':'));
    Ok(plain.map(str::to_owned).collect())
}

/// `wanted`, and those of the packages they depend on, directly or not, whose names begin as one of
/// `beginnings` says.
pub(crate) fn closure(
    yard: &Yard,
    wanted: &[&str],
    beginnings: &[&str],
) -> Result<BTreeSet<String>, BuildError> {
    let begins = |name: &str| beginnings.iter().any(|beginning| name.starts_with(beginning));
    let mut all = related(yard, wanted)?;
    all.retain(|name| begins(name));
    all.extend(wanted.iter().map(|name| (*name).to_owned()));
    Ok(all)
}

/// Version and digest of each package. One that has no candidate is left out if nobody asked for
/// it by name, since `apt-get` then names the ones that are missing.
fn versions(yard: &Yard, names: &BTreeSet<String>) -> Result<BTreeMap<String, Known>, BuildError> {
    let program = programs::find("apt-cache", "find Debian packages", "apt")?;
    let step = yard.step("look up Debian packages", program);
    let text = yard.run(step.args(["show", "--no-all-versions"]).args(names))?;
    Ok(records(&String::from_utf8_lossy(&text)))
}

fn records(text: &str) -> BTreeMap<String, Known> {
    let field = |record: &str, name: &str| {
        let mut lines = record.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let records = text.split("\n\n").filter_map(|record| {
        let (version, sha256) = (field(record, "Version")?, field(record, "SHA256")?);
        Some((field(record, "Package")?, Known { version, sha256 }))
    });
    records.collect()
}

/// The archives in a folder by the name of their package.
fn archives(dir: &Path) -> Result<BTreeMap<String, PathBuf>, BuildError> {
    let mut archives = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(BuildError::io(dir))? {
        let entry = entry.map_err(BuildError::io(dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((package, _)) = name.strip_suffix(".deb").and_then(|name| name.split_once('_'))
        {
            archives.insert(package.to_owned(), entry.path());
        }
    }
    Ok(archives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_digests_are_read_from_records() {
        let text = "Package: a\nVersion: 1:2-3\nDescription: x\n Version: no\nSHA256: ab\n\n\
                    Package: b\nSHA256: cd\n\n";
        let known = Known { version: "1:2-3".into(), sha256: "ab".into() };
        assert_eq!(records(text), [("a".to_owned(), known)].into());
    }

    #[test]
    fn only_python_three_with_a_number_is_python() {
        assert!(is_python("python3.11"));
        for name in ["python3", "python3.", "python3.x", "python2.7", "python3.11-minimal"] {
            assert!(!is_python(name), "{name}");
        }
    }
}
