//! Who is told when the tools have changed.
//!
//! Before 2026-07-28 every client after its handshake is, without asking. Since then a client asks
//! with `subscriptions/listen`, a request that stays open until it is cancelled.

use crate::catalog::Catalog;
use crate::message::{Defect, read_params};
use crate::outlet::Outlet;
use crate::session::{Gateway, Response};
use osvm_protocol::message::Id;
use rmcp::model::{ErrorCode, SubscriptionFilter};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::warn;

/// How often the images are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Subscriptions that one client may have open.
const MAX_OPEN: usize = 16;

/// The wishes of one client. Clones mean the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listeners(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    handshake: bool,
    open: Vec<Subscription>,
}

#[derive(Clone, Debug)]
struct Subscription {
    id: Id<'static>,
    to_tools: bool,
}

/// A notification of ours; tagged where it belongs to a subscription.
#[derive(Debug, Serialize)]
struct Notification<'a> {
    jsonrpc: &'static str,
    method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<Params<'a>>,
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

impl Listeners {
    /// The client has shaken hands, and is told from now on.
    pub(crate) fn shake_hands(&self) {
        self.lock().handshake = true;
    }

    /// `subscriptions/listen`: says what is listened to, and keeps the request open.
    pub(crate) fn listen(
        &self,
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
        let to_tools = notifications.tools_list_changed == Some(true);
        {
            let mut state = self.lock();
            if MAX_OPEN <= state.open.len() {
                let message = format!("{MAX_OPEN} subscriptions are open, which is the limit");
                return Err(Defect::new(ErrorCode::INVALID_REQUEST, message));
            }
            state.open.push(Subscription { id: id.clone(), to_tools });
        }
        let mut accepted = SubscriptionFilter::new();
        accepted.tools_list_changed = to_tools.then_some(true);
        let meta = Meta { subscription: id };
        outlet.send(
            || true,
            &Notification {
                jsonrpc: "2.0",
                method: "notifications/subscriptions/acknowledged",
                params: Some(Params { meta, notifications: Some(accepted) }),
            },
        );
        Ok(())
    }

    /// Ends a subscription, if there is one with this id.
    pub(crate) fn cancel(&self, id: &Id<'_>) {
        self.lock().open.retain(|subscription| subscription.id != *id);
    }

    /// Ends all subscriptions in order.
    pub(crate) fn close(&self, outlet: &Outlet) {
        let open = std::mem::take(&mut self.lock().open);
        for Subscription { id, .. } in &open {
            let meta = Meta { subscription: id };
            let closed = Closed { result_type: "complete", meta };
            outlet.send(|| true, &Response::new(id, closed));
        }
    }

    /// Tells whoever wants to know that the tools have changed.
    fn tell(&self, outlet: &Outlet) {
        const METHOD: &str = "notifications/tools/list_changed";
        let (handshake, open) = {
            let state = self.lock();
            (state.handshake, state.open.clone())
        };
        if handshake {
            outlet.send(|| true, &Notification { jsonrpc: "2.0", method: METHOD, params: None });
        }
        for Subscription { id, .. } in open.iter().filter(|subscription| subscription.to_tools) {
            let still_open = || self.lock().open.iter().any(|subscription| subscription.id == *id);
            let params = Params { meta: Meta { subscription: id }, notifications: None };
            let params = Some(params);
            outlet.send(still_open, &Notification { jsonrpc: "2.0", method: METHOD, params });
        }
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells `listeners` when the tools have changed, until the returned sender is dropped.
pub(crate) fn start(
    gateway: &Arc<Gateway>,
    listeners: &Listeners,
    outlet: &Arc<Outlet>,
) -> Sender<()> {
    let (sender, until) = mpsc::channel();
    let (gateway, listeners) = (Arc::clone(gateway), listeners.clone());
    let outlet = Arc::clone(outlet);
    let watch = move || watch(&gateway, &listeners, &outlet, &until);
    if let Err(cause) = thread::Builder::new().name("tools".into()).spawn(watch) {
        warn!(%cause, "clients will not be told when the tools change");
    }
    sender
}

fn watch(gateway: &Gateway, listeners: &Listeners, outlet: &Outlet, until: &Receiver<()>) {
    let mut known: Arc<Catalog> = gateway.catalog();
    while until.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        gateway.refresh();
        let now = gateway.catalog();
        if !Arc::ptr_eq(&known, &now) {
            known = now;
            listeners.tell(outlet);
        }
    }
}
