//! What a guest says has changed: taken in, bounded, and compared with what it was given.

use super::tree::Tree;
use osvm_image::Digest;
use osvm_protocol::linux::workspace::{self as wire, Said};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of changed files that one call may leave.
const MAX_BYTES: u64 = 64 << 20;

/// Files that one call may change.
const MAX_CHANGES: usize = 10_000;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum State {
    /// A folder.
    Folder {
        /// Permission bits.
        mode: u32,
    },
    /// A file.
    File {
        /// SHA-256 of its bytes.
        digest: Digest,
        /// How many there are.
        size: u64,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What it points to.
        target: String,
    },
}

impl State {
    /// Whether both are the same but for their permissions.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Folder { .. }, Self::Folder { .. }) => true,
            (Self::File { digest: a, .. }, Self::File { digest: b, .. }) => a == b,
            (Self::Link { target: a }, Self::Link { target: b }) => a == b,
            _ => false,
        }
    }

    /// Whether one can take the other's place without it being removed.
    pub(super) fn is_of_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// One path that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Change {
    /// Below the workspace.
    pub path: String,
    /// What the guest was given.
    pub before: Option<State>,
    /// What it left.
    pub after: Option<State>,
}

impl Change {
    /// `added`, `modified` or `deleted`.
    pub fn kind(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "added",
            (_, None) => "deleted",
            (Some(_), Some(_)) => "modified",
        }
    }

    /// Bytes that it has now, if it is a file.
    pub fn size(&self) -> Option<u64> {
        match &self.after {
            Some(State::File { size, .. }) => Some(*size),
            _ => None,
        }
    }
}

/// What one call has changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) all: Vec<Change>,
    /// Bytes of the files in it.
    pub(super) contents: BTreeMap<Digest, Vec<u8>>,
    /// Paths that are not carried to the host, whatever they are.
    pub(super) left_out: Vec<String>,
}

/// Takes what a guest says.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// By the number of the place.
    places: BTreeMap<u32, Place>,
    /// The one that is spoken of.
    current: u32,
    file: Option<(String, u64, u32, Vec<u8>)>,
    /// Changes in all places, and what is left out of them.
    count: usize,
    left_out: usize,
    bytes: u64,
    wrong: Option<&'static str>,
}

#[derive(Debug, Default)]
struct Place {
    now: BTreeMap<String, Option<Found>>,
    left_out: Vec<String>,
}

#[derive(Debug)]
enum Found {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
}

impl Incoming {
    /// Takes one frame's payload.
    pub(crate) fn take(&mut self, payload: &[u8]) {
        let Some(said) = wire::read(payload) else { return };
        if let Said::Data(bytes) = said {
            return self.data(bytes);
        }
        self.finish_file();
        let (path, found) = match said {
            Said::Folder { mode, path } => (path, Some(Found::Folder { mode: mode & 0o777 })),
            Said::File { mode, size, path, .. } => {
                // In place of a repository it would name another one.
                let named = path.rsplit(|byte| *byte == b'/').next();
                if named.is_some_and(|name| name.eq_ignore_ascii_case(b".git")) {
                    return self.leave_out(path);
                }
                if let Some(path) = self.name(path) {
                    self.file = Some((path, size, mode & 0o777, Vec::new()));
                }
                return;
            }
            // A link of a guest could lead a host program anywhere.
            Said::Link { path, .. } => return self.leave_out(path),
            Said::Gone { path } => (path, None),
            Said::Place(number) => return self.current = number,
            Said::Data(_) => return,
        };
        if let Some(path) = self.name(path) {
            self.keep(path, found);
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if MAX_BYTES < self.bytes {
            self.wrong = Some("the call left more than 64 MiB of changed files");
            self.file = None;
        } else if let Some((_, _, _, held)) = &mut self.file {
            held.extend_from_slice(bytes);
        }
    }

    fn finish_file(&mut self) {
        let Some((path, size, mode, bytes)) = self.file.take() else { return };
        if bytes.len() as u64 != size {
            self.wrong = Some("a file was changed while it was read");
        }
        self.keep(path, Some(Found::File { mode, bytes }));
    }

    fn keep(&mut self, path: String, found: Option<Found>) {
        if MAX_CHANGES <= self.count {
            self.wrong = Some("the call changed more than 10000 files");
        } else {
            self.count += 1;
            self.place().now.insert(path, found);
        }
    }

    fn place(&mut self) -> &mut Place {
        self.places.entry(self.current).or_default()
    }

    /// The name of something that is carried; what is not is remembered.
    fn name(&mut self, path: &[u8]) -> Option<String> {
        match str::from_utf8(path) {
            Ok(path) if !is_run_by_git(path) => Some(path.to_owned()),
            _ => {
                self.leave_out(path);
                None
            }
        }
    }

    fn leave_out(&mut self, path: &[u8]) {
        if self.left_out < MAX_CHANGES {
            self.left_out += 1;
            self.place().left_out.push(String::from_utf8_lossy(path).into_owned());
        }
    }

    /// What differs in each place from what is known of it.
    pub(super) fn compare(mut self, bases: &[Tree]) -> Result<Vec<Changes>, &'static str> {
        self.finish_file();
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let all = (0..)
            .zip(bases)
            .map(|(number, base)| self.places.remove(&number).unwrap_or_default().compare(base));
        let all = all.collect();
        if self.places.is_empty() {
            Ok(all)
        } else {
            Err("it speaks of a place that it does not have")
        }
    }
}

impl Place {
    fn compare(self, base: &Tree) -> Changes {
        let mut changes = Changes { left_out: self.left_out, ..Changes::default() };
        for (path, found) in self.now {
            let before = base.get(&path).cloned();
            let after = found.map(|found| match found {
                Found::Folder { mode } => State::Folder { mode },
                Found::File { mode, bytes } => {
                    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
                    changes.contents.insert(digest, bytes);
                    State::File { digest, size, mode }
                }
            });
            if before != after {
                changes.all.push(Change { path, before, after });
            }
        }
        changes
    }
}

/// What git on the host would run: hooks, settings that name programs, and what says that both are
/// elsewhere.
fn is_run_by_git(path: &str) -> bool {
    let mut names = path.split('/').skip_while(|name| !name.eq_ignore_ascii_case(".git"));
    if names.next().is_none() {
        return false;
    }
    names.any(|name| {
        let name = name.to_ascii_lowercase();
        ["hooks", "config", "config.worktree", "commondir", "gitdir"].contains(&name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(incoming: &mut Incoming, said: Said<'_>) {
        let frame = wire::frame(said).unwrap();
        incoming.take(osvm_protocol::frame::split(&frame).unwrap().unwrap().payload);
    }

    fn file(incoming: &mut Incoming, path: &str, text: &str) {
        let (path, size) = (path.as_bytes(), text.len() as u64);
        said(incoming, Said::File { mode: 0o4755, size, changed: (0, 0), path });
        said(incoming, Said::Data(text.as_bytes()));
    }

    fn state(text: &str) -> State {
        State::File { digest: Digest::of(text.as_bytes()), size: text.len() as u64, mode: 0o755 }
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let base = Tree::from([("same".into(), state("same")), ("gone".into(), state("x"))]);
        let mut incoming = Incoming::default();
        file(&mut incoming, "same", "same");
        file(&mut incoming, "new", "new");
        said(&mut incoming, Said::Gone { path: b"gone" });
        said(&mut incoming, Said::Gone { path: b"never-was" });
        let changes = incoming.compare(&[base]).unwrap().remove(0);
        let told: Vec<_> = changes.all.iter().map(|c| (c.kind(), c.path.as_str())).collect();
        assert_eq!(told, [("deleted", "gone"), ("added", "new")]);
        // Rights of another user are not carried.
        assert_eq!(changes.all[1].after, Some(state("new")));
        assert_eq!(changes.contents[&Digest::of(b"new")], b"new");
    }

    #[test]
    fn links_and_what_git_would_run_are_left_out() {
        let mut incoming = Incoming::default();
        said(&mut incoming, Said::Link { path: b"l", target: b"/etc/passwd" });
        let hooks = [
            ".git/hooks/pre-commit",
            "a/.git/config",
            ".GIT/modules/x/config",
            "b/.git",
            ".git/commondir",
        ];
        for path in hooks.into_iter().chain([".git/HEAD"]) {
            file(&mut incoming, path, "x");
        }
        let changes = incoming.compare(&[Tree::new()]).unwrap().remove(0);
        assert_eq!(changes.all.len(), 1);
        assert_eq!(changes.all[0].path, ".git/HEAD");
        assert_eq!(changes.left_out.len(), 6);
    }

    #[test]
    fn a_file_that_is_not_as_long_as_it_was_said_to_be_is_no_change() {
        let mut incoming = Incoming::default();
        said(&mut incoming, Said::File { mode: 0o644, size: 5, changed: (0, 0), path: b"a" });
        said(&mut incoming, Said::Data(b"1234"));
        assert!(incoming.compare(&[Tree::new()]).is_err());
    }

    #[test]
    fn more_than_is_kept_is_refused() {
        let mut incoming = Incoming::default();
        said(&mut incoming, Said::File { mode: 0o644, size: 1, changed: (0, 0), path: b"a" });
        let piece = vec![0; 1 << 20];
        (0..65).for_each(|_| said(&mut incoming, Said::Data(&piece)));
        assert!(incoming.bytes <= MAX_BYTES + (1 << 20));
        assert!(incoming.compare(&[Tree::new()]).is_err());
    }

    #[test]
    fn each_place_is_compared_with_its_own() {
        let base = Tree::from([("x".into(), state("x"))]);
        let told = || {
            let mut incoming = Incoming::default();
            file(&mut incoming, "x", "x");
            said(&mut incoming, Said::Place(1));
            file(&mut incoming, "x", "x");
            incoming
        };
        let all = told().compare(&[base.clone(), Tree::new()]).unwrap();
        assert!(all[0].all.is_empty());
        assert_eq!((all[1].all.len(), all[1].all[0].kind()), (1, "added"));
        assert!(told().compare(&[base]).is_err(), "there is no second one");
    }
}
