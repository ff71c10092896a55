//! The logs of calls: what each guest wrote to its console, kept for the last 200 calls.
//!
//! ```text
//! calls/<call id>.log
//!   {"id":…,"server":…,"tool":…,"cid":…,…}     written before the guest's first instruction
//!   …what the guest wrote…                     appended by the VM process
//!   {"end":"<call id>","outcome":…,…}          written when the guest is gone
//! ```
//!
//! # Invariants
//!
//! - A guest can't write an end line: it holds the call id, which no guest learns.
//! - What a reader gets is safe to print: control characters are replaced, lines are cut.
//! - A lock on the file (`flock`) is held for as long as a process lives that may write to it,
//!   so a reader that follows knows when nothing more can come.
//! - Several osvm write here at once, each to files of its own.
//!
//! # Not here
//!
//! - The bound on what a guest writes: the backend's.

mod read;

use crate::dirs::{DirError, private};
use crate::id::CallId;
use osvm_protocol::Cid;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

pub use read::{LogLine, LogReader, Summary};

/// Calls whose logs are kept.
pub const KEPT: usize = 200;

/// Bytes of a console in memory that go into a log. Backends bound what guests write themselves.
const MAX_CONSOLE: u64 = 128 * 1024;

/// Longest server and tool name in a header, in characters.
const MAX_NAME: usize = 128;

/// The directory of logs.
#[derive(Clone, Debug)]
pub struct CallLogs {
    dir: PathBuf,
}

/// The first line of a log: what is known before the guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Header {
    /// The call.
    pub id: CallId,
    /// The server whose tool is called.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// `unikernel` or `direct`.
    pub mode: String,
    /// The guest's CID; none for a direct call.
    pub cid: Option<u32>,
    /// Name of the image.
    pub image: Option<String>,
    /// SHA-256 of the image, or of the executor of a direct call.
    pub digest: Option<String>,
    /// Process id of osvm.
    pub osvm_pid: u32,
    /// When the call began, RFC 3339, UTC.
    pub started: String,
}

/// The last line of a log.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct End {
    /// The call; nobody but osvm knows it.
    pub end: CallId,
    /// `result`, `tool error`, or what went wrong.
    pub outcome: String,
    /// Why the call could not be isolated, if it could not.
    pub isolation_failure: Option<String>,
    /// Whether it then ran on the host, as the config says.
    pub fell_back: bool,
    /// Process id the VM process had, if there was one.
    pub vm_pid: Option<u32>,
    /// From the start of the call to its end, in ms.
    pub total_ms: f64,
}

/// A log that can't be written or read.
#[derive(Debug, Error)]
pub enum LogError {
    /// The directory can't be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The file can't be used.
    #[error("cannot use call log `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The file is not a log of a call.
    #[error("`{}` is not a call log", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// No kept log has this CID or call id.
    #[error("no log of a call `{query}`")]
    NotFound {
        /// What was asked for, escaped and cut.
        query: String,
    },
    /// Several calls begin like this.
    #[error("{count} calls begin with `{query}`")]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// How many there are.
        count: usize,
    },
}

impl LogError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dir(error) => error.hint(),
            Self::NotFound { .. } | Self::Ambiguous { .. } => {
                Some("`osvm logs` lists the calls whose logs are kept".into())
            }
            Self::Io { .. } | Self::Damaged { .. } => None,
        }
    }
}

/// The log of a call that runs.
#[derive(Debug)]
pub(crate) struct CallLog {
    path: PathBuf,
    file: File,
}

impl CallLogs {
    /// Logs in `dir`, which is made when the first call is logged.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Starts the log of a call.
    pub(crate) fn begin(&self, mut header: Header) -> Result<CallLog, LogError> {
        let dir = private(&self.dir)?;
        let path = self.path(header.id);
        let io = |source| LogError::Io { path: path.clone(), source };
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let name = file_name(header.id);
        let file = rustix::fs::openat(&dir, name.as_str(), flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|error| io(error.into()))?);
        flock(&file, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
        header.server = header.server.chars().take(MAX_NAME).collect();
        header.tool = header.tool.chars().take(MAX_NAME).collect();
        file.write_all(&line(&header).map_err(io)?).map_err(io)?;
        Ok(CallLog { path, file })
    }

    /// Removes all but the newest [`KEPT`] logs.
    pub(crate) fn prune(&self) -> Result<(), LogError> {
        for id in self.ids()?.into_iter().skip(KEPT) {
            let path = self.path(id);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(LogError::Io { path, source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The kept calls, newest first.
    fn ids(&self) -> Result<Vec<CallId>, LogError> {
        let io = |source| LogError::Io { path: self.dir.clone(), source };
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut ids = Vec::with_capacity(KEPT + 1);
        for entry in entries {
            ids.extend(call_id(&entry.map_err(io)?.file_name()));
        }
        ids.sort_unstable_by(|one, other| other.cmp(one));
        Ok(ids)
    }

    fn path(&self, id: CallId) -> PathBuf {
        self.dir.join(file_name(id))
    }
}

impl CallLog {
    /// The file, for what the guest writes. Every writer appends.
    pub(crate) fn console(&self) -> Result<File, LogError> {
        self.file.try_clone().map_err(|source| self.io(source))
    }

    /// Takes what a guest wrote to a console in memory, from `from` on, as far as it is kept.
    pub(crate) fn append(&mut self, console: &File, from: u64) {
        let mut piece = [0; 4096];
        let mut at = from;
        // A console that can't be read or written is no reason to lose the end of the log.
        while at < from.saturating_add(MAX_CONSOLE)
            && let Ok(read) = console.read_at(&mut piece, at)
            && read > 0
            && self.file.write_all(piece.get(..read).unwrap_or_default()).is_ok()
        {
            at = at.saturating_add(read as u64);
        }
    }

    /// Writes the last line.
    pub(crate) fn end(mut self, end: &End) -> Result<(), LogError> {
        let written = self.fresh_line().and_then(|()| self.file.write_all(&line(end)?));
        written.map_err(|source| self.io(source))
    }

    /// A guest that died in mid-line must not take osvm's line with it.
    fn fresh_line(&mut self) -> io::Result<()> {
        let mut last = [b'\n'];
        if let Some(before_last) = self.file.metadata()?.len().checked_sub(1) {
            self.file.read_exact_at(&mut last, before_last)?;
        }
        if last != *b"\n" {
            self.file.write_all(b"\n")?;
        }
        Ok(())
    }

    fn io(&self, source: io::Error) -> LogError {
        LogError::Io { path: self.path.clone(), source }
    }
}

fn line(record: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}

fn file_name(id: CallId) -> String {
    format!("{id}.log")
}

fn call_id(name: &OsStr) -> Option<CallId> {
    let name = Path::new(name);
    if name.extension() != Some(OsStr::new("log")) {
        return None;
    }
    name.file_stem()?.to_str()?.parse().ok()
}

impl Header {
    /// What is known of a call before anything of it runs.
    pub(crate) fn new(id: CallId, server: &str, tool: &str, mode: &str) -> Self {
        Self {
            id,
            server: server.into(),
            tool: tool.into(),
            mode: mode.into(),
            cid: None,
            image: None,
            digest: None,
            osvm_pid: std::process::id(),
            started: humantime::format_rfc3339_millis(id.time()).to_string(),
        }
    }

    /// Whether the call's guest had this CID.
    fn had(&self, cid: Cid) -> bool {
        self.cid == Some(cid.get())
    }
}

#[cfg(test)]
mod tests;
