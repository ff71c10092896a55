//! Virtual machines for `osvm image build`: install scripts of packages run there.
//!
//! # Invariants
//!
//! - The guest has no file of the host, no secret and no setting of the user. It reaches the package
//!   registry, through the broker and under a policy made here, whatever the isolation config allows.
//! - Its time is bounded: when it is over the guest is destroyed, and so it is when this ends.
//! - Every run has a receipt with what the guest reached and what was refused to it.
//!
//! # Not here
//!
//! - What runs in the guest, and what becomes of what it says: `osvm-build`.

use super::MicroVms;
use crate::broker;
use crate::context::Context;
use crate::failure::Failure;
use osvm_build::{BuildGuest, GuestError, Guests, Registry};
use osvm_image::Digest;
use osvm_microvm::{Host, MicroVmError, Outside, Persistent, Recipe};
use osvm_policy::{Config, Env, Resolved};
use osvm_receipts::Receipts;
use osvm_runtime::{
    CallId, Cancel, ClientName, Decision, Isolation, Ledger as _, OnBehalf, Record, RunMode, Trace,
};
use osvm_upstream::{EndLink, Launch as _, LaunchError, Link, Stop};
use osvm_vmm::MemoryMib;
use serde_json::{Value, json};
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What stands for the server and the tool in receipts and in the list of guests.
const SERVER: &str = "osvm-builder";
const TOOL: &str = "install-scripts";

/// Longest body of an answer of the registry, in bytes.
const MAX_BODY: u64 = 1 << 30;

/// Requests to the registry in a minute.
const MAX_RATE: u32 = 6000;

/// Longest line of the guest, in bytes.
const MAX_LINE: u64 = osvm_protocol::frame::MAX_PAYLOAD as u64;

/// Boots guests for one build.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    pub(crate) context: &'a Context,
    pub(crate) env: &'a Env,
    /// Memory of the guest in MiB, if not what the build asks for.
    pub(crate) memory: Option<u32>,
    /// How long all scripts may take, if not what the build says.
    pub(crate) timeout: Option<Duration>,
}

impl Guests for Builder<'_> {
    fn run(
        &self,
        guest: &BuildGuest<'_>,
        heard: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        let started = Instant::now();
        let timeout = self.timeout.unwrap_or(guest.timeout);
        let deadline = started + timeout;
        let policy = policy(guest.registry, self.env)?;
        let config = self.context.config(self.env).map_err(unusable)?;
        let recipe = self.recipe(guest)?;
        let (link, backend) = self.boot(&config, &policy, recipe, deadline)?;
        let run = Run::begin(self.context, policy, deadline, &link, backend);
        let outcome = converse(link, &guest.request, deadline, heard);
        let outcome = outcome.map_err(|broken| broken.explain(timeout));
        run.end(self, guest, &outcome, started)?;
        outcome
    }
}

impl Builder<'_> {
    fn recipe(&self, guest: &BuildGuest<'_>) -> Result<Recipe, GuestError> {
        let files = MicroVms::new(self.context, self.env).shared.files().map_err(launch)?;
        let root = File::open(guest.root);
        let root = root.and_then(|root| Ok((Digest::of_reader(&root)?.0, root)));
        let (root_digest, root) = root.map_err(|error| plain(error, None))?;
        let memory = MemoryMib::new(self.memory.unwrap_or(guest.memory_mb));
        let memory = memory.map_err(|error| plain(error, None))?;
        let (command, args) = guest.command.split_first().ok_or_else(|| {
            plain(MicroVmError::Recipe("the build names no command for its guest"), None)
        })?;
        Ok(Recipe {
            name: SERVER.into(),
            files,
            root: Arc::new(root),
            root_digest,
            command: command.clone(),
            args: args.to_vec(),
            env: guest.env.clone(),
            secrets: Vec::new(),
            cwd: guest.cwd.into(),
            own: Vec::new(),
            writable_mib: memory.mib() / 2,
            memory,
            max_processes: guest.max_processes,
            network: true,
            workspace: None,
            mounts: Vec::new(),
        })
    }

    fn boot(
        &self,
        config: &Config,
        policy: &Resolved,
        recipe: Recipe,
        deadline: Instant,
    ) -> Result<(Link, &'static str), GuestError> {
        let dirs = self.context.dirs(self.env);
        let shared = MicroVms::new(self.context, self.env).shared;
        let backend = shared.backend(&self.context.wanted(config)).map_err(launch)?;
        let outside = Outside {
            services: Arc::new(broker::new(self.env, config, &dirs)),
            guests: self.context.guests.clone(),
            policy: Arc::new(policy.clone()),
        };
        let name = backend.name();
        let host = Host::new(backend, dirs.run, None).with_outside(outside);
        let link = Persistent::new(host, recipe).launch(deadline, &Stop::default());
        Ok((link.map_err(launch)?, name))
    }
}

/// What the guest may reach, in the words of an isolation config of its own.
fn policy(registry: &Registry, env: &Env) -> Result<Resolved, GuestError> {
    // Bytes that are TLS can't be read on the way, so they are let through or not as a whole. Some
    // programs, Node's own `fetch` among them, ask for that also where there is no TLS.
    let methods: &[&str] = if registry.tls { &["CONNECT"] } else { &["CONNECT", "GET", "HEAD"] };
    let rule = json!({"host": registry.host, "ports": [registry.port], "methods": methods,
        "max_bytes": MAX_BODY, "rate_per_minute": MAX_RATE});
    let server = json!({"execution_mode": "microvm", "life": "persistent",
        "network_enabled": true, "egress": [rule]});
    let text = json!({"mcp_servers": {SERVER: server}}).to_string();
    let config = Config::parse(text, Path::new("the builder's policy"), env);
    Ok(config.map_err(|error| plain(error, None))?.resolve(SERVER, ""))
}

/// One run, from its beginning to its receipt.
struct Run {
    call: CallId,
    trace: Arc<Trace>,
    isolation: Isolation,
    guest: Option<Arc<dyn osvm_runtime::LongGuest>>,
}

impl Run {
    /// From now on what the guest reaches is noted.
    fn begin(
        context: &Context,
        policy: Resolved,
        deadline: Instant,
        link: &Link,
        backend: &'static str,
    ) -> Self {
        let number = |name: &str| u32::try_from(link.facts.get(name).and_then(Value::as_u64)?).ok();
        let isolation = Isolation {
            backend: Some(backend),
            cid: number("cid"),
            vm_pid: number("vm_pid"),
            ..Isolation::none(RunMode::MicroVm)
        };
        let (call, trace) = (CallId::now(), Arc::<Trace>::default());
        let guest = isolation.cid.and_then(|cid| context.guests.get(cid));
        if let Some(guest) = &guest {
            let cancel = Cancel::default();
            let trace = Arc::clone(&trace);
            guest.begins(Arc::new(OnBehalf { call, policy, deadline, cancel, trace }));
        }
        Self { call, trace, isolation, guest }
    }

    /// Writes the receipt. Without one, the build fails: what was reached would be nowhere.
    fn end(
        mut self,
        builder: &Builder<'_>,
        guest: &BuildGuest<'_>,
        outcome: &Result<(), GuestError>,
        started: Instant,
    ) -> Result<(), GuestError> {
        if let Some(guest) = self.guest.take() {
            guest.ends(self.call);
        }
        let (reaches, reaches_left_out) = self.trace.take();
        self.isolation.image = Some(guest.builder.to_owned());
        self.isolation.image_digest = Some(guest.builder_digest.to_string());
        self.isolation.total = Some(started.elapsed());
        let failed = outcome.as_ref().err();
        let record = Record {
            call: self.call,
            client: ClientName::new("osvm"),
            server: SERVER.into(),
            tool: TOOL.into(),
            arguments: Digest::of(&guest.request),
            result: None,
            decision: Decision::Allow,
            rule: None,
            origin: "`osvm image build`".into(),
            isolation: self.isolation,
            isolation_failure: None,
            exit: if failed.is_some() { "tool_error" } else { "result" }.into(),
            reason: failed.map(|error| error.source.to_string()),
            reaches,
            reaches_left_out,
        };
        let receipts = Receipts::new(builder.context.receipts_dir(builder.env));
        receipts.write(&record).map_err(|error| {
            let hint = error.hint().map(str::to_owned);
            plain(error, hint)
        })
    }
}

/// How a conversation broke off.
enum Broken {
    Late,
    Pipe(io::Error),
    Ended(Option<String>),
}

impl Broken {
    fn explain(self, timeout: Duration) -> GuestError {
        match self {
            Self::Late => plain(
                io::Error::other(format!("they took longer than {} s", timeout.as_secs())),
                Some("give them more time with `--builder-timeout`".into()),
            ),
            Self::Pipe(error) => plain(error, None),
            Self::Ended(words) => {
                let words = words.unwrap_or_else(|| "the guest hung up".into());
                let hint = "if its memory was full, give it more with `--builder-memory`";
                plain(io::Error::other(words), Some(hint.into()))
            }
        }
    }
}

/// Says the request, and hands on lines until no more are wanted. The guest is gone afterwards.
fn converse(
    link: Link,
    request: &[u8],
    deadline: Instant,
    heard: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(), Broken> {
    let Link { read, mut write, end, .. } = link;
    let (over, is_over) = channel();
    std::thread::scope(|scope| {
        let watch = scope.spawn(move || watch(end, &is_over, deadline));
        let said = write.write_all(request).and_then(|()| write.write_all(b"\n"));
        let outcome = said.map_err(Broken::Pipe).and_then(|()| listen(read, heard));
        drop(write);
        // Whoever watches ends the guest now, if it has not yet.
        drop(over);
        match (watch.join(), outcome) {
            (_, Ok(())) => Ok(()),
            (Ok(Watched { late: true, .. }), Err(_)) => Err(Broken::Late),
            (Ok(Watched { words, .. }), Err(Broken::Ended(_))) => Err(Broken::Ended(words)),
            (_, Err(broken)) => Err(broken),
        }
    })
}

struct Watched {
    late: bool,
    words: Option<String>,
}

/// Ends the guest when the conversation is over, or its time.
fn watch(mut end: Box<dyn EndLink>, over: &Receiver<()>, deadline: Instant) -> Watched {
    let left = deadline.saturating_duration_since(Instant::now());
    let late = over.recv_timeout(left) == Err(RecvTimeoutError::Timeout);
    end.end(Duration::ZERO);
    Watched { late, words: end.last_words() }
}

fn listen(
    read: Box<dyn Read + Send>,
    heard: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(), Broken> {
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(|_| Broken::Ended(None))? == 0 {
            return Err(Broken::Ended(None));
        }
        if heard(line.trim_ascii_end()).is_break() {
            return Ok(());
        }
    }
}

fn plain(source: impl Into<Box<dyn Error + Send + Sync>>, hint: Option<String>) -> GuestError {
    GuestError { source: source.into(), hint }
}

fn launch(error: LaunchError) -> GuestError {
    let hint = error.hint().map(str::to_owned);
    plain(error, hint)
}

fn unusable(failure: Failure) -> GuestError {
    let chain = [vec![failure.message], failure.causes].concat().join(": ");
    plain(chain, failure.hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_may_reach_the_registry_and_nothing_else() {
        let env = Env::new(None, None, Some("/home/u".into())).unwrap();
        let registry = |tls| Registry {
            url: "https://a.example:8443/".into(),
            host: "a.example".into(),
            port: 8443,
            tls,
            certificates: Vec::new(),
        };
        for (tls, methods) in [(true, &["CONNECT"][..]), (false, &["CONNECT", "GET", "HEAD"])] {
            let policy = policy(&registry(tls), &env).unwrap();
            assert!(policy.network_enabled && policy.mounts.is_empty());
            let [rule] = policy.egress.as_slice() else { panic!("{:?}", policy.egress) };
            assert_eq!(rule.ports, [8443]);
            assert_eq!(rule.methods, methods);
        }
    }
}
