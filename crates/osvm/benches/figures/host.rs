//! Where the measurements happen: a home of their own with the images installed.

use crate::figure::Figure;
use anyhow::{Context, Result, ensure};
use osvm_image::{DEFAULT_IMAGE, Store};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Runs of each timed step. Enough for a steady median; the 95th percentile is the third largest.
pub(crate) const RUNS: usize = 40;
/// Runs before that, which pay for cold caches.
pub(crate) const WARM_UP: usize = 3;
/// Bytes in a KB, here and in the goals.
pub(crate) const KB: f64 = 1000.0;

/// The programs, the images and the home.
#[derive(Debug)]
pub(crate) struct Host {
    home: TempDir,
    /// The program users run.
    pub(crate) osvm: PathBuf,
    /// The program that runs one guest, beside it.
    pub(crate) osvm_vm: PathBuf,
    /// The store with the default image.
    pub(crate) store: Store,
    /// Transactions made by Solana's own libraries.
    pub(crate) vectors: PathBuf,
    guest: PathBuf,
}

impl Host {
    /// Installs the images of `target/guest` into a new home.
    pub(crate) fn new() -> Result<Self> {
        let osvm = std::env::var_os("OSVM").map(PathBuf::from);
        let beside = || std::env::current_exe().map(|program| program.with_file_name("osvm"));
        let osvm = osvm.map_or_else(beside, Ok).context("this program is nowhere")?;
        let osvm = osvm.canonicalize().with_context(|| format!("no `{}`", osvm.display()))?;
        let osvm_vm = osvm.with_file_name("osvm-vm");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let guest = root.join("target/guest");
        let vectors = root.join("guest/unikraft_tool_executor/tests/vectors/transactions.json");
        let image = guest.join(format!("{DEFAULT_IMAGE}.img"));
        ensure!(image.exists(), "there is no `{}`: run `cargo xtask guest`", image.display());
        let home = TempDir::with_prefix("osvm-bench-").context("cannot make a home")?;
        let run = home.path().join("run");
        fs::create_dir(&run).context("cannot make a runtime directory")?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
        let store = Store::new(home.path().join(".osvm/unikernels"));
        store.install(DEFAULT_IMAGE, &image, Some(&guest.join(DEFAULT_IMAGE)))?;
        Ok(Self { home, osvm, osvm_vm, store, vectors, guest })
    }

    /// Installs the image that misbehaves on demand, as `hostile`.
    pub(crate) fn install_hostile(&self) -> Result<()> {
        let image = self.guest.join("hostile.img");
        ensure!(image.exists(), "there is no `{}`: run `cargo xtask guest`", image.display());
        self.store.install("hostile", &image, None)?;
        Ok(())
    }

    /// `osvm` with these arguments, in this home, on the embedded VMM.
    pub(crate) fn osvm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.osvm);
        command.args(arguments).env_clear().env("HOME", self.home.path());
        command.env("OSVM_BACKEND", "kvm").env("XDG_RUNTIME_DIR", self.runtime_dir());
        command.current_dir(self.home.path());
        command.stdin(Stdio::null());
        command
    }

    /// The home directory of the measurements.
    pub(crate) fn home(&self) -> &std::path::Path {
        self.home.path()
    }

    /// The runtime directory of this home.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.home.path().join("run")
    }
}

/// What has to be copied and loaded: the two files a user installs.
pub(crate) fn sizes(host: &Host) -> Result<Vec<Figure>> {
    let size = |file: &str| -> Result<f64> {
        let path = host.guest.join(file);
        let metadata = fs::metadata(&path).with_context(|| format!("no `{}`", path.display()))?;
        Ok(metadata.len() as f64 / KB)
    };
    Ok(vec![
        Figure::exact("size: bootable image", size(&format!("{DEFAULT_IMAGE}.img"))?, "KB")
            .goal(400.0),
        Figure::exact("size: musl executor", size(DEFAULT_IMAGE)?, "KB").goal(1400.0),
    ])
}
