//! Fresh randomness for the kernel.
//!
//! A copy of a guest has the random state of its original. Writing to `/dev/urandom` would only add
//! to the pool that the next key is drawn from, up to a minute later; taking a new key at once is
//! an ioctl that no safe library offers, so these are the only unsafe blocks of this program.
#![expect(unsafe_code, reason = "two ioctls of random(4) that no safe library offers")]

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Result;
use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};
use std::sync::OnceLock;

/// Bytes taken at once: what the kernel's generator has as its key.
pub(crate) const LEN: usize = 32;

/// `struct rand_pool_info` of linux/random.h.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    len: i32,
    bytes: [u8; LEN],
}

/// `RNDADDENTROPY`: its size is that of the header without the bytes.
const ADD: Opcode = opcode::write::<[i32; 2]>(b'R', 0x03);
/// `RNDRESEEDCRNG`.
const RESEED: Opcode = opcode::none(b'R', 0x07);

/// Adds `bytes` to the kernel's pool and makes it take a new key from there at once.
pub(crate) fn reseed(bytes: [u8; LEN]) -> Result<()> {
    let device = device()?;
    let info = PoolInfo { entropy_bits: 256, len: 32, bytes };
    // SAFETY: this is the opcode and the layout that random(4) gives for RNDADDENTROPY.
    let add = unsafe { Setter::<ADD, PoolInfo>::new(info) };
    // SAFETY: the kernel reads `len` bytes behind the header, which is what the struct has there.
    unsafe { ioctl(device, add) }?;
    // SAFETY: this is the opcode of RNDRESEEDCRNG, which takes no argument.
    let reseed = unsafe { NoArg::<RESEED>::new() };
    // SAFETY: it touches no memory of this program.
    unsafe { ioctl(device, reseed) }
}

/// The kernel's generator, opened once: a copy of this guest has no time to look for it.
fn device() -> Result<&'static OwnedFd> {
    static DEVICE: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(device);
    }
    let device = open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok(DEVICE.get_or_init(|| device))
}
