//! Gives the program its build id: a digest of the names and contents of its sources.

use sha2::{Digest, Sha256};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What the program is built from, seen from this package.
const SOURCES: [&str; 5] =
    ["../../crates/osvm-protocol/src", "../Cargo.lock", "../Cargo.toml", "Cargo.toml", "src"];

/// Bytes of the digest that make a build id.
const ID_BYTES: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        collect(&package, Path::new(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let contents = fs::read(package.join(&file))?;
        // Lengths in front, so that bytes can't move between a name and its contents.
        for piece in [file.to_string_lossy().as_bytes(), &contents] {
            hash.update((piece.len() as u64).to_le_bytes());
            hash.update(piece);
        }
    }
    let id: String = hash.finalize().iter().take(ID_BYTES).map(|b| format!("{b:02x}")).collect();
    println!("cargo::rustc-env=OSVM_BUILD_ID={id}");
    Ok(())
}

fn collect(package: &Path, path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let place = package.join(path);
    if place.is_dir() {
        for entry in fs::read_dir(place)? {
            collect(package, &path.join(entry?.file_name()), files)?;
        }
    } else if place.is_file() {
        files.push(path.to_owned());
    }
    Ok(())
}
