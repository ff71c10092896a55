//! Where a server can be taken from, as it is typed: a package, a repository, an address, a file.
//!
//! Everything here ends up on the command line of another program, so names are checked
//! character by character and never begin with `-`.

use osvm_policy::printable;
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `npx://PACKAGE[@VERSION]`: a package of npm.
    Npm(String),
    /// `uvx://PACKAGE[==VERSION]`: a package of PyPI.
    PyPi(String),
    /// `git+https://…[@REFERENCE]`: a repository.
    Git(GitSource),
    /// `https://…`: a Streamable HTTP endpoint.
    Url(String),
    /// `….json`: a `server.json` of the registry.
    File(PathBuf),
}

/// A repository, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    /// Its address, without `git+`.
    pub url: String,
    /// A branch, a tag or a commit; `None` is what the repository calls `HEAD`.
    pub reference: Option<String>,
}

/// Why a text names no server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// It begins with nothing known.
    #[error("`{0}` names no server")]
    Unknown(String),
    /// A package that can't have this name.
    #[error("`{0}` is not the name of a package")]
    Package(String),
    /// A repository that can't have this address.
    #[error("`{0}` is not the address of a git repository")]
    Repository(String),
    /// An address that no server can have.
    #[error("`{url}` is not the address of a server: {reason}")]
    Url {
        /// The address.
        url: String,
        /// Why not.
        reason: &'static str,
    },
}

impl SourceError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => Some(
                "for a command put `--` in front of it: `osvm mcp add NAME -- COMMAND ARGS`".into(),
            ),
            Self::Package(_) => Some("write `npx://name@1.2.3` or `uvx://name==1.2.3`".into()),
            Self::Repository(_) => Some("write `git+https://github.com/owner/name@commit`".into()),
            Self::Url { .. } => None,
        }
    }
}

impl Source {
    /// Reads what was typed.
    ///
    /// # Errors
    ///
    /// It names no server.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if let Some(package) = text.strip_prefix("npx://") {
            return npm(package).map(Self::Npm);
        }
        if let Some(package) = text.strip_prefix("uvx://") {
            return pypi(package).map(Self::PyPi);
        }
        if let Some(rest) = text.strip_prefix("git+") {
            return GitSource::parse(rest).map(Self::Git);
        }
        if text.contains("://") {
            return match crate::read::check_url(text) {
                Ok(()) => Ok(Self::Url(text.to_owned())),
                Err(reason) => Err(SourceError::Url { url: printable(text), reason }),
            };
        }
        if text.ends_with(".json") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        Err(SourceError::Unknown(printable(text)))
    }

    /// Program and arguments that fetch and run a package; `None` for what is no package.
    pub fn command(&self) -> Option<(String, Vec<String>)> {
        match self {
            Self::Npm(package) => Some(("npx".into(), vec!["-y".into(), package.clone()])),
            // What pip writes `==`, uvx writes `@`.
            Self::PyPi(package) => Some(("uvx".into(), vec![package.replacen("==", "@", 1)])),
            Self::Git(_) | Self::Url(_) | Self::File(_) => None,
        }
    }
}

fn plain(text: &str, also: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    !text.is_empty() && text.len() <= 256 && !text.starts_with('-') && text.chars().all(known)
}

/// A name and version as npm has them: `@scope/name@1.2.3`.
pub(crate) fn npm(text: &str) -> Result<String, SourceError> {
    let error = || SourceError::Package(printable(text));
    let (scope, rest) = match text.strip_prefix('@') {
        Some(scoped) => {
            scoped.split_once('/').map(|(s, rest)| (Some(s), rest)).ok_or_else(error)?
        }
        None => (None, text),
    };
    let (name, version) = rest.split_once('@').map_or((rest, None), |(n, v)| (n, Some(v)));
    let right = scope.is_none_or(|scope| plain(scope, "._-~"))
        && plain(name, "._-~")
        && version.is_none_or(|version| plain(version, "._-+^~"));
    if right { Ok(text.to_owned()) } else { Err(error()) }
}

/// A name and version as PyPI has them: `name[extra]==1.2.3`.
pub(crate) fn pypi(text: &str) -> Result<String, SourceError> {
    let (name, version) = text.split_once("==").map_or((text, None), |(n, v)| (n, Some(v)));
    let right = plain(name, "._-[],") && version.is_none_or(|version| plain(version, "._-+!"));
    if right { Ok(text.to_owned()) } else { Err(SourceError::Package(printable(text))) }
}

impl GitSource {
    /// Reads `https://host/path[@reference]`; `ssh` and `file` do as well.
    ///
    /// # Errors
    ///
    /// It is no address of a repository.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let error = || SourceError::Repository(printable(text));
        let schemes = ["https://", "ssh://", "file://"];
        let scheme = schemes.into_iter().find(|scheme| text.starts_with(scheme));
        let rest = scheme.and_then(|scheme| text.strip_prefix(scheme)).ok_or_else(error)?;
        let (host, path) = rest.split_once('/').ok_or_else(error)?;
        let (path, reference) = match path.split_once('@') {
            Some((path, reference)) => (path, Some(reference)),
            None => (path, None),
        };
        let local = scheme == Some("file://");
        // A password in the address would end up in the file and in the list.
        let host_right = local && host.is_empty() || !local && plain(host, ".-:@_");
        if !host_right || host.contains('@') && scheme == Some("https://") {
            return Err(error());
        }
        if !plain(path, "._-~/+%") || reference.is_some_and(|name| !plain(name, "._-/+")) {
            return Err(error());
        }
        let url = format!("{}{host}/{path}", scheme.unwrap_or_default());
        Ok(Self { url, reference: reference.map(str::to_owned) })
    }

    /// Reads the address of a repository as browsers show it: `https://github.com/owner/name`, with
    /// `/tree/REFERENCE` perhaps.
    ///
    /// # Errors
    ///
    /// It is no such address.
    pub fn from_page(text: &str) -> Result<Self, SourceError> {
        let text = text.strip_prefix("git+").unwrap_or(text).trim_end_matches('/');
        let Some((repository, reference)) = text.split_once("/tree/") else {
            return Self::parse(text);
        };
        let source = Self::parse(repository)?;
        let right = source.reference.is_none() && plain(reference, "._-/+");
        if !right {
            return Err(SourceError::Repository(printable(text)));
        }
        Ok(Self { reference: Some(reference.to_owned()), ..source })
    }

    /// The name of the repository, for a server that was given none.
    pub fn name(&self) -> &str {
        let last = self.url.rsplit('/').next().unwrap_or_default();
        last.strip_suffix(".git").unwrap_or(last)
    }

    /// The reference, if it is a full commit.
    pub fn commit(&self) -> Option<&str> {
        self.reference.as_deref().filter(|reference| is_commit(reference))
    }

    /// The same repository at one commit.
    pub fn pinned(&self, commit: &str) -> Self {
        Self { url: self.url.clone(), reference: Some(commit.to_owned()) }
    }
}

impl fmt::Display for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "git+{}", self.url)?;
        match &self.reference {
            Some(reference) => write!(f, "@{reference}"),
            None => Ok(()),
        }
    }
}

/// Whether this is a full commit id: 40 hexadecimal digits, or 64.
pub fn is_commit(text: &str) -> bool {
    (text.len() == 40 || text.len() == 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Why a reference stands for no one commit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// The repository has neither branch nor tag of this name.
    #[error("the repository has no branch or tag `{0}`")]
    Unknown(String),
    /// It has both, and they differ.
    #[error("`{0}` is a branch and a tag of the repository, and they differ")]
    Ambiguous(String),
}

/// The commit that `reference` stands for in what `git ls-remote` printed.
///
/// # Errors
///
/// There is none, or more than one.
pub fn find_commit(listing: &str, reference: Option<&str>) -> Result<String, ReferenceError> {
    let find = |name: &str| {
        let rows = listing.lines().filter_map(|line| line.split_once('\t'));
        let mut rows = rows.filter(|(commit, _)| is_commit(commit));
        rows.find(|(_, row)| *row == name).map(|(commit, _)| commit.to_owned())
    };
    let Some(reference) = reference else {
        return find("HEAD").ok_or_else(|| ReferenceError::Unknown("HEAD".into()));
    };
    // An annotated tag is an object of its own; `^{}` is the commit that it is on.
    let tag = find(&format!("refs/tags/{reference}^{{}}"));
    let tag = tag.or_else(|| find(&format!("refs/tags/{reference}")));
    match (find(&format!("refs/heads/{reference}")), tag) {
        (Some(branch), Some(tag)) if branch != tag => {
            Err(ReferenceError::Ambiguous(printable(reference)))
        }
        (Some(commit), _) | (None, Some(commit)) => Ok(commit),
        (None, None) => Err(ReferenceError::Unknown(printable(reference))),
    }
}

#[cfg(test)]
mod tests;
