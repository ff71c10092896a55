//! From a spec to a link that has shaken hands.

use crate::channel::Channel;
use crate::error::UpstreamError;
use crate::handshake::{self, Greeting, NoHandshake, Probe};
use crate::http::Http;
use crate::link::LaunchError;
use crate::mailbox::Lost;
use crate::notice::Notice;
use crate::pipe::Pipe;
use crate::process::{self, Program};
use crate::spec::{Spec, Target};
use crate::stop::Stop;
use crate::words::Era;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a start needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Starter<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) notice: &'a Arc<Notice>,
    /// The capabilities to declare to a server of the old era.
    pub(crate) capabilities: &'a str,
    /// By this time it has to be done.
    pub(crate) limit: Instant,
    pub(crate) cancel: &'a Stop,
}

/// A link that has shaken hands.
pub(crate) struct Started {
    pub(crate) channel: Arc<dyn Channel>,
    pub(crate) greeting: Greeting,
    pub(crate) facts: Map<String, Value>,
}

/// A link, and what it greeted with if it did that before.
struct Fresh {
    channel: Arc<dyn Channel>,
    facts: Map<String, Value>,
    greeting: Option<Greeting>,
}

impl Starter<'_> {
    /// Starts the server and speaks to it in `era`; finds out which if there is none. With
    /// `chosen` no other era will do.
    pub(crate) fn start(&self, era: Option<Era>, chosen: bool) -> Result<Started, UpstreamError> {
        let fresh = self.fresh()?;
        if fresh.greeting.is_some() {
            return self.done(fresh, None);
        }
        if era == Some(Era::Legacy) {
            match self.initialize(&fresh) {
                Ok(greeting) => return self.done(fresh, Some(greeting)),
                // It was another server when its era was remembered.
                Err(UpstreamError::Handshake { .. }) if !chosen => {}
                Err(error) => return Err(error),
            }
            drop(fresh);
            let fresh = self.fresh()?;
            return self.probe(fresh);
        }
        self.probe(fresh)
    }

    fn probe(&self, fresh: Fresh) -> Result<Started, UpstreamError> {
        let patience = Instant::now().checked_add(self.spec.probe_timeout);
        let until = patience.map_or(self.limit, |patience| patience.min(self.limit));
        match handshake::discover(&*fresh.channel, until, self.cancel) {
            Probe::Modern(greeting) => {
                fresh.channel.agreed(&greeting);
                self.done(fresh, Some(greeting))
            }
            Probe::Legacy => {
                let greeting = self.initialize(&fresh)?;
                self.done(fresh, Some(greeting))
            }
            Probe::Stranger(why) => Err(self.wrong(why)),
            Probe::Lost(lost) => Err(self.lost(lost)),
            Probe::Silent(lost) => {
                if self.limit <= Instant::now() {
                    return Err(self.lost(lost));
                }
                // Some servers lock themselves to the era of the first word they hear.
                tracing::debug!(server = self.spec.name, ?lost, "no answer to server/discover");
                fresh.channel.end(Duration::ZERO);
                let fresh = self.fresh()?;
                let greeting = self.initialize(&fresh)?;
                self.done(fresh, Some(greeting))
            }
        }
    }

    fn initialize(&self, fresh: &Fresh) -> Result<Greeting, UpstreamError> {
        let Self { capabilities, limit, cancel, .. } = *self;
        let greeting = handshake::initialize(&*fresh.channel, capabilities, limit, cancel);
        greeting.map_err(|error| {
            let refused = matches!(error, NoHandshake::Lost(Lost::Http(400..=499, _)));
            if refused && fresh.channel.is_old_transport() {
                let server = self.spec.name.clone();
                return UpstreamError::Transport { server, transport: "HTTP+SSE" };
            }
            fresh.channel.end(Duration::ZERO);
            match error {
                NoHandshake::Wrong(why) => self.wrong(why),
                NoHandshake::Lost(lost) => self.lost(lost),
            }
        })
    }

    fn done(&self, fresh: Fresh, greeting: Option<Greeting>) -> Result<Started, UpstreamError> {
        let Fresh { channel, facts, greeting: before } = fresh;
        match greeting.or(before) {
            Some(greeting) => Ok(Started { channel, greeting, facts }),
            None => Err(self.wrong("it did not greet".to_owned())),
        }
    }

    fn fresh(&self) -> Result<Fresh, UpstreamError> {
        let Self { spec, notice, limit, cancel, .. } = *self;
        let name = &spec.name;
        let link = match &spec.target {
            Target::Http { url, headers } => {
                let channel = Http::new(name, url, headers, notice)?;
                let facts = [("url".to_owned(), crate::error::shown_url(url).into())];
                let facts = facts.into_iter().collect();
                return Ok(Fresh { channel, facts, greeting: None });
            }
            Target::Process { command, args, env, cwd } => {
                let program = Program {
                    server: name,
                    command,
                    args,
                    env,
                    cwd: cwd.as_deref(),
                    guard: spec.guard.as_deref(),
                    limits: spec.limits,
                };
                process::start(program, notice)
            }
            Target::Launched(launch) => launch.launch(limit, cancel),
        };
        let failed = |source| UpstreamError::Start { server: name.clone(), source };
        let link = link.map_err(|error| match error {
            LaunchError::Cancelled => self.lost(Lost::Cancelled),
            error => failed(error),
        })?;
        let facts = link.facts.clone();
        let greeting = link.greeting.as_deref().map(handshake::greeted).transpose();
        let greeting = greeting.map_err(|why| self.wrong(why))?;
        let channel = Pipe::new(name, link, notice).map_err(|error| {
            failed(LaunchError::Failed {
                what: "cannot start a thread for it".to_owned(),
                hint: None,
                source: Some(error.into()),
            })
        })?;
        if let Some(greeting) = &greeting {
            channel.agreed(greeting);
        }
        Ok(Fresh { channel, facts, greeting })
    }

    fn wrong(&self, why: String) -> UpstreamError {
        UpstreamError::Handshake { server: self.spec.name.clone(), why }
    }

    fn lost(&self, lost: Lost) -> UpstreamError {
        failed(&self.spec.name, "initialize", lost)
    }
}

/// The error for a request that was lost.
pub(crate) fn failed(server: &str, method: &str, lost: Lost) -> UpstreamError {
    let server = server.to_owned();
    match lost {
        Lost::Gone(why) => UpstreamError::Gone { server, why },
        Lost::NoSession => UpstreamError::Gone { server, why: "it forgot the session".to_owned() },
        Lost::Deadline => UpstreamError::Deadline { server, method: method.to_owned() },
        Lost::Cancelled => UpstreamError::Cancelled { server },
        Lost::Busy => UpstreamError::Busy { server },
        Lost::Unauthorized(status) => UpstreamError::Unauthorized { server, status },
        Lost::Http(status, why) => UpstreamError::Http { server, status, why },
    }
}
