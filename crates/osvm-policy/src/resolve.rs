//! What applies to one tool: its own entry, else its server's, else the top level, else built in.
//!
//! ```text
//! tool entry ──▶ server entry ──▶ top level ──▶ built in
//!                  (in a microVM, `microvm_config` and `microvm_mounts` come first here)
//! ```
//!
//! An option is taken whole from the first level that gives it: lists and maps are not merged,
//! so `"mounts": []` in a tool's entry really means none.

mod warn;

use crate::json::Spanned;
use crate::model::{EgressRule, ExecutionMode, KraftConfig, Life, Mount, OnFailure, Workspace};
use crate::read::{self, Root, Server, Table};
use crate::source::Location;
use crate::words::member_pointer;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

pub use warn::Warning;

/// All that the config says about one tool, with nothing left open.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Name of the MCP server.
    pub server: String,
    /// Name of the tool.
    pub tool: String,
    /// Where the call runs.
    pub mode: ExecutionMode,
    /// What happens when that is not possible. [`OnFailure::Fallback`] only if the file says so.
    pub on_isolation_failure: OnFailure,
    /// Image of the unikernel, a name in the image store.
    pub unikernel_image: String,
    /// Memory of the guest, in MiB.
    pub memory_mb: u32,
    /// Virtual CPUs of the guest; 1 in a unikernel.
    pub vcpus: u32,
    /// For the whole call, boot included.
    pub timeout: Duration,
    /// Whether the broker may act for the guest, under `egress`.
    pub network_enabled: bool,
    /// What the broker may fetch; meaningless while the network is not enabled.
    pub egress: Vec<EgressRule>,
    /// Host directories the guest may see.
    pub mounts: Vec<Mount>,
    /// Variables for the guest, name and value. Together they fit a boot page, but for the one
    /// that `solana.rpc_url` adds.
    pub env_vars: Vec<(String, String)>,
    /// For the `kraft` backend.
    pub kraft_config: KraftConfig,
    /// Program and arguments that start the MCP server, if the file names them.
    pub server_command: Option<Vec<String>>,
    /// In mode `microvm`: whether every call gets a copy of the server.
    pub life: Life,
    /// In mode `microvm`: the server's Linux image, a name in the image store.
    pub image: String,
    /// In mode `microvm`: how long a microVM without calls is kept.
    pub idle: Duration,
    /// In mode `microvm`: how often a server that lives on is asked whether it does; nothing for never.
    pub ping: Option<Duration>,
    /// In mode `microvm`: the host directory of which the server's guests get copies.
    pub workspace: Option<Workspace>,
    /// What the user should know before trusting this.
    pub warnings: Vec<Warning>,
    /// Where each option comes from.
    pub origins: Origins,
}

// Variables may be credentials, so logs do not show them.
impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env_vars.iter().map(|(name, _)| name).collect();
        f.debug_struct("Resolved")
            .field("server", &self.server)
            .field("tool", &self.tool)
            .field("mode", &self.mode)
            .field("on_isolation_failure", &self.on_isolation_failure)
            .field("unikernel_image", &self.unikernel_image)
            .field("memory_mb", &self.memory_mb)
            .field("vcpus", &self.vcpus)
            .field("timeout", &self.timeout)
            .field("network_enabled", &self.network_enabled)
            .field("egress", &self.egress)
            .field("mounts", &self.mounts)
            .field("env_vars", &names)
            .field("kraft_config", &self.kraft_config)
            .field("life", &self.life)
            .field("image", &self.image)
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

/// Where the value of an option comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The file does not say.
    BuiltIn,
    /// The file says.
    File {
        /// Where.
        #[serde(flatten)]
        location: Location,
        /// In what, such as `mcp_servers.solana.memory_mb`.
        path: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in default"),
            Self::File { location, path } => write!(f, "line {} `{path}`", location.line),
        }
    }
}

/// Where each option of a [`Resolved`] comes from, by the name of the option.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<(&'static str, Origin)>);

impl Origins {
    /// The origin of one option, by its name at tool level, such as `memory_mb`.
    pub fn get(&self, option: &str) -> &Origin {
        let found = self.0.iter().find(|(name, _)| *name == option);
        found.map_or(&Origin::BuiltIn, |(_, origin)| origin)
    }

    fn location(&self, option: &str) -> Option<Location> {
        match self.get(option) {
            Origin::BuiltIn => None,
            Origin::File { location, .. } => Some(*location),
        }
    }
}

/// What the options are when nobody says anything.
pub(crate) mod built_in {
    use crate::model::{ExecutionMode, Life, OnFailure};

    pub(crate) const MODE: ExecutionMode = ExecutionMode::Unikernel;
    pub(crate) const ON_FAILURE: OnFailure = OnFailure::Deny;
    pub(crate) const IMAGE: &str = "unikraft_tool_executor";
    pub(crate) const MEMORY_MB: u32 = 128;
    /// Enough for a server in Node or Python.
    pub(crate) const MICROVM_MEMORY_MB: u32 = 256;
    pub(crate) const VCPUS: u32 = 1;
    pub(crate) const TIMEOUT_SECS: u32 = 30;
    pub(crate) const LIFE: Life = Life::Clone;
    pub(crate) const IDLE_SECS: u32 = 300;
    pub(crate) const PING_SECS: u32 = 15;
    /// The public endpoint of the main network.
    pub(crate) const SOLANA_RPC_URL: &str = "https://api.mainnet-beta.solana.com";
}

/// The entries of the file that have a say in one tool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'c> {
    pub(crate) root: &'c Root,
    pub(crate) server: Option<(&'c str, &'c Server)>,
    pub(crate) tool: Option<(&'c str, &'c Table)>,
}

/// A level of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Tool,
    Server,
    Top,
}

/// A value that the file gives, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked<'c, T> {
    pub(crate) value: &'c T,
    pub(crate) at: usize,
    pub(crate) level: Level,
    /// Way to the value from the entry of its level.
    pub(crate) name: &'static str,
}

impl<'c> Scope<'c> {
    pub(crate) fn new(root: &'c Root, server: &str, tool: &str) -> Self {
        let server =
            root.servers.get_key_value(server).map(|(name, server)| (name.as_str(), server));
        let tool = server.and_then(|(_, server)| server.tools.get_key_value(tool));
        Self { root, server, tool: tool.map(|(name, table)| (name.as_str(), table)) }
    }

    /// The mode, if the file has a say in it.
    pub(crate) fn mode(&self) -> Option<Picked<'c, ExecutionMode>> {
        let written = self.table("execution_mode", |table| table.execution_mode.as_ref());
        let use_microvm = || {
            let switch = self.server?.1.use_microvm.as_ref().filter(|switch| switch.value)?;
            Some(Picked {
                value: &ExecutionMode::MicroVm,
                at: switch.at,
                level: Level::Server,
                name: "use_microvm",
            })
        };
        written.or_else(use_microvm).or_else(|| {
            pick(Level::Top, "default_execution_mode", self.root.default_execution_mode.as_ref())
        })
    }

    pub(crate) fn on_failure(&self) -> Option<Picked<'c, OnFailure>> {
        let name = "on_isolation_failure";
        self.table(name, |table| table.on_isolation_failure.as_ref())
            .or_else(|| pick(Level::Top, name, self.root.on_isolation_failure.as_ref()))
    }

    /// Memory for a guest of that mode.
    pub(crate) fn memory_mb(&self, mode: ExecutionMode) -> Option<Picked<'c, u32>> {
        let microvm =
            self.microvm(mode, "microvm_config.memory_mb", |s| s.microvm_memory_mb.as_ref());
        self.layered("memory_mb", |table| table.memory_mb.as_ref(), microvm)
    }

    /// vCPUs for a guest of that mode.
    pub(crate) fn vcpus(&self, mode: ExecutionMode) -> Option<Picked<'c, u32>> {
        let microvm = self.microvm(mode, "microvm_config.vcpus", |s| s.microvm_vcpus.as_ref());
        self.layered("vcpus", |table| table.vcpus.as_ref(), microvm)
    }

    /// Mounts for a guest of that mode.
    pub(crate) fn mounts(&self, mode: ExecutionMode) -> Option<Picked<'c, Vec<Mount>>> {
        let microvm = self.microvm(mode, "microvm_mounts", |s| s.microvm_mounts.as_ref());
        self.layered("mounts", |table| table.mounts.as_ref(), microvm)
    }

    /// What the tool's entry says, else the server's.
    pub(crate) fn table<T>(
        &self,
        name: &'static str,
        get: impl Fn(&'c Table) -> Option<&'c Spanned<T>>,
    ) -> Option<Picked<'c, T>> {
        self.layered(name, get, None)
    }

    /// What the tool's entry says, else `between`, else the server's entry.
    fn layered<T>(
        &self,
        name: &'static str,
        get: impl Fn(&'c Table) -> Option<&'c Spanned<T>>,
        between: Option<Picked<'c, T>>,
    ) -> Option<Picked<'c, T>> {
        pick(Level::Tool, name, self.tool.and_then(|(_, table)| get(table)))
            .or(between)
            .or_else(|| pick(Level::Server, name, self.server.and_then(|(_, s)| get(&s.table))))
    }

    fn microvm<T>(
        &self,
        mode: ExecutionMode,
        name: &'static str,
        get: impl Fn(&'c Server) -> Option<&'c Spanned<T>>,
    ) -> Option<Picked<'c, T>> {
        let (_, server) = self.server.filter(|_| mode == ExecutionMode::MicroVm)?;
        pick(Level::Server, name, get(server))
    }

    /// What the server's entry says of something that its tools can't differ in.
    fn server_only<T>(
        &self,
        name: &'static str,
        get: impl Fn(&'c Server) -> Option<&'c Spanned<T>>,
    ) -> Option<Picked<'c, T>> {
        pick(Level::Server, name, self.server.and_then(|(_, server)| get(server)))
    }

    /// Where in the file `name` of the entry of `level` is, in words.
    pub(crate) fn pointer(&self, level: Level, name: &str) -> String {
        let server = |(name, _): (&str, _)| member_pointer("mcp_servers", name);
        let server = self.server.map(server).unwrap_or_default();
        match (level, self.tool) {
            (Level::Top, _) => name.to_owned(),
            (Level::Tool, Some((tool, _))) => {
                format!("{}.{name}", member_pointer(&format!("{server}.tools"), tool))
            }
            (Level::Server | Level::Tool, _) => format!("{server}.{name}"),
        }
    }

    pub(crate) fn origin<T>(
        &self,
        picked: Option<Picked<'c, T>>,
        locate: &impl Fn(usize) -> Location,
    ) -> Origin {
        picked.map_or(Origin::BuiltIn, |picked| Origin::File {
            location: locate(picked.at),
            path: self.pointer(picked.level, picked.name),
        })
    }
}

fn pick<'c, T>(
    level: Level,
    name: &'static str,
    spanned: Option<&'c Spanned<T>>,
) -> Option<Picked<'c, T>> {
    spanned.map(|Spanned { value, at }| Picked { value, at: *at, level, name })
}

/// Collects origins while values are taken.
struct Taker<'c, L> {
    scope: Scope<'c>,
    locate: L,
    origins: Vec<(&'static str, Origin)>,
}

impl<'c, L: Fn(usize) -> Location> Taker<'c, L> {
    fn take<T: Clone>(
        &mut self,
        option: &'static str,
        picked: Option<Picked<'c, T>>,
        built_in: impl FnOnce() -> T,
    ) -> T {
        let value = picked.as_ref().map_or_else(built_in, |picked| picked.value.clone());
        self.origins.push((option, self.scope.origin(picked, &self.locate)));
        value
    }
}

/// Resolves one tool. `locate` turns an offset into a place.
pub(crate) fn resolve(
    scope: Scope<'_>,
    server: &str,
    tool: &str,
    locate: impl Fn(usize) -> Location,
) -> Resolved {
    let mut taker = Taker { scope, locate, origins: Vec::new() };
    let mode = taker.take("execution_mode", scope.mode(), || built_in::MODE);
    let default_memory = match mode {
        ExecutionMode::MicroVm => built_in::MICROVM_MEMORY_MB,
        ExecutionMode::Unikernel | ExecutionMode::Direct => built_in::MEMORY_MB,
    };
    let mut resolved = Resolved {
        server: server.to_owned(),
        tool: tool.to_owned(),
        mode,
        on_isolation_failure: taker
            .take("on_isolation_failure", scope.on_failure(), || built_in::ON_FAILURE),
        unikernel_image: taker.take(
            "unikernel_image",
            scope.table("unikernel_image", |table| table.unikernel_image.as_ref()),
            || built_in::IMAGE.to_owned(),
        ),
        memory_mb: taker.take("memory_mb", scope.memory_mb(mode), || default_memory),
        vcpus: taker.take("vcpus", scope.vcpus(mode), || built_in::VCPUS),
        timeout: Duration::from_secs(u64::from(taker.take(
            "timeout_secs",
            scope.table("timeout_secs", |table| table.timeout_secs.as_ref()),
            || built_in::TIMEOUT_SECS,
        ))),
        network_enabled: taker.take(
            "network_enabled",
            scope.table("network_enabled", |table| table.network_enabled.as_ref()),
            || false,
        ),
        egress: taker.take(
            "egress",
            scope.table("egress", |table| table.egress.as_ref()),
            Vec::new,
        ),
        mounts: taker.take("mounts", scope.mounts(mode), Vec::new),
        env_vars: taker.take(
            "env_vars",
            scope.table("env_vars", |table| table.env_vars.as_ref()),
            Vec::new,
        ),
        kraft_config: taker.take(
            "kraft_config",
            scope.table("kraft_config", |table| table.kraft_config.as_ref()),
            KraftConfig::default,
        ),
        server_command: None,
        life: taker.take("life", scope.server_only("life", |s| s.life.as_ref()), || built_in::LIFE),
        image: taker
            .take("image", scope.server_only("image", |s| s.image.as_ref()), || server.to_owned()),
        idle: Duration::from_secs(u64::from(taker.take(
            "idle_secs",
            scope.server_only("idle_secs", |s| s.idle_secs.as_ref()),
            || built_in::IDLE_SECS,
        ))),
        ping: ping(scope, &mut taker),
        workspace: None,
        warnings: Vec::new(),
        origins: Origins::default(),
    };
    if let Some(command) = scope.server_only("server_command", |s| s.command.as_ref()) {
        resolved.server_command = Some(taker.take("server_command", Some(command), Vec::new));
    }
    if let Some(workspace) = scope.server_only("workspace", |s| s.workspace.as_ref()) {
        let missing = || workspace.value.clone();
        resolved.workspace = Some(taker.take("workspace", Some(workspace), missing));
    }
    solana(scope, &mut resolved, &mut taker);
    resolved.origins = Origins(taker.origins);
    resolved.warnings = warn::warnings(scope, &resolved, &taker.locate);
    resolved
}

/// How often a server that lives on is asked; 0 is never.
fn ping<'c, L: Fn(usize) -> Location>(
    scope: Scope<'c>,
    taker: &mut Taker<'c, L>,
) -> Option<Duration> {
    let picked = scope.server_only("ping_secs", |server| server.ping_secs.as_ref());
    let seconds = taker.take("ping_secs", picked, || built_in::PING_SECS);
    (0 < seconds).then(|| Duration::from_secs(u64::from(seconds)))
}

/// A tool that asks the Solana chain, and may use the network, is told where the chain is, and may
/// reach it. What the file says of `egress` and of the variable comes first.
fn solana<L: Fn(usize) -> Location>(
    scope: Scope<'_>,
    resolved: &mut Resolved,
    taker: &mut Taker<'_, L>,
) {
    if !resolved.network_enabled || !SOLANA_SERVERS.contains(&resolved.server.as_str()) {
        return;
    }
    let picked = pick(Level::Top, "solana", scope.root.solana.as_ref());
    let url = picked.as_ref().map(|picked| picked.value.clone());
    let origin = scope.origin(picked, &taker.locate);
    let Some(url) = url.or_else(|| read::solana::parse(built_in::SOLANA_RPC_URL).ok()) else {
        return;
    };
    let mut says = |option: &str| {
        let of_option = taker.origins.iter_mut().find(|(name, _)| *name == option);
        if let Some((_, of_option)) = of_option {
            *of_option = origin.clone();
        }
    };
    if scope.table("egress", |table| table.egress.as_ref()).is_none() {
        resolved.egress.push(url.rule);
        says("egress");
    }
    if resolved.env_vars.iter().all(|(name, _)| name != SOLANA_VARIABLE) {
        if resolved.env_vars.is_empty() {
            says("env_vars");
        }
        resolved.env_vars.push((SOLANA_VARIABLE.into(), url.text));
    }
}

/// Servers whose tools ask the Solana chain.
const SOLANA_SERVERS: [&str; 2] = ["solana", "osvm-mcp"];

/// How they are told where it is.
const SOLANA_VARIABLE: &str = "SOLANA_RPC_URL";

#[cfg(test)]
mod tests;
