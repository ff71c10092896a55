//! What all clients of one osvm share: the runtime, the servers, and what is known of them.

use crate::catalog::{Catalog, CatalogError, Selection};
use crate::clock::Clock;
use crate::fleet::{Asking, Fleet, Heard, Member, MemberStatus, Servers};
use crate::hub::{Hub, Update};
use crate::raw::Object;
use crate::trust::{Doubt, Keeper};
use osvm_runtime::Runtime;
use osvm_upstream::Offer;
use serde_json::value::RawValue;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// For how long after the start of osvm a client waits for servers that were never asked before.
const FIRST: Duration = Duration::from_secs(4);

/// What all clients of one osvm share.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) runtime: Runtime,
    pub(crate) fleet: Fleet,
    pub(crate) hub: Hub,
    pub(crate) clock: Clock,
    pub(crate) subscriptions: crate::subscribe::Subscriptions,
    selection: Selection,
    keeper: Keeper,
    current: RwLock<Arc<Catalog>>,
    /// What the catalog was made from; locked while it is made anew.
    known: Mutex<Known>,
    asking: Mutex<Option<Asking>>,
    settled: Condvar,
    clients: AtomicU64,
    began: Instant,
}

/// What the catalog was made from.
struct Known {
    /// Whether the images are still the ones that were read.
    unchanged: Box<dyn Fn(&Runtime) -> bool + Send + Sync>,
    offers: Vec<Option<Arc<Offer>>>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("offers", &self.offers.len()).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Serves what `selection` picks of the images' tools and of `servers`, running calls with
    /// `runtime`. Starts nothing: see [`Gateway::start`].
    ///
    /// # Errors
    ///
    /// [`CatalogError`] when an image can't be used, or what is selected is not there.
    pub fn new(
        runtime: Runtime,
        mut servers: Servers,
        selection: &Selection,
    ) -> Result<Arc<Self>, CatalogError> {
        let keeper = Keeper::new(servers.trust.take());
        let fleet = Fleet::new(servers, selection, runtime.config());
        let known = Known { unchanged: watched(&runtime), offers: offers(&fleet) };
        let catalog = Catalog::read(&runtime, &fleet, &keeper, selection)?;
        Ok(Arc::new(Self {
            runtime,
            fleet,
            hub: Hub::default(),
            clock: Clock::default(),
            subscriptions: crate::subscribe::Subscriptions::default(),
            selection: selection.clone(),
            keeper,
            current: RwLock::new(Arc::new(catalog)),
            known: Mutex::new(known),
            asking: Mutex::new(None),
            settled: Condvar::new(),
            clients: AtomicU64::new(0),
            began: Instant::now(),
        }))
    }

    /// Begins to ask the servers what they offer, in the background.
    pub fn start(self: &Arc<Self>) {
        let heard: Arc<dyn Heard> = Arc::new(Ear(Arc::downgrade(self)));
        let asking = Asking::start(&self.fleet, &self.selection, &heard);
        *self.asking.lock().unwrap_or_else(PoisonError::into_inner) = Some(asking);
    }

    /// What clients see.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the configured servers are.
    pub fn status(&self) -> Vec<MemberStatus> {
        self.fleet.status(&self.catalog())
    }

    /// The configured servers that are not asked what they offer, because no call of theirs may
    /// run here.
    pub fn not_asked(&self) -> Vec<String> {
        let all = self.fleet.members().filter(|member| self.selection.has(member.name()));
        all.filter(|member| !member.may_be_asked()).map(|member| member.name().into()).collect()
    }

    /// Waits until every server has told what it offers or failed to; `false` when `patience` was
    /// not enough.
    pub fn settle(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut known = self.lock_known();
        while !self.fleet.settled(&self.selection) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.settled.wait_timeout(known, left);
            (known, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Ends the servers, and waits until they are gone.
    pub fn shut_down(&self) {
        drop(self.asking.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.clock.end();
        self.fleet.shut_down();
    }

    /// Waits a little for servers that were never asked before, if osvm has just been started.
    pub(crate) fn settle_first(&self) {
        if self.asking.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            let left = (self.began + FIRST).saturating_duration_since(Instant::now());
            self.settle(left);
        }
    }

    /// A number for a client.
    pub(crate) fn number(&self) -> u64 {
        self.clients.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether tools come from configured servers too.
    pub(crate) fn is_mixed(&self) -> bool {
        !self.fleet.is_empty()
    }

    /// The server of that name, unless it is left out.
    pub(crate) fn member(&self, server: &str) -> Option<&Arc<Member>> {
        self.fleet.get(server).filter(|_| self.selection.has(server))
    }

    /// Why a tool of a configured server is held back, if it still is.
    pub(crate) fn doubt(&self, server: &str, tool: &str) -> Option<Doubt> {
        self.catalog().doubt(server, tool)?;
        self.refresh();
        self.catalog().doubt(server, tool)
    }

    /// Makes the catalog anew if the images or the offers of servers have changed, or what is
    /// held back may be believed by now. Tools that can't be read stay as they were: a call says
    /// then what is wrong.
    pub(crate) fn refresh(&self) {
        let mut known = self.lock_known();
        let now = offers(&self.fleet);
        let same = now.iter().zip(&known.offers).all(|pair| match pair {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (now, before) => now.is_none() && before.is_none(),
        });
        if same && !self.catalog().holds_back() && (known.unchanged)(&self.runtime) {
            return;
        }
        *known = Known { unchanged: watched(&self.runtime), offers: now };
        match Catalog::read(&self.runtime, &self.fleet, &self.keeper, &self.selection) {
            Ok(catalog) => {
                let before = self.catalog();
                let difference = before.difference(&catalog);
                let tools = catalog.tools().len();
                let now = Arc::new(catalog);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = now;
                if difference.any() {
                    info!(tools, ?difference, "what is served has changed");
                    self.hub.changed(difference);
                }
            }
            Err(error) => warn!("the tools have changed and can't be read: {error}"),
        }
    }

    // A catalog that could not be made leaves the one before in place.
    fn lock_known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Hears the servers for a gateway, as long as there is one.
struct Ear(Weak<Gateway>);

impl Heard for Ear {
    fn asked(&self) {
        if let Some(gateway) = self.0.upgrade() {
            gateway.refresh();
            drop(gateway.lock_known());
            gateway.settled.notify_all();
        }
    }

    fn updated(&self, server: &str, params: &RawValue) {
        let uri = Object::read(params).and_then(|p| p.text("uri").map(|uri| uri.into_owned()));
        let (Some(gateway), Some(uri)) = (self.0.upgrade(), uri) else { return };
        let params = params.to_owned();
        gateway.hub.updated(Update { server: server.to_owned(), uri, params });
    }
}

/// Remembers what the images look like now.
fn watched(runtime: &Runtime) -> Box<dyn Fn(&Runtime) -> bool + Send + Sync> {
    let images = runtime.config().images();
    let look = move |runtime: &Runtime| -> Vec<_> {
        images.iter().map(|name| runtime.store().stamp(name).ok()).collect()
    };
    let before = look(runtime);
    Box::new(move |runtime| look(runtime) == before)
}

fn offers(fleet: &Fleet) -> Vec<Option<Arc<Offer>>> {
    fleet.members().map(|member| member.offer()).collect()
}
