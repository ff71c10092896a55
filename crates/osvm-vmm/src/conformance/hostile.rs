//! The promises that hold whatever a guest does.
//!
//! One image, `hostile`, does what environment variable `HOSTILE` in its boot page says. Each way
//! to misbehave ends in its own error, within its deadline, with nothing left behind.

use super::client::{AT_ONCE, Guest, OrSay, Stream, Wish, process_exists};
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
    Promise { name: "hostile_spin", check: spin },
    Promise { name: "hostile_triple_fault", check: triple_fault },
    Promise { name: "hostile_panic", check: panic },
    Promise { name: "hostile_never_accept", check: never_accept },
    Promise { name: "hostile_announce_4gib", check: announce_4gib },
    Promise { name: "hostile_die_mid_frame", check: die_mid_frame },
    Promise { name: "hostile_flood", check: flood },
    Promise { name: "hostile_wrong_id", check: wrong_id },
    Promise { name: "hostile_rubbish_rings", check: rubbish_rings },
    Promise { name: "hostile_outside_memory", check: outside_memory },
];

/// Burns its processor and never answers: only a kill ends it.
fn spin(subject: Subject<'_>) -> Result<(), String> {
    let mut guest = hostile(subject, "spin")?;
    if let Ok(mut stream) = guest.try_connect(DEADLINE) {
        // It may have accepted before it began to spin.
        let answer = stream.read(&mut [0; 16], Instant::now() + DEADLINE);
        match answer {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            other => return Err(format!("a guest that spins gave {other:?}")),
        }
    }
    let begun = Instant::now();
    guest.machine.killer().kill();
    match guest.machine.death() {
        Death::Killed { .. } if begun.elapsed() < AT_ONCE => guest.destroy(),
        other => Err(format!("a spinning guest was killed in {:?}: {other}", begun.elapsed())),
    }
}

fn triple_fault(subject: Subject<'_>) -> Result<(), String> {
    dies(subject, "triple_fault", |death| matches!(death, Death::TripleFault))
}

fn panic(subject: Subject<'_>) -> Result<(), String> {
    dies(
        subject,
        "panic",
        |death| matches!(death, Death::Panicked { last_words } if !last_words.is_empty()),
    )
}

fn never_accept(subject: Subject<'_>) -> Result<(), String> {
    let mut guest = hostile(subject, "never_accept")?;
    let begun = Instant::now();
    match guest.try_connect(DEADLINE) {
        Err(ConnectError::Deadline { .. }) if begun.elapsed() < DEADLINE + AT_ONCE => {
            guest.destroy()
        }
        other => Err(format!("connecting gave {other:?} after {:?}", begun.elapsed())),
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
    stream.drain(AT_ONCE)?;
    if AT_ONCE < begun.elapsed() {
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
fn rubbish_rings(subject: Subject<'_>) -> Result<(), String> {
    let mut guest = hostile(subject, "rubbish_rings")?;
    match guest.try_connect(AT_ONCE) {
        Err(ConnectError::Deadline { .. } | ConnectError::Died(Death::DeviceAbuse { .. })) => {
            guest.destroy()
        }
        other => Err(format!("connecting gave {other:?}")),
    }
}

/// A hypervisor ends the guest for it, or lets it read what an empty bus reads as.
fn outside_memory(subject: Subject<'_>) -> Result<(), String> {
    const NOTHING: [&str; 2] = ["reads as 0x0", "reads as 0xffffffffffffffff"];
    dies(subject, "outside_memory", |death| match death {
        Death::OutOfBounds { .. } => true,
        Death::Panicked { last_words } => NOTHING.iter().any(|end| last_words.ends_with(end)),
        _ => false,
    })
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
    let death = match guest.try_connect(AT_ONCE) {
        Err(ConnectError::Died(death)) => death,
        Err(error) => return Err(format!("instead of dying, connecting gave: {error}")),
        Ok(stream) => {
            // It does it when it is asked something.
            let mut stream = Stream::over(stream);
            let request = message::request(&Id::from(ID), Some("system"), "echo", None);
            // The guest may be dead before all of this is sent.
            let _sent = stream.send(&request.or_say("request")?);
            stream.drain(AT_ONCE)?;
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
