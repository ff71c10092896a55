//! What a VM process may still do once its guest runs, looked at from outside.

use crate::support::{IDLE, SPIN, backend, kvm, soon, spec, tiny, vm_program};
use osvm_kvm::{KvmMachine, probe};
use osvm_vmm::Machine;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn the_kernel_says_that_the_jail_is_in_force() {
    let Some(machine) = start(&IDLE) else { return };
    let status = fs::read_to_string(proc(&machine, "status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    };
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    // KVM may have a thread of its own in the process, for its page tables.
    let threads = fs::read_dir(proc(&machine, "task")).unwrap();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap();
    let names = threads.map(|thread| name(thread.unwrap()));
    assert_eq!(names.filter(|name| !name.starts_with("kvm-")).count(), 1);
}

#[test]
fn the_report_is_true() {
    let Some(machine) = start(&IDLE) else { return };
    let jail = machine.jail().unwrap();
    assert!(jail.seccomp && jail.no_capabilities);
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let Some(namespace) = seen(fs::read_link(proc(&machine, "ns/net"))) else { return };
    assert_eq!(namespace != own, jail.network_namespace);
    if rustix::process::geteuid().is_root() {
        assert!(jail.network_namespace);
    }
}

#[test]
fn the_network_namespace_is_empty() {
    let Some(machine) = start(&IDLE) else { return };
    if machine.jail().unwrap().network_namespace {
        let devices = fs::read_to_string(proc(&machine, "net/dev")).unwrap();
        let names: Vec<_> = devices.lines().skip(2).filter_map(|l| l.split_once(':')).collect();
        assert!(names.iter().all(|(name, _)| name.trim() == "lo"), "{devices}");
    }
}

#[test]
fn the_limits_are_set() {
    let Some(machine) = start(&IDLE) else { return };
    let limits = fs::read_to_string(proc(&machine, "limits")).unwrap();
    let hard = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(hard("Max processes"), "0");
    assert_eq!(hard("Max core file size"), "0");
    let number = |name| hard(name).parse::<u64>().unwrap();
    assert!(number("Max open files") <= 1040);
    assert!(number("Max address space") <= (16 + 128) << 20);
    // An empty console may grow to its limit and the line behind it.
    assert!(number("Max file size") < 70_000);
}

#[test]
fn only_what_the_guest_needs_is_open() {
    let Some(machine) = start(&IDLE) else { return };
    let Some(open) = seen(fs::read_dir(proc(&machine, "fd"))) else { return };
    let mut names: Vec<_> = open
        .map(|fd| fs::read_link(fd.unwrap().path()).unwrap().display().to_string())
        .map(|name| name.split(':').next().unwrap().trim_end_matches(" (deleted)").to_owned())
        .collect();
    names.sort();
    let expected = [
        "/memfd", // guest memory and the console
        "/memfd",
        "anon_inode", // the vCPU and two epoll sets
        "anon_inode",
        "anon_inode",
        "pipe", // lifeline and standard error
        "pipe",
        "socket", // to osvm
    ];
    assert_eq!(names, expected);
}

#[test]
fn little_memory_is_used_besides_the_guests_own() {
    let Some(machine) = start(&IDLE) else { return };
    let status = fs::read_to_string(proc(&machine, "status")).unwrap();
    let kb = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    // Guest memory is shared memory; the rest is the process's own.
    let own = kb("RssAnon:") + kb("RssFile:");
    assert!(own <= 6 * 1024, "{own} KiB");
}

#[test]
fn a_vm_process_dies_with_the_process_that_started_it() {
    if !kvm() {
        return;
    }
    // This test again, as a child that boots a guest which spins, says its id, and is killed.
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "jail::boots_and_waits_to_be_killed", "--nocapture"])
        .env(ROLE, "1")
        .env("OSVM_VM_PROGRAM", vm_program())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let pid: u32 = lines
        .find_map(|line| line.unwrap().rsplit_once("vm ")?.1.trim().parse().ok())
        .expect("the child says the id of its VM process");
    let process = Path::new("/proc").join(pid.to_string());
    assert!(process.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = soon();
    while process.exists() && !is_zombie(&process) {
        assert!(std::time::Instant::now() < deadline, "VM process {pid} lives on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Set in the child of the test above.
const ROLE: &str = "OSVM_TEST_BOOTS_AND_WAITS";

#[test]
fn boots_and_waits_to_be_killed() {
    if std::env::var_os(ROLE).is_some() {
        let machine = start(&SPIN).unwrap();
        println!("\nvm {}", machine.vm_pid());
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn a_host_with_kvm_is_measured() {
    if !kvm() {
        return;
    }
    let speed = probe::measure().unwrap();
    match speed.kind {
        probe::Kind::Hardware => assert!(speed.ns_per_instruction < 200.0, "{speed:?}"),
        probe::Kind::Interpreted => assert!(20.0 < speed.ns_per_instruction, "{speed:?}"),
    }
}

fn start(code: &[u8]) -> Option<KvmMachine> {
    kvm().then(|| backend().start(&spec(tiny(code))).unwrap())
}

fn proc(machine: &KvmMachine, name: &str) -> std::path::PathBuf {
    Path::new("/proc").join(machine.vm_pid().to_string()).join(name)
}

/// A process that is not dumpable hides these from everybody but root.
fn seen<T>(look: std::io::Result<T>) -> Option<T> {
    match look {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            osvm_vmm::conformance::skip("root", "only root can look into the VM process");
            None
        }
        look => Some(look.unwrap()),
    }
}

/// Nobody may be left to reap a process whose parent was killed.
fn is_zombie(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}
