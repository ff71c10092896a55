//! The OS keyring, by way of `secret-tool`, libsecret's own program.
//!
//! It keeps one entry, the key of the secrets file. A program instead of a library, because a D-Bus
//! client is a hundred crates; and because one that hangs can be ended.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use zeroize::Zeroizing;

/// Where distributions have it. `PATH` could name anybody's.
const PROGRAM: &str = "/usr/bin/secret-tool";

/// What tells the entry from others.
const ATTRIBUTES: [&str; 4] = ["service", "osvm", "entry", "secrets-key"];

/// A keyring that asks the user for a password in a window gets no longer than this.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Longest entry that is read, in bytes.
const MAX_ENTRY: u64 = 1024;

/// A keyring of the desktop session.
#[derive(Clone, Debug)]
pub struct Keyring {
    program: PathBuf,
    bus: OsString,
}

impl Keyring {
    /// The keyring of this session, if there may be one: a session bus, and the program for it.
    pub fn of_session() -> Option<Self> {
        let bus = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").filter(|bus| !bus.is_empty())?;
        Path::new(PROGRAM).is_file().then(|| Self::new(PROGRAM.into(), bus))
    }

    /// A keyring that `program` reaches over `bus`.
    pub fn new(program: PathBuf, bus: OsString) -> Self {
        Self { program, bus }
    }

    /// The entry, if there is one. A keyring that can't be asked has none.
    pub(crate) fn get(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut child = self.start("lookup", &[], Stdio::null(), Stdio::piped())?;
        let output = child.stdout.take();
        if !ended_well(&mut child) {
            return None;
        }
        let mut entry = Zeroizing::new(Vec::with_capacity(1024));
        output?.take(MAX_ENTRY).read_to_end(&mut entry).ok()?;
        let end = entry.trim_ascii_end().len();
        entry.truncate(end);
        Some(entry).filter(|entry| !entry.is_empty())
    }

    /// Makes or replaces the entry, and says whether it is there now.
    pub(crate) fn set(&self, entry: &[u8]) -> bool {
        let label = ["--label", "Key of the secrets of osvm"];
        let Some(mut child) = self.start("store", &label, Stdio::piped(), Stdio::null()) else {
            return false;
        };
        // An entry is shorter than a pipe, so this does not wait.
        let written = child.stdin.take().map(|mut input| input.write_all(entry));
        ended_well(&mut child)
            && written.is_some_and(|written| written.is_ok())
            && self.get().is_some_and(|stored| *stored == entry)
    }

    fn start(&self, what: &str, more: &[&str], input: Stdio, output: Stdio) -> Option<Child> {
        let mut command = Command::new(&self.program);
        command.arg(what).args(more).args(ATTRIBUTES);
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.bus);
        command.stdin(input).stdout(output).stderr(Stdio::null()).spawn().ok()
    }
}

/// Waits for the program, but not for long.
fn ended_well(child: &mut Child) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended =
        pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).is_some_and(|pidfd| {
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&PATIENCE)).is_ok_and(|n| 0 < n)
        });
    if !ended {
        let _gone_already = child.kill();
    }
    child.wait().is_ok_and(|status| ended && status.success())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A stand-in for the program, which keeps its entry in a file.
    pub(crate) fn fake(dir: &Path, script: &str) -> Keyring {
        let program = dir.join("secret-tool");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        Keyring::new(program, dir.join("entry").into_os_string())
    }

    pub(crate) const WORKS: &str = r#"case "$1" in
        store) cat > "$DBUS_SESSION_BUS_ADDRESS" ;;
        lookup) cat "$DBUS_SESSION_BUS_ADDRESS" ;;
    esac"#;

    #[test]
    fn an_entry_comes_back_as_it_was_stored() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = fake(dir.path(), WORKS);
        assert!(keyring.get().is_none());
        assert!(keyring.set(b"entry"));
        assert_eq!(*keyring.get().unwrap(), b"entry");
    }

    #[test]
    fn a_keyring_that_fails_or_lies_has_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!fake(dir.path(), "exit 1").set(b"entry"));
        assert!(!fake(dir.path(), "echo other").set(b"entry"));
        assert!(fake(dir.path(), "echo x; exit 1").get().is_none());
        assert!(!Keyring::new("/does/not/exist".into(), "bus".into()).set(b"entry"));
    }

    #[test]
    fn a_keyring_that_hangs_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let start = std::time::Instant::now();
        assert!(fake(dir.path(), "exec sleep 60").get().is_none());
        assert!(start.elapsed().as_secs() < 30);
    }
}
