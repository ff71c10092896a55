//! Streamable HTTP: every message is a POST, answered with JSON or with a stream of events.
//!
//! ```text
//! call ─▶ task: POST ─┬─ JSON ───────────────▶ Flights ─▶ Mailbox ─▶ call
//!                     └─ events ─▶ … ended before the answer? GET with Last-Event-ID (old era)
//! old era: session id, one GET stream for what belongs to no request, DELETE at the end
//! ```
//!
//! # Invariants
//!
//! - Tasks run on one small runtime of this crate; callers block on their own threads.
//! - A request that nobody waits for any more has its stream closed, which cancels it.
//! - Headers of the spec go to the endpoint's origin only: redirects to another one are not
//!   followed, and no other ones than 307 and 308, which keep the method.
//! - Bodies and events have the limit of a line.

mod exchange;
pub(crate) mod sse;

use crate::channel::{Call, Channel, no_object};
use crate::edit;
use crate::error::UpstreamError;
use crate::flights::Flights;
use crate::handshake::Greeting;
use crate::headers;
use crate::link::LaunchError;
use crate::mailbox::Lost;
use crate::notice::Notice;
use crate::outgoing::Reply;
use crate::stop::Stop;
use crate::words::Era;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, StatusCode, Url};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(20);

/// How long it may take for a message that has no answer.
const NOTE: Duration = Duration::from_secs(10);

/// Hops of a redirect.
const MAX_HOPS: usize = 5;

/// A link over HTTP.
pub(crate) struct Http {
    shared: Arc<Shared>,
    handle: Handle,
}

struct Shared {
    server: String,
    url: Url,
    client: Client,
    headers: HeaderMap,
    flights: Flights,
    notice: Arc<Notice>,
    agreed: Mutex<Agreed>,
    /// The server could not be reached, so the next request starts anew.
    broken: AtomicBool,
}

#[derive(Debug, Default)]
struct Agreed {
    version: Option<String>,
    session: Option<String>,
    listening: Option<AbortHandle>,
}

impl Http {
    /// Connects to nothing yet.
    pub(crate) fn new(
        server: &str,
        url: &str,
        headers: &[(String, String)],
        notice: &Arc<Notice>,
    ) -> Result<Arc<Self>, UpstreamError> {
        let failed = |what: String, source: Option<Box<dyn std::error::Error + Send + Sync>>| {
            let source = LaunchError::Failed { what, hint: None, source };
            UpstreamError::Start { server: server.to_owned(), source }
        };
        let shown = crate::error::shown_url(url);
        let url = Url::parse(url)
            .map_err(|error| failed(format!("`{shown}` is no URL"), Some(error.into())))?;
        let transport =
            |transport| Err(UpstreamError::Transport { server: server.to_owned(), transport });
        match url.scheme() {
            "http" | "https" => {}
            "ws" | "wss" => return transport("WebSocket"),
            _ => return transport("a URL of this kind"),
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let wrong = || failed(format!("header `{name}` is not one that HTTP allows"), None);
            let name_of = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            map.append(name_of, value);
        }
        let client =
            client().map_err(|error| failed("cannot set up HTTP".into(), Some(error.into())))?;
        let handle =
            runtime().ok_or_else(|| failed("cannot start a thread for HTTP".into(), None))?;
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            url,
            client,
            headers: map,
            flights: Flights::new(server, Arc::clone(notice)),
            notice: Arc::clone(notice),
            agreed: Mutex::default(),
            broken: AtomicBool::new(false),
        });
        Ok(Arc::new(Self { shared, handle }))
    }

    /// Sends a message that has no answer, and waits for at most `patience`.
    fn note(&self, message: String, patience: Duration) {
        let (done, ended) = mpsc::sync_channel(1);
        let shared = Arc::clone(&self.shared);
        self.handle.spawn(async move {
            shared.post(message).await;
            // Nobody may be waiting.
            let _nobody = done.try_send(());
        });
        if !patience.is_zero() {
            // It is only about the order of things.
            let _late = ended.recv_timeout(patience);
        }
    }

    /// Whether the endpoint speaks the transport of 2024-11-05.
    pub(crate) fn is_old_sse(&self) -> bool {
        let (done, ended) = mpsc::sync_channel(1);
        let shared = Arc::clone(&self.shared);
        self.handle.spawn(async move {
            let streams = tokio::time::timeout(NOTE, shared.greets_with_events()).await;
            let _nobody = done.try_send(streams.unwrap_or(false));
        });
        ended.recv_timeout(NOTE).unwrap_or(false)
    }
}

impl Channel for Http {
    fn call(&self, call: &Call<'_>, deadline: Instant, cancel: &Stop) -> Result<Reply, Lost> {
        let Self { shared, handle } = self;
        let id = shared.flights.next_id();
        let Some(edited) = edit::params(call.params, &call.meta, id) else {
            return Ok(no_object());
        };
        let body = edit::request(id, call.method, edited.text.as_deref());
        drop(edited.text);
        let flight = shared.flights.take_off(id, call.passenger(edited.token))?;
        let headers = shared.headers_of(call);
        let order =
            exchange::Order { id, era: call.meta.era, is_initialize: call.method == "initialize" };
        let task = handle.spawn(exchange::run(Arc::clone(shared), order, headers, body));
        let answer = |id: &_, outcome: Result<&_, &_>| {
            self.note(edit::answer(id, outcome), Duration::ZERO);
        };
        let ended = flight.mailbox.wait(call.relay, deadline, cancel, &answer);
        drop(flight);
        if ended.is_err() {
            task.abort();
        }
        let told = matches!(ended, Err(Lost::Cancelled | Lost::Deadline));
        if told && call.meta.era == Era::Legacy && call.can_be_cancelled() {
            let params = format!(r#"{{"requestId":{id}}}"#);
            self.notify("notifications/cancelled", Some(&params));
        }
        ended
    }

    fn notify(&self, method: &str, params: Option<&str>) {
        let first = method == "notifications/initialized";
        // What follows the handshake must come after it.
        self.note(edit::notification(method, params), if first { NOTE } else { Duration::ZERO });
        if first {
            let task = self.handle.spawn(exchange::listen(Arc::clone(&self.shared)));
            self.shared.agreed().listening = Some(task.abort_handle());
        }
    }

    fn is_alive(&self) -> bool {
        self.shared.flights.is_alive() && !self.shared.broken.load(Ordering::Relaxed)
    }

    fn in_flight(&self) -> usize {
        self.shared.flights.in_flight()
    }

    fn skipped(&self) -> u64 {
        0
    }

    fn agreed(&self, greeting: &Greeting) {
        self.shared.agreed().version = Some(greeting.version.clone());
    }

    fn is_old_transport(&self) -> bool {
        self.is_old_sse()
    }

    fn end(&self, patience: Duration) {
        self.shared.flights.end("osvm ended it");
        let mut agreed = self.shared.agreed();
        if let Some(listening) = agreed.listening.take() {
            listening.abort();
        }
        let session = agreed.session.take();
        let version = agreed.version.clone();
        drop(agreed);
        let Some(session) = session else { return };
        let (done, ended) = mpsc::sync_channel(1);
        let shared = Arc::clone(&self.shared);
        self.handle.spawn(async move {
            shared.delete(&session, version.as_deref()).await;
            let _nobody = done.try_send(());
        });
        if !patience.is_zero() {
            // A session that is left behind is the server's to forget.
            let _late = ended.recv_timeout(patience);
        }
    }
}

impl Shared {
    /// Headers of a request that its body does not have, or has too.
    fn headers_of(&self, call: &Call<'_>) -> HeaderMap {
        let mut map = self.common();
        if call.meta.era == Era::Modern {
            set(&mut map, "mcp-protocol-version", call.meta.version);
            set(&mut map, "mcp-method", call.method);
            if let Some(subject) = headers::subject(call.method, call.params) {
                set(&mut map, "mcp-name", &headers::encoded(&subject));
            }
            for (name, value) in call.headers {
                set(&mut map, name, value);
            }
        }
        map
    }

    /// Headers of every request.
    fn common(&self) -> HeaderMap {
        let mut map = self.headers.clone();
        let agreed = self.agreed();
        if let Some(version) = &agreed.version {
            set(&mut map, "mcp-protocol-version", version);
        }
        if let Some(session) = &agreed.session {
            set(&mut map, "mcp-session-id", session);
        }
        map
    }

    /// The server can't be reached.
    fn broke(&self, why: &str) {
        let first = !self.broken.swap(true, Ordering::Relaxed);
        // Before there was a handshake, the start failed, and is counted as that.
        if first && self.agreed().version.is_some() {
            self.notice.died(why);
        }
    }

    // The state is whole between any two statements.
    fn agreed(&self) -> MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("server", &self.shared.server).finish_non_exhaustive()
    }
}

fn set(map: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
        map.insert(name, value);
    }
}

fn client() -> Result<Client, reqwest::Error> {
    // Only the first one in the process is taken, and any of them will do.
    let _there_is_one = rustls::crypto::ring::default_provider().install_default();
    Client::builder().redirect(Policy::custom(redirected)).connect_timeout(CONNECT).build()
}

fn redirected(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let keeps = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
    let near = attempt.previous().iter().all(|url| url.origin() == attempt.url().origin());
    if near && keeps.contains(&attempt.status()) && attempt.previous().len() <= MAX_HOPS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// The runtime of all links of this process: one thread, started by the first link.
fn runtime() -> Option<Handle> {
    static RUNTIME: OnceLock<Option<Handle>> = OnceLock::new();
    let start = || {
        let runtime = Builder::new_current_thread().enable_all().build().ok()?;
        let handle = runtime.handle().clone();
        let run = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new().name("mcp-http".into()).spawn(run).ok()?;
        Some(handle)
    };
    RUNTIME.get_or_init(start).clone()
}
