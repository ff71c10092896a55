//! Linux guests and copies of them under a real Firecracker, where there is one and KVM is hardware
//! KVM. PID 1 is the tool executor, which answers on vsock without a root file system.
#![cfg(test)]

use cpio::newc::{Builder, ModeFileType, trailer};
use osvm_firecracker::{FIX, FirecrackerLinux, PROGRAM};
use osvm_kvm::probe::{self, Kind};
use osvm_protocol::frame::{self, HEADER_LEN};
use osvm_protocol::message::{self, Id, Message};
use osvm_protocol::{Cid, PORT};
use osvm_vmm::conformance::{skip, vm_program};
use osvm_vmm::linux::{LinuxBackend, LinuxMachine, LinuxSpec, Place, sealed};
use osvm_vmm::{ConnectError, Death, GuestStream, MemoryMib};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MEMORY_MIB: u32 = 96;

/// A backend, what its guests boot, and where their sockets are made.
struct Bench {
    backend: FirecrackerLinux,
    spec: LinuxSpec,
    dir: tempfile::TempDir,
}

impl Bench {
    /// Nothing, with a visible line, where something is missing.
    fn new() -> Option<Self> {
        let named = std::env::var_os("OSVM_FIRECRACKER").map(PathBuf::from);
        let Some(firecracker) = named.or_else(|| which::which(PROGRAM).ok()) else {
            skip("firecracker", &format!("`{PROGRAM}` is not here: {FIX}"));
            return None;
        };
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let kernel = std::fs::read(target.join("guest-kernel/vmlinux"));
        let executor = std::fs::read(target.join("guest/unikraft_tool_executor"));
        let (Ok(kernel), Ok(executor)) = (kernel, executor) else {
            skip("microvm", "there is no kernel or no program for it: run `cargo xtask kernel`");
            return None;
        };
        match probe::measure().map(|speed| speed.kind) {
            Ok(Kind::Hardware) => {}
            Ok(_) => {
                skip("hardware-kvm", "this host's KVM interprets guests");
                return None;
            }
            Err(error) => {
                skip("kvm", &error.to_string());
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let backend = FirecrackerLinux::new(firecracker, vm_program(), dir.path().to_owned());
        if let Err(error) = backend.probe() {
            skip("firecracker", &error.to_string());
            return None;
        }
        // It has a path that the guard knows nothing of, and is not mounted.
        let mut root = tempfile::tempfile().unwrap();
        root.write_all(&[0; 4096]).unwrap();
        let spec = LinuxSpec {
            kernel: Arc::new(sealed("kernel", &kernel).unwrap()),
            initrd: Arc::new(sealed("initrd", &archive(&[("init", &executor)])).unwrap()),
            root: Arc::new(root),
            memory: MemoryMib::new(MEMORY_MIB).unwrap(),
        };
        Some(Self { backend, spec, dir })
    }

    fn boot(&self) -> Box<dyn LinuxMachine> {
        self.backend.boot(&self.spec, place(200, &console())).unwrap()
    }

    /// Nothing is left of guests that are gone.
    #[track_caller]
    fn is_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn console() -> File {
    tempfile::tempfile().unwrap()
}

fn place(cid: u32, console: &File) -> Place {
    Place { cid: Cid::new(cid).unwrap(), console: console.try_clone().unwrap(), lease: None }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// An initial RAM disk with these programs.
fn archive(programs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, bytes) in programs {
        let entry =
            Builder::new(name).nlink(1).mode(0o700).set_mode_file_type(ModeFileType::Regular);
        let mut writer = entry.write(&mut archive, u32::try_from(bytes.len()).unwrap());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap();
    }
    trailer(&mut archive).unwrap();
    archive
}

/// Connects as soon as the guest listens.
fn connect(machine: &mut dyn LinuxMachine) -> GuestStream {
    loop {
        match machine.connect(PORT, soon()) {
            Ok(stream) => return stream,
            Err(ConnectError::Refused { .. }) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error}: {:?}", machine.death()),
        }
    }
}

/// Has the executor say `text`.
fn echo(stream: &mut GuestStream, text: &str) {
    let id = Id::from(1_u64);
    let arguments = serde_json::json!({ "text": text }).to_string();
    let arguments = RawValue::from_string(arguments).unwrap();
    let request = message::request(&id, Some("system"), "echo", Some(&arguments)).unwrap();
    stream.write_all(&request, soon()).unwrap();
    let mut header = [0; HEADER_LEN];
    fill(stream, &mut header);
    let mut payload = vec![0; frame::payload_len(header).unwrap()];
    fill(stream, &mut payload);
    let Message::Response(answer) = message::parse(&payload).unwrap() else { panic!("no answer") };
    let result: Value = serde_json::from_str(answer.outcome.unwrap().get()).unwrap();
    assert_eq!(result["text"], text);
}

fn fill(stream: &mut GuestStream, mut buffer: &mut [u8]) {
    while !buffer.is_empty() {
        let len = stream.read(buffer, soon()).unwrap();
        assert_ne!(len, 0, "the guest hung up");
        buffer = &mut buffer[len..];
    }
}

#[test]
fn a_guest_is_reached_and_leaves_nothing_behind() {
    let Some(bench) = Bench::new() else { return };
    let mut machine = bench.boot();
    let mut stream = connect(&mut *machine);
    echo(&mut stream, "one");
    bench.is_clean();
    // A second connection needs no name either.
    echo(&mut connect(&mut *machine), "two");
    let pid = machine.vm_pid();
    assert!(0 < machine.private_kb().unwrap());
    drop(machine);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(stream.read(&mut [0], soon()).unwrap(), 0);
}

#[test]
fn copies_and_copies_of_a_copy_are_reached_and_share_memory() {
    let Some(bench) = Bench::new() else { return };
    let mut original = bench.boot();
    let mut stream = connect(&mut *original);
    echo(&mut stream, "original");
    let pid = original.vm_pid();
    let snapshot = original.snapshot(soon()).unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(stream.read(&mut [0], soon()).unwrap(), 0);
    assert!(snapshot.memory.try_clone().unwrap().write_all(b"x").is_err());
    let restore = |snapshot, cid| bench.backend.restore(snapshot, place(cid, &console())).unwrap();
    // Two at a time, so that each has memory and sockets of its own.
    let mut copies: Vec<_> = (201..203).map(|cid| restore(&snapshot, cid)).collect();
    bench.is_clean();
    for copy in &mut copies {
        echo(&mut connect(&mut **copy), "copy");
        let own = copy.private_kb().unwrap();
        assert!(own < u64::from(MEMORY_MIB) * 1024 / 4, "{own} KiB");
        assert!(copy.usage().guest_memory_kb.is_some());
    }
    let again = copies.pop().unwrap().snapshot(soon()).unwrap();
    echo(&mut connect(&mut *restore(&again, 204)), "copy of a copy");
    echo(&mut connect(&mut **copies.first_mut().unwrap()), "still there");
    bench.is_clean();
}

#[test]
fn a_guest_says_why_it_ended() {
    let Some(mut bench) = Bench::new() else { return };
    let mut killed = bench.boot();
    let mut stream = connect(&mut *killed);
    killed.killer().kill();
    assert!(killed.wait(soon()));
    assert_eq!(stream.read(&mut [0], soon()).unwrap(), 0);
    assert_eq!(killed.death(), Death::Killed { signal: 9 });
    assert!(matches!(killed.connect(PORT, soon()), Err(ConnectError::Died(_))));
    // A kernel without a first program panics, and resets its machine.
    bench.spec.initrd = Arc::new(sealed("initrd", &archive(&[])).unwrap());
    let mut console = console();
    let mut lost = bench.backend.boot(&bench.spec, place(205, &console)).unwrap();
    assert!(lost.wait(soon()));
    assert!(matches!(lost.death(), Death::Panicked { .. }));
    let mut words = String::new();
    console.rewind().unwrap();
    console.read_to_string(&mut words).unwrap();
    assert!(words.contains("Kernel panic - not syncing"), "{words}");
}

#[test]
fn a_copy_of_what_is_no_guest_is_refused_with_firecrackers_words() {
    let Some(bench) = Bench::new() else { return };
    let snapshot = bench.boot().snapshot(soon()).unwrap();
    let state = Arc::new(sealed("state", &[7; 5000]).unwrap());
    let wrong = osvm_vmm::linux::Snapshot { state, ..snapshot };
    let refusal = bench.backend.restore(&wrong, place(206, &console())).unwrap_err().to_string();
    assert!(refusal.contains("Firecracker refused with status 400"), "{refusal}");
    bench.is_clean();
}
