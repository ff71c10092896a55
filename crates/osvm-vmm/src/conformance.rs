//! What every backend promises, as checks that run on real guests.
//!
//! ```text
//! PROMISES ── each with its own guests ──▶ Backend under test ──▶ kept, or what broke it
//! ```
//!
//! A promise is added here once, and every backend has to keep it from then on. The suite itself
//! is tested with a fake that keeps all promises and with fakes that break one each.
//!
//! # Invariants
//!
//! - A promise boots its own guests and leaves none behind, whether it is kept or not.
//! - Nothing here knows which backend it checks.
//! - A check that can't run on a host says so in a visible line: see [`skip`].
//!
//! # Not here
//!
//! - What only one backend does: that is in its own tests.

mod client;
mod hostile;
mod promises;

use crate::{Backend, GuestImage};
use rustix::fs::{MemfdFlags, memfd_create};
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the test images are, if not in `target/guest` of the workspace.
const IMAGES: &str = "OSVM_TEST_IMAGES";
/// What must not be skipped: names separated by commas.
const REQUIRE: &str = "OSVM_REQUIRE";

/// The images the suite boots.
#[derive(Clone, Debug)]
pub struct Guests {
    /// The executor every call runs on.
    pub executor: GuestImage,
    /// The image that breaks rules; environment variable `HOSTILE` in its boot page says which.
    pub hostile: GuestImage,
}

impl Guests {
    /// Loads both images from the directory named by `OSVM_TEST_IMAGES`, else from
    /// `target/guest`, where `cargo xtask guest` puts them.
    ///
    /// # Errors
    ///
    /// With the path of what can't be read.
    pub fn load() -> io::Result<Self> {
        let dir = env::var_os(IMAGES).map_or_else(default_dir, PathBuf::from);
        let load = |name| load(&dir, name);
        Ok(Self { executor: load("unikraft_tool_executor")?, hostile: load("hostile")? })
    }
}

fn default_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest")
}

fn load(dir: &Path, name: &str) -> io::Result<GuestImage> {
    let path = dir.join(name).with_extension("img");
    let bytes = fs::read(&path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read image `{}`: {error}", path.display()))
    })?;
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    Ok(GuestImage { name: name.into(), file: Arc::new(file) })
}

/// The program of VM processes: `OSVM_VM_PROGRAM`, else the one in the target directory that the
/// running test was built in.
///
/// # Panics
///
/// If it is not there: without it nothing can be checked.
#[expect(clippy::panic, reason = "it is how a test fails")]
pub fn vm_program() -> PathBuf {
    if let Some(path) = env::var_os("OSVM_VM_PROGRAM") {
        return path.into();
    }
    // target/PROFILE/deps/test-HASH
    let beside = |test: PathBuf| Some(test.parent()?.parent()?.join("osvm-vm"));
    match env::current_exe().ok().and_then(beside).filter(|program| program.exists()) {
        Some(program) => program,
        None => panic!("`osvm-vm` is missing: run `cargo build -p osvm --bin osvm-vm`"),
    }
}

/// What a promise is checked on.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The backend.
    pub backend: &'a dyn Backend,
    /// The images.
    pub guests: &'a Guests,
}

/// One promise.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// What is promised, as a name.
    pub name: &'static str,
    check: fn(Subject<'_>) -> Result<(), String>,
}

impl Promise {
    /// Checks it.
    ///
    /// # Errors
    ///
    /// What broke it.
    pub fn check(&self, subject: Subject<'_>) -> Result<(), Broken> {
        (self.check)(subject).map_err(|how| Broken { promise: self.name, how })
    }
}

/// All promises.
pub const PROMISES: &[&[Promise]] = &[promises::ALL, hostile::ALL];

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub promise: &'static str,
    /// What happened instead.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.how)
    }
}

/// Checks every promise, one after the other, and returns the broken ones.
pub fn check(backend: &dyn Backend, guests: &Guests) -> Vec<Broken> {
    let subject = Subject { backend, guests };
    PROMISES.iter().copied().flatten().filter_map(|p| p.check(subject).err()).collect()
}

/// The promise called `name`.
pub fn promise(name: &str) -> Option<&'static Promise> {
    PROMISES.iter().copied().flatten().find(|promise| promise.name == name)
}

/// Says on stderr that a check does not run on this host, and why.
///
/// # Panics
///
/// If `OSVM_REQUIRE` names `what`: then the check has to run.
#[expect(clippy::panic, clippy::print_stderr, reason = "it is how a test fails and speaks")]
pub fn skip(what: &str, why: &str) {
    let required = env::var(REQUIRE).unwrap_or_default();
    if required.split(',').any(|name| name.trim() == what) {
        panic!("`{what}` is required by {REQUIRE}, but {why}");
    }
    eprintln!("skipped: {why}");
}

/// Says on stderr what a check did less than it would elsewhere.
#[expect(clippy::print_stderr, reason = "it is how a test speaks")]
fn note(what: &str) {
    eprintln!("note: {what}");
}
