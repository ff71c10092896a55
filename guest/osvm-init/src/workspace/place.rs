//! One place for files of the host: what is put there, and what is not as it was.

use crate::Error;
use osvm_protocol::frame::FrameError;
use osvm_protocol::linux::workspace::{self as wire, Place, Said};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Timestamps, fstat, futimens, open, openat2,
    readlinkat, statat,
};
use rustix::mount::{MountFlags, mount_remount};
use rustix::time::Timespec;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

/// Files and folders that are looked at.
const MAX_FILES: usize = 50_000;

/// Permission bits that are carried: a file of the host gives nobody rights of another user.
const PERMISSIONS: u32 = 0o777;

/// A place.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) place: Place,
    uid: u32,
    root: OwnedFd,
    incoming: Option<Incoming>,
    /// Those that are there, in the order in which they came.
    folders: Vec<PathBuf>,
    /// How everything was when the host last knew; `None` until all is there.
    base: Option<BTreeMap<Vec<u8>, Mark>>,
}

/// A file whose bytes are on their way.
#[derive(Debug)]
struct Incoming {
    file: File,
    mode: u32,
    changed: (i64, u32),
}

/// Tells whether something was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    kind: Kind,
    mode: u32,
    inode: u64,
    size: u64,
    changed: (i64, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link,
}

/// What is said of something, and the file whose bytes follow, with how many there are.
pub(super) type Told = (Result<Vec<u8>, FrameError>, Option<(File, u64)>);

/// One thing that is not as it was.
#[derive(Debug)]
pub(super) enum Step {
    Gone(Vec<u8>),
    There(Vec<u8>, Mark),
}

impl Files {
    /// The place, whose folder is there, for user `uid`.
    pub(super) fn new(place: Place, uid: u32) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(place.path.as_str(), flags, Mode::empty());
        let root = root.map_err(Error::during(format!("open `{}`", place.path)))?;
        Ok(Self { place, uid, root, incoming: None, folders: Vec::new(), base: None })
    }

    /// Takes what the host says of one file.
    pub(super) fn put(&mut self, said: Said<'_>) -> Result<(), String> {
        if !matches!(said, Said::Data(_)) {
            self.finish_file()?;
        }
        let at = |path: &[u8]| Path::new(&self.place.path).join(OsStr::from_bytes(path));
        match said {
            Said::Folder { mode, path } => {
                let path = at(path);
                fs::create_dir(&path).map_err(about("make", &path))?;
                let mode = Permissions::from_mode(mode & PERMISSIONS | 0o700);
                fs::set_permissions(&path, mode).map_err(about("open", &path))?;
                self.folders.push(path);
            }
            Said::File { mode, changed, path, .. } => {
                let path = at(path);
                let file = File::options().write(true).create_new(true).open(&path);
                let file = file.map_err(about("make", &path))?;
                self.incoming = Some(Incoming { file, mode, changed });
            }
            Said::Data(bytes) => {
                let incoming = self.incoming.as_mut().ok_or("there is no file for the data")?;
                incoming.file.write_all(bytes).map_err(|error| format!("cannot write: {error}"))?;
            }
            Said::Link { path, target } => {
                let path = at(path);
                symlink(OsStr::from_bytes(target), &path).map_err(about("make", &path))?;
                lchown(&path, Some(self.uid), Some(self.uid)).map_err(about("give", &path))?;
            }
            Said::Gone { .. } | Said::Place(_) => {}
        }
        Ok(())
    }

    fn finish_file(&mut self) -> Result<(), String> {
        let Some(Incoming { file, mode, changed: (seconds, nanos) }) = self.incoming.take() else {
            return Ok(());
        };
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        let finish = || -> std::io::Result<()> {
            file.set_permissions(Permissions::from_mode(mode & PERMISSIONS))?;
            fchown(&file, Some(self.uid), Some(self.uid))?;
            Ok(futimens(&file, &times)?)
        };
        finish().map_err(|error| format!("cannot finish a file: {error}"))
    }

    /// Gives all that was put here to the server.
    pub(super) fn ready(&mut self) -> Result<(), String> {
        self.finish_file()?;
        self.base = Some(self.look()?);
        // From within: whatever leads to a folder is root's until all below it is given away.
        self.folders.reverse();
        let root = PathBuf::from(&self.place.path);
        for folder in self.folders.iter().chain([&root]) {
            lchown(folder, Some(self.uid), Some(self.uid)).map_err(about("give", folder))?;
        }
        self.folders = Vec::new();
        if !self.place.writable {
            let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            let closed = mount_remount(self.place.path.as_str(), flags, c"");
            closed.map_err(about("write-protect", &root))?;
        }
        Ok(())
    }

    /// What is not as it was, and how much was looked at; from now on it is as it was.
    pub(super) fn changes(&mut self) -> Result<(Vec<Step>, usize), String> {
        if !self.place.writable {
            return Ok((Vec::new(), 0));
        }
        let now = self.look()?;
        let none = BTreeMap::new();
        let steps = steps(self.base.as_ref().unwrap_or(&none), &now);
        let looked_at = now.len();
        self.base = Some(now);
        Ok((steps, looked_at))
    }

    /// Everything that is there now.
    fn look(&self) -> Result<BTreeMap<Vec<u8>, Mark>, String> {
        let mut all = BTreeMap::new();
        let mut folders = vec![Vec::new()];
        while let Some(folder) = folders.pop() {
            // It may have been moved meanwhile.
            let Ok(fd) = open_below(&self.root, &folder, OFlags::DIRECTORY) else { continue };
            let entries = Dir::read_from(&fd).map_err(|error| format!("cannot look: {error}"))?;
            for entry in entries.filter_map(Result::ok) {
                let name = entry.file_name().to_bytes();
                let Ok(stat) = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                let Some(mark) = Mark::of(&stat) else { continue };
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let path = match folder.as_slice() {
                    b"" => name.to_vec(),
                    folder => [folder, b"/", name].concat(),
                };
                if !wire::is_plain(&path) || MAX_FILES <= all.len() {
                    return Err(format!("more than {MAX_FILES} files, or folders too deep"));
                }
                if mark.kind == Kind::Folder {
                    folders.push(path.clone());
                }
                all.insert(path, mark);
            }
        }
        Ok(all)
    }

    /// What is said of something that is there, and the file whose bytes follow; of what has gone
    /// meanwhile, that.
    pub(super) fn there(&self, path: &[u8], mark: Mark) -> Told {
        let gone = || wire::frame(Said::Gone { path });
        match mark.kind {
            Kind::Folder => (wire::frame(Said::Folder { mode: mark.mode, path }), None),
            Kind::Link => match readlinkat(&self.root, path, Vec::new()) {
                Ok(target) => (wire::frame(Said::Link { path, target: target.to_bytes() }), None),
                Err(_) => (gone(), None),
            },
            Kind::File => {
                let opened = open_below(&self.root, path, OFlags::NONBLOCK);
                let opened = opened.and_then(|fd| Ok((fstat(&fd)?, fd)));
                match opened.map(|(stat, fd)| (Mark::of(&stat), fd)) {
                    Ok((Some(Mark { kind: Kind::File, mode, size, changed, .. }), fd)) => {
                        let file = Some((File::from(fd), size)).filter(|_| size != 0);
                        (wire::frame(Said::File { mode, size, changed, path }), file)
                    }
                    Ok(_) | Err(_) => (gone(), None),
                }
            }
        }
    }
}

impl Mark {
    /// Nothing for what is neither file, folder nor link.
    fn of(stat: &rustix::fs::Stat) -> Option<Self> {
        let mode = stat.st_mode & PERMISSIONS;
        let changed = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default());
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let inode = stat.st_ino;
        match FileType::from_raw_mode(stat.st_mode) {
            // What is in it has marks of its own.
            FileType::Directory => {
                Some(Self { kind: Kind::Folder, mode, inode: 0, size: 0, changed: (0, 0) })
            }
            FileType::RegularFile => Some(Self { kind: Kind::File, mode, inode, size, changed }),
            FileType::Symlink => Some(Self { kind: Kind::Link, mode, inode, size, changed }),
            _ => None,
        }
    }
}

/// From what was to what is: first what went, from within, then what came, from without.
fn steps(base: &BTreeMap<Vec<u8>, Mark>, now: &BTreeMap<Vec<u8>, Mark>) -> Vec<Step> {
    let kind = |mark: &Mark| mark.kind;
    let gone = base
        .iter()
        .rev()
        .filter(|(path, mark)| now.get(*path).map(kind) != Some(mark.kind))
        .map(|(path, _)| Step::Gone(path.clone()));
    let there = now
        .iter()
        .filter(|(path, mark)| base.get(*path) != Some(mark))
        .map(|(path, mark)| Step::There(path.clone(), *mark));
    gone.chain(there).collect()
}

/// Opens what is below `root`, over no symbolic link.
fn open_below(root: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root.as_fd(), path, flags, Mode::empty(), resolve)
}

fn about<E: std::fmt::Display>(what: &str, path: &Path) -> impl FnOnce(E) -> String {
    move |error| format!("cannot {what} `{}`: {error}", path.display())
}
