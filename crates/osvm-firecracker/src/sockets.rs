//! Firecracker's two sockets, which leave no file behind.
//!
//! Firecracker makes its sockets by path and nothing else. The path is needed only until osvm holds
//! a handle on the socket's inode: later connections go through the handle, and the names are
//! removed by dropping [`Paths`] as soon as the guest has answered. However osvm ends then, there
//! is nothing to clean up. What a crash leaves in the few milliseconds before is removed by
//! [`sweep`].

use osvm_vmm::GuestStream;
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the names of the folders begin with; the process id of their osvm follows.
const PREFIX: &str = "firecracker-";

/// The folder Firecracker makes its sockets in, until they are claimed.
#[derive(Debug)]
pub(crate) struct Paths {
    folder: TempDir,
    within: PathBuf,
}

/// Handles on the two sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    api: OwnedFd,
    vsock: OwnedFd,
}

impl Paths {
    /// A folder of mode 0700 in `runtime_dir`; the sockets will be `within` it.
    pub(crate) fn new(runtime_dir: &Path, within: &Path) -> io::Result<Self> {
        sweep(runtime_dir);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(runtime_dir)?;
        Ok(Self { folder, within: within.into() })
    }

    /// The folder, with all that is in it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where Firecracker makes its sockets, as the host sees it.
    pub(crate) fn sockets_in(&self) -> PathBuf {
        self.folder.path().join(&self.within)
    }

    /// Where the API socket will be.
    pub(crate) fn api(&self) -> PathBuf {
        self.sockets_in().join("api")
    }

    /// Where the vsock socket will be.
    pub(crate) fn vsock(&self) -> PathBuf {
        self.sockets_in().join("vsock")
    }

    /// Takes both sockets if they are there.
    pub(crate) fn claim(&self) -> Option<Sockets> {
        let handle = |path: PathBuf| {
            open(path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).ok()
        };
        // Firecracker binds the vsock socket before it starts the guest and the API's before
        // that, and a bound socket of its kind listens at once or a moment later.
        Some(Sockets { vsock: handle(self.vsock())?, api: handle(self.api())? })
    }
}

impl Sockets {
    /// Connects to the API.
    pub(crate) fn api(&self) -> io::Result<GuestStream> {
        dial(&self.api)
    }

    /// Connects to the vsock device.
    pub(crate) fn vsock(&self) -> io::Result<GuestStream> {
        dial(&self.vsock)
    }
}

fn dial(handle: &OwnedFd) -> io::Result<GuestStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
    connect(&socket, &address)?;
    Ok(GuestStream::new(socket))
}

/// Removes what an osvm that is gone left in `runtime_dir`. Best effort: a leftover is a folder
/// with two dead sockets.
pub fn sweep(runtime_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(runtime_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            let _removed = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Time between two looks for the sockets.
pub(crate) const LOOK: Duration = Duration::from_micros(500);

/// How long Firecracker gets to make its sockets. It takes about 10 ms.
pub(crate) fn claim_deadline() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_work_after_their_names_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path(), Path::new("")).unwrap();
        assert!(paths.claim().is_none());
        let _api = UnixListener::bind(paths.api()).unwrap();
        let vsock = UnixListener::bind(paths.vsock()).unwrap();
        let sockets = paths.claim().unwrap();
        drop(paths);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        sockets.vsock().unwrap();
        vsock.accept().unwrap();
    }

    #[test]
    fn leftovers_of_the_dead_are_swept_and_those_of_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        // Process ids end at 2^22 on 64-bit Linux.
        let dead = dir.path().join(format!("{PREFIX}99999999-x"));
        let living = dir.path().join(format!("{PREFIX}{}-x", std::process::id()));
        let other = dir.path().join("something-else");
        for folder in [&dead, &living, &other] {
            std::fs::create_dir(folder).unwrap();
        }
        sweep(dir.path());
        assert!(!dead.exists());
        assert!(living.exists());
        assert!(other.exists());
    }
}
