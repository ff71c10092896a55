//! A host folder on its way into a guest.

use super::changes::State;
use super::{Workspace, WorkspaceError, open_below};
use crate::talk::Gone;
use osvm_image::Digest;
use osvm_protocol::linux::workspace::{CHUNK, Said, is_plain};
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat, readlinkat, statat};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};

/// Most files and folders of a guest.
const MAX_FILES: usize = 20_000;

/// What a file takes at least in a guest, in bytes: a page.
const PAGE: u64 = 4096;

/// What a guest was given, by path.
pub(super) type Tree = BTreeMap<String, State>;

/// What fits a guest, and how much of it is used: by all its folders together.
#[derive(Debug)]
pub(super) struct Room {
    most: u64,
    bytes: u64,
    files: usize,
}

impl Room {
    /// For so many bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { most, bytes: 0, files: 0 }
    }
}

/// Says all that is below `root`, and gives it back as it was said. Neither file, folder nor link:
/// left out.
pub(super) fn send(
    workspace: &Workspace,
    root: &OwnedFd,
    room: &mut Room,
    say: &mut dyn FnMut(Said<'_>) -> Result<(), Gone>,
) -> Result<Tree, WorkspaceError> {
    let mut sender = Sender { workspace, root, room, say, tree: Tree::new() };
    sender.run()?;
    Ok(sender.tree)
}

struct Sender<'a> {
    workspace: &'a Workspace,
    root: &'a OwnedFd,
    room: &'a mut Room,
    say: &'a mut dyn FnMut(Said<'_>) -> Result<(), Gone>,
    tree: Tree,
}

impl Sender<'_> {
    fn run(&mut self) -> Result<(), WorkspaceError> {
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let failed = |error: io::Error| self.workspace.unreadable(&folder, error);
            let path = if folder.is_empty() { "." } else { &folder };
            let fd = open_below(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY);
            let fd = fd.map_err(failed)?;
            let entries = Dir::read_from(&fd).map_err(|error| failed(error.into()))?;
            for entry in entries {
                let entry = entry.map_err(|error| failed(error.into()))?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let path = self.path(&folder, name)?;
                let stat = statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
                let stat = stat.map_err(|error| self.workspace.unreadable(&path, error.into()))?;
                if let Some(state) = self.one(&path, &stat)? {
                    if matches!(state, State::Folder { .. }) {
                        folders.push(path.clone());
                    }
                    self.tree.insert(path, state);
                    self.room.files += 1;
                    if MAX_FILES < self.room.files {
                        return Err(self.too_much(format!("{MAX_FILES} files")));
                    }
                }
            }
        }
        Ok(())
    }

    fn path(&self, folder: &str, name: &[u8]) -> Result<String, WorkspaceError> {
        let lossy = String::from_utf8_lossy(name);
        let path = if folder.is_empty() { lossy.into_owned() } else { format!("{folder}/{lossy}") };
        if str::from_utf8(name).is_err() || !is_plain(path.as_bytes()) {
            return Err(WorkspaceError::Name { path: self.workspace.host_path.join(path) });
        }
        Ok(path)
    }

    fn one(&mut self, path: &str, stat: &Stat) -> Result<Option<State>, WorkspaceError> {
        let mode = stat.st_mode & 0o777;
        let said_path = path.as_bytes();
        let state = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.say(Said::Folder { mode, path: said_path })?;
                State::Folder { mode }
            }
            FileType::Symlink => {
                let target = readlinkat(self.root.as_fd(), path, Vec::new());
                let target =
                    target.map_err(|error| self.workspace.unreadable(path, error.into()))?;
                self.say(Said::Link { path: said_path, target: target.to_bytes() })?;
                State::Link { target: target.to_string_lossy().into_owned() }
            }
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                self.count(size)?;
                let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
                let changed = (stat.st_mtime, nanos);
                self.say(Said::File { mode, size, changed, path: said_path })?;
                let (digest, size) = self.bytes(path)?;
                State::File { digest, size, mode }
            }
            _ => return Ok(None),
        };
        self.count(0)?;
        Ok(Some(state))
    }

    /// Says the bytes of a file; gives their digest and how many there were.
    fn bytes(&mut self, path: &str) -> Result<(Digest, u64), WorkspaceError> {
        let failed = |error| self.workspace.unreadable(path, error);
        // Opened as what it was: a pipe in its place must not be waited for.
        let file = open_below(self.root, path, OFlags::RDONLY | OFlags::NONBLOCK);
        let file = File::from(file.map_err(failed)?);
        let left = self.room.most.saturating_sub(self.room.bytes).saturating_add(PAGE);
        let mut told = Told { file, say: self.say, left, lost: None, over: false };
        let read = Digest::of_reader(&mut told);
        match told {
            Told { lost: Some(gone), .. } => Err(WorkspaceError::Guest(gone)),
            Told { over: true, .. } => Err(self.too_much(self.limit())),
            _ => read.map_err(|error| self.workspace.unreadable(path, error)),
        }
    }

    fn count(&mut self, size: u64) -> Result<(), WorkspaceError> {
        let pages = size.div_ceil(PAGE).max(1);
        self.room.bytes = self.room.bytes.saturating_add(pages.saturating_mul(PAGE));
        if self.room.most < self.room.bytes {
            return Err(self.too_much(self.limit()));
        }
        Ok(())
    }

    fn limit(&self) -> String {
        format!("the {} MiB that its guests have for files", self.room.most >> 20)
    }

    fn too_much(&self, what: String) -> WorkspaceError {
        WorkspaceError::TooMuch { path: self.workspace.host_path.clone(), what }
    }

    fn say(&mut self, said: Said<'_>) -> Result<(), WorkspaceError> {
        (self.say)(said).map_err(WorkspaceError::Guest)
    }
}

/// A file that is said while it is read.
struct Told<'a> {
    file: File,
    say: &'a mut dyn FnMut(Said<'_>) -> Result<(), Gone>,
    /// Bytes that may still be said: it may grow meanwhile.
    left: u64,
    lost: Option<Gone>,
    over: bool,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(CHUNK);
        let buffer = buffer.get_mut(..len).unwrap_or_default();
        let len = self.file.read(buffer)?;
        self.left = match self.left.checked_sub(len as u64) {
            Some(left) => left,
            None => {
                self.over = true;
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        };
        let bytes = buffer.get(..len).unwrap_or_default();
        if let Err(gone) = if len == 0 { Ok(()) } else { (self.say)(Said::Data(bytes)) } {
            self.lost = Some(gone);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(len)
    }
}
