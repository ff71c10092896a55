//! The file Firecracker boots from. Pure: nothing here touches the host.
//!
//! Field names are Firecracker's own (its API, version 1). Everything a guest is given stands
//! here: one processor, memory, kernel, boot page and one vsock device; no network interface.

use osvm_protocol::Cid;
use osvm_vmm::MemoryMib;
use serde::Serialize;
use std::path::Path;

/// Numbers of the descriptors Firecracker is started with.
pub(crate) mod fd {
    /// The guest image.
    pub(crate) const IMAGE: i32 = 4;
    /// The boot page.
    pub(crate) const BOOT_PAGE: i32 = 5;
    /// The guest's console, which is Firecracker's standard output.
    pub(crate) const CONSOLE: i32 = 6;
    /// The file that [`super::text`] writes.
    pub(crate) const CONFIG: i32 = 7;
    /// Firecracker's own log.
    pub(crate) const LOG: i32 = 8;
    /// Firecracker's metrics.
    pub(crate) const METRICS: i32 = 9;
    /// The lock on the guest's CID, held and not used.
    pub(crate) const LEASE: i32 = 10;
}

/// What `/proc/self/fd/N` is for the process that opens it.
pub(crate) fn fd_path(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
}

/// What differs between two guests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) memory: MemoryMib,
    pub(crate) cid: Cid,
    /// Where Firecracker makes its vsock socket.
    pub(crate) vsock: &'a Path,
    /// Where it finds the image and the boot page.
    pub(crate) image: &'a Path,
    pub(crate) boot_page: &'a Path,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Config<'a> {
    boot_source: BootSource<'a>,
    // Mandatory even where there are none.
    drives: [(); 0],
    machine_config: MachineConfig,
    vsock: Vsock<'a>,
}

#[derive(Serialize)]
struct BootSource<'a> {
    kernel_image_path: &'a Path,
    initrd_path: &'a Path,
    boot_args: &'a str,
}

#[derive(Serialize)]
struct MachineConfig {
    vcpu_count: u8,
    mem_size_mib: u32,
}

#[derive(Serialize)]
struct Vsock<'a> {
    guest_cid: u32,
    uds_path: &'a Path,
}

/// The file's text.
pub(crate) fn text(guest: Guest<'_>) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Config {
        boot_source: BootSource {
            kernel_image_path: guest.image,
            initrd_path: guest.boot_page,
            // Firecracker appends where its devices are.
            boot_args: "",
        },
        drives: [],
        machine_config: MachineConfig { vcpu_count: 1, mem_size_mib: guest.memory.mib() },
        vsock: Vsock { guest_cid: guest.cid.get(), uds_path: guest.vsock },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_gets_a_vsock_device_and_no_network_interface() {
        let guest = Guest {
            memory: MemoryMib::new(64).unwrap(),
            cid: Cid::new(200).unwrap(),
            vsock: Path::new("/run/v"),
            image: Path::new("/i"),
            boot_page: Path::new("/b"),
        };
        let expected = r#"{"boot-source":{"kernel_image_path":"/i","initrd_path":"/b","boot_args":""},"drives":[],"machine-config":{"vcpu_count":1,"mem_size_mib":64},"vsock":{"guest_cid":200,"uds_path":"/run/v"}}"#;
        assert_eq!(text(guest).unwrap(), expected);
    }
}
