//! The promises that hold for guests that behave.

use super::client::{Guest, OrSay, PATIENCE, Stream, Wish, at_once};
use super::{Promise, Subject};
use crate::{ConnectError, Death, MemoryMib};
use osvm_protocol::frame::{self, MAX_PAYLOAD};
use osvm_protocol::{PROTOCOL_VERSION, code, info};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const ALL: &[Promise] = &[
    Promise { name: "a_guest_answers", check: a_guest_answers },
    Promise { name: "a_guest_says_what_it_is", check: a_guest_says_what_it_is },
    Promise { name: "one_guest_serves_many_streams", check: one_guest_serves_many_streams },
    Promise { name: "a_port_without_a_listener_refuses", check: a_port_without_a_listener_refuses },
    Promise { name: "ten_mib_reach_the_guest", check: ten_mib_reach_the_guest },
    Promise { name: "large_answers_come_back", check: large_answers_come_back },
    Promise { name: "a_guest_sees_exactly_its_memory", check: a_guest_sees_exactly_its_memory },
    Promise { name: "a_guest_has_no_network_device", check: a_guest_has_no_network_device },
    Promise { name: "a_guest_gets_its_environment", check: a_guest_gets_its_environment },
    Promise { name: "two_guests_do_not_share_a_fate", check: two_guests_do_not_share_a_fate },
    Promise { name: "a_killed_guest_is_noticed_at_once", check: a_killed_guest_is_noticed_at_once },
    Promise { name: "a_killer_outlives_its_machine", check: a_killer_outlives_its_machine },
    Promise { name: "dropping_a_machine_destroys_it", check: dropping_a_machine_destroys_it },
    Promise { name: "dropping_a_machine_frees_all", check: dropping_a_machine_frees_all },
    Promise {
        name: "a_lease_lasts_as_long_as_the_guest",
        check: a_lease_lasts_as_long_as_the_guest,
    },
    Promise { name: "usage_stays_within_the_memory", check: usage_stays_within_the_memory },
];

fn a_guest_answers(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = reached(subject)?;
    stream.echo("hello, guest")?;
    stream.echo("\u{1f980} \"quoted\" \\ \u{7}")?;
    guest.destroy()
}

fn a_guest_says_what_it_is(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = reached(subject)?;
    let info = stream.call(None, info::METHOD, &serde_json::json!({}))?;
    let protocol = info.get("protocol").and_then(Value::as_u64);
    let name = info.get("name").and_then(Value::as_str);
    if protocol != Some(PROTOCOL_VERSION.into()) || name != Some(&subject.guests.executor.name) {
        return Err(format!("`{}` said {info}", info::METHOD));
    }
    guest.destroy()
}

fn one_guest_serves_many_streams(subject: Subject<'_>) -> Result<(), String> {
    let (mut guest, mut first) = reached(subject)?;
    first.echo("first")?;
    // The guest serves one stream at a time; the next one's turn comes when this one is closed.
    drop(first);
    guest.connect()?.echo("second")?;
    guest.destroy()
}

fn a_port_without_a_listener_refuses(subject: Subject<'_>) -> Result<(), String> {
    let (mut guest, mut stream) = reached(subject)?;
    match guest.machine.connect(9, Instant::now() + PATIENCE) {
        Err(ConnectError::Refused { port: 9 }) => {}
        other => return Err(format!("instead of a refusal came {other:?}")),
    }
    stream.echo("still here")?;
    guest.destroy()
}

fn ten_mib_reach_the_guest(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = reached(subject)?;
    let len = usize::try_from(MAX_PAYLOAD).or_say("length")?;
    // Not JSON, so that the guest has no more work with it than to receive all of it.
    stream.send(&frame::encode(&vec![b'x'; len]).or_say("frame")?)?;
    let error = stream.error()?;
    if error.code != code::PARSE_ERROR {
        return Err(format!("10 MiB that are not JSON were met with error {}", error.code));
    }
    stream.echo("after 10 MiB")?;
    guest.destroy()
}

fn large_answers_come_back(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = reached(subject)?;
    stream.echo("warm")?;
    let sample = 1 << 12;
    let begun = Instant::now();
    stream.echo(&"0123456789abcdef".repeat(sample / 16))?;
    let per_byte = begun.elapsed().as_secs_f64() / f64_of(sample);
    // A guest looks at every byte of a text, which takes minutes for 10 MiB where its
    // instructions are interpreted. There, as much as fits into the patience; anywhere else, all.
    let most = usize::try_from(MAX_PAYLOAD).or_say("length")? - ENVELOPE;
    let mut len = most;
    while SMALLEST_LARGE < len && PATIENCE.as_secs_f64() / 4.0 < per_byte * f64_of(len) {
        len /= 2;
    }
    if len != most {
        super::note(&format!("this guest is slow: it echoed {len} bytes instead of {most}"));
    }
    stream.echo(&"0123456789abcdef".repeat(len / 16))?;
    guest.destroy()
}

/// Room for what stands around an echoed text, in bytes.
const ENVELOPE: usize = 256;
/// Many packets, in bytes: below this an answer is not large.
const SMALLEST_LARGE: usize = 128 * 1024;

fn f64_of(len: usize) -> f64 {
    u32::try_from(len).map_or(f64::MAX, f64::from)
}

fn a_guest_sees_exactly_its_memory(subject: Subject<'_>) -> Result<(), String> {
    for memory_mib in [64, 128] {
        let mut guest = subject.boot(Wish { memory_mib, ..subject.wish() })?;
        let info = guest.connect()?.guest_info()?;
        let seen = info.get("memory_bytes").and_then(Value::as_u64);
        if seen != Some(u64::from(memory_mib) << 20) {
            return Err(format!("a guest of {memory_mib} MiB saw {seen:?} bytes"));
        }
        guest.destroy()?;
    }
    Ok(())
}

/// The number of a socket device in the virtio specification, section 5.
const VSOCK: u64 = 19;

fn a_guest_has_no_network_device(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = reached(subject)?;
    let info = stream.guest_info()?;
    let devices = info.get("devices").and_then(Value::as_array);
    let kinds: Vec<_> =
        devices.into_iter().flatten().filter_map(|d| d.get("kind")?.as_u64()).collect();
    if kinds != [VSOCK] {
        return Err(format!("the guest has virtio devices {kinds:?}, not just {VSOCK}"));
    }
    guest.destroy()
}

fn a_guest_gets_its_environment(subject: Subject<'_>) -> Result<(), String> {
    let env = [("OSVM_FIRST", "1"), ("OSVM_SECOND", "two")];
    let mut guest = subject.boot(Wish { env: &env, ..subject.wish() })?;
    let info = guest.connect()?.guest_info()?;
    let names: Vec<_> = info.get("env").and_then(Value::as_array).into_iter().flatten().collect();
    if names != ["OSVM_FIRST", "OSVM_SECOND"] {
        return Err(format!("the guest has environment variables {names:?}"));
    }
    guest.destroy()
}

fn two_guests_do_not_share_a_fate(subject: Subject<'_>) -> Result<(), String> {
    let (first, mut first_stream) = reached(subject)?;
    let mut second = subject.boot(Wish { cid: 298, ..subject.wish() })?;
    let mut second_stream = second.connect()?;
    if first.machine.vm_pid() == second.machine.vm_pid() {
        return Err("two guests share a VM process".into());
    }
    first_stream.echo("one")?;
    second_stream.echo("two")?;
    first.destroy()?;
    second_stream.echo("still two")?;
    second.destroy()
}

fn a_killed_guest_is_noticed_at_once(subject: Subject<'_>) -> Result<(), String> {
    let (mut guest, mut stream) = reached(subject)?;
    let killer = guest.machine.killer();
    let killing = std::thread::spawn(move || killer.kill());
    let hung_up = stream.drain(at_once());
    // The thread does nothing that could fail.
    let _done = killing.join();
    hung_up?;
    match guest.try_connect(at_once()) {
        Err(ConnectError::Died(Death::Killed { .. })) => {}
        other => return Err(format!("connecting to a killed guest gave {other:?}")),
    }
    match guest.machine.death() {
        Death::Killed { .. } => guest.destroy(),
        other => Err(format!("a killed guest is said to have ended so: {other}")),
    }
}

fn a_killer_outlives_its_machine(subject: Subject<'_>) -> Result<(), String> {
    let guest = subject.boot(subject.wish())?;
    let killer = guest.machine.killer();
    killer.kill();
    killer.kill();
    guest.destroy()?;
    killer.kill();
    Ok(())
}

fn dropping_a_machine_destroys_it(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = reached(subject)?;
    guest.destroy()?;
    stream.drain(at_once())
}

fn dropping_a_machine_frees_all(subject: Subject<'_>) -> Result<(), String> {
    let once = || {
        let (guest, stream) = reached(subject)?;
        drop(stream);
        guest.destroy()
    };
    // What the first guest of a process opens for good is none of the next one's business.
    once()?;
    let before = descriptors()?;
    once()?;
    // Other threads of a test may open something for a moment; nothing stays.
    let patience = Instant::now() + at_once();
    loop {
        match descriptors()? {
            after if after <= before => return Ok(()),
            after if patience <= Instant::now() => {
                return Err(format!("{before} descriptors became {after}"));
            }
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn descriptors() -> Result<usize, String> {
    Ok(fs::read_dir("/proc/self/fd").or_say("`/proc/self/fd`")?.count())
}

fn a_lease_lasts_as_long_as_the_guest(subject: Subject<'_>) -> Result<(), String> {
    let (reader, lease) = pipe_with(PipeFlags::CLOEXEC).or_say("pipe")?;
    let guest = subject.boot(Wish { lease: Some(Arc::new(lease)), ..subject.wish() })?;
    let given_up = || {
        // A process keeps what it inherits until a moment after it has been started.
        let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut end = [PollFd::new(&reader, PollFlags::empty())];
        poll(&mut end, Some(&moment)).or_say("poll")
    };
    if given_up()? != 0 {
        return Err("the VM process does not hold the lease".into());
    }
    guest.destroy()?;
    if given_up()? == 0 {
        return Err("the lease outlived the guest".into());
    }
    Ok(())
}

fn usage_stays_within_the_memory(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = reached(subject)?;
    let before = guest.machine.usage().guest_memory_kb;
    stream.echo(&"x".repeat(1 << 12))?;
    let after = guest.machine.usage().guest_memory_kb;
    let memory = MemoryMib::new(64).or_say("memory size")?.bytes() / 1024;
    match (before, after) {
        // This backend can't tell, and says so.
        (None, None) => {}
        (Some(before), Some(after)) if 0 < before && before <= after && after <= memory => {}
        other => return Err(format!("a guest of {memory} KiB is said to use {other:?} KiB")),
    }
    guest.destroy()
}

fn reached(subject: Subject<'_>) -> Result<(Guest, Stream), String> {
    let mut guest = subject.boot(subject.wish())?;
    let stream = guest.connect()?;
    Ok((guest, stream))
}
