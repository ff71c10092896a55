//! `osvm mcp microvm`: servers in microVMs, started by hand, looked at and ended.
//!
//! What is launched here serves no calls of other processes: `osvm mcp serve` and the daemon start
//! what they need by themselves.

mod status;

use super::{Outcome, Status};
use crate::cli::{Microvm, MicrovmLaunch, MicrovmLaunchMany, MicrovmServer};
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::microvm::{InMicroVm, MicroVms, Wish, kept, logs};
use crate::printer::table;
use crate::servers;
use osvm_policy::Life;
use osvm_protocol::cid::PERSISTENT;
use osvm_runtime::cids::{Cids, Holder};
use osvm_upstream::UpstreamError;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(300);

/// Most bytes of a console that are shown: its end.
const MAX_LOG: u64 = 1 << 20;

/// Does what the command says.
pub(crate) fn run(context: &Context, command: &Microvm) -> Outcome {
    match command {
        Microvm::Launch(args) => launch(context, args, 1),
        Microvm::LaunchMany(MicrovmLaunchMany { count, launch: args }) => {
            launch(context, args, *count)
        }
        Microvm::Status(args) => status::run(context, args),
        Microvm::Stop(args) => stop(context, args),
        Microvm::Logs(args) => log(context, args),
        Microvm::Test(args) => test(context, args),
    }
}

/// Puts the server of `args` in a place of its own, as a server that lives on: until it is ended, where
/// it is `held`.
fn place(
    context: &Context,
    args: &MicrovmLaunch,
    micro_vms: &MicroVms,
    held: bool,
) -> Result<InMicroVm, Failure> {
    let env = context.env()?;
    let config = context.config(&env)?;
    let configured = servers::find(context, &args.server)?;
    let mut resolved = config.resolve(&args.server, "");
    resolved.life = Life::Persistent;
    resolved.idle = Duration::MAX;
    resolved.vcpus = processors(args)?;
    if let Some(command) = &args.command {
        let open = || Failure::new("usage", format!("`--command` has an open quote: `{command}`"));
        resolved.server_command = Some(shlex::split(command).ok_or_else(open)?);
    }
    let written = *resolved.origins.get("memory_mb") != osvm_policy::Origin::BuiltIn;
    let memory = args.memory.or_else(|| written.then_some(resolved.memory_mb));
    let wish = Wish { resolved, memory, held: held.then_some(0) };
    micro_vms.place_as(context, &config, &configured, wish)
}

/// How many processors it is to have: more than there can be are refused.
fn processors(args: &MicrovmLaunch) -> Result<u32, Failure> {
    let server = &args.server;
    match args.vcpus {
        None | Some(1) => Ok(1),
        Some(more) => Err(Failure::new(
            "usage",
            format!("a microVM can't have {more} vCPUs: its kernel is built for one processor"),
        )
        .hint(format!(
            "leave `--vcpus` out; `osvm mcp microvm launch-many {more} {server}` starts {more} microVMs"
        ))),
    }
}

/// Starts it, and says what it is.
fn started(in_vm: &InMicroVm) -> Result<Value, Failure> {
    let asked = Instant::now();
    let offer = in_vm.server.refresh(asked + START);
    let offer = offer.map_err(|error| unstarted(&error))?;
    let ready_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = in_vm.server.status();
    let facts = status.links.first().map(|link| link.facts.clone()).unwrap_or_default();
    let mut told = json!({
        "server": in_vm.server.name(),
        "era": offer.era.name(),
        "version": offer.version,
        "tools": offer.tools.len(),
        "ready_ms": ready_ms,
    });
    if let Value::Object(told) = &mut told {
        told.extend(facts);
    }
    Ok(told)
}

fn unstarted(error: &UpstreamError) -> Failure {
    Failure::from_error("server", error, error.hint().map(str::to_owned))
}

fn tell(context: &Context, told: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return context.printer.json(told);
    }
    let number = |name: &str| told.get(name).and_then(Value::as_u64).unwrap_or_default();
    context.printer.result(&format!(
        "{} runs in a microVM with CID {}, process {}: {} tools, ready after {} ms",
        told.get("server").and_then(Value::as_str).unwrap_or_default(),
        number("cid"),
        number("vm_pid"),
        number("tools"),
        number("ready_ms"),
    ))
}

fn launch(context: &Context, args: &MicrovmLaunch, count: u16) -> Outcome {
    let micro_vms = MicroVms::new(context, &context.env()?);
    let all = (0..count).map(|_| place(context, args, &micro_vms, true));
    let all: Vec<_> = all.collect::<Result<_, _>>()?;
    let (signalled, signal) = mpsc::channel();
    let interrupt = Interrupt::watch({
        let servers: Vec<_> = all.iter().map(|in_vm| in_vm.server.clone()).collect();
        move || {
            // Ends starts that run, too.
            servers.iter().for_each(|server| server.shut_down());
            let _gone = signalled.send(());
        }
    })?;
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|in_vm| scope.spawn(move || started(in_vm))).collect();
        let panicked = || Failure::new("host", "a thread has ended without a word");
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(panicked()))).collect()
    });
    let mut failed = None;
    for result in results {
        match result {
            Ok(told) => tell(context, &told, args.json)?,
            Err(failure) => failed = Some(failure),
        }
    }
    let ended = || interrupt.signal().map(|signal| Status::Interrupted(signal.exit_code()));
    if let Some(failure) = failed {
        return ended().ok_or(failure);
    }
    context.printer.note("Ctrl-C ends what was launched");
    // One that was stopped by somebody else is noticed, too. One that crashed is started again.
    let has_ended = |in_vm: &InMicroVm| {
        let status = in_vm.server.status();
        status.links.is_empty() && !status.restarting
    };
    while signal.recv_timeout(Duration::from_millis(500)).is_err() {
        if all.iter().all(has_ended) {
            context.printer.note("all that was launched has ended");
            return Ok(ended().unwrap_or(Status::Success));
        }
    }
    // A signal is how this command ends when all is well.
    Ok(Status::Success)
}

fn test(context: &Context, args: &MicrovmLaunch) -> Outcome {
    let micro_vms = MicroVms::new(context, &context.env()?);
    let in_vm = place(context, args, &micro_vms, false)?;
    let told = started(&in_vm)?;
    in_vm.server.shut_down();
    if args.json {
        context.printer.json(&told)?;
    } else {
        let Value::Object(told) = &told else { return Ok(Status::Success) };
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let rows: Vec<_> = told.iter().map(|(name, value)| [name.clone(), text(value)]).collect();
        context.printer.result(&table(&rows))?;
    }
    Ok(Status::Success)
}

/// The microVMs that run now.
fn running(context: &Context, server: Option<&str>) -> Result<Vec<Holder>, Failure> {
    let run = context.dirs(&context.env()?).run;
    let all = Cids::new(&run, *PERSISTENT.start()..=u32::MAX).list();
    let mut all = all.map_err(|error| Failure::from_error("cids", &error, error.hint()))?;
    all.retain(|holder| {
        holder.micro_vm
            && holder.vm_pid.is_some()
            && server.is_none_or(|server| holder.tool == server)
    });
    Ok(all)
}

/// Ends the microVMs of a server, and has nobody start them again.
fn stop(context: &Context, args: &MicrovmServer) -> Outcome {
    let server = args.server.as_str();
    let run = context.dirs(&context.env()?).run;
    let let_end = |osvm, vm| {
        let told = kept::let_end(&run, server, osvm, vm);
        told.map_err(|error| Failure::new("host", "cannot write what is to end").caused_by(&error))
    };
    let mut ended = 0;
    for holder in running(context, Some(server))? {
        let Some(pid) = holder.vm_pid.and_then(|pid| Pid::from_raw(pid.try_into().ok()?)) else {
            continue;
        };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The lock on its CID is held, so the process that has this handle is still the one meant.
        let still = running(context, Some(server))?;
        if !still.iter().any(|now| (now.cid, now.vm_pid) == (holder.cid, holder.vm_pid)) {
            continue;
        }
        if let (Some(osvm), Some(vm)) = (holder.pid, holder.vm_pid) {
            let_end(osvm, vm.into())?;
        }
        ended += u32::from(pidfd_send_signal(&process, Signal::TERM).is_ok());
    }
    for (told, _) in kept::list(&run) {
        if let (true, true, Some(vm)) = (told.server == server, told.restarting, told.vm_pid) {
            ended += u32::from(let_end(told.osvm_pid, vm)?);
        }
    }
    if ended == 0 {
        return Err(Failure::new("unknown_server", format!("no microVM of `{server}` runs now"))
            .hint("`osvm mcp microvm status` shows those that do"));
    }
    context.printer.result(&format!("ended {ended} microVMs of `{server}`"))?;
    Ok(Status::Success)
}

fn log(context: &Context, args: &MicrovmServer) -> Outcome {
    let path = logs(&context.dirs(&context.env()?)).join(format!("{}.console", args.server));
    let read = || {
        let mut file = std::fs::File::open(&path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(MAX_LOG)))?;
        let mut bytes = Vec::new();
        file.take(MAX_LOG).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().map_err(|error| {
        Failure::new("log", format!("cannot read `{}`", path.display()))
            .caused_by(&error)
            .hint("only servers that live on keep a console; of a call, see `osvm logs`")
    })?;
    for line in String::from_utf8_lossy(&bytes).lines() {
        context.printer.result(&crate::printer::escape(line))?;
    }
    Ok(Status::Success)
}
