//! The promises of every backend, kept by a real Firecracker where there is one.
#![cfg(test)]

use osvm_firecracker::{FIX, FirecrackerBackend, PROGRAM};
use osvm_vmm::Backend;
use osvm_vmm::conformance::{self, Guests, skip, vm_program};
use std::path::{Path, PathBuf};

#[test]
fn firecracker_keeps_every_promise() {
    check(false, |backend, _| Some(backend));
}

#[test]
fn firecracker_keeps_every_promise_in_its_jailer() {
    check(true, |backend, firecracker| {
        let jailer = firecracker.with_file_name("jailer");
        if !rustix::process::geteuid().is_root() || !jailer.exists() || !is_static(firecracker) {
            skip("jailer", "it needs root, and a jailer beside a Firecracker of the static build");
            return None;
        }
        Some(backend.with_jailer(jailer))
    });
}

/// What Firecracker's own device lets pass where osvm's ends the guest: a queue index that jumps
/// stops the guest and not the device, packets under another CID count as the guest's (its bus has
/// nobody else), and bytes beyond the credit wait. Nothing of it leaves the guest's own stream.
const LENIENT: [&str; 3] =
    ["hostile_rings_index_jump", "hostile_vsock_wrong_cid", "hostile_vsock_ignore_credit"];

/// The jailer's chroot has no dynamic linker.
fn is_static(program: &Path) -> bool {
    let elf = std::fs::read(program).unwrap();
    !elf.windows(10).any(|bytes| bytes == b"/ld-linux-")
}

fn check(jailed: bool, with: impl FnOnce(FirecrackerBackend, &Path) -> Option<FirecrackerBackend>) {
    let named = std::env::var_os("OSVM_FIRECRACKER").map(PathBuf::from);
    let Some(firecracker) = named.or_else(|| which::which(PROGRAM).ok()) else {
        return skip("firecracker", &format!("`{PROGRAM}` is not here: {FIX}"));
    };
    let runtime_dir = tempfile::tempdir().unwrap();
    let backend =
        FirecrackerBackend::new(firecracker.clone(), vm_program(), runtime_dir.path().to_owned());
    let Some(backend) = with(backend, &firecracker) else { return };
    if let Err(error) = backend.probe() {
        return skip("firecracker", &error.to_string());
    }
    let guests = Guests::load().unwrap();
    let mut broken = conformance::check(&backend, &guests);
    // See `delivery`: the jailer closes the descriptor that holds the lock.
    broken.retain(|broken| !jailed || broken.promise != "a_lease_lasts_as_long_as_the_guest");
    broken.retain(|broken| !LENIENT.contains(&broken.promise));
    assert!(broken.is_empty(), "{broken:#?}");
    let left: Vec<_> = std::fs::read_dir(runtime_dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
