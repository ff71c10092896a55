//! Responses: one JSON message, or a stream of events that ends with the answer.
//!
//! ```text
//! Session ─▶ Outlet ─▶ Sink ─▶ channel ─▶ Reply (the body that hyper sends)
//! ```
//!
//! The body ends when nobody has the outlet any more: when the call is over.

use crate::client::Client;
use crate::message::Defect;
use crate::outlet::{Head, Outlet};
use crate::session::error_response;
use crate::words::Era;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use osvm_protocol::message::Id;
use rmcp::model::ErrorCode;
use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, interval_at};

/// Pieces of a response that wait for the client, 64 KiB each at most.
const WAITING: usize = 16;

/// Around a message in a stream of events.
const EVENT: &[u8] = b"event: message\ndata: ";

/// What says that a stream of events is alive, and nothing else.
const COMMENT: &[u8] = b":\n\n";

/// How often it is said.
const ALIVE: Duration = Duration::from_secs(15);

/// For how long a response may have said nothing before it becomes a stream of events, which shows
/// that it is alive.
const SILENT: Duration = Duration::from_secs(5);

/// Bytes of a piece of a response.
const PIECE: usize = 64 * 1024;

/// The form of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// What the first message makes of it: the answer alone is JSON, more are events.
    Any = 0,
    /// One message.
    Json = 1,
    /// Any number of messages.
    Events = 2,
}

/// The form as it has been decided so far, and the code of the error that is the answer.
#[derive(Debug)]
struct Decision {
    shape: AtomicU8,
    refused: AtomicI32,
}

impl Decision {
    /// Decides, if nobody has.
    fn decide(&self, shape: Shape) -> bool {
        let (any, shape) = (Shape::Any as u8, shape as u8);
        match self.shape.compare_exchange(any, shape, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(decided) => decided == shape,
        }
    }

    fn is_events(&self) -> bool {
        self.shape.load(Ordering::SeqCst) == Shape::Events as u8
    }
}

impl Head for Decision {
    fn last(&self, code: Option<ErrorCode>) {
        if let Some(code) = code {
            self.refused.store(code.0, Ordering::SeqCst);
        }
        self.decide(Shape::Json);
    }

    fn more(&self) -> bool {
        self.decide(Shape::Events)
    }
}

/// The body of a response.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    first: Option<Bytes>,
    rest: Option<mpsc::Receiver<Bytes>>,
    /// Goes off when a stream of events has to show that it is alive.
    alive: Option<Interval>,
    /// What was sent last is the end of a message.
    between: bool,
    _owned: Option<Owned>,
}

/// What ends when the client goes away, or has all.
#[derive(Debug, Default)]
pub(super) struct Owned {
    /// The client of a stateless request.
    pub(super) client: Option<Arc<Client>>,
    /// The stream of a session.
    pub(super) _stream: Option<super::sessions::Stream>,
    /// Ends the watching of a subscription when it is dropped.
    pub(super) _until: Option<std_mpsc::Sender<()>>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            client.flights.cancel_all();
            client.listeners.end();
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let piece = match this.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => match &mut this.rest {
                Some(rest) => rest.poll_recv(context),
                None => Poll::Ready(None),
            },
        };
        if let Poll::Ready(piece) = piece {
            this.between = piece.as_ref().is_some_and(|piece| piece.ends_with(b"\n"));
            return Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))));
        }
        let Some(alive) = &mut this.alive else { return Poll::Pending };
        while alive.poll_tick(context).is_ready() {
            if this.between {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
            }
        }
        Poll::Pending
    }
}

/// A response that has not begun.
#[derive(Debug)]
pub(super) struct Pending {
    pieces: mpsc::Receiver<Bytes>,
    decision: Arc<Decision>,
}

/// A response, and the way to write it.
pub(super) fn channel(shape: Shape) -> (Pending, Arc<Outlet>) {
    let (to, pieces) = mpsc::channel(WAITING);
    let shape = AtomicU8::new(shape as u8);
    let decision = Arc::new(Decision { shape, refused: AtomicI32::new(0) });
    let sink = Sink { to, decision: Arc::clone(&decision), inside: false };
    let outlet = Outlet::new(sink, || ()).with_head(Arc::clone(&decision) as Arc<dyn Head>);
    (Pending { pieces, decision }, Arc::new(outlet))
}

impl Pending {
    /// Waits for the first words, which decide about the status.
    pub(super) async fn begin(mut self, era: Era, owned: Option<Owned>) -> Response<Reply> {
        let first = match tokio::time::timeout(SILENT, self.pieces.recv()).await {
            Err(_) if self.decision.decide(Shape::Events) => {
                return self.stream(Bytes::from_static(COMMENT), owned);
            }
            // The words are on their way, or can only be the answer.
            Err(_) => self.pieces.recv().await,
            Ok(first) => first,
        };
        let Some(first) = first else {
            // Notifications have no answer, and neither has a call that was cancelled.
            return plain(StatusCode::ACCEPTED, "");
        };
        if self.decision.is_events() {
            return self.stream(first, owned);
        }
        let code = self.decision.refused.load(Ordering::SeqCst);
        let reply = Reply {
            first: Some(first),
            rest: Some(self.pieces),
            _owned: owned,
            ..Reply::default()
        };
        let mut response = Response::new(reply);
        if code != 0 && era == Era::Stateless {
            *response.status_mut() = status(ErrorCode(code));
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// A stream of events that begins at once.
    pub(super) fn stream(self, first: Bytes, owned: Option<Owned>) -> Response<Reply> {
        let reply = Reply {
            between: first.ends_with(b"\n"),
            first: Some(first),
            rest: Some(self.pieces),
            alive: Some(interval_at(Instant::now() + ALIVE, ALIVE)),
            _owned: owned,
        };
        let mut response = Response::new(reply);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // A proxy must not collect events.
        let buffering = HeaderName::from_static("x-accel-buffering");
        headers.insert(buffering, HeaderValue::from_static("no"));
        response
    }
}

/// The first words of a stream that has nothing to say yet.
pub(super) fn silence() -> Bytes {
    Bytes::from_static(COMMENT)
}

/// A response without a message of MCP.
pub(super) fn plain(status: StatusCode, text: &str) -> Response<Reply> {
    let first = Some(Bytes::copy_from_slice(text.as_bytes())).filter(|text| !text.is_empty());
    let mut response = Response::new(Reply { first, ..Reply::default() });
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A response that says what is wrong with a message.
pub(super) fn defect(id: Option<&Id<'_>>, defect: Defect) -> Response<Reply> {
    let status = status(defect.code);
    let mut response = plain(status, &error_response(id, defect));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn status(code: ErrorCode) -> StatusCode {
    if code == ErrorCode::METHOD_NOT_FOUND {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::BAD_REQUEST
    }
}

/// Turns messages, a line each, into the form of the response.
struct Sink {
    to: mpsc::Sender<Bytes>,
    decision: Arc<Decision>,
    /// A message has begun and not ended.
    inside: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A long message is not copied as a whole.
        let (bytes, _) = bytes.split_at(bytes.len().min(PIECE));
        let events = self.decision.is_events();
        let mut shaped = Vec::with_capacity(bytes.len() + EVENT.len());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if events && !self.inside {
                shaped.extend_from_slice(EVENT);
            }
            shaped.extend_from_slice(piece);
            self.inside = !piece.ends_with(b"\n");
            if events && !self.inside {
                shaped.push(b'\n');
            }
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.blocking_send(shaped.into()).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn a_silent_stream_shows_that_it_is_alive_but_not_inside_a_message() {
        runtime().block_on(async {
            let (to, rest) = mpsc::channel(1);
            let soon = Duration::from_millis(5);
            let mut reply = Reply {
                rest: Some(rest),
                alive: Some(interval_at(Instant::now(), soon)),
                between: true,
                ..Reply::default()
            };
            let mut next = async || reply.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(next().await, COMMENT);
            to.send(Bytes::from_static(b"data: half")).await.unwrap();
            assert_eq!(next().await, "data: half");
            tokio::time::sleep(4 * soon).await;
            let end = tokio::spawn(async move {
                tokio::time::sleep(4 * soon).await;
                to.send(Bytes::from_static(b" whole\n\n")).await.unwrap();
                to
            });
            assert_eq!(next().await, " whole\n\n");
            assert_eq!(next().await, COMMENT);
            drop(end.await.unwrap());
        });
    }

    #[test]
    fn what_is_refused_is_no_stream_of_events() {
        let (pending, outlet) = channel(Shape::Any);
        let code = Some(ErrorCode::METHOD_NOT_FOUND);
        std::thread::spawn(move || outlet.answer(|| true, code, &"no")).join().unwrap();
        let response = runtime().block_on(pending.begin(Era::Stateless, None));
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    }
}
