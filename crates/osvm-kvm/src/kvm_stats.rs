//! KVM's own counters of a vCPU (`Documentation/virt/kvm/api.rst`, 4.133 KVM_GET_STATS_FD).
//!
//! The layout is described by the file itself. It is read once, in [`KvmStats::open`]; after
//! that a look at a counter is one `pread`, so it works inside the jail.

use kvm_ioctls::VcpuFd;
use rustix::io::pread;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `_IO(KVMIO, 0xce)` of `linux/kvm.h`.
const KVM_GET_STATS_FD: libc::Ioctl = 0xaece;
/// `struct kvm_stats_header`: six u32.
const HEADER: usize = 24;
/// `struct kvm_stats_desc` before the name.
const DESCRIPTOR: usize = 16;
/// More descriptors than any KVM has.
const MAX_DESCRIPTORS: u32 = 1000;
/// Guest instructions that KVM interpreted.
const INTERPRETED: &CStr = c"insn_emulation";

/// The counters of one vCPU.
#[derive(Debug)]
pub(crate) struct KvmStats {
    file: OwnedFd,
    interpreted: u64,
}

impl KvmStats {
    /// Finds the counters. `None` where this KVM has none, as before Linux 5.14.
    pub(crate) fn open(vcpu: &VcpuFd) -> Option<Self> {
        // SAFETY: this ioctl takes no argument and touches no memory of this process.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the ioctl has just made this descriptor and nothing else knows of it.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let interpreted = offset_of(&file, INTERPRETED).ok().flatten()?;
        Some(Self { file, interpreted })
    }

    /// Guest instructions interpreted so far.
    pub(crate) fn interpreted(&self) -> Option<u64> {
        let mut value = [0; 8];
        let len = pread(&self.file, &mut value, self.interpreted).ok()?;
        (len == value.len()).then(|| u64::from_le_bytes(value))
    }
}

/// Where in the file the counter called `name` stands.
fn offset_of(file: &OwnedFd, name: &CStr) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER];
    let len = pread(file, &mut header, 0)?;
    if len != HEADER {
        return Ok(None);
    }
    let word = |at| word(&header, at);
    let (Some(name_size), Some(count)) = (word(4), word(8)) else { return Ok(None) };
    let (Some(descriptors), Some(data)) = (word(16), word(20)) else { return Ok(None) };
    let entry = DESCRIPTOR + name_size.min(256) as usize;
    let mut table = vec![0; entry * count.min(MAX_DESCRIPTORS) as usize];
    let len = pread(file, &mut table, descriptors.into())?;
    table.truncate(len);
    let found = table.chunks_exact(entry).find(|descriptor| {
        let text = descriptor.get(DESCRIPTOR..).unwrap_or_default();
        CStr::from_bytes_until_nul(text).is_ok_and(|text| text == name)
    });
    let offset = found.and_then(|descriptor| self::word(descriptor, 8));
    Ok(offset.map(|offset| u64::from(data) + u64::from(offset)))
}

/// The u32 at byte `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}
