//! Files in their places, without a host.

use super::*;
use rustix::process::getuid;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

/// A workspace in a folder that goes with it.
struct Bench {
    workspace: Workspace,
    folder: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        Self::with_places(name, &[""])
    }

    /// Its places are folders in it.
    fn with_places(name: &str, places: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("osvm-init-{}-{name}", std::process::id()));
        let place = |below: &&str| {
            let path = folder.join(below);
            fs::create_dir_all(&path).unwrap();
            Place { path: path.to_str().unwrap().to_owned(), writable: true, first: true }
        };
        let places: Vec<_> = places.iter().map(place).collect();
        let workspace = Workspace::new(&places, getuid().as_raw()).unwrap().unwrap();
        Self { workspace, folder }
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
        Said::Place(number) => format!("place {number}"),
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

#[test]
fn each_place_has_its_own_files_and_changes() {
    let mut bench = Bench::with_places("places", &["a", "b", "c"]);
    bench.file("x", "in a");
    bench.workspace.take(Said::Place(2));
    bench.file("x", "in c");
    bench.workspace.ready().unwrap();
    let at = |path: &str| bench.folder.join(path);
    assert_eq!(
        (fs::read(at("a/x")).unwrap(), fs::read(at("c/x")).unwrap()),
        (b"in a".to_vec(), b"in c".to_vec())
    );
    fs::write(at("c/x"), "changed").unwrap();
    symlink("/etc", at("b/l")).unwrap();
    let expected = ["place 1", "link l /etc", "place 2", "file x 640 7", "data 7"];
    assert_eq!(bench.changes(), expected);
    assert!(bench.changes().is_empty());
    fs::remove_file(bench.folder.join("a/x")).unwrap();
    assert_eq!(bench.changes(), ["gone x"], "the first place is not named");
}

#[test]
fn a_place_that_there_is_not_is_told_when_the_host_is_ready() {
    let mut bench = Bench::new("no-place");
    bench.workspace.take(Said::Place(1));
    bench.file("x", "lost");
    assert_eq!(bench.workspace.ready().unwrap_err(), "there is no place 1");
}
