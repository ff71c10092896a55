//! The conformance suite on fakes: it accepts a good one and finds what each flawed one breaks.
#![cfg(test)]

use osvm_vmm::GuestImage;
use osvm_vmm::conformance::{self, Guests, Subject};
use osvm_vmm::fake::{Fake, Flaw};
use std::fs::File;
use std::sync::Arc;

#[test]
fn a_good_backend_keeps_every_promise() {
    let broken = conformance::check(&Fake::new(), &guests());
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_process_that_stays_is_found() {
    check(Flaw::ProcessStays, "dropping_a_machine_destroys_it", "outlived its machine");
}

#[test]
fn streams_that_stay_are_found() {
    check(Flaw::StreamsStay, "a_killed_guest_is_noticed_at_once", "did not hang up");
}

#[test]
fn a_kill_that_does_nothing_is_found() {
    check(Flaw::Unkillable, "a_killed_guest_is_noticed_at_once", "did not hang up");
}

#[test]
fn missing_memory_is_found() {
    check(Flaw::HalfMemory, "a_guest_sees_exactly_its_memory", "a guest of 64 MiB saw");
}

#[test]
fn a_network_device_is_found() {
    check(Flaw::NetworkDevice, "a_guest_has_no_network_device", "virtio devices [19, 1]");
}

#[test]
fn a_missing_environment_is_found() {
    check(Flaw::NoEnvironment, "a_guest_gets_its_environment", "variables []");
}

#[test]
fn a_lease_nobody_holds_is_found() {
    check(Flaw::NoLease, "a_lease_lasts_as_long_as_the_guest", "does not hold the lease");
}

#[test]
fn a_descriptor_that_stays_is_found() {
    check(Flaw::DescriptorStays, "dropping_a_machine_frees_all", "descriptors became");
}

#[test]
fn more_use_than_memory_is_found() {
    check(Flaw::Overuse, "usage_stays_within_the_memory", "65537");
}

#[test]
fn a_wrong_cause_of_death_is_found() {
    check(Flaw::WrongDeath, "hostile_panic", "said to have ended so: the guest triple-faulted");
}

#[test]
fn a_port_that_should_refuse_is_found() {
    check(Flaw::AcceptsAnyPort, "a_port_without_a_listener_refuses", "instead of a refusal");
}

#[test]
fn changed_bytes_are_found() {
    check(Flaw::ChangesBytes, "large_answers_come_back", "came back changed");
}

#[test]
fn a_console_without_bounds_is_found() {
    check(Flaw::KeepsWholeConsole, "hostile_flood_console", "131072 bytes of console");
}

#[test]
fn every_promise_has_a_name_of_its_own() {
    let mut names: Vec<_> =
        conformance::PROMISES.iter().copied().flatten().map(|promise| promise.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[track_caller]
fn check(flaw: Flaw, promise: &str, how: &str) {
    let backend = Fake::with_flaw(flaw);
    let guests = guests();
    let subject = Subject { backend: &backend, guests: &guests };
    let broken = conformance::promise(promise).unwrap().check(subject).unwrap_err();
    assert_eq!(broken.promise, promise);
    assert!(broken.how.contains(how), "{broken}");
}

/// The fake looks at their names only.
fn guests() -> Guests {
    let file = Arc::new(File::open("/dev/null").unwrap());
    let image = |name: &str| GuestImage { name: name.into(), file: Arc::clone(&file) };
    Guests { executor: image("unikraft_tool_executor"), hostile: image("hostile") }
}
