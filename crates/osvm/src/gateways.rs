//! What gateways tell of the servers behind them: one file for each `osvm mcp serve`, which
//! `osvm status` reads.
//!
//! # Invariants
//!
//! - A file belongs to the process that its name and its start time name, and goes with it: what
//!   one that was killed leaves behind is not shown, and removed by who sees it.
//! - A file is there as a whole or not at all.

use crate::context::Context;
use osvm_gateway::{Gateway, MemberStatus};
use osvm_policy::Env;
use osvm_runtime::private_dir;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tracing::warn;

/// Where the files are, in the directory of what is gone after a reboot.
const DIR: &str = "gateways";

/// How old what is told may be.
const EVERY: Duration = Duration::from_secs(1);

/// Longest file that is read, in bytes.
const MAX: u64 = 4 * 1024 * 1024;

/// What a gateway tells.
#[derive(Serialize)]
struct Page<'a> {
    pid: u32,
    started: u64,
    over: &'a str,
    servers: Vec<MemberStatus>,
}

/// A gateway that runs.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Seen {
    /// Its process.
    pub(crate) pid: u32,
    /// When that was started, in clock ticks since the host's start.
    #[serde(skip_serializing)]
    started: u64,
    /// How clients reach it.
    pub(crate) over: String,
    /// Its servers, as [`MemberStatus`] tells of them.
    pub(crate) servers: Vec<Value>,
}

/// Tells as long as it is there.
#[derive(Debug)]
pub(crate) struct Telling {
    path: PathBuf,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Begins to tell of the servers of a gateway. One that can't be told of serves all the same.
pub(crate) fn tell(
    context: &Context,
    env: &Env,
    gateway: &Arc<Gateway>,
    over: String,
) -> Option<Telling> {
    let dir = context.dirs(env).run.join(DIR);
    let cannot = |error: &dyn std::fmt::Display| warn!("`osvm status` will not show this: {error}");
    let pid = std::process::id();
    let Some(started) = start_of(pid) else {
        cannot(&"the process can't be read");
        return None;
    };
    private_dir(&dir).inspect_err(|error| cannot(error)).ok()?;
    let path = dir.join(format!("{pid}.json"));
    let (end, ended) = mpsc::channel::<()>();
    let gateway = Arc::clone(gateway);
    let file = path.clone();
    let run = move || {
        let mut before = Vec::new();
        loop {
            let page = Page { pid, started, over: &over, servers: gateway.status() };
            let text = serde_json::to_vec(&page).unwrap_or_default();
            if text != before {
                if let Err(error) = write(&file, &text) {
                    warn!("`osvm status` can't be told how servers are: {error}");
                }
                before = text;
            }
            if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("status".into()).spawn(run);
    let thread = thread.inspect_err(|error| cannot(error)).ok();
    Some(Telling { path, end: Some(end), thread })
}

impl Drop for Telling {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        // It is of no use, and gone by itself after a reboot.
        let _gone = fs::remove_file(&self.path);
    }
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    options.open(&new)?.write_all(text)?;
    fs::rename(&new, path)
}

/// The gateways that run, by process. Files of others are removed.
pub(crate) fn seen(context: &Context, env: &Env) -> Vec<Seen> {
    seen_in(&context.dirs(env).run.join(DIR))
}

fn seen_in(dir: &Path) -> Vec<Seen> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut all = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let pid = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
        let Some(started) = pid.and_then(start_of) else {
            let _gone = fs::remove_file(&path);
            continue;
        };
        // One that is being written has another name, and is not looked at.
        if path.extension().is_none_or(|end| end != "json") {
            continue;
        }
        match read(&path) {
            Ok(seen) if Some(seen.pid) == pid && seen.started == started => all.push(seen),
            Ok(_) => _ = fs::remove_file(&path),
            Err(error) => warn!("cannot read `{}`: {error}", path.display()),
        }
    }
    all.sort_by_key(|seen| seen.pid);
    all
}

fn read(path: &Path) -> io::Result<Seen> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// When a process was started, in clock ticks since the host's start: field 22 of proc(5)'s
/// `stat`. `None` when there is none, or only its exit status is left.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, with any characters in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok())?
}

impl Seen {
    /// The rows of its servers, for people.
    pub(crate) fn rows(&self) -> impl Iterator<Item = [String; 7]> {
        let text = |server: &Value, name: &str| match server.get(name) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            // A state with more to it is an object with one member.
            Some(Value::Object(state)) => state.keys().next().cloned().unwrap_or_default(),
            Some(other) => other.to_string(),
        };
        self.servers.iter().map(move |server| {
            let held = server.get("held_back").and_then(Value::as_array).map_or(0, Vec::len);
            let note = match (held, text(server, "last_error")) {
                (0, error) => error,
                (held, _) => format!("{held} changed tools are held back"),
            };
            let text = |name| text(server, name);
            [
                self.pid.to_string(),
                text("name"),
                text("mode"),
                text("era"),
                text("breaker"),
                text("starts"),
                note.lines().next().unwrap_or_default().to_owned(),
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_a_living_process_tells_is_seen_and_the_rest_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::process::id();
        let started = start_of(own).unwrap();
        let page = |pid: u32, started: u64| {
            let servers = json!([{"name": "s", "mode": "direct", "breaker": {"open": 1}}]);
            let page = json!({"pid": pid, "started": started, "over": "stdio", "servers": servers});
            page.to_string()
        };
        let file = |name: &str| dir.path().join(name);
        fs::write(file(&format!("{own}.json")), page(own, started)).unwrap();
        // No process has this id: it is above the limit of the kernel.
        fs::write(file("4194305.json"), page(4_194_305, started)).unwrap();
        let seen = seen_in(dir.path());
        assert_eq!(seen.len(), 1);
        let rows: Vec<_> = seen[0].rows().collect();
        assert_eq!(rows[0][1..], ["s", "direct", "-", "open", "-", "-"].map(str::to_owned));
        assert!(!file("4194305.json").exists());
        // Another process had this id before.
        fs::write(file(&format!("{own}.json")), page(own, started + 1)).unwrap();
        assert!(seen_in(dir.path()).is_empty());
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
