//! One configured server.

use crate::error::UpstreamError;
use crate::offer::Offer;
use crate::outgoing::{ClientFacts, Outgoing, Reply};
use crate::spec::Spec;
use crate::status::{BreakerState, ServerStatus};
use crate::stop::Stop;
use serde_json::value::RawValue;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Something a server told without being asked.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Its tools are others now.
    ToolsChanged,
    /// Its prompts are.
    PromptsChanged,
    /// Its resources are.
    ResourcesChanged,
    /// One resource has other content: parameters of `notifications/resources/updated`.
    ResourceUpdated(&'a RawValue),
}

/// One configured server.
#[derive(Debug)]
pub struct Server {
    spec: Spec,
}

impl Server {
    /// Starts nothing. What it offered last time is read from `cache_dir`.
    pub fn new(spec: Spec, _cache_dir: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { spec })
    }

    /// What the user calls it.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it offers, as far as that is known now. Never waits.
    pub fn offer(&self) -> Option<Arc<Offer>> {
        None
    }

    /// Asks it what it offers.
    ///
    /// # Errors
    ///
    /// Why it could not be asked.
    pub fn refresh(&self, _deadline: Instant) -> Result<Arc<Offer>, UpstreamError> {
        Err(UpstreamError::ShutDown { server: self.spec.name.clone() })
    }

    /// Counts how often the server said that a list of its has changed.
    pub fn changed(&self) -> u64 {
        0
    }

    /// Has `listener` called for what the server tells without being asked. It must be quick.
    pub fn listen(&self, _listener: impl Fn(Event<'_>) + Send + Sync + 'static) {}

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// Why there is none. An error that the server answered is a [`Reply`].
    pub fn request(
        &self,
        _request: &Outgoing<'_>,
        _deadline: Instant,
        _cancel: &Stop,
    ) -> Result<Reply, UpstreamError> {
        Err(UpstreamError::ShutDown { server: self.spec.name.clone() })
    }

    /// Tells the server something on behalf of a client, where a link for that client is up.
    pub fn notify(&self, _client: &ClientFacts<'_>, _method: &str, _params: Option<&RawValue>) {}

    /// How it is.
    pub fn status(&self) -> ServerStatus {
        ServerStatus {
            name: self.spec.name.clone(),
            era: None,
            breaker: BreakerState::Closed,
            failures: 0,
            starts: 0,
            deaths: 0,
            requests: 0,
            last_error: None,
            links: Vec::new(),
        }
    }

    /// The last 64 KiB that its processes wrote to standard error.
    pub fn logs(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Ends it: its input is closed, then it is asked to end, then killed.
    pub fn shut_down(&self) {}
}
