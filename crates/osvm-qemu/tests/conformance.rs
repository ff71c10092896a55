//! The promises of every backend, kept by QEMU: under its own translation and under KVM.
#![cfg(test)]

use osvm_qemu::{Accelerator, FIX, PROGRAM, QemuBackend};
use osvm_vmm::Backend;
use osvm_vmm::conformance::{self, Guests, skip, vm_program};

#[test]
fn qemu_keeps_every_promise_under_tcg() {
    check(Accelerator::Tcg, false);
}

#[test]
fn qemu_keeps_every_promise_under_kvm() {
    check(Accelerator::Kvm, false);
}

#[test]
fn qemu_keeps_every_promise_with_the_kernels_vsock() {
    if std::fs::File::open("/dev/vhost-vsock").is_err() {
        return skip("vhost-vsock", "this host has no `/dev/vhost-vsock`");
    }
    check(Accelerator::Kvm, true);
}

#[track_caller]
fn check(accelerator: Accelerator, kernel_vsock: bool) {
    let Ok(qemu) = which::which(PROGRAM) else {
        return skip("qemu", &format!("`{PROGRAM}` is not installed: {FIX}"));
    };
    let backend = QemuBackend::new(qemu, vm_program(), accelerator, kernel_vsock);
    if let Err(error) = backend.probe() {
        return skip("qemu-kvm", &error.to_string());
    }
    let guests = Guests::load().unwrap();
    let mut broken = conformance::check(&backend, &guests);
    // The kernel's device takes what comes beyond the credit, until its own memory limits it.
    broken.retain(|broken| !kernel_vsock || broken.promise != "hostile_vsock_ignore_credit");
    assert!(broken.is_empty(), "{broken:#?}");
}
