//! The config itself: parsed text that still knows where everything stands.

use crate::check::check;
use crate::env::Env;
use crate::error::{ConfigError, ConfigErrors, Problem, ProblemKind};
use crate::explain::{self, Explanation};
use crate::file;
use crate::json::Reader;
use crate::model::{BackendChoice, Pool};
use crate::read::{self, Root};
use crate::resolve::{self, Resolved, Scope, Warning};
use crate::source::{LineIndex, Location};
use osvm_protocol::cid::EPHEMERAL;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A config file without errors.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    text: String,
    lines: LineIndex,
    root: Root,
    default_unikernel_dir: PathBuf,
}

/// Whether [`Config::load_or_create`] wrote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created(pub bool);

/// A server the file has an entry for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry<'c> {
    /// Its name.
    pub name: &'c str,
    /// The tools with entries of their own, in name order.
    pub tools: Vec<&'c str>,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// The file is missing, unreadable, not to be trusted ([`ConfigError::ForeignOwner`],
    /// [`ConfigError::WorldWritable`]) or wrong ([`ConfigError::Invalid`]).
    pub fn load(path: &Path, env: &Env) -> Result<Self, ConfigError> {
        Ok(Self::parse(&file::read(path)?, path, env)?)
    }

    /// Reads the file at `path`; where there is none, writes the default one first.
    ///
    /// # Errors
    ///
    /// Those of [`Config::load`] except that it is missing, and that it can't be written.
    pub fn load_or_create(path: &Path, env: &Env) -> Result<(Self, Created), ConfigError> {
        match Self::load(path, env) {
            Err(ConfigError::Missing { .. }) => {
                let created = file::create(path, &default_text())?;
                Ok((Self::load(path, env)?, Created(created)))
            }
            result => Ok((result?, Created(false))),
        }
    }

    /// Reads the bytes of a file; `path` is for messages only.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, not only the first thing.
    pub fn parse(bytes: impl AsRef<[u8]>, path: &Path, env: &Env) -> Result<Self, ConfigErrors> {
        let fail = |problems, more| ConfigErrors { path: path.to_owned(), problems, more };
        let text = decode(bytes.as_ref()).map_err(|problem| fail(vec![problem], 0))?;
        let lines = LineIndex::new(text);
        let mut reader = Reader::new(text, &lines);
        let root = reader.root().and_then(|node| read::root(node, &mut reader, env));
        let locate = |at| lines.locate(text, at);
        // Values that did not read are absent here, so nothing is reported twice.
        let together = root.as_ref().map(|root| check(root, &locate)).unwrap_or_default();
        for problem in together {
            reader.add(problem);
        }
        let (problems, more) = reader.finish();
        match root {
            Some(root) if problems.is_empty() => Ok(Self {
                path: path.to_owned(),
                text: text.to_owned(),
                lines,
                root,
                default_unikernel_dir: env.expand(DEFAULT_UNIKERNEL_DIR),
            }),
            _ => Err(fail(problems, more)),
        }
    }

    /// All that applies to one tool. Servers and tools the file does not name get its defaults.
    pub fn resolve(&self, server: &str, tool: &str) -> Resolved {
        let scope = Scope::new(&self.root, server, tool);
        resolve::resolve(scope, server, tool, |at| self.locate(at))
    }

    /// The same, with reasons, for people.
    pub fn explain(&self, server: &str, tool: &str) -> Explanation {
        let scope = Scope::new(&self.root, server, tool);
        explain::explain(scope, &self.resolve(server, tool), &self.path)
    }

    /// Everything the user should know before trusting this config, once each.
    pub fn warnings(&self) -> Vec<Warning> {
        // Tools without an entry resolve alike: the empty name is nobody's, so it stands for them.
        let anybody = std::iter::once(("", ""));
        let named = self.root.servers.iter().flat_map(|(server, entry)| {
            let tools = entry.tools.keys().map(String::as_str);
            tools.chain([""]).map(move |tool| (server.as_str(), tool))
        });
        let all =
            anybody.chain(named).flat_map(|(server, tool)| self.resolve(server, tool).warnings);
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The servers with entries, in name order.
    pub fn servers(&self) -> impl Iterator<Item = ServerEntry<'_>> {
        self.root.servers.iter().map(|(name, server)| ServerEntry {
            name,
            tools: server.tools.keys().map(String::as_str).collect(),
        })
    }

    /// Names of all images that some call would boot, in order.
    pub fn images(&self) -> BTreeSet<String> {
        let named = self.servers().flat_map(|entry| {
            let server = entry.name;
            entry.tools.into_iter().chain([""]).map(move |tool| (server, tool))
        });
        // The empty name stands for whatever has no entry.
        let cases = named.chain([("", "")]);
        cases.map(|(server, tool)| self.resolve(server, tool).unikernel_image).collect()
    }

    /// The image store.
    pub fn unikernel_dir(&self) -> PathBuf {
        let written = self.root.unikernel_dir.as_ref().map(|dir| &dir.value);
        written.unwrap_or(&self.default_unikernel_dir).clone()
    }

    /// The hypervisor to use.
    pub fn backend(&self) -> BackendChoice {
        self.root.backend.as_ref().map_or(BackendChoice::Auto, |backend| backend.value)
    }

    /// Where Firecracker is, if the file says so.
    pub fn firecracker(&self) -> Option<&Path> {
        self.root.firecracker.as_ref().map(|path| path.value.as_path())
    }

    /// The file of Cedar rules, if this file names one.
    pub fn policy(&self) -> Option<&Path> {
        self.root.policy.as_ref().map(|path| path.value.as_path())
    }

    /// The pool of ready VMs, if the file asks for one.
    pub fn pool(&self) -> Option<Pool> {
        self.root.pool.as_ref().map(|pool| pool.value)
    }

    /// CIDs for guests of one call.
    pub fn cid_range(&self) -> RangeInclusive<u32> {
        self.root.cid_range.as_ref().map_or(EPHEMERAL, |range| range.value.clone())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of the file, as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn locate(&self, at: usize) -> Location {
        self.lines.locate(&self.text, at)
    }
}

const DEFAULT_UNIKERNEL_DIR: &str = "~/.osvm/unikernels";

/// The file that is written on first use.
pub fn default_text() -> String {
    include_str!("default.json").to_owned()
}

/// The JSON Schema (2020-12) of the file, for editors and other tools.
///
/// It accepts whatever [`Config::parse`] does. [`Config::parse`] refuses more: what a schema
/// cannot say, such as limits that depend on the mode.
pub fn schema() -> &'static str {
    include_str!("isolation_config.schema.json")
}

/// The text in `bytes`.
fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    let fail = |location, found| Problem {
        location,
        pointer: String::new(),
        kind: ProblemKind::Encoding { found },
    };
    let start = Location { line: 1, column: 1 };
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(fail(start, "it looks like UTF-16"));
    }
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        return Err(fail(start, "it begins with a byte order mark"));
    }
    str::from_utf8(bytes).map_err(|error| {
        let (valid, _) = bytes.split_at_checked(error.valid_up_to()).unwrap_or_default();
        let valid = str::from_utf8(valid).unwrap_or_default();
        fail(
            LineIndex::new(valid).locate(valid, valid.len()),
            "a byte here is no part of a character",
        )
    })
}

#[cfg(test)]
mod tests;
