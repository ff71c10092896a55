//! Files of a mount, and all that is none.

use super::*;
use crate::fixture::resolved;
use osvm_protocol::code;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

struct Fixture {
    dir: tempfile::TempDir,
    grants: Grants,
    trace: Trace,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    for name in ["in/sub", "out", "secret"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("in/a.txt"), "hello").unwrap();
    fs::write(dir.path().join("in/sub/b.bin"), [0xff, 0]).unwrap();
    fs::write(dir.path().join("secret/key"), "key").unwrap();
    symlink("../secret/key", dir.path().join("in/link")).unwrap();
    symlink("../secret", dir.path().join("in/dir")).unwrap();
    symlink("/proc/self/root", dir.path().join("in/magic")).unwrap();
    let policy = resolved(&format!(
        r#""mounts": [{{"host_path": "{0}/in", "guest_path": "/in"}},
            {{"host_path": "{0}/out", "guest_path": "/out", "readonly": false}}]"#,
        dir.path().display()
    ));
    let protected = Protected::new("/home/u".into(), Vec::new());
    let grants = Grants::open(&policy, &protected);
    Fixture { dir, grants, trace: Trace::default() }
}

impl Fixture {
    fn ask(&self, params: Value) -> Result<Value, Refusal> {
        let text = params.to_string();
        let params: FileParams<'_> = serde_json::from_str(&text).unwrap();
        let answer = self.grants.serve(&params, &self.trace)?;
        Ok(serde_json::to_value(answer).unwrap())
    }

    #[track_caller]
    fn denied(&self, op: &str, path: &str) -> String {
        let refusal = self.ask(json!({"op": op, "path": path, "data": "x"})).unwrap_err();
        assert_eq!(refusal.code(), code::FILE_DENIED, "{op} {path}: {refusal}");
        refusal.to_string()
    }
}

#[test]
fn files_of_a_mount_are_read_listed_and_looked_at() {
    let fixture = fixture();
    let read = fixture.ask(json!({"op": "read", "path": "/in/a.txt"})).unwrap();
    assert_eq!(read, json!({"data": "hello", "size": 5, "eof": true}));
    let part = json!({"op": "read", "path": "/in//./a.txt", "offset": 1, "length": 2});
    assert_eq!(fixture.ask(part).unwrap(), json!({"data": "el", "size": 5, "eof": false}));
    let bytes = fixture.ask(json!({"op": "read", "path": "/in/sub/b.bin"})).unwrap();
    assert_eq!(bytes, json!({"data_base64": "/wA=", "size": 2, "eof": true}));
    let list = fixture.ask(json!({"op": "list", "path": "/in"})).unwrap();
    let names: Vec<_> = list["entries"].as_array().unwrap().iter().map(|e| &e["name"]).collect();
    assert_eq!(names, ["a.txt", "dir", "link", "magic", "sub"]);
    assert_eq!((&list["entries"][0]["size"], &list["more"]), (&json!(5), &json!(false)));
    let stat = fixture.ask(json!({"op": "stat", "path": "/in/sub"})).unwrap();
    assert_eq!((&stat["type"], &stat["readonly"]), (&json!("directory"), &json!(true)));
}

#[test]
fn files_are_written_where_the_config_says_so() {
    let fixture = fixture();
    let write = |extra: Value| {
        let mut params = json!({"op": "write", "path": "/out/new.txt"});
        params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        fixture.ask(params)
    };
    assert_eq!(write(json!({"data": "hello"})).unwrap(), json!({"written": 5, "size": 5}));
    write(json!({"data": "p!", "offset": 3})).unwrap();
    assert_eq!(fs::read_to_string(fixture.dir.path().join("out/new.txt")).unwrap(), "help!");
    assert_eq!(write(json!({"data": "x"})).unwrap()["size"], 1);
    assert!(write(json!({"data": "x", "offset": 2})).unwrap_err().to_string().contains("behind"));
    assert!(fixture.denied("write", "/in/a.txt").contains("read-only"));
    assert!(fixture.denied("write", "/in/new").contains("read-only"));
    assert_eq!(fs::read_to_string(fixture.dir.path().join("in/a.txt")).unwrap(), "hello");
}

#[test]
fn no_path_leads_out_of_a_mount() {
    let fixture = fixture();
    for op in ["read", "list", "stat"] {
        for path in [
            "/in/../secret/key",
            "/in/..",
            "/secret/key",
            "/",
            "in/a.txt",
            "/inn/a",
            "",
            "/in/a\0",
            "/in/link/x",
            "/in/dir/key",
            "/in/magic/etc/passwd",
        ] {
            fixture.denied(op, path);
        }
    }
    for path in ["/in/link", "/in/dir", "/in/magic"] {
        fixture.denied("read", path);
        assert!(fixture.ask(json!({"op": "list", "path": path})).is_err(), "{path}");
    }
    let outside = fixture.dir.path().join("secret/key");
    symlink(&outside, fixture.dir.path().join("out/link")).unwrap();
    fixture.denied("write", "/out/link");
    assert_eq!(fs::read_to_string(outside).unwrap(), "key");
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let fixture = fixture();
    let sub = fixture.dir.path().join("in/sub");
    fs::remove_dir_all(&sub).unwrap();
    symlink(fixture.dir.path().join("secret"), &sub).unwrap();
    fixture.denied("read", "/in/sub/key");
    // The mount itself was opened when the call began.
    fs::rename(fixture.dir.path().join("in"), fixture.dir.path().join("was_in")).unwrap();
    symlink(fixture.dir.path().join("secret"), fixture.dir.path().join("in")).unwrap();
    assert!(fixture.ask(json!({"op": "read", "path": "/in/key"})).is_err());
    assert!(fixture.ask(json!({"op": "read", "path": "/in/a.txt"})).is_ok());
}

#[test]
fn pipes_sockets_and_directories_are_no_files() {
    let fixture = fixture();
    let out = fixture.dir.path().join("out");
    let pipe = out.join("pipe");
    let kind = FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(out.join("socket")).unwrap();
    for op in ["read", "write"] {
        fixture.denied(op, "/out/pipe");
        fixture.denied(op, "/out/socket");
    }
    fixture.denied("read", "/in/sub");
    assert!(fixture.ask(json!({"op": "list", "path": "/in/a.txt"})).is_err());
    assert!(fixture.ask(json!({"op": "read", "path": "/in/gone"})).is_err());
}

#[test]
fn a_call_moves_so_much_and_no_more() {
    let fixture = fixture();
    let long = json!({"op": "write", "path": "/out/x", "data": "x".repeat((1 << 20) + 1)});
    assert_eq!(fixture.ask(long).unwrap_err().code(), code::TOO_LONG);
    fs::write(fixture.dir.path().join("in/big"), vec![b'x'; 3 << 20]).unwrap();
    let read = fixture.ask(json!({"op": "read", "path": "/in/big", "length": u64::MAX})).unwrap();
    assert_eq!((read["data"].as_str().unwrap().len(), &read["eof"]), (1 << 20, &json!(false)));
    fixture.grants.written.store(MAX_WRITTEN, Ordering::Relaxed);
    fixture.grants.read.store(MAX_READ, Ordering::Relaxed);
    for op in ["read", "write"] {
        let params = json!({"op": op, "path": "/out/x", "data": "x"});
        let path = fixture.dir.path().join("out/x");
        fs::write(&path, "y").unwrap();
        assert_eq!(fixture.ask(params).unwrap_err().code(), code::TOO_LONG, "{op}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "y");
    }
}

#[test]
fn a_long_directory_is_listed_page_by_page() {
    let fixture = fixture();
    for i in 0..1500 {
        fs::write(fixture.dir.path().join(format!("out/{i:05}")), "").unwrap();
    }
    let page =
        |offset| fixture.ask(json!({"op": "list", "path": "/out", "offset": offset})).unwrap();
    assert_eq!(
        (page(0)["entries"].as_array().unwrap().len(), &page(0)["more"]),
        (1000, &json!(true))
    );
    let last = page(1000);
    assert_eq!((&last["entries"][0]["name"], &last["more"]), (&json!("01000"), &json!(false)));
    assert_eq!(last["entries"].as_array().unwrap().len(), 500);
    assert_eq!(page(9999)["entries"], json!([]));
}

#[test]
fn every_attempt_is_noted() {
    let fixture = fixture();
    fixture.ask(json!({"op": "read", "path": "/in/a.txt"})).unwrap();
    fixture.denied("read", "/etc/passwd");
    let noted = fixture.trace.take().0;
    assert!(matches!(&noted[0], Reach::File { op, path, bytes: 5, refused: None }
        if op == "read" && path == "/in/a.txt"));
    assert!(matches!(&noted[1], Reach::File { path, bytes: 0, refused: Some(_), .. }
        if path == "/etc/passwd"));
}

#[test]
fn a_mount_that_would_expose_too_much_grants_nothing() {
    let policy = resolved(r#""mounts": [{"host_path": "/etc", "guest_path": "/in"}]"#);
    let grants = Grants::open(&policy, &Protected::new("/home/u".into(), Vec::new()));
    let params: FileParams<'_> =
        serde_json::from_str(r#"{"op":"read","path":"/in/passwd"}"#).unwrap();
    let refusal = grants.serve(&params, &Trace::default()).unwrap_err();
    assert!(refusal.to_string().contains("would expose"), "{refusal}");
}

#[test]
fn modes_of_the_host_hold() {
    let fixture = fixture();
    if rustix::process::geteuid().is_root() {
        return; // Root may read anything.
    }
    let path = fixture.dir.path().join("in/a.txt");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let refusal = fixture.ask(json!({"op": "read", "path": "/in/a.txt"})).unwrap_err();
    assert_eq!(refusal.code(), code::FILE_FAILED);
}
