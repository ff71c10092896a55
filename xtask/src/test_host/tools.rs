//! Programs of this machine that tests start: copied with the libraries they are linked to.

use super::initramfs::Initramfs;
use crate::process;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a test may expect on any Linux host.
const PROGRAMS: &[&str] = &[
    "cat",
    "chmod",
    "cp",
    "kill",
    "ls",
    "mkdir",
    "mknod",
    "mount",
    "rm",
    "sh",
    "sha256sum",
    "sleep",
    "touch",
    "true",
    "umount",
    "unshare",
];

/// QEMU's firmware for the machine that osvm uses, where its packages put it.
const FIRMWARE: &[&str] = &[
    "/usr/share/qemu/bios-microvm.bin",
    "/usr/share/qemu/pvh.bin",
    "/usr/share/qemu/qboot.rom",
    "/usr/share/seabios/bios-microvm.bin",
];

/// Puts QEMU where it is on this machine too, because it looks for its firmware from there.
pub(super) fn add_qemu(qemu: &str, files: &mut Initramfs) -> Result<()> {
    let program = find(qemu).with_context(|| format!("`{qemu}` is not on PATH"))?;
    files.keep(&program)?;
    add_libraries(&program, files)?;
    let firmware = FIRMWARE.iter().map(Path::new).filter(|file| file.exists());
    firmware.into_iter().try_for_each(|file| files.keep(file))
}

/// Firecracker on this machine, where a user would have it found.
pub(super) fn firecracker() -> Option<PathBuf> {
    let named = std::env::var_os("OSVM_FIRECRACKER").map(PathBuf::from);
    named.or_else(|| find("firecracker")).filter(|program| program.is_file())
}

/// Puts Firecracker where the test host looks for programs, if this machine has one: no distribution
/// packages it, and what needs it says that it was skipped.
pub(super) fn add_firecracker(files: &mut Initramfs) -> Result<()> {
    let Some(program) = firecracker() else { return Ok(()) };
    files.copy(&program, "/bin/firecracker")?;
    // Its releases are linked statically, and then there is no list of libraries.
    if process::succeeds(Command::new("ldd").arg(&program)) {
        add_libraries(&program, files)?;
    }
    Ok(())
}

/// Puts the programs into `/bin`. One that this machine lacks is left out; what needs it will say so.
pub(super) fn add(files: &mut Initramfs) -> Result<()> {
    for name in PROGRAMS {
        if let Some(program) = find(name) {
            files.copy(&program, &format!("/bin/{name}"))?;
            add_libraries(&program, files)?;
        }
    }
    Ok(())
}

/// Puts a program of this checkout where it is here, without what only a debugger reads: all of it
/// has to fit into the host's memory.
pub(super) fn keep_program(
    program: &Path,
    as_path: &str,
    scratch: &Path,
    files: &mut Initramfs,
) -> Result<()> {
    let stripped = scratch.join("stripped");
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(program);
    // It comes with the linker; without it the program is only larger.
    let from = if process::succeeds(&mut strip) { &stripped } else { program };
    files.copy(from, as_path)?;
    add_libraries(program, files)
}

/// Puts the libraries of `program`, and theirs, where its linker looks for them.
fn add_libraries(program: &Path, files: &mut Initramfs) -> Result<()> {
    let list = process::text(Command::new("ldd").arg(program));
    let list =
        list.with_context(|| format!("cannot list the libraries of `{}`", program.display()))?;
    list.lines().filter_map(library).try_for_each(|library| files.keep(Path::new(library)))
}

/// The path in a line of `ldd`: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld.so.2 (0x…)`.
fn library(line: &str) -> Option<&str> {
    let (_, path) = line.split_once("=>").unwrap_or(("", line));
    path.trim().split(' ').next().filter(|path| path.starts_with('/'))
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_every_form_of_line() {
        let line = "\tlibc.so.6 => /lib/libc.so.6 (0x00007fb49b1df000)";
        assert_eq!(library(line), Some("/lib/libc.so.6"));
        assert_eq!(library("\t/lib64/ld.so.2 (0x00007fb49b474000)"), Some("/lib64/ld.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007fb49b472000)"), None);
    }
}
