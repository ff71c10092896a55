//! Configured servers in Linux microVMs: from an entry of the list, the isolation config and an image to
//! something that `osvm-upstream` can start.
//!
//! ```text
//! entry, config ──▶ Placed ── first use ──▶ image, kernel, hypervisor ──▶ Persistent or Cloned
//!                     └─ a Server of osvm-upstream: calls, lists, one VM or one for each request
//! ```
//!
//! # Invariants
//!
//! - Nothing is looked for before a server is needed, and it is looked for again when it was not
//!   there: an image that was built meanwhile is found, one that was built anew is another server.
//! - A server with secrets lives on or does not run: a copy would take them to the disk.
//! - What is not used for as long as the config says is ended.
//! - A server that lives on is asked whether it does, and started again, only in a process that
//!   holds it for longer than one call.
//!
//! # Not here
//!
//! - Whether a call may run: the runtime. What a microVM is: `osvm-microvm`.

mod build_line;
pub(crate) mod builder;
mod idle;
pub(crate) mod kept;
pub(crate) mod outside;

use crate::backend::{self, Wanted};
use crate::broker;
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::servers::{self, Configured, Variables};
use idle::Reaper;
use kept::Record;
use osvm_broker::{Protected, check_mount};
use osvm_image::Digest;
use osvm_image::linux::LinuxStore;
use osvm_microvm::snapshots::Snapshots;
use osvm_microvm::workspace::Pending;
use osvm_microvm::{
    Cloned, GuestFiles, Host, MicroVmError, Outside, Persistent, Recipe, Workspace,
};
use osvm_policy::{Config, Env, ExecutionMode, Life, Origin, Resolved, WorkspaceMode};
use osvm_runtime::Dirs;
use osvm_upstream::{Care, Kept, Launch, LaunchError, Link, Server, Spec, Stop, Target};
use osvm_vmm::MemoryMib;
use osvm_vmm::linux::LinuxBackend;
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a server may take to start: Python takes 20 s where guests are translated.
const START: Duration = Duration::from_secs(300);

/// How long a server may take to start and to answer its first question, before it counts as one that
/// is silent when it is asked in the new era: then its microVM is started once more.
const PROBE: Duration = Duration::from_secs(60);

/// How long a server that lives may take to answer a ping, where the config asks no oftener. Three
/// of them: a Python server starts a module in that time where guests are translated.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a server may take to end by itself.
const END: Duration = Duration::from_secs(3);

/// Starts configured servers in microVMs. Dropping it ends those that nobody uses.
#[derive(Debug)]
pub(crate) struct MicroVms {
    shared: Arc<Shared>,
    reaper: Reaper,
}

/// What all microVMs of this process share.
#[derive(Debug)]
struct Shared {
    /// `~/.osvm`.
    home: PathBuf,
    dirs: Dirs,
    cache: PathBuf,
    printer: Printer,
    /// The hypervisor that was wanted last.
    backend: Mutex<Option<(Wanted, Arc<dyn LinuxBackend>)>>,
    files: OnceLock<GuestFiles>,
}

impl MicroVms {
    /// Looks for nothing yet.
    pub(crate) fn new(context: &Context, env: &Env) -> Self {
        let shared = Shared {
            home: env.home.join(".osvm"),
            dirs: context.dirs(env),
            cache: servers::cache_dir(context, env),
            printer: context.printer,
            backend: Mutex::default(),
            files: OnceLock::new(),
        };
        Self { shared: Arc::new(shared), reaper: Reaper::default() }
    }

    /// The server as the isolation config wants it to live. In a process that lives longer than one
    /// call it is held, and `held` copies of it are kept ahead of calls.
    pub(crate) fn place(
        &self,
        context: &Context,
        config: &Config,
        configured: &Configured,
        held: Option<usize>,
    ) -> Result<InMicroVm, Failure> {
        let resolved = config.resolve(&configured.name, "");
        let written = *resolved.origins.get("memory_mb") != Origin::BuiltIn;
        let memory = written.then_some(resolved.memory_mb);
        self.place_as(context, config, configured, Wish { resolved, memory, held })
    }

    /// The server as somebody wants it to live.
    pub(crate) fn place_as(
        &self,
        context: &Context,
        config: &Config,
        configured: &Configured,
        Wish { resolved, memory, held }: Wish,
    ) -> Result<InMicroVm, Failure> {
        let env = context.env()?;
        let variables = servers::variables(configured, &broker::secrets(&env));
        let Variables { mut plain, secret } = variables?;
        plain.extend(resolved.env_vars.iter().cloned());
        let placed = Arc::new(Placed {
            protected: broker::protected(&env, config, &self.shared.dirs),
            build: build_line::of(&resolved.image, &configured.entry),
            outside: outside::of(context, &env, config, &resolved),
            wanted: context.wanted(config),
            plain,
            secret,
            memory,
            ready: held.unwrap_or_default(),
            shared: Arc::clone(&self.shared),
            state: Mutex::default(),
            used: Mutex::new(Instant::now()),
            resolved,
        });
        let idle = placed.resolved.idle;
        let launch: Arc<dyn Launch> = Arc::<Placed>::clone(&placed);
        let mut spec = Spec::new(configured.name.as_str(), Target::Launched(launch));
        (spec.probe_timeout, spec.start_timeout, spec.end_timeout) = (PROBE, START, END);
        let server = Server::new(spec, Some(self.shared.cache.clone()));
        let holds = held.is_some() && placed.resolved.life == Life::Persistent;
        let record = if holds { self.record(placed.resolved.server.as_str()) } else { None };
        let kept = if holds { keep(&server, &placed.resolved, record.clone()) } else { None };
        self.reaper.watch(&server, &placed, idle, record.as_ref());
        Ok(InMicroVm { _kept: kept, server, placed })
    }

    /// Where other processes are told of a server.
    fn record(&self, server: &str) -> Option<Arc<Record>> {
        let record = Record::new(&self.shared.dirs.run, server);
        let told =
            |error: &_| tracing::warn!(server, %error, "`microvm status` will not tell how it is");
        record.inspect_err(told).ok().map(Arc::new)
    }

    /// The hypervisor's name, if there is one here.
    pub(crate) fn backend(&self, wanted: &Wanted) -> Option<&'static str> {
        self.shared.backend(wanted).ok().map(|backend| backend.name())
    }
}

/// How a server is to live.
#[derive(Debug)]
pub(crate) struct Wish {
    /// What the isolation config says of it.
    pub(crate) resolved: Resolved,
    /// Memory of its guests in MiB, if not what the image says.
    pub(crate) memory: Option<u32>,
    /// Copies that are kept ahead of calls; nothing in a process that holds no server for longer
    /// than one call.
    pub(crate) held: Option<usize>,
}

/// Has a server that lives on asked whether it does, and started again if not.
fn keep(
    server: &Arc<Server>,
    resolved: &Resolved,
    record: Option<Arc<Record>>,
) -> Option<Arc<Kept>> {
    let interval = resolved.ping;
    let patience = interval.unwrap_or(PATIENCE).clamp(Duration::from_secs(1), PATIENCE);
    let wanted = move |facts: &_| record.as_ref().is_none_or(|record| record.is_missed(facts));
    let care = Care { interval, patience, idle: resolved.idle, wanted: Arc::new(wanted) };
    let kept = server.keep(care);
    let told = |error: &_| {
        let server = server.name();
        tracing::warn!(server, %error, "it will not be started again by itself");
    };
    kept.inspect_err(told).ok().map(Arc::new)
}

/// The servers of a gateway.
#[derive(Debug)]
pub(crate) struct Fleet {
    micro_vms: MicroVms,
    wanted: Wanted,
    servers: BTreeMap<String, InMicroVm>,
}

impl Fleet {
    /// Those of `all` that the isolation config lets run in a microVM. One that can't be used is told,
    /// and left out.
    pub(crate) fn new(context: &Context, env: &Env, config: &Config, all: &[Configured]) -> Self {
        let micro_vms = MicroVms::new(context, env);
        let ready = ready(config);
        let mut servers = BTreeMap::new();
        for configured in all.iter().filter(|server| runs_in_one(config, server)) {
            match micro_vms.place(context, config, configured, Some(ready)) {
                Ok(in_vm) => {
                    servers.insert(configured.name.clone(), in_vm);
                }
                Err(Failure { message, causes, .. }) => {
                    let chain = [vec![message], causes].concat().join(": ");
                    let name = &configured.name;
                    context.printer.note(&format!("warning: server `{name}` is left out: {chain}"));
                }
            }
        }
        Self { micro_vms, wanted: context.wanted(config), servers }
    }
}

impl osvm_gateway::MicroVms for Fleet {
    fn server(&self, name: &str) -> Option<Arc<Server>> {
        self.servers.get(name).map(|in_vm| Arc::clone(&in_vm.server))
    }

    fn backend(&self) -> Option<&'static str> {
        self.micro_vms.backend(&self.wanted)
    }
}

/// Copies that a process keeps ready which lives longer than one call.
pub(crate) fn ready(config: &Config) -> usize {
    config.pool().map_or(1, |pool| usize::try_from(pool.size).unwrap_or(1))
}

/// Whether the isolation config has some tool of a server run in a microVM.
pub(crate) fn runs_in_one(config: &Config, server: &Configured) -> bool {
    let name = server.name.as_str();
    let tools = config.servers().filter(|entry| entry.name == name).flat_map(|entry| entry.tools);
    matches!(server.entry.target, osvm_servers::Target::Stdio(_))
        && tools.chain([""]).any(|tool| config.resolve(name, tool).mode == ExecutionMode::MicroVm)
}

/// A server in microVMs.
#[derive(Clone, Debug)]
pub(crate) struct InMicroVm {
    /// Whoever looks after it. First: what it holds of the server is gone before the server is.
    _kept: Option<Arc<Kept>>,
    /// The server: asked, it starts what it needs.
    pub(crate) server: Arc<Server>,
    /// Where it lives.
    pub(crate) placed: Arc<Placed>,
}

/// Where one server lives.
#[derive(Debug)]
pub(crate) struct Placed {
    resolved: Resolved,
    /// What no guest may have.
    protected: Protected,
    /// What builds its image.
    build: String,
    outside: Option<Outside>,
    wanted: Wanted,
    plain: Vec<(String, String)>,
    secret: Vec<(String, String)>,
    memory: Option<u32>,
    ready: usize,
    shared: Arc<Shared>,
    state: Mutex<Option<Made>>,
    used: Mutex<Instant>,
}

/// What the server is started from, as long as its image is the same.
#[derive(Clone, Debug)]
struct Made {
    image: Digest,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Persistent(Arc<Persistent>),
    Cloned(Arc<Cloned>),
}

impl Shared {
    fn backend(&self, wanted: &Wanted) -> Result<Arc<dyn LinuxBackend>, LaunchError> {
        let mut last = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, backend)) = last.as_ref().filter(|(known, _)| known == wanted) {
            return Ok(Arc::clone(backend));
        }
        let linux = backend::linux(wanted, &self.dirs);
        let linux = linux.map_err(|error| cannot("no hypervisor", error.hint(), error))?;
        *last = Some((wanted.clone(), Arc::clone(&linux)));
        Ok(linux)
    }

    fn files(&self) -> Result<GuestFiles, LaunchError> {
        if let Some(files) = self.files.get() {
            return Ok(files.clone());
        }
        let dir = self.home.join("guest");
        let files = GuestFiles::load(&dir.join("vmlinux"), &dir.join("osvm-init"));
        let files = files.map_err(|error| cannot("no kernel for it", error.hint(), error))?;
        Ok(self.files.get_or_init(|| files).clone())
    }

    fn images(&self) -> LinuxStore {
        LinuxStore::new(self.home.join("images"))
    }
}

/// Where templates are kept.
pub(crate) fn snapshots(home: &Path) -> Snapshots {
    Snapshots::new(home.join(".osvm/snapshots"))
}

impl Placed {
    /// How it lives.
    pub(crate) fn life(&self) -> Life {
        self.resolved.life
    }

    /// When it was started or copied last.
    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the copies that are ready, if none was wanted for `idle`.
    fn rest(&self, idle: Duration) {
        if self.used().elapsed() < idle {
            return;
        }
        let how = self.lock().as_ref().map(|made| made.how.clone());
        if let Some(How::Cloned(cloned)) = how {
            cloned.rest();
        }
    }

    /// Has the template made, however long that takes, so that no call pays for it. Says so if it
    /// is not there yet.
    pub(crate) fn warm_up(&self, cancel: &Stop) -> Result<(), LaunchError> {
        let How::Cloned(cloned) = self.made()?.how else { return Ok(()) };
        let name = &self.resolved.server;
        let failed = |error: MicroVmError| match error {
            MicroVmError::Cancelled => LaunchError::Cancelled,
            error => cannot("no template of it", error.hint(), error),
        };
        if !cloned.has_template().map_err(failed)? {
            self.shared
                .printer
                .note(&format!("starting `{name}` once, to copy it for every call from now on"));
        }
        cloned.pool(Instant::now() + START, cancel).map(|_| ()).map_err(failed)
    }

    /// What the server is started from now.
    fn made(&self) -> Result<Made, LaunchError> {
        let store = self.shared.images();
        let name = &self.resolved.image;
        let no_image = |error: osvm_image::linux::LinuxError| {
            let missing = matches!(error, osvm_image::linux::LinuxError::NotFound { .. });
            let hint = if missing { Some(self.build.clone()) } else { error.hint() };
            cannot("no image for it", hint, error)
        };
        let (_, digest) = store.manifest(name).map_err(no_image)?;
        let mut state = self.lock();
        if let Some(made) = state.as_ref().filter(|made| made.image == digest) {
            return Ok(made.clone());
        }
        let image = store.load(name).map_err(no_image)?;
        let recipe = self.recipe(&image)?;
        let made = Made { image: image.digest, how: self.how(recipe)? };
        *state = Some(made.clone());
        Ok(made)
    }

    fn recipe(&self, image: &osvm_image::linux::LinuxImage) -> Result<Recipe, LaunchError> {
        let wrong = |error: MicroVmError| cannot("its image can't be used", error.hint(), error);
        let resolved = &self.resolved;
        let mut recipe = Recipe::of_image(&self.shared.files()?, image).map_err(wrong)?;
        recipe.name.clone_from(&resolved.server);
        if let Some(memory) = self.memory {
            recipe.memory = MemoryMib::new(memory)
                .map_err(|_| wrong(MicroVmError::Recipe("no guest has that much memory")))?;
            recipe.writable_mib = recipe.memory.mib() / 4;
        }
        if let Some((program, args)) =
            resolved.server_command.as_deref().and_then(<[_]>::split_first)
        {
            (recipe.command, recipe.args) = (program.clone(), args.to_vec());
        }
        recipe.env.retain(|(name, _)| self.plain.iter().all(|(own, _)| own != name));
        recipe.env.extend(self.plain.iter().cloned());
        recipe.secrets.clone_from(&self.secret);
        recipe.workspace = self.workspace()?;
        recipe.mounts = self.mounts()?;
        recipe.network = self.outside.is_some();
        if resolved.vcpus > 1 {
            let server = &resolved.server;
            tracing::warn!(server, option = "vcpus", "has no effect in a Linux microVM yet");
        }
        Ok(recipe)
    }

    /// The host folder that its guests get copies of.
    fn workspace(&self) -> Result<Option<Workspace>, LaunchError> {
        let Some(osvm_policy::Workspace { host_path, guest_path, mode }) = &self.resolved.workspace
        else {
            return Ok(None);
        };
        self.copied(host_path, guest_path, *mode, "workspace").map(Some)
    }

    /// Those that the config mounts: copies, too.
    fn mounts(&self) -> Result<Vec<Workspace>, LaunchError> {
        let mounts = self.resolved.mounts.iter().map(|mount| {
            let mode = if mount.readonly { WorkspaceMode::Ro } else { WorkspaceMode::Rw };
            let copied = self.copied(&mount.host_path, &mount.guest_path, mode, "mounts")?;
            Ok(Workspace { is_mount: true, ..copied })
        });
        mounts.collect()
    }

    fn copied(
        &self,
        host_path: &Path,
        guest_path: &str,
        mode: WorkspaceMode,
        option: &str,
    ) -> Result<Workspace, LaunchError> {
        let refused = check_mount(host_path, &self.protected);
        let what = format!("its {option} can't be used");
        refused.map_err(|error| cannot(&what, error.hint(), error))?;
        Ok(Workspace {
            host_path: host_path.to_owned(),
            guest_path: guest_path.to_owned(),
            mode,
            pending: pending(&self.shared.dirs),
            is_mount: false,
        })
    }

    fn how(&self, recipe: Recipe) -> Result<How, LaunchError> {
        let shared = &self.shared;
        let logs = logs(&shared.dirs);
        let private = osvm_runtime::private_dir(&logs);
        private.map_err(|error| cannot("no folder for its log", error.hint(), error))?;
        let mut host =
            Host::new(shared.backend(&self.wanted)?, shared.dirs.run.clone(), Some(logs));
        if let Some(outside) = &self.outside {
            host = host.with_outside(outside.clone());
        }
        match self.resolved.life {
            Life::Persistent => Ok(How::Persistent(Arc::new(Persistent::new(host, recipe)))),
            Life::Clone => {
                let cloned = Cloned::new(host, recipe, self.ready).map_err(|error| {
                    let server = &self.resolved.server;
                    let hint =
                        format!("`osvm mcp promote {server}` gives it a microVM that lives on");
                    cannot("it can't be copied", Some(hint), error)
                })?;
                let cloned = cloned.with_snapshots(Snapshots::new(shared.home.join("snapshots")));
                Ok(How::Cloned(Arc::new(cloned)))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Made>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where changes wait that calls made in copies of a workspace.
pub(crate) fn pending(dirs: &Dirs) -> Pending {
    Pending::new(dirs.state().join("workspaces"))
}

/// Where the consoles of persistent servers are written to.
pub(crate) fn logs(dirs: &Dirs) -> PathBuf {
    dirs.state().join("microvms")
}

impl Launch for Placed {
    fn launch(&self, deadline: Instant, cancel: &Stop) -> Result<Link, LaunchError> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let made = self.made()?;
        let mut link = match &made.how {
            How::Persistent(persistent) => persistent.launch(deadline, cancel)?,
            How::Cloned(cloned) => cloned.launch(deadline, cancel)?,
        };
        let facts = [
            ("life", Value::from(self.resolved.life.as_str())),
            ("image", Value::from(self.resolved.image.as_str())),
            ("image_digest", Value::from(made.image.to_string())),
        ];
        link.facts.extend(facts.map(|(name, value)| (name.to_owned(), value)));
        Ok(link)
    }

    fn once(&self) -> bool {
        self.resolved.life == Life::Clone
    }

    fn identity(&self) -> String {
        let Resolved { image, server_command, life, .. } = &self.resolved;
        let digest = self.shared.images().manifest(image).map(|(_, digest)| digest.hex());
        let digest = digest.unwrap_or_else(|_| "none".to_owned());
        let names: Vec<_> = self.plain.iter().map(|(name, _)| name).collect();
        format!("microvm {life} {image} {digest} {server_command:?} {names:?}")
    }
}

fn cannot(
    what: &str,
    hint: Option<String>,
    source: impl Error + Send + Sync + 'static,
) -> LaunchError {
    let what = format!("it can't run in a microVM: {what}");
    LaunchError::Failed { what, hint, source: Some(Box::new(source)) }
}
