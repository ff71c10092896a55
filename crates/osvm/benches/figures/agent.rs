//! The agent: what it adds to a call of a tool, and how long `osvm` takes to its prompt.
//!
//! No model is asked: the local planner plans, so that nothing but osvm is measured.

use crate::figure::Figure;
use crate::host::{Host, RUNS, WARM_UP};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Starts of µVM-1: each takes seconds where it is emulated.
const COLD_RUNS: usize = 5;

/// Copies of it.
const COPIED_RUNS: usize = 20;

/// What is added to a call, and the time to the prompt, on the host and in µVM-1.
pub(crate) fn measure(host: &Host) -> Result<Vec<Figure>> {
    let mut added = Vec::new();
    for run in 0..WARM_UP + RUNS {
        let took = one_call(host)?;
        if WARM_UP <= run {
            added.push(took);
        }
    }
    let mut figures = vec![
        Figure::times("agent: added to a call by agent, supervisor and gateway", &added)?.goal(5.0),
    ];
    let direct: Result<Vec<_>> = (0..RUNS).map(|_| to_prompt(host, &["--direct"])).collect();
    figures.push(Figure::times("agent: from exec to the prompt, --direct", &direct?)?);
    match prepare(host) {
        Ok(()) => {
            let cold: Result<Vec<_>> = (0..COLD_RUNS).map(|_| first_time(host)).collect();
            let cold = Figure::times("agent: from exec to the prompt, µVM-1, cold", &cold?)?;
            figures.push(cold.goal(6000.0));
            let copied: Result<Vec<_>> = (0..COPIED_RUNS).map(|_| to_prompt(host, &[])).collect();
            let copied = Figure::times("agent: …, µVM-1, from a ready snapshot", &copied?)?;
            figures.push(copied.goal(1000.0));
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "agent: µVM-1: not measured: {error:#}");
        }
    }
    Ok(figures)
}

/// What a call took from the agent's handing it over until it had the result, less what the
/// runtime says the call itself took.
fn one_call(host: &Host) -> Result<Duration> {
    let mut command = host.osvm(&["ask", "--direct", "--json", "--yes", "echo \"hi\""]);
    let mut osvm = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let out = osvm.stdout.take().context("no stdout")?;
    let (mut started, mut added) = (None, None);
    for line in BufReader::new(out).lines() {
        let now = Instant::now();
        let event: Value = serde_json::from_str(&line?).context("a line is no JSON")?;
        if event.get("call_started").is_some() {
            started = Some(now);
        }
        if let (Some(ended), Some(started)) = (event.get("call_ended"), started) {
            let ms = ended.pointer("/isolation/total_ms").and_then(Value::as_f64);
            let ms = ms.with_context(|| format!("the call was not made: {ended}"))?;
            let call = Duration::from_secs_f64(ms / 1000.0);
            added = Some((now - started).saturating_sub(call));
        }
    }
    ensure!(osvm.wait()?.success(), "osvm failed");
    added.context("no call")
}

/// The same where µVM-1 was never started: it is booted, saved and copied.
fn first_time(host: &Host) -> Result<Duration> {
    let snapshots = host.home().join(".osvm/snapshots");
    if snapshots.exists() {
        fs::remove_dir_all(&snapshots)?;
    }
    to_prompt(host, &[])
}

/// From exec until osvm hears what is typed.
fn to_prompt(host: &Host, arguments: &[&str]) -> Result<Duration> {
    let mut command = host.osvm(&[&["agent", "--plain"], arguments].concat());
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut osvm = command.spawn()?;
    let said = BufReader::new(osvm.stderr.take().context("no stderr")?);
    let (mut took, mut last) = (None, String::new());
    for line in said.lines() {
        last = line?;
        if last.starts_with("OSVM: ") {
            took = Some(begun.elapsed());
            drop(osvm.stdin.take());
            break;
        }
    }
    drop(osvm.stdin.take());
    osvm.wait()?;
    match took {
        Some(took) => Ok(took),
        None => bail!("no prompt: {last}"),
    }
}

/// Puts what µVM-1 needs into the home of the measurements.
fn prepare(host: &Host) -> Result<()> {
    let target = host.osvm.parent().and_then(Path::parent).context("no target directory")?;
    let home = host.home();
    let guest = home.join(".osvm/guest");
    fs::create_dir_all(&guest)?;
    for (from, to) in [("guest-kernel/vmlinux", "vmlinux"), ("guest/osvm-init", "osvm-init")] {
        let from = target.join(from);
        fs::copy(&from, guest.join(to)).with_context(|| format!("no `{}`", from.display()))?;
    }
    let root = home.join("agent/bin");
    fs::create_dir_all(&root)?;
    let program = target.join("guest/osvm-agent");
    fs::copy(&program, root.join("osvm-agent"))
        .with_context(|| format!("no `{}`: `cargo xtask install` makes it", program.display()))?;
    let mut build: Command = host.osvm(&["image", "build", "osvm-agent", "--rootfs", "agent"]);
    build.args(["--command", "/bin/osvm-agent", "--memory", "192"]);
    build.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let output = build.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "no image of the agent: {said}");
    Ok(())
}
