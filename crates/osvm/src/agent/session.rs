//! One session, put together: gateway, model, conversation, agent.
//!
//! # Invariants
//!
//! - What is wrong with flags, config and files is said before anything is started.
//! - [`Session::close`] ends the calls first, then the agent; nothing of them is left.

use super::approver::{Approver, Desk};
use super::feed::{Feed, Happening, Work};
use super::place::{self, Launched};
use super::refusals::Refusals;
use super::slash::Show;
use super::status::StatusLine;
use super::{slash, words};
use crate::cli::Yes;
use crate::command::serve;
use crate::context::Context;
use crate::failure::Failure;
use crate::{broker, printer};
use osvm_agent::conversation::Message;
use osvm_agent::{Model, Provider, Start, Usage};
use osvm_gateway::{Gateway, Selection, Stop};
use osvm_policy::Env;
use osvm_receipts::Receipts;
use osvm_rules::Prompt;
use osvm_secrets::SecretName;
use osvm_supervisor::{
    ConfigError, GatewayLink, ModelConfig, Models, Parts, Providers, SessionError, SessionLog,
    Sessions, Supervisor, Terminal, Variables,
};
use std::any::Any;
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Letters of what a tool says of itself, in a list.
const SUMMARY: usize = 60;

/// How there would be a model.
const NO_MODEL: &str = "\
no model is configured. Start osvm with the variables of one:
  OSVM_AI_URL=http://127.0.0.1:11434/v1 OSVM_AI_MODEL=qwen3         Ollama, vLLM, llama.cpp
  OPENAI_API_KEY=… OPENAI_MODEL=…                                   OpenAI
  ANTHROPIC_API_KEY=… ANTHROPIC_MODEL=…                             Anthropic
  OSVM_AI_URL=https://… OSVM_AI_MODEL=… OSVM_AI_KEY=…               others that speak like OpenAI
or write them into ~/.config/osvm/agent.toml; docs/agent.md has the details";

/// What a session is to be.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The agent runs on this host.
    pub(crate) direct: bool,
    /// A session that goes on; the newest where it has no name.
    pub(crate) resume: Option<Option<String>>,
    /// What needs no person.
    pub(crate) yes: Option<Yes>,
    /// Whether a person can be asked.
    pub(crate) person: bool,
}

/// A session that runs.
pub(crate) struct Session {
    supervisor: Arc<Supervisor>,
    gateway: Arc<Gateway>,
    stop: Stop,
    serving: JoinHandle<()>,
    rest: Box<dyn Any + Send>,
    feed: Feed,
    model: Option<ModelConfig>,
    place: &'static str,
    /// The status line.
    pub(crate) status: StatusLine,
    /// Its name in the list of sessions.
    pub(crate) id: String,
    /// What was said before.
    pub(crate) before: Vec<Message>,
}

/// The sessions of this user.
pub(crate) fn sessions(context: &Context, env: &Env) -> Sessions {
    Sessions::new(context.dirs(env).state().join("sessions"))
}

impl Session {
    /// Starts one.
    pub(crate) fn open(context: &Context, options: &Options, feed: &Feed) -> Result<Self, Failure> {
        let env = context.env()?;
        let model = model(context, &env)?;
        let config = context.config(&env)?;
        let wanted = context.wanted(&config);
        let place = place::choose(options.direct, &env, &context.dirs(&env), wanted)?;
        let approver = Arc::new(Approver::new(options.yes, options.person.then(|| feed.clone())));
        let prompt = Arc::clone(&approver) as Arc<dyn Prompt>;
        let runtime = context.runtime_asking(Some(prompt), config, &env)?;
        let servers = serve::behind(context, &env)?;
        let gateway = Gateway::new(runtime, servers, &Selection::default());
        let gateway = gateway.map_err(|error| serve::unservable(&error))?;
        approver.know(&gateway);
        let status = StatusLine::new(context, &env, place.label())?;
        let (log, before) = conversation(context, &env, options)?;
        let id = log.id().to_owned();
        let Launched { link, rest } = place.start(context.printer)?;
        gateway.start();
        let cannot = |error| Failure::new("host", "cannot reach the gateway").caused_by(&error);
        let stop = Stop::new().map_err(cannot)?;
        let (to_agent, serving) = serving(&gateway, &stop).map_err(cannot)?;
        let models = model.clone().map(|model| Arc::new(Providers::new(model)) as Arc<dyn Models>);
        let refusals = Refusals::new(Receipts::new(context.receipts_dir(&env)));
        let terminal: Arc<dyn Terminal> = Arc::new(Desk::new(feed.clone(), approver, refusals));
        let parts = Parts { agent: link, gateway: to_agent, models, terminal, log: Some(log) };
        let start = Start {
            model: model.as_ref().map(|config| config.model.clone()),
            messages: before.clone(),
        };
        let supervisor = Supervisor::start(parts, &start).map_err(|failure| {
            let message =
                format!("the agent does not start: {}", words::brief(&failure.message, 500));
            Failure::new("agent", message)
        })?;
        let supervisor = Arc::new(supervisor);
        let (feed, place) = (feed.clone(), place.label());
        Ok(Self {
            supervisor,
            gateway,
            stop,
            serving,
            rest,
            feed,
            model,
            place,
            status,
            id,
            before,
        })
    }

    /// Gives the agent something to do. Its answer comes through the queue.
    pub(crate) fn begin(&self, work: Work) {
        let (supervisor, feed) = (Arc::clone(&self.supervisor), self.feed.clone());
        let doing = move || {
            let answer = match &work {
                Work::Prompt(text) => supervisor.prompt(text),
                Work::Plan(text) => supervisor.plan(text),
                Work::Call { server, tool, arguments } => supervisor.call(server, tool, arguments),
                Work::Clear => supervisor.clear().map(|()| Box::default()),
            };
            let _told = feed.send(Happening::Answered(answer));
        };
        if thread::Builder::new().name("work".into()).spawn(doing).is_err() {
            let message = "the host has no more threads".to_owned();
            let no_answer = osvm_supervisor::Failure { code: 0, message };
            let _told = self.feed.try_send(Happening::Answered(Err(no_answer)));
        }
    }

    /// Ends what the agent works on.
    pub(crate) fn cancel(&self) {
        let supervisor = Arc::clone(&self.supervisor);
        // An agent that reads no more must not keep the loop.
        let cancelling = thread::Builder::new().name("cancel".into());
        if cancelling.spawn(move || supervisor.cancel()).is_err() {
            self.stop.stop();
        }
    }

    /// Ends it, and waits until nothing of it is left.
    pub(crate) fn close(self) {
        let Self { supervisor, gateway, stop, serving, rest, .. } = self;
        stop.stop();
        drop(supervisor);
        // It panicked, or it is done.
        let _ended = serving.join();
        gateway.shut_down();
        drop(rest);
    }

    /// Whether there is a model.
    pub(crate) fn has_model(&self) -> bool {
        self.model.is_some()
    }

    /// What there is to show.
    pub(crate) fn show(&self, what: Show, calls: &str, usage: Usage) -> String {
        match what {
            Show::Help => slash::HELP.to_owned(),
            Show::Tools => self.tools(),
            Show::Status => self.status.text(),
            Show::Calls => calls.to_owned(),
            Show::Model => self.model_words(usage),
        }
    }

    /// What the person should know first.
    pub(crate) fn greeting(&self) -> String {
        let place = match self.place {
            "host" => "the agent runs on this host, outside of a microVM".to_owned(),
            place => format!("the agent runs in {place}"),
        };
        match &self.model {
            Some(config) => format!("{place}; model {}", words::brief(&config.model.name, 80)),
            None => format!(
                "{place}; no model is configured, so words are matched with tools: try \
                 `echo \"hi\"`. `/model` says how to choose a model, `/help` what else there is"
            ),
        }
    }

    /// The model, the tokens that were taken, and what they cost.
    pub(crate) fn model_words(&self, usage: Usage) -> String {
        let Some(config) = &self.model else {
            return NO_MODEL.to_owned();
        };
        let Model { provider, name, .. } = &config.model;
        let shape = match provider {
            Provider::OpenAi => "openai",
            Provider::Anthropic => "anthropic",
        };
        let at = config.url.host_str().unwrap_or("?");
        let Usage { input_tokens, output_tokens } = usage;
        let cost = config.cost(usage).map(|cost| format!(", {cost:.4} USD")).unwrap_or_default();
        let name = words::brief(name, 80);
        format!("{name} ({shape}, {at}): {input_tokens} tokens read, {output_tokens} written{cost}")
    }

    fn tools(&self) -> String {
        let catalog = self.gateway.catalog();
        let mut rows = vec![["NAME", "MODE", "WHAT IT SAYS OF ITSELF"].map(str::to_owned)];
        rows.extend(catalog.tools().map(|tool| {
            [tool.name.clone(), tool.mode().to_owned(), words::brief(&tool.summary(), SUMMARY)]
        }));
        printer::table(&rows).trim_end().to_owned()
    }
}

/// The configured model, if there is one.
fn model(context: &Context, env: &Env) -> Result<Option<ModelConfig>, Failure> {
    let path = context.config_path(env).with_file_name("agent.toml");
    let secret = |name: &str| -> Result<String, String> {
        let name: SecretName = name.parse().map_err(|error| format!("`{name}`: {error}"))?;
        let value = broker::secrets(env).get(&name).map_err(|error| error.to_string())?;
        value.map(|value| value.reveal().to_owned()).ok_or_else(|| "there is none".to_owned())
    };
    let variable = |name: &str| std::env::var(name).ok();
    let from = Variables { variable: &variable, secret: &secret };
    ModelConfig::read(&path, &from).map_err(|error: ConfigError| {
        Failure::from_error("agent_config", &error, error.hint().map(str::to_owned))
    })
}

fn conversation(
    context: &Context,
    env: &Env,
    options: &Options,
) -> Result<(SessionLog, Vec<Message>), Failure> {
    let sessions = sessions(context, env);
    let kept = match &options.resume {
        None => sessions.begin().map(|log| (log, Vec::new())),
        Some(id) => sessions.resume(id.as_deref()),
    };
    kept.map_err(|error| {
        let failure = Failure::from_error("session", &error, None);
        match error {
            SessionError::Io { .. } => failure,
            SessionError::Unknown { .. } | SessionError::None => {
                failure.hint("`osvm agent sessions` lists them")
            }
        }
    })
}

/// A session with the gateway, and the thread that serves it.
fn serving(gateway: &Arc<Gateway>, stop: &Stop) -> std::io::Result<(GatewayLink, JoinHandle<()>)> {
    let (read, to_agent) = pipe()?;
    let (from_agent, write) = pipe()?;
    let (gateway, stop) = (Arc::clone(gateway), stop.clone());
    let serve = move || {
        let (input, output) = (OwnedFd::from(from_agent), OwnedFd::from(to_agent));
        if let Err(error) = osvm_gateway::serve(&gateway, input, output, &stop) {
            tracing::warn!("the agent can't be heard: {error}");
        }
    };
    let serving = thread::Builder::new().name("gateway".into()).spawn(serve)?;
    Ok((GatewayLink { read: Box::new(read), write: Box::new(write) }, serving))
}
