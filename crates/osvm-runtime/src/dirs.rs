//! Where the runtime keeps what several osvm share: the CIDs in use, the logs of calls.
//!
//! Both directories are the user's own: made with mode 0700, and refused when they belong to
//! somebody else or others may write there.

use rustix::fs::{Mode, OFlags};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The runtime's directories. Nothing is made until it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Gone after a reboot: the CIDs in use.
    pub run: PathBuf,
    /// One log for each of the last calls.
    pub calls: PathBuf,
}

impl Dirs {
    /// The directories of this process's user, whose home directory is `home`.
    ///
    /// `$XDG_RUNTIME_DIR/osvm`, else `run` in the state directory; the state directory is
    /// `$XDG_STATE_HOME/osvm`, else `~/.local/state/osvm`.
    pub fn from_process(home: &Path) -> Self {
        let dir = |name| std::env::var_os(name).map(PathBuf::from);
        Self::new(home, dir("XDG_RUNTIME_DIR"), dir("XDG_STATE_HOME"))
    }

    /// The same from values as a shell would pass them: a relative path counts as unset, as the
    /// XDG base directory specification demands.
    pub fn new(home: &Path, runtime_dir: Option<PathBuf>, state_home: Option<PathBuf>) -> Self {
        let state = state_home.filter(|dir| dir.is_absolute());
        let state = state.unwrap_or_else(|| home.join(".local/state")).join("osvm");
        let run = runtime_dir.filter(|dir| dir.is_absolute()).map(|dir| dir.join("osvm"));
        Self { run: run.unwrap_or_else(|| state.join("run")), calls: state.join("calls") }
    }

    /// What is kept from one call to the next, beside the logs of calls.
    pub fn state(&self) -> &Path {
        self.calls.parent().unwrap_or(&self.calls)
    }
}

/// A directory that osvm needs can't be used.
#[derive(Debug, Error)]
pub enum DirError {
    /// The host refused it.
    #[error("cannot use directory `{}`", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// Others could change what is in it.
    #[error("directory `{}` is not private: it has owner {owner} and mode {mode:o}", path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
}

impl DirError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotPrivate { path, .. } => {
                Some(format!("make it yours alone: `chmod 700 {}`", path.display()))
            }
            Self::Io { .. } => None,
        }
    }
}

/// Makes `path` if it is not there, with mode 0700, and checks that it is the user's own.
///
/// Returns the open directory, so that what was checked is what is used.
///
/// # Errors
///
/// [`DirError`] when it can't be made, or is not the user's own.
pub fn private(path: &Path) -> Result<File, DirError> {
    let io = |source| DirError::Io { path: path.into(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
    let dir = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
            open()
        }
        opened => opened,
    };
    let dir = File::from(dir.map_err(io)?);
    let metadata = dir.metadata().map_err(io)?;
    let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o7777);
    if owner != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(DirError::NotPrivate { path: path.into(), owner, mode });
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_count_as_unset() {
        let dirs = Dirs::new(Path::new("/h"), Some("x".into()), Some("".into()));
        assert_eq!(dirs.run, Path::new("/h/.local/state/osvm/run"));
        assert_eq!(dirs.calls, Path::new("/h/.local/state/osvm/calls"));
    }

    #[test]
    fn absolute_paths_are_taken() {
        let dirs = Dirs::new(Path::new("/h"), Some("/run/user/7".into()), Some("/s".into()));
        assert_eq!(dirs.run, Path::new("/run/user/7/osvm"));
        assert_eq!(dirs.calls, Path::new("/s/osvm/calls"));
    }

    #[test]
    fn a_new_directory_is_the_users_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let mode = private(&path).unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = private(dir.path()).unwrap_err();
        assert!(matches!(error, DirError::NotPrivate { mode: 0o777, .. }), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_link_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        assert!(matches!(private(&link), Err(DirError::Io { .. })));
    }
}
