//! What happens on the wire for one message.

use super::sse::Events;
use super::{NOTE, Shared, set};
use crate::lines::MAX_LINE;
use crate::mailbox::Lost;
use crate::message::{self, Incoming};
use crate::outgoing::Reply;
use crate::words::Era;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait before a stream is opened anew, when the server says nothing else.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Streams in a row that brought nothing before a request is given up.
const MAX_EMPTY: u32 = 5;

/// How long the end of a stream may take after its answer.
const AFTER: Duration = Duration::from_secs(1);

/// How much of an unexpected answer is shown, in bytes.
const SHOWN: usize = 300;

/// Which request it is about.
#[derive(Clone, Copy)]
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) era: Era,
    pub(super) is_initialize: bool,
}

/// Sends a request and hands what comes back to the flights.
pub(super) async fn run(shared: Arc<Shared>, order: Order, headers: HeaderMap, body: String) {
    if let Err(lost) = request(&shared, order, headers, body).await {
        shared.flights.lose(order.id, lost);
    }
}

async fn request(
    shared: &Arc<Shared>,
    order: Order,
    headers: HeaderMap,
    body: String,
) -> Result<(), Lost> {
    let in_session = headers.contains_key("mcp-session-id");
    let response = shared.send(headers, body).await?;
    let status = response.status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(Lost::Unauthorized(status.as_u16()));
        }
        StatusCode::NOT_FOUND if in_session => return Err(Lost::NoSession),
        _ => {}
    }
    if order.is_initialize && status.is_success() {
        let session = response.headers().get("mcp-session-id");
        let session = session.and_then(|id| id.to_str().ok()).map(str::to_owned);
        shared.agreed().session = session;
    }
    if status.is_success() && is(&response, "text/event-stream") {
        return streamed(shared, order, response).await;
    }
    let body = body_of(response).await.map_err(Lost::Gone)?;
    answered(shared, order, status, body)
}

/// An answer that is no stream.
fn answered(
    shared: &Arc<Shared>,
    order: Order,
    status: StatusCode,
    body: Vec<u8>,
) -> Result<(), Lost> {
    let shown =
        String::from_utf8_lossy(body.get(..SHOWN).unwrap_or(&body)).escape_debug().to_string();
    let unexpected = |what: String| {
        let what = if what.is_empty() { "no body".to_owned() } else { what };
        Err(Lost::Http(status.as_u16(), what))
    };
    match message::parse(body) {
        // With a status of failure the id may be missing: the server did not read that far.
        Ok(Incoming::Answer { id, reply: Reply::Error(error) }) if !status.is_success() => {
            if id.is_some_and(|id| id != order.id) {
                return unexpected(shown);
            }
            let reply = Reply::Error(error);
            shared.flights.hear(Incoming::Answer { id: Some(order.id), reply }, None);
            Ok(())
        }
        Ok(incoming @ Incoming::Answer { id, .. })
            if status.is_success() && id == Some(order.id) =>
        {
            shared.flights.hear(incoming, None);
            Ok(())
        }
        _ => unexpected(shown),
    }
}

/// Reads streams until the answer is there.
async fn streamed(shared: &Arc<Shared>, order: Order, first: Response) -> Result<(), Lost> {
    let mut stream = Some(first);
    let mut events = Events::new(MAX_LINE);
    let mut empty = 0;
    loop {
        if let Some(response) = stream.take() {
            let heard = read(shared, response, &mut events, Some(order.id)).await?;
            empty = if heard { 0 } else { empty + 1 };
        } else {
            empty += 1;
        }
        if !shared.flights.flies(order.id) {
            return Ok(());
        }
        let resumable = order.era == Era::Legacy && events.last_id.is_some();
        if !resumable || MAX_EMPTY < empty {
            return Err(Lost::Gone("its stream ended before the answer".to_owned()));
        }
        tokio::time::sleep(pause(&events)).await;
        events = events.resumed();
        match shared.get(events.last_id.as_deref()).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                return Err(Lost::NoSession);
            }
            Ok(response)
                if response.status().is_success() && is(&response, "text/event-stream") =>
            {
                stream = Some(response);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn pause(events: &Events) -> Duration {
    events.retry.map_or(RETRY, Duration::from_millis).min(LONGEST)
}

/// Reads one stream to its end. Whether there was an event on it.
async fn read(
    shared: &Arc<Shared>,
    mut response: Response,
    events: &mut Events,
    on: Option<u64>,
) -> Result<bool, Lost> {
    let mut heard = false;
    let mut answers = Vec::new();
    loop {
        let done = on.is_some_and(|id| !shared.flights.flies(id));
        let chunk = if done {
            // Read to its end, a connection can be used again.
            tokio::time::timeout(AFTER, response.chunk()).await.unwrap_or(Ok(None))
        } else {
            response.chunk().await
        };
        // A stream that broke is like one that ended: there may be a next one.
        let Ok(Some(chunk)) = chunk else { return Ok(heard) };
        let fed = events.feed(&chunk, |event| {
            heard = true;
            if event.kind.is_some_and(|kind| kind != "message") || event.data.is_empty() {
                return;
            }
            match message::parse(event.data) {
                Ok(incoming) => answers.extend(shared.flights.hear(incoming, on)),
                Err(why) => tracing::debug!(server = shared.server, why, "an event is no message"),
            }
        });
        if fed.is_err() {
            let limit = MAX_LINE / 1024 / 1024;
            return Err(Lost::Gone(format!("it sent an event of more than {limit} MiB")));
        }
        for answer in answers.drain(..) {
            tokio::spawn({
                let shared = Arc::clone(shared);
                async move { shared.post(answer).await }
            });
        }
    }
}

/// Keeps the stream open on which a server of the old era says what belongs to no request.
pub(super) async fn listen(shared: Arc<Shared>) {
    let mut events = Events::new(MAX_LINE);
    let mut wait = RETRY;
    while shared.flights.is_alive() {
        let since = Instant::now();
        match shared.get(events.last_id.as_deref()).await {
            Ok(response)
                if response.status().is_success() && is(&response, "text/event-stream") =>
            {
                if read(&shared, response, &mut events, None).await.is_err() {
                    return;
                }
            }
            // It has no such stream, or no such session.
            Ok(response) if response.status().is_client_error() => return,
            Ok(_) | Err(_) => {}
        }
        let steady = RETRY * 10 < since.elapsed();
        wait =
            if steady || events.retry.is_some() { pause(&events) } else { (wait * 2).min(LONGEST) };
        tokio::time::sleep(wait).await;
        events = events.resumed();
    }
}

impl Shared {
    async fn send(&self, mut headers: HeaderMap, body: String) -> Result<Response, Lost> {
        let both = HeaderValue::from_static("application/json, text/event-stream");
        headers.insert(ACCEPT, both);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        request.send().await.map_err(|error| {
            let why = format!("cannot reach it: {}", chain(error));
            self.broke(&why);
            Lost::Gone(why)
        })
    }

    async fn get(&self, last_id: Option<&str>) -> Result<Response, reqwest::Error> {
        let mut headers = self.common();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_id.filter(|id| !id.is_empty()) {
            set(&mut headers, "last-event-id", id);
        }
        self.client.get(self.url.clone()).headers(headers).send().await
    }

    /// Sends a message that has no answer.
    pub(super) async fn post(&self, message: String) {
        let sent = tokio::time::timeout(NOTE, self.send(self.common(), message)).await;
        match sent {
            Ok(Ok(response)) if response.status().is_success() => {}
            Ok(Ok(response)) => {
                let status = response.status().as_u16();
                tracing::debug!(server = self.server, status, "a notification was refused");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(server = self.server, "a notification was not delivered");
            }
        }
    }

    pub(super) async fn delete(&self, session: &str, version: Option<&str>) {
        let mut headers = self.headers.clone();
        set(&mut headers, "mcp-session-id", session);
        if let Some(version) = version {
            set(&mut headers, "mcp-protocol-version", version);
        }
        let request = self.client.delete(self.url.clone()).headers(headers);
        // A server may refuse it, and then forgets the session by itself.
        let _refused = request.timeout(NOTE).send().await;
    }

    /// Whether a GET is answered with the first event of the transport of 2024-11-05.
    pub(super) async fn greets_with_events(&self) -> bool {
        let Ok(mut response) = self.get(None).await else { return false };
        if !response.status().is_success() || !is(&response, "text/event-stream") {
            return false;
        }
        let mut events = Events::new(64 * 1024);
        let mut kinds = Vec::new();
        while kinds.is_empty() {
            let Ok(Some(chunk)) = response.chunk().await else { return false };
            if events.feed(&chunk, |event| kinds.push(event.kind)).is_err() {
                return false;
            }
        }
        matches!(kinds.first(), Some(Some(kind)) if kind == "endpoint")
    }
}

/// Whether its body is of this type.
fn is(response: &Response, media: &str) -> bool {
    let found = response.headers().get(CONTENT_TYPE).and_then(|found| found.to_str().ok());
    let found = found.and_then(|found| found.split(';').next()).unwrap_or_default();
    found.trim().eq_ignore_ascii_case(media)
}

async fn body_of(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(chain)? {
        if MAX_LINE.saturating_sub(body.len()) < chunk.len() {
            return Err(format!("it answered with more than {} MiB", MAX_LINE / 1024 / 1024));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error with its causes, without the URL, which may hold a key.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
