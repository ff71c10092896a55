//! Layers: tar archives, compressed or not, one laid over the other.
//!
//! Crate `tar` finds the headers and checks them. Extensions that give an entry a longer name are
//! read here, because the crate would read one of any length into memory.

use super::refused;
use crate::error::BuildError;
use crate::tree::Tree;
use osvm_image::Digest;
use sha2::{Digest as _, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Longest extension, in bytes: names of two paths and room for times and attributes.
const MAX_EXTENSION: u64 = 1 << 20;
/// Most bytes of a layer once it is unpacked.
const MAX_LAYER: u64 = 16 << 30;
/// Most entries of an archive.
const MAX_ENTRIES: u64 = 500_000;

/// What the names of entries that remove something begin with (image specification, "layer").
const WHITEOUT: &[u8] = b".wh.";
/// The entry that removes all that lower layers have in its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// One entry of an archive, its extensions applied.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    link: Option<PathBuf>,
    kind: EntryType,
    executable: bool,
}

impl Entry {
    pub(super) fn is_file(&self) -> bool {
        matches!(self.kind, EntryType::Regular | EntryType::Continuous)
    }
}

/// Lays the layer in `file` over the tree. What it unpacks to has to have digest `diff_id`.
pub(super) fn apply(
    tree: &mut Tree,
    file: File,
    media_type: &str,
    diff_id: Digest,
) -> Result<(), BuildError> {
    let reader: Box<dyn Read> = if media_type.ends_with("gzip") {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else if media_type.ends_with("zstd") {
        let decoder = ruzstd::decoding::StreamingDecoder::new(file);
        Box::new(decoder.map_err(|error| refused(format!("its layer is no zstd stream: {error}")))?)
    } else if media_type.ends_with("tar") {
        Box::new(file)
    } else {
        return Err(refused(format!("it has a layer of kind `{}`", media_type.escape_debug())));
    };
    let mut reader = Hashed { reader: reader.take(MAX_LAYER), hash: Sha256::new() };
    entries(&mut reader, &mut |entry, bytes| one(tree, &entry, bytes))?;
    // Padding after the last entry is part of the digest.
    io::copy(&mut reader, &mut io::sink()).map_err(|error| refused(error.to_string()))?;
    let found: [u8; 32] = reader.hash.finalize().into();
    let hex: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
    if hex == diff_id.hex() {
        return Ok(());
    }
    Err(refused(format!("a layer unpacks to sha256:{hex}, not to {diff_id}")))
}

fn one(tree: &mut Tree, entry: &Entry, bytes: &mut dyn Read) -> Result<(), BuildError> {
    let path = &entry.path;
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let parent = path.parent().unwrap_or(Path::new(""));
    if name == OPAQUE {
        return tree.clear(parent);
    }
    if let Some(removed) = name.strip_prefix(WHITEOUT) {
        return tree.remove(&parent.join(OsStr::from_bytes(removed)));
    }
    if path.file_name().is_none() {
        return Ok(());
    }
    match entry.kind {
        EntryType::Directory => tree.dir(path),
        EntryType::Symlink => tree.link(path, target(entry)?),
        EntryType::Link => tree.copy(path, target(entry)?),
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            tracing::debug!(path = %path.display(), "device or pipe left out");
            Ok(())
        }
        _ if entry.is_file() => tree.file(path, entry.executable, bytes).map(drop),
        kind => Err(refused(format!("`{}` is of unknown kind {}", path.display(), kind.as_byte()))),
    }
}

fn target(entry: &Entry) -> Result<&Path, BuildError> {
    let missing = || refused(format!("link `{}` has no target", entry.path.display()));
    entry.link.as_deref().filter(|target| !target.as_os_str().is_empty()).ok_or_else(missing)
}

/// Calls `act` for every entry of an archive, with the entry's bytes.
pub(super) fn entries(
    reader: impl Read,
    act: &mut dyn FnMut(Entry, &mut dyn Read) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let broken = |error: io::Error| refused(format!("its archive is broken: {error}"));
    let mut archive = tar::Archive::new(reader);
    let mut longer = Longer::default();
    let mut count = 0_u64;
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        count += 1;
        if count > MAX_ENTRIES {
            return Err(refused("its archive has too many entries"));
        }
        let kind = entry.header().entry_type();
        let extension = matches!(
            kind,
            EntryType::GNULongName
                | EntryType::GNULongLink
                | EntryType::XHeader
                | EntryType::XGlobalHeader
        );
        if extension {
            let mut bytes = Vec::new();
            (&mut entry).take(MAX_EXTENSION + 1).read_to_end(&mut bytes).map_err(broken)?;
            if bytes.len() as u64 > MAX_EXTENSION {
                return Err(refused("its archive has an extension that is too long"));
            }
            longer.read(kind, &bytes)?;
            continue;
        }
        let Longer { path, link } = std::mem::take(&mut longer);
        let path = path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let link = link.or_else(|| entry.header().link_name_bytes().map(|link| link.into_owned()));
        let own = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        act(Entry { path: own(path), link: link.map(own), kind, executable }, &mut entry)?;
    }
    Ok(())
}

/// Names for the next entry that do not fit its header.
#[derive(Debug, Default)]
struct Longer {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Longer {
    fn read(&mut self, kind: EntryType, bytes: &[u8]) -> Result<(), BuildError> {
        let text = || bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => self.path = Some(text()),
            EntryType::GNULongLink => self.link = Some(text()),
            EntryType::XHeader => {
                for extension in tar::PaxExtensions::new(bytes) {
                    let extension = extension.map_err(|error| refused(error.to_string()))?;
                    match extension.key_bytes() {
                        b"path" => self.path = Some(extension.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                        // A length that the header does not have would move every later entry.
                        b"size" | b"GNU.sparse.major" | b"GNU.sparse.map" => {
                            return Err(refused(
                                "its archive has an entry over 8 GiB or with holes",
                            ));
                        }
                        _ => {}
                    }
                }
            }
            // Says nothing about any one entry.
            _ => {}
        }
        Ok(())
    }
}

struct Hashed<R> {
    reader: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}
