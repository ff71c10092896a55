//! Finds `osvm-vm`, the program that every VM process runs.
//!
//! Whoever can write to that program runs code as the user at the next call, so one that
//! everybody may write to is refused.

use crate::failure::Failure;
use std::env;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Overrides where the program is.
const VARIABLE: &str = "OSVM_VM_PROGRAM";
/// Its file name.
const NAME: &str = "osvm-vm";
/// What a [`Failure`] of this module is called.
const CODE: &str = "vm_program";

/// The program: `OSVM_VM_PROGRAM`, else the one beside the running `osvm`.
pub(crate) fn find() -> Result<PathBuf, Failure> {
    let path = match env::var_os(VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => env::current_exe()
            // The link in /proc is already free of symlinks.
            .map_err(|error| Failure::new(CODE, "cannot tell where `osvm` is").caused_by(&error))?
            .with_file_name(NAME),
    };
    check(&path)?;
    Ok(path)
}

fn check(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let unusable = |cause: &io::Error| {
        Failure::new(CODE, format!("cannot use the VM program `{shown}`"))
            .caused_by(cause)
            .hint(format!("install `{NAME}` beside `osvm`, or set {VARIABLE} to where it is"))
    };
    let metadata = path.metadata().map_err(|error| unusable(&error))?;
    let mode = metadata.permissions().mode();
    if !metadata.is_file() || mode & 0o111 == 0 {
        return Err(unusable(&io::Error::from(io::ErrorKind::PermissionDenied)));
    }
    if mode & 0o002 != 0 {
        let message = format!("everybody may write to the VM program `{shown}`");
        return Err(Failure::new(CODE, message).hint(format!("chmod o-w '{shown}'")));
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let message = format!("the VM program `{shown}` belongs to another user (id {owner})");
        return Err(Failure::new(CODE, message)
            .hint(format!("install `{NAME}` as the user who runs it, or as root")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_program_that_only_its_owner_may_change_is_taken() {
        check_mode(0o755, Ok(()));
        check_mode(0o700, Ok(()));
    }

    #[test]
    fn a_program_that_everybody_may_change_is_refused() {
        check_mode(0o757, Err("everybody may write to the VM program `PATH`"));
    }

    #[test]
    fn a_file_that_is_no_program_is_refused() {
        check_mode(0o644, Err("cannot use the VM program `PATH`"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let refusal = check(Path::new("/nonexistent/osvm-vm")).unwrap_err();
        assert_eq!(refusal.message, "cannot use the VM program `/nonexistent/osvm-vm`");
    }

    #[track_caller]
    fn check_mode(mode: u32, expected: Result<(), &str>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let shown = path.display().to_string();
        let result = check(&path).map_err(|failure| failure.message.replace(&shown, "PATH"));
        assert_eq!(result, expected.map_err(str::to_owned));
    }
}
