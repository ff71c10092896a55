//! Finds `osvm-vm`, the program that every VM process runs.
//!
//! Whoever can write to that program runs code as the user at the next call, so one that
//! everybody may write to is refused.

use osvm_vmm::BootError;
use std::env;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Overrides where the program is.
const VARIABLE: &str = "OSVM_VM_PROGRAM";
/// Its file name.
const NAME: &str = "osvm-vm";
/// What to do about one that is missing.
const INSTALL: &str = "build it beside `osvm` with `cargo build --release -p osvm --bins`, or set \
                       `OSVM_VM_PROGRAM` to where it is";
/// What to do about one that others could have changed.
const REPLACE: &str = "somebody may have changed it: build it anew, and let only its owner write \
                       to it";

/// The program: `OSVM_VM_PROGRAM`, else the one beside the running `osvm`.
///
/// # Errors
///
/// [`BootError::Program`] when it is missing, is no program, or somebody else could change it.
pub(crate) fn find() -> Result<PathBuf, BootError> {
    let path = match env::var_os(VARIABLE) {
        Some(path) => PathBuf::from(path),
        // The link in /proc is already free of symlinks.
        None => match env::current_exe() {
            Ok(own) => own.with_file_name(NAME),
            Err(error) => return Err(unusable(Path::new(NAME), error, INSTALL)),
        },
    };
    check(&path)?;
    Ok(path)
}

fn check(path: &Path) -> Result<(), BootError> {
    let metadata = path.metadata().map_err(|error| unusable(path, error, INSTALL))?;
    let mode = metadata.permissions().mode();
    let owner = metadata.uid();
    if !metadata.is_file() || mode & 0o111 == 0 {
        return Err(unusable(path, io::ErrorKind::PermissionDenied.into(), INSTALL));
    }
    if mode & 0o002 != 0 {
        let reason = format!("everybody may write to it (mode {:04o})", mode & 0o7777);
        return Err(unusable(path, io::Error::other(reason), REPLACE));
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let reason = format!("it belongs to user {owner}, not to you or root");
        return Err(unusable(path, io::Error::other(reason), REPLACE));
    }
    Ok(())
}

fn unusable(path: &Path, source: io::Error, fix: &'static str) -> BootError {
    BootError::Program { program: path.into(), source, fix }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;
    use std::fs;

    #[test]
    fn a_program_that_only_its_owner_may_change_is_taken() {
        check_mode(0o755, None);
        check_mode(0o700, None);
    }

    #[test]
    fn a_program_that_everybody_may_change_is_refused() {
        check_mode(0o757, Some("everybody may write to it (mode 0757)"));
    }

    #[test]
    fn a_file_that_is_no_program_is_refused() {
        check_mode(0o644, Some("permission denied"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let refusal = check(Path::new("/nonexistent/osvm-vm")).unwrap_err();
        assert_eq!(refusal.to_string(), "cannot run `/nonexistent/osvm-vm`");
    }

    #[track_caller]
    fn check_mode(mode: u32, refusal: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let found = check(&path).err().map(|error| error.source().unwrap().to_string());
        assert_eq!(found.as_deref(), refusal);
    }
}
