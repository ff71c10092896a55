//! Calls on their way through a link, and what becomes of the files they change.

use super::Workspace;
use super::apply::{self, ApplyError};
use super::changes::{Change, Changes, Incoming};
use super::members::with_news;
use super::patch;
use super::tree::Tree;
use osvm_image::Digest;
use osvm_policy::WorkspaceMode;
use osvm_protocol::code::INTERNAL_ERROR;
use osvm_protocol::message::{self, Id, Message, Request, Response};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where in a result's `_meta`, or in an error's `data`, it is said what became of files.
const NEWS: &str = "osvm/workspace";

/// Longest patch in an answer, in bytes: a model pays for each of them.
const MAX_PATCH: usize = 64 * 1024;

/// Changes that are named in an answer.
const MAX_NAMED: usize = 200;

/// Calls that wait for their answers on one link.
const MAX_CALLS: usize = 4096;

/// The files of one guest.
#[derive(Debug)]
pub(crate) struct Files {
    server: String,
    /// By number.
    parts: Vec<Part>,
    /// What the guest has of each, as far as the host knows.
    bases: Mutex<Vec<Tree>>,
    calls: Mutex<HashSet<String>>,
}

/// A folder of the host.
#[derive(Debug)]
struct Part {
    workspace: Workspace,
    root: OwnedFd,
}

impl Files {
    pub(super) fn new(server: &str, parts: Vec<(Workspace, OwnedFd)>, bases: Vec<Tree>) -> Self {
        let parts = parts.into_iter().map(|(workspace, root)| Part { workspace, root }).collect();
        let (bases, calls) = (Mutex::new(bases), Mutex::default());
        Self { server: server.to_owned(), parts, bases, calls }
    }

    /// Notices a call on its way to the server.
    pub(crate) fn notice(&self, line: &[u8]) {
        if self.parts.iter().all(|part| part.workspace.mode == WorkspaceMode::Ro) {
            return;
        }
        if let Ok(Message::Request(Request { id: Some(id), method, .. })) = message::parse(line)
            && method == "tools/call"
        {
            let mut calls = lock(&self.calls);
            if calls.len() < MAX_CALLS {
                calls.insert(key(&id));
            }
        }
    }

    /// Whether a line of the server answers a call that was noticed; asked again it does not.
    pub(crate) fn answers(&self, line: &[u8]) -> bool {
        if lock(&self.calls).is_empty() {
            return false;
        }
        match message::parse(line) {
            Ok(Message::Response(Response { id: Some(id), .. })) => {
                lock(&self.calls).remove(&key(&id))
            }
            _ => false,
        }
    }

    /// Keeps what a call has changed, and gives its answer with the news of it.
    pub(crate) fn settle(&self, line: Vec<u8>, told: Result<Incoming, String>) -> Vec<u8> {
        match told.and_then(|incoming| self.keep(incoming)) {
            Ok(news) if nothing(&news) && is_error(&line) => line,
            Ok(news) => with_news(&line, NEWS, &Value::Object(news)).unwrap_or(line),
            Err(why) => {
                tracing::warn!(server = self.server, "changed files were not kept: {why}");
                refused(&line, &format!("what the call did to the workspace is not kept: {why}"))
                    .unwrap_or(line)
            }
        }
    }

    /// Keeps what was changed in all places, or nothing of it; gives the news.
    fn keep(&self, incoming: Incoming) -> Result<Map<String, Value>, String> {
        let mut bases = lock(&self.bases);
        let mut all = incoming.compare(&bases)?;
        for (part, changes) in self.parts.iter().zip(&mut all) {
            if part.mode() == WorkspaceMode::Ro {
                // PID 1 says nothing of them, so whatever says it is not PID 1 as osvm made it.
                *changes = Changes::default();
            }
        }
        let both = || self.parts.iter().zip(&all);
        let patches: Vec<_> = both().map(|(part, changes)| part.patch(changes)).collect();
        let changed = || both().zip(&patches).filter(|((_, changes), _)| !changes.all.is_empty());
        let written = || changed().filter(|((part, _), _)| part.mode() == WorkspaceMode::Rw);
        for ((part, changes), _) in written() {
            if let Err(error) = apply::check(&part.root, &changes.all) {
                return Err(self.wait(&error, changed()));
            }
        }
        let mut ids = BTreeMap::new();
        for ((part, changes), patch) in changed() {
            if part.mode() == WorkspaceMode::Diff {
                ids.insert(&part.workspace.guest_path, self.save(part, changes, patch)?);
            }
        }
        for ((part, changes), _) in written() {
            if let Err(error) = part.write(changes) {
                let other: String = ids.values().map(|id| format!("; {id} waits too")).collect();
                return Err(self.wait(&error, written()) + &other);
            }
        }
        let (mut room, mut mounts) = (MAX_PATCH, Vec::new());
        let mut told = Map::new();
        for ((part, changes), patch) in both().zip(&patches) {
            let id = ids.remove(&part.workspace.guest_path);
            let news = part.news(changes, id, patch, &mut room);
            if part.workspace.is_mount {
                mounts.extend((!nothing(&news)).then_some(Value::Object(news)));
            } else {
                told = news;
            }
        }
        if !mounts.is_empty() || told.is_empty() {
            told.insert("mounts".into(), mounts.into());
        }
        for ((part, changes), base) in self.parts.iter().zip(all).zip(bases.iter_mut()) {
            if part.mode() == WorkspaceMode::Rw {
                put(base, changes.all);
            }
        }
        Ok(told)
    }

    fn save(&self, part: &Part, changes: &Changes, patch: &str) -> Result<String, String> {
        let Workspace { pending, host_path, .. } = &part.workspace;
        let saved = pending.save(&self.server, host_path, changes, patch);
        saved.map_err(|error| error.to_string())
    }

    /// Keeps what could not be written until somebody says what to do with it; says where.
    fn wait<'a>(
        &self,
        error: &ApplyError,
        changed: impl Iterator<Item = ((&'a Part, &'a Changes), &'a String)>,
    ) -> String {
        let mut words = error.to_string();
        for ((part, changes), patch) in changed {
            words += &match self.save(part, changes, patch) {
                Ok(id) => format!("; it waits as {id} for `osvm workspace apply`"),
                Err(why) => format!("; {why}"),
            };
        }
        words
    }
}

/// What the guest has from now on.
fn put(base: &mut Tree, changes: Vec<Change>) {
    for Change { path, after, .. } in changes {
        match after {
            Some(after) => base.insert(path, after),
            None => base.remove(&path),
        };
    }
}

impl Part {
    fn mode(&self) -> WorkspaceMode {
        self.workspace.mode
    }

    fn patch(&self, changes: &Changes) -> String {
        patch::of(&self.root, &changes.all, &changes.contents)
    }

    fn write(&self, changes: &Changes) -> Result<(), ApplyError> {
        let contents = |digest: &Digest| {
            let bytes = changes.contents.get(digest).cloned();
            bytes.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        apply::put(&self.root, &changes.all, &contents)
    }

    /// What is said of it; a patch takes of `room`.
    fn news(
        &self,
        changes: &Changes,
        id: Option<String>,
        patch: &str,
        room: &mut usize,
    ) -> Map<String, Value> {
        let mut news = Map::new();
        if self.workspace.is_mount {
            news.insert("guest_path".into(), json!(self.workspace.guest_path));
        }
        news.insert("mode".into(), json!(self.mode().as_str()));
        news.insert("changes".into(), json!(named(&changes.all)));
        if let Some(more) = changes.all.len().checked_sub(MAX_NAMED + 1) {
            news.insert("more".into(), json!(more + 1));
        }
        if !changes.left_out.is_empty() {
            let left_out: Vec<_> = changes.left_out.iter().take(MAX_NAMED).collect();
            news.insert("left_out".into(), json!(left_out));
        }
        if changes.all.is_empty() {
            return news;
        }
        if let Some(id) = id {
            news.insert("id".into(), json!(id));
        }
        let cut = patch.floor_char_boundary(*room);
        *room = room.saturating_sub(cut);
        news.insert("patch".into(), json!(patch.get(..cut)));
        if cut < patch.len() {
            news.insert("patch_cut".into(), json!(true));
        }
        news
    }
}

fn named(changes: &[Change]) -> Vec<Value> {
    let one = |change: &Change| {
        let (path, kind) = (&change.path, change.kind());
        match change.size() {
            Some(size) => json!({"path": path, "change": kind, "bytes": size}),
            None => json!({"path": path, "change": kind}),
        }
    };
    changes.iter().take(MAX_NAMED).map(one).collect()
}

/// Whether there is nothing to tell. A result says so, an error need not.
fn nothing(news: &Map<String, Value>) -> bool {
    let none = |name| news.get(name).and_then(Value::as_array).is_none_or(Vec::is_empty);
    none("changes") && none("left_out") && none("mounts")
}

fn is_error(line: &[u8]) -> bool {
    matches!(message::parse(line), Ok(Message::Response(Response { outcome: Err(_), .. })))
}

/// An error in place of an answer.
fn refused(line: &[u8], why: &str) -> Option<Vec<u8>> {
    let Ok(Message::Response(Response { id: Some(id), .. })) = message::parse(line) else {
        return None;
    };
    let error = json!({"code": INTERNAL_ERROR, "message": why});
    serde_json::to_vec(&json!({"jsonrpc": "2.0", "id": id, "error": error})).ok()
}

fn key(id: &Id<'_>) -> String {
    serde_json::to_string(id).unwrap_or_default()
}

// Both are whole between any two statements.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
