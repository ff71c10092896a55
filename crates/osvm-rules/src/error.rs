//! What is wrong with rules, and why approvals can't be kept.

use osvm_policy::ConfigError;
use osvm_runtime::DirError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A file of rules can't be used.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// There is no such file.
    #[error("there are no rules at `{}`", path.display())]
    Missing {
        /// Where they were expected.
        path: PathBuf,
    },
    /// The host refused to read it.
    #[error("cannot read the rules in `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// It is no file that rules could be taken from.
    #[error("the rules in `{}` are not used: {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// It is wrong.
    #[error("the rules in `{}` are wrong: {}", path.display(), Listed(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
}

impl PolicyError {
    /// What keeps a file from being read, which is read with the care that a config is.
    pub(crate) fn unreadable(error: ConfigError) -> Self {
        let hint = error.hint();
        let (path, reason) = match error {
            ConfigError::Missing { path } => return Self::Missing { path },
            ConfigError::Read { path, source } | ConfigError::Create { path, source } => {
                return Self::Read { path, source };
            }
            ConfigError::NotAFile { path } => {
                return Self::Unfit { path, reason: "it is not a regular file".into(), hint: None };
            }
            ConfigError::TooLong { path } => {
                (path, format!("it is longer than {} bytes", osvm_policy::MAX_FILE_BYTES))
            }
            ConfigError::ForeignOwner { path, owner, user } => {
                (path, format!("it belongs to user {owner}, not to user {user} or root"))
            }
            ConfigError::WorldWritable { path, mode } => {
                (path, format!("it can be written by every user (mode {mode:04o})"))
            }
            ConfigError::Invalid(errors) => (errors.path.clone(), errors.to_string()),
        };
        Self::Unfit { path, reason, hint }
    }

    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => {
                Some("they are named by `--policy`, or by `policy` in the isolation config".into())
            }
            Self::Read { .. } => None,
            Self::Unfit { hint, .. } => hint.clone(),
            Self::Invalid { .. } => Some("`osvm policy check` tells all that is wrong".into()),
        }
    }
}

/// Something that is wrong with rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What.
    pub message: String,
    /// What may have been meant.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}: {}", self.line, self.column, self.message)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

struct Listed<'p>(&'p [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nobody can tell how"),
            [one] => one.fmt(f),
            [first, rest @ ..] => write!(f, "{first}, and {} more", rest.len()),
        }
    }
}

/// Approvals can't be kept or given.
#[derive(Debug, Error)]
pub enum ApprovalError {
    /// The directory can't be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A file can't be used.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// Nobody waits under that name.
    #[error("no call waits for approval `{id}`")]
    Unknown {
        /// What was asked for, cut.
        id: String,
    },
}

impl ApprovalError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dir(error) => error.hint(),
            Self::Io { .. } => None,
            Self::Unknown { .. } => Some("`osvm approvals ls` lists what waits".into()),
        }
    }
}
