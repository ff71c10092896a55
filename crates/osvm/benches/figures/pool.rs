//! What a daemon with ready VMs is worth: latency, throughput, memory.
//!
//! Each latency stands beside its floor, measured in the same run: a Unix socket that answers at
//! once, and an `osvm` that does nothing.

use crate::daemon::{Daemon, proc_kb};
use crate::figure::Figure;
use crate::host::{Host, KB, RUNS, WARM_UP};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Unused VMs that are kept while latencies are measured.
const SIZE: usize = 4;

/// Fresh VMs that are counted for a rate.
const FRESH: u32 = 200;

/// Calls that are made at once.
const AT_ONCE: usize = 100;

/// VMs that live at once, of 16 MiB each, for whoever widens the range of CIDs.
const CROWD: usize = 1000;

/// VMs by which idle memory is compared.
const MORE_IDLE: usize = 16;

/// How long a call takes whose VM is ready, on the embedded VMM and on QEMU where it is installed.
pub(crate) fn latencies(host: &Host) -> Result<Vec<Figure>> {
    let socket = socket_echo()?;
    let mut figures = vec![Figure::times(FLOOR, &socket)?];
    figures.extend(latency(host, "kvm", "embedded", None)?);
    figures.extend(process(host)?);
    if has_qemu() {
        figures.extend(latency(host, "qemu", "QEMU", Some(1.0))?);
    }
    let (floor, start) = (median(&figures, FLOOR)?, median(&figures, START)?);
    for (name, floor) in [
        ("pool: embedded, request to answer", floor),
        ("pool: QEMU, request to answer", floor),
        ("pool: embedded, system echo, exec to exit", start),
    ] {
        if let Ok(value) = median(&figures, name) {
            figures.push(Figure::exact(format!("{name}, to its floor"), value / floor, "x"));
        }
    }
    Ok(figures)
}

/// How many VMs are booted, used and destroyed in a second.
pub(crate) fn rates(host: &Host) -> Result<Vec<Figure>> {
    let mut figures = vec![rate(host, "kvm", "embedded", 100.0)?];
    if has_qemu() {
        figures.push(rate(host, "qemu", "QEMU", 35.0)?);
    }
    Ok(figures)
}

/// Many VMs at the same time.
pub(crate) fn crowds(host: &Host) -> Result<Vec<Figure>> {
    let mut figures = vec![at_once(host)?, idle_memory(host)?];
    figures.extend(crowd(host)?);
    Ok(figures)
}

const FLOOR: &str = "pool: floor, Unix-socket echo";
const START: &str = "pool: floor, `osvm --version`";

fn has_qemu() -> bool {
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    qemu.is_ok_and(|output| output.status.success())
}

fn median(figures: &[Figure], name: &str) -> Result<f64> {
    let figure = figures.iter().find(|figure| figure.name == name);
    figure.map(|figure| figure.value).with_context(|| format!("`{name}` was not measured"))
}

/// From a request to its answer on a Unix socket, with nothing in between but another thread.
fn socket_echo() -> Result<Vec<Duration>> {
    let (mut ours, mut theirs) = UnixStream::pair().context("no socket pair")?;
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok(read @ 1..) = theirs.read(&mut buffer) {
            if theirs.write_all(buffer.get(..read).unwrap_or_default()).is_err() {
                return;
            }
        }
    });
    let (request, mut answer) = ([7; 256], [0; 256]);
    let mut times = Vec::new();
    for _ in 0..WARM_UP + RUNS {
        // As far apart as the calls it is compared with.
        std::thread::sleep(Duration::from_millis(5));
        let begun = Instant::now();
        ours.write_all(&request)?;
        ours.read_exact(&mut answer)?;
        times.push(begun.elapsed());
    }
    drop(ours);
    let _ended = echo.join();
    Ok(times.split_off(WARM_UP))
}

/// Calls on a connection that is there, each when the pool is full.
fn latency(host: &Host, backend: &str, name: &str, goal: Option<f64>) -> Result<Vec<Figure>> {
    let daemon = Daemon::start(host, backend, &format!(r#""pool":{{"size":{SIZE}}}"#))?;
    let mut client = daemon.connect()?;
    let (mut whole, mut inside) = (Vec::new(), Vec::new());
    for run in 0..WARM_UP + RUNS {
        daemon.wait_for_idle(SIZE)?;
        std::thread::sleep(Duration::from_millis(5));
        let begun = Instant::now();
        let reply = daemon.echo(&mut client, "hi")?;
        let took = begun.elapsed();
        let isolation: Value = serde_json::from_str(reply.isolation.get())?;
        ensure!(isolation.get("pooled") == Some(&Value::Bool(true)), "no VM was ready");
        let call = isolation.get("call_ms").and_then(Value::as_f64).context("no `call_ms`")?;
        if WARM_UP <= run {
            whole.push(took);
            inside.push(Duration::from_secs_f64(call / 1000.0));
        }
    }
    daemon.stop()?;
    let latency = Figure::times(format!("pool: {name}, request to answer"), &whole)?;
    let latency = match goal {
        Some(goal) => latency.goal(goal),
        None => latency,
    };
    let inside = Figure::times(format!("pool: {name}, of which in the guest"), &inside)?;
    Ok(vec![latency, inside])
}

/// The whole program, with a VM that is ready.
fn process(host: &Host) -> Result<Vec<Figure>> {
    let daemon = Daemon::start(host, "kvm", &format!(r#""pool":{{"size":{SIZE}}}"#))?;
    let mut times = [Vec::new(), Vec::new()];
    let echo = ["mcp", "call-tool", "--daemon", "system", "echo", r#"{"text":"hi"}"#].as_slice();
    for run in 0..WARM_UP + RUNS {
        for (arguments, times) in [echo, &["--version"]].into_iter().zip(&mut times) {
            daemon.wait_for_idle(SIZE)?;
            std::thread::sleep(Duration::from_millis(5));
            let mut command = daemon.osvm(arguments);
            let begun = Instant::now();
            let status = command.status().context("cannot run osvm")?;
            let took = begun.elapsed();
            ensure!(status.success(), "osvm {arguments:?}: {status}");
            if WARM_UP <= run {
                times.push(took);
            }
        }
    }
    daemon.stop()?;
    let [calls, floor] = times;
    Ok(vec![
        Figure::times("pool: embedded, system echo, exec to exit", &calls)?.goal(12.0),
        Figure::times(START, &floor)?,
    ])
}

/// Fresh VMs a second, each used once, with as many callers as keep the processors busy.
fn rate(host: &Host, backend: &str, name: &str, goal: f64) -> Result<Figure> {
    let daemon = Daemon::start(host, backend, r#""pool":{"size":4}"#)?;
    let left = AtomicU32::new(FRESH);
    let take = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut client = daemon.connect()?;
                    while take().is_ok() {
                        daemon.echo(&mut client, "hi")?;
                    }
                    Ok(())
                })
            })
            .collect();
        callers.into_iter().try_for_each(|caller| match caller.join() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("a caller panicked"),
        })
    })?;
    // Those in the pool were booted meanwhile, and those before it began are as many.
    let rate = f64::from(FRESH) / begun.elapsed().as_secs_f64();
    daemon.stop()?;
    Ok(Figure::exact(format!("pool: {name}, fresh VMs used per second"), rate, "/s").at_least(goal))
}

/// From the first request to the last answer, each call in a VM of its own that is booted for it.
fn at_once(host: &Host) -> Result<Figure> {
    let mut times = Vec::new();
    for _ in 0..3 {
        let daemon = Daemon::start(host, "kvm", r#""pool":{"size":0}"#)?;
        times.push(together(&daemon, AT_ONCE)?);
        daemon.stop()?;
    }
    Ok(Figure::times(format!("pool: embedded, {AT_ONCE} calls at once"), &times)?.goal(2000.0))
}

/// From the first request to the last answer of so many calls, each on a connection of its own.
fn together(daemon: &Daemon, calls: usize) -> Result<Duration> {
    let clients: Result<Vec<_>, _> = (0..calls).map(|_| daemon.connect()).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let callers: Vec<_> = clients?
            .into_iter()
            .enumerate()
            .map(|(number, mut client)| {
                scope.spawn(move || daemon.echo(&mut client, &number.to_string()).map(|_| ()))
            })
            .collect();
        callers.into_iter().try_for_each(|caller| match caller.join() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("a caller panicked"),
        })
    })?;
    Ok(begun.elapsed())
}

/// A thousand VMs that live at the same time, and a call for each.
fn crowd(host: &Host) -> Result<Vec<Figure>> {
    let config = format!(
        r#""cid_range":[200,{}],"pool":{{"size":{CROWD},"max_vms":{CROWD}}},
           "default_execution_mode":"direct",
           "mcp_servers":{{"system":{{"execution_mode":"unikernel","memory_mb":16}}}}"#,
        199 + CROWD
    );
    let begun = Instant::now();
    let daemon = Daemon::start(host, "kvm", &config)?;
    daemon.wait_for_idle(CROWD)?;
    let booted = begun.elapsed();
    let answered = together(&daemon, CROWD)?;
    daemon.stop()?;
    Ok(vec![
        Figure::times(format!("pool: embedded, {CROWD} VMs of 16 MiB alive at once"), &[booted])?,
        Figure::times(format!("pool: embedded, {CROWD} calls at once, one for each"), &[answered])?,
    ])
}

/// What one more idle VM costs the host: its process, and what the daemon keeps for it.
fn idle_memory(host: &Host) -> Result<Figure> {
    let used = |size: usize| -> Result<u64> {
        let daemon = Daemon::start(host, "kvm", &format!(r#""pool":{{"size":{size}}}"#))?;
        let vms = daemon.wait_for_idle(size)?;
        let own = daemon.pid().context("the daemon has ended")?;
        let pids = vms.into_iter().chain([own]);
        let used = pids.map(|pid| proc_kb(pid, "smaps_rollup", "Pss:")).sum::<Result<u64>>();
        daemon.stop()?;
        used
    };
    let (few, many) = (used(SIZE)?, used(SIZE + MORE_IDLE)?);
    // KiB of the kernel, KB of the goals.
    let more = many.saturating_sub(few) as f64 * 1024.0 / KB / MORE_IDLE as f64;
    Ok(Figure::exact("pool: embedded, memory of each further idle VM (PSS)", more, "KB")
        .goal(3000.0))
}
