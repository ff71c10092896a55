//! The words QEMU is started with for a Linux guest. Pure: nothing here touches the host.
//!
//! A copy is given the same machine as its original, or the saved state would not fit; what is
//! missing is only what is read at boot.

use crate::Accelerator;
use osvm_vmm::linux::{LinuxSpec, Snapshot};
use osvm_vmm::{MemoryMib, processor};
use std::ffi::OsString;
use std::path::Path;

/// Numbers of the descriptors QEMU is started with.
pub(super) mod fd {
    /// Guest memory.
    pub(in super::super) const MEMORY: i32 = 3;
    /// The root file system.
    pub(in super::super) const ROOT: i32 = 4;
    /// Console socket.
    pub(in super::super) const CONSOLE: i32 = 5;
    /// Machine protocol socket.
    pub(in super::super) const QMP: i32 = 6;
    /// The stream's socket.
    pub(in super::super) const PORT: i32 = 7;
    /// The lock on the guest's CID, held and not used.
    pub(in super::super) const LEASE: i32 = 8;
    /// The kernel, or the saved state.
    pub(in super::super) const KERNEL_OR_STATE: i32 = 9;
    /// The initial RAM disk.
    pub(in super::super) const INITRD: i32 = 10;
}

/// Mebibytes of translated code QEMU may keep. It takes them as it needs them, up to here; when
/// they are full all is translated anew. Node at its start translates about 130.
const TRANSLATION_CACHE_MIB: u32 = 256;

/// How a guest begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Life<'a> {
    /// From its kernel.
    Boot(&'a LinuxSpec),
    /// As a copy.
    Copy(&'a Snapshot),
}

impl Life<'_> {
    pub(super) fn memory(&self) -> MemoryMib {
        match self {
            Self::Boot(spec) => spec.memory,
            Self::Copy(snapshot) => snapshot.size,
        }
    }
}

/// Arguments of the guard program: QEMU and its own arguments.
pub(super) fn arguments(qemu: &Path, accelerator: Accelerator, life: &Life<'_>) -> Vec<OsString> {
    let memory = life.memory().mib();
    let mut words: Vec<OsString> = vec!["guard".into(), qemu.into()];
    let mut add = |text: String| words.extend(text.split_whitespace().map(OsString::from));
    add("-nodefaults -no-user-config -display none -no-reboot -smp 1".into());
    add("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    // ACPI off: with it the machine has no timer that works under translation. The clock of old
    // PCs stays, because the kernel waits a second for one that is missing.
    add("-M microvm,acpi=off,pit=on,pic=on,rtc=on,pcie=off,usb=off,memory-backend=memory".into());
    add(match accelerator {
        Accelerator::Kvm => "-accel kvm -cpu host".into(),
        Accelerator::Tcg => format!("-accel tcg,tb-size={TRANSLATION_CACHE_MIB} -cpu max"),
    });
    let share = if matches!(life, Life::Boot(_)) { "on" } else { "off" };
    let path = path(fd::MEMORY);
    add(format!("-m {memory}M -object"));
    add(format!("memory-backend-file,id=memory,size={memory}M,share={share},mem-path={path}"));
    add(format!("-chardev socket,id=console,fd={} -serial chardev:console", fd::CONSOLE));
    add(format!("-chardev socket,id=qmp,fd={} -mon chardev=qmp,mode=control", fd::QMP));
    add("-global virtio-mmio.force-legacy=false".into());
    add(format!("-add-fd fd={},set=1", fd::ROOT));
    add("-drive id=root,file=/dev/fdset/1,format=raw,readonly=on,if=none,file.locking=off".into());
    add("-device virtio-blk-device,drive=root -device virtio-serial-device,max_ports=2".into());
    add(format!("-chardev socket,id=port,fd={}", fd::PORT));
    add(format!("-device virtserialport,chardev=port,name={}", osvm_protocol::linux::SERIAL_PORT));
    match life {
        Life::Boot(_) => words.extend(boot(accelerator)),
        Life::Copy(_) => words.extend(["-incoming", "defer"].map(OsString::from)),
    }
    words
}

fn boot(accelerator: Accelerator) -> Vec<OsString> {
    vec![
        "-kernel".into(),
        path(fd::KERNEL_OR_STATE).into(),
        "-initrd".into(),
        path(fd::INITRD).into(),
        "-append".into(),
        kernel_line(accelerator, processor::tsc_khz()).into(),
    ]
}

/// The kernel's command line.
fn kernel_line(accelerator: Accelerator, khz: Option<u64>) -> String {
    let mut line =
        "osvm.microvm quiet console=ttyS0 reboot=t panic=-1 random.trust_cpu=on".to_owned();
    if let (Accelerator::Tcg, Some(khz)) = (accelerator, khz) {
        // The guest's counter is the host's, and can't be measured in there.
        line.push_str(&format!(" no_timer_check tsc=reliable tsc_early_khz={khz}"));
    }
    line
}

fn path(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_vmm::linux::sealed;
    use std::sync::Arc;

    fn words(copy: bool) -> String {
        let file = Arc::new(sealed("test", b"").unwrap());
        let memory = MemoryMib::new(128).unwrap();
        let spec = LinuxSpec {
            kernel: Arc::clone(&file),
            initrd: Arc::clone(&file),
            root: Arc::clone(&file),
            memory,
        };
        let snapshot = Snapshot {
            memory: Arc::clone(&file),
            state: Arc::clone(&file),
            size: memory,
            root: file,
        };
        let life = if copy { Life::Copy(&snapshot) } else { Life::Boot(&spec) };
        let words = arguments(Path::new("/q"), Accelerator::Tcg, &life);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn no_guest_is_given_a_network_card_or_a_shared_folder() {
        for words in [words(false), words(true)] {
            for word in ["net", "-nic", "9p", "virtfs", "usb-", "vnc", "gdb", "vsock"] {
                assert!(!words.contains(word), "{word} in {words}");
            }
            assert!(words.contains("-nodefaults") && words.contains("spawn=deny"));
            assert!(words.contains("readonly=on"));
        }
    }

    #[test]
    fn a_copy_has_memory_of_its_own_and_the_same_machine() {
        let (boot, copy) = (words(false), words(true));
        assert!(boot.contains("share=on") && copy.contains("share=off"));
        assert!(copy.ends_with("-incoming defer") && !copy.contains("-kernel"));
        let machine = |words: &str| {
            let words = words.replace("share=on", "share=off");
            let end = words.find("-kernel").or(words.find("-incoming")).unwrap();
            words.get(..end).unwrap().to_owned()
        };
        assert_eq!(machine(&boot), machine(&copy));
    }

    #[test]
    fn only_a_translated_guest_is_told_the_pace_of_its_counter() {
        let tcg = kernel_line(Accelerator::Tcg, Some(2_100_000));
        assert!(tcg.contains("tsc_early_khz=2100000"));
        assert!(!kernel_line(Accelerator::Kvm, Some(2_100_000)).contains("tsc"));
        assert!(!kernel_line(Accelerator::Tcg, None).contains("tsc"));
    }
}
