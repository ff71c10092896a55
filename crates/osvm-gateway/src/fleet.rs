//! The configured servers: which of them may be asked what they offer, and when they are.
//!
//! ```text
//! start ──▶ one thread for each server ──▶ asks, up to MAX_ASKED at once ──▶ the catalog is made anew
//!              ▲ the server says that a list has changed; or the last try failed a while ago
//! ```
//!
//! # Invariants
//!
//! - No process is started for a list unless the isolation config lets some call of that server
//!   run in one. What such a server offered before is shown from the cache all the same.
//! - What one server does keeps no other waiting.

use crate::catalog::{Catalog, Selection};
use crate::trust::Trust;
use osvm_policy::{Config, ExecutionMode};
use osvm_runtime::{RunMode, Site};
use osvm_upstream::{Event, Offer, Server, ServerStatus};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// Servers that are asked what they offer at the same time.
const MAX_ASKED: usize = 8;

/// Longest a server may take to tell what it offers.
const LISTING: Duration = Duration::from_secs(90);

/// Between a failed try and the next; doubled each time.
const RETRY: Duration = Duration::from_secs(5);

/// Longest time between two tries.
const MAX_RETRY: Duration = Duration::from_secs(300);

/// What a server offered last is shown before it is started: so long clients come first.
const HEAD_START: Duration = Duration::from_millis(100);

/// A server that says again and again that its lists have changed is asked this often.
const CALM: Duration = Duration::from_millis(100);

/// Runs servers in microVMs.
pub trait MicroVms: fmt::Debug + Send + Sync {
    /// The server called `name`, in a microVM; `None` where it can't be had.
    fn server(&self, name: &str) -> Option<Arc<Server>>;

    /// The hypervisor they run under, if there is one here.
    fn backend(&self) -> Option<&'static str>;
}

/// A configured server.
#[derive(Debug)]
pub struct Configured {
    /// What the user calls it.
    pub name: String,
    /// The server; of a program, the one that runs on this host. `None` for one that only a
    /// microVM can run.
    pub server: Option<Arc<Server>>,
    /// Where it is.
    pub site: Site,
}

/// What stands behind the gateway besides images. Nothing, unless it says otherwise.
#[derive(Debug, Default)]
pub struct Servers {
    /// The servers that are enabled.
    pub configured: Vec<Configured>,
    /// Servers of images that are not served.
    pub hidden: BTreeSet<String>,
    /// What runs programs in microVMs.
    pub micro_vms: Option<Arc<dyn MicroVms>>,
    /// Who knows which definitions of tools are believed; without it, all are.
    pub trust: Option<Arc<dyn Trust>>,
}

/// How a configured server is, in one of the places where it may run.
#[derive(Clone, Debug, Serialize)]
pub struct MemberStatus {
    /// Where that is.
    pub mode: &'static str,
    /// Tools that are held back because their definition is not believed.
    pub held_back: Vec<String>,
    /// How it is.
    #[serde(flatten)]
    pub server: ServerStatus,
}

/// All configured servers.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    members: Vec<Arc<Member>>,
    hidden: BTreeSet<String>,
}

/// One configured server.
#[derive(Debug)]
pub(crate) struct Member {
    name: String,
    host: Option<Arc<Server>>,
    micro_vm: Option<Arc<Server>>,
    /// The hypervisor of `micro_vm`.
    backend: Option<&'static str>,
    site: Site,
    /// Where it may run to be asked for lists, prompts and resources.
    place: Option<RunMode>,
    /// Whether it has been asked since osvm started.
    asked: Mutex<bool>,
}

impl Member {
    fn new(configured: Configured, micro_vms: Option<&Arc<dyn MicroVms>>, config: &Config) -> Self {
        let Configured { name, server: host, site } = configured;
        let micro_vm = micro_vms
            .filter(|_| site == Site::Process)
            .and_then(|micro_vms| micro_vms.server(&name));
        let modes = modes(config, &name);
        let place = match site {
            Site::Remote => Some(RunMode::Remote),
            Site::Process if modes.contains(&ExecutionMode::MicroVm) && micro_vm.is_some() => {
                Some(RunMode::MicroVm)
            }
            Site::Process => (modes.contains(&ExecutionMode::Direct) && host.is_some())
                .then_some(RunMode::Direct),
        };
        let backend = micro_vms.and_then(|micro_vms| micro_vms.backend());
        Self { name, host, micro_vm, backend, site, place, asked: Mutex::new(place.is_none()) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The hypervisor under which it runs in that place.
    pub(crate) fn backend(&self, place: RunMode) -> Option<&'static str> {
        self.backend.filter(|_| place == RunMode::MicroVm)
    }

    pub(crate) fn site(&self) -> Site {
        self.site
    }

    /// Whether it may run, or be reached, to be asked what it offers.
    pub(crate) fn may_be_asked(&self) -> bool {
        self.place.is_some()
    }

    /// The server in that place, if there is one.
    pub(crate) fn at(&self, place: RunMode) -> Option<&Arc<Server>> {
        match place {
            RunMode::MicroVm => self.micro_vm.as_ref(),
            RunMode::Direct | RunMode::Remote => self.host.as_ref(),
            RunMode::Unikernel => None,
        }
    }

    /// The server to ask for lists, prompts and resources.
    pub(crate) fn to_ask(&self) -> Option<&Arc<Server>> {
        self.at(self.place?)
    }

    /// What it offers, as far as that is known.
    pub(crate) fn offer(&self) -> Option<Arc<Offer>> {
        self.to_ask().into_iter().chain(self.servers()).find_map(|server| server.offer())
    }

    /// Where a call of that tool runs.
    pub(crate) fn place(&self, config: &Config, tool: &str) -> RunMode {
        match self.site {
            Site::Remote => RunMode::Remote,
            Site::Process => RunMode::from(config.resolve(self.name(), tool).mode),
        }
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.host.iter().chain(&self.micro_vm)
    }

    /// Whether what it offers is known, or was tried to be.
    fn settled(&self) -> bool {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) || self.offer().is_some()
    }
}

/// Every mode in which the config lets some tool of a server run.
fn modes(config: &Config, server: &str) -> Vec<ExecutionMode> {
    let tools = config.servers().filter(|entry| entry.name == server).flat_map(|e| e.tools);
    let named = tools.map(|tool| config.resolve(server, tool).mode);
    named.chain([config.resolve(server, "").mode]).collect()
}

impl Fleet {
    pub(crate) fn new(servers: Servers, selection: &Selection, config: &Config) -> Self {
        let Servers { configured, hidden, micro_vms, trust: _ } = servers;
        let mut members: Vec<_> = configured
            .into_iter()
            .map(|server| Arc::new(Member::new(server, micro_vms.as_ref(), config)))
            .collect();
        members.sort_by(|a, b| a.name().cmp(b.name()));
        members.dedup_by(|a, b| a.name() == b.name());
        for member in members.iter().filter(|member| selection.has(member.name())) {
            if member.to_ask().is_none() {
                warn!(
                    server = member.name(),
                    "not started to be asked for its tools: no call of it may run on this host"
                );
            }
        }
        Self { members, hidden }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// In the order of their names.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Member>> + Clone {
        self.members.iter()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Member>> {
        let at = self.members.binary_search_by(|member| member.name().cmp(name)).ok()?;
        self.members.get(at)
    }

    /// Whether the tools that images have for that server are not served: it is hidden, or the
    /// user has configured another one under its name.
    pub(crate) fn replaces(&self, server: &str) -> bool {
        self.hidden.contains(server) || self.get(server).is_some()
    }

    /// Whether what all servers offer is known, or was tried to be.
    pub(crate) fn settled(&self, selection: &Selection) -> bool {
        self.members().filter(|member| selection.has(member.name())).all(|member| member.settled())
    }

    /// How they are, in every place where they may run.
    pub(crate) fn status(&self, catalog: &Catalog) -> Vec<MemberStatus> {
        let of = |member: &Arc<Member>| {
            let host = match member.site() {
                Site::Process => RunMode::Direct,
                Site::Remote => RunMode::Remote,
            };
            let places = [(host, &member.host), (RunMode::MicroVm, &member.micro_vm)];
            let held_back = catalog.held_of(member.name());
            let status = |(mode, server): (RunMode, &Option<Arc<Server>>)| {
                let (server, held_back) = (server.as_ref()?.status(), held_back.clone());
                Some(MemberStatus { mode: mode.as_str(), held_back, server })
            };
            places.into_iter().filter_map(status).collect::<Vec<_>>()
        };
        self.members().flat_map(of).collect()
    }

    /// Ends all of them at once, and waits until they are gone.
    pub(crate) fn shut_down(&self) {
        thread::scope(|scope| {
            for server in self.members().flat_map(|member| member.servers()) {
                scope.spawn(|| server.shut_down());
            }
        });
    }
}

/// Asks servers in the background. Dropping it ends that.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    wake: Vec<Sender<Wake>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Changed,
    End,
}

impl Drop for Asking {
    fn drop(&mut self) {
        for wake in &self.wake {
            let _ended = wake.send(Wake::End);
        }
    }
}

/// What is done when something is known anew.
pub(crate) trait Heard: Send + Sync {
    /// A server has told what it offers, or can't be asked.
    fn asked(&self);

    /// A resource of a server has changed: parameters of `notifications/resources/updated`.
    fn updated(&self, server: &str, params: &serde_json::value::RawValue);
}

impl Asking {
    /// Begins to ask all servers that may be asked.
    pub(crate) fn start(fleet: &Fleet, selection: &Selection, heard: &Arc<dyn Heard>) -> Self {
        let places = Arc::new(Places::new());
        let mut wake = Vec::new();
        for member in fleet.members().filter(|member| selection.has(member.name())) {
            let Some(server) = member.to_ask().cloned() else { continue };
            let (send, woken) = mpsc::channel();
            listen(&server, &send, heard);
            wake.push(send);
            let (heard, places) = (Arc::clone(heard), Arc::clone(&places));
            let member = Arc::clone(member);
            let run = move || ask(&member, &server, &woken, &places, &*heard);
            if let Err(cause) = thread::Builder::new().name("lists".into()).spawn(run) {
                warn!(%cause, "a server can't be asked what it offers");
            }
        }
        Self { wake }
    }
}

fn listen(server: &Arc<Server>, wake: &Sender<Wake>, heard: &Arc<dyn Heard>) {
    let (wake, heard) = (wake.clone(), Arc::downgrade(heard));
    let name = server.name().to_owned();
    server.listen(move |event| match event {
        Event::ToolsChanged | Event::PromptsChanged | Event::ResourcesChanged => {
            let _ended = wake.send(Wake::Changed);
        }
        Event::ResourceUpdated(params) => {
            if let Some(heard) = heard.upgrade() {
                heard.updated(&name, params);
            }
        }
    });
}

fn ask(
    member: &Member,
    server: &Server,
    woken: &Receiver<Wake>,
    places: &Places,
    heard: &dyn Heard,
) {
    let mut retry = RETRY;
    if member.offer().is_some() {
        match woken.recv_timeout(HEAD_START) {
            Ok(Wake::End) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Wake::Changed) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
    loop {
        let place = places.take();
        let asked = server.refresh(Instant::now() + LISTING);
        drop(place);
        let again = match &asked {
            Ok(offer) => {
                let tools = offer.tools.len();
                debug!(server = server.name(), tools, "told what it offers");
                retry = RETRY;
                None
            }
            Err(error) => {
                info!(server = server.name(), "can't be asked what it offers: {error}");
                retry = (retry * 2).min(MAX_RETRY);
                Some(retry)
            }
        };
        *member.asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        heard.asked();
        let next = match again {
            None => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(again) => woken.recv_timeout(again),
        };
        match next {
            Ok(Wake::Changed) => thread::sleep(CALM),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Wake::End) | Err(RecvTimeoutError::Disconnected) => return,
        }
        // Several changes are told of at once, and asked for once.
        while let Ok(wake) = woken.try_recv() {
            if wake == Wake::End {
                return;
            }
        }
    }
}

/// Places for those that are asked at the same time.
#[derive(Debug)]
struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

/// One of them; free again when this is dropped.
struct Place<'a>(&'a Places);

impl Places {
    fn new() -> Self {
        Self { free: Mutex::new(MAX_ASKED), freed: Condvar::new() }
    }

    fn take(&self) -> Place<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.freed.wait_while(free, |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Place(self)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
