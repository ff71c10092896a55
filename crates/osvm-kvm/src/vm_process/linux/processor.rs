//! The state of a Linux guest's processor: read from one vCPU, set in another.
//!
//! # Invariants
//!
//! - It is read only while the vCPU is stopped with no exit half answered: KVM_RUN has returned
//!   EINTR.
//! - A copy has every register of the original, or there is no copy: a model-specific register
//!   that can't be set must have its value already.

use crate::error::{OrFail, StepFailed};
use kvm_bindings::CpuId;
use kvm_bindings::{
    Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};
use std::io;

/// The time stamp counter, and when the local APIC's timer fires by it.
const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;
/// What Hyper-V's guests use; this machine offers none of it.
const HYPER_V: std::ops::Range<u32> = 0x4000_0000..0x4000_0200;

/// The local APIC's timer register, by its place in the register page, and the mode in it.
const LVT_TIMER: usize = 0x320;
const MODE: u32 = 0b11 << 17;
const DEADLINE_MODE: u32 = 0b10 << 17;

/// All there is to a stopped vCPU.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Processor {
    cpuid: Vec<kvm_cpuid_entry2>,
    running: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

/// The model-specific registers that this KVM keeps of a guest, in the order in which they are set.
pub(super) fn msr_indices(kvm: &Kvm) -> Result<Vec<u32>, kvm_ioctls::Error> {
    let list = kvm.get_msr_index_list()?;
    let mut indices: Vec<u32> =
        list.as_slice().iter().copied().filter(|index| !HYPER_V.contains(index)).collect();
    // The counter before the timer that waits for it.
    indices.sort_by_key(|index| match *index {
        TSC => 0,
        TSC_DEADLINE => 2,
        _ => 1,
    });
    Ok(indices)
}

impl Processor {
    /// Reads the state of `vcpu`. `cpuid` and `msrs` are asked for beforehand.
    pub(super) fn of(
        vcpu: &VcpuFd,
        cpuid: &CpuId,
        msrs: &[u32],
    ) -> Result<Self, kvm_ioctls::Error> {
        // First, because asking for it settles what a start-up interrupt has left open.
        let running = vcpu.get_mp_state()?;
        let lapic = vcpu.get_lapic()?;
        let mut msrs = read_msrs(vcpu, msrs)?;
        keep_timer(&lapic, &mut msrs);
        Ok(Self {
            cpuid: cpuid.as_slice().to_vec(),
            running,
            regs: vcpu.get_regs()?,
            sregs: vcpu.get_sregs()?,
            xsave: vcpu.get_xsave()?,
            xcrs: vcpu.get_xcrs()?,
            debug: vcpu.get_debug_regs()?,
            lapic,
            msrs,
            events: vcpu.get_vcpu_events()?,
        })
    }

    /// Sets it in a vCPU that has not run. Returns its CPUID.
    ///
    /// # Errors
    ///
    /// KVM does not take it.
    pub(super) fn set(&self, vcpu: &VcpuFd) -> Result<CpuId, StepFailed> {
        let cpuid = CpuId::from_entries(&self.cpuid).map_err(io::Error::other);
        let cpuid = cpuid.or_fail("set the copy's CPUID")?;
        // This order: what is checked against CPUID comes after it, the local APIC needs its
        // address, its timer needs the mode it is in.
        vcpu.set_cpuid2(&cpuid).or_fail("set the copy's CPUID")?;
        vcpu.set_mp_state(self.running).or_fail("set whether the copy runs")?;
        vcpu.set_regs(&self.regs).or_fail("set the copy's registers")?;
        vcpu.set_sregs(&self.sregs).or_fail("set the copy's system registers")?;
        // SAFETY: KVM reads as much as this structure holds: see `fits`, without which there is
        // neither an original nor a copy.
        unsafe { vcpu.set_xsave(&self.xsave) }.or_fail("set the copy's vector registers")?;
        vcpu.set_xcrs(&self.xcrs).or_fail("set the copy's control registers")?;
        vcpu.set_debug_regs(&self.debug).or_fail("set the copy's debug registers")?;
        vcpu.set_lapic(&self.lapic).or_fail("set the copy's interrupt controller")?;
        set_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).or_fail("set the copy's events")?;
        Ok(cpuid)
    }
}

/// Whether KVM's view of a processor is no larger than `kvm_xsave`: it is, unless a process asks
/// for more for its guests.
pub(super) fn fits(kvm: &Kvm) -> bool {
    let bytes = kvm.check_extension_int(kvm_ioctls::Cap::Xsave2);
    usize::try_from(bytes).is_ok_and(|bytes| bytes <= size_of::<kvm_xsave>())
}

/// Reads those of `indices` that can be read.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, kvm_ioctls::Error> {
    let mut read = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let entry = |index: &u32| kvm_msr_entry { index: *index, ..kvm_msr_entry::default() };
        let mut entries = list(&rest.iter().map(entry).collect::<Vec<_>>())?;
        let count = vcpu.get_msrs(&mut entries)?;
        read.extend(entries.as_slice().iter().take(count));
        // KVM stops at the first that this guest does not have.
        rest = rest.get(count.saturating_add(1)..).unwrap_or_default();
    }
    Ok(read)
}

/// Sets all of `msrs`, or says that they can't be set.
fn set_msrs(vcpu: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<(), StepFailed> {
    const WHAT: &str = "set the copy's model-specific registers";
    let mut rest = msrs;
    while !rest.is_empty() {
        let count = vcpu.set_msrs(&list(rest).or_fail(WHAT)?).or_fail(WHAT)?;
        let Some(refused) = rest.get(count) else { break };
        let mut present = list(&[kvm_msr_entry { data: 0, ..*refused }]).or_fail(WHAT)?;
        let known = vcpu.get_msrs(&mut present).or_fail(WHAT)? == 1;
        if !known || present.as_slice().first().map(|entry| entry.data) != Some(refused.data) {
            return Err(io::Error::from(io::ErrorKind::InvalidData)).or_fail(WHAT);
        }
        rest = rest.get(count.saturating_add(1)..).unwrap_or_default();
    }
    Ok(())
}

/// A deadline that has passed reads as zero, which means none when it is set. A copy that waits
/// for its timer must still hear of it, so it gets a deadline that has passed.
fn keep_timer(lapic: &kvm_lapic_state, msrs: &mut [kvm_msr_entry]) {
    let timer = lapic.regs.get(LVT_TIMER..LVT_TIMER + 4).unwrap_or_default();
    let timer =
        timer.iter().rev().fold(0, |word, byte| word << 8 | u32::from(byte.cast_unsigned()));
    let now = msrs.iter().find(|entry| entry.index == TSC).map(|entry| entry.data);
    let deadline = msrs.iter_mut().find(|entry| entry.index == TSC_DEADLINE);
    if let (Some(now), Some(deadline)) = (now, deadline)
        && timer & MODE == DEADLINE_MODE
        && deadline.data == 0
    {
        deadline.data = now;
    }
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, kvm_ioctls::Error> {
    Msrs::from_entries(entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline_of_a_copy(mode: u32, saved: u64) -> u64 {
        let mut lapic = kvm_lapic_state::default();
        for (byte, register) in mode.to_le_bytes().iter().zip(&mut lapic.regs[LVT_TIMER..]) {
            *register = byte.cast_signed();
        }
        let entry = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
        let mut msrs = [entry(TSC, 77), entry(TSC_DEADLINE, saved)];
        keep_timer(&lapic, &mut msrs);
        msrs[1].data
    }

    #[test]
    fn a_deadline_that_has_passed_has_passed_in_the_copy_too() {
        assert_eq!(deadline_of_a_copy(DEADLINE_MODE, 0), 77);
        assert_eq!(deadline_of_a_copy(DEADLINE_MODE, 99), 99);
        assert_eq!(deadline_of_a_copy(0, 0), 0);
    }
}
