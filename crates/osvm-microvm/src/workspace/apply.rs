//! Changes on their way into the host folder.

use super::changes::{Change, State};
use super::open_below;
use osvm_image::Digest;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fchmod, mkdirat, openat, readlinkat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

/// Why changes were not put into the host folder.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The host's files are not those that the guest had seen; nothing was written.
    #[error("the host's files were changed meanwhile: {}", words(paths))]
    Conflict {
        /// Which.
        paths: Vec<String>,
    },
    /// The host refused something. What comes before it in the list of changes may have been
    /// written.
    #[error("cannot change `{path}` in the workspace")]
    Io {
        /// Which file.
        path: String,
        /// What the host answered.
        source: io::Error,
    },
}

/// Paths that are named in a message.
const NAMED: usize = 5;

fn words(paths: &[String]) -> String {
    let named: Vec<_> = paths.iter().take(NAMED).map(|path| format!("`{path}`")).collect();
    match paths.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn at(path: &str) -> impl FnOnce(io::Error) -> ApplyError {
    let path = path.to_owned();
    move |source| ApplyError::Io { path, source }
}

/// Whether the host's files are still those that the guest had seen, or already those that it left.
pub(super) fn check(root: &OwnedFd, changes: &[Change]) -> Result<(), ApplyError> {
    let mut conflicts = Vec::new();
    for change in changes {
        let now = state(root, &change.path).map_err(at(&change.path))?;
        let fits = |known: &Option<State>| match (known, &now) {
            (None, None) => true,
            (Some(known), Some(now)) => known.is_like(now),
            _ => false,
        };
        if !fits(&change.before) && !fits(&change.after) {
            conflicts.push(change.path.clone());
        }
    }
    if conflicts.is_empty() { Ok(()) } else { Err(ApplyError::Conflict { paths: conflicts }) }
}

/// Puts changes into the folder, whatever is there now.
pub(super) fn put(
    root: &OwnedFd,
    changes: &[Change],
    contents: &dyn Fn(&Digest) -> io::Result<Vec<u8>>,
) -> Result<(), ApplyError> {
    // From within, as they are in order.
    for change in changes.iter().rev() {
        let stays = match (&change.before, &change.after) {
            (Some(before), Some(after)) => before.is_of_kind(after),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if !stays {
            remove(root, &change.path).map_err(at(&change.path))?;
        }
    }
    for change in changes {
        let put = match &change.after {
            Some(State::Folder { mode }) => make_folder(root, &change.path, *mode),
            Some(State::File { digest, mode, .. }) => {
                contents(digest).and_then(|bytes| write(root, &change.path, &bytes, *mode))
            }
            Some(State::Link { .. }) | None => Ok(()),
        };
        put.map_err(at(&change.path))?;
    }
    Ok(())
}

/// What is at a path now.
pub(super) fn state(root: &OwnedFd, path: &str) -> io::Result<Option<State>> {
    let (parent, name) = parent(root, path);
    let parent = match parent {
        Ok(parent) => parent,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mode = stat.st_mode & 0o777;
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => State::Folder { mode },
        FileType::RegularFile => {
            let file = open_below(&parent, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
            let (digest, size) = Digest::of_reader(File::from(file))?;
            State::File { digest, size, mode }
        }
        FileType::Symlink => {
            let target = readlinkat(&parent, name, Vec::new())?;
            State::Link { target: target.to_string_lossy().into_owned() }
        }
        // Nothing that a guest was given, so it is like nothing.
        _ => State::Link { target: String::new() },
    }))
}

/// The folder that a path is in, and its name there.
fn parent<'p>(root: &OwnedFd, path: &'p str) -> (io::Result<OwnedFd>, &'p str) {
    let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
    (open_below(root, folder, OFlags::RDONLY | OFlags::DIRECTORY), name)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn remove(root: &OwnedFd, path: &str) -> io::Result<()> {
    let (parent, name) = parent(root, path);
    let parent = match parent {
        Err(error) if is_missing(&error) => return Ok(()),
        parent => parent?,
    };
    let removed = match unlinkat(&parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(&parent, name, AtFlags::REMOVEDIR),
        removed => removed,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // The host keeps something there that the guest never had.
        Err(Errno::NOTEMPTY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn make_folder(root: &OwnedFd, path: &str, mode: u32) -> io::Result<()> {
    let (parent, name) = parent(root, path);
    let parent = parent?;
    let mode = Mode::from_raw_mode(mode | 0o700);
    match mkdirat(&parent, name, mode) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // A link in its place is not followed.
            let folder = open_below(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            fchmod(&folder, mode)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Writes a file whole or not at all.
fn write(root: &OwnedFd, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (parent, name) = parent(root, path);
    let parent = parent?;
    let unfinished = format!(".osvm-{:016x}", rand()?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(&parent, &unfinished, flags, Mode::RUSR | Mode::WUSR)?;
    let written = File::from(file.try_clone()?).write_all(bytes);
    let written = written.and_then(|()| Ok(fchmod(&file, Mode::from_raw_mode(mode & 0o777))?));
    let written = written.and_then(|()| Ok(renameat(&parent, &unfinished, &parent, name)?));
    if written.is_err() {
        let _gone = unlinkat(&parent, &unfinished, AtFlags::empty());
    }
    written
}

fn rand() -> io::Result<u64> {
    let bytes = crate::recipe::entropy()?;
    let (first, _) = bytes.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(u64::from_le_bytes(*first))
}
