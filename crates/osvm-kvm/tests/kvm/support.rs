//! Guests of a few bytes, and the programs and files every test here needs.

use osvm_kvm::KvmBackend;
use osvm_protocol::Cid;
use osvm_vmm::{GuestImage, MachineSpec, MemoryMib};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the tiny guests are loaded and entered.
pub(crate) const ENTRY: u32 = 0x10_0000;

/// The backend with the `osvm-vm` that was built with these tests.
pub(crate) fn backend() -> KvmBackend {
    KvmBackend::new(vm_program())
}

/// `OSVM_VM_PROGRAM`, else the one in the target directory this test was built in.
pub(crate) fn vm_program() -> PathBuf {
    if let Some(path) = std::env::var_os("OSVM_VM_PROGRAM") {
        return path.into();
    }
    // target/PROFILE/deps/test-HASH
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("osvm-vm");
    assert!(
        program.exists(),
        "`{}` is missing: run `cargo build -p osvm --bin osvm-vm`",
        program.display()
    );
    program
}

/// Whether KVM can be used; says so when it can't, and fails if it has to be.
pub(crate) fn kvm() -> bool {
    match osvm_kvm::probe::measure() {
        Ok(_) => true,
        Err(reason) => {
            osvm_vmm::conformance::skip("kvm", &reason.to_string());
            false
        }
    }
}

/// A spec for a guest of 16 MiB whose image is `image`.
pub(crate) fn spec(image: GuestImage) -> MachineSpec {
    MachineSpec {
        image,
        memory: MemoryMib::new(16).unwrap(),
        cid: Cid::new(200).unwrap(),
        boot_page: Vec::new(),
        console: memory_file("console"),
        lease: None,
    }
}

/// What the guest of `spec` has written to its console.
pub(crate) fn console(spec: &MachineSpec) -> String {
    let mut file = spec.console.try_clone().unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A 64-bit ELF file with a PVH note that loads `code` at [`ENTRY`] and begins there, in 32-bit
/// mode without paging.
pub(crate) fn tiny(code: &[u8]) -> GuestImage {
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTE_LEN: u64 = 24;
    let code_at = HEADERS + NOTE_LEN;
    let mut file = Vec::new();
    // ELF header: 64-bit, little-endian, executable, x86-64.
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [u64::from(ENTRY), 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for half in [0, 0, 64, 56, 2, 0, 0, 0_u16] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let mut segment = |kind: u32, flags: u32, offset: u64, at: u64, len: u64| {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        for word in [offset, at, at, len, len, 4] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    };
    segment(4, 4, HEADERS, 0, NOTE_LEN);
    segment(1, 7, code_at, ENTRY.into(), code.len() as u64);
    // XEN_ELFNOTE_PHYS32_ENTRY.
    for word in [4, 8, 18, u32::from_le_bytes(*b"Xen\0"), ENTRY, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(code);
    image("tiny", &file)
}

/// An image of these bytes.
pub(crate) fn image(name: &str, bytes: &[u8]) -> GuestImage {
    let mut file = memory_file(name);
    file.write_all(bytes).unwrap();
    GuestImage { name: name.into(), file: Arc::new(file) }
}

/// Machine code that writes `text` to the first serial port.
pub(crate) fn say(text: &str) -> Vec<u8> {
    let write = |byte: &u8| [0xb0, *byte, 0xee];
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8; mov al, byte; out dx, al
    code.extend(text.as_bytes().iter().flat_map(write));
    code
}

/// `mov ax, 0x33; mov ds, ax`: a segment that is not there, no handler for that, no handler for
/// that either.
pub(crate) const TRIPLE_FAULT: [u8; 6] = [0x66, 0xb8, 0x33, 0, 0x8e, 0xd8];
/// `jmp $`.
pub(crate) const SPIN: [u8; 2] = [0xeb, 0xfe];
/// `hlt; jmp` back to it.
pub(crate) const IDLE: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// An empty file without a name.
pub(crate) fn memory_file(name: &str) -> File {
    memfd_create(name, MemfdFlags::CLOEXEC).unwrap().into()
}

/// Longer than anything here takes on a busy host.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}
