//! Locks the VM process in, before the guest's first instruction.
//!
//! A guest that breaks out of KVM or of the device model finds itself here: a process without
//! capabilities, network, file system or the right to start anything, that may run its vCPU,
//! move bytes on the descriptors it has, and end.
//!
//! # Invariants
//!
//! - [`enter`] succeeds only with everything in force but Landlock and the network namespace,
//!   which not every host offers; [`Jail`] says which of the two are.
//! - The list of system calls was made by running every test of the conformance suite; one that
//!   is missing shows as a death by SIGSYS, never as a silent error.

use super::console;
use crate::control::Jail;
use crate::error::{OrFail, StepFailed};
use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_irq_level, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msrs, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, set_no_new_privs, unshare_unsafe,
};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// `_IO(KVMIO, 0x80)` of `linux/kvm.h`.
const KVM_RUN: u64 = 0xae80;
/// For the report of a failure.
const KVM_GET_REGS: u64 = kvm_request::<kvm_regs>(READ, 0x81);
/// What else a Linux guest needs: its interrupt lines, and reading what belongs to its state.
const LINUX_REQUESTS: [u64; 12] = [
    kvm_request::<kvm_irq_level>(WRITE, 0x61),
    kvm_request::<kvm_irqchip>(READ | WRITE, 0x62),
    kvm_request::<kvm_clock_data>(READ, 0x7c),
    kvm_request::<kvm_sregs>(READ, 0x83),
    kvm_request::<kvm_msrs>(READ | WRITE, 0x88),
    kvm_request::<kvm_lapic_state>(READ, 0x8e),
    kvm_request::<kvm_mp_state>(READ, 0x98),
    kvm_request::<kvm_vcpu_events>(READ, 0x9f),
    kvm_request::<kvm_pit_state2>(READ, 0x9f),
    kvm_request::<kvm_debugregs>(READ, 0xa1),
    kvm_request::<kvm_xsave>(READ, 0xa4),
    kvm_request::<kvm_xcrs>(READ, 0xa6),
];

/// Directions of data in a request, as `asm-generic/ioctl.h` encodes them.
const WRITE: u64 = 1;
const READ: u64 = 2;

/// A request of `linux/kvm.h` with data of type `T`.
const fn kvm_request<T>(direction: u64, number: u64) -> u64 {
    const KVMIO: u64 = 0xae;
    direction << 30 | (size_of::<T>() as u64) << 16 | KVMIO << 8 | number
}

/// What the steps with the filter are called.
const FILTER: &str = "filter system calls";

/// Descriptors: a few of our own, the rest for connections.
const MAX_DESCRIPTORS: u64 = 16 + osvm_vsock::MAX_CONNECTIONS as u64;
/// Address space on top of guest memory, in bytes: program, stack and heap.
const ADDRESS_SPACE: u64 = 128 << 20;
/// Processor time in seconds after which the process ends, if nobody else ends it: a day.
const CPU_SECONDS: u64 = 24 * 60 * 60;
/// Address space of the second thread of a Linux guest on top of that, in bytes: its stack, and
/// what the C library sets aside for a thread's allocations.
const THREAD_SPACE: u64 = 192 << 20;

/// System calls the run loop, the device and the allocators of both C libraries make.
const CALLS: [libc::c_long; 25] = [
    // Bytes in and out.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    // Waiting.
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_ctl,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_clock_gettime,
    // Memory; `mmap` and `mprotect` are below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Hash maps take their key from here.
    libc::SYS_getrandom,
    // The words of a panic name the thread. It ends the process.
    libc::SYS_gettid,
    libc::SYS_exit_group,
];

/// System calls of a Linux guest besides: two threads that wait for each other, and a disk. One
/// thread interrupts the other, see [`enter_linux`].
const LINUX_CALLS: [libc::c_long; 2] = [libc::SYS_futex, libc::SYS_preadv];

/// What the guest's own size says about the limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Size of the guest's memory, in bytes.
    pub(super) memory: u64,
    /// Size of the console's file, in bytes.
    pub(super) console_len: u64,
}

/// Locks this process in, after [`leave_network`], for a unikernel.
pub(super) fn enter(network_namespace: bool, bounds: Bounds) -> Result<Jail, StepFailed> {
    // In this order: Landlock wants no new privileges, and after seccomp none of the others could
    // be called.
    let landlock = renounce()?;
    let file_size = console_size(bounds);
    let limits = [
        (Resource::As, bounds.memory.saturating_add(ADDRESS_SPACE)),
        (Resource::Fsize, file_size),
        (Resource::Cpu, CPU_SECONDS),
    ];
    set_limits(&limits)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).or_fail("forbid core dumps")?;
    let program = filter(&[], BTreeMap::new()).map_err(io::Error::other).or_fail(FILTER)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other).or_fail(FILTER)?;
    Ok(Jail { seccomp: true, no_capabilities: true, landlock, network_namespace })
}

/// Locks this process in, after [`leave_network`], for a Linux guest. What `threads` starts is in
/// the jail too: it has to have begun to run, and may do nothing that this thread may not.
/// `state` is the most bytes that a saved state has.
pub(super) fn enter_linux<T>(
    network_namespace: bool,
    bounds: Bounds,
    state: u64,
    threads: impl FnOnce() -> Result<T, StepFailed>,
) -> Result<(Jail, T), StepFailed> {
    // Rights are a thread's own and inherited by those it starts; limits, once set, would forbid
    // to start any; the filter reaches all of them.
    let landlock = renounce()?;
    let threads = threads()?;
    let limits = [
        (Resource::As, bounds.memory.saturating_add(ADDRESS_SPACE + THREAD_SPACE)),
        (Resource::Fsize, console_size(bounds).max(state)),
    ];
    set_limits(&limits)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).or_fail("forbid core dumps")?;
    let kick = libc::SIGUSR1.unsigned_abs().into();
    let program = when(2, kick).and_then(|rule| {
        let calls = LINUX_CALLS.map(|call| (call, Vec::new()));
        let calls = calls.into_iter().chain([(libc::SYS_tgkill, vec![rule])]);
        filter(&LINUX_REQUESTS, calls.collect())
    });
    let program = program.map_err(io::Error::other).or_fail(FILTER)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other).or_fail(FILTER)?;
    Ok((Jail { seccomp: true, no_capabilities: true, landlock, network_namespace }, threads))
}

/// Gives up what a thread can give up; returns the version of Landlock.
fn renounce() -> Result<u8, StepFailed> {
    drop_capabilities()?;
    set_no_new_privs(true).or_fail("give up new privileges")?;
    Ok(leave_file_system())
}

/// A guest that fills its console reaches the console's own limit, not that of its file.
fn console_size(bounds: Bounds) -> u64 {
    bounds.console_len.saturating_add((console::LIMIT + console::CUT.len()) as u64)
}

/// Moves this process into an empty network namespace, if the host lets it. Takes most of the
/// time of the jail, 0.6 ms, and is worth it: it holds even where a hole in seccomp would not.
pub(super) fn leave_network() -> bool {
    let flags = if rustix::process::geteuid().is_root() {
        UnshareFlags::NEWNET
    } else {
        UnshareFlags::NEWUSER | UnshareFlags::NEWNET
    };
    // SAFETY: only unsharing the table of descriptors can break what Rust knows of them, and
    // neither flag does that.
    unsafe { unshare_unsafe(flags) }.is_ok()
}

fn drop_capabilities() -> Result<(), StepFailed> {
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).or_fail("drop capabilities")
}

/// Gives up the file system, TCP and what else Landlock knows. Returns the interface version.
fn leave_file_system() -> u8 {
    let abi = ABI::V6;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self());
    match status {
        Ok(status) if status.ruleset != RulesetStatus::NotEnforced => match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as u8,
            _ => 0,
        },
        _ => 0,
    }
}

/// Sets what is the same for every guest, and `own`.
fn set_limits(own: &[(Resource, u64)]) -> Result<(), StepFailed> {
    let common = [(Resource::Nproc, 0), (Resource::Core, 0), (Resource::Nofile, MAX_DESCRIPTORS)];
    for (resource, limit) in common.into_iter().chain(own.iter().copied()) {
        // What the host limits further stays so: only root could raise it.
        let limit = Some(getrlimit(resource).maximum.map_or(limit, |given| limit.min(given)));
        let limit = Rlimit { current: limit, maximum: limit };
        setrlimit(resource, limit).or_fail("set resource limits")?;
    }
    Ok(())
}

/// The filter: the common list, `requests` to KVM and `calls` besides.
fn filter(
    requests: &[u64],
    calls: BTreeMap<i64, Vec<SeccompRule>>,
) -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|call| (*call, Vec::new())).collect();
    rules.extend(calls);
    let requests = [KVM_RUN, KVM_GET_REGS].into_iter().chain(requests.iter().copied());
    let requests: Result<_, _> = requests.map(|request| when(1, request)).collect();
    rules.insert(libc::SYS_ioctl, requests?);
    // In builds for tests, the standard library checks that what it closes is open.
    rules.insert(libc::SYS_fcntl, vec![when(1, libc::F_GETFD.unsigned_abs().into())?]);
    // Memory of a heap: private, and never executable.
    let writable = (libc::PROT_READ | libc::PROT_WRITE).unsigned_abs().into();
    let heap = |protection| when(2, protection);
    rules.insert(libc::SYS_mmap, vec![heap(writable)?, heap(0)?]);
    rules.insert(libc::SYS_mprotect, vec![heap(writable)?, heap(0)?]);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?
        .try_into()
}

/// Argument number `argument`, counted from 0, is `value`.
fn when(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition =
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    SeccompRule::new(vec![condition])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_that_kvm_knows_them_by() {
        assert_eq!(KVM_GET_REGS, 0x8090_ae81);
        assert_eq!(kvm_request::<kvm_irqchip>(READ | WRITE, 0x62), 0xc208_ae62);
        assert_eq!(kvm_request::<kvm_irq_level>(WRITE, 0x61), 0x4008_ae61);
    }
}
