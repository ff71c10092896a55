//! What the tests of this crate have in common: policies, guests that ask, servers that answer.

use crate::{Broker, NoSecrets, Protected, Resolver, SecretSource};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use osvm_policy::{Config, Env, Resolved};
use osvm_protocol::message::RpcError;
use osvm_runtime::{CallId, Cancel, HostRequest, HostServices as _, Reach, Trace};
use serde_json::Value;
use serde_json::value::to_raw_value;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

/// What the config says about tool `s/t`, with these egress rules.
pub(crate) fn policy(egress: &str) -> Resolved {
    resolved(&format!(r#""network_enabled": true, "egress": {egress}"#))
}

/// What the config says about tool `s/t`, with these options.
pub(crate) fn resolved(options: &str) -> Resolved {
    let config = format!(r#"{{"mcp_servers": {{"s": {{{options}}}}}}}"#);
    let env = Env::new(None, None, Some("/home/u".into())).unwrap();
    let config = Config::parse(config.as_bytes(), Path::new("config.json"), &env);
    config.unwrap_or_else(|error| panic!("{error:?}")).resolve("s", "t")
}

/// Names of the tests, and how often they were asked for. A name with several addresses has one
/// after the other.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashMap<&'static str, Vec<&'static str>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Names {
    pub(crate) fn new(known: &[(&'static str, &[&'static str])]) -> Arc<Self> {
        let known = known.iter().map(|(name, addresses)| (*name, addresses.to_vec())).collect();
        Arc::new(Self { known, asked: Mutex::default() })
    }
}

impl Resolver for Names {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut asked = self.asked.lock().unwrap();
        let before = asked.iter().filter(|other| *other == name).count();
        asked.push(name.to_owned());
        let known = self.known.get(name).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(vec![known[before.min(known.len() - 1)].parse().unwrap()])
    }
}

/// One secret, `KEY`.
pub(crate) struct OneSecret(pub(crate) &'static str);

impl std::fmt::Debug for OneSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OneSecret")
    }
}

impl SecretSource for OneSecret {
    fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
        Ok((name == "KEY").then(|| Zeroizing::new(self.0.to_owned())))
    }
}

/// A broker for which `a.test` and `b.test` are on this host.
pub(crate) fn broker(secrets: Arc<dyn SecretSource>, roots: Option<PathBuf>) -> Broker {
    let names = Names::new(&[("a.test", &["127.0.0.2"]), ("b.test", &["127.0.0.2"])]);
    new_broker(secrets).in_test(names, roots)
}

pub(crate) fn plain_broker() -> Broker {
    broker(Arc::new(NoSecrets), None)
}

pub(crate) fn new_broker(secrets: Arc<dyn SecretSource>) -> Broker {
    Broker::new(secrets, Protected::new("/home/u".into(), Vec::new()))
}

/// One call of a guest.
pub(crate) struct Guest<'a> {
    broker: &'a Broker,
    policy: Resolved,
    pub(crate) call: CallId,
    pub(crate) trace: Trace,
    pub(crate) cancel: Cancel,
    pub(crate) timeout: Duration,
}

impl<'a> Guest<'a> {
    pub(crate) fn new(broker: &'a Broker, policy: Resolved) -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let call = format!("{:026}", CALLS.fetch_add(1, Ordering::Relaxed)).parse().unwrap();
        let (trace, cancel) = (Trace::default(), Cancel::default());
        Self { broker, policy, call, trace, cancel, timeout: Duration::from_secs(30) }
    }

    pub(crate) fn with_request<T>(
        &self,
        method: &str,
        params: &Value,
        act: impl FnOnce(&HostRequest<'_>) -> T,
    ) -> T {
        let params = to_raw_value(params).unwrap();
        act(&HostRequest {
            call: self.call,
            policy: &self.policy,
            method,
            params: Some(&params),
            deadline: Instant::now() + self.timeout,
            cancel: &self.cancel,
            trace: &self.trace,
        })
    }

    pub(crate) fn ask(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let answer = self.with_request(method, &params, |request| self.broker.serve(request));
        answer.map(|answer| serde_json::from_str(answer.get()).unwrap())
    }

    /// `host/http`.
    pub(crate) fn http(&self, params: Value) -> Result<Value, RpcError> {
        self.ask("host/http", params)
    }

    /// What `host/http` is refused for.
    #[track_caller]
    pub(crate) fn refused(&self, params: Value) -> String {
        match self.http(params) {
            Ok(answer) => panic!("it was answered: {answer}"),
            Err(error) => error.message,
        }
    }

    pub(crate) fn noted(&self) -> Vec<Reach> {
        self.trace.take().0
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.broker.ended(self.call, &self.trace);
    }
}

type Handler = dyn Fn(Request<Bytes>) -> Response<Full<Bytes>> + Send + Sync;

/// A server on this host.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) connections: Arc<AtomicUsize>,
    /// Server names that clients asked for.
    pub(crate) sni: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

/// Certificates of a server, and the file with the root that signed them.
pub(crate) struct Tls {
    config: Arc<rustls::ServerConfig>,
    pub(crate) roots: PathBuf,
    _dir: tempfile::TempDir,
}

impl Tls {
    pub(crate) fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let signed = rcgen::generate_simple_self_signed(names).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let roots = dir.path().join("roots.pem");
        std::fs::write(&roots, signed.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key.into())
            .unwrap();
        Self { config: Arc::new(config), roots, _dir: dir }
    }
}

/// Starts a server, with TLS if there are certificates.
pub(crate) fn serve(
    tls: Option<&Tls>,
    handler: impl Fn(Request<Bytes>) -> Response<Full<Bytes>> + Send + Sync + 'static,
) -> Server {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("0.0.0.0:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let sni = Arc::new(Mutex::new(Vec::new()));
    let acceptor = tls.map(|tls| tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.config)));
    let handler: Arc<Handler> = Arc::new(handler);
    let (count, names) = (Arc::clone(&connections), Arc::clone(&sni));
    runtime.spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            stream.set_nodelay(true).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let (acceptor, handler, names) = (acceptor.clone(), handler.clone(), names.clone());
            tokio::spawn(async move {
                match acceptor {
                    None => talk(TokioIo::new(stream), handler).await,
                    Some(acceptor) => {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                        names.lock().unwrap().push(name);
                        talk(TokioIo::new(stream), handler).await;
                    }
                }
            });
        }
    });
    Server { port, connections, sni, _runtime: runtime }
}

async fn talk<I>(io: I, handler: Arc<Handler>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await else {
                // A body that was given up has no answer.
                return Ok(Response::new(Full::new(Bytes::from("torn"))));
            };
            Ok::<_, Infallible>(handler(Request::from_parts(head, body.to_bytes())))
        }
    });
    let _gone = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

/// A response with this body.
pub(crate) fn response(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

/// A response that sends the client elsewhere.
pub(crate) fn redirect(status: u16, location: &str) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header("location", location);
    builder.body(Full::default()).unwrap()
}
