//! The files in which MCP clients keep their servers, and osvm as one server in them.
//!
//! Only the member `osvm` of such a file is ever touched. A file that can't be read as what the
//! client takes is left alone, and nothing is written without having been read back.

use crate::codex;
use crate::edit::{self, EditError};
use crate::entry::{Entry, Stdio, Target};
use crate::error::Problem;
use crate::json::{self, Dialect, Reader};
use crate::plain::Plain;
use crate::read;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What osvm is called in the files of clients.
pub const NAME: &str = "osvm";

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The desktop application of Claude.
    ClaudeDesktop,
    /// Claude on the command line.
    ClaudeCode,
    /// Cursor.
    Cursor,
    /// Visual Studio Code.
    VsCode,
    /// Codex.
    Codex,
}

/// Directories that decide where clients keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The home directory.
    pub home: PathBuf,
    /// `$XDG_CONFIG_HOME`, if it is absolute.
    pub xdg_config_home: Option<PathBuf>,
    /// `$CLAUDE_CONFIG_DIR`, if it is set.
    pub claude_config_dir: Option<PathBuf>,
    /// `$CODEX_HOME`, if it is set.
    pub codex_home: Option<PathBuf>,
}

/// Why a client's file can't be changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// It is not what the client reads.
    #[error("`{}` {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: Problem,
    },
    /// Where the servers should be, there is something else.
    #[error("`{}` can't be edited: {cause}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is there.
        cause: EditError,
    },
    /// The edited text does not say what it should.
    #[error("`{}` can't be edited: it would not read back as it was meant", path.display())]
    NotAsMeant {
        /// The file.
        path: PathBuf,
    },
}

impl Client {
    /// Every client.
    pub const ALL: [Self; 5] =
        [Self::ClaudeDesktop, Self::ClaudeCode, Self::Cursor, Self::VsCode, Self::Codex];

    /// The word on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "claude-desktop",
            Self::ClaudeCode => "claude-code",
            Self::Cursor => "cursor",
            Self::VsCode => "vscode",
            Self::Codex => "codex",
        }
    }

    /// The file for this user.
    pub fn user_file(self, places: &Places) -> PathBuf {
        let config = places.xdg_config_home.clone().unwrap_or_else(|| places.home.join(".config"));
        match self {
            Self::ClaudeDesktop => config.join("Claude/claude_desktop_config.json"),
            Self::ClaudeCode => {
                places.claude_config_dir.as_ref().unwrap_or(&places.home).join(".claude.json")
            }
            Self::Cursor => places.home.join(".cursor/mcp.json"),
            Self::VsCode => config.join("Code/User/mcp.json"),
            Self::Codex => {
                let codex = places.codex_home.clone();
                codex.unwrap_or_else(|| places.home.join(".codex")).join("config.toml")
            }
        }
    }

    /// The file for everybody who works in `project`; `None` where the client has none.
    pub fn project_file(self, project: &Path) -> Option<PathBuf> {
        match self {
            Self::ClaudeDesktop => None,
            Self::ClaudeCode => Some(project.join(".mcp.json")),
            Self::Cursor => Some(project.join(".cursor/mcp.json")),
            Self::VsCode => Some(project.join(".vscode/mcp.json")),
            Self::Codex => Some(project.join(".codex/config.toml")),
        }
    }

    fn root(self) -> &'static str {
        match self {
            Self::VsCode => "servers",
            Self::ClaudeDesktop | Self::ClaudeCode | Self::Cursor => "mcpServers",
            Self::Codex => codex::TABLE,
        }
    }

    /// Whether the client takes comments in its file.
    fn takes_comments(self) -> bool {
        match self {
            Self::VsCode | Self::Cursor => true,
            Self::ClaudeDesktop | Self::ClaudeCode | Self::Codex => false,
        }
    }

    /// What `text`, the client's file at `path`, says of osvm.
    ///
    /// # Errors
    ///
    /// It is not what the client reads.
    pub fn find(self, text: &str, path: &Path) -> Result<Option<Entry>, ClientError> {
        let syntax = |problem| ClientError::Syntax { path: path.to_owned(), problem };
        if self == Self::Codex {
            return codex::find(text, NAME).map_err(syntax);
        }
        if text.trim().is_empty() {
            return Ok(None);
        }
        let dialect = if self.takes_comments() { Dialect::Comments } else { Dialect::Plain };
        let value = json::parse(text, dialect).map_err(syntax)?;
        let root = value.as_ref().and_then(|value| value.as_object());
        let servers = root.and_then(|root| root.get_object(self.root()));
        let object = servers.and_then(|servers| servers.get_object(NAME));
        let mut reader = Reader::new(text);
        let entry = object.and_then(|object| read::entry(&mut reader, NAME, object, NAME));
        Ok(entry)
    }

    /// `text` with osvm as a server: `command` and `args` start it.
    ///
    /// # Errors
    ///
    /// The file is not what the client reads, or can't be edited.
    pub fn connect(
        self,
        text: &str,
        path: &Path,
        command: &str,
        args: &[String],
    ) -> Result<String, ClientError> {
        let stdio =
            Stdio { command: Some(command.to_owned()), args: args.to_vec(), ..Stdio::default() };
        let wanted = Entry::new(Target::Stdio(stdio));
        let found = self.find(text, path)?;
        if found.as_ref() == Some(&wanted) {
            return Ok(text.to_owned());
        }
        let changed = if self == Self::Codex {
            let (members, _) = codex::members(&wanted);
            codex::set(text, NAME, members)
                .map_err(|problem| ClientError::Syntax { path: path.to_owned(), problem })?
        } else {
            let kept = |(name, value): (String, Plain)| {
                // Claude Desktop and Cursor know programs only, and take no `type` for it.
                let typed = matches!(self, Self::ClaudeCode | Self::VsCode);
                (typed || name != "type").then_some((name, Some(value)))
            };
            let mut members: Vec<_> = wanted.members().into_iter().filter_map(kept).collect();
            // What an earlier entry may have said against it.
            members.extend(["url", "disabled", "env"].map(|name| (name.to_owned(), None)));
            let members: Vec<_> =
                members.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            edit::set(text, self.takes_comments(), &[self.root(), NAME], &members)
                .map_err(|cause| ClientError::Shape { path: path.to_owned(), cause })?
        };
        match self.find(&changed, path)? {
            Some(entry) if entry.target == wanted.target => Ok(changed),
            _ => Err(ClientError::NotAsMeant { path: path.to_owned() }),
        }
    }

    /// `text` without osvm; `None` if it is not in it.
    ///
    /// # Errors
    ///
    /// The file is not what the client reads, or can't be edited.
    pub fn disconnect(self, text: &str, path: &Path) -> Result<Option<String>, ClientError> {
        let changed = if self == Self::Codex {
            codex::remove(text, NAME)
                .map_err(|problem| ClientError::Syntax { path: path.to_owned(), problem })?
        } else if text.trim().is_empty() {
            None
        } else {
            edit::remove(text, self.takes_comments(), &[self.root()], NAME)
                .map_err(|cause| ClientError::Shape { path: path.to_owned(), cause })?
        };
        match &changed {
            Some(text) if self.find(text, path)?.is_some() => {
                Err(ClientError::NotAsMeant { path: path.to_owned() })
            }
            _ => Ok(changed),
        }
    }
}

#[cfg(test)]
mod tests;
