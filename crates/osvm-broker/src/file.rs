//! `host/file`: files of the directories that the config mounts.
//!
//! # Invariants
//!
//! - Every file is opened by `openat2` below the mount's own descriptor, without symbolic links and
//!   without a way up or out, so neither the guest nor another process can make a path lead elsewhere
//!   between a check and its use.
//! - Only regular files and directories are touched: no device, pipe or socket is read or written.
//! - What one request and one call move is limited.

use crate::mount::{Protected, resolve};
use crate::params;
use crate::refusal::Refusal;
use osvm_policy::Resolved;
use osvm_runtime::{Reach, Trace};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, ftruncate, openat2, statat,
};
use rustix::io::{Errno, pread, pwrite};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that one request reads or writes at most.
const PIECE: u64 = 1 << 20;

/// Bytes that one call may read, and write, in all.
const MAX_READ: u64 = 1 << 30;
const MAX_WRITTEN: u64 = 256 << 20;

/// Entries of one answer, and of a directory that can be listed at all.
const PAGE: usize = 1000;
const MAX_ENTRIES: usize = 50_000;

/// Longest path of a guest, in bytes.
const MAX_PATH: usize = 4095;

const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// The mounts of one call, opened.
#[derive(Debug)]
pub(crate) struct Grants {
    mounts: Vec<Grant>,
    read: AtomicU64,
    written: AtomicU64,
}

#[derive(Debug)]
struct Grant {
    guest_path: String,
    readonly: bool,
    root: Result<OwnedFd, String>,
}

/// The parameters of `host/file`.
#[derive(Debug, Deserialize)]
pub(crate) struct FileParams<'a> {
    op: Op,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(default)]
    offset: Option<u64>,
    #[serde(default)]
    length: Option<u64>,
    #[serde(borrow, default)]
    data: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data_base64: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Read,
    List,
    Stat,
    Write,
}

impl Op {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Stat => "stat",
            Self::Write => "write",
        }
    }
}

/// What a guest is answered.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum FileAnswer {
    Read {
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data_base64: Option<String>,
        size: u64,
        eof: bool,
    },
    List {
        entries: Vec<Entry>,
        more: bool,
    },
    Stat {
        #[serde(rename = "type")]
        kind: &'static str,
        size: u64,
        modified_ms: i64,
        readonly: bool,
    },
    Write {
        written: u64,
        size: u64,
    },
}

/// One entry of a directory.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    size: u64,
}

/// A path of the guest, found in a mount.
struct Place<'a> {
    grant: &'a Grant,
    root: &'a OwnedFd,
    /// Below the mount; `.` is the mount itself.
    below: String,
    op: &'static str,
    path: &'a str,
}

impl Grants {
    /// Opens what the config mounts.
    pub(crate) fn open(policy: &Resolved, protected: &Protected) -> Self {
        let mounts = policy.mounts.iter().map(|mount| Grant {
            guest_path: mount.guest_path.clone(),
            readonly: mount.readonly,
            root: open_root(&mount.host_path, protected),
        });
        Self { mounts: mounts.collect(), read: 0.into(), written: 0.into() }
    }

    /// Serves one request, and notes it.
    pub(crate) fn serve(
        &self,
        params: &FileParams<'_>,
        trace: &Trace,
    ) -> Result<FileAnswer, Refusal> {
        let outcome = self.act(params);
        let bytes = match &outcome {
            Ok((_, bytes)) => *bytes,
            Err(_) => 0,
        };
        let refused = outcome.as_ref().err().map(Refusal::to_string);
        let path: String = params.path.chars().filter(|c| !c.is_control()).take(MAX_PATH).collect();
        let op = params.op.as_str();
        tracing::info!(op, path, bytes, refused, "brokered file");
        trace.note(Reach::File { op: op.into(), path, bytes, refused });
        outcome.map(|(answer, _)| answer)
    }

    fn act(&self, params: &FileParams<'_>) -> Result<(FileAnswer, u64), Refusal> {
        let place = self.find(params.op.as_str(), &params.path)?;
        match params.op {
            Op::Read => self.read(&place, params),
            Op::Write => self.write(&place, params),
            Op::Stat => place.stat().map(|answer| (answer, 0)),
            Op::List => place.list(params.offset.unwrap_or_default()).map(|answer| (answer, 0)),
        }
    }

    fn find<'a>(&'a self, op: &'static str, path: &'a str) -> Result<Place<'a>, Refusal> {
        let shown = || path.chars().filter(|c| !c.is_control()).take(256).collect();
        let refused = |why: String| Refusal::File { path: shown(), why };
        if MAX_PATH < path.len() || path.contains('\0') || !path.starts_with('/') {
            return Err(refused("it is no absolute path".into()));
        }
        let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(refused("it has `..` in it".into()));
        }
        let covering = self.mounts.iter().filter_map(|grant| {
            let mut rest = parts.iter();
            let mut own = grant.guest_path.split('/').filter(|part| !part.is_empty());
            own.all(|part| rest.next() == Some(&part)).then_some((grant, rest))
        });
        let found = covering.max_by_key(|(grant, _)| grant.guest_path.len());
        let Some((grant, rest)) = found else {
            let known: Vec<_> = self.mounts.iter().map(|m| format!("`{}`", m.guest_path)).collect();
            return Err(refused(match known.is_empty() {
                true => "nothing is mounted for this tool".into(),
                false => format!("no mount covers it, only {}", known.join(", ")),
            }));
        };
        let root = grant.root.as_ref().map_err(|why| refused(why.clone()))?;
        let below = rest.copied().collect::<Vec<_>>().join("/");
        let below = if below.is_empty() { ".".into() } else { below };
        Ok(Place { grant, root, below, op, path })
    }

    fn read(
        &self,
        place: &Place<'_>,
        params: &FileParams<'_>,
    ) -> Result<(FileAnswer, u64), Refusal> {
        let (file, stat) = place.file(OFlags::RDONLY, Mode::empty())?;
        let (offset, size) = (params.offset.unwrap_or_default(), size(&stat));
        let wanted = params.length.unwrap_or(PIECE).min(PIECE).min(size.saturating_sub(offset));
        let mut data = vec![0; usize::try_from(wanted).unwrap_or_default()];
        spend(&self.read, wanted, MAX_READ, "files of one call together")?;
        let mut filled = 0;
        while let Some(room) = data.get_mut(filled..).filter(|room| !room.is_empty()) {
            match pread(&file, room, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(Errno::INTR) => {}
                Err(error) => return Err(place.failed(error)),
            }
        }
        data.truncate(filled);
        let bytes = filled as u64;
        let eof = size <= offset.saturating_add(bytes);
        let (data, data_base64) = match String::from_utf8(data) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(params::base64(error.as_bytes()))),
        };
        Ok((FileAnswer::Read { data, data_base64, size, eof }, bytes))
    }

    fn write(
        &self,
        place: &Place<'_>,
        params: &FileParams<'_>,
    ) -> Result<(FileAnswer, u64), Refusal> {
        if place.grant.readonly {
            return Err(place.refused("its mount is read-only"));
        }
        let data = params::bytes("data", params.data.as_deref(), params.data_base64.as_deref())?;
        let bytes = data.len() as u64;
        if PIECE < bytes {
            return Err(Refusal::TooLong { what: "data of one request", max: PIECE, option: None });
        }
        spend(&self.written, bytes, MAX_WRITTEN, "data written by one call")?;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let (file, stat) = place.file(OFlags::WRONLY | OFlags::CREATE, mode)?;
        let offset = params.offset.unwrap_or_default();
        // A gap would make a file look larger than anything that was paid for.
        if size(&stat) < offset {
            return Err(place.refused("`offset` is behind the end of the file"));
        }
        if params.offset.is_none() {
            ftruncate(&file, 0).map_err(|error| place.failed(error))?;
        }
        let mut rest = &data[..];
        let mut at = offset;
        while !rest.is_empty() {
            match pwrite(&file, rest, at) {
                Ok(0) => return Err(place.failed(Errno::IO)),
                Ok(done) => {
                    rest = rest.get(done..).unwrap_or_default();
                    at += done as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(place.failed(error)),
            }
        }
        let stat = fstat(&file).map_err(|error| place.failed(error))?;
        Ok((FileAnswer::Write { written: bytes, size: size(&stat) }, bytes))
    }
}

impl Place<'_> {
    fn open(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd, Refusal> {
        // A pipe without its other end must not make the broker wait.
        let opened = OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = if flags.contains(OFlags::PATH) { OFlags::empty() } else { opened };
        let flags = flags | opened | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            match openat2(self.root, self.below.as_str(), flags, mode, CONFINED) {
                // Something was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(file) => return Ok(file),
                Err(Errno::LOOP) => return Err(self.refused("a symbolic link is on the way")),
                Err(Errno::XDEV) => return Err(self.refused("it leads out of its mount")),
                Err(Errno::NXIO) => return Err(self.refused("it is no regular file")),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn file(&self, flags: OFlags, mode: Mode) -> Result<(OwnedFd, Stat), Refusal> {
        let file = self.open(flags, mode)?;
        let stat = fstat(&file).map_err(|error| self.failed(error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((file, stat)),
            _ => Err(self.refused("it is no regular file")),
        }
    }

    fn stat(&self) -> Result<FileAnswer, Refusal> {
        let file = self.open(OFlags::PATH, Mode::empty())?;
        let stat = fstat(&file).map_err(|error| self.failed(error))?;
        let kind = kind(FileType::from_raw_mode(stat.st_mode));
        let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
        let modified_ms = stat.st_mtime.saturating_mul(1000).saturating_add(nanos / 1_000_000);
        let readonly = self.grant.readonly;
        Ok(FileAnswer::Stat { kind, size: size(&stat), modified_ms, readonly })
    }

    fn list(&self, skip: u64) -> Result<FileAnswer, Refusal> {
        let failed = |error| self.failed(error);
        let dir = self.open(OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A name that is no text could not be asked for.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            if MAX_ENTRIES <= names.len() {
                return Err(self.refused("it has more than 50000 entries"));
            }
            names.push(name.to_owned());
        }
        names.sort_unstable();
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(names.len());
        let page = names.get(skip..).unwrap_or_default();
        let entries = page.iter().take(PAGE).map(|name| {
            let stat = statat(dir.as_fd(), name.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok();
            let kind = stat.map(|stat| kind(FileType::from_raw_mode(stat.st_mode)));
            let size = stat.as_ref().map(size).unwrap_or_default();
            Entry { name: name.clone(), kind: kind.unwrap_or("other"), size }
        });
        Ok(FileAnswer::List { entries: entries.collect(), more: PAGE < page.len() })
    }

    fn shown(&self) -> String {
        self.path.chars().filter(|c| !c.is_control()).take(256).collect()
    }

    fn refused(&self, why: &str) -> Refusal {
        Refusal::File { path: self.shown(), why: why.into() }
    }

    fn failed(&self, error: Errno) -> Refusal {
        if error == Errno::NOSYS {
            return Refusal::Broken("this kernel has no `openat2`, which Linux 5.6 brought".into());
        }
        let why = std::io::Error::from(error).to_string();
        Refusal::FileFailed { op: self.op, path: self.shown(), why }
    }
}

/// A descriptor of the directory that a mount means, if no guest harms anybody there.
fn open_root(host_path: &Path, protected: &Protected) -> Result<OwnedFd, String> {
    let real = resolve(host_path, protected).map_err(|error| error.to_string())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The real path has no links; one that appears meanwhile is no longer what was checked.
    let root = openat2(rustix::fs::CWD, &real, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    root.map_err(|error| {
        format!("cannot open `{}`: {}", real.display(), std::io::Error::from(error))
    })
}

/// Counts bytes against a limit of the call.
fn spend(counter: &AtomicU64, bytes: u64, max: u64, what: &'static str) -> Result<(), Refusal> {
    let spent = counter.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
    if max < spent {
        counter.fetch_sub(bytes, Ordering::Relaxed);
        return Err(Refusal::TooLong { what, max, option: None });
    }
    Ok(())
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
