//! What a Firecracker with a Linux guest is handed: descriptors, and nothing with a name but the
//! folder of its sockets.

use super::orders::KERNEL_LINE;
use crate::config::{Guest, fd, fd_path, text};
use crate::delivery::{Delivery, Parts, plain};
use crate::program::Program;
use crate::sockets::Paths;
use osvm_vmm::MemoryMib;
use osvm_vmm::linux::{LinuxSpec, Place, Snapshot};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Where a guest goes when it is saved.
#[derive(Debug)]
pub(super) struct Saved {
    /// As large as its memory.
    pub(super) memory: File,
    /// Empty.
    pub(super) state: File,
}

/// For a guest that boots.
pub(super) fn boot(
    program: &Program,
    spec: &LinuxSpec,
    place: &Place,
    saved: &Saved,
) -> io::Result<Delivery> {
    let paths = Paths::new(&program.runtime_dir, Path::new(""))?;
    let config = text(Guest {
        memory: spec.memory,
        cid: place.cid,
        vsock: &paths.vsock(),
        image: Path::new(&fd_path(fd::IMAGE)),
        initrd: Path::new(&fd_path(fd::INITRD)),
        kernel_line: KERNEL_LINE,
        root: Some(Path::new(&fd_path(fd::ROOT))),
    })?;
    let own = [(&*spec.kernel, fd::IMAGE), (&*spec.initrd, fd::INITRD), (&*spec.root, fd::ROOT)];
    deliver(program, paths, Some(&config), &own, place, saved)
}

/// For a copy, which is told the rest by its socket.
pub(super) fn copy(
    program: &Program,
    snapshot: &Snapshot,
    place: &Place,
    saved: &Saved,
) -> io::Result<Delivery> {
    let paths = Paths::new(&program.runtime_dir, Path::new(""))?;
    let Snapshot { memory, state, root, .. } = snapshot;
    let own = [(&**memory, fd::MEMORY), (&**state, fd::STATE), (&**root, fd::ROOT)];
    deliver(program, paths, None, &own, place, saved)
}

fn deliver(
    program: &Program,
    paths: Paths,
    config: Option<&str>,
    own: &[(&File, i32)],
    place: &Place,
    saved: &Saved,
) -> io::Result<Delivery> {
    let to_save = [(&saved.memory, fd::SAVED_MEMORY), (&saved.state, fd::SAVED_STATE)];
    let fds = own.iter().chain(&to_save).map(|(file, number)| {
        let fd: OwnedFd = file.try_clone()?.into();
        Ok((fd, *number))
    });
    let fds = fds.collect::<io::Result<Vec<_>>>()?;
    let lease = place.lease.as_deref();
    plain(&program.firecracker, paths, Parts { config, fds, file: Some(fd::ROOT), lease })
}

impl Saved {
    /// For a guest with that much memory. Takes none before the guest is saved.
    pub(super) fn new(size: MemoryMib) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create("osvm-guest-memory", flags)?;
        ftruncate(&memory, size.bytes())?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        let state = memfd_create("osvm-guest-state", flags)?;
        Ok(Self { memory: memory.into(), state: state.into() })
    }
}
