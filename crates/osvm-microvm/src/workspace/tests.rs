//! A host folder, what a guest is told of it, and what comes back, without a guest.

use super::changes::{Changes, Incoming};
use super::settle::Files;
use super::*;
use osvm_protocol::frame;
use osvm_protocol::linux::workspace::{self as wire};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
}

impl Bench {
    /// A folder with two files.
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(bench.at("sub")).unwrap();
        fs::write(bench.at("a.txt"), "one\ntwo\nthree\n").unwrap();
        fs::write(bench.at("sub/b.txt"), "b\n").unwrap();
        bench
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("host").join(path)
    }

    fn workspace(&self, mode: WorkspaceMode) -> Workspace {
        let pending = Pending::new(self.dir.path().join("pending"));
        let guest_path = "/w".into();
        Workspace { host_path: self.at(""), guest_path, mode, pending, is_mount: false }
    }

    /// The files of a guest that was given the folder as it is now, and what it was told.
    fn fill(&self, mode: WorkspaceMode) -> Result<(Files, Vec<String>), WorkspaceError> {
        let workspace = self.workspace(mode);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let root = open(&workspace.host_path, flags, Mode::empty()).unwrap();
        let mut told = Vec::new();
        let mut say = |said: Said<'_>| {
            told.push(match said {
                Said::Folder { path, .. } => format!("folder {}", path.escape_ascii()),
                Said::File { path, size, .. } => format!("file {} {size}", path.escape_ascii()),
                Said::Link { path, .. } => format!("link {}", path.escape_ascii()),
                Said::Data(bytes) => format!("data {}", bytes.len()),
                Said::Gone { .. } | Said::Place(_) => {
                    panic!("nothing goes, and there is one place")
                }
            });
            Ok(())
        };
        let base = tree::send(&workspace, &root, &mut Room::new(64 * 1024), &mut say)?;
        Ok((Files::new("demo", vec![(workspace, root)], vec![base]), told))
    }
}

/// What a guest says of its files after a call.
fn left(files: &[(&str, Option<&str>)]) -> Incoming {
    let mut incoming = Incoming::default();
    let mut say = |said: Said<'_>| {
        let framed = wire::frame(said).unwrap();
        incoming.take(frame::split(&framed).unwrap().unwrap().payload);
    };
    for (path, text) in files {
        let path = path.as_bytes();
        match text {
            None => say(Said::Gone { path }),
            Some(text) if path.ends_with(b"/") => {
                assert_eq!(*text, "");
                say(Said::Folder { mode: 0o755, path: &path[..path.len() - 1] });
            }
            Some(text) => {
                say(Said::File { mode: 0o644, size: text.len() as u64, changed: (0, 0), path });
                say(Said::Data(text.as_bytes()));
            }
        }
    }
    incoming
}

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}"#;
const ANSWER: &[u8] = br#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;

const ERROR: &[u8] = br#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"m"}}"#;

/// The answer of a call that has left that.
fn answer(files: &Files, incoming: Incoming) -> Value {
    settled(files, ANSWER, incoming)
}

fn settled(files: &Files, answer: &[u8], incoming: Incoming) -> Value {
    files.notice(CALL);
    assert!(files.answers(answer));
    serde_json::from_slice(&files.settle(answer.to_vec(), Ok(incoming))).unwrap()
}

const EDITED: [(&str, Option<&str>); 5] = [
    ("a.txt", Some("one\n2\nthree\n")),
    ("sub/b.txt", None),
    ("sub", None),
    ("new/", Some("")),
    ("new/c", Some("no end")),
];

#[test]
fn a_guest_is_told_folders_before_what_is_in_them_and_nothing_special() {
    let bench = Bench::new();
    symlink("/etc", bench.at("sub/l")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.at("socket")).unwrap();
    let (_, mut told) = bench.fill(WorkspaceMode::Ro).unwrap();
    let folder = told.iter().position(|said| said == "folder sub").unwrap();
    assert!(told[folder..].contains(&"file sub/b.txt 2".to_owned()), "{told:?}");
    told.sort();
    let expected =
        ["data 14", "data 2", "file a.txt 14", "file sub/b.txt 2", "folder sub", "link sub/l"];
    assert_eq!(told, expected);
}

#[test]
fn what_does_not_fit_a_guest_is_refused_before_all_of_it_is_sent() {
    let bench = Bench::new();
    fs::write(bench.at("big"), vec![0; 65 * 1024]).unwrap();
    let error = bench.fill(WorkspaceMode::Ro).unwrap_err();
    assert!(matches!(error, WorkspaceError::TooMuch { .. }), "{error}");
    assert!(error.hint().unwrap().contains("memory_mb"));
}

#[test]
fn only_calls_are_looked_after_and_each_once() {
    let (files, _) = Bench::new().fill(WorkspaceMode::Diff).unwrap();
    files.notice(br#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#);
    assert!(!files.answers(ANSWER));
    files.notice(CALL);
    assert!(!files.answers(br#"{"jsonrpc":"2.0","id":"7","result":{}}"#), "another id");
    assert!(!files.answers(br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#), "a question");
    assert!(files.answers(ANSWER));
    assert!(!files.answers(ANSWER));
    let (files, _) = Bench::new().fill(WorkspaceMode::Ro).unwrap();
    files.notice(CALL);
    assert!(!files.answers(ANSWER), "nothing can have changed");
}

#[test]
fn a_diff_touches_nothing_until_it_is_applied() {
    let bench = Bench::new();
    let (files, _) = bench.fill(WorkspaceMode::Diff).unwrap();
    let answer = answer(&files, left(&EDITED));
    let news = &answer["result"]["_meta"]["osvm/workspace"];
    assert_eq!(news["mode"], "diff");
    let told: Vec<_> = news["changes"].as_array().unwrap().iter().collect();
    let kinds: Vec<_> = told.iter().map(|c| (c["change"].as_str(), c["path"].as_str())).collect();
    let expected = [
        (Some("modified"), Some("a.txt")),
        (Some("added"), Some("new")),
        (Some("added"), Some("new/c")),
        (Some("deleted"), Some("sub")),
        (Some("deleted"), Some("sub/b.txt")),
    ];
    assert_eq!(kinds, expected);
    assert!(news["patch"].as_str().unwrap().contains("\n-two\n+2\n"), "{news}");
    assert_eq!(fs::read(bench.at("a.txt")).unwrap(), b"one\ntwo\nthree\n");
    assert!(bench.at("sub/b.txt").exists() && !bench.at("new").exists());

    let pending = bench.workspace(WorkspaceMode::Diff).pending;
    let listed = pending.list().unwrap();
    assert_eq!((listed.len(), listed[0].id.as_str()), (1, news["id"].as_str().unwrap()));
    assert_eq!(pending.patch(&listed[0].id).unwrap(), news["patch"]);
    pending.apply(&listed[0], false).unwrap();
    assert_eq!(fs::read(bench.at("a.txt")).unwrap(), b"one\n2\nthree\n");
    assert_eq!(fs::read(bench.at("new/c")).unwrap(), b"no end");
    assert!(!bench.at("sub").exists());
    assert!(pending.list().unwrap().is_empty(), "it is done");
}

#[test]
fn the_patch_does_what_applying_does() {
    let bench = Bench::new();
    let (files, _) = bench.fill(WorkspaceMode::Diff).unwrap();
    let news = answer(&files, left(&EDITED));
    let patch = news["result"]["_meta"]["osvm/workspace"]["patch"].as_str().unwrap();
    let git = Command::new("git")
        .args(["apply", "-"])
        .current_dir(bench.at(""))
        .env("GIT_DIR", "/nowhere")
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut git) = git else { return eprintln!("SKIPPED: there is no git here") };
    io::Write::write_all(&mut git.stdin.take().unwrap(), patch.as_bytes()).unwrap();
    assert!(git.wait().unwrap().success(), "{patch}");
    assert_eq!(fs::read(bench.at("a.txt")).unwrap(), b"one\n2\nthree\n");
    assert_eq!(fs::read(bench.at("new/c")).unwrap(), b"no end");
    assert!(!bench.at("sub/b.txt").exists());
}

#[test]
fn what_a_call_wrote_is_on_the_host_when_it_is_answered() {
    let bench = Bench::new();
    let (files, _) = bench.fill(WorkspaceMode::Rw).unwrap();
    let first = answer(&files, left(&[("a.txt", Some("1\n"))]));
    assert!(first["result"]["_meta"]["osvm/workspace"]["id"].is_null(), "{first}");
    assert_eq!(fs::read(bench.at("a.txt")).unwrap(), b"1\n");
    // A server that lives on: the next call begins where this one ended.
    answer(&files, left(&[("a.txt", Some("2\n"))]));
    assert_eq!(fs::read(bench.at("a.txt")).unwrap(), b"2\n");
    let nothing = answer(&files, left(&[("a.txt", Some("2\n"))]));
    assert_eq!(nothing["result"]["_meta"]["osvm/workspace"]["changes"], json!([]));
}

#[test]
fn a_file_that_the_host_changed_meanwhile_is_not_written_over() {
    let bench = Bench::new();
    let (files, _) = bench.fill(WorkspaceMode::Rw).unwrap();
    fs::write(bench.at("a.txt"), "mine\n").unwrap();
    let answer = answer(&files, left(&[("a.txt", Some("theirs\n")), ("n", Some("new"))]));
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.contains("changed meanwhile: `a.txt`"), "{why}");
    assert_eq!(fs::read(bench.at("a.txt")).unwrap(), b"mine\n");
    assert!(!bench.at("n").exists(), "all or nothing");

    let pending = bench.workspace(WorkspaceMode::Rw).pending;
    let waiting = pending.list().unwrap().remove(0);
    assert!(why.contains(&waiting.id), "{why}");
    assert!(matches!(pending.apply(&waiting, false), Err(ApplyError::Conflict { .. })));
    pending.apply(&waiting, true).unwrap();
    assert_eq!(fs::read(bench.at("a.txt")).unwrap(), b"theirs\n");
}

#[test]
fn nothing_is_written_over_a_link() {
    let bench = Bench::new();
    let (files, _) = bench.fill(WorkspaceMode::Rw).unwrap();
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir_all(bench.at("sub")).unwrap();
    symlink(&outside, bench.at("sub")).unwrap();
    let answer = answer(&files, left(&[("sub/x", Some("x")), ("sub/b.txt", Some("y"))]));
    assert!(answer["error"]["message"].is_string(), "{answer}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // Not even by force.
    let pending = bench.workspace(WorkspaceMode::Rw).pending;
    for waiting in pending.list().unwrap() {
        pending.apply(&waiting, true).unwrap_err();
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn an_error_tells_too_what_its_call_has_left() {
    let bench = Bench::new();
    for (mode, waiting) in [(WorkspaceMode::Diff, 1), (WorkspaceMode::Rw, 0)] {
        let (files, _) = bench.fill(mode).unwrap();
        let quiet = settled(&files, ERROR, left(&[]));
        assert_eq!(quiet, serde_json::from_slice::<Value>(ERROR).unwrap());
        let told = settled(&files, ERROR, left(&[("a.txt", Some("2\n"))]));
        assert_eq!(
            (&told["error"]["code"], &told["error"]["message"]),
            (&json!(-32000), &json!("m"))
        );
        let news = &told["error"]["data"]["osvm/workspace"];
        assert_eq!(
            (&news["mode"], &news["changes"][0]["path"]),
            (&json!(mode.as_str()), &json!("a.txt"))
        );
        let pending = bench.workspace(mode).pending.list().unwrap();
        assert_eq!(pending.len(), waiting);
        assert_eq!(news["id"].as_str(), pending.first().map(|set| set.id.as_str()));
        pending.iter().for_each(|set| bench.workspace(mode).pending.remove(&set.id).unwrap());
    }
}

impl Bench {
    /// The files of a guest that has folders of this one, as mounts of these modes, after a workspace if
    /// one is wanted.
    fn fill_mounts(
        &self,
        workspace: Option<WorkspaceMode>,
        mounts: &[(&str, WorkspaceMode)],
    ) -> Files {
        let workspace = workspace.map(|mode| self.workspace(mode));
        let mounts = mounts.iter().map(|(folder, mode)| Workspace {
            host_path: self.at(folder),
            guest_path: format!("/mnt/{folder}"),
            is_mount: true,
            ..self.workspace(*mode)
        });
        let (mut parts, mut bases) = (Vec::new(), Vec::new());
        for workspace in workspace.into_iter().chain(mounts) {
            fs::create_dir_all(&workspace.host_path).unwrap();
            let root = open(&workspace.host_path, OFlags::RDONLY, Mode::empty()).unwrap();
            let mut room = Room::new(64 * 1024);
            bases.push(tree::send(&workspace, &root, &mut room, &mut |_| Ok(())).unwrap());
            parts.push((workspace, root));
        }
        Files::new("demo", parts, bases)
    }
}

/// What a guest says of its files in each place.
fn left_in(places: &[(u32, &str, &str)]) -> Incoming {
    let mut incoming = Incoming::default();
    let mut say = |said: Said<'_>| {
        let framed = wire::frame(said).unwrap();
        incoming.take(frame::split(&framed).unwrap().unwrap().payload);
    };
    for (number, path, text) in places {
        let (path, size) = (path.as_bytes(), text.len() as u64);
        say(Said::Place(*number));
        say(Said::File { mode: 0o644, size, changed: (0, 0), path });
        say(Said::Data(text.as_bytes()));
    }
    incoming
}

#[test]
fn mounts_are_written_beside_a_workspace_and_told_by_their_paths() {
    let bench = Bench::new();
    let modes = [("sub", WorkspaceMode::Ro), ("out", WorkspaceMode::Rw)];
    let files = bench.fill_mounts(Some(WorkspaceMode::Diff), &modes);
    let told = answer(&files, left_in(&[(0, "a.txt", "new"), (2, "result", "42")]));
    let news = &told["result"]["_meta"]["osvm/workspace"];
    assert_eq!((&news["mode"], &news["changes"][0]["path"]), (&json!("diff"), &json!("a.txt")));
    assert!(news["id"].is_string());
    let mounts = news["mounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 1, "{news}");
    assert_eq!(
        (&mounts[0]["guest_path"], &mounts[0]["mode"], &mounts[0]["changes"][0]["path"]),
        (&json!("/mnt/out"), &json!("rw"), &json!("result"))
    );
    assert_eq!(fs::read(bench.at("out/result")).unwrap(), b"42");
    assert_eq!(fs::read(bench.at("a.txt")).unwrap(), b"one\ntwo\nthree\n");
    // The next call begins where this one ended.
    let again = answer(&files, left_in(&[(2, "result", "42")]));
    assert!(again["result"]["_meta"]["osvm/workspace"]["mounts"].is_null(), "{again}");
}

#[test]
fn what_conflicts_in_one_mount_is_written_in_none() {
    let bench = Bench::new();
    let modes = [("one", WorkspaceMode::Rw), ("two", WorkspaceMode::Rw)];
    let files = bench.fill_mounts(None, &modes);
    fs::write(bench.at("two/b"), "mine").unwrap();
    let told = answer(&files, left_in(&[(0, "a", "1"), (1, "b", "2")]));
    let why = told["error"]["message"].as_str().unwrap();
    assert!(why.contains("changed meanwhile: `b`"), "{why}");
    assert!(!bench.at("one/a").exists() && fs::read(bench.at("two/b")).unwrap() == b"mine");
    let waiting = bench.workspace(WorkspaceMode::Rw).pending.list().unwrap();
    assert!(waiting.len() == 2 && waiting.iter().all(|set| why.contains(&set.id)), "{why}");
}

#[test]
fn a_guest_writes_to_no_mount_that_it_may_only_read() {
    let bench = Bench::new();
    let modes = [("sub", WorkspaceMode::Ro), ("out", WorkspaceMode::Rw)];
    let files = bench.fill_mounts(None, &modes);
    // Nothing but a guest that broke its PID 1 says this.
    let told = answer(&files, left_in(&[(0, "b.txt", "theirs"), (1, "x", "x")]));
    assert_eq!(told["result"]["_meta"]["osvm/workspace"]["mounts"].as_array().unwrap().len(), 1);
    assert_eq!(fs::read(bench.at("sub/b.txt")).unwrap(), b"b\n");
    assert_eq!(fs::read(bench.at("out/x")).unwrap(), b"x");
}

#[test]
fn places_that_overlap_or_are_too_many_are_refused() {
    let bench = Bench::new();
    let at =
        |path: &str| Workspace { guest_path: path.into(), ..bench.workspace(WorkspaceMode::Ro) };
    let check = |paths: &[&str]| {
        let places: Vec<_> = paths.iter().copied().map(at).collect();
        check(places.iter())
    };
    check(&["/a", "/ab", "/b/a"]).unwrap();
    for two in [["/a", "/a"], ["/a", "/a/b"], ["/a/b", "/a"]] {
        let error = check(&two).unwrap_err();
        assert!(matches!(error, WorkspaceError::Overlap { .. }), "{error}");
    }
    let many: Vec<_> = (0..17).map(|n| format!("/{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert!(matches!(check(&many), Err(WorkspaceError::TooMany { count: 17 })));
}

#[test]
fn a_guest_that_broke_off_gives_an_error_and_no_answer() {
    let bench = Bench::new();
    let (files, _) = bench.fill(WorkspaceMode::Rw).unwrap();
    let line = files.settle(ANSWER.to_vec(), Err("the guest hung up".into()));
    let line: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&line["id"], &line["result"]), (&json!(7), &Value::Null));
    assert!(line["error"]["message"].as_str().unwrap().ends_with("the guest hung up"));
}

#[test]
fn what_waits_is_named_by_its_id_alone() {
    let pending = Pending::new("/nowhere");
    assert!(pending.list().unwrap().is_empty());
    for id in ["", "..", "../../../etc", "0123456789ag", "0123456789ab"] {
        assert!(pending.load(id).is_err() && pending.remove(id).is_err(), "{id}");
    }
}

#[test]
fn names_that_could_break_a_patch_are_quoted() {
    let bench = Bench::new();
    let root = open(bench.at("").as_path(), OFlags::RDONLY, Mode::empty()).unwrap();
    let Changes { all, contents, .. } =
        left(&[("x\n--- a/y", Some("x\n"))]).compare(&[tree::Tree::new()]).unwrap().remove(0);
    let patch = patch::of(&root, &all, &contents);
    assert!(patch.lines().all(|line| line != "--- a/y"), "{patch}");
    assert!(patch.contains(r#"+++ "b/x\n--- a/y""#), "{patch}");
}

#[test]
fn modes_are_carried_and_rights_of_others_are_not() {
    let bench = Bench::new();
    let (files, _) = bench.fill(WorkspaceMode::Rw).unwrap();
    let mut incoming = Incoming::default();
    let said = Said::File { mode: 0o4755, size: 0, changed: (0, 0), path: b"run" };
    let framed = wire::frame(said).unwrap();
    incoming.take(frame::split(&framed).unwrap().unwrap().payload);
    answer(&files, incoming);
    let mode = fs::metadata(bench.at("run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert!(!Path::new(&bench.at("sub")).join("run").exists());
}
