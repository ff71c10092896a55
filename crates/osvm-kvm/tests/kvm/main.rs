//! The embedded VMM on this host's KVM.
//!
//! Needs the program `osvm-vm` beside these tests (`cargo build -p osvm --bin osvm-vm`, or
//! `OSVM_VM_PROGRAM`). Where there is no KVM each test says that it is skipped; with
//! `OSVM_REQUIRE=kvm` it fails instead.
#![cfg(test)]

mod conformance;
mod jail;
mod linux;
mod machine;
mod support;
