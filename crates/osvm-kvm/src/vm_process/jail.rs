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
/// `_IOR(KVMIO, 0x81, struct kvm_regs)`, 144 bytes: for the report of a failure.
const KVM_GET_REGS: u64 = 0x8090_ae81;

/// Descriptors: a few of our own, the rest for connections.
const MAX_DESCRIPTORS: u64 = 16 + osvm_vsock::MAX_CONNECTIONS as u64;
/// Address space on top of guest memory, in bytes: program, stack and heap.
const ADDRESS_SPACE: u64 = 128 << 20;
/// Processor time in seconds after which the process ends, if nobody else ends it: a day.
const CPU_SECONDS: u64 = 24 * 60 * 60;

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

/// Locks this process in, after [`leave_network`]. `memory` is the size of the guest's memory and
/// `console_len` that of the console's file, both in bytes.
pub(super) fn enter(
    network_namespace: bool,
    memory: u64,
    console_len: u64,
) -> Result<Jail, StepFailed> {
    // In this order: Landlock wants no new privileges, and after seccomp none of the others could
    // be called.
    drop_capabilities()?;
    set_no_new_privs(true).or_fail("give up new privileges")?;
    let landlock = leave_file_system();
    set_limits(memory, console_len)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).or_fail("forbid core dumps")?;
    filter_system_calls()?;
    Ok(Jail { seccomp: true, no_capabilities: true, landlock, network_namespace })
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

fn set_limits(memory: u64, console_len: u64) -> Result<(), StepFailed> {
    // A guest that fills its console reaches the console's own limit, not this one.
    let file_size = console_len.saturating_add((console::LIMIT + console::CUT.len()) as u64);
    let limits = [
        (Resource::Nproc, 0),
        (Resource::Core, 0),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::As, memory.saturating_add(ADDRESS_SPACE)),
        (Resource::Fsize, file_size),
        (Resource::Cpu, CPU_SECONDS),
    ];
    for (resource, limit) in limits {
        // What the host limits further stays so: only root could raise it.
        let limit = Some(getrlimit(resource).maximum.map_or(limit, |given| limit.min(given)));
        let limit = Rlimit { current: limit, maximum: limit };
        setrlimit(resource, limit).or_fail("set resource limits")?;
    }
    Ok(())
}

fn filter_system_calls() -> Result<(), StepFailed> {
    let program = filter().map_err(io::Error::other).or_fail("make the system call filter")?;
    seccompiler::apply_filter(&program).map_err(io::Error::other).or_fail("filter system calls")
}

fn filter() -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_ioctl, vec![when(1, KVM_RUN)?, when(1, KVM_GET_REGS)?]);
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
