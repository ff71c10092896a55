//! Programs of the host that do part of the work.

use crate::error::BuildError;
use std::path::{Path, PathBuf};

/// Finds `program` on the user's PATH or in the system's places.
pub(crate) fn find(
    program: &'static str,
    purpose: &'static str,
    package: &'static str,
) -> Result<PathBuf, BuildError> {
    let system =
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(program));
    which::which(program)
        .ok()
        .or_else(|| system.into_iter().find(|path| path.is_file()))
        .ok_or(BuildError::NoTool { program, purpose, package })
}

/// The folder that a program which is not the system's was installed to, for it to read: the
/// parent of its `bin`. Never a folder that has the user's home in it.
pub(crate) fn prefix(program: &Path) -> Option<PathBuf> {
    let real = program.canonicalize().ok()?;
    let bin = real.ancestors().find(|dir| dir.ends_with("bin") || dir.ends_with("lib"));
    let prefix = bin.and_then(Path::parent).or(real.parent())?;
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    let holds_home = home.is_some_and(|home| home.starts_with(prefix));
    if holds_home { Some(real) } else { Some(prefix.to_owned()) }
}
