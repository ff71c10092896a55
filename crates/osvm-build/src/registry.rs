//! The package registry that npm is set up to use, as a guest has to know it.

use crate::error::BuildError;
use crate::jail::Yard;
use crate::node;
use std::path::PathBuf;

/// Longest list of certificates, in bytes.
const MAX_CERTIFICATES: u64 = 4 << 20;

/// Where the host keeps the certificates of those it trusts.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A package registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Its address, with a slash at its end, without credentials.
    pub url: String,
    /// Its host name or address, without brackets.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Whether it is asked over TLS.
    pub tls: bool,
    /// Whom it may prove itself by: certificates in PEM.
    pub certificates: Vec<u8>,
}

impl Registry {
    /// Host and port, for people.
    pub(crate) fn origin(&self) -> String {
        let host = &self.host;
        if host.contains(':') {
            format!("[{host}]:{}", self.port)
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Reads an address as npm has it.
    fn parse(url: &str) -> Result<Self, BuildError> {
        let shown = url.split('@').next_back().unwrap_or_default().escape_debug();
        let bad = || BuildError::refused(format!("npm's registry `{shown}`"), "it is no address");
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(bad()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // Credentials are npm's on the host, and nobody's in the guest.
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let (host, port) = match authority.strip_prefix('[') {
            Some(inside) => {
                let (host, after) = inside.split_once(']').ok_or_else(bad)?;
                (host, after.strip_prefix(':'))
            }
            None => authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p))),
        };
        // In a guest this name is the guest itself.
        let host = if host == "localhost" { "127.0.0.1" } else { host };
        let port = match port {
            Some(port) => port.parse().map_err(|_| bad())?,
            None if tls => 443,
            None => 80,
        };
        let plain = |c: char| c.is_ascii_graphic() && !"\"'\\<>{}*".contains(c);
        if host.is_empty() || !host.chars().chain(path.chars()).all(plain) {
            return Err(bad());
        }
        let mut registry =
            Self { url: String::new(), host: host.into(), port, tls, certificates: Vec::new() };
        let scheme = if tls { "https" } else { "http" };
        let slash = if path.is_empty() || path.ends_with('/') { "" } else { "/" };
        registry.url = format!("{scheme}://{}/{path}{slash}", registry.origin());
        Ok(registry)
    }
}

/// The registry that npm uses for this build, and the certificates it is known by.
pub(crate) fn of_npm(yard: &Yard) -> Result<Registry, BuildError> {
    let ask = |key: &str| -> Result<String, BuildError> {
        // Which registry is used is among what steps with a network are told.
        let step = node::npm(yard, format!("read npm's setting `{key}`"))?.with_network();
        let said = yard.run(step.args(["config", "get", key]))?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    };
    let mut registry = Registry::parse(&ask("registry")?)?;
    let named = ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"].into_iter().filter_map(std::env::var_os);
    let own = [PathBuf::from(ask("cafile")?)].into_iter().chain(named.map(PathBuf::from));
    // What is not set is the word `null`, which must not name a file of the working directory.
    let own = own.filter(|path| path.is_absolute());
    for path in own.chain([CERTIFICATES.into()]).filter(|path| path.is_file()) {
        registry.certificates.extend(crate::read_file(&path, MAX_CERTIFICATES)?);
        registry.certificates.push(b'\n');
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_a_host_and_a_port_and_keeps_no_credentials() {
        for (url, expected, host, port) in [
            ("https://a.example/", "https://a.example:443/", "a.example", 443),
            ("https://a.example/npm", "https://a.example:443/npm/", "a.example", 443),
            ("http://localhost:4873", "http://127.0.0.1:4873/", "127.0.0.1", 4873),
            ("http://u:p@a.example:81/x/", "http://a.example:81/x/", "a.example", 81),
            ("https://[fd00::1]:8443/", "https://[fd00::1]:8443/", "fd00::1", 8443),
        ] {
            let registry = Registry::parse(url).unwrap();
            assert_eq!((registry.url.as_str(), registry.port), (expected, port), "{url}");
            assert_eq!(registry.host, host, "{url}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_credentials() {
        for url in
            ["", "a.example", "ftp://a/", "https://", "https://a:x/", "http://[::1", "https://a b/"]
        {
            assert!(Registry::parse(url).is_err(), "{url}");
        }
        let error = Registry::parse("ftp://user:secret@a.example/").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
