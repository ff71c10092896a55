//! Which host directories may be mounted at all.
//!
//! A mount that covers, or lies in, a place where a user's keys or osvm's own state are would make
//! the file system a way around everything else. Compared are real paths: symbolic links are followed
//! first, on both sides.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The system's own places. What lies in them is made by the kernel, or says who may do what.
const SYSTEM: [(&str, &str); 7] = [
    ("/proc", "the kernel's view of all processes"),
    ("/sys", "the kernel's settings"),
    ("/dev", "the host's devices"),
    ("/run", "the sockets of the host's services"),
    ("/var/run", "the sockets of the host's services"),
    ("/etc", "the host's settings and passwords"),
    ("/boot", "the host's kernels"),
];

/// Places below a home directory that hold keys.
const KEYS: [&str; 16] = [
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".git-credentials",
    ".password-store",
    ".config/gcloud",
    ".config/gh",
    ".config/git/credentials",
    ".config/solana",
    ".local/share/keyrings",
    ".mozilla",
    ".config/google-chrome",
];

/// Places that no mount may expose.
#[derive(Clone, Debug)]
pub struct Protected {
    home: PathBuf,
    own: Vec<PathBuf>,
}

/// A mount that would expose what no guest may see.
#[derive(Debug, Error)]
pub enum MountRefused {
    /// The path can't be looked at.
    #[error("cannot look at `{}`", path.display())]
    Unreadable {
        /// The host path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// Not a directory.
    #[error("`{}` is not a directory", .0.display())]
    NoDirectory(PathBuf),

    /// The root directory.
    #[error("`/` is everything on this host")]
    Root,

    /// The home directory itself.
    #[error("`{}` is the whole home directory, keys included", .0.display())]
    Home(PathBuf),

    /// In a protected place, or around one.
    #[error("`{}` would expose `{}`: {what}", path.display(), place.display())]
    Exposes {
        /// The host path.
        path: PathBuf,
        /// The protected place.
        place: PathBuf,
        /// What is there.
        what: &'static str,
    },
}

impl MountRefused {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } | Self::NoDirectory(_) => {
                Some("`host_path` is an existing directory".into())
            }
            Self::Root | Self::Home(_) | Self::Exposes { .. } => {
                Some("mount a directory that holds only what the tool needs".into())
            }
        }
    }
}

impl Protected {
    /// For the user with this home directory. `own` are osvm's config, secrets, state, sockets and
    /// images.
    pub fn new(home: PathBuf, own: Vec<PathBuf>) -> Self {
        Self { home, own }
    }
}

/// Says whether a guest may be given `host_path`.
///
/// # Errors
///
/// Why not.
pub fn check_mount(host_path: &Path, protected: &Protected) -> Result<(), MountRefused> {
    resolve(host_path, protected).map(drop)
}

/// The real path of a mount that may be given to a guest.
pub(crate) fn resolve(host_path: &Path, protected: &Protected) -> Result<PathBuf, MountRefused> {
    let unreadable = |source| MountRefused::Unreadable { path: host_path.to_owned(), source };
    let real = host_path.canonicalize().map_err(unreadable)?;
    if !real.metadata().map_err(unreadable)?.is_dir() {
        return Err(MountRefused::NoDirectory(real));
    }
    if real == Path::new("/") {
        return Err(MountRefused::Root);
    }
    let home = real_path(&protected.home);
    if real == home {
        return Err(MountRefused::Home(real));
    }
    let system = SYSTEM.iter().map(|(path, what)| (PathBuf::from(path), *what));
    let keys = KEYS.iter().map(|name| (home.join(name), "a place for keys"));
    let own = protected.own.iter().map(|path| (path.clone(), "osvm keeps its own state there"));
    for (place, what) in system.chain(keys).chain(own) {
        for place in [real_path(&place), place] {
            if real.starts_with(&place) || place.starts_with(&real) {
                return Err(MountRefused::Exposes { path: real, place, what });
            }
        }
    }
    Ok(real)
}

/// Where a path leads, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|front| Some((front, front.canonicalize().ok()?)));
    match found {
        Some((front, real)) => match path.strip_prefix(front) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    fn home() -> (tempfile::TempDir, Protected) {
        let home = tempfile::tempdir().unwrap();
        for name in ["work/in", ".ssh/keys", ".config/osvm", ".local/share/osvm"] {
            create_dir_all(home.path().join(name)).unwrap();
        }
        let own = vec![home.path().join(".config/osvm"), home.path().join(".local/share/osvm")];
        let protected = Protected::new(home.path().to_owned(), own);
        (home, protected)
    }

    #[track_caller]
    fn refused(path: &Path, protected: &Protected) -> String {
        check_mount(path, protected).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_of_the_users_work_is_fine() {
        let (home, protected) = home();
        check_mount(&home.path().join("work"), &protected).unwrap();
        check_mount(&home.path().join("work/in"), &protected).unwrap();
    }

    #[test]
    fn places_that_would_expose_keys_or_osvm_are_refused() {
        let (home, protected) = home();
        for name in [".ssh", ".ssh/keys", ".config", ".config/osvm", ".local", ".local/share/osvm"]
        {
            assert!(
                refused(&home.path().join(name), &protected).contains("would expose"),
                "{name}"
            );
        }
        assert!(refused(home.path(), &protected).contains("home directory"));
        assert!(refused(home.path().parent().unwrap(), &protected).contains("would expose"));
    }

    #[test]
    fn the_systems_own_places_are_refused() {
        let (_home, protected) = home();
        assert!(refused(Path::new("/"), &protected).contains("everything"));
        for path in ["/proc", "/proc/self", "/sys", "/dev", "/dev/shm", "/run", "/etc", "/etc/ssl"]
        {
            assert!(check_mount(Path::new(path), &protected).is_err(), "{path}");
        }
    }

    #[test]
    fn a_link_does_not_hide_where_it_leads() {
        let (home, protected) = home();
        let link = home.path().join("work/link");
        symlink(home.path().join(".ssh"), &link).unwrap();
        assert!(refused(&link, &protected).contains("would expose"));
        symlink("/proc", home.path().join("work/proc")).unwrap();
        assert!(check_mount(&home.path().join("work/proc"), &protected).is_err());
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let (home, protected) = home();
        write(home.path().join("work/file"), "").unwrap();
        assert!(refused(&home.path().join("work/file"), &protected).contains("not a directory"));
        assert!(refused(&home.path().join("gone"), &protected).contains("cannot look at"));
    }
}
