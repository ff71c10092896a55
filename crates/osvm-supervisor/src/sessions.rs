//! Conversations, kept: one file a session, one line a message.
//!
//! # Invariants
//!
//! - A session has a file from its first message on: one in which nobody said anything is none.
//! - A line is written at once and whole; a crash loses at most the one being written, and a
//!   reader leaves out a last line that is torn.
//! - Files are readable by their owner only.

use osvm_agent::conversation::Message;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use thiserror::Error;
use ulid::Ulid;

/// Longest session that is read, in bytes.
const LONGEST: u64 = 256 * 1024 * 1024;

/// Sessions that a list shows.
const SHOWN: usize = 100;

/// A session that can't be kept or found.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The file or its folder.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is none with this name.
    #[error("there is no session `{id}`")]
    Unknown {
        /// What was asked for, cut.
        id: String,
    },
    /// There is none at all.
    #[error("there is no session to resume")]
    None,
}

/// One session of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub id: String,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// The beginning of its first prompt.
    pub first: String,
}

/// The folder of sessions.
#[derive(Clone, Debug)]
pub struct Sessions {
    dir: PathBuf,
}

/// The file of a session that goes on.
#[derive(Debug)]
pub struct SessionLog {
    id: String,
    path: PathBuf,
    /// Made with the first line.
    file: Option<File>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a Message>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cleared: bool,
}

#[derive(Deserialize)]
struct LineRead {
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    cleared: bool,
}

impl Sessions {
    /// Sessions in `dir`, which is made when the first one is kept.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// A new one.
    ///
    /// # Errors
    ///
    /// [`SessionError::Io`].
    pub fn begin(&self) -> Result<SessionLog, SessionError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|source| SessionError::Io { path: self.dir.clone(), source })?;
        let id = Ulid::generate().to_string();
        Ok(SessionLog { path: self.path(&id), id, file: None })
    }

    /// Whether something was said in that session.
    pub fn has(&self, id: &str) -> bool {
        id.parse::<Ulid>().is_ok() && self.path(id).is_file()
    }

    /// One that goes on, and what was said in it: `id`, or the newest.
    ///
    /// # Errors
    ///
    /// [`SessionError`].
    pub fn resume(&self, id: Option<&str>) -> Result<(SessionLog, Vec<Message>), SessionError> {
        let id = match id {
            Some(id) => id
                .parse::<Ulid>()
                .map(|id| id.to_string())
                .map_err(|_| SessionError::Unknown { id: id.chars().take(64).collect() })?,
            None => self.ids()?.pop().ok_or(SessionError::None)?,
        };
        let path = self.path(&id);
        let messages = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SessionError::Unknown { id });
            }
            read => read.map_err(|source| SessionError::Io { path, source })?,
        };
        let path = self.path(&id);
        let opened = open(&path, OFlags::empty()).and_then(|mut file| {
            fresh_line(&mut file)?;
            Ok(file)
        });
        let file = opened.map_err(|source| SessionError::Io { path: path.clone(), source })?;
        Ok((SessionLog { id, path, file: Some(file) }, messages))
    }

    /// The newest sessions, newest first.
    ///
    /// # Errors
    ///
    /// [`SessionError::Io`].
    pub fn list(&self) -> Result<Vec<Summary>, SessionError> {
        let ids = self.ids()?;
        let newest = ids.into_iter().rev().take(SHOWN);
        Ok(newest.map(|id| self.summary(id)).collect())
    }

    fn summary(&self, id: String) -> Summary {
        let started = id.parse::<Ulid>().map(|id| id.datetime());
        let started = started.unwrap_or(SystemTime::UNIX_EPOCH);
        let first =
            read(&self.path(&id)).unwrap_or_default().into_iter().find_map(
                |message| match message {
                    Message::User { text } => Some(beginning(&text)),
                    _ => None,
                },
            );
        let started = humantime::format_rfc3339_seconds(started).to_string();
        Summary { id, started, first: first.unwrap_or_default() }
    }

    /// Names of all sessions; they sort by time.
    fn ids(&self) -> Result<Vec<String>, SessionError> {
        let io = |source| SessionError::Io { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(io)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
            ids.extend(id.filter(|id| id.parse::<Ulid>().is_ok()).map(str::to_owned));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.jsonl"))
    }
}

impl SessionLog {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Adds a message.
    ///
    /// # Errors
    ///
    /// [`SessionError::Io`].
    pub fn add(&mut self, message: &Message) -> Result<(), SessionError> {
        self.write(Some(message), false)
    }

    /// Notes that everything before is forgotten.
    ///
    /// # Errors
    ///
    /// [`SessionError::Io`].
    pub fn clear(&mut self) -> Result<(), SessionError> {
        self.write(None, true)
    }

    fn write(&mut self, message: Option<&Message>, cleared: bool) -> Result<(), SessionError> {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let line = serde_json::to_vec(&Line { time, message, cleared }).map_err(io::Error::from);
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(open(&self.path, OFlags::CREATE | OFlags::EXCL)?),
            };
            file.write_all(&line)
        });
        written.map_err(|source| SessionError::Io { path: self.path.clone(), source })
    }
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// A line that a crash tore must not take the next one with it.
fn fresh_line(file: &mut File) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [b'\n'];
    if let Some(at) = file.metadata()?.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

/// What was said in a session since it was cleared last. Lines that are torn are left out.
fn read(path: &Path) -> io::Result<Vec<Message>> {
    let file = BufReader::new(File::open(path)?.take(LONGEST));
    let mut messages = Vec::new();
    for line in file.split(b'\n') {
        match serde_json::from_slice::<LineRead>(&line?) {
            Ok(LineRead { cleared: true, .. }) => messages.clear(),
            Ok(LineRead { message, .. }) => messages.extend(message),
            Err(_) => {}
        }
    }
    Ok(messages)
}

fn beginning(text: &str) -> String {
    const LONGEST: usize = 80;
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    line.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Message {
        Message::User { text: text.into() }
    }

    fn texts(messages: &[Message]) -> Vec<&str> {
        fn text(message: &Message) -> Option<&str> {
            match message {
                Message::User { text } => Some(text.as_str()),
                _ => None,
            }
        }
        messages.iter().filter_map(text).collect()
    }

    #[test]
    fn a_session_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::new(dir.path().join("s"));
        assert!(matches!(sessions.resume(None), Err(SessionError::None)));
        let mut log = sessions.begin().unwrap();
        assert!(sessions.list().unwrap().is_empty() && !sessions.has(log.id()));
        log.add(&user("one")).unwrap();
        let id = log.id().to_owned();
        assert!(sessions.has(&id));
        drop(log);
        let (mut log, messages) = sessions.resume(Some(&id)).unwrap();
        assert_eq!(texts(&messages), ["one"]);
        log.clear().unwrap();
        log.add(&user("two")).unwrap();
        let (_, messages) = sessions.resume(None).unwrap();
        assert_eq!(texts(&messages), ["two"]);
        let list = sessions.list().unwrap();
        assert_eq!((list.len(), list[0].first.as_str()), (1, "two"));
    }

    #[test]
    fn a_torn_line_is_left_out_and_the_next_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::new(dir.path());
        let mut log = sessions.begin().unwrap();
        log.add(&user("one")).unwrap();
        log.file.as_mut().unwrap().write_all(b"{\"time\":\"x\",\"mess").unwrap();
        drop(log);
        let (mut log, messages) = sessions.resume(None).unwrap();
        assert_eq!(texts(&messages), ["one"]);
        log.add(&user("two")).unwrap();
        assert_eq!(texts(&sessions.resume(None).unwrap().1), ["one", "two"]);
    }

    #[test]
    fn a_name_that_is_none_reaches_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::new(dir.path());
        for id in ["../../etc/passwd", "", "01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            let found = sessions.resume(Some(id));
            assert!(matches!(found, Err(SessionError::Unknown { .. })), "{id}: {found:?}");
        }
    }
}
