//! What can be wrong with a config file, in words its author can act on.

use crate::nearest::nearest;
use crate::source::Location;
use crate::words::shell_word;
use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why there is no config to work with.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("isolation config `{}` does not exist", path.display())]
    Missing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The host refused to read it.
    #[error("cannot read isolation config `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The default file could not be written on first use.
    #[error("cannot create isolation config `{}`", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// A directory, device, pipe or socket.
    #[error("isolation config `{}` is not a regular file", path.display())]
    NotAFile {
        /// What is not a file.
        path: PathBuf,
    },
    /// Longer than [`crate::MAX_FILE_BYTES`].
    #[error("isolation config `{}` is longer than {} bytes", path.display(), crate::MAX_FILE_BYTES)]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else may have decided what it says.
    #[error("isolation config `{}` belongs to user {owner}, not to user {user} or root", path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// User id of the file.
        owner: u32,
        /// Effective user id of this process.
        user: u32,
    },
    /// Everybody may decide what it says.
    #[error("isolation config `{}` can be written by every user (mode {mode:04o})", path.display())]
    WorldWritable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its text is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

impl ConfigError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } | Self::Read { .. } | Self::NotAFile { .. } => {
                Some("run `osvm config path` to see which file is used and why".into())
            }
            Self::Create { .. } => {
                Some("name a file in a directory you can write with `--config FILE`".into())
            }
            Self::TooLong { .. } => None,
            Self::ForeignOwner { path, .. } => Some(format!(
                "read it, and if it is what you want: `sudo chown \"$(id -u)\" {}`",
                shell_word(path)
            )),
            Self::WorldWritable { path, .. } => Some(format!(
                "read it, and if it is what you want: `chmod o-w {}`",
                shell_word(path)
            )),
            Self::Invalid(errors) => errors.hint(),
        }
    }
}

/// Everything that is wrong with the text of one config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub path: PathBuf,
    /// At least one, in the order of the text; at most [`ConfigErrors::MOST`].
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl ConfigErrors {
    /// How many problems are kept.
    pub const MOST: usize = 50;

    /// What the user can do next: the advice for the first problem that has some.
    pub fn hint(&self) -> Option<String> {
        self.problems.iter().find_map(Problem::hint)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isolation config `{}` ", self.path.display())?;
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

impl std::error::Error for ConfigErrors {}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub location: Location,
    /// What it stands in, such as `mcp_servers.solana.memory_mb`; empty for the whole file.
    pub pointer: String,
    /// What it is.
    pub kind: ProblemKind,
}

/// What is wrong. Text from the file has been cut and made printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The bytes are not UTF-8 text without a byte order mark.
    Encoding {
        /// What they are instead.
        found: &'static str,
    },
    /// The text is not JSON.
    Syntax {
        /// What the JSON parser says.
        reason: String,
    },
    /// A member no option has the name of.
    UnknownField {
        /// The name in the file.
        name: String,
        /// The names that may stand there.
        known: Vec<&'static str>,
    },
    /// A member named by the user, with a name no server or tool can have.
    BadName {
        /// The name in the file.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A member that is there twice.
    DuplicateField {
        /// The name in the file.
        name: String,
        /// Where it stands first.
        first: Location,
    },
    /// A member that has to be there is not.
    MissingField {
        /// The name.
        name: &'static str,
    },
    /// A value of the wrong JSON type.
    WrongType {
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A word that is none of the few an option takes.
    UnknownWord {
        /// The word in the file.
        word: String,
        /// The words it takes.
        known: Vec<&'static str>,
    },
    /// A number that is too small or too big.
    OutOfRange {
        /// The number in the file.
        value: String,
        /// Who takes how many.
        takes: String,
    },
    /// A value of the right type that makes no sense.
    Invalid {
        /// The value in the file.
        value: String,
        /// Why not.
        reason: String,
    },
    /// Two values that cannot both be meant.
    Contradiction {
        /// Why not.
        reason: String,
    },
}

impl Problem {
    fn hint(&self) -> Option<String> {
        match &self.kind {
            ProblemKind::Encoding { .. } => {
                Some("save the file as UTF-8 without a byte order mark".into())
            }
            ProblemKind::Syntax { .. } => {
                Some("JSON has no comments and no comma after the last member".into())
            }
            ProblemKind::UnknownField { name, known }
                if nearest(name, known.iter().copied()).is_none() =>
            {
                Some(format!("known here: {}", quoted(known)))
            }
            ProblemKind::UnknownField { .. }
            | ProblemKind::BadName { .. }
            | ProblemKind::DuplicateField { .. }
            | ProblemKind::MissingField { .. }
            | ProblemKind::WrongType { .. }
            | ProblemKind::UnknownWord { .. }
            | ProblemKind::OutOfRange { .. }
            | ProblemKind::Invalid { .. }
            | ProblemKind::Contradiction { .. } => None,
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
            ProblemKind::Encoding { found } => write!(f, "not UTF-8 text: {found}"),
            ProblemKind::Syntax { reason } => write!(f, "not JSON: {reason}"),
            ProblemKind::UnknownField { name, known } => {
                write!(f, "unknown field `{name}` in {pointer}")?;
                match nearest(name, known.iter().copied()) {
                    Some(near) => write!(f, ", the nearest known is `{near}`"),
                    None => Ok(()),
                }
            }
            ProblemKind::BadName { name, reason } => {
                write!(f, "`{name}` cannot be a name in {pointer}: {reason}")
            }
            ProblemKind::DuplicateField { name, first } => {
                write!(f, "`{name}` is already given at {first}")
            }
            ProblemKind::MissingField { name } => write!(f, "{pointer} has no `{name}`"),
            ProblemKind::WrongType { expected, found } => {
                write!(f, "{pointer} must be {expected}, not {found}")
            }
            ProblemKind::UnknownWord { word, known } => {
                write!(f, "{pointer} is `{word}`, not one of {}", quoted(known))?;
                match nearest(word, known.iter().copied()) {
                    Some(near) => write!(f, "; the nearest is `{near}`"),
                    None => Ok(()),
                }
            }
            ProblemKind::OutOfRange { value, takes } => write!(f, "{pointer} is {value}: {takes}"),
            ProblemKind::Invalid { value, reason } => {
                write!(f, "{pointer} is `{value}`: {reason}")
            }
            ProblemKind::Contradiction { reason } => write!(f, "{pointer} {reason}"),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
