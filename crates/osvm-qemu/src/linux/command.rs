//! The words QEMU is started with for a Linux guest. Pure: nothing here touches the host.
//!
//! A copy is given the same machine as its original, or the saved state would not fit; what is
//! missing is only what is read at boot.

use super::tsc;
use crate::Accelerator;
use osvm_vmm::MemoryMib;
use osvm_vmm::linux::{LinuxSpec, Snapshot};
use std::ffi::OsString;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

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
        Life::Boot(spec) => words.extend(boot(accelerator, spec)),
        Life::Copy(_) => words.extend(["-incoming", "defer"].map(OsString::from)),
    }
    words
}

fn boot(accelerator: Accelerator, spec: &LinuxSpec) -> Vec<OsString> {
    vec![
        "-kernel".into(),
        path(fd::KERNEL_OR_STATE).into(),
        "-initrd".into(),
        path(fd::INITRD).into(),
        "-append".into(),
        kernel_line(accelerator, tsc::khz()).into(),
        "-rtc".into(),
        format!("base={}", rtc(spec.clock)).into(),
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

/// The form that `-rtc` takes, in UTC: days to a date after Howard Hinnant's `civil_from_days`.
fn rtc(time: SystemTime) -> String {
    let secs = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (secs / 86_400 + 719_468, secs % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The processor's name in the host's table.
pub(super) fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or("unknown processor").to_owned()
}

fn path(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_vmm::linux::sealed;
    use std::sync::Arc;
    use std::time::Duration;

    fn words(copy: bool) -> String {
        let file = Arc::new(sealed("test", b"").unwrap());
        let memory = MemoryMib::new(128).unwrap();
        let clock = UNIX_EPOCH;
        let spec = LinuxSpec {
            kernel: Arc::clone(&file),
            initrd: Arc::clone(&file),
            root: Arc::clone(&file),
            memory,
            clock,
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
    fn the_clock_is_written_as_a_date() {
        let at = |secs| rtc(UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(at(0), "1970-01-01T00:00:00");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(at(1_795_326_909), "2026-11-22T05:55:09");
    }

    #[test]
    fn only_a_translated_guest_is_told_the_pace_of_its_counter() {
        let tcg = kernel_line(Accelerator::Tcg, Some(2_100_000));
        assert!(tcg.contains("tsc_early_khz=2100000"));
        assert!(!kernel_line(Accelerator::Kvm, Some(2_100_000)).contains("tsc"));
        assert!(!kernel_line(Accelerator::Tcg, None).contains("tsc"));
    }
}
