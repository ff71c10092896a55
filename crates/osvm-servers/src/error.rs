//! What can be wrong with a file of servers, in words its author can act on.

use osvm_policy::{Location, shell_word};
use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a file of servers can't be used or written.
#[derive(Debug, Error)]
pub enum ServersError {
    /// The host refused to read it.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The host refused to write it.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// A directory, device, pipe or socket.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// What is not a file.
        path: PathBuf,
    },
    /// Longer than [`crate::file::MAX_BYTES`].
    #[error("`{}` is longer than {} bytes", path.display(), crate::file::MAX_BYTES)]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else may have decided which programs run.
    #[error("`{}` belongs to user {owner}, not to user {user} or root", path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// User id of the file.
        owner: u32,
        /// Effective user id of this process.
        user: u32,
    },
    /// Anybody may have decided which programs run.
    #[error("`{}` can be written by every user (mode {mode:04o})", path.display())]
    WorldWritable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its text is wrong.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

impl ServersError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ForeignOwner { path, .. } => Some(format!(
                "read it, and if it is what you want: `sudo chown \"$(id -u)\" {}`",
                shell_word(path)
            )),
            Self::WorldWritable { path, .. } => Some(format!(
                "read it, and if it is what you want: `chmod o-w {}`",
                shell_word(path)
            )),
            Self::Invalid(problems) => problems.hint(),
            Self::Read { .. }
            | Self::Write { .. }
            | Self::NotAFile { .. }
            | Self::TooLong { .. } => None,
        }
    }
}

/// Everything that is wrong with the text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub path: PathBuf,
    /// At least one, in the order of the text; at most [`Problems::MOST`].
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl Problems {
    /// How many problems are kept.
    pub const MOST: usize = 50;

    /// What the user can do next: the advice for the first problem that has some.
    pub fn hint(&self) -> Option<String> {
        self.problems.iter().find_map(Problem::hint)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.path.display())?;
        if let ([problem], 0) = (self.problems.as_slice(), self.more) {
            return problem.fmt(f);
        }
        write!(f, "has {} errors", self.problems.len() + self.more)?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub location: Location,
    /// What it stands in, such as `mcpServers.time.args`; empty for the whole file.
    pub pointer: String,
    /// What it is.
    pub kind: ProblemKind,
}

/// What is wrong. Text from the file has been cut and made printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The bytes are not UTF-8 text.
    Encoding,
    /// The text is not what it should be.
    Syntax {
        /// What it should be: `JSON` or `TOML`.
        language: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// A member that looks like a slip of one of osvm's own.
    Misspelt {
        /// The name in the file.
        name: String,
        /// What was meant.
        nearest: &'static str,
    },
    /// A name that no server can have.
    BadName {
        /// The name in the file.
        name: String,
    },
    /// A member that is there twice.
    Duplicate {
        /// The name in the file.
        name: String,
        /// Where it stands first.
        first: Location,
    },
    /// Something that has to be there is not.
    Missing {
        /// What it is.
        what: &'static str,
    },
    /// A value of the wrong type.
    WrongType {
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value of the right type that makes no sense.
    Invalid {
        /// The value in the file.
        value: String,
        /// Why not.
        reason: String,
    },
}

impl Problem {
    fn hint(&self) -> Option<String> {
        match &self.kind {
            ProblemKind::Encoding => Some("save the file as UTF-8".into()),
            ProblemKind::Syntax { language: "JSON", .. } => {
                Some("JSON has no comments and no comma after the last member".into())
            }
            ProblemKind::Syntax { .. }
            | ProblemKind::Misspelt { .. }
            | ProblemKind::BadName { .. }
            | ProblemKind::Duplicate { .. }
            | ProblemKind::Missing { .. }
            | ProblemKind::WrongType { .. }
            | ProblemKind::Invalid { .. } => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pointer = match self.pointer.as_str() {
            "" => "the file".to_owned(),
            pointer => format!("`{pointer}`"),
        };
        write!(f, "{}: ", self.location)?;
        match &self.kind {
            ProblemKind::Encoding => f.write_str("not UTF-8 text"),
            ProblemKind::Syntax { language, reason } => write!(f, "not {language}: {reason}"),
            ProblemKind::Misspelt { name, nearest } => {
                write!(f, "unknown field `{name}` in {pointer}, the nearest known is `{nearest}`")
            }
            ProblemKind::BadName { name } => {
                write!(f, "`{name}` cannot be the name of a server: {}", crate::NAME_RULE)
            }
            ProblemKind::Duplicate { name, first } => {
                write!(f, "`{name}` is already given at {first}")
            }
            ProblemKind::Missing { what } => write!(f, "{pointer} has no {what}"),
            ProblemKind::WrongType { expected, found } => {
                write!(f, "{pointer} must be {expected}, not {found}")
            }
            ProblemKind::Invalid { value, reason } => {
                write!(f, "{pointer} is `{value}`: {reason}")
            }
        }
    }
}
