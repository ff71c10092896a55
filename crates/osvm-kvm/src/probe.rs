//! What kind of KVM this host has, by measuring.
//!
//! A KVM without hardware support can still interpret guests, instruction by instruction. Both
//! look the same through `/dev/kvm`, so a tiny guest counts to a thousand: KVM's own statistics
//! say exactly how many instructions were interpreted, and the clock says what each one cost.
//! Takes about 3 ms on a KVM that interprets, less on hardware.

use crate::cpu::{self, Entry};
use crate::kvm_stats::KvmStats;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use std::io;
use std::time::Instant;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Turns of the loop in the tiny guest; each has two instructions.
const TURNS: u32 = 1000;
/// Where the tiny guest stands.
const CODE_AT: GuestAddress = GuestAddress(0x1000);
/// Its memory in bytes: two pages.
const MEMORY: usize = 0x2000;
/// An instruction that takes longer is interpreted, where KVM has no statistics to say so. A
/// processor takes about one, an interpreter about a thousand.
const INTERPRETED_NS: f64 = 50.0;

/// A KVM that runs guests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Whether guests run on the processor or in an interpreter.
    pub kind: Kind,
    /// Time of one plain instruction, in nanoseconds, the mean of two thousand.
    pub ns_per_instruction: f64,
    /// Whether `kind` was read from KVM's statistics; otherwise it follows from the time.
    pub counted: bool,
}

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The processor.
    Hardware,
    /// An interpreter in the host's kernel, about a thousand times slower.
    Interpreted,
}

/// Why guests can't run on this host's KVM.
#[derive(Debug, Error)]
pub enum Unusable {
    /// There is no `/dev/kvm`.
    #[error("there is no `/dev/kvm`")]
    Absent,
    /// osvm may not open it.
    #[error("`/dev/kvm` may not be opened")]
    NoPermission(#[source] io::Error),
    /// It opens, and then a guest does not run.
    #[error("KVM does not run a guest: it could not {what}")]
    Broken {
        /// The step that failed.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
}

impl Unusable {
    /// What the user can do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Absent => {
                "load the module with `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`; in a \
                 virtual machine, ask for nested virtualization"
            }
            Self::NoPermission(_) => "add your user to group `kvm`: `sudo usermod -aG kvm $USER`",
            Self::Broken { .. } => "look for messages of KVM in `sudo dmesg`",
        }
    }
}

/// Measures this host's KVM.
pub fn measure() -> Result<Speed, Unusable> {
    let kvm = Kvm::new().map_err(|error| {
        let source = io::Error::from_raw_os_error(error.errno());
        match source.kind() {
            io::ErrorKind::NotFound => Unusable::Absent,
            io::ErrorKind::PermissionDenied => Unusable::NoPermission(source),
            _ => Unusable::Broken { what: "open `/dev/kvm`", source },
        }
    })?;
    let vm = kvm.create_vm().map_err(broken("make a VM"))?;
    cpu::prepare(&vm).map_err(broken("set the VM's TSS address"))?;
    let range = (GuestAddress(0), MEMORY);
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[range]).map_err(|error| {
        Unusable::Broken { what: "map guest memory", source: io::Error::other(error) }
    })?;
    let mapping = memory.find_region(GuestAddress(0)).map(|region| region.as_ptr());
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: mapping.map_or(0, |host| host as u64),
    };
    // SAFETY: `memory` maps these bytes and outlives the VM, which was made before it but is
    // not run after this function.
    unsafe { vm.set_user_memory_region(slot) }.map_err(broken("give the guest its memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(broken("make a vCPU"))?;
    cpu::set_cpuid(&vcpu).map_err(broken("set CPUID"))?;
    let stats = KvmStats::open(&vcpu);
    let interpreted = |stats: &Option<KvmStats>| stats.as_ref().and_then(KvmStats::interpreted);

    // Once without turns: the first entry faults in what later ones find.
    run(&memory, &mut vcpu, 1)?;
    let empty = run(&memory, &mut vcpu, 1)?;
    let before = interpreted(&stats);
    let full = run(&memory, &mut vcpu, TURNS)?;
    let after = interpreted(&stats);

    let instructions = f64::from(2 * TURNS);
    let ns_per_instruction = (full - empty).max(0.0) / instructions;
    let counted = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    let is_interpreted = match counted {
        Some(count) => u64::from(TURNS) <= count,
        None => INTERPRETED_NS < ns_per_instruction,
    };
    let kind = if is_interpreted { Kind::Interpreted } else { Kind::Hardware };
    Ok(Speed { kind, ns_per_instruction, counted: counted.is_some() })
}

/// Lets the guest count down from `turns`; returns the nanoseconds it took.
fn run(memory: &GuestMemoryMmap, vcpu: &mut VcpuFd, turns: u32) -> Result<f64, Unusable> {
    const WHAT: &str = "run a guest";
    // mov ecx, turns; again: dec ecx; jnz again; hlt
    let [a, b, c, d] = turns.to_le_bytes();
    let code = [0xb9, a, b, c, d, 0x49, 0x75, 0xfd, 0xf4];
    memory.write_slice(&code, CODE_AT).map_err(|error| Unusable::Broken {
        what: "write guest memory",
        source: io::Error::other(error),
    })?;
    let entry = Entry::Protected { ip: CODE_AT.0, info: 0 };
    cpu::enter(vcpu, entry).map_err(broken("set the processor's registers"))?;
    let begun = Instant::now();
    match vcpu.run().map_err(broken(WHAT))? {
        VcpuExit::Hlt => Ok(begun.elapsed().as_secs_f64() * 1e9),
        exit => {
            let source = io::Error::other(format!("it ended in {exit:?}"));
            Err(Unusable::Broken { what: WHAT, source })
        }
    }
}

fn broken(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Unusable {
    move |error| Unusable::Broken { what, source: io::Error::from_raw_os_error(error.errno()) }
}
