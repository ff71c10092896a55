//! Python for images: Debian's interpreter and standard library, without what no server uses.
//!
//! The interpreter in the tree also runs pip and the compiler at build time, through the dynamic
//! linker of its own C library. So pip resolves for the Python of the image, whatever the host has.

use crate::error::BuildError;
use crate::jail::{Step, Yard};
use crate::packages::{self, Pool};
use crate::tree::Tree;
use osvm_image::linux::Source;
use std::path::{Path, PathBuf};

/// Folders and files of the standard library for people who develop, teach or draw windows.
const LEFT_OUT: &[&str] = &[
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "turtle.py",
    "ensurepip",
    "lib2to3",
    "pydoc_data",
    "distutils",
    "venv",
];

/// Modules in C that want a terminal, a window or a database file format of old times.
const MODULES_LEFT_OUT: &[&str] = &[
    "_curses",
    "_dbm",
    "_gdbm",
    "_tkinter",
    "readline",
    "nis",
    "_test",
    "xxlimited",
    "_ctypes_test",
];

/// Where packages of PyPI are put.
pub(crate) fn site(name: &str) -> String {
    format!("/usr/local/lib/{name}/dist-packages")
}

/// A Python in a tree.
#[derive(Debug)]
pub(crate) struct Python {
    /// `python3.11`.
    pub(crate) name: String,
    linker: PathBuf,
    libraries: PathBuf,
    program: PathBuf,
    tree: PathBuf,
    pip: PathBuf,
}

impl Python {
    /// Fetches Python `version` (`3.11`; by default that of the distribution) and the Debian
    /// packages `more`, and puts Python into the tree.
    pub(crate) fn install(
        yard: &Yard,
        tree: &mut Tree,
        version: Option<&str>,
        more: &[&str],
    ) -> Result<(Self, Pool, Vec<Source>), BuildError> {
        let name = match version {
            Some(version) => format!("python{version}"),
            None => packages::python(yard)?,
        };
        if !packages::is_python(&name) {
            let reason = format!("`{}` is no Python version such as 3.11", name.escape_debug());
            return Err(BuildError::recipe(reason));
        }
        let own =
            [format!("{name}-minimal"), format!("lib{name}-minimal"), format!("lib{name}-stdlib")];
        let mut wanted: Vec<&str> = own.iter().map(String::as_str).collect();
        wanted.extend(["tzdata", "python3-pip-whl", "ca-certificates", "libc6", "libgcc-s1"]);
        wanted.extend(more);
        let pool = Pool::fetch(yard, &wanted, false)?;
        let mut sources = Vec::new();
        for package in &own {
            sources.push(pool.install(tree, package, &|path| keep(path, &name))?);
        }
        sources.push(pool.install(tree, "tzdata", &|path| {
            let other = ["usr/share/zoneinfo/right", "usr/share/zoneinfo/posix"];
            !other.iter().any(|other| path.starts_with(other))
        })?);
        for alias in ["usr/bin/python3", "usr/bin/python"] {
            tree.link(alias, Path::new(&name))?;
        }
        tree.dir(site(&name))?;
        // Threads that are cancelled load it; no header says so.
        let gcc = pool.library(
            &["lib/x86_64-linux-gnu".into(), "usr/lib/x86_64-linux-gnu".into()],
            "libgcc_s.so.1",
        );
        if let Some(found) = gcc {
            let file = std::fs::File::open(&found.path).map_err(BuildError::io(&found.path))?;
            tree.file("usr/lib/x86_64-linux-gnu/libgcc_s.so.1", true, file)?;
            sources.push(found.source);
        }
        sources.extend(crate::elf::close(tree, &pool)?);
        let pip = pip(&pool)?;
        let root = tree.path().to_owned();
        let python = Self {
            linker: root.join("usr/lib64/ld-linux-x86-64.so.2"),
            libraries: root.join("usr/lib/x86_64-linux-gnu"),
            program: root.join("usr/bin").join(&name),
            tree: root,
            name,
            pip,
        };
        Ok((python, pool, sources))
    }

    /// A step that runs this Python.
    pub(crate) fn step(&self, yard: &Yard, what: impl Into<String>) -> Step {
        let step = yard.step(what, &self.linker).env("PYTHONHASHSEED", "0");
        let step =
            step.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONHOME", self.tree.join("usr"));
        step.args(["--library-path".as_ref(), self.libraries.as_os_str(), self.program.as_os_str()])
    }

    /// A step that runs pip, which keeps nothing and asks nothing.
    pub(crate) fn pip(&self, yard: &Yard, what: impl Into<String>) -> Step {
        let step = self.step(yard, what).with_network().args([&self.pip]);
        let certificates = std::env::var_os("PIP_CERT")
            .unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into());
        let step = if Path::new(&certificates).exists() {
            step.env("PIP_CERT", certificates)
        } else {
            step
        };
        step.env("PIP_NO_INPUT", "1").env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    }

    /// Compiles every module of the tree, so that no guest has to.
    ///
    /// The compiled files name a hash of their source that is not looked at: a read-only root
    /// can't disagree with itself, and times would differ between builds.
    pub(crate) fn compile(&self, yard: &Yard) -> Result<(), BuildError> {
        const SCRIPT: &str = "\
import compileall, py_compile, sys
root = sys.argv[1]
for folder in sys.argv[2:]:
    compileall.compile_dir(root + folder, stripdir=root, prependdir='/', quiet=2, force=True,
        maxlevels=64, workers=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
";
        let step = self.step(yard, "compile the Python modules").args(["-s", "-c", SCRIPT]);
        let step = step.args([&self.tree]);
        yard.run(step.args([format!("/usr/lib/{}", self.name), site(&self.name)])).map(drop)
    }

    /// The command that runs the program `path` of the image.
    pub(crate) fn command(&self, path: &str) -> Vec<String> {
        // -s and -B: nothing in the user's home, and no attempts to write compiled modules.
        vec![format!("/usr/bin/{}", self.name), "-s".into(), "-B".into(), path.into()]
    }
}

/// The wheel of pip, which Python runs as it is.
fn pip(pool: &Pool) -> Result<PathBuf, BuildError> {
    let missing = || BuildError::refused("package `python3-pip-whl`", "it has no wheel of pip");
    let dir = pool.find(Path::new("usr/share/python-wheels")).ok_or_else(missing)?;
    let entries = std::fs::read_dir(&dir).map_err(BuildError::io(&dir))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let wheel = names.into_iter().find(|name| name.starts_with("pip-")).ok_or_else(missing)?;
    Ok(dir.join(wheel).join("pip"))
}

fn keep(path: &Path, python: &str) -> bool {
    let Ok(inside) = path.strip_prefix(Path::new("usr/lib").join(python)) else {
        return !path.starts_with("usr/share") && !path.starts_with("var");
    };
    let name = inside.file_name().unwrap_or_default().to_string_lossy();
    if inside.starts_with("lib-dynload") {
        return !MODULES_LEFT_OUT.iter().any(|module| name.starts_with(module));
    }
    let makefiles = name.starts_with("config-3.");
    !makefiles && !LEFT_OUT.iter().any(|left_out| inside == Path::new(left_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_library_loses_tests_and_windows_only() {
        let check =
            |path: &str, kept| assert_eq!(keep(Path::new(path), "python3.11"), kept, "{path}");
        check("usr/lib/python3.11", true);
        check("usr/lib/python3.11/asyncio", true);
        check("usr/lib/python3.11/unittest", true);
        check("usr/lib/python3.11/importlib/test", true);
        check("usr/lib/python3.11/test", false);
        check("usr/lib/python3.11/tkinter", false);
        check("usr/lib/python3.11/config-3.11-x86_64-linux-gnu", false);
        check("usr/lib/python3.11/lib-dynload/_ssl.so", true);
        check("usr/lib/python3.11/lib-dynload/_curses_panel.so", false);
        check("usr/bin/python3.11", true);
        check("usr/share/man", false);
    }
}
