//! What the config needs to know of the process environment, as data.
//!
//! [`Env::from_process`] is the one place of this crate that reads it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The part of the environment that decides where the config is and what `~` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// `$OSVM_CONFIG`: the config file itself.
    pub osvm_config: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`, if it is absolute.
    pub xdg_config_home: Option<PathBuf>,
    /// The user's home directory, absolute.
    pub home: PathBuf,
}

/// Nothing says where the user's home directory is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot tell the home directory: `HOME` is unset or not an absolute path")]
pub struct NoHome;

impl NoHome {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        Some("set `HOME` to an absolute path".into())
    }
}

impl Env {
    /// Reads the environment of this process; `HOME` falls back to the user database.
    pub fn from_process() -> Result<Self, NoHome> {
        Self::new(
            std::env::var_os("OSVM_CONFIG"),
            std::env::var_os("XDG_CONFIG_HOME"),
            std::env::home_dir(),
        )
    }

    /// Takes the values as a shell would pass them: empty means unset, and so does a relative
    /// `$XDG_CONFIG_HOME`, as the XDG base directory specification demands.
    pub fn new(
        osvm_config: Option<OsString>,
        xdg_config_home: Option<OsString>,
        home: Option<PathBuf>,
    ) -> Result<Self, NoHome> {
        let path = |value: Option<OsString>| value.filter(|v| !v.is_empty()).map(PathBuf::from);
        Ok(Self {
            osvm_config: path(osvm_config),
            xdg_config_home: path(xdg_config_home).filter(|dir| dir.is_absolute()),
            home: home.filter(|dir| dir.is_absolute()).ok_or(NoHome)?,
        })
    }

    /// `path` with a leading `~` replaced by the home directory.
    pub(crate) fn expand(&self, path: &str) -> PathBuf {
        match path.strip_prefix('~') {
            Some("") => self.home.clone(),
            Some(rest) if rest.starts_with('/') => self.home.join(rest.trim_start_matches('/')),
            _ => Path::new(path).to_owned(),
        }
    }
}

/// Where the config is unless the command line says otherwise: `$OSVM_CONFIG`, else
/// `osvm/isolation_config.json` under `$XDG_CONFIG_HOME`, else under `~/.config`.
pub fn default_path(env: &Env) -> PathBuf {
    if let Some(path) = &env.osvm_config {
        return path.clone();
    }
    config_dir(env).join("isolation_config.json")
}

/// Where the Cedar rules are unless the command line or the config says otherwise.
pub fn default_policy_path(env: &Env) -> PathBuf {
    config_dir(env).join("policy.cedar")
}

fn config_dir(env: &Env) -> PathBuf {
    let dir = env.xdg_config_home.clone().unwrap_or_else(|| env.home.join(".config"));
    dir.join("osvm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn osvm_config_is_the_file_itself() {
        check(Some("/c.json"), Some("/xdg"), "/c.json");
    }

    #[test]
    fn the_xdg_directory_comes_before_the_home_directory() {
        check(Some(""), Some("/xdg"), "/xdg/osvm/isolation_config.json");
    }

    #[test]
    fn a_relative_xdg_directory_counts_as_unset() {
        check(None, Some("xdg"), "/home/u/.config/osvm/isolation_config.json");
    }

    #[test]
    fn a_relative_home_is_no_home() {
        assert_eq!(Env::new(None, None, Some("u".into())), Err(NoHome));
        assert_eq!(Env::new(None, None, None), Err(NoHome));
    }

    #[test]
    fn a_tilde_is_the_home_directory_only_as_a_whole_component() {
        let env = Env::new(None, None, Some("/home/u".into())).unwrap();
        assert_eq!(env.expand("~"), Path::new("/home/u"));
        assert_eq!(env.expand("~/a/b"), Path::new("/home/u/a/b"));
        assert_eq!(env.expand("~//etc"), Path::new("/home/u/etc"));
        assert_eq!(env.expand("~root/a"), Path::new("~root/a"));
        assert_eq!(env.expand("/a/~"), Path::new("/a/~"));
    }

    #[track_caller]
    fn check(osvm_config: Option<&str>, xdg: Option<&str>, expected: &str) {
        let home = Some(PathBuf::from("/home/u"));
        let env = Env::new(osvm_config.map(Into::into), xdg.map(Into::into), home).unwrap();
        assert_eq!(default_path(&env), Path::new(expected));
    }
}
