//! What Firecracker is told to do with a Linux guest. Pure: nothing here touches the host.

use crate::config::{fd, fd_path};
use serde::Serialize;
use std::path::Path;

/// Body of `PATCH /vm`: the guest stops where it is.
pub(super) const PAUSE: &str = r#"{"state":"Paused"}"#;

/// The guest's kernel line, to which Firecracker adds where its devices are.
///
/// Firecracker has one way for a guest to end it, the reset line of the keyboard controller.
pub(super) const KERNEL_LINE: &str =
    "osvm.microvm quiet console=ttyS0 reboot=k panic=-1 random.trust_cpu=on";

#[derive(Serialize)]
struct Create {
    snapshot_type: &'static str,
    snapshot_path: String,
    mem_file_path: String,
}

#[derive(Serialize)]
struct Load<'a> {
    snapshot_path: String,
    mem_backend: MemoryBackend,
    resume_vm: bool,
    vsock_override: VsockOverride<'a>,
}

#[derive(Serialize)]
struct MemoryBackend {
    backend_type: &'static str,
    backend_path: String,
}

#[derive(Serialize)]
struct VsockOverride<'a> {
    uds_path: &'a Path,
}

/// Body of `PUT /snapshot/create`.
pub(super) fn create() -> serde_json::Result<String> {
    serde_json::to_string(&Create {
        // Firecracker's other kind leaves out memory that the host has swapped out.
        snapshot_type: "Full",
        snapshot_path: fd_path(fd::SAVED_STATE),
        mem_file_path: fd_path(fd::SAVED_MEMORY),
    })
}

/// Body of `PUT /snapshot/load`: the copy runs at once, and its vsock socket is `vsock`.
pub(super) fn load(vsock: &Path) -> serde_json::Result<String> {
    serde_json::to_string(&Load {
        snapshot_path: fd_path(fd::STATE),
        mem_backend: MemoryBackend { backend_type: "File", backend_path: fd_path(fd::MEMORY) },
        resume_vm: true,
        vsock_override: VsockOverride { uds_path: vsock },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_saved_to_other_files_than_it_came_from() {
        let (create, load) = (create().unwrap(), load(Path::new("/run/v")).unwrap());
        assert_eq!(
            create,
            r#"{"snapshot_type":"Full","snapshot_path":"/proc/self/fd/13","mem_file_path":"/proc/self/fd/12"}"#
        );
        assert_eq!(
            load,
            r#"{"snapshot_path":"/proc/self/fd/15","mem_backend":{"backend_type":"File","backend_path":"/proc/self/fd/14"},"resume_vm":true,"vsock_override":{"uds_path":"/run/v"}}"#
        );
    }
}
