//! Changes as a patch for people and for `patch -p1` and `git apply`.

use super::changes::{Change, State};
use super::open_below;
use osvm_image::Digest;
use rustix::fs::OFlags;
use similar::TextDiff;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Longest text that is compared, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// How long one file may be compared; then the patch is longer than it had to be.
const PATIENCE: Duration = Duration::from_millis(300);

/// The patch from the host's files to those of `changes`.
pub(super) fn of(
    root: &OwnedFd,
    changes: &[Change],
    contents: &BTreeMap<Digest, Vec<u8>>,
) -> String {
    let mut text = String::new();
    for change in changes {
        // Writing to a string can't fail.
        let _written = one(&mut text, root, change, contents);
    }
    text
}

fn one(
    text: &mut String,
    root: &OwnedFd,
    change: &Change,
    contents: &BTreeMap<Digest, Vec<u8>>,
) -> std::fmt::Result {
    let (before, after) = (file(change.before.as_ref()), file(change.after.as_ref()));
    if before.is_none() && after.is_none() {
        return Ok(());
    }
    let (a, b) = (quoted("a/", &change.path), quoted("b/", &change.path));
    writeln!(text, "diff --git {a} {b}")?;
    match (before, after) {
        (None, Some((_, mode))) => writeln!(text, "new file mode {}", git_mode(mode))?,
        (Some((_, mode)), None) => writeln!(text, "deleted file mode {}", git_mode(mode))?,
        (Some((_, old)), Some((_, new))) if git_mode(old) != git_mode(new) => {
            writeln!(text, "old mode {}\nnew mode {}", git_mode(old), git_mode(new))?;
        }
        _ => {}
    }
    let old = before.map_or(Some(Vec::new()), |(digest, _)| on_host(root, &change.path, digest));
    let new = after.map_or(Some(&[][..]), |(digest, _)| contents.get(digest).map(Vec::as_slice));
    let texts =
        old.as_deref().zip(new).and_then(|(old, new)| Some((readable(old)?, readable(new)?)));
    let (a, b) = (before.map_or("/dev/null", |_| &a), after.map_or("/dev/null", |_| &b));
    match texts {
        Some((old, new)) if old == new => Ok(()),
        Some((old, new)) => {
            let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
            write!(text, "{}", diff.unified_diff().context_radius(3).header(a, b))
        }
        None => writeln!(text, "Binary files {a} and {b} differ"),
    }
}

fn file(state: Option<&State>) -> Option<(&Digest, u32)> {
    match state? {
        State::File { digest, mode, .. } => Some((digest, *mode)),
        State::Folder { .. } | State::Link { .. } => None,
    }
}

/// What git has for permissions.
fn git_mode(mode: u32) -> &'static str {
    if mode & 0o100 == 0 { "100644" } else { "100755" }
}

/// The file that the guest was given, if the host still has it.
fn on_host(root: &OwnedFd, path: &str, digest: &Digest) -> Option<Vec<u8>> {
    let file = open_below(root, path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let mut bytes = Vec::new();
    File::from(file).take(MAX_TEXT + 1).read_to_end(&mut bytes).ok()?;
    (Digest::of(&bytes) == *digest).then_some(bytes)
}

/// The text in `bytes`, unless it is none, or long.
fn readable(bytes: &[u8]) -> Option<&str> {
    let short = bytes.len() as u64 <= MAX_TEXT && !bytes.contains(&0);
    str::from_utf8(bytes).ok().filter(|_| short)
}

/// A path as git writes it: one that could break its line is quoted.
fn quoted(prefix: &str, path: &str) -> String {
    if path.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        format!("\"{prefix}{}\"", path.escape_default())
    } else {
        format!("{prefix}{path}")
    }
}
