//! Clients over Streamable HTTP: one request, one `POST`, one response.
//!
//! ```text
//! POST /mcp ──▶ guard (host, origin, token) ──▶ body ──▶ Session::hear ──▶ JSON, or events
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
//! - A stream of its own for what osvm has to say (`GET`): it has nothing to say by itself, but
//!   to those who ask with `subscriptions/listen`.

mod guard;
mod reply;
mod sessions;
mod token;

pub use guard::Guard;
pub use token::{Token, TokenError};

use crate::lines::{Line, MAX_LINE};
use crate::listen;
use crate::message::{Common, Defect, Incoming, NoMessage, parse};
use crate::session::{Gateway, Session};
use crate::stdio::Stop;
use crate::words::Era;
use guard::Refusal;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming as Body};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use reply::{Reply, Shape};
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
            Method::DELETE => Ok(self.end_session(&request)),
            _ => {
                let refusal =
                    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MCP is spoken by `POST`");
                let mut response = refusal.response();
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, DELETE"));
                Ok(response)
            }
        }
    }

    fn end_session(&self, request: &Request<Body>) -> Response<Reply> {
        let ended = session_id(request).is_some_and(|id| self.sessions.end(id));
        let status = if ended { StatusCode::OK } else { StatusCode::NOT_FOUND };
        reply::plain(status, "")
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
        let session = session_id(&request).map(str::to_owned);
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
            Err(NoMessage { id, defect }) => return Ok(reply::defect(id.as_ref(), defect)),
            Ok(message) => match Plan::of(&message, &head.headers) {
                Ok(plan) => plan,
                Err(defect) => {
                    let id =
                        if let Incoming::Request { id, .. } = &message { Some(id) } else { None };
                    return Ok(reply::defect(id, defect));
                }
            },
        };
        let session = match plan.era {
            _ if plan.initialize => {
                let no_id =
                    || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no session to be had");
                self.sessions.begin().ok_or_else(no_id)?
            }
            Era::Stateless => sessions::Session {
                flights: self.sessions.stateless(),
                ..sessions::Session::default()
            },
            Era::Handshake => {
                let Some(session) = session else {
                    let message = "the request names neither a session nor a protocol version";
                    return Ok(reply::defect(plan.id.as_ref(), Defect::params(message)));
                };
                // A client that hears this begins anew.
                let unknown = || Refusal::new(StatusCode::NOT_FOUND, "the session is over");
                self.sessions.get(&session).ok_or_else(unknown)?
            }
        };
        Ok(self.hear(body, &plan, session).await)
    }

    async fn hear(&self, body: Bytes, plan: &Plan, session: sessions::Session) -> Response<Reply> {
        let sessions::Session { id, flights, listeners } = session;
        let (pending, outlet) = reply::channel(plan.shape);
        let until = plan.listen.then(|| listen::start(&self.gateway, &listeners, &outlet));
        // A stateless request has flights of its own, and they end with its connection.
        let owned = (plan.era == Era::Stateless)
            .then(|| reply::Owned { flights: flights.clone(), _until: until });
        let mut session = Session::new(Arc::clone(&self.gateway), outlet, flights, listeners);
        if plan.era == Era::Handshake {
            session.skip_handshake();
        }
        // What is written waits for the client, so it is written where waiting harms nobody.
        let heard = tokio::task::spawn_blocking(move || session.hear(Line::Whole(&body)));
        drop(heard);
        let mut response = pending.begin(plan.era, owned).await;
        if plan.initialize
            && let Ok(id) = HeaderValue::from_str(&id)
        {
            response.headers_mut().insert(SESSION, id);
        }
        response
    }
}

fn session_id(request: &Request<Body>) -> Option<&str> {
    request.headers().get(SESSION)?.to_str().ok()
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

impl Plan {
    fn of(message: &Incoming<'_>, headers: &hyper::HeaderMap) -> Result<Self, Defect> {
        let (id, method, params) = match message {
            Incoming::Request { id, method, params } => (Some(id.clone()), &**method, *params),
            Incoming::Notification { method, params } => (None, &**method, *params),
            Incoming::Answer => (None, "", None),
        };
        let common = Common::read(params)?;
        // First of all: which version is meant has to be certain before it is judged.
        if let Some(version) = common.version() {
            guard::check_headers(headers, &version, method, params)?;
        }
        let era = common.era(true)?;
        let initialize = era == Era::Handshake && method == "initialize";
        let listen = era == Era::Stateless && method == "subscriptions/listen";
        let told = common.progress_token().is_some() || listen;
        let shape = if told { Shape::Events } else { Shape::Json };
        Ok(Self { id, era, shape, initialize, listen })
    }
}
