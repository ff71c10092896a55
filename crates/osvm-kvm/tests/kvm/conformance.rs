//! The conformance suite on the embedded VMM with the real guests: one test per promise, so that
//! a broken one has a name.

use crate::support::{backend, kvm};
use osvm_kvm::{BootProtocol, KvmBackend};
use osvm_vmm::conformance::{self, Guests, PROMISES, Subject};

macro_rules! promises {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(&backend(), stringify!($name));
        })*

        const LISTED: &[&str] = &[$(stringify!($name)),*];
    };
}

promises! {
    a_guest_answers
    a_guest_says_what_it_is
    one_guest_serves_many_streams
    a_port_without_a_listener_refuses
    ten_mib_reach_the_guest
    large_answers_come_back
    a_guest_sees_exactly_its_memory
    a_guest_has_no_network_device
    a_guest_gets_its_environment
    two_guests_do_not_share_a_fate
    a_killed_guest_is_noticed_at_once
    a_killer_outlives_its_machine
    dropping_a_machine_destroys_it
    dropping_a_machine_frees_all
    a_lease_lasts_as_long_as_the_guest
    usage_stays_within_the_memory
    hostile_spin_at_boot
    hostile_never_accept
    hostile_triple_fault
    hostile_panic
    hostile_stack_overflow
    hostile_null_read
    hostile_write_text
    hostile_execute_data
    hostile_outside_memory
    hostile_outside_memory_write
    hostile_flood_console
    hostile_rubbish_rings
    hostile_rings_loop
    hostile_rings_next_outside
    hostile_rings_outside_memory
    hostile_rings_wrapping
    hostile_rings_huge_length
    hostile_rings_index_jump
    hostile_rings_wrong_direction
    hostile_rings_misplaced
    hostile_rings_short_header
    hostile_rings_truncated
    hostile_spin
    hostile_hang_up
    hostile_announce_4gib
    hostile_die_mid_frame
    hostile_flood
    hostile_wrong_id
    hostile_rubbish_json
    hostile_vsock_wrong_cid
    hostile_vsock_unknown_op
    hostile_vsock_credit_lie
    hostile_vsock_stray
    hostile_vsock_ignore_credit
}

#[test]
fn no_promise_is_forgotten() {
    let all: Vec<_> = PROMISES.iter().copied().flatten().map(|promise| promise.name).collect();
    assert_eq!(LISTED, all);
}

#[test]
fn a_guest_answers_by_the_linux_boot_protocol_too() {
    let mut backend = backend();
    backend.protocol = BootProtocol::Linux64;
    check(&backend, "a_guest_answers");
}

#[track_caller]
fn check(backend: &KvmBackend, promise: &str) {
    if !kvm() {
        return;
    }
    let guests = match Guests::load() {
        Ok(guests) => guests,
        Err(error) => {
            conformance::skip("guests", &format!("{error}: run `cargo xtask guest`"));
            return;
        }
    };
    let subject = Subject { backend, guests: &guests };
    let verdict = conformance::promise(promise).unwrap().check(subject);
    if let Err(broken) = verdict {
        panic!("{broken}");
    }
}
