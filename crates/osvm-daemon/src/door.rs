//! The socket and the lock: who is the daemon of a runtime directory.
//!
//! ```text
//! <runtime dir>/daemon.lock    locked (flock) by the daemon for as long as it lives; holds its pid
//! <runtime dir>/daemon.sock    mode 0600; without the lock's owner it is left over
//! ```

use listenfd::ListenFd;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use std::fs::{File, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Name of the socket in the runtime directory.
pub const SOCKET: &str = "daemon.sock";

/// Name of the lock in the runtime directory.
pub const LOCK: &str = "daemon.lock";

/// The socket of a daemon, which is the only one of its runtime directory.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    /// The socket's file, if it is ours to remove.
    path: Option<PathBuf>,
    // Held, not used: the lock ends with it.
    _lock: File,
}

/// There can be no daemon.
#[derive(Debug, Error)]
pub enum DoorError {
    /// There is one.
    #[error("a daemon is running already, as process {}", pid.map_or("?".into(), |p| p.to_string()))]
    Taken {
        /// Its process id, as far as it has said so.
        pid: Option<u32>,
    },
    /// The directory can't be used.
    #[error(transparent)]
    Dir(#[from] osvm_runtime::DirError),
    /// The file can't be used.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The socket or the lock.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// What systemd handed over is no listening socket.
    #[error("the descriptor in LISTEN_FDS is no listening Unix socket")]
    Activation(#[source] io::Error),
}

impl DoorError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Taken { .. } => Some("`osvm daemon stop` ends it".into()),
            Self::Dir(error) => error.hint(),
            // `sun_path` of unix(7) has 108 bytes.
            Self::Io { path, .. } if path.as_os_str().len() > 107 => Some(
                "its path is too long for a socket: set `XDG_RUNTIME_DIR` to a shorter one".into(),
            ),
            Self::Io { .. } | Self::Activation(_) => None,
        }
    }
}

impl Door {
    /// Becomes the daemon of `dir`: with the socket that systemd handed over, if it did, else
    /// with one in `dir`.
    ///
    /// # Errors
    ///
    /// [`DoorError::Taken`] when there is a daemon already.
    pub fn open(dir: &Path) -> Result<Self, DoorError> {
        let lock = take_lock(dir)?;
        // Only descriptors meant for this process are taken: `LISTEN_PID` says for whom they are.
        let handed = ListenFd::from_env().take_unix_listener(0).map_err(DoorError::Activation)?;
        if let Some(listener) = handed {
            return Ok(Self { listener, path: None, _lock: lock });
        }
        let path = dir.join(SOCKET);
        let io = |source| DoorError::Io { path: path.clone(), source };
        // With the lock in hand, whatever is there was left by a daemon that was killed.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(io)?;
        // Nobody else gets into the directory, so nobody could connect meanwhile.
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(io)?;
        Ok(Self { listener, path: Some(path), _lock: lock })
    }

    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&mut self) {
        if let Some(path) = self.path.take() {
            // The lock is still held, so this is our own. One that is gone is fine too.
            let _removed = std::fs::remove_file(path);
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

fn take_lock(dir: &Path) -> Result<File, DoorError> {
    let path = dir.join(LOCK);
    let io = |source: io::Error| DoorError::Io { path: path.clone(), source };
    let private = osvm_runtime::private_dir(dir)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&private, LOCK, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(file.map_err(|error| io(error.into()))?);
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io(error.into()));
        }
        let mut text = String::new();
        // The number is for people; a lock that is just being taken has none yet.
        let _unread = file.take(16).read_to_string(&mut text);
        return Err(DoorError::Taken { pid: text.trim().parse().ok() });
    }
    let said = file.set_len(0).and_then(|()| file.rewind());
    said.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

/// Whether the process on the other side runs as this user.
pub(crate) fn is_own(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_the_first_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door::open(dir.path()).unwrap();
        let error = Door::open(dir.path()).unwrap_err();
        assert!(matches!(error, DoorError::Taken { pid } if pid == Some(std::process::id())));
        drop(door);
        Door::open(dir.path()).unwrap();
    }

    #[test]
    fn a_socket_without_a_daemon_is_replaced_and_an_own_one_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left over");
        let door = Door::open(dir.path()).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(is_own(&UnixStream::connect(&path).unwrap()));
        drop(door);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let error = Door::open(&dir.path().join("x".repeat(120))).unwrap_err();
        assert!(error.hint().unwrap().contains("XDG_RUNTIME_DIR"), "{error}");
    }
}
