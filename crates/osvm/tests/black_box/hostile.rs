//! Guests that misbehave: each ends in its own error, on time, with nothing left behind.

use crate::support::{Home, wait_for_end_of};
use snapbox::data::Inline;
use snapbox::str;
use std::fs;
use std::time::{Duration, Instant};

/// `timeout_secs` of every call here.
const LIMIT: u32 = 2;
/// What starting osvm and destroying a VM may take on top, on a busy host.
const SLACK: Duration = Duration::from_secs(3);

#[test]
fn a_guest_that_spins_is_killed_on_time() {
    check(
        "spin",
        str![[r#"
error: no answer within 2 s: killed while the tool was running

hint: `timeout_secs` in the isolation config is the limit of a call

"#]],
    );
}

#[test]
fn a_guest_that_never_accepts_is_killed_on_time() {
    check(
        "never_accept",
        str![[r#"
error: no answer within 2 s: killed while the guest was booting

hint: `timeout_secs` in the isolation config is the limit of a call

"#]],
    );
}

#[test]
fn a_triple_fault_is_told() {
    check(
        "triple_fault",
        str![[r#"
error: the guest ended before it accepted a connection
  caused by: the guest triple-faulted

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn a_panic_is_told_with_its_last_words() {
    check(
        "panic",
        str![[r#"
error: the guest ended before it accepted a connection
  caused by: the guest panicked: as asked

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn a_frame_announced_over_the_limit_is_refused() {
    check(
        "announce_4gib",
        str![[r#"
error: the tool executor announced too long a message
  caused by: frame of 4294967295 bytes is over the limit of 10485760

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn a_death_in_mid_frame_is_no_answer() {
    check(
        "die_mid_frame",
        str![[r#"
error: the tool executor ended in the middle of a message
  caused by: the guest triple-faulted

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn a_flood_is_ended() {
    check(
        "flood",
        str![[r#"
error: the tool executor announced too long a message
  caused by: frame of 2021161080 bytes is over the limit of 10485760

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn an_answer_to_another_question_is_no_answer() {
    check(
        "wrong_id",
        str![[r#"
error: the tool executor answered request 18446744073709551615, which was not asked

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn rubbish_in_the_rings_ends_the_guest() {
    check(
        "rubbish_rings",
        str![[r#"
error: the guest ended before it accepted a connection
  caused by: the guest broke the rules of its vsock device: queue `tx` has a descriptor 32767 outside its table

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn touching_memory_that_was_not_given_ends_the_guest() {
    check(
        "outside_memory",
        str![[r#"
error: the guest ended before it accepted a connection
  caused by: the guest touched address 0x8100000, which it was not given

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn a_guest_that_spins_before_it_has_a_device_is_killed_on_time() {
    check(
        "spin_at_boot",
        str![[r#"
error: no answer within 2 s: killed while the guest was booting

hint: `timeout_secs` in the isolation config is the limit of a call

"#]],
    );
}

#[test]
fn a_guest_that_floods_its_console_is_killed_on_time_and_its_log_is_bounded() {
    let home = check(
        "flood_console",
        str![[r#"
error: no answer within 2 s: killed while the guest was booting

hint: `timeout_secs` in the isolation config is the limit of a call

"#]],
    );
    let logs = fs::read_dir(home.path().join(".local/state/osvm/calls")).unwrap();
    let size: u64 = logs.map(|log| log.unwrap().metadata().unwrap().len()).sum();
    assert!((1 << 10..2 << 20).contains(&size), "{size} bytes of log");
}

#[test]
fn a_guest_that_hangs_up_gives_no_answer() {
    check(
        "hang_up",
        str![[r#"
error: the tool executor ended without an answer
  caused by: the VM process was killed by signal 9

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn an_answer_that_is_no_json_is_no_answer() {
    check(
        "rubbish_json",
        str![[r#"
error: the tool executor sent rubbish
  caused by: not JSON: invalid utf-8 sequence of 1 bytes from index 22

hint: `osvm logs` shows what the guest wrote to its console

"#]],
    );
}

#[test]
fn every_fault_of_the_guest_is_told_with_its_address() {
    check_all(
        ["stack_overflow", "null_read", "write_text", "execute_data", "outside_memory_write"],
        str![[r#"
stack_overflow: caused by: the guest panicked: stack overflow (vector 14) at rip=0x[..] cr2=0x[..] error=0x2
null_read: caused by: the guest panicked: page fault (vector 14) at rip=0x[..] cr2=0x0 error=0x0
write_text: caused by: the guest panicked: page fault (vector 14) at rip=0x[..] cr2=0x[..] error=0x3
execute_data: caused by: the guest panicked: page fault (vector 14) at rip=0x[..] cr2=0x[..] error=0x11
outside_memory_write: caused by: the guest touched address 0x8100000, which it was not given

"#]],
    );
}

#[test]
fn every_abuse_of_the_rings_is_named() {
    check_all(
        [
            "rings_loop",
            "rings_next_outside",
            "rings_outside_memory",
            "rings_wrapping",
            "rings_huge_length",
            "rings_index_jump",
            "rings_wrong_direction",
            "rings_misplaced",
            "rings_short_header",
            "rings_truncated",
        ],
        str![[r#"
rings_loop: caused by: the guest broke the rules of its vsock device: queue `tx` has an endless descriptor chain
rings_next_outside: caused by: the guest broke the rules of its vsock device: queue `tx` has a descriptor 4 outside its table
rings_outside_memory: caused by: the guest broke the rules of its vsock device: queue `tx` has a buffer of 44 bytes at 0x10000000000, outside guest memory
rings_wrapping: caused by: the guest broke the rules of its vsock device: queue `tx` has a buffer of 44 bytes at 0xfffffffffffffff7, outside guest memory
rings_huge_length: caused by: the guest broke the rules of its vsock device: queue `tx` has a buffer of 4294967295 bytes at 0x[..], outside guest memory
rings_index_jump: caused by: the guest broke the rules of its vsock device: queue `tx` announces more buffers than it has entries
rings_wrong_direction: caused by: the guest broke the rules of its vsock device: queue `tx` has a buffer of the wrong direction
rings_misplaced: caused by: the guest broke the rules of its vsock device: queue `tx` lies outside guest memory
rings_short_header: caused by: the guest broke the rules of its vsock device: queue `tx` has a buffer of 43 bytes, too short for a header
rings_truncated: caused by: the guest broke the rules of its vsock device: packet announces 1000 bytes but holds 0

"#]],
    );
}

#[test]
fn every_abuse_of_the_wire_is_named_or_ignored() {
    check_all(
        [
            "vsock_wrong_cid",
            "vsock_unknown_op",
            "vsock_credit_lie",
            "vsock_ignore_credit",
            "vsock_stray",
        ],
        str![[r#"
vsock_wrong_cid: error: no answer within 2 s: killed while the tool was running
vsock_unknown_op: caused by: the VM process was killed by signal 9
vsock_credit_lie: error: no answer within 2 s: killed while the tool was running
vsock_ignore_credit: caused by: frame of 2021161080 bytes is over the limit of 10485760
vsock_stray: error: no answer within 2 s: killed while the tool was running

"#]],
    );
}

#[test]
fn a_hostile_guest_does_not_reach_the_one_beside_it() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 30);
    let mut spinning = home.spawn(&["mcp", "call", "system", "echo", r#"{"text":"one"}"#]);
    let vm_pid = home.wait_for_vm();
    home.write("second.json", "{}");
    let second = ["--config", "second.json", "mcp", "call", "system", "echo", "--json"];
    let second: Vec<&str> = second.into_iter().chain([r#"{"text":"two"}"#]).collect();
    let output = home.osvm_std(&second).output().unwrap();
    let envelope: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(envelope["result"]["text"], "two");
    assert_eq!(envelope["isolation"]["cid"], 201, "the first CID is the spinning guest's");
    spinning.kill().unwrap();
    spinning.wait().unwrap();
    wait_for_end_of(vm_pid);
    home.assert_nothing_left();
}

/// Runs one behaviour and pins what is said about it.
#[track_caller]
fn check(behaviour: &str, stderr: Inline) -> Home {
    let home = Home::with_hostile_image();
    home.use_hostile(behaviour, LIMIT);
    let begun = Instant::now();
    let call = home.osvm(["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#]);
    call.assert().code(2).stdout_eq("").stderr_eq(stderr);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(LIMIT.into()) + SLACK, "it took {took:?}");
    home.assert_nothing_left();
    home
}

/// Runs several, and pins the last thing that is said about each but the hint.
#[track_caller]
fn check_all<const N: usize>(behaviours: [&str; N], told: Inline) {
    let mut all = String::new();
    for behaviour in behaviours {
        let home = Home::with_hostile_image();
        home.use_hostile(behaviour, LIMIT);
        let call = ["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#];
        let output = home.osvm_std(&call).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{behaviour}: {stderr}");
        let told = stderr.lines().take_while(|line| !line.is_empty()).last().unwrap();
        all.push_str(&format!("{behaviour}: {}\n", told.trim_start()));
        home.assert_nothing_left();
    }
    snapbox::assert_data_eq!(all, told);
}
