//! `osvm daemon`: runs one, says what it does, ends it.

use super::{Outcome, Status};
use crate::caller;
use crate::cli::{Daemon, DaemonCommand};
use crate::context::Context;
use crate::daemon::DaemonHost;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::printer::table;
use osvm_daemon::{Client, Door, Options, Stopper, serve};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tracing::info;

/// How long calls that run may take to finish, unless `--drain` says otherwise.
pub(crate) const DRAIN_SECS: u64 = 10;

/// How long `stop` waits for the end beyond what calls may take, in seconds.
const LAST_MOMENT: i64 = 30;

/// Runs the daemon, or asks it.
pub(crate) fn run(context: Context, args: &Daemon) -> Outcome {
    match &args.command {
        None => serve_here(context, args),
        Some(DaemonCommand::Status { json }) => status(&context, *json),
        Some(DaemonCommand::Stop) => stop(&context),
    }
}

fn serve_here(context: Context, args: &Daemon) -> Outcome {
    if args.background {
        // It fails only for the leader of a group, which one that was started on demand is not.
        let _session = rustix::process::setsid();
    }
    let dir = context.dirs(&context.env()?).run;
    let door = match Door::open(&dir) {
        Err(osvm_daemon::DoorError::Taken { pid }) if args.background => {
            // Two commands wanted one at the same moment, and one is enough.
            info!(pid, "a daemon is running already");
            return Ok(Status::Success);
        }
        door => door.map_err(|error| Failure::from_error("daemon", &error, error.hint()))?,
    };
    let printer = context.printer;
    let host = DaemonHost::new(context)?;
    let stopper = Stopper::new();
    let cannot = |error| Failure::new("host", "cannot get a file descriptor").caused_by(&error);
    let stopper = stopper.map_err(cannot)?;
    // Ending on a signal is what a daemon does: it is no failure.
    let _watched = Interrupt::watch({
        let stopper = stopper.clone();
        move || stopper.stop()
    })?;
    let options = Options {
        idle_exit: args.idle_exit.map(Duration::from_secs),
        drain: Duration::from_secs(args.drain),
    };
    if !args.background {
        let socket = dir.join(osvm_daemon::SOCKET);
        printer.note(&format!("the daemon listens on `{}`; Ctrl-C ends it", socket.display()));
    }
    let served = serve(door, Box::new(host), options, &stopper);
    served.map_err(|error| Failure::from_error("daemon", &error, None))?;
    Ok(Status::Success)
}

/// What is read of a daemon's status. It may be older or newer than this program.
#[derive(Debug, Deserialize)]
struct Told {
    pid: i32,
    version: String,
    config: String,
    failure: Option<osvm_daemon::message::Failure>,
    up_secs: u64,
    clients: u64,
    calls: Calls,
    pool: Pool,
}

#[derive(Debug, Deserialize)]
struct Calls {
    running: u64,
    answered: u64,
    tool_errors: u64,
    failed: u64,
    cancelled: u64,
}

#[derive(Debug, Deserialize)]
struct Pool {
    max_vms: u64,
    vms: u64,
    memory_mb: u64,
    max_memory_mb: Option<u64>,
    in_use: u64,
    waiting: u64,
    shelves: Vec<Shelf>,
    problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Shelf {
    image: String,
    digest: String,
    backend: String,
    memory_mb: u64,
    wanted: u64,
    booting: u64,
    booted: u64,
    lost: u64,
    failed: u64,
    failure: Option<String>,
    idle: Vec<serde::de::IgnoredAny>,
}

fn status(context: &Context, as_json: bool) -> Outcome {
    let status = connect(context)?.status().map_err(caller::failure)?;
    if as_json {
        let value: serde_json::Value = serde_json::from_str(status.get()).map_err(unreadable)?;
        context.printer.pretty_json(&value)?;
        return Ok(Status::Success);
    }
    let told: Told = serde_json::from_str(status.get()).map_err(unreadable)?;
    context.printer.result(&show(&told))?;
    Ok(Status::Success)
}

fn show(told: &Told) -> String {
    let Told { pid, version, config, failure, up_secs, clients, calls, pool } = told;
    let memory = match pool.max_memory_mb {
        Some(max) => format!("{} of {max} MiB", pool.memory_mb),
        None => format!("{} MiB", pool.memory_mb),
    };
    let idle: usize = pool.shelves.iter().map(|shelf| shelf.idle.len()).sum();
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row(
            "daemon",
            format!("process {pid}, version {version}, up {up_secs}s, {clients} clients"),
        ),
        row("config", config.clone()),
        row(
            "calls",
            format!(
                "{} running, {} waiting for a VM; {} answered, {} tool errors, {} failed, {} cancelled",
                calls.running.saturating_sub(pool.waiting),
                pool.waiting,
                calls.answered,
                calls.tool_errors,
                calls.failed,
                calls.cancelled
            ),
        ),
        row(
            "VMs",
            format!(
                "{} of {}: {} in use, {idle} unused; {memory}",
                pool.vms, pool.max_vms, pool.in_use
            ),
        ),
    ];
    for shelf in &pool.shelves {
        let Shelf { image, backend, memory_mb, wanted, booting, booted, lost, failed, .. } = shelf;
        let digest = shelf.digest.get(..19).unwrap_or(&shelf.digest);
        rows.push(row(
            "pool",
            format!(
                "{image} ({digest}…) with {memory_mb} MiB on {backend}: {} of {wanted} ready, \
                 {booting} booting; {booted} booted, {failed} failed, {lost} lost",
                shelf.idle.len()
            ),
        ));
        rows.extend(
            shelf.failure.iter().map(|reason| row("", format!("last boot failed: {reason}"))),
        );
    }
    rows.extend(pool.problems.iter().map(|problem| row("problem", problem.clone())));
    if let Some(failure) = failure {
        rows.push(row("no calls", failure.message.clone()));
    }
    table(&rows)
}

fn stop(context: &Context) -> Outcome {
    let mut client = connect(context)?;
    let status = client.status().map_err(caller::failure)?;
    let told: Told = serde_json::from_str(status.get()).map_err(unreadable)?;
    let process = Pid::from_raw(told.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    client.stop().map_err(caller::failure)?;
    // One that is gone already has no handle, and that is what is waited for.
    if let Some(Ok(process)) = process
        && !ended(&process)
    {
        let message = format!("the daemon, process {}, is still ending", told.pid);
        return Err(Failure::new("daemon", message).hint("`osvm daemon status` shows what runs"));
    }
    context.printer.note(&format!("the daemon, process {}, has ended", told.pid));
    Ok(Status::Success)
}

fn ended(process: &OwnedFd) -> bool {
    let limit = Timespec { tv_sec: LAST_MOMENT, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}

fn connect(context: &Context) -> Result<Client, Failure> {
    let dir = context.dirs(&context.env()?).run;
    Client::connect(&dir).map_err(caller::failure)
}

fn unreadable(error: serde_json::Error) -> Failure {
    Failure::new("daemon", "the daemon's status cannot be read").caused_by(&error)
}
