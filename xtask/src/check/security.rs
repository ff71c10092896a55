//! Each promise of `SECURITY.md`, shown by trying to break it from inside a guest.
//!
//! The guest is the image `hostile`, which does what its environment variable `HOSTILE` says. It
//! lives in a store of its own, so the user's images and config stay as they are. The backend is the
//! embedded VMM: the jail that is looked at is its own.

use super::execution::CIDS;
use super::{Checks, Seen, processes, same};
use crate::guest::{self, IMAGE_NAME};
use crate::osvm::{Osvm, Said};
use crate::project::Project;
use crate::toolchain;
use anyhow::{Context, Result, bail, ensure};
use osvm_image::Store;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// Name of the hostile image in its store.
const HOSTILE: &str = "hostile";
const ECHO: [&str; 6] = ["mcp", "call-tool", "--json", "system", "echo", r#"{"text":"hi"}"#];
/// Memory of the guests here, in MiB; not the default, so that it is seen to be obeyed.
const MEMORY_MIB: u64 = 72;

/// `scripts/validate-unikernel-security.sh`.
pub(super) fn check(project: &Project, checks: &mut Checks) -> Result<()> {
    toolchain::add_targets()?;
    guest::build(project)?;
    let osvm = Osvm::find(project)?.with_backend("kvm");
    let lab = Lab::new(project, osvm)?;
    process_isolation(&lab, checks);
    vsock_only(&lab, checks);
    cid_range(&lab, checks);
    mounts(&lab, checks);
    protocol(&lab, checks);
    timeouts(&lab, checks);
    jail(&lab, checks);
    closed(&lab, checks);
    lab.remove()
}

fn process_isolation(lab: &Lab, checks: &mut Checks) {
    checks.group("process isolation");
    checks.check("the guest has exactly the memory it was given", || {
        let info = lab.friendly(30)?.call("system", "guest_info", "{}")?;
        let bytes = find(info.result(), &["memory_bytes", "memory"]).and_then(Value::as_u64);
        let bytes = bytes.context("the guest does not tell its memory")?;
        ensure!(bytes.div_ceil(1 << 20) == MEMORY_MIB, "it sees {bytes} bytes");
        Ok(format!("{bytes} bytes of {MEMORY_MIB} MiB"))
    });
    checks.check("memory it was not given ends it", || {
        lab.dies("outside_memory", "which it was not given")
    });
    checks.check("two guests at once are two processes, and one ends without the other", || {
        let osvm = lab.hostile("spin", 20)?;
        let (mut first, mut second) = (Running::start(&osvm)?, Running::start(&osvm)?);
        ensure!(first.vm != second.vm, "both are process {}", first.vm);
        first.kill()?;
        ensure!(processes::lives(second.vm), "the other ended too");
        second.kill()?;
        Ok(format!("{} and {}", first.vm, second.vm))
    });
    checks.check("a guest that panics or triple-faults ends alone, with its reason", || {
        lab.dies("panic", "panicked")?;
        lab.dies("triple_fault", "triple-faulted")
    });
}

fn vsock_only(lab: &Lab, checks: &mut Checks) {
    checks.group("vsock is the only wire");
    checks.check("the guest finds one device, a vsock", || {
        let info = lab.friendly(30)?.call("system", "guest_info", "{}")?;
        let devices = find(info.result(), &["devices"]).and_then(Value::as_array);
        let devices = devices.context("the guest does not tell its devices")?;
        ensure!(devices.len() == 1, "it finds {devices:?}");
        let shown = devices.first().map(ToString::to_string).unwrap_or_default();
        ensure!(shown.contains("vsock") || shown.contains("19"), "it finds {shown}");
        Ok(shown)
    });
    lab.with_spinning(checks, "the VM process holds no network or packet socket", |vm| {
        let open = processes::descriptors(vm)?;
        let tap = open.iter().find(|name| name.contains("/net/tun") || name.contains("vhost"));
        ensure!(tap.is_none(), "it holds {tap:?}");
        let devices = fs::read_to_string(format!("/proc/{vm}/net/dev"))?;
        let cards: Vec<&str> =
            devices.lines().skip(2).filter_map(|line| line.trim().split(':').next()).collect();
        ensure!(cards == ["lo"], "its namespace has {cards:?}");
        Ok("its namespace has nothing but a loopback that is down".into())
    });
}

fn cid_range(lab: &Lab, checks: &mut Checks) {
    checks.group("CIDs");
    checks.check("guests have CIDs from 200 to 299, each only once", || {
        let osvm = lab.friendly(30)?;
        let calls: Result<Vec<Child>> = (0..8).map(|_| osvm.start(&ECHO)).collect();
        let mut held = HashSet::new();
        for call in calls? {
            let output = call.wait_with_output()?;
            let envelope: Value = serde_json::from_slice(&output.stdout)?;
            let cid = find(&envelope, &["cid"]).and_then(Value::as_u64).context("no `cid`")?;
            ensure!(CIDS.contains(&cid), "CID {cid}");
            held.insert(cid);
        }
        Ok(format!("{held:?}"))
    });
    checks.check("a CID is free again when its guest was killed", || {
        let osvm = lab.hostile("spin", 20)?;
        for _ in 0..3 {
            Running::start(&osvm)?.kill()?;
        }
        let envelope = lab.friendly(30)?.call("system", "echo", r#"{"text":"hi"}"#)?;
        let cid = envelope.number("cid")?;
        Ok(format!("the next call got {cid}"))
    });
}

fn mounts(lab: &Lab, checks: &mut Checks) {
    checks.group("mounts");
    checks.check("the system's own directories can't be mounted over", || {
        for path in ["/", "/dev", "/proc/1", "/sys", "relative", "/a/../proc"] {
            let mount = json!([{ "host_path": "/tmp", "guest_path": path }]);
            let osvm = lab.config("mounts", &json!({ "mounts": mount }))?;
            let said = osvm.say(&["config", "validate"])?;
            ensure!(said.code == Some(2), "`{path}` is accepted as a guest path");
        }
        Ok(String::new())
    });
    lab.with_spinning(checks, "no file of the host is open but console and CID lock", |vm| {
        let open = processes::descriptors(vm)?;
        let anonymous = ["socket:", "pipe:", "anon_inode:", "/memfd:"];
        let files: Vec<&String> = open
            .iter()
            .filter(|name| anonymous.iter().all(|prefix| !name.starts_with(prefix)))
            .collect();
        let known = |name: &&&String| name.ends_with("/cids") || name.contains("/calls/");
        let strange: Vec<_> = files.iter().filter(|name| !known(name)).collect();
        ensure!(strange.is_empty(), "it holds {strange:?}");
        Ok(format!("{} files", files.len()))
    });
}

fn protocol(lab: &Lab, checks: &mut Checks) {
    checks.group("protocol");
    let attempts = [
        ("announce_4gib", "a frame announced with 4 GiB is refused", "over the limit"),
        ("die_mid_frame", "a guest that dies within a frame is told so", ""),
        ("wrong_id", "an answer to what was not asked is refused", "id"),
        ("flood", "a flood ends the call", ""),
        ("rubbish_rings", "rubbish in the rings of the device ends the guest", "vsock device"),
    ];
    for (behaviour, sentence, words) in attempts {
        checks.check(sentence, || lab.dies(behaviour, words));
    }
    checks.check("arguments that are no JSON, no object or do not fit start no VM", || {
        let osvm = lab.friendly(30)?;
        for arguments in ["{", "[1]", r#"{"text":1}"#, r#"{"text":"a","more":1}"#, "{}"] {
            let said = osvm.say(&["mcp", "call-tool", "--json", "system", "echo", arguments])?;
            same(&said.code, &Some(2))?;
            let envelope: Value = serde_json::from_str(&said.stdout).unwrap_or(Value::Null);
            let vm = find(&envelope, &["vm_pid"]).unwrap_or(&Value::Null);
            ensure!(vm.is_null(), "`{arguments}` started VM process {vm}");
        }
        Ok(String::new())
    });
}

fn timeouts(lab: &Lab, checks: &mut Checks) {
    checks.group("timeouts");
    for (behaviour, sentence) in [
        ("spin", "a guest that spins is killed on time"),
        ("never_accept", "a guest that never accepts is given up on time"),
    ] {
        checks.check(sentence, || {
            let osvm = lab.hostile(behaviour, 1)?;
            let begun = Instant::now();
            let said = osvm.say(&ECHO)?;
            let took = begun.elapsed();
            same(&said.code, &Some(2))?;
            ensure!(took < Duration::from_secs(3), "it took {took:.2?}");
            Ok(format!("{took:.2?} with a limit of 1 s: {}", reason(&said)))
        });
    }
    checks.check("a guest that spins dies with an osvm that is killed", || {
        let mut running = Running::start(&lab.hostile("spin", 20)?)?;
        running.osvm.kill().context("cannot kill osvm")?;
        running.osvm.wait().context("cannot wait for osvm")?;
        let took = processes::wait_for_end(running.vm)?;
        Ok(format!("after {took:.2?}"))
    });
}

fn jail(lab: &Lab, checks: &mut Checks) {
    checks.group("jail of a living VM process");
    let promises: [(&str, &str, &str); 4] = [
        ("system calls are filtered", "Seccomp", "2"),
        ("it can get no new privileges", "NoNewPrivs", "1"),
        ("it has no capabilities", "CapEff", "0000000000000000"),
        ("it can regain none", "CapPrm", "0000000000000000"),
    ];
    for (sentence, field, expected) in promises {
        lab.with_spinning(checks, sentence, |vm| {
            let found = processes::status(vm, field)?;
            same(&found.as_str(), &expected)?;
            Ok(format!("{field}: {found}"))
        });
    }
    for (sentence, name, expected) in [
        ("it can start no process", "Max processes", "0"),
        ("it leaves no core dump", "Max core file size", "0"),
    ] {
        lab.with_spinning(checks, sentence, |vm| {
            same(&processes::limit(vm, name)?.as_str(), &expected)?;
            Ok(String::new())
        });
    }
    lab.with_spinning(checks, "it is alone in its network namespace", |vm| {
        let (theirs, ours) =
            (processes::network_namespace(&vm.to_string())?, processes::network_namespace("self")?);
        ensure!(theirs != ours, "it is in ours, {ours}");
        Ok(theirs)
    });
}

fn closed(lab: &Lab, checks: &mut Checks) {
    checks.group("closed");
    checks.check("without an image the call is denied, not run on the host", || {
        let osvm = lab.config("missing", &json!({ "unikernel_image": "not-there" }))?;
        let said = osvm.say(&ECHO)?;
        same(&said.code, &Some(2))?;
        ensure!(!said.stdout.contains("\"result\""), "it was answered: {}", said.stdout);
        Ok(reason(&said))
    });
    checks.check("an altered image is not booted", || {
        let path = lab.store.image_path(IMAGE_NAME);
        let bytes = fs::read(&path)?;
        let mut altered = bytes.clone();
        let middle = altered.len() / 2;
        *altered.get_mut(middle).context("an empty image")? ^= 1;
        fs::write(&path, altered)?;
        let said = lab.friendly(30)?.say(&ECHO);
        fs::write(&path, bytes)?;
        let said = said?;
        same(&said.code, &Some(2))?;
        Ok(reason(&said))
    });
    checks.check("a config with an unknown field lets no call run", || {
        let osvm = lab.config("unknown", &json!({ "memory_mbb": 64 }))?;
        let said = osvm.say(&ECHO)?;
        same(&said.code, &Some(2))?;
        Ok(reason(&said))
    });
}

/// A store with a good and a hostile image, and configs that choose between them.
#[derive(Debug)]
struct Lab {
    osvm: Osvm,
    folder: PathBuf,
    store: Store,
}

impl Lab {
    fn new(project: &Project, osvm: Osvm) -> Result<Self> {
        let folder = project.target.join(format!("check-security-{}", std::process::id()));
        let store = Store::new(folder.join("unikernels"));
        let image = |artifact: &guest::Artifact| project.images().join(artifact.file);
        store.install(IMAGE_NAME, &image(&guest::IMAGE), Some(&image(&guest::EXECUTOR)))?;
        store.install(HOSTILE, &image(&guest::HOSTILE), None)?;
        Ok(Self { osvm, folder, store })
    }

    fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).context("cannot remove the store of this check")
    }

    /// osvm with these options for `system`.
    fn config(&self, name: &str, options: &Value) -> Result<Osvm> {
        let config = json!({
            "unikernel_dir": self.store.dir(),
            "mcp_servers": { "system": options },
        });
        let path = self.folder.join(format!("{name}.json"));
        fs::write(&path, config.to_string()).context("cannot write a config")?;
        Ok(self.osvm.with_config(&path))
    }

    /// osvm with the good image.
    fn friendly(&self, timeout: u32) -> Result<Osvm> {
        self.config("friendly", &json!({ "timeout_secs": timeout, "memory_mb": MEMORY_MIB }))
    }

    /// osvm with the hostile image.
    fn hostile(&self, behaviour: &str, timeout: u32) -> Result<Osvm> {
        let options = json!({
            "unikernel_image": HOSTILE,
            "timeout_secs": timeout,
            "memory_mb": MEMORY_MIB,
            "env_vars": { "HOSTILE": behaviour },
        });
        self.config(&format!("{behaviour}-{timeout}"), &options)
    }

    /// A guest that misbehaves like this ends its call with exit code 2 and these words, before
    /// its deadline, and leaves no process.
    fn dies(&self, behaviour: &str, words: &str) -> Seen {
        let begun = Instant::now();
        let said = self.hostile(behaviour, 10)?.say(&ECHO)?;
        same(&said.code, &Some(2))?;
        ensure!(begun.elapsed() < Duration::from_secs(9), "it took {:.1?}", begun.elapsed());
        let text = format!("{}{}", said.stdout, said.stderr);
        ensure!(text.contains(words), "it says: {}", text.trim());
        let envelope: Value = serde_json::from_str(&said.stdout).unwrap_or(Value::Null);
        if let Some(vm) = find(&envelope, &["vm_pid"]).and_then(Value::as_u64) {
            ensure!(!processes::lives(u32::try_from(vm)?), "VM process {vm} is still there");
        }
        Ok(reason(&said))
    }

    /// Looks at the VM process of a guest that is busy. What only root may see is skipped.
    fn with_spinning(&self, checks: &mut Checks, sentence: &str, look: impl FnOnce(u32) -> Seen) {
        let seen = self.hostile("spin", 20).and_then(|osvm| Running::start(&osvm)).and_then(
            |mut running| {
                let seen = look(running.vm);
                running.kill()?;
                Ok(seen)
            },
        );
        let seen = seen.and_then(|seen| seen);
        match seen {
            Err(error) if is_forbidden(&error) => checks.skip(sentence, "only root may look"),
            seen => checks.check(sentence, || seen),
        }
    }
}

/// A call whose guest is busy.
#[derive(Debug)]
struct Running {
    osvm: Child,
    vm: u32,
}

impl Running {
    fn start(osvm: &Osvm) -> Result<Self> {
        let mut osvm = osvm.start(&ECHO)?;
        match processes::vm_of(osvm.id()) {
            Ok(vm) => Ok(Self { osvm, vm }),
            Err(error) => {
                // It may have ended by itself, with its reason.
                let _ = osvm.kill();
                let output = osvm.wait_with_output().context("cannot wait for osvm")?;
                bail!("{error:#}: {}", String::from_utf8_lossy(&output.stderr).trim())
            }
        }
    }

    /// Kills osvm, after which its VM process must end by itself.
    fn kill(&mut self) -> Result<()> {
        self.osvm.kill().context("cannot kill osvm")?;
        self.osvm.wait().context("cannot wait for osvm")?;
        processes::wait_for_end(self.vm)?;
        Ok(())
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The error and its last cause.
fn reason(said: &Said) -> String {
    let mut lines = said.stderr.lines().map(str::trim);
    let error = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let cause = lines.rev().find_map(|line| line.strip_prefix("caused by: "));
    cause.map_or_else(|| error.clone(), |cause| format!("{error}: {cause}"))
}

/// The first member with one of these names, however deep.
fn find<'v>(value: &'v Value, names: &[&str]) -> Option<&'v Value> {
    match value {
        Value::Object(members) => {
            let here = names.iter().find_map(|name| members.get(*name));
            here.or_else(|| members.values().find_map(|value| find(value, names)))
        }
        Value::Array(values) => values.iter().find_map(|value| find(value, names)),
        _ => None,
    }
}
