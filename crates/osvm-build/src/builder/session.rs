//! What the builder's guest tells while scripts run, and what of it gets into the app.
//!
//! # Invariants
//!
//! - The guest is hostile, because scripts may have taken it over: every line is bounded by whoever
//!   carries it, changes are bounded here, and paths go through [`Tree`], which nothing gets out of.
//! - Changes are taken only after every script that was asked for has ended as it should.

use super::Script;
use crate::error::BuildError;
use crate::tree::Tree;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use osvm_image::linux::{ScriptOutcome, ScriptRun};
use serde::Deserialize;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Component, Path};

/// Bytes of changed files that scripts may leave.
const MAX_BYTES: u64 = 1 << 30;

/// Files, folders and links that scripts may change.
const MAX_CHANGES: u32 = 100_000;

/// Most of a script's last words that is shown, in bytes.
const MAX_WORDS: usize = 4096;

/// What compilers leave beside what they were asked for. Nothing reads it later.
const LEFTOVERS: [&str; 4] = ["obj.target", ".deps", "obj", "node_gyp_bins"];

/// One line of the guest.
#[derive(Debug, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "lowercase")]
enum Said {
    Begins { number: usize },
    Ends { number: usize, code: Option<i32>, signal: Option<String>, said: String },
    Gone { path: String },
    Folder { path: String },
    Link { path: String, target: String },
    File { path: String, executable: bool },
    Data { base64: String },
    Done {},
    Failed { reason: String },
}

/// A run of scripts, from the first line to the last.
pub(super) struct Session<'a> {
    app: &'a mut Tree,
    scripts: &'a [Script],
    say: &'a dyn Fn(&str),
    runs: Vec<ScriptRun>,
    /// Where the bytes of a file wait until all are there.
    spool: File,
    /// The file that is being told: its path, unless it is one that is left out.
    file: Option<(Option<String>, bool)>,
    bytes: u64,
    changes: u32,
    outcome: Option<Result<(), BuildError>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        app: &'a mut Tree,
        scripts: &'a [Script],
        spool: File,
        say: &'a dyn Fn(&str),
    ) -> Self {
        let (runs, file, outcome) = (Vec::new(), None, None);
        Self { app, scripts, say, runs, spool, file, bytes: 0, changes: 0, outcome }
    }

    /// Takes one line; breaks when nothing more is wanted.
    pub(super) fn hear(&mut self, line: &[u8]) -> ControlFlow<()> {
        let heard = serde_json::from_slice(line)
            .map_err(|error| refused(format!("it told what nobody understands: {error}")))
            .and_then(|said| self.take(said));
        match heard {
            Ok(false) => return ControlFlow::Continue(()),
            Ok(true) => self.outcome = Some(Ok(())),
            Err(error) => self.outcome = Some(Err(error)),
        }
        ControlFlow::Break(())
    }

    /// How it ended, if the guest came to an end: the scripts that ran.
    pub(super) fn finish(self) -> Option<Result<Vec<ScriptRun>, BuildError>> {
        let runs = self.runs;
        self.outcome.map(|outcome| outcome.map(|()| runs))
    }

    /// True when it is over.
    fn take(&mut self, said: Said) -> Result<bool, BuildError> {
        match said {
            Said::Begins { number } => {
                let Script { package, event, .. } = self.script(number)?;
                (self.say)(&format!("running `{event}` of package `{package}` in a microVM"));
            }
            Said::Ends { number, code, signal, said } => {
                let script = self.script(number)?;
                let outcome = outcome(script, code, signal.as_deref(), &said)?;
                if outcome == ScriptOutcome::Failed {
                    let package = &script.package;
                    (self.say)(&format!(
                        "package `{package}` is left out: its script failed, and nothing needs it"
                    ));
                }
                let Script { package, version, event, command, .. } = script.clone();
                let event = event.to_owned();
                self.runs.push(ScriptRun { package, version, event, command, outcome });
            }
            Said::Failed { reason } => {
                return Err(refused(format!("it could not go on: {}", shown(&reason))));
            }
            Said::Data { base64 } => self.data(&base64)?,
            Said::Done {} => {
                self.close()?;
                return self.all_ran().map(|()| true);
            }
            change => {
                self.close()?;
                self.all_ran()?;
                self.change(change)?;
            }
        }
        Ok(false)
    }

    fn script(&self, number: usize) -> Result<&'a Script, BuildError> {
        let script = self.scripts.get(number);
        script.ok_or_else(|| refused("it told of a script that it was not given".into()))
    }

    /// Whether each package's scripts ran, but for what comes after a failure in a package that is
    /// left out.
    fn all_ran(&self) -> Result<(), BuildError> {
        let ran = |script: &Script| {
            self.runs.iter().any(|run| {
                let same = run.package == script.package && run.version == script.version;
                same && (run.event == script.event || run.outcome == ScriptOutcome::Failed)
            })
        };
        match self.scripts.iter().find(|script| !ran(script)) {
            None => Ok(()),
            Some(script) => {
                Err(refused(format!("it did not run `{}` of `{}`", script.event, script.package)))
            }
        }
    }

    fn change(&mut self, change: Said) -> Result<(), BuildError> {
        self.changes += 1;
        if MAX_CHANGES < self.changes {
            return Err(refused(format!("scripts changed more than {MAX_CHANGES} files")));
        }
        match change {
            Said::Gone { path } => self.app.remove(Path::new(&path)),
            Said::Folder { path } if is_kept(&path) => self.app.dir(&path),
            Said::Link { path, target } if is_kept(&path) => {
                self.app.link(&path, Path::new(&target))
            }
            Said::File { path, executable } => {
                self.file = Some((is_kept(&path).then_some(path), executable));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn data(&mut self, base64: &str) -> Result<(), BuildError> {
        if self.file.is_none() {
            return Err(refused("it told bytes of no file".into()));
        }
        let bytes = STANDARD.decode(base64);
        let bytes = bytes.map_err(|error| refused(format!("its bytes are no base64: {error}")))?;
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if MAX_BYTES < self.bytes {
            return Err(refused(format!("scripts left more than {} MiB", MAX_BYTES >> 20)));
        }
        self.spool.write_all(&bytes).map_err(BuildError::io(std::env::temp_dir()))
    }

    /// Puts the file that was told into the app, now that all of it is there.
    fn close(&mut self) -> Result<(), BuildError> {
        let Some((path, executable)) = self.file.take() else { return Ok(()) };
        let io = || BuildError::io(std::env::temp_dir());
        self.spool.rewind().map_err(io())?;
        if let Some(path) = path {
            self.app.file(&path, executable, &mut self.spool)?;
        }
        self.spool.rewind().and_then(|()| self.spool.set_len(0)).map_err(io())
    }
}

fn outcome(
    script: &Script,
    code: Option<i32>,
    signal: Option<&str>,
    said: &str,
) -> Result<ScriptOutcome, BuildError> {
    if code == Some(0) {
        return Ok(ScriptOutcome::Ok);
    }
    if script.optional {
        return Ok(ScriptOutcome::Failed);
    }
    let outcome = match (code, signal) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => format!("was ended by {}", shown(signal)),
        (None, None) => "could not be started".into(),
    };
    Err(BuildError::Script {
        package: script.package.clone(),
        event: script.event,
        outcome,
        output: shown(said),
    })
}

/// Text of the guest as a terminal may have it: its end, without control characters.
fn shown(text: &str) -> String {
    let from = text.ceil_char_boundary(text.len().saturating_sub(MAX_WORDS));
    let text = text.get(from..).unwrap_or_default();
    text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect()
}

/// Whether a file is more than what a compiler leaves behind.
fn is_kept(path: &str) -> bool {
    let mut parts = Path::new(path).components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let in_build = parts.any(|part| part == "build");
    !in_build || !parts.any(|part| LEFTOVERS.contains(&part))
}

fn refused(reason: String) -> BuildError {
    BuildError::refused("what the builder says", reason)
}

#[cfg(test)]
mod tests;
