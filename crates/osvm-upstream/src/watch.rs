//! Hearing of changed lists from a server of the new era: an open `subscriptions/listen`.
//!
//! What it hears goes to `Notice`, like what servers of the old era tell without being asked.

use crate::channel::Channel;
use crate::edit::Members;
use crate::handshake::{own_call, own_meta};
use crate::mailbox::Lost;
use crate::outgoing::Reply;
use crate::session::Session;
use crate::stop::Stop;
use crate::words::Era;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A stream that holds this long is opened anew right away.
const STEADY: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Listens for as long as the link is up, if there is something to hear.
pub(crate) fn start(server: &str, session: &Session) {
    if session.greeting.era != Era::Modern {
        return;
    }
    let Some(params) = wishes(session) else { return };
    let channel = Arc::clone(&session.channel);
    let version = session.greeting.version.clone();
    let listen = move || listen(&*channel, &params, &version);
    if let Err(error) = thread::Builder::new().name("mcp-listen".into()).spawn(listen) {
        tracing::warn!(server, %error, "changed lists will not be noticed");
    }
}

/// Parameters for what the server can tell of.
fn wishes(session: &Session) -> Option<Box<RawValue>> {
    let declared = Members::read(session.greeting.capabilities.as_deref()?)?;
    let changes = |name: &str| {
        let of = declared.get(name).and_then(Members::read);
        of.and_then(|of| of.get("listChanged").map(|told| told.get() == "true")).unwrap_or(false)
    };
    let lists = [
        ("tools", "toolsListChanged"),
        ("prompts", "promptsListChanged"),
        ("resources", "resourcesListChanged"),
    ];
    let wishes: serde_json::Map<_, _> = lists
        .into_iter()
        .filter(|(name, _)| changes(name))
        .map(|(_, wish)| (wish.to_owned(), true.into()))
        .collect();
    if wishes.is_empty() {
        return None;
    }
    serde_json::value::to_raw_value(&serde_json::json!({ "notifications": wishes })).ok()
}

fn listen(channel: &dyn Channel, params: &RawValue, version: &str) {
    let mut wait = Duration::from_secs(1);
    while channel.is_alive() {
        let since = Instant::now();
        let call = own_call("subscriptions/listen", Some(params), own_meta(Era::Modern, version));
        match channel.call(&call, since + DAY, &Stop::default()) {
            // The server has other ideas.
            Ok(Reply::Error(_)) | Err(Lost::Unauthorized(_) | Lost::Http(..)) => return,
            Ok(Reply::Result(_)) | Err(_) => {}
        }
        wait =
            if STEADY < since.elapsed() { Duration::from_secs(1) } else { wait.saturating_mul(2) };
        let until = Instant::now() + wait.min(LONGEST);
        while channel.is_alive() && Instant::now() < until {
            thread::sleep(Duration::from_millis(500));
        }
    }
}
