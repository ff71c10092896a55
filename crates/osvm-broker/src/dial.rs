//! Connections: names to addresses, addresses to sockets, sockets to TLS.
//!
//! # Invariants
//!
//! - A name is resolved once in a call. Its addresses are checked and kept, and only they are
//!   connected to, so a name can't mean something else from one moment to the next.
//! - A name never leads to an address that is not public. An address that a rule lists is reached by
//!   that address.
//! - Certificates are checked against the name in the URL, the same that the rule was found for.
//!
//! # Not here
//!
//! - Proxies. Variables such as `HTTPS_PROXY` mean nothing to the broker.

use crate::address;
use crate::refusal::Refusal;
use crate::target::{Name, Origin};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For one address; the next is tried then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of a name that are kept and tried.
const MAX_ADDRESSES: usize = 8;

/// Longest text of a failure that a guest is told, in characters.
const MAX_WHY: usize = 300;

/// Finds the addresses of a name.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// All of them, the best first. May block; called off the broker's own thread.
    ///
    /// # Errors
    ///
    /// What the system said.
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// Asks the host's own resolver, as every other program does.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    }
}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    resolver: Arc<dyn Resolver>,
    extra_roots: Option<PathBuf>,
    /// Says what is wrong with an address that a name has.
    judge: fn(IpAddr) -> Option<&'static str>,
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Dialer {
    pub(crate) fn new(resolver: Arc<dyn Resolver>, extra_roots: Option<PathBuf>) -> Self {
        Self { resolver, extra_roots, judge: address::not_public, tls: OnceLock::new() }
    }

    /// The same with other addresses for public ones: tests have servers on this host only.
    #[cfg(test)]
    pub(crate) fn judged_by(self, judge: fn(IpAddr) -> Option<&'static str>) -> Self {
        Self { judge, ..self }
    }

    /// The addresses a host may be reached at.
    pub(crate) async fn addresses(&self, host: &Name, port: u16) -> Result<Vec<IpAddr>, Refusal> {
        let name = match host {
            Name::Address(address) if address::never(*address) => {
                let kind = address::not_public(*address).unwrap_or("nobody's");
                return Err(Refusal::Address { host: host.to_string(), address: *address, kind });
            }
            // Only a rule that lists the address lets a request for it come here.
            Name::Address(address) => return Ok(vec![*address]),
            Name::Dns(name) => name,
        };
        let (resolver, asked) = (Arc::clone(&self.resolver), name.clone());
        let found = tokio::task::spawn_blocking(move || resolver.resolve(&asked)).await;
        let failed = |why: String| Refusal::Failed { host: name.clone(), port, why };
        let found = found.map_err(|_| failed("the resolver failed".into()))?;
        let mut found = found.map_err(|error| failed(format!("no address: {error}")))?;
        let refused = found.iter().find_map(|a| Some((*a, (self.judge)(*a)?)));
        found.retain(|address| (self.judge)(*address).is_none());
        found.truncate(MAX_ADDRESSES);
        match (found.is_empty(), refused) {
            (false, _) => Ok(found),
            (true, Some((address, kind))) => {
                Err(Refusal::Address { host: name.clone(), address, kind })
            }
            (true, None) => Err(failed("it has no address".into())),
        }
    }

    /// A TCP connection to the first address that takes it.
    pub(crate) async fn tcp(
        &self,
        host: &Name,
        port: u16,
        addresses: &[IpAddr],
    ) -> Result<TcpStream, Refusal> {
        let failed = |why: String| Refusal::Failed { host: host.to_string(), port, why };
        let mut last = "it has no address".to_owned();
        for address in addresses {
            let connecting = TcpStream::connect(SocketAddr::new(*address, port));
            match timeout(CONNECT_TIMEOUT, connecting).await {
                Err(_) => last = format!("`{address}` does not answer"),
                Ok(Err(error)) => last = format!("cannot connect to `{address}`: {error}"),
                Ok(Ok(stream)) => {
                    // A public address of this very host leads to what listens here.
                    let own = stream.local_addr().is_ok_and(|own| own.ip() == *address);
                    if own && matches!(host, Name::Dns(_)) {
                        let kind = "an address of this host";
                        let (host, address) = (host.to_string(), *address);
                        return Err(Refusal::Address { host, address, kind });
                    }
                    let _only_slower_without = stream.set_nodelay(true);
                    return Ok(stream);
                }
            }
        }
        Err(failed(last))
    }

    /// TLS over a connection, with the name of the URL in SNI and checked in the certificate.
    pub(crate) async fn tls(
        &self,
        origin: &Origin,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Refusal> {
        let (host, port) = (origin.host.to_string(), origin.port);
        let name = match &origin.host {
            Name::Dns(name) => ServerName::try_from(name.clone()).map_err(|_| {
                let why = "its name is none that a certificate could have".into();
                Refusal::Failed { host: host.clone(), port, why }
            })?,
            Name::Address(address) => ServerName::from(*address),
        };
        // Reading the system's roots takes milliseconds, once.
        let config = self.tls.get_or_init(|| client_config(self.extra_roots.as_deref()));
        let config = config.as_ref().map_err(|why| Refusal::Broken(why.clone()))?;
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        match timeout(2 * CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                Err(Refusal::Failed { host, port, why: format!("TLS: {}", why(&error)) })
            }
            Err(_) => Err(Refusal::Failed { host, port, why: "TLS: no answer".into() }),
        }
    }
}

fn client_config(extra: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = extra {
        let cannot = |error| format!("cannot read certificates from `{}`: {error}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(cannot)? {
            let added = roots.add(certificate.map_err(cannot)?);
            added.map_err(|error| format!("bad certificate in `{}`: {error}", path.display()))?;
        }
    }
    if roots.is_empty() {
        return Err("the system has no root certificates to check servers with".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// An error and its causes on one line, fit to be shown.
pub(crate) fn why(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text.chars().take(MAX_WHY).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
