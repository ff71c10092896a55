//! The embedded VMM with guests of a few bytes: how they end, what they see, what is left.

use crate::support::{
    IDLE, SPIN, TRIPLE_FAULT, backend, console, image, kvm, say, soon, spec, tiny,
};
use osvm_kvm::BootProtocol;
use osvm_kvm::probe::{self, Kind};
use osvm_vmm::conformance::skip;
use osvm_vmm::{
    Backend, BootError, ConnectError, Death, GuestImage, Machine, MachineSpec, MemoryMib,
};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_guest_runs_and_its_console_is_kept() {
    check_console(&say("hello\n"), "hello\n");
}

#[test]
fn a_triple_fault_is_told() {
    check_death(&tiny(&TRIPLE_FAULT), &Death::TripleFault);
}

#[test]
fn a_reset_is_told() {
    // mov al, 0xfe; out 0x64, al
    check_death(&tiny(&[0xb0, 0xfe, 0xe6, 0x64]), &Death::ShutDown);
}

#[test]
fn last_words_are_told() {
    let code = [say("up\nosvm-guest: panic: out of tea\n"), TRIPLE_FAULT.to_vec()].concat();
    check_death(&tiny(&code), &Death::Panicked { last_words: "out of tea".into() });
}

#[test]
fn memory_that_was_not_given_is_told() {
    // mov eax, [0x80000000]
    let load = [0xa1, 0, 0, 0, 0x80];
    check_death(&tiny(&load), &Death::OutOfBounds { address: 0x8000_0000 });
    // mov [16 MiB], eax: the first byte behind its memory
    let store = [0xa3, 0, 0, 0, 1];
    check_death(&tiny(&store), &Death::OutOfBounds { address: 16 << 20 });
}

#[test]
fn the_last_byte_of_memory_can_be_used() {
    // mov al, [0xffffff]; then a reset
    check_death(&tiny(&[0xa0, 0xff, 0xff, 0xff, 0, 0xb0, 0xfe, 0xe6, 0x64]), &Death::ShutDown);
}

#[test]
fn a_guest_that_spins_is_killed_from_another_thread() {
    let Some((mut machine, _spec)) = boot(&tiny(&SPIN)) else { return };
    let killer = machine.killer();
    let killing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        killer.kill();
    });
    let refusal = machine.connect(5252, soon()).unwrap_err();
    killing.join().unwrap();
    assert!(matches!(refusal, ConnectError::Died(Death::Killed { signal: 9 })), "{refusal:?}");
}

#[test]
fn a_guest_that_never_accepts_runs_into_the_deadline() {
    let Some((mut machine, _spec)) = boot(&tiny(&IDLE)) else { return };
    let deadline = Instant::now() + Duration::from_millis(50);
    let refusal = machine.connect(5252, deadline).unwrap_err();
    assert!(matches!(refusal, ConnectError::Deadline { port: 5252 }), "{refusal:?}");
    assert!(deadline.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_idle_guest_uses_no_processor_time() {
    let Some((machine, _spec)) = boot(&tiny(&IDLE)) else { return };
    let used = |_| {
        let before = processor_ticks(machine.vm_pid());
        std::thread::sleep(Duration::from_millis(300));
        processor_ticks(machine.vm_pid()) - before
    };
    // Thirty ticks pass each time, and one or two may be somebody's interrupts. Its start, which
    // takes longer than that on a slow host, ends; a guest that spins uses the processor for ever.
    assert!((0..10).map(used).any(|used| used <= 2), "an idle guest uses the processor");
}

#[test]
fn dropping_a_machine_leaves_no_process_and_no_descriptor() {
    if !kvm() {
        return;
    }
    // What std and the first boot open for good.
    drop(boot(&tiny(&SPIN)));
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let (machine, spec) = boot(&tiny(&SPIN)).unwrap();
    let pid = machine.vm_pid();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop((machine, spec));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(descriptors(), before);
}

#[test]
fn only_touched_memory_is_used() {
    let Some((machine, _spec)) = boot(&tiny(&IDLE)) else { return };
    let used = machine.usage().guest_memory_kb.unwrap();
    // The image, the start info and its tables, the command line: a page each.
    assert!((8..=64).contains(&used), "{used} KiB");
}

#[test]
fn an_image_that_is_no_image_is_refused_with_the_reason() {
    check_refusal(&image("notes", b"#!/bin/sh\n"), "it is not a 64-bit ELF file");
    check_refusal(&image("empty", b""), "it is not a 64-bit ELF file");
    check_refusal(&image("short", b"\x7fELF\x02\x01\x01"), "");
    check_refusal(&image("old", b"\x7fELF\x01\x01\x01"), "it is not a 64-bit ELF file");
}

#[test]
fn an_image_without_a_pvh_note_is_refused() {
    let mut bytes = contents(&tiny(&IDLE));
    // The type of the first program header: nothing, where a note was.
    bytes[64] = 0;
    check_refusal(&image("no note", &bytes), "it has no PVH entry point");
}

#[test]
fn an_image_larger_than_the_memory_is_refused() {
    let mut bytes = contents(&tiny(&IDLE));
    // `p_memsz` of the second program header.
    let at = 64 + 56 + 40;
    bytes[at..at + 8].copy_from_slice(&(64_u64 << 20).to_le_bytes());
    check_refusal(&image("large", &bytes), "it does not fit into the guest's memory");
    bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    check_refusal(&image("larger", &bytes), "");
}

#[test]
fn an_entry_point_outside_of_memory_is_refused() {
    let mut bytes = contents(&tiny(&IDLE));
    // The note's descriptor.
    let at = 64 + 2 * 56 + 16;
    bytes[at..at + 4].copy_from_slice(&0xc000_0000_u32.to_le_bytes());
    check_refusal(&image("far", &bytes), "its entry point lies outside the guest's memory");
}

#[test]
fn more_memory_than_fits_below_the_devices_is_refused() {
    let spec = MachineSpec { memory: MemoryMib::new(4096).unwrap(), ..spec(tiny(&IDLE)) };
    let refusal = backend().boot(&spec).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "backend `kvm` cannot give the guest 4096 MiB of memory: at most 3072 MiB fit"
    );
}

#[test]
fn the_most_memory_there_is_boots() {
    if !kvm() {
        return;
    }
    let spec = MachineSpec { memory: MemoryMib::new(3072).unwrap(), ..spec(tiny(&IDLE)) };
    backend().boot(&spec).unwrap();
}

#[test]
fn a_missing_vm_program_is_named() {
    let backend = osvm_kvm::KvmBackend::new("/nowhere/osvm-vm".into());
    let refusal = backend.boot(&spec(tiny(&IDLE))).unwrap_err();
    assert_eq!(refusal.to_string(), "cannot run `/nowhere/osvm-vm`");
}

#[test]
fn a_vm_program_that_is_something_else_is_told() {
    let program = Path::new("/bin/true");
    if !program.exists() {
        return skip("true", "there is no `/bin/true`");
    }
    let backend = osvm_kvm::KvmBackend::new(program.into());
    let refusal = backend.boot(&spec(tiny(&IDLE))).unwrap_err();
    assert!(matches!(refusal, BootError::VmProcess { .. }), "{refusal:?}");
}

#[test]
fn a_64_bit_entry_finds_the_first_gib_mapped() {
    if !kvm() {
        return;
    }
    let mut backend = backend();
    backend.protocol = BootProtocol::Linux64;
    // mov rax, 0x123456789; mov al, [0xffffff] through a 64-bit register; then a reset
    let code = [
        &[0x48, 0xb8, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0][..],
        &[0x48, 0xc7, 0xc3, 0xff, 0xff, 0xff, 0x00, 0x8a, 0x03],
        // rsi points to the boot parameters: compare "HdrS" at 0x202, else spin
        &[0x81, 0xbe, 0x02, 0x02, 0, 0, b'H', b'd', b'r', b'S', 0x75, 0xfe],
        &[0xb0, 0xfe, 0xe6, 0x64],
    ];
    let spec = spec(tiny(&code.concat()));
    let mut machine = backend.boot(&spec).unwrap();
    let died = machine.connect(5252, soon()).unwrap_err();
    assert!(matches!(died, ConnectError::Died(Death::ShutDown)), "{died:?}");
}

#[test]
fn a_pvh_guest_finds_its_start_info() {
    // cmp dword [ebx], magic; jne $; mov eax, [ebx+24] (command line); cmp dword [eax], "virt";
    // jne $; reset
    let code = [
        &[0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33, 0x75, 0xfe][..],
        &[0x8b, 0x43, 0x18, 0x81, 0x38, b'v', b'i', b'r', b't', 0x75, 0xfe],
        &[0xb0, 0xfe, 0xe6, 0x64],
    ];
    check_death(&tiny(&code.concat()), &Death::ShutDown);
}

#[test]
fn the_memory_map_is_exactly_the_memory() {
    // mov eax, [ebx+40] (memory map); cmp dword [eax+8], 16 MiB; jne $; cmp dword [ebx+48], 1;
    // jne $; reset
    let code = [
        &[0x8b, 0x43, 0x28, 0x81, 0x78, 0x08, 0, 0, 0, 1, 0x75, 0xfe][..],
        &[0x83, 0x7b, 0x30, 0x01, 0x75, 0xfe],
        &[0xb0, 0xfe, 0xe6, 0x64],
    ];
    check_death(&tiny(&code.concat()), &Death::ShutDown);
}

#[test]
fn the_boot_page_is_a_module() {
    // mov eax, [ebx+16] (modules); mov ecx, [eax]; cmp dword [ecx], "page"; jne $;
    // cmp dword [eax+8], 6; jne $; reset
    let code = [
        &[0x8b, 0x43, 0x10, 0x8b, 0x08, 0x81, 0x39, b'p', b'a', b'g', b'e', 0x75, 0xfe][..],
        &[0x83, 0x78, 0x08, 0x06, 0x75, 0xfe],
        &[0xb0, 0xfe, 0xe6, 0x64],
    ];
    let spec = MachineSpec { boot_page: b"page!\0".to_vec(), ..spec(tiny(&code.concat())) };
    check_end(&spec, &Death::ShutDown);
}

#[test]
fn a_prepared_process_is_the_one_that_boots() {
    if !kvm() {
        return;
    }
    let backend = backend();
    backend.prepare().unwrap();
    let first = backend.start(&spec(tiny(&IDLE))).unwrap();
    let second = backend.start(&spec(tiny(&IDLE))).unwrap();
    let (begun, _) = first.boot_times().unwrap();
    let (begun_later, times) = second.boot_times().unwrap();
    assert!(begun < begun_later && begun_later < times.started);
    assert_ne!(first.vm_pid(), second.vm_pid());
}

#[test]
fn what_is_prepared_in_vain_ends_with_the_backend() {
    if !kvm() {
        return;
    }
    let children = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children"));
        tasks.map(|task| children(task.unwrap()).unwrap_or_default()).collect::<String>()
    };
    let before = children();
    let backend = backend();
    backend.prepare().unwrap();
    drop(backend);
    assert_eq!(children(), before);
}

#[test]
fn an_instruction_kvm_cannot_interpret_is_named() {
    if !kvm() {
        return;
    }
    // xorps xmm0, xmm0
    let spec = spec(tiny(&[0x0f, 0x57, 0xc0]));
    match probe::measure().unwrap().kind {
        Kind::Interpreted => {
            let mut machine = backend().boot(&spec).unwrap();
            let died = machine.connect(5252, soon()).unwrap_err();
            let ConnectError::Died(Death::VmmFailed { reason }) = died else { panic!("{died:?}") };
            assert!(
                reason.starts_with("KVM cannot interpret the instruction 0f 57 c0"),
                "{reason}"
            );
            assert!(reason.ends_with("at 0x100000"), "{reason}");
        }
        // The processor wants SSE switched on first.
        Kind::Hardware => check_end(&spec, &Death::TripleFault),
    }
}

#[test]
fn two_guests_run_beside_each_other() {
    let (Some((first, _)), Some((second, _))) = (boot(&tiny(&SPIN)), boot(&tiny(&SPIN))) else {
        return;
    };
    assert_ne!(first.vm_pid(), second.vm_pid());
    let second_pid = second.vm_pid();
    drop(first);
    assert!(Path::new(&format!("/proc/{second_pid}")).exists());
}

fn boot(image: &GuestImage) -> Option<(Box<dyn Machine>, MachineSpec)> {
    let spec = spec(image.clone());
    kvm().then(|| (backend().boot(&spec).unwrap(), spec))
}

#[track_caller]
fn check_death(image: &GuestImage, expected: &Death) {
    check_end(&spec(image.clone()), expected);
}

#[track_caller]
fn check_end(spec: &MachineSpec, expected: &Death) {
    if !kvm() {
        return;
    }
    let mut machine = backend().boot(spec).unwrap();
    match machine.connect(5252, soon()).unwrap_err() {
        ConnectError::Died(death) => assert_eq!(death, *expected),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_console(code: &[u8], expected: &str) {
    let code = [code, &TRIPLE_FAULT].concat();
    let spec = spec(tiny(&code));
    check_end(&spec, &Death::TripleFault);
    assert_eq!(console(&spec), expected);
}

#[track_caller]
fn check_refusal(image: &GuestImage, reason_begins: &str) {
    if !kvm() {
        return;
    }
    match backend().boot(&spec(image.clone())).unwrap_err() {
        BootError::BadImage { name, reason } => {
            assert_eq!(name, image.name);
            assert!(reason.starts_with(reason_begins), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

fn contents(image: &GuestImage) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let len = image.file.metadata().unwrap().len();
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    image.file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// User and system time of a process, in ticks of 10 ms: fields 14 and 15 of `stat`.
fn processor_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
