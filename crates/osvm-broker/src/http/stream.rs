//! Bodies: of requests as the guest sends them, of responses as the guest reads them.

use crate::client::{Outgoing, Piece, Sender, failed};
use crate::cut::{Cut, Cutter};
use crate::refusal::Refusal;
use crate::target::Origin;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::{Method, Response, StatusCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Most of a body that one answer carries, in bytes.
pub(crate) const PIECE: usize = 1 << 20;

/// How long a piece waits to become longer. What a server sends now and then arrives now and then.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes of a response's headers that a guest gets.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Headers of a response that a guest does not get: those of the connection, and cookies, which are
/// credentials, perhaps bought with a secret of the host.
const LEFT_OUT: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A body that goes on with the guest's next request.
#[derive(Debug)]
pub(crate) enum Stream {
    Upload(Box<Upload>, Origin),
    Reading(Box<Reading>),
}

/// A request whose body the guest is still sending.
#[derive(Debug)]
pub(crate) struct Upload {
    pieces: mpsc::Sender<Piece>,
    answer: Task,
    sent: u64,
    max: u64,
}

/// A task that ends when nobody wants its outcome any more.
#[derive(Debug)]
struct Task(JoinHandle<Result<Reading, Refusal>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upload {
    /// Starts a request; `make` sends the body it is given.
    pub(super) fn begin<F>(max: u64, make: impl FnOnce(Outgoing) -> F) -> Self
    where
        F: Future<Output = Result<Reading, Refusal>> + Send + 'static,
    {
        // One piece on its way: a guest that sends faster than the server takes has to wait.
        let (pieces, receiver) = mpsc::channel(1);
        let answer = Task(tokio::spawn(make(Outgoing::Pieces(receiver))));
        Self { pieces, answer, sent: 0, max }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the server wants no more of it.
    pub(super) fn is_answered(&self) -> bool {
        self.pieces.is_closed() || self.answer.0.is_finished()
    }

    /// Sends a piece. One that the server does not want any more is dropped: the answer says why.
    pub(super) async fn write(&mut self, piece: Bytes) -> Result<(), Refusal> {
        self.sent = self.sent.saturating_add(piece.len() as u64);
        if self.max < self.sent {
            let option = Some("max_bytes");
            return Err(Refusal::TooLong { what: "request", max: self.max, option });
        }
        if !piece.is_empty() {
            let _unwanted = self.pieces.send(Piece::Data(piece)).await;
        }
        Ok(())
    }

    /// Waits for the answer.
    pub(super) async fn finish(mut self: Box<Self>, origin: &Origin) -> Result<Reading, Refusal> {
        let _unwanted = self.pieces.send(Piece::End).await;
        match (&mut self.answer.0).await {
            Ok(answer) => answer,
            Err(_) => Err(super::gone(origin)),
        }
    }
}

/// A response whose body the guest is still reading.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(super) status: StatusCode,
    /// The headers that the guest gets.
    pub(super) headers: BTreeMap<String, String>,
    /// The place of a redirect, as the server wrote it.
    pub(super) location: Option<String>,
    body: Incoming,
    cut: Option<Cut>,
    /// Ready to be handed out.
    out: Vec<u8>,
    ended: bool,
    received: u64,
    max: u64,
    connection: Option<(Origin, Sender)>,
    origin: Origin,
}

impl Reading {
    /// Looks at the head of a response. `limits` are the longest body, whether secrets are about,
    /// and what cuts them out.
    pub(super) fn new(
        response: Response<Incoming>,
        sender: Sender,
        origin: Origin,
        (max, sensitive, cutter): (u64, bool, Option<Arc<Cutter>>),
        method: &Method,
    ) -> Result<Self, Refusal> {
        let (head, body) = response.into_parts();
        let announced = body.size_hint().exact().unwrap_or_default();
        if max < announced && *method != Method::HEAD {
            return Err(too_long(max));
        }
        let coded = head.headers.get_all(header::CONTENT_ENCODING).iter();
        if sensitive && coded.into_iter().any(|coding| coding != "identity") {
            let why = "it sent a compressed response, in which a secret could not be found".into();
            return Err(Refusal::Failed { host: origin.host.to_string(), port: origin.port, why });
        }
        let location = head.headers.get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Self {
            status: head.status,
            headers: filtered(&head.headers, cutter.as_ref()),
            location,
            body,
            cut: cutter.map(Cut::new),
            out: Vec::new(),
            ended: false,
            received: 0,
            max,
            connection: Some((origin.clone(), sender)),
            origin,
        })
    }

    /// Bytes of the body that came in.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The connection, once the body has been read to its end.
    pub(super) fn connection(&mut self) -> Option<(Origin, Sender)> {
        self.connection.take_if(|_| self.ended)
    }

    /// The next piece, and whether more follows. Waits for its first byte, but for `wait` at most,
    /// if there is one.
    pub(super) async fn next(
        &mut self,
        wait: Option<Duration>,
    ) -> Result<(Vec<u8>, bool), Refusal> {
        while self.out.len() < PIECE && !self.ended {
            let wait = if self.out.is_empty() { wait } else { Some(PATIENCE) };
            let frame = match wait {
                Some(wait) => match tokio::time::timeout(wait, self.body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => break,
                },
                None => self.body.frame().await,
            };
            match frame {
                Some(Ok(frame)) => self.take(frame.data_ref().map_or(&[], |data| &data[..]))?,
                Some(Err(error)) => return Err(failed(&self.origin, &error)),
                None => self.end(),
            }
            if self.body.is_end_stream() {
                self.end();
            }
        }
        let mut len = self.out.len().min(PIECE);
        // A character is not torn apart, so that text stays text.
        let piece = self.out.get(..len).unwrap_or_default();
        if let (false, Err(error)) = (self.ended && len == self.out.len(), str::from_utf8(piece))
            && error.error_len().is_none()
            && 0 < error.valid_up_to()
        {
            len = error.valid_up_to();
        }
        let rest = self.out.split_off(len);
        let piece = std::mem::replace(&mut self.out, rest);
        let more = !self.ended || !self.out.is_empty();
        Ok((piece, more))
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Refusal> {
        self.received = self.received.saturating_add(data.len() as u64);
        if self.max < self.received {
            return Err(too_long(self.max));
        }
        match &mut self.cut {
            Some(cut) => cut.push(data, &mut self.out),
            None => self.out.extend_from_slice(data),
        }
        Ok(())
    }

    fn end(&mut self) {
        if let Some(mut cut) = self.cut.take() {
            cut.finish(&mut self.out);
        }
        self.ended = true;
    }
}

fn too_long(max: u64) -> Refusal {
    Refusal::TooLong { what: "response", max, option: Some("max_bytes") }
}

/// The headers that a guest gets. Several of one name become one, as RFC 9110, 5.2, has it.
fn filtered(headers: &HeaderMap, cutter: Option<&Arc<Cutter>>) -> BTreeMap<String, String> {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut kept = BTreeMap::new();
    let mut room = MAX_HEADER_BYTES;
    for (name, value) in headers {
        let name = name.as_str();
        // A secret that was cut out changes the length, which the body tells anyway.
        let own = LEFT_OUT.contains(&name) || cutter.is_some() && name == "content-length";
        if own || named.iter().any(|other| other == name) {
            continue;
        }
        let cut = cutter.map(|cutter| cutter.cut(value.as_bytes()));
        let text = String::from_utf8_lossy(cut.as_deref().unwrap_or(value.as_bytes()));
        let Some(left) = room.checked_sub(name.len() + text.len()) else { break };
        room = left;
        let entry: &mut String = kept.entry(name.to_owned()).or_default();
        if !entry.is_empty() {
            entry.push_str(", ");
        }
        entry.push_str(&text);
    }
    kept
}
