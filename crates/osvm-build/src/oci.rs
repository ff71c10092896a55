//! Images of the Open Container Initiative: a layout in a folder or in a tar archive.
//!
//! Format: <https://github.com/opencontainers/image-spec>, version 1.1; archives of `docker save`
//! since version 25 are such layouts. Everything in one is hostile: sizes are bounded, digests are
//! checked before anything is unpacked, and layers are written through [`crate::tree::Tree`].

mod layer;

use crate::assembly::Assembly;
use crate::base;
use crate::error::BuildError;
use crate::jail::Yard;
use osvm_image::Digest;
use osvm_image::linux::{Source, SourceKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};

/// Longest index, manifest or configuration, in bytes.
const MAX_JSON: u64 = 4 << 20;
/// Longest layer as it is stored, in bytes.
const MAX_BLOB: u64 = 4 << 30;
/// Most files of an archive, and most layers of an image.
const MAX_FILES: usize = 4096;
const MAX_LAYERS: usize = 256;
/// Indexes inside indexes.
const MAX_NESTING: usize = 4;

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct ImageManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Image {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Config,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// A layout in a folder.
#[derive(Debug)]
struct Layout {
    dir: PathBuf,
}

/// Unpacks the image at `path` into the tree, which has to be empty.
pub(crate) fn add(yard: &Yard, assembly: &mut Assembly, path: &Path) -> Result<(), BuildError> {
    let layout = if path.is_dir() { Layout { dir: path.into() } } else { unpack(yard, path)? };
    let index: Index = layout.json(&layout.dir.join("index.json"), None)?;
    let (digest, manifest) = layout.manifest(&index, 0)?;
    let image: Image = layout.blob_json(&manifest.config)?;
    let known = |value: &str, wanted: &str| value.is_empty() || value == wanted;
    if !known(&image.architecture, "amd64") || !known(&image.os, "linux") {
        let Image { architecture, os, .. } = &image;
        return Err(refused(format!(
            "it is for {} on {}",
            os.escape_debug(),
            architecture.escape_debug()
        )));
    }
    if manifest.layers.len() > MAX_LAYERS || manifest.layers.len() != image.rootfs.diff_ids.len() {
        return Err(refused("its layers and their digests differ in number, or are too many"));
    }
    for (layer, diff_id) in manifest.layers.iter().zip(&image.rootfs.diff_ids) {
        let file = layout.blob(layer)?;
        layer::apply(&mut assembly.tree, file, &layer.media_type, parse(diff_id)?)?;
    }
    base::complete(&mut assembly.tree)?;
    configure(assembly, image.config);
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (kind, digest) = (SourceKind::Oci, digest.to_string());
    assembly.sources.push(Source { kind, name, version: digest.clone(), digest: Some(digest) });
    Ok(())
}

fn configure(assembly: &mut Assembly, config: Config) {
    assembly.command = config.entrypoint.unwrap_or_default();
    assembly.command.extend(config.cmd.unwrap_or_default());
    let pairs = config.env.unwrap_or_default();
    let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
    assembly.env.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    if let Some(dir) = config.working_dir.filter(|dir| dir.starts_with('/')) {
        assembly.cwd = dir;
    }
}

impl Layout {
    /// The manifest for this machine, and its digest.
    fn manifest(&self, index: &Index, depth: usize) -> Result<(Digest, ImageManifest), BuildError> {
        let fits = |descriptor: &&Descriptor| match &descriptor.platform {
            Some(platform) => platform.architecture == "amd64" && platform.os == "linux",
            None => true,
        };
        let fitting: Vec<&Descriptor> = index.manifests.iter().filter(fits).collect();
        let [descriptor] = fitting.as_slice() else {
            let (found, all) = (fitting.len(), index.manifests.len());
            return Err(refused(format!(
                "{found} of its {all} manifests are for linux on amd64, not one"
            )));
        };
        if descriptor.media_type.contains("index") || descriptor.media_type.contains("list") {
            if depth == MAX_NESTING {
                return Err(refused("its indexes are nested too deep"));
            }
            return self.manifest(&self.blob_json(descriptor)?, depth + 1);
        }
        Ok((parse(&descriptor.digest)?, self.blob_json(descriptor)?))
    }

    fn blob_json<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, BuildError> {
        let digest = parse(&descriptor.digest)?;
        self.json(&self.path(digest), Some(digest))
    }

    fn json<T: DeserializeOwned>(
        &self,
        path: &Path,
        digest: Option<Digest>,
    ) -> Result<T, BuildError> {
        let bytes = crate::read_file(path, MAX_JSON)?;
        if digest.is_some_and(|digest| digest != Digest::of(&bytes)) {
            return Err(refused(format!("blob `{}` has another digest", path.display())));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| refused(format!("`{}`: {error}", path.display())))
    }

    /// Opens a blob whose digest was checked.
    fn blob(&self, descriptor: &Descriptor) -> Result<File, BuildError> {
        let digest = parse(&descriptor.digest)?;
        let path = self.path(digest);
        let mut file = open(&path)?;
        let (found, _) =
            Digest::of_reader((&file).take(MAX_BLOB)).map_err(BuildError::io(&path))?;
        if found != digest {
            return Err(refused(format!("layer {digest} has digest {found}, or is too long")));
        }
        file.rewind().map_err(BuildError::io(&path))?;
        Ok(file)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }
}

/// Opens a regular file: a layout must not make anybody read a device or another file by a link.
fn open(path: &Path) -> Result<File, BuildError> {
    let metadata = path.symlink_metadata().map_err(BuildError::io(path))?;
    if !metadata.is_file() {
        return Err(refused(format!("`{}` is no file", path.display())));
    }
    File::open(path).map_err(BuildError::io(path))
}

/// Unpacks the layout in a tar archive into the build's folder: its files, and no others.
fn unpack(yard: &Yard, path: &Path) -> Result<Layout, BuildError> {
    let dir = yard.sub("oci")?;
    yard.sub("oci/blobs/sha256")?;
    let file = open(path)?;
    let mut files: BTreeMap<PathBuf, ()> = BTreeMap::new();
    layer::entries(file, &mut |entry, reader| {
        let Some(target) = part(&entry.path) else { return Ok(()) };
        if !entry.is_file()
            || files.len() == MAX_FILES
            || files.insert(target.clone(), ()).is_some()
        {
            return Err(refused("its archive has a part twice, too many, or one that is no file"));
        }
        let target = dir.join(target);
        let mut out = File::create_new(&target).map_err(BuildError::io(&target))?;
        let copied =
            io::copy(&mut reader.take(MAX_BLOB + 1), &mut out).map_err(BuildError::io(&target))?;
        if copied > MAX_BLOB { Err(refused("one of its blobs is too long")) } else { Ok(()) }
    })?;
    Ok(Layout { dir })
}

/// The path of a part of a layout; `None` for anything else.
fn part(path: &Path) -> Option<PathBuf> {
    let text = path.to_str()?.trim_start_matches("./");
    if text == "index.json" {
        return Some("index.json".into());
    }
    let hex = text.strip_prefix("blobs/sha256/")?;
    let good = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| Path::new("blobs/sha256").join(hex))
}

fn parse(digest: &str) -> Result<Digest, BuildError> {
    digest.parse().map_err(|_| refused(format!("`{}` is no SHA-256 digest", digest.escape_debug())))
}

fn refused(reason: impl Into<String>) -> BuildError {
    BuildError::refused("the OCI image", reason)
}

#[cfg(test)]
mod tests;
