//! Clients over Streamable HTTP: one request, one `POST`, one response.
//!
//! ```text
//! POST /mcp ──▶ guard (host, origin, token) ──▶ body ──▶ Session::hear ──▶ JSON, or events
//! GET /mcp ──▶ events that belong to no request of a session
//! GET /healthz ──▶ ok
//! ```
//!
//! # Invariants
//!
//! - Nothing of a request is looked at before its host, origin and token were.
//! - What headers say about a stateless request is what its body says, or it is refused.
//! - A stateless request ends with its connection: its VM is killed when the client goes away.
//!   Before 2026-07-28 going away meant nothing, and a call is cancelled by a notification.
//!
//! # Not here
//!
//! - TLS. Whoever serves to other machines puts a proxy in front.
//! - Resumption of a stream that broke: what was said on it is lost, and the answer with it.

mod guard;
mod headers;
mod reply;
mod sessions;
mod token;

pub use guard::Guard;
pub(crate) use token::random_hex;
pub use token::{Token, TokenError};

use crate::client::Client;
use crate::gateway::Gateway;
use crate::lines::{Line, MAX_LINE};
use crate::listen;
use crate::message::{Common, Defect, Incoming, NoMessage, parse};
use crate::session::Session;
use crate::stdio::Stop;
use crate::words::Era;
use guard::Refusal;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming as Body};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use reply::{Owned, Reply, Shape};
use sessions::Sessions;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tracing::debug;

/// Connections at once.
const MAX_CONNECTIONS: usize = 256;

/// For how long a client may take to say what it wants.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);

/// For how long a client may take to say it.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// Where MCP is spoken.
const PATH: &str = "/mcp";

/// The header in which a session is named.
const SESSION: &str = "mcp-session-id";

/// Serves clients on `listener` until `stop`. When this returns, no call of theirs is left.
///
/// # Errors
///
/// The host can't give what a server needs.
pub fn serve_http(
    gateway: &Arc<Gateway>,
    listener: TcpListener,
    guard: Guard,
    stop: &Stop,
) -> io::Result<()> {
    let sessions = Arc::new(Sessions::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_CONNECTIONS)
        .build()?;
    let server =
        Arc::new(Server { gateway: Arc::clone(gateway), sessions: Arc::clone(&sessions), guard });
    let served = runtime.block_on(accept(server, listener, stop));
    // Connections first, so that nobody waits for a client.
    runtime.shutdown_background();
    sessions.end_all();
    served
}

async fn accept(server: Arc<Server>, listener: TcpListener, stop: &Stop) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (stopping, stopped) = oneshot::channel();
    let stop = stop.clone();
    thread::Builder::new().name("stop".into()).spawn(move || {
        stop.wait();
        let _over = stopping.send(());
    })?;
    tokio::select! {
        _ = stopped => {}
        () = accept_all(&server, &listener) => {}
    }
    Ok(())
}

async fn accept_all(server: &Arc<Server>, listener: &tokio::net::TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the client was gone already: the next one may do.
                debug!(%error, "no connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let server = Arc::clone(server);
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| answer(Arc::clone(&server), request));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                debug!(%peer, %error, "connection ended");
            }
        });
    }
}

#[derive(Debug)]
struct Server {
    gateway: Arc<Gateway>,
    sessions: Arc<Sessions>,
    guard: Guard,
}

async fn answer(
    server: Arc<Server>,
    request: Request<Body>,
) -> Result<Response<Reply>, Infallible> {
    Ok(server.answer(request).await.unwrap_or_else(|refusal| refusal.response()))
}

impl Server {
    async fn answer(&self, request: Request<Body>) -> Result<Response<Reply>, Refusal> {
        self.guard.check_names(request.headers())?;
        if request.uri().path() == "/healthz" {
            return Ok(reply::plain(StatusCode::OK, "ok\n"));
        }
        if request.uri().path() != PATH {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "MCP is spoken at `/mcp`"));
        }
        self.guard.check_token(request.headers())?;
        match *request.method() {
            Method::POST => self.post(request).await,
            Method::GET if session_id(request.headers()).is_some() => self.stream(&request),
            Method::DELETE if session_id(request.headers()).is_some() => {
                Ok(self.end_session(&request))
            }
            _ => {
                let message = "MCP is spoken by `POST`; `GET` and `DELETE` are for sessions";
                let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message);
                let mut response = refusal.response();
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                Ok(response)
            }
        }
    }

    fn end_session(&self, request: &Request<Body>) -> Response<Reply> {
        let ended = session_id(request.headers()).is_some_and(|id| self.sessions.end(id));
        let status = if ended { StatusCode::OK } else { StatusCode::NOT_FOUND };
        reply::plain(status, "")
    }

    /// The stream of a session for what belongs to none of its requests.
    fn stream(&self, request: &Request<Body>) -> Result<Response<Reply>, Refusal> {
        if !accepts_events(request.headers()) {
            let message = "a stream is `text/event-stream`, which `Accept` does not name";
            return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, message));
        }
        let session = session_id(request.headers()).and_then(|id| self.sessions.get(id));
        let over = || Refusal::new(StatusCode::NOT_FOUND, "the session is over");
        let session = session.ok_or_else(over)?;
        let there_is = || Refusal::new(StatusCode::CONFLICT, "the session has a stream");
        let stream = session.stream().ok_or_else(there_is)?;
        let (pending, outlet) = reply::channel(Shape::Events);
        let until = listen::start(&self.gateway, &session.client.listeners, &outlet);
        let owned = Owned { client: None, _stream: Some(stream), _until: Some(until) };
        Ok(pending.stream(reply::silence(), Some(owned)))
    }

    async fn post(&self, request: Request<Body>) -> Result<Response<Reply>, Refusal> {
        let of_json = |value: &HeaderValue| {
            let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
            kind.trim().eq_ignore_ascii_case("application/json")
        };
        if !request.headers().get(CONTENT_TYPE).is_some_and(of_json) {
            let message = "the body of a request is `application/json`";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let (head, body) = request.into_parts();
        let too_slow = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long");
        let body = Limited::new(body, MAX_LINE).collect();
        let body = tokio::time::timeout(BODY_WITHIN, body).await.map_err(too_slow)?;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long")
            } else {
                Refusal::new(StatusCode::BAD_REQUEST, "the body can't be read")
            }
        })?;
        let body = body.to_bytes();
        let plan = match parse(&body) {
            Err(NoMessage { id, defect }) => return Ok(reply::defect(id.as_ref(), *defect)),
            Ok(message) => match self.plan(&message, &head.headers) {
                Ok(plan) => plan,
                Err(defect) => {
                    let id =
                        if let Incoming::Request { id, .. } = &message { Some(id) } else { None };
                    return Ok(reply::defect(id, defect));
                }
            },
        };
        let (client, session) = match plan.era {
            _ if plan.initialize => {
                let no_id =
                    || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no session to be had");
                let session = self.sessions.begin(self.gateway.number()).ok_or_else(no_id)?;
                (session.client, Some(session.id))
            }
            Era::Stateless => (self.sessions.stateless(self.gateway.number()), None),
            Era::Handshake => {
                let Some(session) = session_id(&head.headers) else {
                    let message = "the request names neither a session nor a protocol version";
                    return Ok(reply::defect(plan.id.as_ref(), Defect::params(message)));
                };
                // A client that hears this begins anew.
                let unknown = || Refusal::new(StatusCode::NOT_FOUND, "the session is over");
                (self.sessions.get(session).ok_or_else(unknown)?.client, None)
            }
        };
        let mut response = self.hear(body, &plan, client).await;
        if let Some(id) = session.and_then(|id| HeaderValue::from_str(&id).ok()) {
            response.headers_mut().insert(SESSION, id);
        }
        Ok(response)
    }

    async fn hear(&self, body: Bytes, plan: &Plan, client: Arc<Client>) -> Response<Reply> {
        let (pending, outlet) = reply::channel(plan.shape);
        let until = plan.listen.then(|| listen::start(&self.gateway, &client.listeners, &outlet));
        // A stateless request ends with its connection.
        let owned = (plan.era == Era::Stateless).then(|| Owned {
            client: Some(Arc::clone(&client)),
            _stream: None,
            _until: until,
        });
        let session = Session::new(Arc::clone(&self.gateway), outlet, client);
        // What is written waits for the client, so it is written where waiting harms nobody.
        let heard = tokio::task::spawn_blocking(move || session.hear(Line::Whole(&body)));
        drop(heard);
        pending.begin(plan.era, owned).await
    }

    fn plan(&self, message: &Incoming<'_>, headers: &HeaderMap) -> Result<Plan, Defect> {
        let (id, method, params) = match message {
            Incoming::Request { id, method, params } => (Some(id.clone()), &**method, *params),
            Incoming::Notification { method, params } => (None, &**method, *params),
            Incoming::Answer { .. } => (None, "", None),
        };
        let common = Common::read(params)?;
        // First of all: which version is meant has to be certain before it is judged.
        if let Some(version) = common.version() {
            let tool = headers::name_in(params).filter(|_| method == "tools/call");
            let catalog = self.gateway.catalog();
            let listed = tool.as_ref().and_then(|tool| catalog.get(tool));
            let schema = listed.and_then(|listed| headers::schema_of(&listed.shown.modern));
            headers::check(headers, &version, method, params, schema.as_deref())?;
        }
        let era = common.era(true)?;
        let initialize = era == Era::Handshake && method == "initialize";
        let listen = era == Era::Stateless && method == "subscriptions/listen";
        let shape = if accepts_events(headers) { Shape::Any } else { Shape::Json };
        Ok(Plan { id, era, shape, initialize, listen })
    }
}

/// Whether the client takes a stream of events. Who says nothing takes everything.
fn accepts_events(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).into_iter().peekable();
    accepted.peek().is_none()
        || accepted.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).any(|kind| {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            ["text/event-stream", "text/*", "*/*"].iter().any(|k| kind.eq_ignore_ascii_case(k))
        })
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION)?.to_str().ok()
}

/// How a message is dealt with.
#[derive(Debug)]
struct Plan {
    id: Option<osvm_protocol::message::Id<'static>>,
    era: Era,
    shape: Shape,
    initialize: bool,
    listen: bool,
}
