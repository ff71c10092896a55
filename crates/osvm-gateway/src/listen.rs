//! Who is told when lists or resources have changed.
//!
//! Before 2026-07-28 every client after its handshake is told of lists without asking, and of
//! resources after `resources/subscribe`. Since then a client asks for all of it with
//! `subscriptions/listen`, a request that stays open until it is cancelled.

use crate::catalog::{Difference, List};
use crate::gateway::Gateway;
use crate::hub::{Lists, News, Update};
use crate::message::{Defect, read_params};
use crate::outlet::Outlet;
use crate::raw::{self, Object};
use crate::session::Response;
use crate::subscribe::{MAX_URIS, Wish};
use osvm_protocol::message::Id;
use rmcp::model::{ErrorCode, SubscriptionFilter};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::{debug, warn};

/// How often the images are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Subscriptions that one client may have open.
const MAX_OPEN: usize = 16;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// The wishes of one client. Clones mean the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listeners(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    handshake: bool,
    /// How often each list had changed when the client, with a handshake, asked for it last. Who
    /// never asked for a list is not told of its changes.
    seen: [Option<u64>; 3],
    /// What a client with a handshake has subscribed to, by the URI it uses.
    resources: HashMap<String, Wish>,
    open: Vec<Subscription>,
}

#[derive(Debug)]
struct Subscription {
    id: Id<'static>,
    to: Difference,
    resources: HashMap<String, Wish>,
}

/// A notification of ours; tagged where it belongs to a subscription.
#[derive(Debug, Serialize)]
struct Notification<'a, P> {
    jsonrpc: &'static str,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<P>,
}

#[derive(Debug, Serialize)]
struct Params<'a> {
    #[serde(rename = "_meta")]
    meta: Meta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notifications: Option<SubscriptionFilter>,
}

#[derive(Debug, Serialize)]
struct Meta<'a> {
    #[serde(rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: &'a Id<'a>,
}

/// `result` of a subscription that osvm ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Closed<'a> {
    result_type: &'static str,
    #[serde(rename = "_meta")]
    meta: Meta<'a>,
}

fn notification<P>(method: &str, params: Option<P>) -> Notification<'_, P> {
    Notification { jsonrpc: "2.0", method, params }
}

impl Listeners {
    /// The client has shaken hands, and is told from now on.
    pub(crate) fn shake_hands(&self) {
        self.lock().handshake = true;
    }

    /// The client is about to be shown a list, which has changed so often.
    pub(crate) fn shown(&self, list: List, lists: Lists) {
        let number = match list {
            List::Tools => 0,
            List::Prompts => 1,
            List::Resources | List::Templates => 2,
        };
        if let Some(seen) = self.lock().seen.get_mut(number) {
            *seen = lists.get(number).copied();
        }
    }

    /// A client with a handshake wants to hear of `uri`.
    pub(crate) fn subscribe(&self, uri: &str, wish: Wish) -> Result<(), Defect> {
        let mut state = self.lock();
        if MAX_URIS <= state.resources.len() {
            let message = format!("{MAX_URIS} resources are subscribed to, which is the limit");
            return Err(Defect::new(ErrorCode::INVALID_REQUEST, message));
        }
        let before = state.resources.insert(uri.to_owned(), wish);
        drop(state);
        // Out of the lock: ending a wish may end a subscription.
        drop(before);
        Ok(())
    }

    /// It does not any more.
    pub(crate) fn unsubscribe(&self, uri: &str) {
        let wish = self.lock().resources.remove(uri);
        drop(wish);
    }

    /// `subscriptions/listen`: says what is listened to, and keeps the request open.
    pub(crate) fn listen(
        &self,
        gateway: &Arc<Gateway>,
        id: &Id<'static>,
        params: Option<&RawValue>,
        outlet: &Outlet,
    ) -> Result<(), Defect> {
        #[derive(Deserialize)]
        struct Asked {
            notifications: SubscriptionFilter,
        }
        let Some(Asked { notifications }) = read_params(params)? else {
            return Err(Defect::params("`subscriptions/listen` needs `params.notifications`"));
        };
        let features = gateway.catalog().features;
        let to = Difference {
            tools: notifications.tools_list_changed == Some(true),
            prompts: notifications.prompts_list_changed == Some(true) && features.prompts,
            resources: notifications.resources_list_changed == Some(true) && features.resources,
        };
        let uris = notifications.resource_subscriptions.filter(|_| features.subscribe);
        if uris.as_ref().is_some_and(|uris| MAX_URIS < uris.len()) {
            return Err(Defect::params(format!("more than {MAX_URIS} resources at once")));
        }
        {
            let mut state = self.lock();
            if MAX_OPEN <= state.open.len() {
                let message = format!("{MAX_OPEN} subscriptions are open, which is the limit");
                return Err(Defect::new(ErrorCode::INVALID_REQUEST, message));
            }
            state.open.push(Subscription { id: id.clone(), to, resources: HashMap::new() });
        }
        let mut accepted = SubscriptionFilter::new();
        accepted.tools_list_changed = to.tools.then_some(true);
        accepted.prompts_list_changed = to.prompts.then_some(true);
        accepted.resources_list_changed = to.resources.then_some(true);
        accepted.resource_subscriptions = uris.clone();
        let meta = Meta { subscription: id };
        let params = Some(Params { meta, notifications: Some(accepted) });
        outlet.send(|| true, &notification("notifications/subscriptions/acknowledged", params));
        self.wish(gateway, id, uris.unwrap_or_default());
        Ok(())
    }

    /// Asks the servers for updates, in the background: some have to be started for it.
    fn wish(&self, gateway: &Arc<Gateway>, id: &Id<'static>, uris: Vec<String>) {
        if uris.is_empty() {
            return;
        }
        let (listeners, gateway, id) = (self.clone(), Arc::clone(gateway), id.clone());
        let run = move || {
            let catalog = gateway.catalog();
            for uri in uris {
                let Some(found) = catalog.resource(&uri) else { continue };
                match Wish::new(&gateway, found.server, &found.own) {
                    Ok(wish) => {
                        let mut state = listeners.lock();
                        match state.open.iter_mut().find(|subscription| subscription.id == id) {
                            Some(subscription) => _ = subscription.resources.insert(uri, wish),
                            // It has ended meanwhile, and with it the wish, out of the lock.
                            None => drop(state),
                        }
                    }
                    Err(refused) => debug!(uri, ?refused, "a server does not tell of a resource"),
                }
            }
        };
        if let Err(cause) = thread::Builder::new().name("subscribe".into()).spawn(run) {
            warn!(%cause, "a client will not be told of resources");
        }
    }

    /// Ends a subscription, if there is one with this id.
    pub(crate) fn cancel(&self, id: &Id<'_>) {
        let ended: Vec<Subscription> = {
            let mut state = self.lock();
            state.open.extract_if(.., |subscription| subscription.id == *id).collect()
        };
        drop(ended);
    }

    /// Ends all subscriptions in order.
    pub(crate) fn close(&self, outlet: &Outlet) {
        for Subscription { id, .. } in &self.take() {
            let meta = Meta { subscription: id };
            let closed = Closed { result_type: "complete", meta };
            outlet.answer(|| true, None, &Response::new(id, closed));
        }
    }

    /// Ends everything without a word.
    pub(crate) fn end(&self) {
        drop(self.take());
    }

    fn take(&self) -> Vec<Subscription> {
        let mut state = self.lock();
        let open = std::mem::take(&mut state.open);
        let resources = std::mem::take(&mut state.resources);
        drop(state);
        drop(resources);
        open
    }

    /// Tells whoever wants to know.
    fn tell(&self, news: &News, outlet: &Outlet) {
        let lists = [
            (news.changed.tools, "notifications/tools/list_changed"),
            (news.changed.prompts, "notifications/prompts/list_changed"),
            (news.changed.resources, "notifications/resources/list_changed"),
        ];
        for (number, (changed, method)) in lists.into_iter().enumerate() {
            if changed {
                let now = news.lists.get(number).copied();
                self.tell_of_list(number, now, method, outlet);
            }
        }
        for update in &news.updates {
            self.tell_of_resource(update, outlet);
        }
    }

    fn tell_of_list(&self, number: usize, now: Option<u64>, method: &str, outlet: &Outlet) {
        let wanted = |subscription: &&Subscription| {
            let Difference { tools, prompts, resources } = subscription.to;
            [tools, prompts, resources].get(number) == Some(&true)
        };
        let (handshake, open): (bool, Vec<Id<'static>>) = {
            let state = self.lock();
            let open = state.open.iter().filter(wanted).map(|subscription| subscription.id.clone());
            let seen = state.seen.get(number).copied().flatten();
            (state.handshake && seen.is_some() && seen < now, open.collect())
        };
        if handshake {
            outlet.send(|| true, &notification::<()>(method, None));
        }
        for id in &open {
            let params = Params { meta: Meta { subscription: id }, notifications: None };
            outlet.send(|| self.is_open(id), &notification(method, Some(params)));
        }
    }

    fn tell_of_resource(&self, update: &Update, outlet: &Outlet) {
        const METHOD: &str = "notifications/resources/updated";
        let uri = |wishes: &HashMap<String, Wish>| {
            let mut wishes = wishes.iter();
            wishes
                .find(|(_, wish)| wish.is_for(&update.server, &update.uri))
                .map(|(uri, _)| uri.clone())
        };
        let (handshake, open): (Option<String>, Vec<_>) = {
            let state = self.lock();
            let open = state.open.iter().filter_map(|s| Some((s.id.clone(), uri(&s.resources)?)));
            (uri(&state.resources), open.collect())
        };
        let params = |uri: &str| {
            let mut params = Object::read(&update.params).unwrap_or_default();
            params.set("uri", raw::to_raw(uri));
            params
        };
        if let Some(uri) = handshake {
            let wanted = || self.lock().resources.contains_key(&uri);
            outlet.send(wanted, &notification(METHOD, Some(params(&uri))));
        }
        for (id, uri) in &open {
            let mut params = params(uri);
            params.set_within("_meta", SUBSCRIPTION, raw::to_raw(id));
            outlet.send(|| self.is_open(id), &notification(METHOD, Some(params)));
        }
    }

    fn is_open(&self, id: &Id<'_>) -> bool {
        self.lock().open.iter().any(|subscription| subscription.id == *id)
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells `listeners` what changes, until the returned sender is dropped.
pub(crate) fn start(
    gateway: &Arc<Gateway>,
    listeners: &Listeners,
    outlet: &Arc<Outlet>,
) -> Sender<()> {
    let (sender, until) = mpsc::channel();
    let (gateway, listeners) = (Arc::clone(gateway), listeners.clone());
    let outlet = Arc::clone(outlet);
    // From here on, so that nothing is missed between now and the thread's first breath.
    let mut heard = gateway.hub.now();
    let watch = move || watch(&gateway, &listeners, &outlet, &mut heard, &until);
    if let Err(cause) = thread::Builder::new().name("listen".into()).spawn(watch) {
        warn!(%cause, "clients will not be told what changes");
    }
    sender
}

fn watch(
    gateway: &Gateway,
    listeners: &Listeners,
    outlet: &Outlet,
    heard: &mut crate::hub::Heard,
    until: &Receiver<()>,
) {
    loop {
        let news = gateway.hub.wait(heard, LOOK);
        if until.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        listeners.tell(&news, outlet);
        gateway.refresh();
    }
}
