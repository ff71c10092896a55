//! HTTP/1.1 over a connection of the broker's: requests out, responses in.

use crate::dial::{Dialer, why};
use crate::refusal::Refusal;
use crate::target::Origin;
use hyper::Request;
use hyper::Response;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Header fields a response may have.
const MAX_HEADERS: usize = 100;

/// What is buffered of a connection at most; a response's head has to fit. In bytes.
const MAX_BUFFER: usize = 64 * 1024;

/// A connection that takes requests.
pub(crate) type Sender = SendRequest<Outgoing>;

/// The body of a request.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// All of it.
    Whole(Option<Bytes>),
    /// As the guest sends it.
    Pieces(mpsc::Receiver<Piece>),
}

/// A part of a body that arrives in pieces.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// Without it the body was given up, and the server must not take it for whole.
    End,
}

impl Outgoing {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => pieces.poll_recv(context).map(|piece| match piece {
                Some(Piece::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Piece::End) => None,
                None => Some(Err(io::Error::other("the body was given up"))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// Opens a connection.
pub(crate) async fn open(
    dialer: &Dialer,
    origin: &Origin,
    addresses: &[IpAddr],
) -> Result<Sender, Refusal> {
    let stream = dialer.tcp(&origin.host, origin.port, addresses).await?;
    if origin.tls {
        shake_hands(origin, dialer.tls(origin, stream).await?).await
    } else {
        shake_hands(origin, stream).await
    }
}

async fn shake_hands<S>(origin: &Origin, stream: S) -> Result<Sender, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(MAX_BUFFER);
    let hands = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = hands.map_err(|error| failed(origin, &error))?;
    // It ends with the last of its sender and its bodies; how is told to whoever waits for those.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Why a request came to nothing. A request that was not sent at all comes back.
#[derive(Debug)]
pub(crate) enum SendError {
    Unsent(Box<Request<Outgoing>>),
    Failed(Refusal),
}

/// Sends a request and waits for the head of its response.
pub(crate) async fn send(
    sender: &mut Sender,
    origin: &Origin,
    request: Request<Outgoing>,
) -> Result<Response<Incoming>, SendError> {
    if sender.ready().await.is_err() {
        return Err(SendError::Unsent(Box::new(request)));
    }
    sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
        Some(request) => SendError::Unsent(Box::new(request)),
        None => SendError::Failed(failed(origin, error.error())),
    })
}

/// The words for a failure of HTTP.
pub(crate) fn failed(origin: &Origin, error: &hyper::Error) -> Refusal {
    Refusal::Failed { host: origin.host.to_string(), port: origin.port, why: why(error) }
}
