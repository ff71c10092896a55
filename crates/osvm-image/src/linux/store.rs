//! The directory of Linux images: load, install, list, verify, remove, collect.

use super::{LinuxError, Manifest, PublicKey, Signature};
use crate::index::replace;
use crate::stamp::FileStamp;
use crate::{Digest, check_name, image};
use rustix::fs::{FlockOperation, flock};
use std::collections::{BTreeSet, HashMap};
use std::fs::{File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::NamedTempFile;

/// Longest manifest or signature that is read, in bytes.
const MAX_MANIFEST: u64 = 8 << 20;

/// Names in the store that can't be images.
const RESERVED: [&str; 2] = ["blobs", "verified"];

const MANIFEST: &str = "manifest.json";
const SIGNATURE: &str = "signature.json";
/// How the names of unfinished files begin.
const UNFINISHED: &str = ".new-";

/// A directory of Linux images. Clones share what they know of files that were hashed.
#[derive(Clone, Debug)]
pub struct LinuxStore {
    dir: PathBuf,
    hashed: Arc<Mutex<HashMap<Digest, FileStamp>>>,
}

/// An image that was checked and can be booted.
#[derive(Clone, Debug)]
pub struct LinuxImage {
    /// What it says about itself.
    pub manifest: Manifest,
    /// SHA-256 of the manifest, which stands for the whole image.
    pub digest: Digest,
    /// The root file system, open for reading; its bytes had the manifest's digest.
    pub root: Arc<File>,
    /// Where the root file system lies, for hypervisors that open it themselves.
    pub path: PathBuf,
}

/// One image, as a list shows it. Nothing was hashed for it.
#[derive(Debug)]
pub struct LinuxListed {
    /// Its name.
    pub name: String,
    /// Its manifest and that one's digest, or why it can't be used.
    pub manifest: Result<(Manifest, Digest), LinuxError>,
    /// Whether there is a signature, right or wrong.
    pub signed: bool,
}

/// What [`LinuxStore::gc`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Files.
    pub blobs: u64,
    /// Their length, in bytes.
    pub bytes: u64,
}

impl LinuxStore {
    /// The store in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), hashed: Arc::default() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a blob lies, whether it exists or not.
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    /// The manifest of `name`, and its digest.
    ///
    /// # Errors
    ///
    /// [`LinuxError`] when there is none or it is damaged.
    pub fn manifest(&self, name: &str) -> Result<(Manifest, Digest), LinuxError> {
        check(name)?;
        let path = self.dir.join(name).join(MANIFEST);
        let bytes = match read(&path) {
            Err(LinuxError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let names = self.names().unwrap_or_default();
                let nearest = image::nearest(name, names.iter().map(String::as_str));
                return Err(LinuxError::NotFound { name: name.into(), nearest });
            }
            read => read?,
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|source| LinuxError::BadManifest { path: path.clone(), source })?;
        match manifest.problem(name) {
            Some(reason) => Err(LinuxError::RefusedManifest { path, reason }),
            None => Ok((manifest, Digest::of(&bytes))),
        }
    }

    /// Opens an image for booting, its root checked against the manifest.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being booted: see [`LinuxError`].
    pub fn load(&self, name: &str) -> Result<LinuxImage, LinuxError> {
        let (manifest, digest) = self.manifest(name)?;
        let path = self.blob_path(manifest.root.digest);
        let root = self.checked(name, manifest.root.digest)?;
        Ok(LinuxImage { manifest, digest, root: Arc::new(root), path })
    }

    /// Reads everything that `name` consists of and compares it with the manifest. With `key`, the
    /// image has to be signed with it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn verify(&self, name: &str, key: Option<&PublicKey>) -> Result<Digest, LinuxError> {
        let (manifest, digest) = self.manifest(name)?;
        for blob in manifest.blobs() {
            self.hash(&self.open(name, blob)?, blob)?;
        }
        if let Some(key) = key {
            let signature =
                self.signature(name)?.ok_or_else(|| LinuxError::Unsigned { name: name.into() })?;
            if !key.verifies(digest, &signature) {
                return Err(LinuxError::BadSignature { name: name.into() });
            }
        }
        Ok(digest)
    }

    /// A blob of image `name`, checked like a root: lists of files, lock files.
    ///
    /// # Errors
    ///
    /// [`LinuxError`] when it is missing or altered.
    pub fn blob(&self, name: &str, digest: Digest) -> Result<File, LinuxError> {
        self.checked(name, digest)
    }

    /// The signature of `name`, if there is one.
    ///
    /// # Errors
    ///
    /// [`LinuxError`] when it can't be read.
    pub fn signature(&self, name: &str) -> Result<Option<Signature>, LinuxError> {
        check(name)?;
        let path = self.dir.join(name).join(SIGNATURE);
        match read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| LinuxError::BadManifest { path, source }),
            Err(LinuxError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps `signature` beside the manifest of `name`.
    ///
    /// # Errors
    ///
    /// [`LinuxError`] when the image is not there or the store can't be written.
    pub fn put_signature(&self, name: &str, signature: &Signature) -> Result<(), LinuxError> {
        self.manifest(name)?;
        let path = self.dir.join(name).join(SIGNATURE);
        let bytes = serde_json::to_vec_pretty(signature)
            .map_err(|source| LinuxError::BadManifest { path: path.clone(), source })?;
        replace(&path, 0o644, &bytes).map_err(io_error(&path))
    }

    /// Names of all images, sorted.
    ///
    /// # Errors
    ///
    /// [`LinuxError::Io`].
    pub fn names(&self) -> Result<Vec<String>, LinuxError> {
        let mut names: Vec<String> = files(&self.dir)?
            .into_iter()
            .filter(|(path, name)| check(name).is_ok() && path.join(MANIFEST).exists())
            .map(|(_, name)| name)
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// All images, sorted by name, without hashing their roots.
    ///
    /// # Errors
    ///
    /// [`LinuxError::Io`] when the directory can't be read.
    pub fn list(&self) -> Result<Vec<LinuxListed>, LinuxError> {
        let listed = self.names()?.into_iter().map(|name| {
            let signed = self.dir.join(&name).join(SIGNATURE).exists();
            LinuxListed { manifest: self.manifest(&name), name, signed }
        });
        Ok(listed.collect())
    }

    /// Removes an image. Its blobs stay until [`LinuxStore::gc`], and guests that run from them
    /// keep running.
    ///
    /// # Errors
    ///
    /// [`LinuxError::NotFound`] and [`LinuxError::Io`].
    pub fn remove(&self, name: &str) -> Result<(), LinuxError> {
        check(name)?;
        let dir = self.dir.join(name);
        if !dir.join(MANIFEST).exists() {
            return self.manifest(name).map(|_| ());
        }
        std::fs::remove_dir_all(&dir).map_err(io_error(&dir))
    }

    /// Removes every blob that no image names, and what interrupted builds left behind.
    ///
    /// An image whose manifest can't be read stops it: nobody knows what that image needs.
    ///
    /// # Errors
    ///
    /// [`LinuxError`].
    pub fn gc(&self) -> Result<Freed, LinuxError> {
        if !self.dir.exists() {
            return Ok(Freed::default());
        }
        let lock = File::open(&self.dir).map_err(io_error(&self.dir))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| io_error(&self.dir)(error.into()))?;
        let mut used = BTreeSet::new();
        for name in self.names()? {
            used.extend(self.manifest(&name)?.0.blobs().map(|digest| digest.hex()));
        }
        let mut freed = Freed::default();
        for (path, name) in files(&self.blobs())? {
            if !used.contains(&name) {
                freed.bytes += path.metadata().map_or(0, |metadata| metadata.len());
                freed.blobs += 1;
                std::fs::remove_file(&path).map_err(io_error(&path))?;
            }
        }
        for (path, name) in files(&self.dir.join("verified"))? {
            if !used.contains(&name) {
                std::fs::remove_file(&path).map_err(io_error(&path))?;
            }
        }
        Ok(freed)
    }

    /// Begins to install an image; until the writer is dropped, nothing is collected.
    ///
    /// # Errors
    ///
    /// [`LinuxError::Io`] when the store can't be written.
    pub fn writer(&self) -> Result<Writer<'_>, LinuxError> {
        let blobs = self.blobs();
        std::fs::create_dir_all(&blobs).map_err(io_error(&blobs))?;
        let lock = File::open(&self.dir).map_err(io_error(&self.dir))?;
        flock(&lock, FlockOperation::LockShared)
            .map_err(|error| io_error(&self.dir)(error.into()))?;
        Ok(Writer { store: self, _lock: lock })
    }

    fn open(&self, name: &str, digest: Digest) -> Result<File, LinuxError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LinuxError::MissingBlob { name: name.into(), digest },
            _ => LinuxError::Io { path, source },
        })
    }

    /// Opens a blob that has its digest: hashed now, or earlier and not changed since.
    fn checked(&self, name: &str, digest: Digest) -> Result<File, LinuxError> {
        let file = self.open(name, digest)?;
        let stamp = stamp(&file).map_err(io_error(&self.blob_path(digest)))?;
        let known = |hashed: &HashMap<Digest, FileStamp>| hashed.get(&digest) == Some(&stamp);
        if known(&self.hashed.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(file);
        }
        let noted = std::fs::read_to_string(self.dir.join("verified").join(digest.hex()));
        if noted.is_ok_and(|line| line == stamp.line()) {
            self.hashed.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, stamp);
            return Ok(file);
        }
        self.hash(&file, digest)?;
        Ok(file)
    }

    /// Hashes an open blob, and remembers that it was right for as long as it does not change.
    fn hash(&self, file: &File, expected: Digest) -> Result<(), LinuxError> {
        let path = self.blob_path(expected);
        // Taken before the bytes are read: a change meanwhile makes it out of date.
        let stamp = stamp(file).map_err(io_error(&path))?;
        let (found, _) = Digest::of_reader(file).map_err(io_error(&path))?;
        if found != expected {
            return Err(LinuxError::Altered { path, expected, found });
        }
        rewind(file).map_err(io_error(&path))?;
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner).insert(expected, stamp);
        // Only saves time, so a store that can't be written to is as good.
        let dir = self.dir.join("verified");
        if std::fs::create_dir_all(&dir).is_ok() {
            let _ = replace(&dir.join(expected.hex()), 0o644, stamp.line().as_bytes());
        }
        Ok(())
    }
}

/// Puts one image into the store: blobs first, then the manifest that names them.
#[derive(Debug)]
pub struct Writer<'a> {
    store: &'a LinuxStore,
    // Held for `gc` to see, which waits until it is gone.
    _lock: File,
}

impl Writer<'_> {
    /// An empty file that can become a blob.
    ///
    /// # Errors
    ///
    /// [`LinuxError::Io`].
    pub fn unfinished(&self) -> Result<NamedTempFile, LinuxError> {
        let blobs = self.store.blobs();
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&blobs).map_err(io_error(&blobs))
    }

    /// Makes a file a blob. Returns its digest and length.
    ///
    /// # Errors
    ///
    /// [`LinuxError::Io`].
    pub fn blob(&self, file: NamedTempFile) -> Result<(Digest, u64), LinuxError> {
        let io = io_error(file.path());
        // Opened anew: whoever wrote it may have replaced it, or moved the position.
        let bytes = File::open(file.path()).map_err(&io)?;
        let (digest, size) = Digest::of_reader(&bytes).map_err(&io)?;
        bytes.set_permissions(Permissions::from_mode(0o444)).map_err(&io)?;
        bytes.sync_data().map_err(&io)?;
        let path = self.store.blob_path(digest);
        file.persist(&path).map_err(|error| io_error(&path)(error.error))?;
        Ok((digest, size))
    }

    /// Makes `bytes` a blob.
    ///
    /// # Errors
    ///
    /// [`LinuxError::Io`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<Digest, LinuxError> {
        let digest = Digest::of(bytes);
        let path = self.store.blob_path(digest);
        replace(&path, 0o444, bytes).map_err(io_error(&path))?;
        Ok(digest)
    }

    /// Puts the manifest in place, over an earlier image of that name. Returns its digest.
    ///
    /// # Errors
    ///
    /// [`LinuxError`] when the manifest could not be loaded again, or names a missing blob.
    pub fn install(self, manifest: &Manifest) -> Result<Digest, LinuxError> {
        check(&manifest.name)?;
        let dir = self.store.dir.join(&manifest.name);
        let path = dir.join(MANIFEST);
        if let Some(reason) = manifest.problem(&manifest.name) {
            return Err(LinuxError::RefusedManifest { path, reason });
        }
        for digest in manifest.blobs() {
            self.store.open(&manifest.name, digest)?;
        }
        let bytes = manifest
            .to_bytes()
            .map_err(|source| LinuxError::BadManifest { path: path.clone(), source })?;
        std::fs::create_dir_all(&dir).map_err(io_error(&dir))?;
        let digest = Digest::of(&bytes);
        // A signature of another image would only look wrong beside this one.
        let old = self.store.manifest(&manifest.name).is_ok_and(|(_, old)| old != digest);
        if old
            && let Err(error) = std::fs::remove_file(dir.join(SIGNATURE))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(io_error(&dir)(error));
        }
        replace(&path, 0o644, &bytes).map_err(io_error(&path))?;
        Ok(digest)
    }
}

fn check(name: &str) -> Result<(), LinuxError> {
    if check_name(name).is_ok() && !RESERVED.contains(&name) {
        return Ok(());
    }
    Err(LinuxError::BadName { name: name.chars().take(64).flat_map(char::escape_debug).collect() })
}

fn stamp(file: &File) -> io::Result<FileStamp> {
    file.metadata().map(|metadata| FileStamp::of_metadata(&metadata))
}

fn rewind(mut file: &File) -> io::Result<()> {
    io::Seek::rewind(&mut file)
}

fn read(path: &Path) -> Result<Vec<u8>, LinuxError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes))
        .map_err(io_error(path))?;
    if bytes.len() as u64 > MAX_MANIFEST {
        let reason = format!("it is longer than {MAX_MANIFEST} bytes");
        return Err(LinuxError::RefusedManifest { path: path.into(), reason });
    }
    Ok(bytes)
}

/// Paths and names of what is in `dir`; nothing if there is no such directory.
fn files(dir: &Path) -> Result<Vec<(PathBuf, String)>, LinuxError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(dir))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error(dir))?;
        // The store makes no other names.
        let Ok(name) = entry.file_name().into_string() else { continue };
        files.push((entry.path(), name));
    }
    Ok(files)
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> LinuxError + use<> {
    let path = path.to_owned();
    move |source| LinuxError::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests;
