//! One guest, looked at from close up, without the rest of osvm.

use crate::figure::Figure;
use crate::host::{Host, KB, RUNS, WARM_UP};
use anyhow::{Context, Result, bail};
use osvm_image::DEFAULT_IMAGE;
use osvm_kvm::{KvmBackend, KvmMachine};
use osvm_protocol::boot::BootPage;
use osvm_protocol::frame::{self, HEADER_LEN};
use osvm_protocol::message::{self, Id, Message};
use osvm_protocol::{Cid, PORT};
use osvm_vmm::{GuestImage, GuestStream, Machine, MachineSpec, MemoryMib};
use rustix::time::{ClockId, clock_gettime};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// The default of `memory_mb`.
const MEMORY_MIB: u32 = 128;
/// Longest a guest may take here.
const PATIENCE: Duration = Duration::from_secs(30);

/// A call that is looked at: server, tool, arguments.
type Call = (&'static str, &'static str, String);

/// The smallest call.
fn echo() -> Call {
    ("system", "echo", r#"{"text":"hi"}"#.into())
}

/// A call that computes: the first transaction of the executor's vectors, with one signature.
fn decode(host: &Host) -> Result<Call> {
    let vectors: Value = serde_json::from_str(&fs::read_to_string(&host.vectors)?)?;
    let transaction = vectors.pointer("/transactions/0/base64").context("no transaction")?;
    Ok(("solana", "decode_transaction", json!({ "transaction": transaction }).to_string()))
}

/// Guest instructions and exits from entry to the first answer.
pub(crate) fn counts(host: &Host) -> Result<Vec<Figure>> {
    let (instructions, exits) = count(host, &echo())?;
    let mut figures = vec![exits.goal(60.0)];
    // On hardware KVM interprets next to nothing, and the figure would mean nothing.
    figures.extend(instructions.map(|instructions| instructions.goal(10_000.0)));
    let (instructions, exits) = count(host, &decode(host)?)?;
    figures.push(exits);
    figures.extend(instructions);
    Ok(figures)
}

fn count(host: &Host, request: &Call) -> Result<(Option<Figure>, Figure)> {
    let mut backend = KvmBackend::new(host.osvm_vm.clone());
    backend.count = true;
    let mut machine = backend.start(&spec(host)?)?;
    let mut stream = machine.connect(PORT, soon())?;
    call(&mut stream, request)?;
    let counts = machine.counts(soon()).context("the VM process counted nothing")?;
    let figure = |what: &str, value: u64| {
        Figure::exact(format!("guest: {}, {what}", request.1), value as f64, "")
    };
    let instructions = counts.interpreted.map(|count| figure("interpreted instructions", count));
    Ok((instructions, figure("exits", counts.exits)))
}

/// The steps of one call, in their order.
const STEPS: [&str; 8] = [
    "shares: host, VM process started",
    "shares: host, empty VM made",
    "shares: host, image loaded",
    "shares: host, jailed",
    "shares: guest, accepts a connection",
    "shares: guest, answers echo",
    "shares: host, all of it destroyed",
    "shares: guest, decode_transaction in its place",
];

/// Where the time of a call goes.
pub(crate) fn shares(host: &Host) -> Result<Vec<Figure>> {
    let decode = decode(host)?;
    let mut steps: [Vec<Duration>; STEPS.len()] = Default::default();
    for run in 0..WARM_UP + RUNS {
        let times = one_call(host, &decode)?;
        for (step, time) in steps.iter_mut().zip(times).filter(|_| WARM_UP <= run) {
            step.push(time);
        }
    }
    STEPS.iter().zip(&steps).map(|(name, times)| Figure::times(*name, times)).collect()
}

fn one_call(host: &Host, decode: &Call) -> Result<[Duration; STEPS.len()]> {
    let backend = KvmBackend::new(host.osvm_vm.clone());
    let mut machine = backend.start(&spec(host)?)?;
    let (begun, times) = machine.boot_times().context("the VM process told no times")?;
    let mut stream = machine.connect(PORT, soon())?;
    let accepted = now();
    call(&mut stream, &echo())?;
    let answered = now();
    drop((stream, machine));
    let destroyed = now();
    let marks = [
        begun,
        times.started,
        times.vm_made,
        times.loaded,
        times.jailed,
        accepted,
        answered,
        destroyed,
    ];
    let mut steps = [Duration::ZERO; STEPS.len()];
    for (step, pair) in steps.iter_mut().zip(marks.windows(2)) {
        let [from, to] = pair else { bail!("a window of two has two") };
        *step = Duration::from_nanos(to.saturating_sub(*from));
    }
    let mut machine = backend.start(&spec(host)?)?;
    let mut stream = machine.connect(PORT, soon())?;
    let begun = Instant::now();
    call(&mut stream, decode)?;
    if let Some(last) = steps.last_mut() {
        *last = begun.elapsed();
    }
    Ok(steps)
}

/// What a VM costs while it lives: the process that runs it, and the guest's own pages.
pub(crate) fn memory(host: &Host) -> Result<Vec<Figure>> {
    let mut machine = KvmBackend::new(host.osvm_vm.clone()).start(&spec(host)?)?;
    let mut stream = machine.connect(PORT, soon())?;
    call(&mut stream, &echo())?;
    let status = fs::read_to_string(format!("/proc/{}/status", machine.vm_pid()))?;
    // Guest memory is a memory file, which the kernel counts as shared; nothing else here is.
    let [anonymous, file, tables] =
        ["RssAnon", "RssFile", "VmPTE"].map(|name| kibibytes(&status, name));
    let process = anonymous? + file? + tables?;
    Ok(vec![
        Figure::exact("memory: VM process besides guest pages", process, "KB").goal(6000.0),
        Figure::exact("memory: touched guest pages", touched(&machine)?, "KB"),
    ])
}

fn touched(machine: &KvmMachine) -> Result<f64> {
    let kibibytes = machine.usage().guest_memory_kb.context("the guest's pages are not counted")?;
    Ok(kibibytes as f64 * 1024.0 / KB)
}

/// A line of `/proc/PID/status`, in KB.
fn kibibytes(status: &str, name: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let number = number.with_context(|| format!("the VM process has no `{name}`"))?;
    Ok(number.parse::<f64>()? * 1024.0 / KB)
}

fn spec(host: &Host) -> Result<MachineSpec> {
    let image = host.store.load(DEFAULT_IMAGE)?;
    Ok(MachineSpec {
        image: GuestImage { name: image.name, file: image.file },
        memory: MemoryMib::new(MEMORY_MIB)?,
        // No vsock bus of the host is used, so this one need not be leased.
        cid: Cid::new(299)?,
        boot_page: BootPage::default().encode()?,
        console: tempfile::tempfile()?,
        lease: None,
    })
}

/// One request and its answer.
fn call(stream: &mut GuestStream, (server, tool, arguments): &Call) -> Result<()> {
    let arguments: &RawValue = serde_json::from_str(arguments)?;
    let request = message::request(&Id::from(1), Some(server), tool, Some(arguments))?;
    stream.write_all(&request, soon())?;
    let mut header = [0; HEADER_LEN];
    fill(stream, &mut header)?;
    let mut payload = vec![0; frame::payload_len(header)?];
    fill(stream, &mut payload)?;
    match message::parse(&payload)? {
        Message::Response(answer) => {
            answer.outcome.with_context(|| format!("`{server} {tool}` failed"))?;
            Ok(())
        }
        Message::Request(request) => bail!("the guest asked for `{}`", request.method),
    }
}

fn fill(stream: &mut GuestStream, mut buffer: &mut [u8]) -> Result<()> {
    while !buffer.is_empty() {
        let read = stream.read(buffer, soon())?;
        if read == 0 {
            bail!("the guest hung up");
        }
        buffer = buffer.get_mut(read..).unwrap_or_default();
    }
    Ok(())
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// CLOCK_MONOTONIC in nanoseconds, the clock of the VM process's times.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = now.tv_sec.unsigned_abs().saturating_mul(1_000_000_000);
    seconds.saturating_add(now.tv_nsec.unsigned_abs())
}
