//! Files of the host: taken in before the server may change them, and what it changed given back.
//!
//! # Invariants
//!
//! - Until all files are in their place the folders they are in are root's, so no program can lead a
//!   write elsewhere.
//! - What is read back is opened without following a link, and below the workspace.
//! - Bounded: files looked at, depth, and bytes that wait for the host.
//!
//! # Not here
//!
//! - What is worth telling the host of: it compares contents, this compares what the file system says.

use crate::Error;
use crate::buffers::{Input, Outgoing};
use crate::channel::Stream;
use crate::control::{self, Order};
use osvm_protocol::frame;
use osvm_protocol::linux::workspace::{self as wire, CHUNK, Place, Said};
use osvm_protocol::message::Id;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Timestamps, fstat, futimens, open, openat2,
    readlinkat, statat,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use rustix::time::Timespec;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

/// Files and folders that are looked at.
const MAX_FILES: usize = 50_000;

/// Bytes that wait for the host before more is read.
const ENOUGH: usize = 1024 * 1024;

/// Permission bits that are carried: a file of the host gives nobody rights of another user.
const PERMISSIONS: u32 = 0o777;

/// A workspace.
#[derive(Debug)]
pub(crate) struct Workspace {
    place: Place,
    uid: u32,
    root: OwnedFd,
    incoming: Option<Incoming>,
    /// Those that are there, in the order in which they came.
    folders: Vec<PathBuf>,
    failed: Option<String>,
    /// How everything was when the host last knew; `None` until all is there.
    base: Option<BTreeMap<Vec<u8>, Mark>>,
    sending: Option<Sending>,
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
struct Mark {
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

/// An answer that goes in pieces.
#[derive(Debug)]
struct Sending {
    id: Id<'static>,
    steps: VecDeque<Step>,
    /// A file of which so many bytes are still to go.
    file: Option<(File, u64)>,
    looked_at: usize,
}

#[derive(Debug)]
enum Step {
    Gone(Vec<u8>),
    There(Vec<u8>, Mark),
}

impl Workspace {
    /// The workspace at `place`, whose folder is there, for user `uid`.
    pub(crate) fn new(place: Place, uid: u32) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(place.path.as_str(), flags, Mode::empty());
        let root = root.map_err(Error::during(format!("open `{}`", place.path)))?;
        Ok(Self {
            place,
            uid,
            root,
            incoming: None,
            folders: Vec::new(),
            failed: None,
            base: None,
            sending: None,
        })
    }

    /// Whether the server has to wait for the files.
    pub(crate) fn is_first(&self) -> bool {
        self.place.first
    }

    /// Waits until the host has sent all files. Nothing else is done for it meanwhile.
    pub(crate) fn fill_first(&mut self, stream: &Stream) -> Result<(), Error> {
        let failed = |why: &dyn std::fmt::Display| Error::new("wait for the files", why);
        let (mut inbox, mut outbox) = (Vec::new(), Outgoing::default());
        while self.base.is_none() || !outbox.is_empty() {
            let mut wanted = PollFlags::IN;
            wanted.set(PollFlags::OUT, !outbox.is_empty());
            let mut fds = [PollFd::new(stream, wanted)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(failed(&error)),
            }
            let before = inbox.len();
            let input = stream.read(&mut inbox).map_err(|error| failed(&error))?;
            let hung_up =
                fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP)) || input == Input::Ended;
            if hung_up && inbox.len() == before {
                return Err(failed(&"the host hung up"));
            }
            let mut used = 0;
            while let Some(one) = frame::split(inbox.get(used..).unwrap_or_default())
                .map_err(|error| failed(&error))?
            {
                let len = inbox.len() - used - one.rest.len();
                self.hear(one.payload, &mut outbox);
                used += len;
            }
            inbox.drain(..used);
            stream.write(&mut outbox).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn hear(&mut self, payload: &[u8], outbox: &mut Outgoing) {
        if let Some(said) = wire::read(payload) {
            return self.take(said);
        }
        let answer = match control::read(payload) {
            Ok((id, Order::WorkspaceReady)) => self.ready_answer(&id),
            Ok((id, _)) => control::failure(&id, "the server waits for its files"),
            Err(refusal) => refusal,
        };
        outbox.push(&answer);
    }

    /// Takes what the host says of one file. What fails is told when the host is ready.
    pub(crate) fn take(&mut self, said: Said<'_>) {
        // Once the server may change something, nothing more is put among it.
        if self.base.is_some() || self.failed.is_some() {
            return;
        }
        if let Err(why) = self.put(said) {
            self.failed = Some(why);
        }
    }

    fn put(&mut self, said: Said<'_>) -> Result<(), String> {
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
            Said::Gone { .. } => {}
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

    /// The answer to a host that says that all is sent.
    pub(crate) fn ready_answer(&mut self, id: &Id<'_>) -> Vec<u8> {
        match self.ready() {
            Ok(()) => control::answer(id, &()),
            Err(why) => control::failure(id, why),
        }
    }

    fn ready(&mut self) -> Result<(), String> {
        if self.base.is_some() {
            return Err("the files are there already".into());
        }
        let finished = self.finish_file();
        if let Some(why) = self.failed.take() {
            return Err(why);
        }
        finished?;
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

    /// Begins to send what is not as it was; the answer comes last. `Err` holds a refusal.
    pub(crate) fn send_changes(&mut self, id: Id<'static>) -> Result<(), Vec<u8>> {
        let looked = match (&self.base, &self.sending) {
            (None, _) => Err("the files are not there yet".to_owned()),
            (_, Some(_)) => Err("changes are on their way already".to_owned()),
            (Some(base), None) => self.look().map(|now| (steps(base, &now), now)),
        };
        match looked {
            Ok((steps, now)) => {
                let looked_at = now.len();
                self.sending = Some(Sending { id, steps, file: None, looked_at });
                self.base = Some(now);
                Ok(())
            }
            Err(why) => Err(control::failure(&id, why)),
        }
    }

    /// Whether there is more to send.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Sends as much as may wait for the host.
    pub(crate) fn serve(&mut self, outbox: &mut Outgoing) {
        while let Some(sending) = self.sending.as_mut().filter(|_| outbox.len() < ENOUGH) {
            let said = match (&mut sending.file, sending.steps.pop_front()) {
                (Some((file, left)), step) => {
                    // It is not its turn yet.
                    step.into_iter().for_each(|step| sending.steps.push_front(step));
                    let mut bytes = vec![0; CHUNK.min(usize::try_from(*left).unwrap_or(CHUNK))];
                    let len = file.read(&mut bytes).unwrap_or(0);
                    bytes.truncate(len);
                    *left = left.saturating_sub(len as u64);
                    if len == 0 || *left == 0 {
                        sending.file = None;
                    }
                    wire::frame(Said::Data(&bytes))
                }
                (None, Some(Step::Gone(path))) => wire::frame(Said::Gone { path: &path }),
                (None, Some(Step::There(path, mark))) => there(&self.root, sending, &path, mark),
                (None, None) => {
                    outbox.push(&control::answer(&sending.id, &sending.looked_at));
                    self.sending = None;
                    return;
                }
            };
            // A path and a piece of a file fit a frame.
            outbox.push(&said.unwrap_or_default());
        }
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
fn steps(base: &BTreeMap<Vec<u8>, Mark>, now: &BTreeMap<Vec<u8>, Mark>) -> VecDeque<Step> {
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

/// What is said of something that is there; of what has gone meanwhile, that.
fn there(
    root: &OwnedFd,
    sending: &mut Sending,
    path: &[u8],
    mark: Mark,
) -> Result<Vec<u8>, frame::FrameError> {
    match mark.kind {
        Kind::Folder => wire::frame(Said::Folder { mode: mark.mode, path }),
        Kind::Link => match readlinkat(root, path, Vec::new()) {
            Ok(target) => wire::frame(Said::Link { path, target: target.to_bytes() }),
            Err(_) => wire::frame(Said::Gone { path }),
        },
        Kind::File => {
            let opened = open_below(root, path, OFlags::NONBLOCK);
            let opened = opened.and_then(|fd| Ok((fstat(&fd)?, fd)));
            match opened.map(|(stat, fd)| (Mark::of(&stat), fd)) {
                Ok((Some(Mark { kind: Kind::File, mode, size, changed, .. }), fd)) => {
                    sending.file = Some((File::from(fd), size)).filter(|_| size != 0);
                    wire::frame(Said::File { mode, size, changed, path })
                }
                Ok(_) | Err(_) => wire::frame(Said::Gone { path }),
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getuid;

    /// A workspace in a folder that goes with it.
    struct Bench {
        workspace: Workspace,
        folder: PathBuf,
    }

    impl Bench {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("osvm-init-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let path = folder.to_str().unwrap().to_owned();
            let place = Place { path, writable: true, first: true };
            Self { workspace: Workspace::new(place, getuid().as_raw()).unwrap(), folder }
        }

        fn file(&mut self, path: &str, text: &str) {
            let (path, size) = (path.as_bytes(), text.len() as u64);
            self.workspace.take(Said::File { mode: 0o640, size, changed: (1000, 7), path });
            self.workspace.take(Said::Data(text.as_bytes()));
        }

        /// All that is sent of changes, in words.
        fn changes(&mut self) -> Vec<String> {
            self.workspace.send_changes(Id::Number(1)).unwrap();
            let mut told = Vec::new();
            let mut outbox = Outgoing::default();
            while self.workspace.is_sending() {
                self.workspace.serve(&mut outbox);
                let bytes = outbox.drain();
                let mut rest = bytes.as_slice();
                while let Some(one) = frame::split(rest).unwrap() {
                    told.extend(wire::read(one.payload).map(words));
                    rest = one.rest;
                }
            }
            told
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.folder);
        }
    }

    fn words(said: Said<'_>) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match said {
            Said::Folder { path, .. } => format!("folder {}", text(path)),
            Said::File { path, size, mode, .. } => format!("file {} {mode:o} {size}", text(path)),
            Said::Data(bytes) => format!("data {}", bytes.len()),
            Said::Link { path, target } => format!("link {} {}", text(path), text(target)),
            Said::Gone { path } => format!("gone {}", text(path)),
        }
    }

    #[test]
    fn files_are_put_in_their_place_and_changes_come_back_once() {
        let mut bench = Bench::new("changes");
        bench.workspace.take(Said::Folder { mode: 0o755, path: b"a" });
        bench.file("a/kept", "kept");
        bench.file("a/same-size", "1234");
        bench.file("gone", "x");
        bench.workspace.take(Said::Link { path: b"l", target: b"/etc" });
        bench.workspace.ready().unwrap();
        assert!(bench.changes().is_empty());

        let at = |path: &str| bench.folder.join(path);
        assert_eq!(fs::read(at("a/kept")).unwrap(), b"kept");
        fs::write(at("a/same-size"), "4321").unwrap();
        fs::remove_file(at("gone")).unwrap();
        fs::create_dir(at("b")).unwrap();
        fs::set_permissions(at("b"), Permissions::from_mode(0o755)).unwrap();
        fs::write(at("b/new"), vec![1; CHUNK + 1]).unwrap();
        fs::set_permissions(at("b/new"), Permissions::from_mode(0o600)).unwrap();
        let data = format!("data {CHUNK}");
        let file = format!("file b/new 600 {}", CHUNK + 1);
        let expected =
            ["gone gone", "file a/same-size 640 4", "data 4", "folder b", &file, &data, "data 1"];
        assert_eq!(bench.changes(), expected);
        assert!(bench.changes().is_empty(), "they were told already");
    }

    #[test]
    fn a_link_is_told_and_never_followed() {
        let mut bench = Bench::new("links");
        bench.workspace.ready().unwrap();
        symlink("/etc/passwd", bench.folder.join("l")).unwrap();
        symlink("/etc", bench.folder.join("d")).unwrap();
        assert_eq!(bench.changes(), ["link d /etc", "link l /etc/passwd"]);
    }

    #[test]
    fn what_does_not_fit_is_told_when_the_host_is_ready() {
        let mut bench = Bench::new("failed");
        bench.file("no/such/folder", "x");
        bench.file("other", "y");
        let why = bench.workspace.ready().unwrap_err();
        assert!(why.starts_with("cannot make `") && why.contains("no/such/folder"), "{why}");
        let why = bench.workspace.send_changes(Id::Number(1)).unwrap_err();
        assert!(String::from_utf8_lossy(&why).contains("not there yet"));
    }

    #[test]
    fn nothing_is_put_among_what_the_server_may_change() {
        let mut bench = Bench::new("late");
        bench.workspace.ready().unwrap();
        bench.file("late", "x");
        assert!(!bench.folder.join("late").exists());
        assert!(bench.workspace.ready().is_err());
    }
}
