//! The whole program, as a user starts it.

use crate::figure::Figure;
use crate::host::{Host, RUNS, WARM_UP};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The smallest call.
pub(crate) const ECHO: [&str; 5] = ["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#];

/// From exec to exit, what osvm itself says a call took, and the floor: a start without a call.
pub(crate) fn measure(host: &Host) -> Result<Vec<Figure>> {
    let (calls, _) = repeat(host, &ECHO, "kvm")?;
    let (floor, _) = repeat(host, &["--version"], "kvm")?;
    let (_, outputs) = repeat(host, &[ECHO.as_slice(), &["--json"]].concat(), "kvm")?;
    let mut figures = vec![
        Figure::times("calls: system echo, exec to exit", &calls)?.goal(30.0),
        Figure::times("calls: floor, `osvm --version`", &floor)?,
    ];
    let members = [
        ("boot_ms", "calls: of which boot, until the guest accepts"),
        ("call_ms", "calls: of which call, until the answer"),
        ("total_ms", "calls: of which all inside osvm"),
    ];
    for (member, name) in members {
        let times: Result<Vec<_>> = outputs.iter().map(|output| read(output, member)).collect();
        figures.push(Figure::times(name, &times?)?);
    }
    Ok(figures)
}

/// Runs osvm often on one backend; returns the time and the output of each run.
pub(crate) fn repeat(
    host: &Host,
    arguments: &[&str],
    backend: &str,
) -> Result<(Vec<Duration>, Vec<Vec<u8>>)> {
    let mut runs = Vec::new();
    for run in 0..WARM_UP + RUNS {
        let mut command = host.osvm(arguments);
        command.env("OSVM_BACKEND", backend);
        // QEMU is looked for on it.
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let begun = Instant::now();
        let output = command.output().context("cannot run osvm")?;
        let took = begun.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "osvm {arguments:?}: {}: {said}", output.status);
        if WARM_UP <= run {
            runs.push((took, output.stdout));
        }
    }
    Ok(runs.into_iter().unzip())
}

fn read(envelope: &[u8], member: &str) -> Result<Duration> {
    let envelope: Value = serde_json::from_slice(envelope).context("osvm printed no envelope")?;
    let isolation = envelope.get("isolation").context("the envelope has no `isolation`")?;
    let fallback = isolation.get("fallback").unwrap_or(&Value::Null);
    ensure!(fallback.is_null(), "the call was not isolated: {fallback}");
    let ms = isolation.get(member).and_then(Value::as_f64);
    Ok(Duration::from_secs_f64(ms.with_context(|| format!("no `{member}`"))? / 1000.0))
}
