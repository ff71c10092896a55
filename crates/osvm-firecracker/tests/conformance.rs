//! The promises of every backend, kept by a real Firecracker where there is one.
#![cfg(test)]

use osvm_firecracker::{FIX, FirecrackerBackend, PROGRAM};
use osvm_vmm::Backend;
use osvm_vmm::conformance::{self, Guests, skip, vm_program};
use std::path::PathBuf;

#[test]
fn firecracker_keeps_every_promise() {
    let named = std::env::var_os("OSVM_FIRECRACKER").map(PathBuf::from);
    let Some(firecracker) = named.or_else(|| which::which(PROGRAM).ok()) else {
        return skip("firecracker", &format!("`{PROGRAM}` is not here: {FIX}"));
    };
    let runtime_dir = tempfile::tempdir().unwrap();
    let backend =
        FirecrackerBackend::new(firecracker, vm_program(), runtime_dir.path().to_owned());
    if let Err(error) = backend.probe() {
        return skip("firecracker", &error.to_string());
    }
    let guests = Guests::load().unwrap();
    let broken = conformance::check(&backend, &guests);
    assert!(broken.is_empty(), "{broken:#?}");
    let left: Vec<_> = std::fs::read_dir(runtime_dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
