//! Debian's cloud kernel: downloaded and unpacked, never installed.

use crate::{apt, printer};
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The package that always needs the newest kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Packages that hold a kernel begin like this.
const IMAGE_PREFIX: &str = "linux-image-6";
/// What the tests need: AMD's hardware KVM, and the host's own vsock.
const WANTED: &[&str] = &["kvm_amd", "vhost_vsock"];

/// A kernel ready to boot.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The bzImage.
    pub(super) image: PathBuf,
    /// The modules to load, each after what it depends on.
    pub(super) modules: Vec<PathBuf>,
}

/// Returns the kernel in `directory`, downloaded if it is not there yet.
pub(super) fn fetch(directory: &Path) -> Result<Kernel> {
    let root = directory.join("root");
    if image_in(&root).is_err() {
        download(directory)?;
    }
    let image = image_in(&root)?;
    let mut found = HashMap::new();
    find_modules(&root.join("lib/modules"), &mut found)?;
    let mut modules = Vec::new();
    for name in WANTED {
        add_with_dependencies(name, &found, &mut modules)?;
    }
    Ok(Kernel { image, modules })
}

fn download(directory: &Path) -> Result<()> {
    if !apt::available() {
        bail!("there is no apt to download Debian's `{META_PACKAGE}` with");
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make `{}`", directory.display()))?;
    printer::step("downloading Debian's cloud kernel");
    let package = match apt::dependency(META_PACKAGE, IMAGE_PREFIX) {
        Ok(package) => package,
        Err(_) => {
            apt::update()?;
            apt::dependency(META_PACKAGE, IMAGE_PREFIX)?
        }
    };
    if let Err(error) = apt::unpack(&package, directory) {
        // The lists may name a version that the archive has replaced since.
        printer::note(&format!("{error:#}, so trying once more with new package lists"));
        apt::update()?;
        apt::unpack(&apt::dependency(META_PACKAGE, IMAGE_PREFIX)?, directory)?;
    }
    Ok(())
}

fn image_in(root: &Path) -> Result<PathBuf> {
    let boot = root.join("boot");
    for entry in boot.read_dir().with_context(|| format!("cannot read `{}`", boot.display()))? {
        let entry = entry.with_context(|| format!("cannot read `{}`", boot.display()))?;
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            return Ok(entry.path());
        }
    }
    bail!("no kernel in `{}`", boot.display())
}

/// Collects every module below `directory` under the name that dependencies use.
fn find_modules(directory: &Path, found: &mut HashMap<String, PathBuf>) -> Result<()> {
    let read = || format!("cannot read `{}`", directory.display());
    for entry in directory.read_dir().with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.is_dir() {
            find_modules(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
            found.insert(name, path);
        }
    }
    Ok(())
}

/// Debian ships no `modules.dep`, it is made at installation; each module names what it needs.
fn add_with_dependencies(
    name: &str,
    found: &HashMap<String, PathBuf>,
    list: &mut Vec<PathBuf>,
) -> Result<()> {
    let path = found.get(name).with_context(|| format!("the kernel has no module `{name}`"))?;
    if list.contains(path) {
        return Ok(());
    }
    let module = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    for dependency in dependencies(&module).with_context(|| format!("no module: `{name}`"))? {
        add_with_dependencies(&dependency, found, list)?;
    }
    list.push(path.clone());
    Ok(())
}

/// The member `depends` of a module's `.modinfo`, which is a list of C strings.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no `.modinfo`")?;
    let entries = section.data()?.split(|byte| *byte == 0);
    let depends = entries.filter_map(|entry| entry.strip_prefix(b"depends=")).next();
    let names = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect())
}
