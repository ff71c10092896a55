//! The file of servers, and the list of all there are.

use crate::edit::{self, EditError};
use crate::entry::{BUILTIN, Entry, Target, is_name};
use crate::environment::FromEnvironment;
use crate::error::{Problem, ProblemKind, Problems, ServersError};
use crate::file;
use crate::json::{self, Dialect, Reader};
use crate::plain::Plain;
use crate::read;
use osvm_policy::{Location, member_pointer, printable};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The member that holds the servers.
const ROOT: &str = "mcpServers";

/// Where the file is: `$OSVM_MCP_SERVERS`, else `mcp_servers.json` beside the isolation config.
pub fn default_path(variable: Option<OsString>, isolation_config: &Path) -> PathBuf {
    match variable.filter(|value| !value.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => isolation_config.with_file_name("mcp_servers.json"),
    }
}

/// A file of servers without errors. A file that is not there is an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    path: PathBuf,
    text: String,
    entries: Vec<(String, Entry)>,
}

impl Servers {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// It is unreadable, not to be trusted, or wrong.
    pub fn load(path: &Path) -> Result<Self, ServersError> {
        match file::read(path)? {
            Some(bytes) => Ok(Self::parse(&bytes, path)?),
            None => Ok(Self { path: path.to_owned(), text: String::new(), entries: Vec::new() }),
        }
    }

    /// Reads the bytes of a file; `path` is for messages only.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, not only the first thing.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, Problems> {
        let fail = |problem| Problems { path: path.to_owned(), problems: vec![problem], more: 0 };
        let text = json::decode(bytes).map_err(fail)?;
        let value = json::parse(text, Dialect::Plain).map_err(fail)?;
        let mut reader = Reader::new(text);
        let root = value.as_ref().and_then(|value| reader.object(value, ""));
        let servers = root.and_then(|root| root.get(ROOT));
        let servers = servers.and_then(|property| reader.object(&property.value, ROOT));
        let mut entries = Vec::new();
        for property in servers.into_iter().flat_map(|servers| &servers.properties) {
            let name = property.name.as_str();
            let pointer = member_pointer(ROOT, name);
            if !is_name(name) {
                reader.problem(property, ROOT, ProblemKind::BadName { name: printable(name) });
                continue;
            }
            let object = reader.object(&property.value, &pointer);
            let entry = object.and_then(|object| read::entry(&mut reader, name, object, &pointer));
            entries.extend(entry.map(|entry| (name.to_owned(), entry)));
        }
        reader.finish(path)?;
        Ok(Self { path: path.to_owned(), text: text.to_owned(), entries })
    }

    /// Reads the file at `path`, lets `change` work on it, and writes it back if it changed.
    /// Another osvm that does the same waits meanwhile.
    ///
    /// # Errors
    ///
    /// Those of [`Servers::load`], of `change`, and that it can't be written.
    pub fn update<T, E: From<ServersError>>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = file::lock(path)?;
        let mut servers = Self::load(path)?;
        let before = servers.text.clone();
        let result = change(&mut servers)?;
        if servers.text != before {
            file::replace(path, servers.text.as_bytes())?;
        }
        Ok(result)
    }

    /// The entry of a server.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, entry)| entry)
    }

    /// Every server, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a server, or changes it; members of it that osvm does not know stay.
    ///
    /// # Errors
    ///
    /// The entry would not read back as it is, because a value in it makes no sense.
    pub fn set(&mut self, name: &str, entry: &Entry) -> Result<(), ServersError> {
        let written = entry.members();
        let value = |known: &str| {
            let member = written.iter().find(|(name, _)| name == known);
            member.map(|(_, value)| value.clone())
        };
        // In the order in which a new entry has them.
        let mut members: Vec<(&str, Option<Plain>)> =
            written.iter().map(|(name, value)| (name.as_str(), Some(value.clone()))).collect();
        let gone = read::KNOWN.into_iter().filter(|known| value(known).is_none());
        members.extend(gone.map(|known| (known, None)));
        // What stands there already and would stay the same is left as it is written.
        if let Some(before) = self.get(name).map(Entry::members) {
            members.retain(|(name, value)| match value {
                // The file may say the same by `disabled`, which is about to go.
                Some(_) if *name == "enabled" => true,
                Some(value) => !before.iter().any(|(old, was)| old == name && was == value),
                None => true,
            });
        }
        self.edit(&[ROOT, name], &members)?;
        if self.get(name) == Some(entry) { Ok(()) } else { Err(self.not_as_meant()) }
    }

    /// Lets osvm use a server, or not.
    ///
    /// # Errors
    ///
    /// The file can't be edited.
    pub fn set_enabled(&mut self, name: &str, enabled: bool) -> Result<(), ServersError> {
        match self.get(name).cloned() {
            Some(entry) if entry.enabled == enabled => Ok(()),
            Some(_) => {
                let flag = (!enabled).then_some(Plain::Bool(false));
                self.edit(&[ROOT, name], &[("enabled", flag), ("disabled", None)])
            }
            None => self.set(name, &Entry { enabled, ..Entry::new(Target::Builtin) }),
        }
    }

    /// Takes a server away; `false` if there is none of this name.
    ///
    /// # Errors
    ///
    /// The file can't be edited.
    pub fn remove(&mut self, name: &str) -> Result<bool, ServersError> {
        if self.get(name).is_none() {
            return Ok(false);
        }
        match edit::remove(&self.text, false, &[ROOT], name) {
            Ok(Some(text)) => self.replace(&text)?,
            Ok(None) => return Ok(false),
            Err(error) => return Err(self.uneditable(error)),
        }
        Ok(true)
    }

    fn edit(
        &mut self,
        path: &[&str],
        members: &[(&str, Option<Plain>)],
    ) -> Result<(), ServersError> {
        let text = edit::set(&self.text, false, path, members);
        let text = text.map_err(|error| self.uneditable(error))?;
        self.replace(&text)
    }

    /// Takes `text` for the file's, if it is right.
    fn replace(&mut self, text: &str) -> Result<(), ServersError> {
        *self = Self::parse(text.as_bytes(), &self.path)?;
        Ok(())
    }

    fn uneditable(&self, error: EditError) -> ServersError {
        let problem = match error {
            EditError::Syntax(problem) => problem,
            EditError::NoObject { pointer } => {
                let kind = ProblemKind::WrongType { expected: "an object", found: "another value" };
                Problem { location: Location { line: 1, column: 1 }, pointer, kind }
            }
        };
        let problems = vec![problem];
        ServersError::Invalid(Problems { path: self.path.clone(), problems, more: 0 })
    }

    fn not_as_meant(&self) -> ServersError {
        let cause = "what would be written does not read back as what was meant";
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, cause);
        ServersError::Write { path: self.path.clone(), source }
    }
}

/// Where a server comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is part of osvm.
    Builtin,
    /// It is in the file.
    File,
    /// A variable of the environment names it.
    Environment(String),
}

/// A server that osvm knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub entry: Entry,
    /// Where it comes from.
    pub origin: Origin,
}

/// Every server: those of the file, those of the environment that the file does not name, and the
/// builtin ones. In name order.
pub fn listed(servers: &Servers, environment: &FromEnvironment) -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    for (name, entry) in servers.iter() {
        let origin = if entry.target == Target::Builtin { Origin::Builtin } else { Origin::File };
        all.push(Listed { name: name.to_owned(), entry: entry.clone(), origin });
    }
    for (name, entry, variable) in &environment.servers {
        if servers.get(name).is_none() {
            let origin = Origin::Environment(variable.clone());
            all.push(Listed { name: name.clone(), entry: entry.clone(), origin });
        }
    }
    for name in BUILTIN {
        if servers.get(name).is_none() {
            let entry = Entry::new(Target::Builtin);
            all.push(Listed { name: name.to_owned(), entry, origin: Origin::Builtin });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

#[cfg(test)]
mod tests;
