//! The root file system while it is put together: a folder that nothing gets out of.
//!
//! # Invariants
//!
//! - Paths from archives are hostile. The kernel resolves each of them inside the tree
//!   (`openat2` with `RESOLVE_IN_ROOT`): an absolute link or one with `..` ends in the tree, and a
//!   path that has `..` itself is refused.
//! - A file is always written anew, never through a link that lies in its place.
//! - There are regular files, folders and links in it. Owners, times, extended attributes, setuid
//!   bits and devices do not get in; every file can be read by everybody, because the server runs
//!   as a user of its own in a guest that holds nothing else.
//! - Entries and bytes are bounded.

use crate::error::BuildError;
use osvm_image::Digest;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

/// Most entries of a tree, counting those that are replaced later.
const MAX_ENTRIES: u64 = 500_000;

/// Most bytes that are written into a tree.
const MAX_BYTES: u64 = 8 << 30;

/// Most folders around a file.
const MAX_DEPTH: usize = 128;

/// Folders that everybody may write to, in the guest's writable layer.
const SHARED: [&str; 4] = ["tmp", "var/tmp", "workspace", "home/osvm"];

/// A root file system in a folder of the host.
#[derive(Debug)]
pub(crate) struct Tree {
    path: PathBuf,
    root: OwnedFd,
    entries: u64,
    bytes: u64,
}

/// One entry of a finished tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Path without a leading slash.
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File { executable: bool, size: u64 },
    Link(PathBuf),
}

impl Tree {
    /// An empty tree in the folder `path`, which must not exist.
    pub(crate) fn create(path: &Path) -> Result<Self, BuildError> {
        std::fs::create_dir(path).map_err(BuildError::io(path))?;
        Self::adopt(path)
    }

    /// The tree in the folder `path`, which others have filled. What is in it counts for nothing.
    pub(crate) fn adopt(path: &Path) -> Result<Self, BuildError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty());
        let root = root.map_err(|error| BuildError::io(path)(error.into()))?;
        Ok(Self { path: path.into(), root, entries: 0, bytes: 0 })
    }

    /// The folder on the host. Nobody but [`Tree`] opens anything below it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder, and those around it.
    pub(crate) fn dir(&mut self, path: impl AsRef<Path>) -> Result<(), BuildError> {
        let path = inside(path.as_ref())?;
        self.count(&path)?;
        self.make_dirs(&path).map(drop)
    }

    /// Writes a file with the bytes that `reader` gives until it ends.
    pub(crate) fn file(
        &mut self,
        path: impl AsRef<Path>,
        executable: bool,
        reader: impl Read,
    ) -> Result<u64, BuildError> {
        let path = inside(path.as_ref())?;
        self.count(&path)?;
        let (parent, name) = self.parent(&path)?;
        vacate(&parent, &name).map_err(|error| self.io(&path, error))?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if executable { 0o755 } else { 0o644 };
        let file = rustix::fs::openat(&parent, &name, flags, Mode::from(mode));
        let mut file = File::from(file.map_err(|error| self.io(&path, error))?);
        let left = MAX_BYTES.saturating_sub(self.bytes);
        let copied = io::copy(&mut reader.take(left.saturating_add(1)), &mut file)
            .map_err(BuildError::io(self.path.join(&path)))?;
        if copied > left {
            return Err(too_large());
        }
        self.bytes += copied;
        Ok(copied)
    }

    /// Writes a file that only owner and readers of text look at.
    pub(crate) fn text(&mut self, path: &str, text: &str) -> Result<(), BuildError> {
        self.file(path, false, text.as_bytes()).map(drop)
    }

    /// Makes a symbolic link. Its target is not looked at: only the guest follows it.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, target: &Path) -> Result<(), BuildError> {
        let path = inside(path.as_ref())?;
        self.count(&path)?;
        let (parent, name) = self.parent(&path)?;
        vacate(&parent, &name).map_err(|error| self.io(&path, error))?;
        rustix::fs::symlinkat(target, &parent, &name).map_err(|error| self.io(&path, error))
    }

    /// Writes `path` with the bytes of the file `target` of the tree, as a hard link would.
    pub(crate) fn copy(&mut self, path: &Path, target: &Path) -> Result<(), BuildError> {
        let file = self.open(target)?;
        let metadata = file.metadata().map_err(BuildError::io(target))?;
        if !metadata.is_file() {
            return Err(BuildError::refused(shown(path), "it is a hard link to what is no file"));
        }
        self.file(path, metadata.permissions().mode() & 0o111 != 0, file).map(drop)
    }

    /// Removes whatever is at `path`, if anything is.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), BuildError> {
        let path = inside(path)?;
        match self.parent_if_any(&path)? {
            Some((parent, name)) => {
                remove(&parent, &name, 0).map_err(|error| self.io(&path, error))
            }
            None => Ok(()),
        }
    }

    /// Removes all that is in the folder `path`, if there is one.
    pub(crate) fn clear(&self, path: &Path) -> Result<(), BuildError> {
        let path = inside(path)?;
        match self.resolve(&path, OFlags::DIRECTORY | OFlags::RDONLY) {
            Ok(dir) => clear(&dir, 0).map_err(|error| self.io(&path, error)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(self.io(&path, error)),
        }
    }

    /// Opens a file or folder of the tree for reading, links followed inside it.
    pub(crate) fn open(&self, path: impl AsRef<Path>) -> Result<File, BuildError> {
        let path = inside(path.as_ref())?;
        // Without NONBLOCK, opening a pipe would wait for its other end; there are none, but then
        // nothing has to rely on it.
        let file = self.resolve(&path, OFlags::RDONLY | OFlags::NONBLOCK);
        file.map(File::from).map_err(|error| self.io(&path, error))
    }

    /// Whether there is something at `path`, links followed inside the tree.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        inside(path.as_ref()).is_ok_and(|path| self.resolve(&path, OFlags::PATH).is_ok())
    }

    /// Copies a file, folder or link of the host to `to`. `keep` is asked for each path below
    /// `from`. Devices, pipes and sockets are left out.
    pub(crate) fn add(
        &mut self,
        from: &Path,
        to: &Path,
        keep: &dyn Fn(&Path) -> bool,
    ) -> Result<(), BuildError> {
        let mut open = vec![PathBuf::new()];
        while let Some(below) = open.pop() {
            let source = if below.as_os_str().is_empty() { from.into() } else { from.join(&below) };
            let target = if below.as_os_str().is_empty() { to.into() } else { to.join(&below) };
            let metadata = source.symlink_metadata().map_err(BuildError::io(&source))?;
            if metadata.is_symlink() {
                let link = std::fs::read_link(&source).map_err(BuildError::io(&source))?;
                // A folder link of the tree, such as /bin, stays what it is.
                if !self.is_dir(&target) {
                    self.link(&target, &link)?;
                }
            } else if metadata.is_dir() {
                self.dir(&target)?;
                for entry in std::fs::read_dir(&source).map_err(BuildError::io(&source))? {
                    let name = entry.map_err(BuildError::io(&source))?.file_name();
                    let below = below.join(name);
                    if keep(&below) {
                        open.push(below);
                    }
                }
            } else if metadata.is_file() {
                let file = File::open(&source).map_err(BuildError::io(&source))?;
                self.file(&target, metadata.permissions().mode() & 0o111 != 0, file)?;
            } else {
                tracing::debug!(path = %source.display(), "neither file, folder nor link: left out");
            }
        }
        Ok(())
    }

    fn is_dir(&self, path: &Path) -> bool {
        inside(path).is_ok_and(|path| self.resolve(&path, OFlags::PATH | OFlags::DIRECTORY).is_ok())
    }

    /// Every entry, sorted by path, folders before what is in them. Also gives every folder and
    /// file the permissions that the image has.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, BuildError> {
        let mut entries = Vec::new();
        let mut open = vec![PathBuf::new()];
        while let Some(dir) = open.pop() {
            // Only real folders get here, so no link is followed.
            let host = self.path.join(&dir);
            for entry in std::fs::read_dir(&host).map_err(BuildError::io(&host))? {
                let entry = entry.map_err(BuildError::io(&host))?;
                let path = dir.join(entry.file_name());
                let host = entry.path();
                let io = || BuildError::io(&host);
                let metadata = host.symlink_metadata().map_err(io())?;
                let mode = |mode| {
                    std::fs::set_permissions(&host, std::fs::Permissions::from_mode(mode))
                        .map_err(io())
                };
                let kind = if metadata.is_symlink() {
                    Kind::Link(std::fs::read_link(&host).map_err(io())?)
                } else if metadata.is_dir() {
                    let shared = SHARED.iter().any(|shared| path == Path::new(shared));
                    mode(if shared { 0o1777 } else { 0o755 })?;
                    open.push(path.clone());
                    Kind::Dir
                } else if metadata.is_file() {
                    let executable = metadata.permissions().mode() & 0o111 != 0;
                    mode(if executable { 0o755 } else { 0o644 })?;
                    Kind::File { executable, size: metadata.len() }
                } else {
                    return Err(BuildError::refused(shown(&path), "it is a device or a pipe"));
                };
                entries.push(Entry { path, kind });
                if entries.len() as u64 > MAX_ENTRIES {
                    return Err(too_large());
                }
            }
        }
        entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// The list of all entries, one line for each, in the format of a manifest's `files`.
    pub(crate) fn listing(&self, entries: &[Entry]) -> Result<Vec<u8>, BuildError> {
        let mut list = Vec::new();
        for Entry { path, kind } in entries {
            let name = path.as_os_str().as_bytes().escape_ascii();
            let line = match kind {
                Kind::Dir => format!("dir - - /{name}\n"),
                Kind::Link(target) => {
                    format!("link - {} /{name}\n", target.as_os_str().as_bytes().escape_ascii())
                }
                Kind::File { executable, size } => {
                    let host = self.path.join(path);
                    let file = File::open(&host).map_err(BuildError::io(&host))?;
                    let (digest, _) = Digest::of_reader(file).map_err(BuildError::io(&host))?;
                    let kind = if *executable { "exec" } else { "file" };
                    format!("{kind} {size} {digest} /{name}\n")
                }
            };
            list.extend_from_slice(line.as_bytes());
        }
        Ok(list)
    }

    fn count(&mut self, path: &Path) -> Result<(), BuildError> {
        self.entries += 1;
        if path.components().count() > MAX_DEPTH {
            return Err(BuildError::refused(shown(path), "it is too deep"));
        }
        if self.entries > MAX_ENTRIES { Err(too_large()) } else { Ok(()) }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString), BuildError> {
        let name = path.file_name();
        let name = name.ok_or_else(|| BuildError::refused("/", "it is the root itself"))?;
        Ok((self.make_dirs(path.parent().unwrap_or(Path::new("")))?, name.to_owned()))
    }

    fn parent_if_any(&self, path: &Path) -> Result<Option<(OwnedFd, OsString)>, BuildError> {
        let Some(name) = path.file_name() else { return Ok(None) };
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.resolve(parent, OFlags::DIRECTORY | OFlags::RDONLY) {
            Ok(parent) => Ok(Some((parent, name.to_owned()))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(self.io(path, error)),
        }
    }

    /// The folder `path`, made with those around it where they are missing.
    fn make_dirs(&self, path: &Path) -> Result<OwnedFd, BuildError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        match self.resolve(path, flags) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(self.io(path, error)),
        }
        let parent = self.make_dirs(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().unwrap_or_default();
        // A file or a dangling link in the place of a folder gives way, as in any archive.
        vacate(&parent, name).map_err(|error| self.io(path, error))?;
        rustix::fs::mkdirat(&parent, name, Mode::from(0o755))
            .map_err(|error| self.io(path, error))?;
        self.resolve(path, flags).map_err(|error| self.io(path, error))
    }

    fn io(&self, path: &Path, error: Errno) -> BuildError {
        BuildError::Io { path: self.path.join(path), source: error.into() }
    }
}

/// The path relative to the root; one with `..` is refused.
fn inside(path: &Path) -> Result<PathBuf, BuildError> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(BuildError::refused(shown(path), "its path has `..` in it"));
            }
        }
    }
    Ok(inside)
}

/// Removes a file or link, so that something can be written there.
fn vacate(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => remove(parent, name, 0),
        removed => removed,
    }
}

fn remove(parent: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        removed => return removed,
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    clear(&dir, depth)?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn clear(dir: &OwnedFd, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let names: Vec<OsString> = Dir::read_from(dir.as_fd())?
        .map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()))
        .collect::<Result<_, Errno>>()?;
    for name in names.iter().filter(|name| *name != "." && *name != "..") {
        remove(dir, name, depth + 1)?;
    }
    Ok(())
}

fn too_large() -> BuildError {
    let reason = format!("it is over {MAX_ENTRIES} entries or {} GiB", MAX_BYTES >> 30);
    BuildError::refused("the image", reason)
}

fn shown(path: &Path) -> String {
    format!("`{}`", path.as_os_str().as_bytes().escape_ascii())
}

/// Writes `bytes` and ends the file.
pub(crate) fn write_all(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    File::create(path).and_then(|mut file| file.write_all(bytes)).map_err(BuildError::io(path))
}

#[cfg(test)]
mod tests;
