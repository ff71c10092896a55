//! `osvm ps`: the VMs that run now.
//!
//! A VM is listed while a living process holds the lock on its CID, so one that crashed is not.

use super::{Outcome, Status};
use crate::cli::Ps;
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use osvm_protocol::cid::PERSISTENT;
use osvm_runtime::cids::{Cids, Holder};
use serde::Serialize;
use std::time::SystemTime;

/// One running VM.
#[derive(Debug, Serialize)]
struct Vm {
    cid: u32,
    vm_pid: u32,
    osvm_pid: Option<u32>,
    /// `server/tool`; the image of a VM that waits for a call.
    tool: String,
    call: Option<String>,
    /// Whether it is booted, unused, and waits for a call.
    idle: bool,
    /// Whether it is a Linux microVM; `tool` is its server then.
    microvm: bool,
    /// Since its CID was taken.
    up_ms: Option<u64>,
}

/// Lists them.
pub(crate) fn run(context: &Context, args: &Ps) -> Outcome {
    let env = context.env()?;
    let run = context.dirs(&env).run;
    // Whatever range the config names now, VMs of another one may still run.
    let holders = Cids::new(&run, *PERSISTENT.start()..=u32::MAX).list();
    let holders = holders.map_err(|error| Failure::from_error("cids", &error, error.hint()))?;
    let vms: Vec<Vm> = holders.into_iter().filter_map(Vm::new).collect();
    if args.json {
        context.printer.pretty_json(&vms)?;
        return Ok(Status::Success);
    }
    let mut rows = vec![["CID", "VM PID", "OSVM PID", "UP", "TOOL", "CALL"].map(str::to_owned)];
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    rows.extend(vms.into_iter().map(|vm| {
        let up = vm.up_ms.map(|ms| format!("{}.{:03}s", ms / 1000, ms % 1000));
        let osvm = vm.osvm_pid.map(|pid| pid.to_string());
        let (cid, pid) = (vm.cid.to_string(), vm.vm_pid.to_string());
        let call = match (vm.idle, vm.microvm) {
            (true, _) => "unused".into(),
            (false, true) => "microVM".into(),
            (false, false) => or_dash(vm.call),
        };
        [cid, pid, or_dash(osvm), or_dash(up), vm.tool, call]
    }));
    context.printer.result(&table(&rows))?;
    Ok(Status::Success)
}

impl Vm {
    /// `None` while the CID is taken and its VM process not started yet.
    fn new(holder: Holder) -> Option<Self> {
        let up = holder.since.and_then(|since| SystemTime::now().duration_since(since).ok());
        Some(Self {
            cid: holder.cid.get(),
            vm_pid: holder.vm_pid?,
            osvm_pid: holder.pid,
            tool: holder.tool,
            call: holder.call.map(|call| call.to_string()),
            idle: holder.idle,
            microvm: holder.micro_vm,
            up_ms: up.and_then(|up| u64::try_from(up.as_millis()).ok()),
        })
    }
}
