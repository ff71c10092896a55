//! The single checks, in the order a call meets them.

use super::leftovers;
use super::{Check, State};
use crate::backend::{self, Chosen};
use crate::context::{Context, cases};
use crate::failure::Failure;
use crate::vm_program;
use osvm_image::{FileState, Listed, Store};
use osvm_kvm::probe::{self, Kind, Speed, Unusable};
use osvm_policy::{Config, ConfigError, Env, ExecutionMode};
use osvm_protocol::cid::EPHEMERAL;
use osvm_runtime::cids::{Cids, Holder};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// How an image gets into the store.
const INSTALL: &str = "scripts/build-unikraft-tool-executor.sh";

/// Looks at everything.
pub(super) fn all(context: &Context) -> Vec<Check> {
    let mut checks = vec![kvm(), program(), vsock()];
    checks.extend(programs());
    match context.env() {
        Ok(env) => {
            let (check, config) = config(context, &env);
            checks.push(check);
            let range = config.as_ref().map_or(EPHEMERAL, Config::cid_range);
            match config {
                Some(config) => {
                    let backend = backend(context, &config, &env);
                    if backend.state == State::Ok {
                        do_without_kvm(&mut checks);
                    }
                    checks.push(backend);
                    checks.push(linux(context, &config, &env));
                    checks.extend(images(context, &config));
                }
                None => checks.push(Check::new(
                    "images",
                    State::Skipped,
                    "not checked: the config says where they are",
                )),
            }
            checks.push(cids(context, &env, range));
        }
        Err(failure) => checks.push(failed("config", &failure)),
    }
    checks.push(leftover());
    checks
}

fn kvm() -> Check {
    match probe::measure() {
        Ok(Speed { kind, ns_per_instruction, .. }) => {
            let (kind, summary) = match kind {
                Kind::Hardware => ("hardware", "guests run on the processor".to_owned()),
                Kind::Interpreted => (
                    "interpreted",
                    format!(
                        "it interprets guests, {ns_per_instruction:.0} ns an instruction: they \
                         run, about a thousand times slower than on the processor"
                    ),
                ),
            };
            Check::new("kvm", State::Ok, summary)
                .fact("kvm", kind)
                .fact("ns_per_instruction", (ns_per_instruction * 10.0).round() / 10.0)
        }
        Err(error) => {
            let kind = match &error {
                Unusable::Absent => "absent",
                Unusable::NoPermission(_) => "no permission",
                Unusable::Broken { .. } => "broken",
            };
            let failure = Failure::from_error("kvm", &error, Some(kvm_fix(&error)));
            failed("kvm", &failure).fact("kvm", kind)
        }
    }
}

/// A KVM that can't be used keeps no call from running while the backend does without it.
fn do_without_kvm(checks: &mut [Check]) {
    let failed = |check: &&mut Check| check.name == "kvm" && check.state == State::Fail;
    if let Some(kvm) = checks.iter_mut().find(failed) {
        kvm.state = State::Warn;
    }
}

fn kvm_fix(error: &Unusable) -> String {
    if !matches!(error, Unusable::Absent) {
        return error.hint().into();
    }
    // An unreadable file has no flags, and the general advice follows.
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag| processor.split_ascii_whitespace().any(|word| word == flag);
    match (has("vmx"), has("svm")) {
        (true, _) => "sudo modprobe kvm_intel".into(),
        (_, true) => "sudo modprobe kvm_amd".into(),
        _ => "switch virtualization on in the firmware; in a virtual machine, ask its owner for \
              nested virtualization"
            .into(),
    }
}

fn program() -> Check {
    match vm_program::find() {
        Ok(path) => {
            let path = path.display().to_string();
            Check::new("vm program", State::Ok, path.clone()).fact("path", path)
        }
        Err(error) => {
            failed("vm program", &Failure::from_error("vm_program", &error, error.hint()))
        }
    }
}

fn vsock() -> Check {
    let kernel = Path::new("/dev/vhost-vsock").exists();
    let summary = if kernel {
        "osvm brings its own device; this kernel has one too"
    } else {
        "osvm brings its own device; this kernel has none, and none is needed"
    };
    Check::new("vsock", State::Ok, summary).fact("vhost_vsock", kernel)
}

/// The config as a call would find it. Looking does not write the default one.
fn config(context: &Context, env: &Env) -> (Check, Option<Config>) {
    let path = context.config_path(env);
    let shown = path.display().to_string();
    let named = context.global.config.is_some() || env.osvm_config.is_some();
    let (summary, config) = match Config::load(&path, env) {
        Ok(config) => (shown.clone(), Ok(config)),
        Err(ConfigError::Missing { .. }) if !named => {
            let config = Config::parse(osvm_policy::default_text(), &path, env);
            (format!("{shown}, to be written by the first call"), config.map_err(Into::into))
        }
        Err(error) => (String::new(), Err(error)),
    };
    match config {
        Ok(config) => {
            let warnings: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
            let state = if warnings.is_empty() { State::Ok } else { State::Warn };
            let summary = match &*warnings {
                [] => summary,
                warnings => format!("{summary}: {}", warnings.join("; ")),
            };
            let check = Check::new("config", state, summary).fact("path", shown);
            (check.fact("warnings", warnings), Some(config))
        }
        Err(error) => {
            let failure = Failure::from_error("config", &error, error.hint());
            (failed("config", &failure).fact("path", shown), None)
        }
    }
}

/// Which backend a call would use, why, and whether it works.
fn backend(context: &Context, config: &Config, env: &Env) -> Check {
    let dirs = context.dirs(env);
    let Chosen { backend, reason } = backend::choose(context.wanted(config), &dirs);
    let name = backend.name();
    let check = match backend.probe() {
        Ok(()) => Check::new("backend", State::Ok, format!("{name}: {reason}")),
        Err(error) => failed("backend", &Failure::from_error("backend", &error, error.hint())),
    };
    check.fact("backend", name).fact("reason", reason)
}

/// Which backend Linux guests would use. Nobody has to have some.
fn linux(context: &Context, config: &Config, env: &Env) -> Check {
    match backend::linux(&context.wanted(config), &context.dirs(env)) {
        Ok(backend) => Check::new("linux", State::Ok, format!("Linux guests: {}", backend.name()))
            .fact("backend", backend.name()),
        Err(error) => {
            let check = Check::new("linux", State::Skipped, format!("no Linux guests: {error}"));
            match error.hint() {
                Some(hint) => check.fix(hint),
                None => check,
            }
        }
    }
}

/// The hypervisors that osvm runs as child processes. Neither has to be here.
fn programs() -> [Check; 2] {
    let check = |name, program: Option<PathBuf>, fix: &str| match program {
        Some(path) => {
            let path = path.display().to_string();
            Check::new(name, State::Ok, path.clone()).fact("path", path)
        }
        None => Check::new(name, State::Skipped, "not installed").fix(fix),
    };
    [
        check("qemu", backend::qemu_program(), osvm_qemu::FIX),
        check("firecracker", backend::firecracker_program(None), osvm_firecracker::FIX),
    ]
}

/// One check for each image that a call can need, and for each other one in the store.
fn images(context: &Context, config: &Config) -> Vec<Check> {
    let store = context.store(config);
    let listed = match store.list() {
        Ok(listed) => listed,
        Err(error) => {
            let hint = error.hint().map(str::to_owned);
            return vec![failed("image", &Failure::from_error("image", &error, hint))];
        }
    };
    let needed = needed_images(config);
    let missing = needed.iter().filter(|name| listed.iter().all(|image| image.name != **name));
    let mut checks: Vec<Check> = missing.map(|name| missing_image(&store, name)).collect();
    checks.extend(listed.iter().map(|image| self::image(image, needed.contains(&image.name))));
    checks
}

fn missing_image(store: &Store, name: &str) -> Check {
    let path = store.image_path(name).display().to_string();
    let summary = format!("`{name}` is not installed: there is no `{path}`");
    Check::new("image", State::Fail, summary)
        .fix(INSTALL)
        .fact("image", name)
        .fact("path", path)
        .fact("image_digest", Value::Null)
}

/// Names of the images that the config makes some call boot.
fn needed_images(config: &Config) -> BTreeSet<String> {
    let boots = |(server, tool): (&str, &str)| {
        let resolved = config.resolve(server, tool);
        (resolved.mode == ExecutionMode::Unikernel).then_some(resolved.unikernel_image)
    };
    cases(config).filter_map(boots).collect()
}

fn image(image: &Listed, needed: bool) -> Check {
    let Listed { name, path, entry, image: state, executor } = image;
    let shown = path.display();
    let (state, summary, wrong) = match state {
        FileState::Ok => {
            let digest = entry.as_ref().map(|entry| entry.digest.to_string()).unwrap_or_default();
            (State::Ok, format!("`{name}` {digest}"), false)
        }
        FileState::Altered { found } => {
            (State::Fail, format!("`{shown}` was altered: its digest is {found}"), true)
        }
        FileState::Missing => (State::Fail, format!("`{shown}` was installed and is gone"), true),
        FileState::NotIndexed => {
            (State::Fail, format!("`{shown}` was put there, not installed"), true)
        }
        FileState::Unreadable(why) => (State::Fail, why.clone(), true),
    };
    // An image that no call uses keeps no call from running.
    let state = if state == State::Fail && !needed { State::Warn } else { state };
    let check = Check::new("image", state, summary)
        .fact("image", name.clone())
        .fact("path", path.display().to_string())
        .fact("image_digest", json!(entry.as_ref().map(|entry| entry.digest.to_string())))
        .fact("executor", json!(executor.as_ref().map(executor_word)));
    if wrong { check.fix(INSTALL) } else { check }
}

fn executor_word(state: &FileState) -> &'static str {
    match state {
        FileState::Ok => "ok",
        FileState::Altered { .. } => "altered",
        FileState::Missing => "missing",
        FileState::NotIndexed => "not installed",
        FileState::Unreadable(_) => "unreadable",
    }
}

fn cids(context: &Context, env: &Env, range: RangeInclusive<u32>) -> Check {
    let cids = Cids::new(context.dirs(env).run, range.clone());
    match cids.list() {
        Ok(holders) => {
            let total = range.clone().count();
            let free = total - holders.len();
            let (first, last) = (range.start(), range.end());
            let mut summary = format!("{free} of {total} free ({first} to {last})");
            let held: Vec<Value> = holders.iter().map(holder).collect();
            for Holder { cid, tool, pid, idle, .. } in &holders {
                let unused = if *idle { "unused " } else { "" };
                let pid = pid.map_or_else(|| "?".into(), |pid| pid.to_string());
                summary.push_str(&format!("\n      {cid} {unused}{tool} of process {pid}"));
            }
            let check = if free == 0 {
                Check::new("cids", State::Warn, summary).fix("osvm ps")
            } else {
                Check::new("cids", State::Ok, summary)
            };
            check.fact("free", free).fact("total", total).fact("holders", held)
        }
        Err(error) => {
            let failure = Failure::from_error("cids", &error, error.hint());
            failed("cids", &failure)
        }
    }
}

fn holder(holder: &Holder) -> Value {
    json!({
        "cid": holder.cid.get(),
        "osvm_pid": holder.pid,
        "vm_pid": holder.vm_pid,
        "tool": holder.tool,
        "call": holder.call,
        "idle": holder.idle,
    })
}

fn leftover() -> Check {
    match leftovers::find() {
        Ok(pids) if pids.is_empty() => {
            Check::new("leftovers", State::Ok, "none").fact("pids", json!([]))
        }
        Ok(pids) => {
            let shown: Vec<String> = pids.iter().map(ToString::to_string).collect();
            let summary = format!("VM processes whose osvm is gone: {}", shown.join(", "));
            Check::new("leftovers", State::Warn, summary)
                .fix("osvm doctor --fix")
                .fact("pids", json!(pids))
        }
        Err(failure) => failed("leftovers", &failure),
    }
}

fn failed(name: &'static str, failure: &Failure) -> Check {
    let mut summary = failure.message.clone();
    for cause in &failure.causes {
        summary.push_str(": ");
        summary.push_str(cause);
    }
    let check = Check::new(name, State::Fail, summary);
    match &failure.hint {
        Some(hint) => check.fix(hint),
        None => check,
    }
}
