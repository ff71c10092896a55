//! Does it work here: backend, images, config, the executor, calls, CIDs.

use super::{Checks, Seen, processes, same};
use crate::guest::IMAGE_NAME;
use crate::osvm::Osvm;
use crate::process;
use crate::project::Project;
use crate::{install, toolchain};
use anyhow::{Context, Result, bail, ensure};
use osvm_image::Store;
use serde_json::Value;
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// CIDs of guests that serve one call.
pub(super) const CIDS: std::ops::RangeInclusive<u64> = 200..=299;

/// Builds and installs, each step a check: `scripts/build-unikraft-tool-executor.sh`.
pub(super) fn install(project: &Project, checks: &mut Checks) {
    checks.group("toolchain");
    checks.check("the compiler is there", || version(Command::new("rustc").arg("--version")));
    checks.check("the targets of the guests are there", || {
        toolchain::add_targets()?;
        Ok(format!("{}, {}", toolchain::KERNEL, toolchain::LINUX))
    });
    checks.group("build");
    checks.check("the guests build and are small enough", || {
        crate::guest::build(project)?;
        Ok(project.images().display().to_string())
    });
    checks.group("installation");
    checks.check("image and executor are installed", || {
        Ok(install::images(project)?.display().to_string())
    });
    checks.check("both are executable by everybody, writable by the owner", modes);
    checks.check("the installed executor runs", executor);
}

/// `scripts/test-unikernel-execution.sh`.
pub(super) fn check(project: &Project, checks: &mut Checks) -> Result<()> {
    let osvm = Osvm::find(project)?;
    checks.group("osvm");
    checks.check("it is built and runs", || version(&mut osvm.command(&["--version"])));
    checks.check("this host can run calls", || doctor(&osvm));
    checks.group("images");
    checks.check("image and executor are there with mode 755", modes);
    checks.check("the executor runs on its own", executor);
    checks.check("the tools of the image are listed", || {
        let tools = osvm.say(&["mcp", "tools"])?;
        same(&tools.code, &Some(0))?;
        ensure!(tools.stdout.contains("decode_transaction"), "no tools: {}", tools.stdout);
        Ok(String::new())
    });
    checks.group("isolation config");
    checks.check("it is valid", || {
        let said = osvm.say(&["config", "validate"])?;
        ensure!(said.code == Some(0), "{}", said.stderr.trim());
        Ok(osvm.say(&["config", "path"])?.stdout.trim().to_owned())
    });
    for server in ["osvm-mcp", "solana"] {
        checks.check(&format!("tools of `{server}` run in a unikernel"), || mode(&osvm, server));
    }
    checks.group("execution");
    checks.check("a call is answered from inside a VM, which is gone then", || one_call(&osvm));
    checks.check("the guest sees itself in a VM", || {
        let info = osvm.call("system", "guest_info", "{}")?;
        Ok(info.result().to_string())
    });
    checks.check("a tool that says no ends with exit code 1", || {
        let said = osvm.say(&["mcp", "call-tool", "solana", "decode_transaction", BAD])?;
        same(&said.code, &Some(1))?;
        Ok(said.stderr.trim().to_owned())
    });
    checks.check("an unknown tool ends with exit code 2 and the nearest name", || {
        let said = osvm.say(&["mcp", "call-tool", "system", "ecko", "{}"])?;
        same(&said.code, &Some(2))?;
        ensure!(said.stderr.contains("`echo`"), "it says: {}", said.stderr.trim());
        Ok(String::new())
    });
    checks.group("CIDs");
    checks.check("calls at the same time have one each, from 200 to 299", || at_once(&osvm));
    Ok(())
}

const BAD: &str = r#"{"transaction":"!"}"#;

fn version(command: &mut Command) -> Seen {
    Ok(process::text(command)?.trim().to_owned())
}

fn doctor(osvm: &Osvm) -> Seen {
    let said = osvm.say(&["doctor", "--json"])?;
    let report: Value = serde_json::from_str(&said.stdout).context("it printed no JSON")?;
    let checks = report.get("checks").and_then(Value::as_array).context("no `checks`")?;
    let text = |check: &Value, name: &str| {
        check.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let line = |check: &Value| format!("{}: {}", text(check, "name"), text(check, "summary"));
    if said.code != Some(0) {
        let failed = checks.iter().filter(|check| text(check, "state") == "fail").map(line);
        bail!("{}", failed.collect::<Vec<_>>().join("; "));
    }
    let kvm = checks.iter().find(|check| text(check, "name") == "kvm");
    Ok(kvm.map(line).unwrap_or_default())
}

fn modes() -> Seen {
    let store = store()?;
    for path in [store.image_path(IMAGE_NAME), store.executor_path(IMAGE_NAME)] {
        let metadata = path.metadata().with_context(|| format!("no `{}`", path.display()))?;
        let mode = metadata.permissions().mode() & 0o7777;
        ensure!(mode == 0o755, "`{}` has mode {mode:o}", path.display());
    }
    Ok(store.dir().display().to_string())
}

fn executor() -> Seen {
    let path = store()?.executor_path(IMAGE_NAME);
    process::text(Command::new(&path).arg("--help"))?;
    version(Command::new(&path).arg("--version"))
}

fn store() -> Result<Store> {
    install::store()
}

fn mode(osvm: &Osvm, server: &str) -> Seen {
    let said = osvm.say(&["config", "explain", server, "anything", "--json"])?;
    let explained: Value = serde_json::from_str(&said.stdout).context("it printed no JSON")?;
    let text = |name| explained.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    same(&text("mode"), &"unikernel".to_owned())?;
    Ok(text("decided_by"))
}

fn one_call(osvm: &Osvm) -> Seen {
    let envelope = osvm.call("system", "echo", r#"{"text":"hi"}"#)?;
    same(&envelope.result().to_string(), &r#"{"text":"hi"}"#.to_owned())?;
    same(&envelope.isolation("mode"), &"unikernel".to_owned())?;
    same(&envelope.isolation("fallback"), &"null".to_owned())?;
    let pid: u32 = envelope.isolation("vm_pid").parse().context("no `vm_pid`")?;
    ensure!(!processes::lives(pid), "VM process {pid} is still there");
    let total = envelope.number("total_ms")?;
    Ok(format!("by {} in {total:.1} ms", envelope.isolation("backend")))
}

/// Ten calls side by side.
fn at_once(osvm: &Osvm) -> Seen {
    let arguments = ["mcp", "call-tool", "--json", "system", "echo", r#"{"text":"hi"}"#];
    let calls: Result<Vec<_>> = (0..10).map(|_| osvm.start(&arguments)).collect();
    let mut pids = HashSet::new();
    let mut cids = HashSet::new();
    for call in calls? {
        let output = call.wait_with_output().context("cannot wait for a call")?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let envelope = crate::envelope::Envelope::read(&printed, "system echo")?;
        let cid: u64 = envelope.isolation("cid").parse().context("no `cid`")?;
        ensure!(CIDS.contains(&cid), "CID {cid} is outside 200 to 299");
        cids.insert(cid);
        ensure!(pids.insert(envelope.isolation("vm_pid")), "two calls shared a VM");
    }
    Ok(format!("10 VMs, {} CIDs", cids.len()))
}
