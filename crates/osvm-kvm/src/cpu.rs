//! The processor as the guest finds it: entry state and CPUID.
//!
//! # Invariants
//!
//! - CPUID shows what the host's processor and [`LEAVES`] both have, and nothing else: no brand,
//!   no model, no topology, no hypervisor interface. A guest can't tell hosts apart by it beyond
//!   the vendor, the family and single features.
//! - There is no local APIC and no interrupt controller: nothing can wake the guest but the host,
//!   between `hlt` and the next instruction.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_dtable, kvm_regs, kvm_segment,
    kvm_sregs,
};
use kvm_ioctls::{VcpuFd, VmFd};
use std::arch::x86_64::__cpuid_count;

/// Three pages Intel processors without "unrestricted guest" need, in the gap below 4 GiB.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// Always one.
const RFLAGS: u64 = 1 << 1;
const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// Selectors of the Linux boot protocol, `__BOOT_CS` and `__BOOT_DS`.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

/// The descriptor table that goes with the selectors: null, null, 64-bit code, flat data.
pub(crate) const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// What a guest may know of one CPUID leaf: the host's bits under these masks, and these bits.
struct Leaf {
    function: u32,
    index: u32,
    /// Masks of EAX, EBX, ECX, EDX.
    keep: [u32; 4],
    /// Bits that are set whatever the host says, in the same order.
    set: [u32; 4],
}

/// Bit positions are those of Intel's manual, volume 2, CPUID, and AMD's, volume 3, appendix E.
const LEAVES: [Leaf; 6] = [
    // Highest leaf, and the vendor: the two vendors differ in details of SYSCALL.
    Leaf { function: 0, index: 0, keep: [0, !0, !0, !0], set: [7, 0, 0, 0] },
    // The family, not the model or the stepping; the size of a cache line; features.
    Leaf {
        function: 1,
        index: 0,
        keep: [
            0x0ff0_0f00,
            0x0000_ff00,
            // SSE3, PCLMULQDQ, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT, AES, RDRAND.
            bits(&[0, 1, 9, 13, 19, 20, 23, 25, 30]),
            // FPU, DE, PSE, TSC, MSR, PAE, CX8, SEP, PGE, CMOV, PAT, CLFLUSH, MMX, FXSR, SSE, SSE2.
            bits(&[0, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 19, 23, 24, 25, 26]),
        ],
        // One processor; "runs under a hypervisor".
        set: [0, 1 << 16, 1 << 31, 0],
    },
    // FSGSBASE, BMI1, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, SHA; FSRM.
    Leaf {
        function: 7,
        index: 0,
        keep: [0, bits(&[0, 3, 7, 8, 9, 18, 19, 20, 29]), 0, bits(&[4])],
        set: [0; 4],
    },
    Leaf { function: 0x8000_0000, index: 0, keep: [0; 4], set: [0x8000_0008, 0, 0, 0] },
    // LAHF, LZCNT; SYSCALL, NX, 1 GiB pages, long mode.
    Leaf {
        function: 0x8000_0001,
        index: 0,
        keep: [0, 0, bits(&[0, 5]), bits(&[11, 20, 26, 29])],
        set: [0; 4],
    },
    // Widths of physical and linear addresses.
    Leaf { function: 0x8000_0008, index: 0, keep: [0xffff, 0, 0, 0], set: [0; 4] },
];

const fn bits(positions: &[u32]) -> u32 {
    let mut mask = 0;
    let mut rest = positions;
    while let [position, tail @ ..] = rest {
        mask |= 1 << *position;
        rest = tail;
    }
    mask
}

/// How a guest is entered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// 32-bit protected mode without paging, EBX points to the start info: the PVH protocol.
    Protected {
        /// First instruction.
        ip: u64,
        /// Value of EBX.
        info: u64,
    },
    /// 64-bit mode, RSI points to the boot parameters: the Linux 64-bit protocol.
    Long {
        /// First instruction.
        ip: u64,
        /// Value of RSI.
        params: u64,
        /// Where the page tables are.
        page_tables: u64,
        /// Where [`GDT`] is.
        gdt: u64,
    },
}

/// Prepares what the processor needs outside of guest memory. Once per VM, before its vCPU.
pub(crate) fn prepare(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    vm.set_tss_address(TSS_ADDRESS)
}

/// Puts the processor into its entry state.
pub(crate) fn enter(vcpu: &VcpuFd, entry: Entry) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let regs = match entry {
        Entry::Protected { ip, info } => {
            set_segments(&mut sregs, false);
            sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
            kvm_regs { rip: ip, rbx: info, rflags: RFLAGS, ..kvm_regs::default() }
        }
        Entry::Long { ip, params, page_tables, gdt } => {
            set_segments(&mut sregs, true);
            let limit = u16::try_from(size_of_val(&GDT)).unwrap_or(u16::MAX).saturating_sub(1);
            sregs.gdt = kvm_dtable { base: gdt, limit, ..kvm_dtable::default() };
            sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
            sregs.cr3 = page_tables;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LONG_MODE;
            kvm_regs { rip: ip, rsi: params, rflags: RFLAGS, ..kvm_regs::default() }
        }
    };
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&regs)
}

fn set_segments(sregs: &mut kvm_sregs, long: bool) {
    let flat = kvm_segment { limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..kvm_segment::default() };
    // Types: 11 is code, execute and read, accessed; 3 is data, read and write, accessed.
    let code = kvm_segment {
        selector: CODE_SELECTOR,
        type_: 11,
        l: long.into(),
        db: (!long).into(),
        ..flat
    };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 3, db: 1, ..flat };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    // Entering a guest wants a busy task register, even one that is never used.
    sregs.tr = kvm_segment { limit: 0x67, type_: 11, present: 1, ..kvm_segment::default() };
}

/// Shows the guest its processor.
///
/// The host's CPUID is asked directly, not through KVM_GET_SUPPORTED_CPUID: that asks the
/// processor for every leaf there is, and where osvm itself runs in a VM each answer is an exit
/// of that VM (measured: 370 µs against 30). All of [`LEAVES`] is what KVM passes through as is.
pub(crate) fn set_cpuid(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entries: Vec<kvm_cpuid_entry2> = LEAVES.iter().map(Leaf::entry).collect();
    let cpuid = CpuId::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    vcpu.set_cpuid2(&cpuid)
}

impl Leaf {
    fn entry(&self) -> kvm_cpuid_entry2 {
        let host = __cpuid_count(self.function, self.index);
        let host = [host.eax, host.ebx, host.ecx, host.edx];
        let [eax, ebx, ecx, edx] = self.seen(host);
        // Leaf 7 is the only one here with sub-leaves.
        let flags = if self.function == 7 { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
        let Self { function, index, .. } = *self;
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: [0; 3] }
    }

    fn seen(&self, host: [u32; 4]) -> [u32; 4] {
        let [a, b, c, d] = host;
        let [keep_a, keep_b, keep_c, keep_d] = self.keep;
        let [set_a, set_b, set_c, set_d] = self.set;
        [a & keep_a | set_a, b & keep_b | set_b, c & keep_c | set_c, d & keep_d | set_d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_does_not_see_the_model_or_the_stepping() {
        let [signature, ..] = seen(1, [0x000a_06f4, 0, 0, 0]);
        assert_eq!(signature, 0x0000_0600);
    }

    #[test]
    fn a_guest_has_one_processor_without_an_apic() {
        let [_, topology, _, features] = seen(1, [!0; 4]);
        assert_eq!(topology, 0x0001_ff00);
        assert_eq!(features & 1 << 9, 0);
    }

    #[test]
    fn a_guest_is_offered_no_state_that_fxsave_does_not_cover() {
        let [_, _, features, _] = seen(1, [!0; 4]);
        assert_eq!(features & (bits(&[12, 26, 27, 28])), 0, "FMA, XSAVE, OSXSAVE, AVX");
        let [_, features, _, _] = seen(7, [!0; 4]);
        assert_eq!(features & (bits(&[5, 16])), 0, "AVX2, AVX-512");
    }

    #[test]
    fn what_the_host_lacks_the_guest_lacks() {
        let [.., features] = seen(0x8000_0001, [0; 4]);
        assert_eq!(features, 0);
    }

    #[test]
    fn the_brand_is_not_listed() {
        let listed = LEAVES.iter().map(|leaf| leaf.function);
        assert!(listed.max() < Some(0x8000_0009));
        assert!(LEAVES.iter().all(|leaf| !(0x8000_0002..=0x8000_0004).contains(&leaf.function)));
    }

    fn seen(function: u32, host: [u32; 4]) -> [u32; 4] {
        LEAVES.iter().find(|leaf| leaf.function == function).unwrap().seen(host)
    }
}
