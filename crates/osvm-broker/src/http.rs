//! `host/http`: a guest's request, checked, sent and answered.
//!
//! ```text
//! params ─▶ target ─▶ rule ─▶ rate ─▶ secrets ─▶ addresses ─▶ connection ─▶ response
//!              ▲                                                              │
//!              └────────────── redirect: all of it once more ─────────────────┤
//!                                                                             ▼
//!                                                             headers filtered, secrets cut out
//! ```
//!
//! # Invariants
//!
//! - No byte is sent, and no name resolved, before a rule allows it.
//! - A redirect is a new request: it goes through all of the above, five times at most.
//! - Bodies are passed on in pieces of at most [`PIECE`] bytes, so memory does not grow with them.
//! - A body is as the server sent it: nothing is decompressed, so nothing can blow up.

mod answer;
mod stream;

pub(crate) use answer::Answer;
pub(crate) use stream::Stream;

use crate::client::{self, Outgoing, SendError, Sender};
use crate::dial::Dialer;
use crate::params::{HttpParams, StreamParams, WriteParams, for_another_host};
use crate::rate::Rates;
use crate::refusal::Refusal;
use crate::rules::{self, Wanted};
use crate::secret::{SecretSource, first_name, missing};
use crate::session::{Begun, Session};
use crate::target::{Name, Origin, Target};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use osvm_policy::{EgressRule, Resolved};
use osvm_runtime::Trace;
use std::sync::Mutex;
use std::time::Duration;
use stream::{PATIENCE, Reading, Upload};

/// One request of a guest, and what it is served with.
#[derive(Debug)]
pub(crate) struct Cx<'a> {
    pub(crate) dialer: &'a Dialer,
    pub(crate) rates: &'a Rates,
    pub(crate) secrets: &'a dyn SecretSource,
    pub(crate) session: &'a Session,
    pub(crate) policy: &'a Resolved,
    pub(crate) trace: &'a Trace,
    /// The request that is to blame if this fails.
    pub(crate) current: Mutex<Option<u64>>,
}

/// A request that may be sent.
struct Ready<'a> {
    rule: &'a EgressRule,
    /// Whether secrets are in it, or were in an earlier one of this call.
    sensitive: bool,
    headers: HeaderMap,
    origin: Origin,
    sender: Sender,
    reused: bool,
}

impl Cx<'_> {
    /// `host/http`.
    pub(crate) async fn request(&self, params: &HttpParams<'_>) -> Result<Answer, Refusal> {
        let shown: String = params.method.chars().filter(|c| !c.is_control()).take(16).collect();
        self.begin(Begun { method: shown, ..Begun::default() });
        let (mut method, mut headers) = (params.checked_method()?, params.checked_headers()?);
        let (mut target, mut body) = (Target::parse(&params.url)?, params.body()?);
        if params.more {
            return self.upload(method, target, headers, body).await;
        }
        let (limit, mut followed) = (params.redirects(), 0);
        loop {
            self.about(&target);
            let ready = self.ready(&method, &target, headers.clone(), body.len() as u64).await?;
            self.update(|begun| begun.sent = body.len() as u64);
            let reading = self.send(&method, &target, ready, body.clone()).await?;
            let Some(location) = redirect(&reading).filter(|_| 0 < limit) else {
                return self.answer(reading).await;
            };
            let next = follow(&target, &location, followed < limit)?;
            followed += 1;
            if next.origin() != target.origin() {
                for_another_host(&mut headers);
            }
            if becomes_get(reading.status, &method) {
                method = Method::GET;
                body = Bytes::new();
                headers.remove(header::CONTENT_TYPE);
            }
            self.settle(None);
            self.begin(Begun { method: method.to_string(), ..Begun::default() });
            target = next;
        }
    }

    /// `host/http` whose body goes on with `host/http.write`.
    async fn upload(
        &self,
        method: Method,
        target: Target,
        headers: HeaderMap,
        first: Bytes,
    ) -> Result<Answer, Refusal> {
        self.about(&target);
        self.session.room()?;
        let ready = self.ready(&method, &target, headers, first.len() as u64).await?;
        let max = ready.rule.max_bytes;
        let cut = self.session.vault(self.secrets, self.policy).cutter().cloned();
        let (sensitive, origin) = (ready.sensitive, ready.origin.clone());
        let mut upload = Upload::begin(max, |body| {
            let request = request(&method, &target, ready.headers, body);
            let (mut sender, origin) = (ready.sender, ready.origin);
            async move {
                let response = client::send(&mut sender, &origin, request?).await;
                let response = response.map_err(|error| match error {
                    SendError::Failed(refusal) => refusal,
                    SendError::Unsent(_) => gone(&origin),
                })?;
                Reading::new(response, sender, origin, (max, sensitive, cut), &method)
            }
        });
        upload.write(first).await?;
        let number = self.number();
        self.update(|begun| begun.sent = upload.sent());
        self.session.put(number, Stream::Upload(Box::new(upload), origin));
        Ok(Answer::upload(number))
    }

    /// `host/http.write`.
    pub(crate) async fn write(&self, params: &WriteParams<'_>) -> Result<Answer, Refusal> {
        let Stream::Upload(mut upload, origin) = self.take(params.stream)? else {
            return Err(Refusal::NoStream(params.stream));
        };
        upload.write(params.body()?).await?;
        self.update(|begun| begun.sent = upload.sent());
        if params.more && !upload.is_answered() {
            self.session.put(params.stream, Stream::Upload(upload, origin));
            return Ok(Answer::upload(params.stream));
        }
        let reading = upload.finish(&origin).await?;
        self.update(|begun| begun.status = Some(reading.status.as_u16()));
        self.answer(reading).await
    }

    /// `host/http.read`.
    pub(crate) async fn read(&self, params: &StreamParams) -> Result<Answer, Refusal> {
        let Stream::Reading(reading) = self.take(params.stream)? else {
            return Err(Refusal::NoStream(params.stream));
        };
        self.piece(*reading, None).await
    }

    /// `host/http.close`.
    pub(crate) fn close(&self, params: &StreamParams) -> Result<(), Refusal> {
        drop(self.take(params.stream)?);
        self.settle(None);
        Ok(())
    }

    /// The head of a response and as much of its body as fits.
    async fn answer(&self, mut reading: Reading) -> Result<Answer, Refusal> {
        self.session.room()?;
        let (status, headers) = (reading.status.as_u16(), std::mem::take(&mut reading.headers));
        let answer = self.piece(reading, Some(PATIENCE)).await?;
        Ok(answer.with_head(status, &headers))
    }

    async fn piece(&self, mut reading: Reading, wait: Option<Duration>) -> Result<Answer, Refusal> {
        let piece = reading.next(wait).await;
        self.update(|begun| begun.received = reading.received());
        let (piece, more) = piece?;
        let number = self.number();
        if more {
            self.session.put(number, Stream::Reading(Box::new(reading)));
            return Ok(Answer::piece(piece, Some(number)));
        }
        if let Some((origin, sender)) = reading.connection() {
            self.session.keep(origin, sender);
        }
        self.settle(None);
        Ok(Answer::piece(piece, None))
    }

    /// All that has to be true before a request is sent.
    async fn ready(
        &self,
        method: &Method,
        target: &Target,
        headers: HeaderMap,
        length: u64,
    ) -> Result<Ready<'_>, Refusal> {
        let (host, port) = (&target.host, target.port);
        let wanted = Wanted { method: method.as_str(), host, port, target: Some(target) };
        let rule = rules::find(self.policy, &wanted)?;
        if !target.tls && port == 443 {
            return Err(Refusal::Params("`url` begins with `https://` on port 443".into()));
        }
        if rule.max_bytes < length {
            let option = Some("max_bytes");
            return Err(Refusal::TooLong { what: "request", max: rule.max_bytes, option });
        }
        self.rates.take(&self.policy.server, rule, &host.to_string())?;
        let (headers, sensitive) = self.headers(rule, target, headers)?;
        let origin = target.origin();
        let (sender, reused) = match self.session.idle(&origin) {
            Some(sender) => (sender, true),
            None => (self.connect(&origin).await?, false),
        };
        Ok(Ready { rule, sensitive, headers, origin, sender, reused })
    }

    async fn connect(&self, origin: &Origin) -> Result<Sender, Refusal> {
        let (host, port) = (&origin.host, origin.port);
        let addresses = self.session.addresses(self.dialer, host, port).await?;
        client::open(self.dialer, origin, &addresses).await
    }

    /// The guest's headers with those of the rule over them.
    fn headers(
        &self,
        rule: &EgressRule,
        target: &Target,
        mut headers: HeaderMap,
    ) -> Result<(HeaderMap, bool), Refusal> {
        let vault = self.session.vault(self.secrets, self.policy);
        let host = target.host.to_string();
        for (name, template) in &rule.headers {
            let (value, secret) = vault.fill(template, &host)?;
            if secret && !target.tls && !is_this_host(&target.host) {
                let name = first_name(template).unwrap_or_default();
                return Err(missing(name, &host, "is sent over https only"));
            }
            let name = header::HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Refusal::Broken("a rule has a header without a name".into()))?;
            headers.insert(name, value);
        }
        let sensitive = vault.cutter().is_some();
        if sensitive {
            // In a compressed or partial response a secret could not be found.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            headers.remove(header::RANGE);
            headers.remove(header::IF_RANGE);
        }
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("osvm"));
        Ok((headers, sensitive))
    }

    async fn send(
        &self,
        method: &Method,
        target: &Target,
        ready: Ready<'_>,
        body: Bytes,
    ) -> Result<Reading, Refusal> {
        let Ready { rule, sensitive, headers, origin, mut sender, reused } = ready;
        let outgoing = request(method, target, headers, Outgoing::whole(body))?;
        let mut sent = client::send(&mut sender, &origin, outgoing).await;
        // The server may have closed a connection that was kept, before it saw anything of this.
        if let Err(SendError::Unsent(outgoing)) = sent {
            if !reused {
                return Err(gone(&origin));
            }
            sender = self.connect(&origin).await?;
            sent = client::send(&mut sender, &origin, *outgoing).await;
        }
        let response: Response<Incoming> = sent.map_err(|error| match error {
            SendError::Unsent(_) => gone(&origin),
            SendError::Failed(refusal) => refusal,
        })?;
        self.update(|begun| begun.status = Some(response.status().as_u16()));
        let cut = self.session.vault(self.secrets, self.policy).cutter().cloned();
        Reading::new(response, sender, origin, (rule.max_bytes, sensitive, cut), method)
    }
}

/// Keeping account of the request that is being served.
impl Cx<'_> {
    pub(crate) fn begin(&self, begun: Begun) {
        let number = self.session.begin(begun);
        *self.current() = Some(number);
    }

    pub(crate) fn about(&self, target: &Target) {
        self.update(|begun| {
            begun.host = target.host.to_string();
            begun.port = target.port;
            begun.path = target.shown_path().to_owned();
        });
    }

    fn take(&self, number: u64) -> Result<Stream, Refusal> {
        let stream = self.session.take(number)?;
        *self.current() = Some(number);
        Ok(stream)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Begun)) {
        self.session.update(self.number(), change);
    }

    fn number(&self) -> u64 {
        self.current().unwrap_or_default()
    }

    /// Notes the request as done, or as refused; false where there is none.
    pub(crate) fn settle(&self, refused: Option<String>) -> bool {
        let number = self.current().take();
        if let Some(number) = number {
            self.session.settle(number, self.trace, refused);
        }
        number.is_some()
    }

    /// The request is noted by somebody else.
    pub(crate) fn forget(&self) {
        if let Some(number) = self.current().take() {
            self.session.forget(number);
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A request for hyper. `Host` comes from the URL that the rule was found for.
fn request(
    method: &Method,
    target: &Target,
    mut headers: HeaderMap,
    body: Outgoing,
) -> Result<Request<Outgoing>, Refusal> {
    let broken = |what: &str| Refusal::Params(format!("`url` makes no {what}"));
    let host = HeaderValue::from_str(&target.authority()).map_err(|_| broken("host"))?;
    headers.insert(header::HOST, host);
    let path = format!("{}{}", target.path, target.query);
    let uri = hyper::Uri::try_from(path).map_err(|_| broken("request"))?;
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Where a response sends the client, if it does.
fn redirect(reading: &Reading) -> Option<String> {
    let redirects = [301, 302, 303, 307, 308];
    redirects.contains(&reading.status.as_u16()).then(|| reading.location.clone()).flatten()
}

/// The next place, if a redirect may lead there.
fn follow(from: &Target, location: &str, one_more: bool) -> Result<Target, Refusal> {
    let no = |why| Refusal::Redirect { from: from.host.to_string(), why };
    if !one_more {
        return Err(no("there were too many"));
    }
    let next = from.join(location).map_err(no)?;
    if from.tls && !next.tls {
        return Err(no("it leads from https to http"));
    }
    Ok(next)
}

/// As browsers do it (Fetch standard, HTTP-redirect fetch).
fn becomes_get(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        301 | 302 => *method == Method::POST,
        303 => *method != Method::GET && *method != Method::HEAD,
        _ => false,
    }
}

/// Nobody listens in on the way to a loopback address.
fn is_this_host(host: &Name) -> bool {
    matches!(host, Name::Address(address) if address.is_loopback())
}

fn gone(origin: &Origin) -> Refusal {
    let why = "the connection was closed".into();
    Refusal::Failed { host: origin.host.to_string(), port: origin.port, why }
}
