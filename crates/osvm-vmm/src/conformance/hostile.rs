//! The promises that hold whatever a guest does.
//!
//! One image, `hostile`, does what environment variable `HOSTILE` in its boot page says. Each way
//! to misbehave ends in its own error, within its deadline, with nothing left behind.

use super::client::{Guest, OrSay, Stream, Wish, at_once, process_exists, silence};
use super::{Promise, Subject};
use crate::{ConnectError, Death};
use osvm_protocol::frame::{self, HEADER_LEN, MAX_PAYLOAD};
use osvm_protocol::message::{self, Id, Message};
use std::io;
use std::time::{Duration, Instant};

/// The variable that chooses a behaviour.
const HOSTILE: &str = "HOSTILE";
/// How long a guest may be silent before its call is given up, here.
const DEADLINE: Duration = Duration::from_millis(500);

pub(super) const ALL: &[Promise] = &[
    Promise { name: "hostile_spin_at_boot", check: |s| never_accepts(s, "spin_at_boot") },
    Promise { name: "hostile_never_accept", check: |s| never_accepts(s, "never_accept") },
    Promise { name: "hostile_triple_fault", check: |s| dies(s, "triple_fault", triple_fault) },
    Promise { name: "hostile_panic", check: |s| dies(s, "panic", panicked) },
    Promise { name: "hostile_stack_overflow", check: |s| dies(s, "stack_overflow", panicked) },
    Promise { name: "hostile_null_read", check: |s| dies(s, "null_read", panicked) },
    Promise { name: "hostile_write_text", check: |s| dies(s, "write_text", panicked) },
    Promise { name: "hostile_execute_data", check: |s| dies(s, "execute_data", panicked) },
    Promise { name: "hostile_outside_memory", check: |s| dies(s, "outside_memory", outside) },
    Promise {
        name: "hostile_outside_memory_write",
        check: |s| dies(s, "outside_memory_write", outside),
    },
    Promise { name: "hostile_flood_console", check: flood_console },
    Promise { name: "hostile_rubbish_rings", check: |s| breaks_rings(s, "rubbish_rings") },
    Promise { name: "hostile_rings_loop", check: |s| breaks_rings(s, "rings_loop") },
    Promise {
        name: "hostile_rings_next_outside",
        check: |s| breaks_rings(s, "rings_next_outside"),
    },
    Promise {
        name: "hostile_rings_outside_memory",
        check: |s| breaks_rings(s, "rings_outside_memory"),
    },
    Promise { name: "hostile_rings_wrapping", check: |s| breaks_rings(s, "rings_wrapping") },
    Promise { name: "hostile_rings_huge_length", check: |s| breaks_rings(s, "rings_huge_length") },
    Promise { name: "hostile_rings_index_jump", check: |s| breaks_rings(s, "rings_index_jump") },
    Promise {
        name: "hostile_rings_wrong_direction",
        check: |s| breaks_rings(s, "rings_wrong_direction"),
    },
    Promise { name: "hostile_rings_misplaced", check: |s| breaks_rings(s, "rings_misplaced") },
    Promise {
        name: "hostile_rings_short_header",
        check: |s| breaks_rings(s, "rings_short_header"),
    },
    Promise { name: "hostile_rings_truncated", check: |s| breaks_rings(s, "rings_truncated") },
    Promise { name: "hostile_spin", check: spin },
    Promise { name: "hostile_hang_up", check: hang_up },
    Promise { name: "hostile_announce_4gib", check: announce_4gib },
    Promise { name: "hostile_die_mid_frame", check: die_mid_frame },
    Promise { name: "hostile_flood", check: flood },
    Promise { name: "hostile_wrong_id", check: wrong_id },
    Promise { name: "hostile_rubbish_json", check: rubbish_json },
    Promise { name: "hostile_vsock_wrong_cid", check: |s| says_nothing(s, "vsock_wrong_cid") },
    Promise { name: "hostile_vsock_unknown_op", check: |s| says_nothing(s, "vsock_unknown_op") },
    Promise { name: "hostile_vsock_credit_lie", check: |s| says_nothing(s, "vsock_credit_lie") },
    Promise { name: "hostile_vsock_stray", check: |s| says_nothing(s, "vsock_stray") },
    Promise { name: "hostile_vsock_ignore_credit", check: vsock_ignore_credit },
];

fn triple_fault(death: &Death) -> bool {
    matches!(death, Death::TripleFault)
}

/// And not because the image does not know the behaviour, which is a panic too.
fn panicked(death: &Death) -> bool {
    let Death::Panicked { last_words } = death else { return false };
    !last_words.is_empty() && !last_words.contains("no behaviour")
}

/// A hypervisor ends the guest for it, or lets it read there what an empty bus reads as, whatever
/// it has written.
fn outside(death: &Death) -> bool {
    const NOTHING: [&str; 2] = ["reads as 0x0", "reads as 0xffffffffffffffff"];
    match death {
        Death::OutOfBounds { .. } => true,
        Death::Panicked { last_words } => NOTHING.iter().any(|end| last_words.ends_with(end)),
        _ => false,
    }
}

/// A device of osvm's ends the guest for it. One that is somebody else's may go silent instead:
/// then nothing comes of the stream, and that is known when its time is up.
fn breaks_rings(subject: Subject<'_>, behaviour: &str) -> Result<(), String> {
    let mut guest = hostile(subject, behaviour)?;
    let mut stream = match guest.try_connect(silence()) {
        Err(ConnectError::Died(Death::DeviceAbuse { .. })) => return guest.destroy(),
        Err(ConnectError::Deadline { .. } | ConnectError::Refused { .. }) => {
            return killed_at_once(guest);
        }
        Ok(stream) => Stream::over(stream),
        Err(error) => return Err(format!("connecting gave: {error}")),
    };
    // It does it when it is asked something.
    let request = message::request(&Id::from(ID), Some("system"), "echo", None);
    let _sent = stream.send(&request.or_say("request")?);
    match stream.stream.read(&mut [0; 16], Instant::now() + DEADLINE) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => killed_at_once(guest),
        Ok(0) => match guest.machine.death() {
            // The stream ended; the guest did, or was ended for being asked.
            Death::DeviceAbuse { .. } | Death::Killed { .. } => guest.destroy(),
            other => Err(format!("the guest is said to have ended so: {other}")),
        },
        other => Err(format!("the stream gave {other:?}")),
    }
}

/// No stream, for as long as anybody waits; and it can still be killed.
fn never_accepts(subject: Subject<'_>, behaviour: &str) -> Result<(), String> {
    let mut guest = hostile(subject, behaviour)?;
    let begun = Instant::now();
    match guest.try_connect(DEADLINE) {
        Err(ConnectError::Deadline { .. }) if begun.elapsed() < DEADLINE + at_once() => {
            killed_at_once(guest)
        }
        other => Err(format!("connecting gave {other:?} after {:?}", begun.elapsed())),
    }
}

/// Burns its processor instead of answering: only a kill ends it.
fn spin(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = asked(subject, "spin")?;
    let answer = stream.stream.read(&mut [0; 16], Instant::now() + DEADLINE);
    match answer {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => killed_at_once(guest),
        other => Err(format!("a guest that spins gave {other:?}")),
    }
}

/// Writes to its console without end.
fn flood_console(subject: Subject<'_>) -> Result<(), String> {
    let mut guest = hostile(subject, "flood_console")?;
    match guest.try_connect(DEADLINE) {
        Err(ConnectError::Deadline { .. }) => {}
        other => return Err(format!("connecting gave {other:?}")),
    }
    let console = guest.console.try_clone().or_say("console")?;
    killed_at_once(guest)?;
    let len = console.metadata().or_say("console")?.len();
    if MAX_CONSOLE < len { Err(format!("{len} bytes of console were kept")) } else { Ok(()) }
}

/// 64 KiB and a line that says where it was cut, in bytes.
const MAX_CONSOLE: u64 = 64 * 1024 + 256;

/// Ends the stream, not itself.
fn hang_up(subject: Subject<'_>) -> Result<(), String> {
    let (mut guest, mut stream) = asked(subject, "hang_up")?;
    stream.drain(at_once())?;
    match guest.machine.death() {
        Death::Killed { .. } => guest.destroy(),
        other => Err(format!("a guest that lives on is said to have ended so: {other}")),
    }
}

/// The length of a frame is all that is ever read of it.
fn announce_4gib(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = asked(subject, "announce_4gib")?;
    let mut header = [0; HEADER_LEN];
    stream.fill(&mut header)?;
    match frame::payload_len(header) {
        Err(_) => guest.destroy(),
        Ok(len) => Err(format!("the guest announced only {len} bytes")),
    }
}

fn die_mid_frame(subject: Subject<'_>) -> Result<(), String> {
    let (mut guest, mut stream) = asked(subject, "die_mid_frame")?;
    match stream.frame() {
        Err(reason) if reason.starts_with("the guest hung up") => {}
        other => return Err(format!("instead of half a frame came {other:?}")),
    }
    match guest.machine.death() {
        Death::TripleFault | Death::ShutDown => guest.destroy(),
        other => Err(format!("the guest is said to have ended so: {other}")),
    }
}

/// Sends without end: what is not read waits in the guest, not in osvm.
fn flood(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = asked(subject, "flood")?;
    // A whole largest payload of it, which also shows that 10 MiB come out of a guest.
    let mut left = usize::try_from(MAX_PAYLOAD).or_say("length")?;
    let mut buffer = vec![0; 64 * 1024];
    while 0 < left {
        let piece = buffer.len().min(left);
        stream.fill(buffer.get_mut(..piece).unwrap_or_default())?;
        left -= piece;
    }
    let pid = guest.machine.vm_pid();
    let (before, ()) = (resident_kb(pid)?, std::thread::sleep(DEADLINE));
    let after = resident_kb(pid)?;
    if before + 4096 < after {
        return Err(format!("unread bytes pile up: {before} KiB became {after}"));
    }
    let begun = Instant::now();
    guest.machine.killer().kill();
    stream.drain(at_once())?;
    if at_once() < begun.elapsed() {
        return Err(format!("a flooding guest was killed in {:?}", begun.elapsed()));
    }
    guest.destroy()
}

fn wrong_id(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = asked(subject, "wrong_id")?;
    let payload = stream.frame()?;
    match message::parse(&payload).or_say("the answer is no message")? {
        Message::Response(answer) if answer.id != Some(Id::from(ID)) => guest.destroy(),
        other => Err(format!("the answer is {other:?}")),
    }
}

/// A device of osvm's own ends the guest for it. A device that is somebody else's may also go
/// silent: then nothing comes of the connection, and it says so within its deadline.
fn rubbish_json(subject: Subject<'_>) -> Result<(), String> {
    let (guest, mut stream) = asked(subject, "rubbish_json")?;
    match message::parse(&stream.frame()?) {
        Err(_) => guest.destroy(),
        Ok(message) => Err(format!("rubbish was read as {message:?}")),
    }
}

/// What it sends is not for this stream, so nothing of it arrives here.
fn says_nothing(subject: Subject<'_>, behaviour: &str) -> Result<(), String> {
    let mut guest = hostile(subject, behaviour)?;
    let mut stream = guest.connect()?;
    let request = message::request(&Id::from(ID), Some("system"), "echo", None);
    // It may have broken the rules, and lost the stream for it, before all of this is sent.
    let _sent = stream.send(&request.or_say("request")?);
    match stream.stream.read(&mut [0; 16], Instant::now() + DEADLINE) {
        // The device may end the stream, or only ignore what was sent.
        Ok(0) => guest.destroy(),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => killed_at_once(guest),
        other => Err(format!("the stream gave {other:?}")),
    }
}

/// Sends more than there is room for, to a host that does not read.
fn vsock_ignore_credit(subject: Subject<'_>) -> Result<(), String> {
    let (mut guest, stream) = asked(subject, "vsock_ignore_credit")?;
    // Waits for the end; nobody accepts another stream there.
    let died = guest.try_connect(at_once());
    drop(stream);
    match died {
        Err(ConnectError::Died(Death::DeviceAbuse { .. })) => guest.destroy(),
        other => Err(format!("instead of dying, the guest gave {other:?}")),
    }
}

/// A kill ends it, whatever it does.
fn killed_at_once(mut guest: Guest) -> Result<(), String> {
    let begun = Instant::now();
    guest.machine.killer().kill();
    match guest.machine.death() {
        Death::Killed { .. } if begun.elapsed() < at_once() => guest.destroy(),
        other => Err(format!("the guest was killed in {:?}: {other}", begun.elapsed())),
    }
}

fn hostile(subject: Subject<'_>, behaviour: &str) -> Result<Guest, String> {
    let wish =
        Wish { image: &subject.guests.hostile, env: &[(HOSTILE, behaviour)], ..subject.wish() };
    subject.boot(wish)
}

/// The id of the one request a hostile guest gets.
const ID: u64 = 7;

/// A hostile guest that has accepted a stream and a request.
fn asked(subject: Subject<'_>, behaviour: &str) -> Result<(Guest, Stream), String> {
    let mut guest = hostile(subject, behaviour)?;
    let mut stream = guest.connect()?;
    let request = message::request(&Id::from(ID), Some("system"), "echo", None);
    stream.send(&request.or_say("request")?)?;
    Ok((guest, stream))
}

/// The guest ends by itself, at once, in the way `expected` accepts.
fn dies(subject: Subject<'_>, behaviour: &str, expected: fn(&Death) -> bool) -> Result<(), String> {
    let mut guest = hostile(subject, behaviour)?;
    let pid = guest.machine.vm_pid();
    let death = match guest.try_connect(at_once()) {
        Err(ConnectError::Died(death)) => death,
        Err(error) => return Err(format!("instead of dying, connecting gave: {error}")),
        Ok(stream) => {
            // It does it when it is asked something.
            let mut stream = Stream::over(stream);
            let request = message::request(&Id::from(ID), Some("system"), "echo", None);
            // The guest may be dead before all of this is sent.
            let _sent = stream.send(&request.or_say("request")?);
            stream.drain(at_once())?;
            guest.machine.death()
        }
    };
    if !expected(&death) {
        return Err(format!("the guest is said to have ended so: {death}"));
    }
    if process_exists(pid) {
        return Err(format!("VM process {pid} outlived its guest's death"));
    }
    guest.destroy()
}

/// Memory of a process in KiB, from `VmRSS`.
fn resident_kb(pid: u32) -> Result<u64, String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).or_say("VM process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap_or("0").parse().or_say("VmRSS")
}
