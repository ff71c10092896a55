//! What an image says about itself.

use crate::Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the manifest's shape. A manifest of another version is refused.
pub const FORMAT: u32 = 1;

/// Longest command, in words; most variables of the environment.
const MAX_WORDS: usize = 1024;

/// Longest word of a command, name or value of a variable, in bytes.
const MAX_WORD: usize = 32 * 1024;

/// Least and most memory a guest may ask for, in MiB.
const MEMORY: std::ops::RangeInclusive<u32> = 32..=65_536;

/// One image: what to boot, what to run in it, and where all of it is from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Name in the store.
    pub name: String,
    /// The moment of `SOURCE_DATE_EPOCH`, RFC 3339, UTC; none without it, so that the same
    /// sources give the same manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The root file system.
    pub root: Root,
    /// Program and arguments of the server.
    pub command: Vec<String>,
    /// Environment of the server.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory of the server, an absolute path in the image.
    pub cwd: String,
    /// Memory of a guest unless its config says otherwise, in MiB.
    pub default_memory_mb: u32,
    /// What the server needs from its host to be of use.
    #[serde(default)]
    pub needs: BTreeSet<Need>,
    /// What the image was made from, sorted by kind and name.
    pub sources: Vec<Source>,
    /// Every file of the root.
    pub files: FileList,
    /// Lock files: what a later build needs to get the same sources.
    #[serde(default)]
    pub locks: Vec<LockFile>,
    /// Scripts of packages that ran while it was built; none for most images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scripts: Option<Scripts>,
    /// SHA-256 over the builder's version, the recipe and the sources.
    pub build_id: Digest,
}

/// A root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Its length, in bytes.
    pub size: u64,
    /// What it is.
    pub fs: FileSystem,
}

/// Kind of a root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// Read-only, not compressed: its pages are shared by all guests.
    Erofs,
}

/// Something a server needs from its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// Reaches other hosts, so it needs egress rules.
    Network,
    /// Works on files of the user, so it needs a workspace.
    Workspace,
    /// Keeps state between calls, so it forgets in clone life.
    State,
}

/// One thing an image was made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where it is from.
    pub kind: SourceKind,
    /// Its name there.
    pub name: String,
    /// Its version; a commit for git; empty for files.
    pub version: String,
    /// `sha256:…` or `sha512:…` in hexadecimal digits, of the archive that was fetched or, for
    /// files, of their list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Where a source is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// The npm registry.
    Npm,
    /// The Python package index.
    Pypi,
    /// A git repository.
    Git,
    /// The host's Debian archive.
    Debian,
    /// An OCI image layout.
    Oci,
    /// Files of the builder's host.
    Files,
}

/// The list of all files in a root, itself a blob: one line for each, `mode size digest path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileList {
    /// SHA-256 of the list.
    pub digest: Digest,
    /// Entries in it.
    pub count: u64,
    /// Length of all files together, in bytes.
    pub bytes: u64,
}

/// A lock file, kept as a blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    /// Whose it is.
    pub kind: SourceKind,
    /// SHA-256 of the file.
    pub digest: Digest,
}

/// Scripts of packages that ran in a microVM while an image was built. What they made is in the list
/// of files; that a later run makes the same is for the scripts to say, not for osvm.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scripts {
    /// Name of the image that the microVM was made from, to which the packages were added.
    pub builder: String,
    /// SHA-256 of that image's manifest.
    pub builder_digest: Digest,
    /// The scripts, in the order in which they ran.
    pub runs: Vec<ScriptRun>,
}

/// One script that ran.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptRun {
    /// The package that it belongs to.
    pub package: String,
    /// That package's version.
    pub version: String,
    /// When a package manager runs it: `preinstall`, `install` or `postinstall`.
    pub event: String,
    /// What it says.
    pub command: String,
    /// How it ended.
    pub outcome: ScriptOutcome,
}

/// How a script ended, as the microVM said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ScriptOutcome {
    /// With success.
    Ok,
    /// With an error. Nothing needs its package, which was left out.
    Failed,
}

impl ScriptOutcome {
    /// The word in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

impl Manifest {
    /// The bytes that are stored and whose digest is the image's.
    ///
    /// # Errors
    ///
    /// None that can happen with these types; kept for the caller to pass on.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Every blob the image needs.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        let locks = self.locks.iter().map(|lock| lock.digest);
        [self.root.digest, self.files.digest].into_iter().chain(locks)
    }

    /// Why this manifest can't be booted from, if it can't: for manifests that were read.
    pub(crate) fn problem(&self, name: &str) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("it has format {}, this osvm reads {FORMAT}", self.format));
        }
        if self.name != name {
            return Some(format!("it is that of image `{}`", self.name.escape_debug()));
        }
        if self.command.is_empty() || self.command.len() > MAX_WORDS || self.env.len() > MAX_WORDS {
            return Some(format!("command and environment have 1 to {MAX_WORDS} entries"));
        }
        let pairs = self.env.iter().flat_map(|(name, value)| [name, value]);
        let fits = |word: &String| word.len() <= MAX_WORD && !word.contains('\0');
        if !self.command.iter().chain(pairs).chain([&self.cwd]).all(fits) {
            return Some(format!("a word is longer than {MAX_WORD} bytes or has a zero byte"));
        }
        if self.env.keys().any(|name| name.is_empty() || name.contains('=')) {
            return Some("a variable of the environment has an impossible name".into());
        }
        if !self.cwd.starts_with('/') {
            return Some("the working directory is not an absolute path".into());
        }
        if !MEMORY.contains(&self.default_memory_mb) {
            let (least, most) = (MEMORY.start(), MEMORY.end());
            return Some(format!("memory is {least} to {most} MiB"));
        }
        None
    }
}

impl SourceKind {
    /// The word in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pypi => "pypi",
            Self::Git => "git",
            Self::Debian => "debian",
            Self::Oci => "oci",
            Self::Files => "files",
        }
    }
}
