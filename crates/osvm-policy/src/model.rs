//! The values an isolation config can hold, as plain data.
//!
//! Every one has been checked by the time it exists outside this crate. What they mean for a
//! running guest is the runtime's and the broker's business.

use serde::{Serialize, Serializer};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where a tool call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionMode {
    /// In a unikernel made for the call.
    Unikernel,
    /// In a Linux microVM that runs the MCP server.
    #[serde(rename = "microvm")]
    MicroVm,
    /// On the host, with the user's rights.
    Direct,
}

impl ExecutionMode {
    pub(crate) const NAMES: &[(&str, Self)] =
        &[("unikernel", Self::Unikernel), ("microvm", Self::MicroVm), ("direct", Self::Direct)];

    /// The word in the config file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unikernel => "unikernel",
            Self::MicroVm => "microvm",
            Self::Direct => "direct",
        }
    }
}

impl fmt::Display for ExecutionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens when a call cannot be isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The call fails and says why.
    Deny,
    /// The call runs on the host, visibly. Only ever what the user wrote.
    Fallback,
}

impl OnFailure {
    pub(crate) const NAMES: &[(&str, Self)] = &[("deny", Self::Deny), ("fallback", Self::Fallback)];
}

/// How long the microVM of a server lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// Every call gets a copy of the warm server, which is gone after it.
    Clone,
    /// One microVM serves all calls, and keeps what they leave behind.
    Persistent,
}

impl Life {
    pub(crate) const NAMES: &[(&str, Self)] =
        &[("clone", Self::Clone), ("persistent", Self::Persistent)];

    /// The word in the config file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Persistent => "persistent",
        }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which hypervisor boots guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// The best one this host can run.
    Auto,
    /// The embedded VMM.
    Kvm,
    /// QEMU as a child process.
    Qemu,
    /// Firecracker as a child process.
    Firecracker,
}

impl BackendChoice {
    pub(crate) const NAMES: &[(&str, Self)] = &[
        ("auto", Self::Auto),
        ("kvm", Self::Kvm),
        ("qemu", Self::Qemu),
        ("firecracker", Self::Firecracker),
    ];
}

/// How many VMs are kept ready, and how much they may take in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Unused VMs kept booted for each image and memory size. 0 switches the pool off.
    pub size: u32,
    /// VMs alive at once, in use or not.
    pub max_vms: u32,
    /// VMs that may serve one MCP server at once.
    pub max_vms_per_server: u32,
    /// Guest memory of all VMs together, in MiB; `None` is no limit of its own.
    pub max_memory_mb: Option<u32>,
}

/// A host directory a guest may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Absolute path on the host, `~` already expanded.
    #[serde(serialize_with = "lossy_path")]
    pub host_path: PathBuf,
    /// Absolute path under which the guest knows it.
    pub guest_path: String,
    /// Whether the guest may only read. True unless the user wrote otherwise.
    pub readonly: bool,
}

/// What becomes of the files that a call leaves in its [`Workspace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceMode {
    /// There are none: the guest can only read.
    Ro,
    /// They are written to the host when the call is answered.
    Rw,
    /// They come back as a list and a patch, and wait until somebody applies them.
    Diff,
}

impl WorkspaceMode {
    pub(crate) const NAMES: &[(&str, Self)] =
        &[("ro", Self::Ro), ("rw", Self::Rw), ("diff", Self::Diff)];

    /// The word in the config file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ro => "ro",
            Self::Rw => "rw",
            Self::Diff => "diff",
        }
    }
}

/// A host directory of which the guest of a server gets a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workspace {
    /// Absolute path on the host, `~` already expanded.
    #[serde(serialize_with = "lossy_path")]
    pub host_path: PathBuf,
    /// Absolute path under which the guest knows it.
    pub guest_path: String,
    /// What becomes of changes. [`WorkspaceMode::Diff`] unless the user wrote otherwise.
    pub mode: WorkspaceMode,
}

// A home directory need not be UTF-8; what is serialized is for people.
pub(crate) fn lossy_path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

/// What the `kraft` backend is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KraftConfig {
    /// Unikraft runtime, a package name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Platform: `auto`, `qemu`, `fc` or `xen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plat: Option<String>,
    /// CPU architecture: `x86_64` or `arm64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
}

/// One thing the broker may do for a guest. What no rule allows is refused.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct EgressRule {
    /// Hosts the rule is about.
    pub host: HostPattern,
    /// HTTP methods, upper case.
    pub methods: Vec<String>,
    /// Paths of the URL, without the query.
    pub paths: Vec<PathPattern>,
    /// TCP ports.
    pub ports: Vec<u16>,
    /// Longest body of a request and of a response, in bytes.
    pub max_bytes: u64,
    /// Requests per minute.
    pub rate_per_minute: u32,
    /// Headers the broker adds, in name order. A value may name secrets as `${secret:NAME}`.
    #[serde(serialize_with = "header_names")]
    pub headers: Vec<(String, String)>,
}

// A value may be a credential somebody pasted, so neither logs nor explanations show it.
fn header_names<S: Serializer>(headers: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(headers.iter().map(|(name, _)| name))
}

impl fmt::Debug for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("EgressRule")
            .field("host", &self.host)
            .field("methods", &self.methods)
            .field("paths", &self.paths)
            .field("ports", &self.ports)
            .field("max_bytes", &self.max_bytes)
            .field("rate_per_minute", &self.rate_per_minute)
            .field("headers", &names)
            .finish()
    }
}

/// Where the Solana chain is asked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RpcUrl {
    /// As it is written. The query may hold a key.
    pub(crate) text: String,
    /// What a guest needs to be allowed to ask there.
    pub(crate) rule: EgressRule,
}

// The query may hold a key.
impl fmt::Debug for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcUrl").field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// Hosts an [`EgressRule`] is about. Names are lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This host.
    Name(String),
    /// Every host below this domain, but not the domain itself: `*.example.com`.
    Below(String),
    /// This address. The only way to reach a private one.
    Address(IpAddr),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Paths an [`EgressRule`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// Every path that begins with this, which ends in `/`: written `/v1/*`.
    Under(String),
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Under(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
