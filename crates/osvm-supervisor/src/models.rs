//! Requests to a model's provider: the user's key goes in here, and comes back from nowhere.

use crate::config::ModelConfig;
use osvm_agent::Provider;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use reqwest::{Client, redirect};
use std::error::Error;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;
use thiserror::Error as ThisError;
use tokio::runtime::Runtime;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(15);

/// How long a provider may be silent.
const SILENCE: Duration = Duration::from_secs(120);

/// Bytes of a refusal that are passed on.
const MAX_REFUSAL: usize = 8 * 1024;

/// Bytes of one answer: far more than an agent takes.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// The revision of Anthropic's API.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// Reaches models. The agent's host may be given another one by tests.
pub trait Models: fmt::Debug + Send + Sync {
    /// Sends `body`, and hands on the pieces of the answer while `more` returns `true`.
    ///
    /// # Errors
    ///
    /// Why the provider can't be reached, in words.
    fn post(
        &self,
        provider: Provider,
        body: &str,
        more: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Posted, String>;
}

/// How a provider answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Posted {
    /// The status of HTTP.
    pub status: u16,
    /// The beginning of a refusal's body; empty for 200.
    pub body: String,
    /// How long to wait before another try, if the provider said.
    pub retry_after: Option<Duration>,
}

/// The provider of a [`ModelConfig`], over HTTP.
#[derive(Debug)]
pub struct Providers {
    config: ModelConfig,
    runtime: OnceLock<Option<(Runtime, Client)>>,
}

#[derive(Debug, ThisError)]
enum PostError {
    #[error("the model's provider cannot be reached")]
    Http(#[from] reqwest::Error),
    #[error("the model's answer was cut off")]
    Cut(#[source] reqwest::Error),
    #[error("the key is no header")]
    Key,
    #[error("the model's answer has more than {MAX_ANSWER} bytes")]
    TooLong,
}

impl Providers {
    /// The provider of `config`. Nothing is connected before it is asked.
    pub fn new(config: ModelConfig) -> Self {
        Self { config, runtime: OnceLock::new() }
    }

    fn headers(&self) -> Result<HeaderMap, PostError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|_| PostError::Key)?;
            value.set_sensitive(true);
            Ok::<_, PostError>(value)
        };
        match (self.config.model.provider, &self.config.key) {
            (Provider::OpenAi, Some(key)) => {
                headers.insert(AUTHORIZATION, secret(&format!("Bearer {key}"))?);
            }
            (Provider::Anthropic, Some(key)) => {
                headers.insert(HeaderName::from_static("x-api-key"), secret(key)?);
            }
            (_, None) => {}
        }
        if self.config.model.provider == Provider::Anthropic {
            let version = HeaderValue::from_static(ANTHROPIC_VERSION);
            headers.insert(HeaderName::from_static("anthropic-version"), version);
        }
        Ok(headers)
    }

    /// Where requests go.
    fn endpoint(&self) -> String {
        let base = self.config.url.as_str().trim_end_matches('/');
        match self.config.model.provider {
            Provider::OpenAi => format!("{base}/chat/completions"),
            Provider::Anthropic if base.ends_with("/v1") => format!("{base}/messages"),
            Provider::Anthropic => format!("{base}/v1/messages"),
        }
    }

    async fn exchange(
        &self,
        client: &Client,
        body: String,
        more: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Posted, PostError> {
        let request = client.post(self.endpoint()).headers(self.headers()?).body(body);
        let mut response = request.send().await?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let mut pieces = Pieces::default();
        let (mut refusal, mut bytes) = (Vec::new(), 0_usize);
        while let Some(chunk) = response.chunk().await.map_err(PostError::Cut)? {
            bytes = bytes.saturating_add(chunk.len());
            if status != 200 {
                refusal.extend_from_slice(&chunk);
                if MAX_REFUSAL < refusal.len() {
                    break;
                }
            } else if MAX_ANSWER < bytes {
                return Err(PostError::TooLong);
            } else if let Some(text) = pieces.take(&chunk)
                && !more(&self.cut(text))
            {
                break;
            }
        }
        refusal.truncate(MAX_REFUSAL);
        let body = self.cut(String::from_utf8_lossy(&refusal).into_owned());
        Ok(Posted { status, body, retry_after })
    }

    /// Without the key, should somebody send it back.
    fn cut(&self, text: String) -> String {
        match &self.config.key {
            Some(key) if text.contains(key.as_str()) => text.replace(key, "[key removed]"),
            _ => text,
        }
    }

    fn client(&self) -> Option<&(Runtime, Client)> {
        let made = self.runtime.get_or_init(|| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(1).enable_all().thread_name("model").build();
            // Another part may have chosen the same one before.
            let _there_is_one = rustls::crypto::ring::default_provider().install_default();
            let client = Client::builder()
                .connect_timeout(CONNECT)
                .read_timeout(SILENCE)
                // A key goes where the user said, and nowhere else.
                .redirect(redirect::Policy::none())
                .no_proxy()
                .build();
            Some((runtime.ok()?, client.ok()?))
        });
        made.as_ref()
    }
}

impl Models for Providers {
    fn post(
        &self,
        provider: Provider,
        body: &str,
        more: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Posted, String> {
        if provider != self.config.model.provider {
            return Err("the configured model has another shape".into());
        }
        let Some((runtime, client)) = self.client() else {
            return Err("this host has no threads or certificates for HTTPS".into());
        };
        let posted = runtime.handle().block_on(self.exchange(client, body.to_owned(), more));
        posted.map_err(|error| self.cut(chain(&error)))
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Whole lines of a stream, so that no letter and no key is cut in two.
#[derive(Debug, Default)]
struct Pieces(Vec<u8>);

impl Pieces {
    fn take(&mut self, chunk: &[u8]) -> Option<String> {
        /// A line that is longer is passed on in pieces.
        const LONGEST: usize = 1024 * 1024;
        self.0.extend_from_slice(chunk);
        let end = match self.0.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if LONGEST < self.0.len() => self.0.len(),
            None => return None,
        };
        let rest = self.0.split_off(end);
        let whole = std::mem::replace(&mut self.0, rest);
        Some(String::from_utf8_lossy(&whole).into_owned())
    }
}

#[cfg(test)]
mod tests;
