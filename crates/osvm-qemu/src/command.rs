//! The words QEMU is started with. Pure: nothing here touches the host.
//!
//! Everything a guest is given stands here and nowhere else: one processor, memory, kernel, boot
//! page, console, one vsock device. No defaults, no network, no monitor but a private socket.

use osvm_protocol::Cid;
use osvm_vmm::MemoryMib;
use std::ffi::OsString;
use std::path::Path;

/// How QEMU runs guest instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's KVM.
    Kvm,
    /// QEMU's own translation; works everywhere.
    Tcg,
}

/// Who holds the device's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VsockDevice {
    /// osvm, over a vhost-user socket.
    VhostUser,
    /// The host's kernel (`/dev/vhost-vsock`); the CID is then the host's own.
    Kernel,
}

/// Numbers of the descriptors QEMU is started with.
pub(crate) mod fd {
    /// Guest memory, a sealed memory file.
    pub(crate) const MEMORY: i32 = 3;
    /// The guest image.
    pub(crate) const IMAGE: i32 = 4;
    /// The boot page.
    pub(crate) const BOOT_PAGE: i32 = 5;
    /// Console socket.
    pub(crate) const CONSOLE: i32 = 6;
    /// Machine protocol socket.
    pub(crate) const QMP: i32 = 7;
    /// vhost-user socket; not given with [`super::VsockDevice::Kernel`].
    pub(crate) const VHOST: i32 = 8;
    /// The lock on the guest's CID, held and not used.
    pub(crate) const LEASE: i32 = 9;
}

/// Mebibytes of translated code QEMU may keep. A unikernel's whole text is well below one, and
/// the default is a part of the host's memory.
const TRANSLATION_CACHE_MIB: u32 = 16;

/// What differs between two guests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) qemu: &'a Path,
    pub(crate) accelerator: Accelerator,
    pub(crate) vsock: VsockDevice,
    pub(crate) memory: MemoryMib,
    pub(crate) cid: Cid,
}

/// Arguments of the guard program: QEMU and its own arguments.
pub(crate) fn arguments(guest: Guest<'_>) -> Vec<OsString> {
    let memory = guest.memory.mib();
    let mut words: Vec<OsString> = vec!["guard".into(), guest.qemu.into()];
    let mut add = |text: String| words.extend(text.split_whitespace().map(OsString::from));
    add("-nodefaults -no-user-config -display none -no-reboot -smp 1".into());
    add("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    // ACPI off: the devices are announced on the kernel's command line instead.
    add("-M microvm,acpi=off,pit=off,rtc=off,pcie=off,usb=off,memory-backend=memory".into());
    add(match guest.accelerator {
        Accelerator::Kvm => "-accel kvm".into(),
        Accelerator::Tcg => format!("-accel tcg,tb-size={TRANSLATION_CACHE_MIB}"),
    });
    // The same plain processor everywhere: a guest learns nothing of the host's, and needs no more
    // than long mode and execute-disable. What a KVM may not have is switched off.
    add("-cpu qemu64,pni=off,svm=off".into());
    add(format!("-m {memory}M -object memory-backend-file,id=memory,size={memory}M,share=on"));
    if let Some(object) = words.last_mut() {
        object.push(format!(",mem-path={}", path(fd::MEMORY)));
    }
    let mut add = |text: String| words.extend(text.split_whitespace().map(OsString::from));
    add(format!("-kernel {} -initrd {}", path(fd::IMAGE), path(fd::BOOT_PAGE)));
    add(format!("-chardev socket,id=console,fd={} -serial chardev:console", fd::CONSOLE));
    add(format!("-chardev socket,id=qmp,fd={} -mon chardev=qmp,mode=control", fd::QMP));
    // Modern virtio-mmio: the version 1 of before 2016 is QEMU's default here.
    add("-global virtio-mmio.force-legacy=false".into());
    add(match guest.vsock {
        VsockDevice::VhostUser => {
            let fd = fd::VHOST;
            format!(
                "-chardev socket,id=vsock,fd={fd} -device vhost-user-vsock-device,chardev=vsock"
            )
        }
        VsockDevice::Kernel => format!("-device vhost-vsock-device,guest-cid={}", guest.cid),
    });
    words
}

fn path(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(accelerator: Accelerator, vsock: VsockDevice) -> String {
        let memory = MemoryMib::new(64).unwrap();
        let cid = Cid::new(200).unwrap();
        let guest = Guest { qemu: Path::new("/q"), accelerator, vsock, memory, cid };
        arguments(guest).iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn no_guest_is_given_a_network_card_or_a_shared_folder() {
        let words = words(Accelerator::Tcg, VsockDevice::VhostUser);
        for word in ["net", "nic", "9p", "virtfs", "drive", "usb-", "vnc", "gdb"] {
            assert!(!words.contains(word), "{word} in {words}");
        }
        assert!(words.contains("-nodefaults"));
    }

    #[test]
    fn the_guest_has_exactly_the_memory_it_was_given() {
        let words = words(Accelerator::Tcg, VsockDevice::VhostUser);
        assert!(words.contains("-m 64M "));
        assert!(words.contains("size=64M,share=on,mem-path=/proc/self/fd/3"));
    }

    #[test]
    fn the_kernels_vsock_gets_the_real_cid() {
        let words = words(Accelerator::Kvm, VsockDevice::Kernel);
        assert!(words.ends_with("-device vhost-vsock-device,guest-cid=200"));
        assert!(!words.contains("vhost-user"));
    }

    #[test]
    fn path_with_spaces_stay_one_word() {
        let memory = MemoryMib::new(64).unwrap();
        let cid = Cid::new(200).unwrap();
        let qemu = Path::new("/opt/my qemu/bin");
        let (accelerator, vsock) = (Accelerator::Tcg, VsockDevice::VhostUser);
        let words = arguments(Guest { qemu, accelerator, vsock, memory, cid });
        assert!(words.contains(&OsString::from("/opt/my qemu/bin")));
    }
}
