//! The ends of this process's life: what it begins with, and what ends it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `F_SETSIG` of `linux/fcntl.h`, which the `libc` crate does not have.
const F_SETSIG: libc::c_int = 10;

/// Closes what osvm's own parent may have left open without close-on-exec.
pub(super) fn close_inherited() {
    // SAFETY: this is the first thing the process does, so nothing in it owns a descriptor
    // beyond the three standard ones.
    let _closed = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Asks the kernel to kill this process when the last writing end of the pipe `lifeline` is
/// closed, which happens when osvm is gone, however it went.
///
/// A signal, and not only an end of file to poll for, because a guest that spins keeps this
/// thread inside KVM_RUN. Not PR_SET_PDEATHSIG, because that follows the thread which started
/// this process, not osvm.
///
/// # Errors
///
/// Also when osvm is gone already.
pub(crate) fn arm(lifeline: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: getpid has no preconditions.
    arm_for(lifeline, unsafe { libc::getpid() })
}

/// Like [`arm`], for the whole process group of this process, which has to lead one.
///
/// # Errors
///
/// Also when osvm is gone already.
pub(crate) fn arm_group(lifeline: BorrowedFd<'_>) -> io::Result<()> {
    // A negative number names a group, see fcntl(2).
    // SAFETY: getpid has no preconditions.
    arm_for(lifeline, -unsafe { libc::getpid() })
}

fn arm_for(lifeline: BorrowedFd<'_>, owner: libc::pid_t) -> io::Result<()> {
    let fd = lifeline.as_raw_fd();
    // SAFETY: this request takes a number and touches no memory.
    check(unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGKILL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETOWN, owner) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) })?;
    // The signal tells of changes. This tells of what changed before it was asked for.
    let mut end = [PollFd::new(&lifeline, PollFlags::IN)];
    match poll(&mut end, Some(&Timespec::default()))? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// Ends the process at once.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
