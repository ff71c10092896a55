//! Prints where the time of a boot goes: `boot_breakdown OSVM-VM IMAGE [RUNS [pvh|linux64 [prepare]]]`.
//!
//! Medians and minima in microseconds, one line per step, from osvm's decision to start a VM
//! process to the moment it is gone again.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use osvm_kvm::{BootProtocol, KvmBackend};
use osvm_protocol::message::{self, Id};
use osvm_protocol::{Cid, PORT};
use osvm_vmm::{GuestImage, Machine, MachineSpec, MemoryMib};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::value::RawValue;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const STEPS: [&str; 10] = [
    "exec to first own code",
    "empty VM, no network",
    "spec received",
    "image loaded",
    "jail in force",
    "osvm knows",
    "guest accepts",
    "guest answers",
    "gone",
    "in all",
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, image, rest @ ..] = &arguments[..] else {
        return Err("usage: boot_breakdown OSVM-VM IMAGE [RUNS [pvh|linux64 [prepare]]]".into());
    };
    let runs: usize = rest.first().map_or(Ok(40), |runs| runs.parse())?;
    let linux64 = rest.get(1).is_some_and(|protocol| protocol == "linux64");
    let protocol = if linux64 { BootProtocol::Linux64 } else { BootProtocol::Pvh };
    let mut file = memory_file()?;
    file.write_all(&std::fs::read(image)?)?;
    let image = GuestImage { name: "image".into(), file: Arc::new(file) };
    let mut backend = KvmBackend::new(program.into());
    (backend.protocol, backend.count) = (protocol, true);
    let prepare = rest.get(2).is_some();
    let mut times: [Vec<f64>; STEPS.len()] = Default::default();
    let mut last = String::new();
    for _ in 0..runs {
        let (steps, told) = once(&backend, &image, prepare)?;
        times.iter_mut().zip(steps).for_each(|(column, time)| column.push(time));
        last = told;
    }
    for (name, column) in STEPS.iter().zip(&mut times) {
        column.sort_by(f64::total_cmp);
        let median = column.get(runs / 2).copied().unwrap_or(f64::NAN);
        let least = column.first().copied().unwrap_or(f64::NAN);
        println!("{name:24} {median:9.0} {least:9.0}");
    }
    println!("{last}");
    Ok(())
}

fn once(
    backend: &KvmBackend,
    image: &GuestImage,
    prepare: bool,
) -> Result<([f64; STEPS.len()], String), Box<dyn Error>> {
    let soon = Instant::now() + Duration::from_secs(10);
    let spec = MachineSpec {
        image: image.clone(),
        memory: MemoryMib::new(128)?,
        cid: Cid::new(200)?,
        boot_page: Vec::new(),
        console: memory_file()?,
        lease: None,
    };
    let arguments = RawValue::from_string(r#"{"text":"hi"}"#.into())?;
    let request = message::request(&Id::from(1), Some("system"), "echo", Some(&arguments))?;
    if prepare {
        backend.prepare()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = now();
    let begun = Instant::now();
    let mut machine = backend.start(&spec)?;
    let known = begun.elapsed();
    let mut stream = machine.connect(PORT, soon)?;
    let accepted = begun.elapsed();
    stream.write_all(&request, soon)?;
    let mut answer = [0; 4096];
    if stream.read(&mut answer, soon)? == 0 {
        return Err(format!("the guest hung up: {}", machine.death()).into());
    }
    let answered = begun.elapsed();
    let counts = machine.counts(soon);
    let usage = machine.usage();
    let status = std::fs::read_to_string(format!("/proc/{}/status", machine.vm_pid()))?;
    let rss: Vec<_> = status.lines().filter(|line| line.starts_with("Rss")).collect();
    let jail = machine.jail();
    let (from, to) = machine.boot_times().ok_or("no boot times")?;
    let measured = Instant::now();
    drop(machine);
    let gone = measured.elapsed();
    let us = |from: u64, to: u64| Duration::from_nanos(to.saturating_sub(from)).as_secs_f64() * 1e6;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let steps = [
        us(from, to.started),
        us(to.started, to.vm_made),
        us(to.vm_made.max(before), to.told),
        us(to.told, to.loaded),
        us(to.loaded, to.jailed),
        micros(known) - us(from.max(before), to.jailed),
        micros(accepted - known),
        micros(answered - accepted),
        micros(gone),
        micros(answered) + micros(gone),
    ];
    Ok((steps, format!("{counts:?}\n{usage:?}\n{rss:?}\n{jail:?}")))
}

fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

fn memory_file() -> Result<File, Box<dyn Error>> {
    Ok(memfd_create("osvm", MemfdFlags::CLOEXEC)?.into())
}
