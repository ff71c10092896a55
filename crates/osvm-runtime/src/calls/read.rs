//! Reading logs of calls, while they are written or later.

use super::{CallLogs, End, Header, LogError};
use crate::id::CallId;
use osvm_protocol::Cid;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::Duration;

/// Longest line that is kept together, in bytes. A longer one comes in pieces.
const MAX_LINE: usize = 16 * 1024;

/// Pause between two looks at a log that is followed.
const PAUSE: Duration = Duration::from_millis(50);

/// A call whose log is kept.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was known before the guest ran.
    pub header: Header,
    /// How it ended; none for a call that runs, or whose osvm was killed.
    pub end: Option<End>,
    /// Whether a process of the call still lives.
    pub live: bool,
}

/// One line of a log, safe to print.
#[derive(Clone, Debug, PartialEq)]
pub enum LogLine {
    /// Written by the guest.
    Console(String),
    /// Written by osvm when the guest was gone.
    End(End),
}

/// Reads one log from its beginning.
#[derive(Debug)]
pub struct LogReader {
    header: Header,
    path: PathBuf,
    lines: Lines,
}

impl CallLogs {
    /// The kept calls, newest first. Damaged logs are left out.
    ///
    /// # Errors
    ///
    /// [`LogError`] when the directory can't be read.
    pub fn list(&self) -> Result<Vec<Summary>, LogError> {
        let mut calls = Vec::new();
        for id in self.ids()? {
            let Ok(mut reader) = self.open(id) else { continue };
            let live = reader.is_live();
            let mut end = None;
            while let Ok(Some(line)) = reader.next(false) {
                if let LogLine::End(line) = line {
                    end = Some(line);
                }
            }
            calls.push(Summary { header: reader.header, end, live });
        }
        Ok(calls)
    }

    /// The newest call; none if there was no call, or its log is gone or damaged.
    ///
    /// # Errors
    ///
    /// [`LogError`] when the directory can't be read.
    pub fn newest(&self) -> Result<Option<LogReader>, LogError> {
        Ok(self.ids()?.first().and_then(|id| self.open(*id).ok()))
    }

    /// Finds a call: by the beginning of its id, or the newest one that had a CID.
    ///
    /// # Errors
    ///
    /// [`LogError::NotFound`], [`LogError::Ambiguous`], or the directory can't be read.
    pub fn find(&self, query: &str) -> Result<CallId, LogError> {
        let not_found = || LogError::NotFound {
            query: query.chars().take(CallId::LEN).flat_map(char::escape_debug).collect(),
        };
        if query.is_empty() {
            return Err(not_found());
        }
        let ids = self.ids()?;
        // Ids begin with 0 until the year 10889, and no number of a CID does.
        if !query.starts_with('0')
            && let Some(cid) = query.parse().ok().and_then(|raw| Cid::new(raw).ok())
        {
            let had = |id: &CallId| self.open(*id).is_ok_and(|log| log.header.had(cid));
            return ids.into_iter().find(had).ok_or_else(not_found);
        }
        let prefix = query.to_ascii_uppercase();
        let found: Vec<CallId> =
            ids.into_iter().filter(|id| id.to_string().starts_with(&prefix)).collect();
        match *found {
            [] => Err(not_found()),
            [id] => Ok(id),
            _ => Err(LogError::Ambiguous { query: prefix, count: found.len() }),
        }
    }

    /// Opens the log of a call.
    ///
    /// # Errors
    ///
    /// [`LogError`] when there is none, or it is no log.
    pub fn open(&self, id: CallId) -> Result<LogReader, LogError> {
        let path = self.path(id);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LogError::NotFound { query: id.to_string() });
            }
            Err(source) => return Err(LogError::Io { path, source }),
            Ok(file) => file,
        };
        let mut lines = Lines { file, rest: Vec::new() };
        let first = lines.next().map_err(|source| LogError::Io { path: path.clone(), source })?;
        let header = first.and_then(|line| serde_json::from_slice::<Header>(&line).ok());
        match header.filter(|header| header.id == id) {
            Some(header) => Ok(LogReader { header, path, lines }),
            None => Err(LogError::Damaged { path }),
        }
    }
}

impl LogReader {
    /// What was known before the guest ran.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether a process lives that may still write to the log.
    pub fn is_live(&self) -> bool {
        match flock(&self.lines.file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                // The lock was only asked for; closing the file would give it back too.
                let _ = flock(&self.lines.file, FlockOperation::Unlock);
                false
            }
            Err(_) => true,
        }
    }

    /// The next line; with `follow`, waits for it for as long as the call lives.
    ///
    /// # Errors
    ///
    /// [`LogError::Io`].
    pub fn next(&mut self, follow: bool) -> Result<Option<LogLine>, LogError> {
        loop {
            // Asked before reading: whoever is gone by now has written all it ever will.
            let more = follow && self.is_live();
            let line = self
                .lines
                .next()
                .map_err(|source| LogError::Io { path: self.path.clone(), source })?;
            if let Some(line) = line {
                return Ok(Some(self.interpret(&line)));
            }
            if !more {
                let rest = std::mem::take(&mut self.lines.rest);
                return Ok((!rest.is_empty()).then(|| self.interpret(&rest)));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn interpret(&self, line: &[u8]) -> LogLine {
        match serde_json::from_slice::<End>(line) {
            Ok(end) if end.end == self.header.id => LogLine::End(end),
            _ => LogLine::Console(printable(line)),
        }
    }
}

/// Cuts a file into lines.
#[derive(Debug)]
struct Lines {
    file: File,
    /// What was read and not handed out yet.
    rest: Vec<u8>,
}

impl Lines {
    /// The next whole line without its end, or [`MAX_LINE`] bytes of a longer one.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            let unread = self.rest.get(searched..).unwrap_or_default();
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=searched + end).collect();
                line.pop();
                return Ok(Some(line));
            }
            searched = self.rest.len();
            if searched >= MAX_LINE {
                return Ok(Some(std::mem::take(&mut self.rest)));
            }
            let mut chunk = [0; 4096];
            let read = self.file.read(&mut chunk)?;
            if read == 0 {
                return Ok(None);
            }
            self.rest.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }
}

/// One line that can't act on the terminal it is printed to.
fn printable(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    let shown = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}
