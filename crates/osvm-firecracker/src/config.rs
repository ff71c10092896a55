//! The file Firecracker boots from. Pure: nothing here touches the host.
//!
//! Field names are Firecracker's own (its API, version 1). Everything a guest is given stands
//! here: one processor, memory, kernel, boot page or initial RAM disk, one vsock device, and for a
//! Linux guest its root file system, which it can only read; no network interface.

use osvm_protocol::Cid;
use osvm_vmm::MemoryMib;
use serde::Serialize;
use std::path::Path;

/// Numbers of the descriptors Firecracker is started with.
pub(crate) mod fd {
    /// The guest image, or the Linux kernel.
    pub(crate) const IMAGE: i32 = 4;
    /// The boot page, or the initial RAM disk.
    pub(crate) const INITRD: i32 = 5;
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
    /// The root file system. A copy's is where its original's was: its path is part of the state.
    pub(crate) const ROOT: i32 = 11;
    /// Where the guest's memory is saved to.
    pub(crate) const SAVED_MEMORY: i32 = 12;
    /// Where the rest of the guest is saved to.
    pub(crate) const SAVED_STATE: i32 = 13;
    /// The memory a copy begins with.
    pub(crate) const MEMORY: i32 = 14;
    /// The rest that a copy begins with.
    pub(crate) const STATE: i32 = 15;
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
    /// Where it finds the image or kernel.
    pub(crate) image: &'a Path,
    /// Where it finds the boot page or initial RAM disk.
    pub(crate) initrd: &'a Path,
    /// What it puts in front of where its devices are.
    pub(crate) kernel_line: &'a str,
    /// Where it finds the root file system, `/dev/vda` of the guest.
    pub(crate) root: Option<&'a Path>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Config<'a> {
    boot_source: BootSource<'a>,
    // Mandatory even where there are none.
    drives: Vec<Drive<'a>>,
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
struct Drive<'a> {
    drive_id: &'a str,
    path_on_host: &'a Path,
    // Firecracker's word for one that the kernel itself mounts. PID 1 does that.
    is_root_device: bool,
    is_read_only: bool,
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
    let drive = |path_on_host| Drive {
        drive_id: "root",
        path_on_host,
        is_root_device: false,
        is_read_only: true,
    };
    serde_json::to_string(&Config {
        boot_source: BootSource {
            kernel_image_path: guest.image,
            initrd_path: guest.initrd,
            boot_args: guest.kernel_line,
        },
        drives: guest.root.map(drive).into_iter().collect(),
        machine_config: MachineConfig { vcpu_count: 1, mem_size_mib: guest.memory.mib() },
        vsock: Vsock { guest_cid: guest.cid.get(), uds_path: guest.vsock },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest<'a>() -> Guest<'a> {
        Guest {
            memory: MemoryMib::new(64).unwrap(),
            cid: Cid::new(200).unwrap(),
            vsock: Path::new("/run/v"),
            image: Path::new("/i"),
            initrd: Path::new("/b"),
            kernel_line: "",
            root: None,
        }
    }

    #[test]
    fn the_guest_gets_a_vsock_device_and_no_network_interface() {
        let expected = r#"{"boot-source":{"kernel_image_path":"/i","initrd_path":"/b","boot_args":""},"drives":[],"machine-config":{"vcpu_count":1,"mem_size_mib":64},"vsock":{"guest_cid":200,"uds_path":"/run/v"}}"#;
        assert_eq!(text(guest()).unwrap(), expected);
    }

    #[test]
    fn a_linux_guest_gets_its_root_for_reading_besides() {
        let linux = Guest { kernel_line: "quiet", root: Some(Path::new("/r")), ..guest() };
        let expected = text(guest()).unwrap();
        let expected = expected.replace(r#""boot_args":"""#, r#""boot_args":"quiet""#);
        let drive = r#"[{"drive_id":"root","path_on_host":"/r","is_root_device":false,"is_read_only":true}]"#;
        let expected = expected.replace(r#""drives":[]"#, &format!(r#""drives":{drive}"#));
        assert_eq!(text(linux).unwrap(), expected);
    }
}
