//! What other processes are told of servers that are started again by themselves.
//!
//! ```text
//! run/kept/PID-N.lock        held for as long as the server is
//!          PID-N.json        how it is, replaced as a whole
//!          PID-N.stop-VM     the microVM of process VM was ended on purpose
//! ```
//!
//! # Invariants
//!
//! - A file whose lock nobody holds is of a process that is gone: it is removed, never believed.
//! - What is told has happened; it is told a second later, at most.

use osvm_upstream::{Ping, ServerStatus};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most bytes of a file, and characters of an error in it.
const MAX_FILE: u64 = 16 * 1024;
const MAX_ERROR: usize = 1000;

/// How a server is that somebody holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Told {
    /// Its name.
    pub(crate) server: String,
    /// Who holds it.
    pub(crate) osvm_pid: u32,
    /// The process of its microVM, or of the last one.
    pub(crate) vm_pid: Option<u64>,
    /// MicroVMs that took the place of one that broke.
    pub(crate) restarts: u64,
    /// MicroVMs that broke.
    pub(crate) deaths: u64,
    /// There is none now, and there will be.
    pub(crate) restarting: bool,
    /// What went wrong last.
    pub(crate) last_error: Option<String>,
    /// When it was asked last whether it lives.
    pub(crate) last_ping: Option<PingTold>,
}

/// A question whether a server lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PingTold {
    /// When, in milliseconds since 1970.
    pub(crate) unix_ms: u64,
    /// How long the answer took, if there was one.
    pub(crate) answer_ms: Option<u64>,
}

/// What is told of one server. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct Record {
    stem: PathBuf,
    told: Mutex<Told>,
    _lock: File,
}

impl Record {
    /// Tells of a server from now on.
    ///
    /// # Errors
    ///
    /// Files can't be written there.
    pub(crate) fn new(run: &Path, server: &str) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let folder = folder(run);
        osvm_runtime::private_dir(&folder).map_err(io::Error::other)?;
        let pid = std::process::id();
        let name = format!("{pid}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // Whoever finds it finds it locked.
        let fresh = folder.join(format!("{name}.new"));
        let lock = File::create(&fresh)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let stem = folder.join(&name);
        fs::rename(&fresh, stem.with_extension("lock"))?;
        let told = Told { server: server.to_owned(), osvm_pid: pid, ..Told::default() };
        Ok(Self { stem, told: Mutex::new(told), _lock: lock })
    }

    /// Tells how the server is now.
    pub(crate) fn tell(&self, status: &ServerStatus) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let vm_pid = status.links.first().and_then(|link| vm_pid(&link.facts));
        let error = status.last_error.as_deref();
        let now = Told {
            server: told.server.clone(),
            osvm_pid: told.osvm_pid,
            vm_pid: vm_pid.or(told.vm_pid),
            restarts: status.restarts,
            deaths: status.deaths,
            restarting: status.restarting,
            last_error: error.map(|error| error.chars().take(MAX_ERROR).collect()),
            last_ping: status
                .last_ping
                .map(|Ping { unix_ms, answer_ms }| PingTold { unix_ms, answer_ms }),
        };
        if *told == now {
            return;
        }
        match write(&self.stem, &now) {
            Ok(()) => *told = now,
            Err(error) => tracing::warn!(server = now.server, %error, "its state can't be told"),
        }
    }

    /// Whether a microVM with these facts is missed: nobody ended it on purpose.
    pub(crate) fn is_missed(&self, facts: &Map<String, Value>) -> bool {
        let Some(pid) = vm_pid(facts) else { return true };
        fs::remove_file(self.stem.with_extension(stop_extension(pid))).is_err()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        remove(&self.stem);
    }
}

/// The servers that somebody holds, each with where it is told of.
pub(crate) fn list(run: &Path) -> Vec<(Told, PathBuf)> {
    let entries = fs::read_dir(folder(run)).into_iter().flatten().flatten();
    let locks = entries.map(|entry| entry.path());
    let locks = locks.filter(|path| path.extension().is_some_and(|extension| extension == "lock"));
    locks.filter_map(|lock| read(&lock)).collect()
}

/// Has nobody start a server again when its microVM `vm` of the process `osvm` ends. Whether
/// there is one that would be.
pub(crate) fn let_end(run: &Path, server: &str, osvm: u32, vm: u64) -> io::Result<bool> {
    let mut held = list(run);
    held.retain(|(told, _)| (told.server.as_str(), told.osvm_pid) == (server, osvm));
    // One that has just been started is not told of yet.
    if held.iter().any(|(told, _)| told.vm_pid == Some(vm)) {
        held.retain(|(told, _)| told.vm_pid == Some(vm));
    }
    for (_, stem) in &held {
        File::create(stem.with_extension(stop_extension(vm)))?;
    }
    Ok(!held.is_empty())
}

fn folder(run: &Path) -> PathBuf {
    run.join("kept")
}

fn stop_extension(vm: u64) -> String {
    format!("stop-{vm}")
}

fn vm_pid(facts: &Map<String, Value>) -> Option<u64> {
    facts.get("vm_pid").and_then(Value::as_u64)
}

fn write(stem: &Path, told: &Told) -> io::Result<()> {
    let fresh = stem.with_extension("json.new");
    fs::write(&fresh, serde_json::to_vec(told)?)?;
    fs::rename(&fresh, stem.with_extension("json"))
}

/// Reads what is told beside a lock that somebody holds; removes what nobody holds.
fn read(lock: &Path) -> Option<(Told, PathBuf)> {
    let stem = lock.with_extension("");
    let file = File::open(lock).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        remove(&stem);
        return None;
    }
    let path = stem.with_extension("json");
    if MAX_FILE < fs::metadata(&path).ok()?.len() {
        return None;
    }
    let told = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    Some((told, stem))
}

fn remove(stem: &Path) {
    let (Some(folder), Some(name)) = (stem.parent(), stem.file_name().and_then(|n| n.to_str()))
    else {
        return;
    };
    let own = format!("{name}.");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|file| file.starts_with(&own)) {
            // Somebody else may have found it at the same time.
            let _gone = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_upstream::BreakerState;
    use serde_json::json;

    fn status(restarts: u64, vm_pid: Option<u64>) -> ServerStatus {
        ServerStatus {
            name: "s".into(),
            era: None,
            breaker: BreakerState::Closed,
            failures: 0,
            starts: restarts + 1,
            deaths: restarts,
            restarts,
            restarting: vm_pid.is_none(),
            last_ping: Some(Ping { unix_ms: 5, answer_ms: Some(1) }),
            requests: 0,
            last_error: Some("x".repeat(5000)),
            links: Vec::from_iter(vm_pid.map(|pid| osvm_upstream::LinkStatus {
                era: osvm_upstream::Era::Legacy,
                version: "2025-11-25".into(),
                in_flight: 0,
                skipped: 0,
                facts: facts(pid),
            })),
        }
    }

    fn facts(vm_pid: u64) -> Map<String, Value> {
        Map::from_iter([("vm_pid".to_owned(), json!(vm_pid))])
    }

    #[test]
    fn what_is_told_is_read_as_long_as_somebody_holds_it() {
        let run = tempfile::tempdir().unwrap();
        assert!(list(run.path()).is_empty());
        let record = Record::new(run.path(), "s").unwrap();
        assert!(list(run.path()).is_empty(), "there is nothing to tell yet");
        record.tell(&status(0, Some(7)));
        record.tell(&status(1, None));
        let [(told, _)] = &*list(run.path()) else { panic!("not one") };
        assert_eq!((told.server.as_str(), told.restarts, told.deaths), ("s", 1, 1));
        assert_eq!((told.vm_pid, told.restarting), (Some(7), true), "the last one is known");
        assert_eq!(told.last_error.as_ref().unwrap().len(), MAX_ERROR);
        assert_eq!(told.last_ping.unwrap().answer_ms, Some(1));
        drop(record);
        assert!(list(run.path()).is_empty());
        assert_eq!(fs::read_dir(folder(run.path())).unwrap().count(), 0);
    }

    #[test]
    fn what_a_process_left_that_is_gone_is_removed() {
        let run = tempfile::tempdir().unwrap();
        let record = Record::new(run.path(), "s").unwrap();
        record.tell(&status(0, Some(7)));
        let left = record.stem.with_file_name("1-0");
        for extension in ["json", "lock", "stop-3"] {
            fs::copy(record.stem.with_extension("json"), left.with_extension(extension)).unwrap();
        }
        assert_eq!(list(run.path()).len(), 1);
        assert_eq!(fs::read_dir(folder(run.path())).unwrap().count(), 2);
    }

    #[test]
    fn a_microvm_that_was_ended_on_purpose_is_not_missed_and_the_next_one_is() {
        let run = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let [one, other] = ["s", "s"].map(|server| Record::new(run.path(), server).unwrap());
        one.tell(&status(0, Some(7)));
        other.tell(&status(0, Some(8)));
        assert!(one.is_missed(&facts(7)));
        assert!(let_end(run.path(), "s", pid, 9).unwrap(), "it may be too young to be told of");
        assert!(!let_end(run.path(), "t", pid, 7).unwrap());
        assert!(let_end(run.path(), "s", pid, 7).unwrap());
        assert!(other.is_missed(&facts(7)), "that is none of its own");
        assert!(!one.is_missed(&facts(7)));
        assert!(one.is_missed(&facts(7)), "another process of that number");
        assert!(!one.is_missed(&facts(9)));
    }
}
