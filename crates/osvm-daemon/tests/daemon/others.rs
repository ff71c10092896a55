//! Processes of other users: none is served, and none is taken for the daemon.
//!
//! Modes of files keep them out already. Here those are opened, so that what is left is what the
//! kernel says about the process on the other side.

use crate::support::Daemon;
use osvm_daemon::{Client, ClientError, SOCKET};
use std::fs::{Permissions, set_permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Set in a child of these tests: what it does, and on which socket.
const PART: &str = "OSVM_TEST_PART_OF_ANOTHER_USER";
/// `nobody`, on every Linux.
const NOBODY: u32 = 65534;

#[test]
fn a_process_of_another_user_is_turned_away() {
    let daemon = Daemon::start(r#""pool":{"size":0}"#);
    let socket = daemon.run_dir().join(SOCKET);
    let run = daemon.run_dir();
    for path in [&socket, &run, &run.parent().unwrap().to_owned()] {
        set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let Some(other) = another_user("ask", &socket) else { return };
    let output = other.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    daemon.wait_for("its own user alone", |status| status["clients"] == 1);
}

#[test]
fn a_daemon_of_another_user_is_asked_nothing() {
    let dir = tempfile::tempdir().unwrap();
    set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let Some(mut other) = another_user("listen", &dir.path().join(SOCKET)) else { return };
    let said = other.stdout.as_mut().unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"listening\n") {
        let mut byte = [0];
        said.read_exact(&mut byte).unwrap();
        heard.extend(byte);
    }
    let error = Client::connect(dir.path()).unwrap_err();
    assert!(matches!(error, ClientError::Foreign { .. }), "{error}");
    // It ends when its input does.
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
}

/// This test program as another user, to play `part`; says so where that can't be.
fn another_user(part: &str, socket: &Path) -> Option<Child> {
    let spawn = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "others::plays_its_part", "--nocapture"]);
        command.env(PART, format!("{part} {}", socket.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.uid(NOBODY).gid(NOBODY).spawn()
    };
    match spawn() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name.trim() == "root"), "{error}");
            eprintln!("skipped: this process cannot become another user: {error}");
            None
        }
        child => Some(child.unwrap()),
    }
}

#[test]
fn plays_its_part() {
    let Ok(part) = std::env::var(PART) else { return };
    let (part, socket) = part.split_once(' ').unwrap();
    match part {
        "ask" => {
            let mut stream = UnixStream::connect(socket).unwrap();
            let ask = br#"{"version":1,"ask":"status"}"#;
            let mut request = u32::try_from(ask.len()).unwrap().to_le_bytes().to_vec();
            request.extend_from_slice(ask);
            // The daemon may have hung up before it comes.
            let _broken = stream.write_all(&request);
            let mut answer = Vec::new();
            let _reset = stream.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        }
        "listen" => {
            let _listener = UnixListener::bind(socket).unwrap();
            println!("\nlistening");
            let _end = std::io::stdin().read_to_end(&mut Vec::new());
        }
        part => panic!("{part}"),
    }
}
