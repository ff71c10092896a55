//! PID 1 of the test host: mounts, loads modules, runs the listed programs, powers off.
//!
//! ```text
//! /osvm-test/modules     one path of a kernel module a line, dependencies first
//! /osvm-test/programs-N  for the host whose OSVM_TEST_PART is N, one program a line:
//!                        name TAB working directory TAB path TAB [VARIABLE=VALUE]… [TAB argument]…
//!                        With OSVM_TEST_ONLY those it names, with commas, and no others.
//! ```
//!
//! Programs write to the serial console as they run. Between them this program writes lines that
//! begin with [`MARK`], which `cargo xtask test-host` reads: `begin NAME`, `end NAME CODE`, `done`.
//! A console that ends without `done` is a failed run, so there is no failure this program could
//! hide by dying.

use anyhow::{Context, Result, bail};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use rustix::system::{RebootCommand, finit_module, reboot};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// Starts every line that is meant for `cargo xtask test-host`.
const MARK: &str = "osvm-test-host:";

/// Says which of the lists is run. On the kernel's command line, which makes it a variable.
const PART: &str = "OSVM_TEST_PART";
/// Says which programs of the list are run, unless it is empty.
const ONLY: &str = "OSVM_TEST_ONLY";

/// Here KVM must work: a test that would skip itself elsewhere has to run.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("HOME", "/root"),
    ("OSVM_REQUIRE", "guests,kvm,qemu,root,vhost-vsock"),
    ("OSVM_SLOW_HOST", "1"),
    ("PATH", "/bin:/usr/bin"),
    ("RUST_BACKTRACE", "1"),
    ("TMPDIR", "/tmp"),
];

/// The root is in memory already, and the checkout may be below `/tmp`: nothing is mounted there.
const FOLDERS: &[&str] = &["/root", "/run", "/tmp"];

const MOUNTS: &[(&str, &str)] = &[
    ("/proc", "proc"),
    ("/sys", "sysfs"),
    ("/dev", "devtmpfs"),
    ("/dev/shm", "tmpfs"),
    ("/sys/fs/cgroup", "cgroup2"),
];

fn main() {
    match run() {
        Ok(()) => say("done"),
        Err(error) => say(&format!("failed {error:#}")),
    }
    // With `-no-reboot` a restart ends QEMU, and unlike power-off it needs no ACPI driver.
    if let Err(error) = reboot(RebootCommand::Restart) {
        say(&format!("failed cannot restart: {error}"));
    }
}

fn run() -> Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{folder}`"))?;
    }
    for (target, kind) in MOUNTS {
        fs::create_dir_all(target).with_context(|| format!("cannot make `{target}`"))?;
        mount(*kind, *target, *kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {kind} on `{target}`"))?;
    }
    // IFF_UP and IFF_LOOPBACK: with it the loopback interface gets its addresses.
    fs::write("/sys/class/net/lo/flags", "0x9").context("cannot start the loopback interface")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for path in lines("/osvm-test/modules")? {
        let module = File::open(&path).with_context(|| format!("cannot open `{path}`"))?;
        finit_module(&module, c"", 0).with_context(|| format!("cannot load `{path}`"))?;
    }
    if !Path::new("/dev/kvm").exists() {
        bail!("the kernel made no `/dev/kvm`");
    }
    let part = std::env::var(PART).with_context(|| format!("`{PART}` is not set"))?;
    let only = std::env::var(ONLY).unwrap_or_default();
    for line in lines(&format!("/osvm-test/programs-{part}"))? {
        let name = line.split('\t').next().unwrap_or_default();
        if only.is_empty() || only.split(',').any(|wanted| wanted == name) {
            run_program(&line)?;
        }
    }
    Ok(())
}

fn run_program(line: &str) -> Result<()> {
    let mut fields = line.split('\t');
    let mut field = || fields.next().with_context(|| format!("not a program: `{line}`"));
    let (name, directory, path, variables) = (field()?, field()?, field()?, field()?);
    say(&format!("begin {name}"));
    let mut command = Command::new(path);
    command.args(fields).current_dir(directory).env_clear().envs(ENVIRONMENT.iter().copied());
    command.envs(variables.split(' ').filter_map(|variable| variable.split_once('=')));
    let child = command.spawn();
    let code = match child {
        Ok(child) => exit_code_of(child.id())?,
        Err(error) => {
            say(&format!("cannot run `{path}`: {error}"));
            127
        }
    };
    say(&format!("end {name} {code}"));
    Ok(())
}

/// Waits for `child` and reaps whatever else ends meanwhile, as PID 1 must: a test that checks that
/// a process is gone would else find its zombie.
fn exit_code_of(child: u32) -> Result<i32> {
    let child = i32::try_from(child).ok().and_then(Pid::from_raw).context("no such process id")?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Ok(code_of(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the program"),
        }
    }
}

/// The shell's convention: a signal's number is added to 128.
fn code_of(status: WaitStatus) -> i32 {
    let signal = status.terminating_signal().map(|signal| signal.saturating_add(128));
    status.exit_status().or(signal).unwrap_or(255)
}

fn lines(path: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{path}`"))?;
    Ok(text.lines().map(String::from).collect())
}

fn say(text: &str) {
    // The console is gone if this fails, and with it anybody who could be told.
    let _ = writeln!(io::stdout().lock(), "{MARK} {text}");
}
