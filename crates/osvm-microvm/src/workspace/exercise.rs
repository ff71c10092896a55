//! A guest made of bytes, for fuzzing: what it says has changed goes the way that it goes after a call.

use super::changes::Incoming;
use super::settle::Files;
use super::tree::{self, Room};
use super::{Pending, Workspace, WorkspaceError};
use osvm_policy::WorkspaceMode;
use rustix::fs::{Mode, OFlags, open};
use std::path::Path;

/// A call, and its answer.
const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#;
const ANSWER: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;

/// Bytes of files that the guest was given at most.
const MOST: u64 = 1 << 20;

/// Gives a guest the folders `diff`, `rw` and `ro` in `dir`, takes `payloads` as what it says has changed,
/// and does with that what the modes say. Changes wait in the folder `pending`. Gives the answer of the call.
///
/// # Errors
///
/// A folder can't be read.
pub fn exercise<'a>(
    dir: &Path,
    payloads: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, WorkspaceError> {
    let modes =
        [("diff", WorkspaceMode::Diff), ("rw", WorkspaceMode::Rw), ("ro", WorkspaceMode::Ro)];
    let (mut room, mut parts, mut bases) = (Room::new(MOST), Vec::new(), Vec::new());
    for (name, mode) in modes {
        let workspace = Workspace {
            host_path: dir.join(name),
            guest_path: format!("/{name}"),
            mode,
            pending: Pending::new(dir.join("pending")),
            is_mount: mode != WorkspaceMode::Diff,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&workspace.host_path, flags, Mode::empty());
        let root = root.map_err(|error| workspace.unreadable("", error.into()))?;
        bases.push(tree::send(&workspace, &root, &mut room, &mut |_| Ok(()))?);
        parts.push((workspace, root));
    }
    let files = Files::new("fuzz", parts, bases);
    files.notice(CALL);
    let mut incoming = Incoming::default();
    payloads.into_iter().for_each(|payload| incoming.take(payload));
    Ok(if files.answers(ANSWER) { files.settle(ANSWER.to_vec(), Ok(incoming)) } else { Vec::new() })
}
