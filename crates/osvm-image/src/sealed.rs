//! Bytes that can't change any more: a memory file with every seal on it.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write as _};

/// Puts `bytes` into a sealed memory file that can be read and mapped, not run.
pub(crate) fn data(name: &str, bytes: &[u8]) -> io::Result<File> {
    // Kernels before 6.3 don't know this flag, and their memory files can always be run.
    seal(create(name, MemfdFlags::NOEXEC_SEAL)?, bytes)
}

/// Puts `bytes` into a sealed memory file that can be run.
pub(crate) fn program(name: &str, bytes: &[u8]) -> io::Result<File> {
    seal(create(name, MemfdFlags::EXEC)?, bytes)
}

fn create(name: &str, kind: MemfdFlags) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | kind) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?.into()),
        created => Ok(created?.into()),
    }
}

fn seal(mut file: File, bytes: &[u8]) -> io::Result<File> {
    file.write_all(bytes)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn nobody_changes_what_is_sealed() {
        let file = data("test", b"checked").unwrap();
        assert!(file.write_at(b"X", 0).is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(1 << 20).is_err());
        let mut bytes = [0; 7];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"checked");
    }
}
