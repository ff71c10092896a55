//! What every bootable image carries besides its code; shared by the build scripts of all images.
//!
//! ```text
//! sources ──▶ build id ──▶ note.json ──▶ .note.osvm
//! tool definitions ──▶ tools.json ──▶ .osvm.tools
//! ```
//!
//! # Invariants
//!
//! - The build id depends on the names and contents of the sources and on nothing else: not on
//!   where the checkout is, not on the time.

use osvm_protocol::PROTOCOL_VERSION;
use osvm_protocol::note::ImageNote;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What goes into every image, seen from the guest workspace.
const SOURCES: [&str; 11] = [
    ".cargo/config.toml",
    "../crates/osvm-protocol/Cargo.toml",
    "../crates/osvm-protocol/src",
    "Cargo.lock",
    "Cargo.toml",
    "osvm-kernel",
    "osvm-kernel-core/Cargo.toml",
    "osvm-kernel-core/src",
    "unikraft_tool_executor/Cargo.toml",
    "unikraft_tool_executor/data",
    "unikraft_tool_executor/src",
];

/// Bytes of the digest that make a build id: enough that two ids are never the same by chance.
const ID_BYTES: usize = 16;

/// Writes `note.json` and `tools.json` of image `name`, and tells cargo how to link it.
///
/// `more` are sources of this image alone, seen from the guest workspace; `tools` is the JSON array
/// of its tool definitions.
pub(crate) fn prepare(name: &str, more: &[&str], tools: String) -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let guest = package.parent().ok_or("the package lies in no workspace")?;
    let script = guest.join("osvm-kernel/link.ld");
    // Only what is built for the guest is linked by our script, so that the rest of the workspace
    // still builds for the host.
    if env::var("CARGO_CFG_TARGET_OS")? == "none" {
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
    println!("cargo::rerun-if-changed={}", script.display());

    let mut sources = Vec::new();
    for source in SOURCES.iter().chain(more) {
        println!("cargo::rerun-if-changed={}", guest.join(source).display());
        collect(guest, Path::new(source), &mut sources)?;
    }
    let build = build_id(guest, &mut sources)?;
    println!("cargo::rustc-env=OSVM_IMAGE_NAME={name}");
    println!("cargo::rustc-env=OSVM_BUILD_ID={build}");

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let note = ImageNote { protocol: PROTOCOL_VERSION, name: name.into(), build: build.into() };
    fs::write(out.join("note.json"), serde_json::to_vec(&note)?)?;
    fs::write(out.join("tools.json"), tools)?;
    Ok(())
}

/// Adds `path`, or all files below it. What does not exist is none.
fn collect(guest: &Path, path: &Path, sources: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let place = guest.join(path);
    if place.is_dir() {
        for entry in fs::read_dir(place)? {
            collect(guest, &path.join(entry?.file_name()), sources)?;
        }
    } else if place.is_file() {
        sources.push(path.to_owned());
    }
    Ok(())
}

fn build_id(guest: &Path, sources: &mut [PathBuf]) -> Result<String, Box<dyn Error>> {
    sources.sort();
    let mut hash = Sha256::new();
    for source in sources {
        let contents = fs::read(guest.join(&*source))?;
        let name = source.to_string_lossy();
        // Lengths in front, so that bytes can't move between a name and its contents.
        for piece in [name.as_bytes(), &contents] {
            hash.update((piece.len() as u64).to_le_bytes());
            hash.update(piece);
        }
    }
    Ok(hash.finalize().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect())
}
