//! `osvm mcp microvm status`: the microVMs that run now, and the servers about to be started again.

use super::super::{Outcome, Status};
use super::running;
use crate::cli::MicrovmStatus;
use crate::context::Context;
use crate::microvm::kept::{self, PingTold, Told};
use crate::printer::{escape, table};
use osvm_policy::Life;
use osvm_protocol::cid::PERSISTENT;
use osvm_runtime::cids::Holder;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A microVM, or a server without one that is to have one, and what is told of it.
#[derive(Debug)]
struct Row {
    vm: Option<Holder>,
    told: Option<Told>,
}

/// Shows them.
pub(super) fn run(context: &Context, args: &MicrovmStatus) -> Outcome {
    let rows = rows(context, args)?;
    if args.json {
        let all: Vec<_> = rows.iter().map(Row::json).collect();
        context.printer.pretty_json(&all)?;
        return Ok(Status::Success);
    }
    if rows.is_empty() {
        context.printer.note("no microVM runs now");
        return Ok(Status::Success);
    }
    let head = ["SERVER", "LIFE", "CID", "VM PID", "OSVM PID", "UP", "RESTARTS", "LAST PING"];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::line));
    context.printer.result(&table(&lines))?;
    for told in rows.iter().filter_map(|row| row.told.as_ref()) {
        if let Some(error) = &told.last_error {
            let (server, error) = (&told.server, escape(error));
            context.printer.result(&format!("`{server}` failed last because {error}"))?;
        }
    }
    Ok(Status::Success)
}

fn rows(context: &Context, args: &MicrovmStatus) -> Result<Vec<Row>, crate::failure::Failure> {
    let run = context.dirs(&context.env()?).run;
    let mut told: Vec<_> = kept::list(&run).into_iter().map(|(told, _)| told).collect();
    let running = running(context, args.server.as_deref())?;
    let mut rows: Vec<_> = running
        .into_iter()
        .map(|vm| {
            let at = told.iter().position(|told| is_of(told, &vm));
            Row { vm: Some(vm), told: at.map(|at| told.swap_remove(at)) }
        })
        .collect();
    // What is told and runs no more is told of once more within a second.
    told.retain(|told| told.restarting);
    told.retain(|told| args.server.as_ref().is_none_or(|server| told.server == *server));
    rows.extend(told.into_iter().map(|told| Row { vm: None, told: Some(told) }));
    Ok(rows)
}

fn is_of(told: &Told, vm: &Holder) -> bool {
    Some(told.osvm_pid) == vm.pid && told.vm_pid == vm.vm_pid.map(u64::from)
}

impl Row {
    fn server(&self) -> &str {
        let told = self.told.as_ref().map(|told| told.server.as_str());
        self.vm.as_ref().map(|vm| vm.tool.as_str()).or(told).unwrap_or_default()
    }

    fn life(&self) -> Life {
        match &self.vm {
            Some(vm) if !PERSISTENT.contains(&vm.cid.get()) => Life::Clone,
            // A copy is not started again.
            Some(_) | None => Life::Persistent,
        }
    }

    fn up_secs(&self) -> Option<u64> {
        let since = self.vm.as_ref()?.since?;
        Some(SystemTime::now().duration_since(since).ok()?.as_secs())
    }

    fn osvm_pid(&self) -> Option<u32> {
        self.vm.as_ref().map_or_else(|| self.told.as_ref().map(|told| told.osvm_pid), |vm| vm.pid)
    }

    fn json(&self) -> Value {
        let vm = self.vm.as_ref();
        let mut all = json!({
            "server": self.server(), "life": self.life(), "cid": vm.map(|vm| vm.cid.get()),
            "vm_pid": vm.and_then(|vm| vm.vm_pid), "osvm_pid": self.osvm_pid(),
            "up_secs": self.up_secs(),
        });
        if let (Value::Object(all), Some(told)) = (&mut all, &self.told) {
            let Told { restarts, deaths, restarting, last_error, last_ping, .. } = told;
            let more = json!({
                "restarts": restarts, "deaths": deaths, "restarting": restarting,
                "last_error": last_error, "last_ping": last_ping,
            });
            all.extend(more.as_object().cloned().unwrap_or_default());
        }
        all
    }

    fn line(&self) -> [String; 8] {
        let shown = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
        let vm = self.vm.as_ref();
        let up = match self.up_secs() {
            None if vm.is_none() => "restarting".to_owned(),
            up => shown(up.map(|up| format!("{up}s"))),
        };
        let told = self.told.as_ref();
        [
            self.server().to_owned(),
            self.life().to_string(),
            shown(vm.map(|vm| vm.cid.get().to_string())),
            shown(vm.and_then(|vm| vm.vm_pid).map(|pid| pid.to_string())),
            shown(self.osvm_pid().map(|pid| pid.to_string())),
            up,
            shown(told.map(|told| told.restarts.to_string())),
            shown(told.and_then(|told| told.last_ping).map(|ping| pinged(ping, SystemTime::now()))),
        ]
    }
}

fn pinged(ping: PingTold, now: SystemTime) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(ping.unix_ms));
    let ago = at.and_then(|at| now.duration_since(at).ok()).unwrap_or_default().as_secs();
    match ping.answer_ms {
        Some(ms) => format!("{ago}s ago, {ms} ms"),
        None => format!("{ago}s ago, no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_tells_its_age_and_what_came_of_it() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        let ping = |answer_ms| PingTold { unix_ms: 97_500, answer_ms };
        assert_eq!(pinged(ping(Some(4)), now), "2s ago, 4 ms");
        assert_eq!(pinged(ping(None), now), "2s ago, no answer");
        assert_eq!(pinged(ping(None), UNIX_EPOCH), "0s ago, no answer");
    }

    #[test]
    fn a_server_that_waits_to_be_started_again_has_a_line_without_a_microvm() {
        let told = Told { server: "s".into(), osvm_pid: 9, restarting: true, ..Told::default() };
        let row = Row { vm: None, told: Some(Told { restarts: 3, vm_pid: Some(8), ..told }) };
        assert_eq!(row.line(), ["s", "persistent", "-", "-", "9", "restarting", "3", "-"]);
        assert_eq!((&row.json()["vm_pid"], &row.json()["restarts"]), (&Value::Null, &json!(3)));
    }
}
