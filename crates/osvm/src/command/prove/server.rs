//! The HTTP server that a proof's guests may reach a little of: on this host, for as long as the proof
//! takes. It writes down whatever reaches it.
//!
//! # Invariants
//!
//! - It listens on loopback addresses only.
//! - Connections, heads, bodies and what is written down are bounded.

use crate::failure::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where guests may go.
const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Where they may not.
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const MAX_CONNECTIONS: usize = 64;
const MAX_HEAD: u64 = 64 * 1024;
const MAX_BODY: u64 = 1024 * 1024;
const MAX_SEEN: usize = 10_000;
/// How long a connection may say nothing, and the longest a slow answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a control request is answered.
pub(super) const REACHED: &str = "reached";
/// Length of the body that is too long.
pub(super) const LONG: usize = 8192;

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    /// Port on 127.0.0.1.
    pub(super) port: u16,
    /// Port on 127.0.0.2.
    pub(super) other_port: u16,
}

#[derive(Debug)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    stop: AtomicBool,
    connections: AtomicUsize,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Whether it came to the address that guests may reach.
    pub(super) allowed_address: bool,
    /// Method.
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// Header fields, names in lower case.
    pub(super) headers: Vec<(String, String)>,
}

impl Seen {
    /// The path without the query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The mark that an attempt puts into its URLs.
    pub(super) fn mark(&self) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix("a="))
    }

    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Server {
    /// Listens and answers from now on.
    pub(super) fn start() -> Result<Self, Failure> {
        let cannot = |error: io::Error| {
            Failure::new("host", "cannot listen on a loopback address").caused_by(&error)
        };
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        let listen = |address: Ipv4Addr| -> io::Result<u16> {
            let listener = TcpListener::bind((address, 0))?;
            let port = listener.local_addr()?.port();
            let shared = Arc::clone(&shared);
            let accept = move || accept(&listener, &shared);
            std::thread::Builder::new().name("proof-server".into()).spawn(accept)?;
            Ok(port)
        };
        let port = listen(ADDRESS).map_err(cannot)?;
        // Made first, so that it is stopped should the second one fail.
        let mut server = Self { shared: Arc::clone(&shared), port, other_port: 0 };
        server.other_port = listen(OTHER_ADDRESS).map_err(cannot)?;
        Ok(server)
    }

    /// All that arrived with this mark, in order.
    pub(super) fn seen(&self, mark: &str) -> Vec<Seen> {
        let seen = self.shared.seen();
        seen.iter().filter(|seen| seen.mark() == Some(mark)).cloned().collect()
    }

    /// All that arrived.
    pub(super) fn all(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The listeners wait for somebody.
        for (address, port) in [(ADDRESS, self.port), (OTHER_ADDRESS, self.other_port)] {
            let _woken = TcpStream::connect_timeout(
                &SocketAddr::from((address, port)),
                Duration::from_millis(200),
            );
        }
    }
}

impl Shared {
    // A list that only grows; no panic leaves it half-changed.
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        if shared.connections.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let own = Arc::clone(shared);
        let serve = move || {
            // Whatever ends a connection, what was asked on it is written down.
            let _ended = serve(&stream, &own);
            own.connections.fetch_sub(1, Ordering::SeqCst);
        };
        if std::thread::Builder::new().name("proof-connection".into()).spawn(serve).is_err() {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let allowed_address = stream.local_addr()?.ip() == ADDRESS;
    let mut reader = BufReader::new(stream);
    while let Some(seen) = read(&mut reader, allowed_address)? {
        {
            let mut all = shared.seen();
            if all.len() < MAX_SEEN {
                all.push(seen.clone());
            }
        }
        let body = seen.header("content-length").and_then(|length| length.parse().ok());
        io::copy(&mut reader.by_ref().take(body.unwrap_or(0).min(MAX_BODY)), &mut io::sink())?;
        if seen.target.starts_with("/allowed/slow") {
            wait(stream, shared);
        }
        let mut to = stream;
        to.write_all(answer(&seen).as_bytes())?;
    }
    Ok(())
}

/// The head of the next request; `None` when there is none, or it makes no sense.
fn read(reader: &mut BufReader<&TcpStream>, allowed_address: bool) -> io::Result<Option<Seen>> {
    let mut head = reader.by_ref().take(MAX_HEAD);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(Seen { allowed_address, method, target, headers }));
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// Until nobody wants the answer any more.
fn wait(stream: &TcpStream, shared: &Shared) {
    let begun = Instant::now();
    let _brief = stream.set_read_timeout(Some(Duration::from_millis(20)));
    while begun.elapsed() < PATIENCE && !shared.stop.load(Ordering::SeqCst) {
        match stream.peek(&mut [0]) {
            Ok(0) => return,
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            _ => {}
        }
    }
}

fn answer(seen: &Seen) -> String {
    let mark = seen.mark().unwrap_or_default();
    // Where a redirect leads is told in the request, so that this needs to know no names.
    let place = || {
        let query = seen.target.split_once('?').map_or("", |(_, query)| query);
        query.split_once("to=").map_or("", |(_, to)| to).to_owned()
    };
    match seen.path() {
        "/allowed/to" | "/secret/to" => {
            let to = place();
            let sign = if to.contains('?') { '&' } else { '?' };
            let to = if to.starts_with("file:") { to } else { format!("{to}{sign}a={mark}") };
            with(&format!("302 Found\r\nLocation: {to}"), "")
        }
        "/allowed/loop" => with(&format!("302 Found\r\nLocation: /allowed/loop?a={mark}"), ""),
        "/small/long" => with("200 OK", &"x".repeat(LONG)),
        "/secret/echo" => {
            let value = seen.header("authorization").unwrap_or_default();
            let hex = value.bytes().fold(String::new(), |mut hex, byte| {
                let _into_a_string = write!(hex, "{byte:02x}");
                hex
            });
            let base64 = STANDARD.encode(value);
            let secret = value.strip_prefix("Bearer ").unwrap_or_default();
            with(
                &format!("200 OK\r\nX-Echo: {value}"),
                &format!("{value}\n{secret}\n{hex}\n{base64}\n{}", STANDARD.encode(secret)),
            )
        }
        _ => with("200 OK", REACHED),
    }
}

fn with(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
