//! What the kernel says about processes, from `/proc`.

use anyhow::{Context, Result, bail};
use std::fs;
use std::time::{Duration, Instant};

/// Name of the program that runs one guest.
const VM_PROGRAM: &str = "osvm-vm";
/// Longest to wait for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the process runs. One that has ended stays listed until its parent asks how; all it
/// held is gone by then.
pub(super) fn lives(pid: u32) -> bool {
    status(pid, "State").is_ok_and(|state| !state.starts_with(['Z', 'X']))
}

/// Waits for the VM process of the osvm process `parent`, and until its guest runs.
pub(super) fn vm_of(parent: u32) -> Result<u32> {
    eventually("a VM process", || {
        let vm = children(parent).into_iter().find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == VM_PROGRAM
        })?;
        // The filter is the last thing that is put in force before the guest runs.
        status(vm, "Seccomp").is_ok_and(|mode| mode == "2").then_some(vm)
    })
}

/// Waits until the process is gone.
pub(super) fn wait_for_end(pid: u32) -> Result<Duration> {
    let begun = Instant::now();
    eventually("the VM process to end", || (!lives(pid)).then_some(()))?;
    Ok(begun.elapsed())
}

/// A field of `/proc/PID/status`.
pub(super) fn status(pid: u32, field: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("`{path}` has no `{field}`"))?.trim().to_owned())
}

/// The hard limit called `name` in `/proc/PID/limits`.
pub(super) fn limit(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/limits");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let hard = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(hard.with_context(|| format!("`{path}` has no `{name}`"))?.to_owned())
}

/// What the process's descriptors are; only root may look at a process that is not dumpable.
pub(super) fn descriptors(pid: u32) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/fd");
    let mut found = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| format!("cannot read `{path}`"))? {
        let target = fs::read_link(entry?.path()).context("cannot read a descriptor")?;
        found.push(target.to_string_lossy().into_owned());
    }
    Ok(found)
}

/// The network namespace of a process.
pub(super) fn network_namespace(pid: &str) -> Result<String> {
    let path = format!("/proc/{pid}/ns/net");
    let link = fs::read_link(&path).with_context(|| format!("cannot read `{path}`"))?;
    Ok(link.to_string_lossy().into_owned())
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parent = parent.to_string();
    ids.filter(|pid| status(*pid, "PPid").is_ok_and(|found| found == parent)).collect()
}

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if deadline < Instant::now() {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
