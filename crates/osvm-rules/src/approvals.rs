//! Asking a person: a file for each call that waits, a file for each answer.
//!
//! ```text
//! approvals/
//!   <id>.json     what waits, written by the call
//!   <id>.answer   yes or no, written by `osvm approvals` or the prompt, taken by one call
//!   always.json   what was answered for all times
//! ```
//!
//! The id stands for client, server, tool, arguments and rule. So a call that was given up finds
//! its answer when it is made again, if that is soon: an answer is for one call and for ten
//! minutes. The directory is the user's alone, so no client can answer for them.

use crate::error::ApprovalError;
use crate::files;
use osvm_runtime::{Cancel, Digest, Question, private_dir};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long a question and its answer are kept.
const KEPT: Duration = Duration::from_secs(600);

/// Pause between two looks for an answer.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a person who is there may take. Elsewhere somebody has to come first, and has as long as
/// the tool would have.
const THINKING: Duration = Duration::from_secs(600);

/// Longest piece of the arguments that is shown, in bytes.
const MAX_SHOWN: usize = 4096;

/// Letters of an id.
const ID_LEN: usize = 8;

const ALWAYS: &str = "always.json";

/// Asks a person who is there right now.
pub trait Prompt: fmt::Debug + Send + Sync {
    /// Waits for the answer; `None` when there is none before `is_over`.
    fn ask(&self, pending: &Pending, is_over: &dyn Fn() -> bool) -> Option<bool>;

    /// Whether there is a person, who needs time to think.
    fn is_there(&self) -> bool {
        true
    }
}

/// The questions of one user.
#[derive(Clone, Debug)]
pub struct Approvals {
    dir: PathBuf,
}

/// A call that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Pending {
    /// What to call it.
    pub id: String,
    /// When it was asked, RFC 3339, UTC.
    pub time: String,
    /// When the call that asks waits no longer, RFC 3339, UTC.
    pub until: String,
    /// Who calls, as it says itself.
    pub client: String,
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The beginning of its arguments.
    pub arguments: String,
    /// SHA-256 of all of them.
    pub arguments_digest: String,
    /// What the person should know.
    pub why: String,
    /// The rule that asks.
    pub rule: String,
}

#[derive(Deserialize, Serialize)]
struct Answer {
    allow: bool,
}

#[derive(PartialEq, Eq, Deserialize, Serialize)]
struct Always {
    client: String,
    server: String,
    tool: String,
    rule: String,
    allow: bool,
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Yes,
    No,
    /// Nobody answered in time, or the call is not wanted any more.
    Nobody,
}

impl Pending {
    /// The question whether a call may run, which waits until `end`.
    pub(crate) fn new(ask: &Question<'_>, end: Instant, rule: &str, why: &str) -> Self {
        let now = SystemTime::now();
        let left = end.saturating_duration_since(Instant::now());
        let time = |time| humantime::format_rfc3339_seconds(time).to_string();
        let arguments = ask.arguments.get();
        let digest = Digest::of(arguments.as_bytes()).to_string();
        let shown = arguments.get(..arguments.floor_char_boundary(MAX_SHOWN));
        let about = [ask.client.as_str(), ask.server, ask.tool, &digest, rule];
        Self {
            id: id(&about),
            time: time(now),
            until: time(now + left),
            client: ask.client.to_string(),
            server: ask.server.into(),
            tool: ask.tool.into(),
            arguments: shown.unwrap_or_default().into(),
            arguments_digest: digest,
            why: why.into(),
            rule: rule.into(),
        }
    }
}

/// When a question that is asked now is given up: whoever calls may set a limit of `deadline`.
pub(crate) fn end(prompt: Option<&dyn Prompt>, deadline: Instant) -> Instant {
    let there = prompt.is_some_and(Prompt::is_there);
    let thought = Instant::now() + THINKING;
    if there { thought.max(deadline) } else { deadline }
}

/// Short, and the same for the same question.
fn id(about: &[&str]) -> String {
    // Lengths, so that no two lists read alike.
    let text: String = about.iter().map(|part| format!("{}:{part}", part.len())).collect();
    let digest = Digest::of(text.as_bytes()).to_string();
    let hex = digest.strip_prefix("sha256:").unwrap_or(&digest);
    hex.chars().take(ID_LEN).collect()
}

impl Approvals {
    /// The questions in `dir`, which is made on first use.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// What waits for an answer, or may be asked again, newest first.
    ///
    /// # Errors
    ///
    /// [`ApprovalError`].
    pub fn list(&self) -> Result<Vec<Pending>, ApprovalError> {
        let io = |source| ApprovalError::Io { path: self.dir.clone(), source };
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut pending = Vec::new();
        for entry in entries {
            let path = entry.map_err(io)?.path();
            let is_question = path.extension().is_some_and(|extension| extension == "json")
                && path.file_name().is_some_and(|name| name != ALWAYS);
            if !is_question || is_old(&path) || path.with_extension("answer").exists() {
                continue;
            }
            // One that is answered at this moment is gone.
            pending.extend(files::read::<Pending>(&path).ok().flatten());
        }
        pending.sort_by(|one, other| other.time.cmp(&one.time));
        Ok(pending)
    }

    /// Answers a question: this once, or `always` for this client, tool and rule.
    ///
    /// # Errors
    ///
    /// [`ApprovalError::Unknown`] when nothing waits under that id, and others.
    pub fn answer(&self, id: &str, allow: bool, always: bool) -> Result<Pending, ApprovalError> {
        let unknown = || ApprovalError::Unknown { id: id.chars().take(64).collect() };
        let well_formed = id.len() == ID_LEN && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !well_formed {
            return Err(unknown());
        }
        private_dir(&self.dir)?;
        let path = self.path(id, "json");
        let io = |source| ApprovalError::Io { path: path.clone(), source };
        let pending: Pending = files::read(&path).map_err(io)?.ok_or_else(unknown)?;
        if is_old(&path) {
            return Err(unknown());
        }
        if always {
            self.remember(&pending, allow)?;
        }
        self.put(id, allow)?;
        Ok(pending)
    }

    fn put(&self, id: &str, allow: bool) -> Result<(), ApprovalError> {
        let path = self.path(id, "answer");
        let written = files::write(&path, &Answer { allow });
        written.map_err(|source| ApprovalError::Io { path, source })
    }

    fn remember(&self, pending: &Pending, allow: bool) -> Result<(), ApprovalError> {
        let path = self.dir.join(ALWAYS);
        let io = |source| ApprovalError::Io { path: path.clone(), source };
        let mut all: Vec<Always> = files::read(&path).map_err(io)?.unwrap_or_default();
        all.retain(|known| !known.is_about(pending));
        let Pending { client, server, tool, rule, .. } = pending.clone();
        all.push(Always { client, server, tool, rule, allow });
        files::write(&path, &all).map_err(io)
    }

    /// Asks, says so to `asking`, and waits for the answer until `end`.
    pub(crate) fn wait(
        &self,
        pending: &Pending,
        prompt: Option<&dyn Prompt>,
        end: Instant,
        cancel: &Cancel,
        asking: impl FnOnce(),
    ) -> Result<Answered, ApprovalError> {
        private_dir(&self.dir)?;
        let path = self.dir.join(ALWAYS);
        let all: Option<Vec<Always>> =
            files::read(&path).map_err(|source| ApprovalError::Io { path, source })?;
        if let Some(known) = all.iter().flatten().find(|known| known.is_about(pending)) {
            return Ok(if known.allow { Answered::Yes } else { Answered::No });
        }
        if let Some(answer) = self.take(&pending.id) {
            return Ok(answer);
        }
        self.prune();
        let path = self.path(&pending.id, "json");
        files::write(&path, pending).map_err(|source| ApprovalError::Io { path, source })?;
        tracing::warn!(
            id = pending.id,
            "{}/{} waits for an approval: `osvm approvals allow {}`",
            pending.server,
            pending.tool,
            pending.id
        );
        asking();
        let is_over = || cancel.is_cancelled() || end <= Instant::now();
        let is_answered = || is_over() || self.path(&pending.id, "answer").exists();
        if let Some(allow) = prompt.and_then(|prompt| prompt.ask(pending, &is_answered)) {
            self.forget(&pending.id);
            return Ok(if allow { Answered::Yes } else { Answered::No });
        }
        loop {
            if let Some(answer) = self.take(&pending.id) {
                return Ok(answer);
            }
            if is_over() {
                // The question stays: whoever asks again soon finds the answer.
                return Ok(Answered::Nobody);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes an answer that is there: removing its file is what only one call can do.
    fn take(&self, id: &str) -> Option<Answered> {
        let path = self.path(id, "answer");
        let old = is_old(&path);
        let answer: Answer = files::read(&path).ok().flatten()?;
        std::fs::remove_file(&path).ok()?;
        if old {
            return None;
        }
        let _gone = std::fs::remove_file(self.path(id, "json"));
        Some(if answer.allow { Answered::Yes } else { Answered::No })
    }

    fn forget(&self, id: &str) {
        for extension in ["json", "answer"] {
            let _gone = std::fs::remove_file(self.path(id, extension));
        }
    }

    /// Removes what nobody will ask for any more.
    fn prune(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.file_name().is_some_and(|name| name != ALWAYS) && is_old(&path) {
                let _gone = std::fs::remove_file(path);
            }
        }
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        self.dir.join(id).with_extension(extension)
    }
}

impl Always {
    fn is_about(&self, pending: &Pending) -> bool {
        (&self.client, &self.server, &self.tool, &self.rule)
            == (&pending.client, &pending.server, &pending.tool, &pending.rule)
    }
}

/// Whether a file was last written too long ago. A call may wait for longer than that, but not
/// without its question being there: it was written when the call began to wait.
fn is_old(path: &Path) -> bool {
    const LONGEST_CALL: Duration = Duration::from_secs(3600);
    let age = path.metadata().and_then(|metadata| metadata.modified()).ok();
    let age = age.and_then(|time| time.elapsed().ok()).unwrap_or_default();
    let limit = if path.extension().is_some_and(|e| e == "json") { LONGEST_CALL } else { KEPT };
    limit <= age
}
