//! What a Linux guest sees of its processor.
//!
//! All that KVM offers, because programs choose their code by it, but for what makes no sense for
//! one virtual processor: other processors, nested virtualization, performance counters.
//!
//! # Invariants
//!
//! - Nothing is added that KVM does not keep, but "runs under a hypervisor" and, where KVM has it,
//!   the deadline mode of the local APIC's timer.
//! - The guest's clock is KVM's, which can be moved from one VM to another. So the time stamp
//!   counter does not claim to be good enough for a clock.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// Leaves that are left out. Intel: performance counters (0xa), topology (0xb, 0x1f), enclaves
/// (0x12), traces (0x14). AMD: nested virtualization (0x8000_000a), topology (0x8000_001e).
const HIDDEN: [u32; 7] = [0xa, 0xb, 0x12, 0x14, 0x1f, 0x8000_000a, 0x8000_001e];

/// Leaf 1, ECX: virtualization of its own; the timer's deadline mode; runs under a hypervisor.
const VMX: u32 = 1 << 5;
const DEADLINE_TIMER: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: the package has several processors.
const SEVERAL: u32 = 1 << 28;
/// Leaf 7, EBX: enclaves; traces.
const ENCLAVES_AND_TRACES: u32 = 1 << 2 | 1 << 25;
/// Leaf 0x8000_0001, ECX: several processors, virtualization of its own, topology.
const SEVERAL_SVM_TOPOLOGY: u32 = 1 << 1 | 1 << 2 | 1 << 22;
/// Leaf 0x8000_0007, EDX: the counter runs at one pace in every state of the processor.
const INVARIANT_COUNTER: u32 = 1 << 8;
/// Leaf 0x4000_0001, EAX, of KVM: the clock in its old and its new form, no delays for ports, and
/// the clock being the same on all processors.
const CLOCK: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24;

/// The leaves for a guest on this host.
pub(super) fn supported(kvm: &Kvm) -> Result<CpuId, kvm_ioctls::Error> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    cpuid.retain(|entry| !HIDDEN.contains(&entry.function));
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    cpuid.as_mut_slice().iter_mut().for_each(|entry| adapt(entry, deadline_timer));
    Ok(cpuid)
}

fn adapt(entry: &mut kvm_cpuid_entry2, deadline_timer: bool) {
    match entry.function {
        1 => {
            // One processor in the package, and its number is 0.
            entry.ebx = entry.ebx & 0xffff | 1 << 16;
            entry.ecx = entry.ecx & !(VMX | DEADLINE_TIMER) | HYPERVISOR;
            if deadline_timer {
                entry.ecx |= DEADLINE_TIMER;
            }
            entry.edx &= !SEVERAL;
        }
        // Caches: how many processors share one, and how many there are.
        4 | 0x8000_001d => entry.eax &= 0x3fff,
        7 if entry.index == 0 => entry.ebx &= !ENCLAVES_AND_TRACES,
        0x4000_0001 => entry.eax &= CLOCK,
        0x8000_0001 => entry.ecx &= !SEVERAL_SVM_TOPOLOGY,
        0x8000_0007 => entry.edx &= !INVARIANT_COUNTER,
        // How many processors the package has.
        0x8000_0008 => entry.ecx = 0,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(function: u32, deadline_timer: bool) -> kvm_cpuid_entry2 {
        let mut entry = kvm_cpuid_entry2 { function, ..kvm_cpuid_entry2::default() };
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (!0, !0, !0, !0);
        adapt(&mut entry, deadline_timer);
        entry
    }

    #[test]
    fn a_guest_has_one_processor_and_knows_that_it_is_virtual() {
        let leaf = seen(1, false);
        assert_eq!(leaf.ebx >> 16, 1);
        assert_eq!(leaf.edx & SEVERAL, 0);
        assert_eq!(leaf.ecx & HYPERVISOR, HYPERVISOR);
        assert_eq!(seen(4, false).eax >> 14, 0);
        assert_eq!(seen(0x8000_0008, false).ecx, 0);
    }

    #[test]
    fn a_guest_cannot_have_guests() {
        assert_eq!(seen(1, false).ecx & VMX, 0);
        assert_eq!(seen(0x8000_0001, false).ecx & 1 << 2, 0);
    }

    #[test]
    fn the_deadline_timer_is_there_only_with_kvm() {
        assert_eq!(seen(1, false).ecx & DEADLINE_TIMER, 0);
        assert_eq!(seen(1, true).ecx & DEADLINE_TIMER, DEADLINE_TIMER);
    }

    #[test]
    fn of_kvm_a_guest_sees_the_clock_alone() {
        assert_eq!(seen(0x4000_0001, false).eax, CLOCK);
        assert_eq!(seen(0x8000_0007, false).edx & INVARIANT_COUNTER, 0);
    }
}
