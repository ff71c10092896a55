//! Firecracker's two sockets, which leave no file behind.
//!
//! Firecracker makes its sockets by path and nothing else. The path is needed only until osvm holds
//! a handle on the socket's inode: later connections go through the handle, and the names are
//! removed by [`Sockets::unname`] as soon as the guest has answered. However osvm ends then, there
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

/// One of the two sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Socket {
    Api,
    Vsock,
}

/// Handles on the two sockets, as soon as they are there.
#[derive(Debug)]
pub(crate) struct Sockets {
    paths: Option<Paths>,
    api: Option<OwnedFd>,
    vsock: Option<OwnedFd>,
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
}

impl Sockets {
    /// Of the Firecracker that makes them in `paths`.
    pub(crate) fn new(paths: Paths) -> Self {
        Self { paths: Some(paths), api: None, vsock: None }
    }

    /// Where the vsock socket will be, as long as it has a name.
    pub(crate) fn vsock_path(&self) -> Option<PathBuf> {
        self.paths.as_ref().map(Paths::vsock)
    }

    /// Connects to `socket`; `None` while nobody listens there.
    pub(crate) fn dial(&mut self, socket: Socket) -> io::Result<Option<GuestStream>> {
        self.claim(socket);
        let handle = match socket {
            Socket::Api => &self.api,
            Socket::Vsock => &self.vsock,
        };
        match handle.as_ref().map(dial) {
            // A socket exists a moment before Firecracker listens on it.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            other => other.transpose(),
        }
    }

    /// Removes the names of the sockets. Those that are there can be connected to from then on
    /// still, and no others.
    pub(crate) fn unname(&mut self) {
        self.claim(Socket::Api);
        self.claim(Socket::Vsock);
        self.paths = None;
    }

    fn claim(&mut self, socket: Socket) {
        let (handle, path) = match socket {
            Socket::Api => (&mut self.api, self.paths.as_ref().map(Paths::api)),
            Socket::Vsock => (&mut self.vsock, self.paths.as_ref().map(Paths::vsock)),
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if handle.is_none() {
            *handle = path.and_then(|path| open(path, flags, Mode::empty()).ok());
        }
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
        let (api, vsock) = (paths.api(), paths.vsock());
        let mut sockets = Sockets::new(paths);
        assert!(sockets.dial(Socket::Vsock).unwrap().is_none());
        let _api = UnixListener::bind(api).unwrap();
        let vsock = UnixListener::bind(vsock).unwrap();
        sockets.unname();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(sockets.dial(Socket::Api).unwrap().is_some());
        assert!(sockets.dial(Socket::Vsock).unwrap().is_some());
        vsock.accept().unwrap();
    }

    #[test]
    fn a_socket_that_nobody_listens_on_any_more_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path(), Path::new("")).unwrap();
        drop(UnixListener::bind(paths.vsock()).unwrap());
        assert!(Sockets::new(paths).dial(Socket::Vsock).unwrap().is_none());
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
