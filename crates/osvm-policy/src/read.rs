//! The shape of the file: from JSON to what each level of it says, with places.
//!
//! Each option is read and checked by itself here. What options mean together is for
//! [`crate::check`]; what an absent one means is for [`crate::resolve`].

mod egress;
mod mount;
pub(crate) mod solana;
mod text;

use crate::env::Env;
use crate::json::{Fields, Node, Path, Reader, Spanned};
use crate::model::{
    BackendChoice, EgressRule, ExecutionMode, KraftConfig, Life, Mount, OnFailure, Pool, RpcUrl,
    Workspace,
};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What the top level of a file says. `None` is "nothing".
#[derive(Clone, Debug, Default)]
pub(crate) struct Root {
    pub(crate) default_execution_mode: Option<Spanned<ExecutionMode>>,
    pub(crate) on_isolation_failure: Option<Spanned<OnFailure>>,
    pub(crate) unikernel_dir: Option<Spanned<PathBuf>>,
    pub(crate) backend: Option<Spanned<BackendChoice>>,
    pub(crate) firecracker: Option<Spanned<PathBuf>>,
    pub(crate) policy: Option<Spanned<PathBuf>>,
    pub(crate) pool: Option<Spanned<Pool>>,
    pub(crate) cid_range: Option<Spanned<RangeInclusive<u32>>>,
    pub(crate) solana: Option<Spanned<RpcUrl>>,
    pub(crate) servers: BTreeMap<String, Server>,
}

/// What one member of `mcp_servers` says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    /// Options for those of its tools that do not say otherwise.
    pub(crate) table: Table,
    pub(crate) use_microvm: Option<Spanned<bool>>,
    pub(crate) microvm_memory_mb: Option<Spanned<u32>>,
    pub(crate) microvm_vcpus: Option<Spanned<u32>>,
    pub(crate) microvm_mounts: Option<Spanned<Vec<Mount>>>,
    pub(crate) command: Option<Spanned<Vec<String>>>,
    pub(crate) life: Option<Spanned<Life>>,
    pub(crate) image: Option<Spanned<String>>,
    pub(crate) idle_secs: Option<Spanned<u32>>,
    pub(crate) ping_secs: Option<Spanned<u32>>,
    pub(crate) workspace: Option<Spanned<Workspace>>,
    pub(crate) tools: BTreeMap<String, Table>,
}

/// The options of a tool, which a server may give for all of its tools.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) execution_mode: Option<Spanned<ExecutionMode>>,
    pub(crate) on_isolation_failure: Option<Spanned<OnFailure>>,
    pub(crate) unikernel_image: Option<Spanned<String>>,
    pub(crate) memory_mb: Option<Spanned<u32>>,
    pub(crate) vcpus: Option<Spanned<u32>>,
    pub(crate) timeout_secs: Option<Spanned<u32>>,
    pub(crate) network_enabled: Option<Spanned<bool>>,
    pub(crate) egress: Option<Spanned<Vec<EgressRule>>>,
    pub(crate) mounts: Option<Spanned<Vec<Mount>>>,
    pub(crate) env_vars: Option<Spanned<Vec<(String, String)>>>,
    pub(crate) kraft_config: Option<Spanned<KraftConfig>>,
}

/// Longest `timeout_secs`, in seconds.
const MAX_TIMEOUT: u32 = 3600;
/// Longest `idle_secs`, in seconds: a week.
const MAX_IDLE: u32 = 7 * 24 * 3600;
/// Longest `ping_secs`, in seconds: an hour.
const MAX_PING: u32 = 3600;
/// What any guest may have: the narrower limits of a mode are for [`crate::check`].
const ANY_MEMORY: (u32, u32) = (16, 65_536);
const ANY_VCPUS: (u32, u32) = (1, 16);
/// VMs a pool may be asked to keep or to allow, and MiB of memory for all of them.
const MAX_POOL: u32 = 10_000;
const MAX_POOL_MEMORY: u32 = 16 << 20;

/// CIDs that guests of one call may have. Those below are of guests that live on.
const CIDS: (u32, u32) = (200, 65_535);

/// Limits of a pool whose file names none: one VM for each CID of the ephemeral range.
const DEFAULT_POOL_VMS: u32 = 100;

/// Reads the whole file.
pub(crate) fn root<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>, env: &Env) -> Option<Root> {
    let mut fields = node.fields(reader)?;
    // For editors, which find the schema of a file by this name.
    fields.take(reader, "$schema", |node, reader| node.string(reader));
    let root = Root {
        default_execution_mode: fields.take_spanned(reader, "default_execution_mode", mode),
        on_isolation_failure: fields.take_spanned(reader, "on_isolation_failure", on_failure),
        unikernel_dir: fields.take_spanned(reader, "unikernel_dir", |node, reader| {
            text::host_path(&node, reader, env)
        }),
        backend: fields.take_spanned(reader, "backend", |node, reader| {
            node.word(reader, BackendChoice::NAMES)
        }),
        firecracker: fields.take_spanned(reader, "firecracker", |node, reader| {
            text::host_path(&node, reader, env)
        }),
        policy: fields
            .take_spanned(reader, "policy", |node, reader| text::host_path(&node, reader, env)),
        pool: fields.take_spanned(reader, "pool", pool),
        cid_range: fields.take_spanned(reader, "cid_range", cid_range),
        solana: fields.take_spanned(reader, "solana", solana::solana),
        servers: fields
            .take(reader, "mcp_servers", |node, reader| {
                named(node, reader, SERVER_NAMES, |node, reader| server(node, reader, env))
            })
            .unwrap_or_default(),
    };
    fields.finish(reader);
    Some(root)
}

fn server<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>, env: &Env) -> Option<Server> {
    let mut fields = node.fields(reader)?;
    let table = table_fields(&mut fields, reader, env);
    let use_microvm = fields.take_spanned(reader, "use_microvm", |node, r| node.bool(r));
    let microvm = fields.take(reader, "microvm_config", |node, reader| {
        let mut fields = node.fields(reader)?;
        let memory_mb = fields.take_spanned(reader, "memory_mb", memory);
        let vcpus = fields.take_spanned(reader, "vcpus", vcpus);
        fields.finish(reader);
        Some((memory_mb, vcpus))
    });
    let (microvm_memory_mb, microvm_vcpus) = microvm.unwrap_or_default();
    let microvm_mounts = fields
        .take_spanned(reader, "microvm_mounts", |node, reader| mount::list(&node, reader, env));
    let command = fields.take_spanned(reader, "server_command", text::command);
    let life = fields.take_spanned(reader, "life", |node, r| node.word(r, Life::NAMES));
    let image = fields.take_spanned(reader, "image", text::image_name);
    let idle_secs = fields.take_spanned(reader, "idle_secs", |node, reader| {
        int(&node, reader, (1, MAX_IDLE), "an unused microVM is kept", "seconds")
    });
    let ping_secs = fields.take_spanned(reader, "ping_secs", |node, reader| {
        int(&node, reader, (0, MAX_PING), "a server that lives on is asked every", "seconds")
    });
    let workspace = fields
        .take_spanned(reader, "workspace", |node, reader| mount::workspace(&node, reader, env));
    let tools = fields.take(reader, "tools", |node, reader| {
        named(node, reader, TOOL_NAMES, |node, reader| tool(node, reader, env))
    });
    fields.finish(reader);
    Some(Server {
        table,
        use_microvm,
        microvm_memory_mb,
        microvm_vcpus,
        microvm_mounts,
        command,
        life,
        image,
        idle_secs,
        ping_secs,
        workspace,
        tools: tools.unwrap_or_default(),
    })
}

fn tool<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>, env: &Env) -> Option<Table> {
    let mut fields = node.fields(reader)?;
    let table = table_fields(&mut fields, reader, env);
    fields.finish(reader);
    Some(table)
}

fn table_fields<'a>(fields: &mut Fields<'a, '_>, reader: &mut Reader<'a>, env: &Env) -> Table {
    Table {
        execution_mode: fields.take_spanned(reader, "execution_mode", mode),
        on_isolation_failure: fields.take_spanned(reader, "on_isolation_failure", on_failure),
        unikernel_image: fields.take_spanned(reader, "unikernel_image", text::image_name),
        memory_mb: fields.take_spanned(reader, "memory_mb", memory),
        vcpus: fields.take_spanned(reader, "vcpus", vcpus),
        timeout_secs: fields.take_spanned(reader, "timeout_secs", |node, reader| {
            int(&node, reader, (1, MAX_TIMEOUT), "a call takes", "seconds")
        }),
        network_enabled: fields.take_spanned(reader, "network_enabled", |node, r| node.bool(r)),
        egress: fields.take_spanned(reader, "egress", egress::list),
        mounts: fields
            .take_spanned(reader, "mounts", |node, reader| mount::list(&node, reader, env)),
        env_vars: fields.take_spanned(reader, "env_vars", text::env_vars),
        kraft_config: fields.take_spanned(reader, "kraft_config", text::kraft),
    }
}

fn mode<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<ExecutionMode> {
    node.word(reader, ExecutionMode::NAMES)
}

fn on_failure<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<OnFailure> {
    node.word(reader, OnFailure::NAMES)
}

fn memory<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<u32> {
    int(&node, reader, ANY_MEMORY, "a guest takes", "MiB")
}

fn vcpus<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<u32> {
    int(&node, reader, ANY_VCPUS, "a guest takes", "vCPUs")
}

fn pool<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<Pool> {
    let mut fields = node.fields(reader)?;
    let size = fields.require(reader, "size", |node, reader| {
        int(&node, reader, (0, MAX_POOL), "a pool keeps", "VMs")
    });
    let max_vms = fields.take(reader, "max_vms", |node, reader| {
        int(&node, reader, (1, MAX_POOL), "a pool allows", "VMs")
    });
    let per_server = fields.take(reader, "max_vms_per_server", |node, reader| {
        int(&node, reader, (1, MAX_POOL), "a pool allows", "VMs")
    });
    let max_memory_mb = fields.take(reader, "max_memory_mb", |node, reader| {
        int(&node, reader, (ANY_MEMORY.0, MAX_POOL_MEMORY), "a pool takes", "MiB")
    });
    fields.finish(reader);
    let max_vms = max_vms.unwrap_or(DEFAULT_POOL_VMS);
    Some(Pool {
        size: size?,
        max_vms,
        max_vms_per_server: per_server.unwrap_or(max_vms),
        max_memory_mb,
    })
}

/// The first and the last CID.
fn cid_range<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<RangeInclusive<u32>> {
    let items = node.items(reader)?;
    let [first, last] = items.as_slice() else {
        let value = format!("{} numbers", items.len());
        node.invalid(reader, &value, "a range has two: the first and the last");
        return None;
    };
    let first = int(first, reader, CIDS, "guests of one call take", "as CID");
    let last = int(last, reader, CIDS, "guests of one call take", "as CID");
    let (first, last) = (first?, last?);
    let count = last.checked_sub(first).map(|more| more + 1);
    match count {
        None => node.invalid(reader, &format!("{first} to {last}"), "the first CID comes first"),
        Some(count) if MAX_POOL < count => {
            let reason = format!("a range has at most {MAX_POOL}");
            node.invalid(reader, &format!("{count} CIDs"), reason);
        }
        Some(_) => return Some(first..=last),
    }
    None
}

/// A whole number within limits; out of them it is "`who` least to most `unit`".
fn int<'a>(
    node: &Node<'a, '_>,
    reader: &mut Reader<'a>,
    (least, most): (u32, u32),
    who: &str,
    unit: &str,
) -> Option<u32> {
    let takes = || format!("{who} {least} to {most} {unit}");
    let number = node.integer(reader, (least.into(), most.into()), takes)?;
    u32::try_from(number).ok()
}

/// What to say of a name that is a pattern: there are none, but something else does the job.
type NoPatterns = &'static str;
const SERVER_NAMES: NoPatterns =
    "names are not patterns: `default_execution_mode` is for servers without an entry";
const TOOL_NAMES: NoPatterns =
    "names are not patterns: options beside `tools` are for every tool of the server";

/// An object whose members are named by the user: servers or tools.
fn named<'a, T>(
    node: Node<'a, '_>,
    reader: &mut Reader<'a>,
    no_patterns: NoPatterns,
    read: impl Fn(Node<'a, '_>, &mut Reader<'a>) -> Option<T>,
) -> Option<BTreeMap<String, T>> {
    let mut entries = BTreeMap::new();
    for member in node.members(reader)? {
        let path = Path::Member(&node.path, &member.name);
        if let Err(reason) = text::check_name(&member.name, no_patterns) {
            reader.bad_name(&member, &node.path, reason);
            continue;
        }
        if let Some(entry) = read(member.node(path), reader) {
            entries.insert(member.name.into_owned(), entry);
        }
    }
    Some(entries)
}
