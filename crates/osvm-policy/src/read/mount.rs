//! Mounts and the workspace: which host directories a guest may see.
//!
//! What a guest then does there is the broker's to allow; here a mount only has to make sense.

use super::text::{check_path, checked, host_path};
use crate::env::Env;
use crate::error::ProblemKind;
use crate::json::{Node, Reader};
use crate::model::{Mount, Workspace, WorkspaceMode};
use std::collections::HashSet;

/// Guest paths that a mount would break the guest with.
const KERNEL_PATHS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// A list of mounts, each at a guest path of its own.
pub(super) fn list<'a>(
    node: &Node<'a, '_>,
    reader: &mut Reader<'a>,
    env: &Env,
) -> Option<Vec<Mount>> {
    let mut mounts = Vec::new();
    let mut taken = HashSet::new();
    for item in node.items(reader)? {
        let Some(mount) = mount(&item, reader, env) else { continue };
        if taken.insert(mount.guest_path.clone()) {
            mounts.push(mount);
        } else {
            item.invalid(reader, &mount.guest_path, "another mount has this guest path");
        }
    }
    Some(mounts)
}

/// The one directory of which guests get copies.
pub(super) fn workspace<'a>(
    node: &Node<'a, '_>,
    reader: &mut Reader<'a>,
    env: &Env,
) -> Option<Workspace> {
    let mut fields = node.fields(reader)?;
    let host_path = fields.require(reader, "host_path", |node, r| host_path(&node, r, env));
    let guest_path = fields.require(reader, "guest_path", guest_path);
    let mode = fields.take(reader, "mode", |node, r| node.word(r, WorkspaceMode::NAMES));
    fields.finish(reader);
    let mode = mode.unwrap_or(WorkspaceMode::Diff);
    Some(Workspace { host_path: host_path?, guest_path: guest_path?, mode })
}

fn mount<'a>(node: &Node<'a, '_>, reader: &mut Reader<'a>, env: &Env) -> Option<Mount> {
    let mut fields = node.fields(reader)?;
    let host_path = fields.require(reader, "host_path", |node, r| host_path(&node, r, env));
    let both = fields.has("guest_path") && fields.has("vm_path");
    if both {
        let reason = "has `guest_path` and `vm_path`, which are two names for one thing".into();
        node.problem(reader, ProblemKind::Contradiction { reason });
    }
    // `vm_path` is the older name of the same thing.
    let guest_path = if fields.has("vm_path") && !both {
        fields.know("guest_path");
        fields.take(reader, "vm_path", guest_path)
    } else {
        fields.take(reader, "vm_path", |_, _| Some(()));
        fields.require(reader, "guest_path", guest_path)
    };
    let readonly = fields.take(reader, "readonly", |node, reader| node.bool(reader));
    fields.finish(reader);
    Some(Mount {
        host_path: host_path?,
        guest_path: guest_path?,
        readonly: readonly.unwrap_or(true),
    })
}

fn guest_path<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<String> {
    let path = checked(&node, reader, |path| {
        if !path.starts_with('/') {
            return Err("a guest path is absolute");
        }
        check_path(path)
    })?;
    // One spelling for each place, so that two mounts on it are noticed.
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    let tidy: String = parts.flat_map(|part| ["/", part]).collect();
    let kernel = KERNEL_PATHS.iter().any(|own| {
        tidy.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if tidy.is_empty() || kernel {
        node.invalid(reader, &path, "the guest's kernel needs this place itself");
        return None;
    }
    Some(tidy)
}
