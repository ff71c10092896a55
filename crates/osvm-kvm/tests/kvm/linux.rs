//! Linux guests and their copies.
//!
//! Most of it is shown with a "kernel" of a few bytes, which every KVM runs. What a real kernel
//! and PID 1 do, an interpreting KVM can't run.

use crate::support::{self, image, kvm, memory_file, say, soon, tiny, vm_program};
use osvm_kvm::KvmLinux;
use osvm_kvm::probe::{self, Kind};
use osvm_protocol::Cid;
use osvm_vmm::linux::{
    LinuxBackend, LinuxMachine, LinuxSpec, Place, Snapshot, SnapshotError, sealed,
};
use osvm_vmm::{BootError, Death, MemoryMib};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Resets the machine through the keyboard controller: `mov al, 0xfe; out 0x64, al`.
const RESET: [u8; 4] = [0xb0, 0xfe, 0xe6, 0x64];

fn spec(kernel: Arc<File>, initrd: &[u8], mib: u32) -> LinuxSpec {
    LinuxSpec {
        kernel,
        initrd: Arc::new(sealed("initrd", initrd).unwrap()),
        root: Arc::new(sealed("root", &[0; 4096]).unwrap()),
        memory: MemoryMib::new(mib).unwrap(),
    }
}

fn tiny_spec(code: &[u8]) -> LinuxSpec {
    spec(tiny(code).file, b"initrd", 16)
}

fn place(console: &File) -> Place {
    let console = console.try_clone().unwrap();
    Place { cid: Cid::new(201).unwrap(), console, lease: None }
}

fn boot(spec: &LinuxSpec, console: &File) -> Box<dyn LinuxMachine> {
    KvmLinux::new(vm_program()).boot(spec, place(console)).unwrap()
}

/// What a console says so far. Its position is the VM process's too, and stays where it is.
fn text(console: &File) -> String {
    let mut bytes = vec![0; 1 << 18];
    let len = console.read_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

/// Waits until the console says so much.
fn until(console: &File, enough: impl Fn(&str) -> bool) -> String {
    let deadline = soon();
    loop {
        let text = text(console);
        if enough(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "{text:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says "once" and then, for ever, "again", with some thousand instructions in between.
fn repeats() -> LinuxSpec {
    let mut code = say("once\n");
    let again = code.len();
    code.extend([0xb9, 0, 0x20, 0, 0, 0x49, 0x75, 0xfd]); // mov ecx, 0x2000; dec ecx; jnz
    code.extend(say("again\n"));
    let back = i32::try_from(again).unwrap() - i32::try_from(code.len() + 5).unwrap();
    code.push(0xe9);
    code.extend(back.to_le_bytes());
    tiny_spec(&code)
}

#[test]
fn a_guest_that_resets_its_machine_has_shut_down() {
    if !kvm() {
        return;
    }
    let console = memory_file("console");
    let mut machine = boot(&tiny_spec(&[say("hello\n"), RESET.to_vec()].concat()), &console);
    assert!(machine.wait(soon()));
    assert_eq!(machine.death(), Death::ShutDown);
    assert_eq!(text(&console), "hello\n");
}

#[test]
fn what_a_kernel_said_before_its_reset_is_why_it_ended() {
    if !kvm() {
        return;
    }
    let console = memory_file("console");
    let words = say("[    0.25] Kernel panic - not syncing: no init\n");
    let mut machine = boot(&tiny_spec(&[words, RESET.to_vec()].concat()), &console);
    assert!(machine.wait(soon()));
    assert_eq!(machine.death(), Death::Panicked { last_words: "no init".into() });
}

#[test]
fn a_guest_that_touches_what_it_was_not_given_is_ended() {
    if !kvm() {
        return;
    }
    // mov eax, [0xe0000000]
    let mut machine = boot(&tiny_spec(&[0xa1, 0, 0, 0, 0xe0]), &memory_file("console"));
    assert!(machine.wait(soon()));
    assert_eq!(machine.death(), Death::OutOfBounds { address: 0xe000_0000 });
}

#[test]
fn a_copy_goes_on_where_its_original_was_saved_and_so_does_the_next() {
    if !kvm() {
        return;
    }
    let snapshot = saved();
    let backend = KvmLinux::new(vm_program());
    let consoles = [memory_file("first"), memory_file("second")];
    let copies = consoles.each_ref().map(|console| backend.restore(&snapshot, place(console)));
    let copies = copies.map(Result::unwrap);
    for console in &consoles {
        let text = until(console, |text| 3 <= text.matches("again").count());
        assert!(!text.contains("once"), "{text:?}");
    }
    for mut copy in copies {
        let private = copy.private_kb().unwrap();
        assert!((1..8 * 1024).contains(&private), "{private} KiB");
        let killer = copy.killer();
        killer.kill();
        assert!(matches!(copy.death(), Death::Killed { signal: libc::SIGKILL }));
    }
}

fn saved() -> Snapshot {
    let console = memory_file("console");
    let machine = boot(&repeats(), &console);
    let text = until(&console, |text| text.contains("again"));
    assert!(text.starts_with("once\n"));
    let pid = machine.vm_pid();
    let snapshot = machine.snapshot(soon()).unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    snapshot
}

#[test]
fn what_a_copy_writes_is_its_own() {
    if !kvm() {
        return;
    }
    // Counts in memory, and says the lowest bits as a letter each time.
    let mut code = vec![0xfe, 0x05, 0, 0, 0x20, 0]; // inc byte [0x200000]
    code.extend([0xa0, 0, 0, 0x20, 0]); // mov al, [0x200000]
    code.extend([0x24, 0x0f, 0x04, b'a']); // and al, 15; add al, 'a'
    code.extend([0x66, 0xba, 0xf8, 0x03, 0xee]); // mov dx, 0x3f8; out dx, al
    code.extend([0xb0, b'\n', 0xee]); // mov al, '\n'; out dx, al
    // So long that the console, which is cut, is not full before the test has looked.
    let interpreted = probe::measure().unwrap().kind == Kind::Interpreted;
    let turns: u32 = if interpreted { 0x1000 } else { 0x20_0000 };
    code.push(0xb9); // mov ecx, turns; dec ecx; jnz
    code.extend(turns.to_le_bytes());
    code.extend([0x49, 0x75, 0xfd]);
    code.push(0xe9);
    code.extend((-i32::try_from(code.len() + 4).unwrap()).to_le_bytes());
    let console = memory_file("console");
    let machine = boot(&tiny_spec(&code), &console);
    until(&console, |text| 4 <= text.len());
    let snapshot = machine.snapshot(soon()).unwrap();
    let last = text(&console).trim_end().bytes().last().unwrap();
    for _ in 0..2 {
        let console = memory_file("console");
        let _copy = KvmLinux::new(vm_program()).restore(&snapshot, place(&console)).unwrap();
        let text = until(&console, |text| 6 <= text.len());
        let first = text.trim_start().bytes().next().unwrap();
        let next = (last - b'a' + 1) % 16 + b'a';
        assert!([last, next].contains(&first), "after {} comes {text:?}", last as char);
    }
}

#[test]
fn a_copy_cannot_be_saved() {
    if !kvm() {
        return;
    }
    let console = memory_file("console");
    let copy = KvmLinux::new(vm_program()).restore(&saved(), place(&console)).unwrap();
    let refusal = copy.snapshot(soon()).unwrap_err();
    assert!(matches!(refusal, SnapshotError::Refused { .. }), "{refusal}");
}

#[test]
fn a_state_that_is_not_one_is_refused_with_the_reason() {
    if !kvm() {
        return;
    }
    let good = saved();
    let bytes = text(&good.state);
    let other_version = bytes.replacen("\"version\":1", "\"version\":0", 1);
    let no_ring = bytes.replacen("\"rings\":[", "\"rings\":[],\"x\":[", 1);
    assert!(other_version != bytes && no_ring != bytes);
    let half = bytes.get(..bytes.len() / 2).unwrap().to_owned();
    for state in [String::new(), "x".repeat(1 << 20), half, other_version, no_ring] {
        let state = Arc::new(sealed("state", state.as_bytes()).unwrap());
        let snapshot = Snapshot { state, ..good.clone() };
        let place = place(&memory_file("console"));
        let refusal = KvmLinux::new(vm_program()).restore(&snapshot, place).unwrap_err();
        let BootError::VmProcess { reason } = refusal else { panic!("{refusal}") };
        assert!(reason.starts_with("the saved state is unfit: "), "{reason}");
    }
    let size = MemoryMib::new(17).unwrap();
    let snapshot = Snapshot { size, ..good };
    let place = place(&memory_file("console"));
    assert!(KvmLinux::new(vm_program()).restore(&snapshot, place).is_err());
}

#[test]
fn an_initial_ram_disk_that_does_not_fit_is_refused() {
    if !kvm() {
        return;
    }
    let spec = spec(tiny(&RESET).file, &vec![0; 16 << 20], 16);
    let refusal = KvmLinux::new(vm_program()).boot(&spec, place(&memory_file("console")));
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("its initial RAM disk does not fit"), "{refusal}");
}

#[test]
fn both_threads_are_in_the_jail() {
    if !kvm() {
        return;
    }
    let machine = boot(&tiny_spec(&support::SPIN), &memory_file("console"));
    let tasks = format!("/proc/{}/task", machine.vm_pid());
    let mut threads = 0;
    for task in std::fs::read_dir(tasks).unwrap() {
        let folder = task.unwrap().path();
        let name = std::fs::read_to_string(folder.join("comm")).unwrap();
        if name.starts_with("kvm-") {
            continue;
        }
        threads += 1;
        let status = std::fs::read_to_string(folder.join("status")).unwrap();
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
            assert!(status.contains(line), "{name}: {status}");
        }
    }
    assert_eq!(threads, 2);
}

#[test]
fn linux_boots_to_the_first_words_of_its_first_process() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let read = |name| std::fs::read(target.join(name)).ok();
    let (Some(kernel), Some(init)) = (read("guest-kernel/vmlinux"), read("guest/osvm-init")) else {
        osvm_vmm::conformance::skip("microvm", "there is no kernel: run `cargo xtask kernel`");
        return;
    };
    if !kvm() {
        return;
    }
    if probe::measure().unwrap().kind == Kind::Interpreted {
        osvm_vmm::conformance::skip("hardware-kvm", "this KVM interprets instructions");
        return;
    }
    let console = memory_file("console");
    let mut machine = boot(&spec(image("vmlinux", &kernel).file, &initrd(&init), 128), &console);
    assert!(machine.wait(soon()), "{}", text(&console));
    // It has no orders.
    let Death::Panicked { last_words } = machine.death() else { panic!("{}", text(&console)) };
    assert!(last_words.starts_with("cannot read `/osvm.json`"), "{last_words}");
}

/// A `newc` archive with one program, `/init`.
fn initrd(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, bytes) in [("init", 0o100_755, init), ("TRAILER!!!", 0, &[][..])] {
        archive.extend(b"070701");
        let len = bytes.len();
        for field in [1, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name.len() + 1, 0] {
            archive.extend(format!("{field:08x}").bytes());
        }
        archive.extend(name.bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
