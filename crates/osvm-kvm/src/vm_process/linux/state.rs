//! A saved Linux guest, but for its memory: written by the VM process it ran in, read by those of
//! its copies.
//!
//! # Invariants
//!
//! - Whoever reads one takes it for a stranger's: its length is bounded before a byte is read, its
//!   devices are checked by those that go on with them, and KVM checks the rest. KVM trusts no
//!   state more than what a guest can bring about, so a wrong one is a wrong guest in its own VM.
//! - Version and memory must be those of the copy. Both sides are of one build; what else a state
//!   depends on is in [`LinuxBackend::identity`](osvm_vmm::linux::LinuxBackend::identity).

use super::board::{Board, Devices};
use super::processor::Processor;
use super::serial::SerialState;
use crate::control::NotStarted;
use crate::error::{OrFail, StepFailed};
use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data,
    kvm_irqchip, kvm_pit_state2,
};
use kvm_ioctls::{VcpuFd, VmFd};
use osvm_vsock::mmio::{RegistersState, VsockState};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Changes whenever a state of before would be misunderstood.
pub(in crate::vm_process) const VERSION: u32 = 1;
/// Most bytes of a state. One has some 30 thousand.
pub(super) const MAX_STATE: u64 = 1 << 18;

/// The controllers that KVM has of its own.
const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// All there is to a guest besides its memory and its disk.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    memory: u64,
    processor: Processor,
    chips: [kvm_irqchip; 3],
    timer: kvm_pit_state2,
    /// Nanoseconds of the guest's clock.
    clock: u64,
    pub(super) vsock: VsockState,
    pub(super) block: RegistersState,
    pub(super) serial: SerialState,
}

impl State {
    /// Reads the state of a guest whose processor stands still.
    pub(super) fn of(
        board: &Board,
        vcpu: &VcpuFd,
        cpuid: &CpuId,
        msrs: &[u32],
    ) -> Result<Self, StepFailed> {
        let Board { vm, memory, devices: Devices { vsock, block, serial }, .. } = board;
        let mut chips = CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..kvm_irqchip::default() });
        for chip in &mut chips {
            vm.get_irqchip(chip).or_fail("read the interrupt controllers")?;
        }
        Ok(Self {
            version: VERSION,
            memory: super::image::size(memory),
            processor: Processor::of(vcpu, cpuid, msrs).or_fail("read the processor")?,
            chips,
            timer: vm.get_pit2().or_fail("read the timer")?,
            clock: vm.get_clock().or_fail("read the clock")?.clock,
            vsock: vsock.state(),
            block: block.state(),
            serial: serial.state(),
        })
    }

    /// Sets what KVM keeps in a VM that has not run. Returns the guest's CPUID.
    pub(super) fn set(&self, vm: &VmFd, vcpu: &VcpuFd) -> Result<CpuId, StepFailed> {
        for chip in &self.chips {
            vm.set_irqchip(chip).or_fail("set the copy's interrupt controllers")?;
        }
        vm.set_pit2(&self.timer).or_fail("set the copy's timer")?;
        let cpuid = self.processor.set(vcpu)?;
        // Last, because it runs from here on. Without flags: it goes on where it stood, however
        // long ago that was.
        let clock = kvm_clock_data { clock: self.clock, ..kvm_clock_data::default() };
        vm.set_clock(&clock).or_fail("set the copy's clock")?;
        Ok(cpuid)
    }

    /// Writes it to an empty file.
    pub(super) fn write(&self, file: &OwnedFd) -> Result<(), StepFailed> {
        const WHAT: &str = "write the state";
        let bytes = serde_json::to_vec(self).map_err(io::Error::other).or_fail(WHAT)?;
        if MAX_STATE < bytes.len() as u64 {
            return Err(Errno::FBIG).or_fail(WHAT);
        }
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            match rustix::io::write(file, left) {
                Ok(0) => return Err(Errno::NOSPC).or_fail(WHAT),
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).or_fail(WHAT),
            }
        }
        Ok(())
    }

    /// Reads one for a guest with `memory` bytes.
    pub(super) fn read(file: &File, memory: u64) -> Result<Self, NotStarted> {
        let unfit = |reason: &str| NotStarted::BadState { reason: reason.into() };
        let len = file.metadata().map_err(|_| unfit("it can't be read"))?.len();
        if MAX_STATE < len {
            return Err(unfit("it is too long"));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| unfit("it is too long"))?];
        file.read_exact_at(&mut bytes, 0).map_err(|_| unfit("it can't be read"))?;
        let state: Self =
            serde_json::from_slice(&bytes).map_err(|error| unfit(&error.to_string()))?;
        if state.version != VERSION {
            return Err(unfit("it is of another version"));
        }
        if state.memory != memory {
            return Err(unfit("it is of a guest with more memory, or less"));
        }
        Ok(state)
    }
}
