//! Calls on their way through a link, and what becomes of the files they change.

use super::Workspace;
use super::apply;
use super::changes::{Change, Changes, Incoming};
use super::members::with_news;
use super::patch;
use super::tree::Tree;
use osvm_image::Digest;
use osvm_policy::WorkspaceMode;
use osvm_protocol::code::INTERNAL_ERROR;
use osvm_protocol::message::{self, Id, Message, Request, Response};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
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
    workspace: Workspace,
    server: String,
    root: OwnedFd,
    /// What the guest has, as far as the host knows.
    base: Mutex<Tree>,
    calls: Mutex<HashSet<String>>,
}

impl Files {
    pub(super) fn new(workspace: Workspace, server: &str, root: OwnedFd, base: Tree) -> Self {
        let (base, calls) = (Mutex::new(base), Mutex::default());
        Self { workspace, server: server.to_owned(), root, base, calls }
    }

    /// Notices a call on its way to the server.
    pub(crate) fn notice(&self, line: &[u8]) {
        if self.workspace.mode == WorkspaceMode::Ro {
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

    fn keep(&self, incoming: Incoming) -> Result<Map<String, Value>, String> {
        let mut base = lock(&self.base);
        let changes = incoming.compare(&base)?;
        let mode = self.workspace.mode;
        let mut news = Map::new();
        news.insert("mode".into(), json!(mode.as_str()));
        news.insert("changes".into(), json!(named(&changes.all)));
        if let Some(more) = changes.all.len().checked_sub(MAX_NAMED + 1) {
            news.insert("more".into(), json!(more + 1));
        }
        if !changes.left_out.is_empty() {
            let left_out: Vec<_> = changes.left_out.iter().take(MAX_NAMED).collect();
            news.insert("left_out".into(), json!(left_out));
        }
        if changes.all.is_empty() {
            return Ok(news);
        }
        let patch = patch::of(&self.root, &changes.all, &changes.contents);
        if mode == WorkspaceMode::Diff {
            news.insert("id".into(), json!(self.save(&changes, &patch)?));
        } else {
            self.write(&changes, &patch)?;
            for Change { path, after, .. } in changes.all {
                match after {
                    Some(after) => base.insert(path, after),
                    None => base.remove(&path),
                };
            }
        }
        let cut = patch.floor_char_boundary(MAX_PATCH);
        news.insert("patch".into(), json!(patch.get(..cut)));
        if cut < patch.len() {
            news.insert("patch_cut".into(), json!(true));
        }
        Ok(news)
    }

    fn save(&self, changes: &Changes, patch: &str) -> Result<String, String> {
        let Workspace { pending, host_path, .. } = &self.workspace;
        let saved = pending.save(&self.server, host_path, changes, patch);
        saved.map_err(|error| error.to_string())
    }

    fn write(&self, changes: &Changes, patch: &str) -> Result<(), String> {
        let contents = |digest: &Digest| {
            let bytes = changes.contents.get(digest).cloned();
            bytes.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        let written = apply::put(&self.root, &changes.all, &contents, false);
        written.map_err(|error| match self.save(changes, patch) {
            Ok(id) => format!("{error}; it waits as {id} for `osvm workspace apply`"),
            Err(why) => format!("{error}; {why}"),
        })
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
    let unchanged = news.get("changes").and_then(Value::as_array).is_some_and(Vec::is_empty);
    unchanged && !news.contains_key("left_out")
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
