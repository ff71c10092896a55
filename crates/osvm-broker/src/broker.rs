//! The broker itself: takes the requests of all guests, and gives each what it is served with.

use crate::dial::{Dialer, Resolver, SystemResolver};
use crate::file::{FileParams, Grants};
use crate::http::Cx;
use crate::mount::Protected;
use crate::params::{self, HttpParams, StreamParams, WriteParams};
use crate::rate::Rates;
use crate::refusal::Refusal;
use crate::rules::{self, CONNECT, Wanted};
use crate::secret::SecretSource;
use crate::session::{Begun, Session, Sessions};
use crate::target::Target;
use osvm_protocol::message::RpcError;
use osvm_runtime::{CallId, HostRequest, HostServices, Reach, Trace};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore};

/// Requests that are served at once; others wait for their turn. With pieces of 1 MiB this bounds
/// the broker's memory.
const MAX_AT_ONCE: usize = 256;

/// How a question for a name is noted, and the port of such questions.
const DNS: &str = "DNS";
const DNS_PORT: u16 = 53;

/// Threads that wait for the system's resolver.
const MAX_RESOLVERS: usize = 32;

/// Serves what guests ask of the host under `host/http` and `host/file`.
///
/// Making one costs nothing: its threads, the system's certificates and the secrets are had when the
/// first request needs them.
#[derive(Debug)]
pub struct Broker {
    secrets: Arc<dyn SecretSource>,
    protected: Protected,
    dialer: Dialer,
    rates: Rates,
    sessions: Sessions,
    turns: Semaphore,
    /// Nothing but the broker's I/O runs on it.
    runtime: OnceLock<Result<Runtime, String>>,
}

impl Broker {
    /// A broker with secrets from `secrets`, which gives no guest a mount that `protected` forbids.
    pub fn new(secrets: Arc<dyn SecretSource>, protected: Protected) -> Self {
        Self {
            secrets,
            protected,
            dialer: Dialer::new(Arc::new(SystemResolver), None),
            rates: Rates::new(),
            sessions: Sessions::default(),
            turns: Semaphore::new(MAX_AT_ONCE),
            runtime: OnceLock::new(),
        }
    }

    /// The same with another resolver and, in a PEM file, further roots to check servers with.
    #[must_use]
    pub fn with_network(self, resolver: Arc<dyn Resolver>, roots: Option<PathBuf>) -> Self {
        let mut broker = self;
        broker.dialer = Dialer::new(resolver, roots);
        broker
    }

    /// Opens a connection to `host:port` for a guest that speaks for itself, TLS for example.
    ///
    /// Allowed by a rule that lists the method `CONNECT`; addresses are checked as for requests. Only
    /// a refusal is noted: a connection is noted when it ends, by whoever copies its bytes.
    ///
    /// # Errors
    ///
    /// Why the guest does not get one.
    pub fn connect(
        &self,
        request: &HostRequest<'_>,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, Refusal> {
        let session = self.sessions.of(request.call, request.deadline);
        let cx = self.cx(&session, request);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let plain = !host.contains(['/', '@', '?', '#']);
        let target = if plain { &format!("https://{host}:{port}/") } else { "" };
        let outcome = self.wait(request, None, async {
            cx.begin(Begun { method: CONNECT.into(), port, ..Begun::default() });
            let target = Target::parse(target)?;
            cx.about(&target);
            cx.update(|begun| begun.path.clear());
            let (host, port) = (&target.host, target.port);
            let wanted = Wanted { method: CONNECT, host, port, target: None };
            let rule = rules::find(request.policy, &wanted)?;
            self.rates.take(&request.policy.server, rule, &host.to_string())?;
            let addresses = session.addresses(&self.dialer, host, port).await?;
            let stream = self.dialer.tcp(host, port, &addresses).await?.into_std();
            stream.and_then(|stream| stream.set_nonblocking(false).map(|()| stream)).map_err(
                |error| Refusal::Failed {
                    host: host.to_string(),
                    port,
                    why: crate::dial::why(&error),
                },
            )
        });
        match &outcome {
            Ok(_) => cx.forget(),
            Err(refusal) => _ = cx.settle(Some(refusal.to_string())),
        }
        outcome
    }

    /// The ports at which rules let `name` be reached, whatever method they are for. Nobody is asked
    /// for its address. Noted as a request with the method `DNS`.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn ports(&self, request: &HostRequest<'_>, name: &str) -> Result<Vec<u16>, Refusal> {
        let session = self.sessions.of(request.call, request.deadline);
        let cx = self.cx(&session, request);
        cx.begin(Begun { method: DNS.into(), port: DNS_PORT, ..Begun::default() });
        let plain = !name.contains(['/', '@', '?', '#', ':', '[']);
        let target = if plain { &format!("http://{name}:{DNS_PORT}/") } else { "" };
        let found = Target::parse(target).and_then(|target| {
            cx.about(&target);
            cx.update(|begun| begun.path.clear());
            rules::ports(request.policy, &target.host)
        });
        cx.settle(found.as_ref().err().map(Refusal::to_string));
        found
    }

    fn http(&self, request: &HostRequest<'_>) -> Result<Box<RawValue>, Refusal> {
        let session = self.sessions.of(request.call, request.deadline);
        let cx = self.cx(&session, request);
        let (method, given) = (request.method, request.params);
        let outcome = match method {
            "host/http" => params::read(method, given).and_then(|params: HttpParams<'_>| {
                let limit = params.timeout_ms.map(Duration::from_millis);
                json(&self.wait(request, limit, cx.request(&params))?)
            }),
            "host/http.write" => params::read(method, given).and_then(|params: WriteParams<'_>| {
                json(&self.wait(request, None, cx.write(&params))?)
            }),
            "host/http.read" => params::read(method, given).and_then(|params: StreamParams| {
                json(&self.wait(request, None, cx.read(&params))?)
            }),
            _ => params::read(method, given).and_then(|params: StreamParams| {
                self.wait(request, None, async { cx.close(&params) })?;
                Ok(RawValue::NULL.to_owned())
            }),
        };
        if let Err(refusal) = &outcome
            && !cx.settle(Some(refusal.to_string()))
        {
            note(request, refusal);
        }
        outcome
    }

    fn file(&self, request: &HostRequest<'_>) -> Result<Box<RawValue>, Refusal> {
        let session = self.sessions.of(request.call, request.deadline);
        let params: FileParams<'_> = params::read(request.method, request.params)
            .inspect_err(|refusal| note(request, refusal))?;
        let grants = session.grants(|| Grants::open(request.policy, &self.protected));
        json(&grants.serve(&params, request.trace)?)
    }

    fn cx<'a>(&'a self, session: &'a Session, request: &HostRequest<'a>) -> Cx<'a> {
        Cx {
            dialer: &self.dialer,
            rates: &self.rates,
            secrets: &*self.secrets,
            session,
            policy: request.policy,
            trace: request.trace,
            current: Mutex::new(None),
        }
    }

    /// Does `work` on this thread until it is done, or until nobody wants it any more.
    fn wait<T>(
        &self,
        request: &HostRequest<'_>,
        limit: Option<Duration>,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let runtime = self.runtime.get_or_init(runtime).as_ref();
        let runtime = runtime.map_err(|why| Refusal::Broken(why.clone()))?;
        let start = Instant::now();
        let own = limit.and_then(|limit| start.checked_add(limit));
        let deadline = own.map_or(request.deadline, |own| own.min(request.deadline));
        let cancelled = Arc::new(Notify::new());
        let tell = Arc::clone(&cancelled);
        let _told_until_here = request.cancel.on_cancel(move || tell.notify_one());
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancelled.notified() => Err(Refusal::Cancelled),
                outcome = async {
                    let _turn = self.turns.acquire().await;
                    work.await
                } => outcome,
                () = tokio::time::sleep_until(deadline.into()) => {
                    Err(Refusal::TimedOut(deadline.saturating_duration_since(start)))
                }
            }
        })
    }

    /// The same for tests, in which 127.0.0.2 is a public address.
    #[cfg(test)]
    pub(crate) fn in_test(mut self, resolver: Arc<dyn Resolver>, roots: Option<PathBuf>) -> Self {
        self.dialer = Dialer::new(resolver, roots).judged_by(|address| {
            let public = address == std::net::IpAddr::from([127, 0, 0, 2]);
            if public { None } else { crate::address::not_public(address) }
        });
        self
    }

    /// Calls that the broker keeps something for.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> usize {
        self.sessions.len()
    }
}

impl HostServices for Broker {
    fn serve(&self, request: &HostRequest<'_>) -> Result<Box<RawValue>, RpcError> {
        let served = match request.method {
            "host/http" | "host/http.read" | "host/http.write" | "host/http.close" => {
                self.http(request)
            }
            "host/file" => self.file(request),
            other => {
                let refusal = Refusal::Method(shown(other));
                note(request, &refusal);
                Err(refusal)
            }
        };
        served.map_err(|refusal| {
            tracing::info!(method = request.method, "refused: {refusal}");
            refusal.to_rpc()
        })
    }

    fn connect(
        &self,
        request: &HostRequest<'_>,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, RpcError> {
        Self::connect(self, request, host, port).map_err(|refusal| refusal.to_rpc())
    }

    fn ports(&self, request: &HostRequest<'_>, name: &str) -> Result<Vec<u16>, RpcError> {
        Self::ports(self, request, name).map_err(|refusal| refusal.to_rpc())
    }

    fn ended(&self, call: CallId, trace: &Trace) {
        if let Some(session) = self.sessions.remove(call) {
            session.end(trace);
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // A resolver that hangs is not waited for.
        if let Some(Ok(runtime)) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Notes what came to no request of its own: an attempt all the same.
fn note(request: &HostRequest<'_>, refusal: &Refusal) {
    let (method, refused) = (shown(request.method), refusal.to_string());
    request.trace.note(Reach::Other { method, refused });
}

fn shown(method: &str) -> String {
    method.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// One thread waits for sockets; what there is to do is done by the threads of the calls.
fn runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(MAX_RESOLVERS)
        .thread_name("osvm-broker")
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| format!("cannot start its threads: {error}"))
}

fn json(answer: &impl Serialize) -> Result<Box<RawValue>, Refusal> {
    to_raw_value(answer).map_err(|error| Refusal::Broken(error.to_string()))
}
