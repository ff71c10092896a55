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
    /// It can't be read, or not be trusted.
    #[error("cannot use the rules in `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<ConfigError>,
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
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { source, .. } => source.hint(),
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
