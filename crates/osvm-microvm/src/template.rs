//! A warm server, saved: booted, initialised, its tools listed, frozen.
//!
//! A server that knows `server/discover` is warmed in the era of that, as it would be spoken to
//! directly. Any other is a client's of the era with `initialize`, because that is the state worth
//! saving. One that refuses both is saved as it is, and whoever uses a clone greets it.

use crate::error::MicroVmError;
use crate::guest::{Guest, Host, Life};
use crate::harmless;
use crate::recipe::Recipe;
use crate::talk::{Gone, Talk};
use osvm_protocol::linux::{Info, method};
use osvm_upstream::{Era, Stop};
use osvm_vmm::linux::Snapshot;
use serde_json::json;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};

/// The revision of MCP that servers are greeted with.
pub(crate) const REVISION: &str = "2025-11-25";

/// How long a warm server is left alone before it is saved, to finish what it does by the way.
const SETTLE: Duration = Duration::from_millis(200);

/// How often a server is exercised before it is saved.
const EXERCISES: usize = 3;

/// How long a server may take to start and to answer `server/discover`, before it counts as one that
/// says nothing to what it does not know.
const DISCOVERY: Duration = Duration::from_secs(60);

/// How long a call that warms a server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a warm server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exercise {
    /// Nothing that could trouble it.
    Plain,
    /// A call of a tool it does not have besides.
    WithCall,
}

/// What a server is asked while it is made warm, besides what troubles none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Warmth {
    /// Which eras it knows.
    discover: bool,
    /// A tool that it does not have.
    no_tool: bool,
    /// Those of its tools that it calls harmless.
    harmless: bool,
}

/// What a server was asked last, so that one that did not survive it is not asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Plain,
    Discover,
    NoTool,
    Harmless,
}

impl Warmth {
    fn exercise(self) -> Exercise {
        if self.no_tool { Exercise::WithCall } else { Exercise::Plain }
    }
}

/// A saved guest whose server is warm. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Template {
    pub(crate) name: String,
    pub(crate) snapshot: Snapshot,
    /// The `DiscoverResult` or the `InitializeResult`, or nothing for a server that knows neither.
    pub(crate) greeting: Option<Box<RawValue>>,
    /// How its clones are exercised.
    pub(crate) exercise: Exercise,
    /// Where the time went.
    pub times: Times,
}

/// How long making a template took, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Until PID 1 ran, by the guest's clock.
    pub kernel: Duration,
    /// Until it was greeted.
    pub initialized: Duration,
    /// Until the guest was saved.
    pub saved: Duration,
}

impl Template {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// [`MicroVmError`], also when `cancel` is stopped or `deadline` has passed.
    pub fn make(
        host: &Host,
        recipe: &Recipe,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Self, MicroVmError> {
        let mut warmth = Warmth { discover: true, no_tool: true, harmless: true };
        loop {
            let mut step = Step::Plain;
            let made = Self::attempt(host, recipe, warmth, &mut step, deadline, cancel);
            let again = match &made {
                Err(MicroVmError::Gone(Gone::Ended(_) | Gone::HungUp)) => true,
                Err(MicroVmError::Gone(Gone::Deadline)) => Instant::now() < deadline,
                _ => false,
            };
            match step {
                Step::Discover if again => warmth.discover = false,
                Step::NoTool if again => warmth.no_tool = false,
                Step::Harmless if again => warmth.harmless = false,
                _ => return made,
            }
            tracing::info!(server = %recipe.name, "warmed anew, without step {step:?}");
        }
    }

    fn attempt(
        host: &Host,
        recipe: &Recipe,
        warmth: Warmth,
        step: &mut Step,
        deadline: Instant,
        cancel: &Stop,
    ) -> Result<Self, MicroVmError> {
        let started = Instant::now();
        let mut guest = host.boot(recipe, Life::Clone, deadline, cancel)?;
        let killer = guest.killer();
        let _hook = cancel.hook(move || killer.kill());
        let made = warm(&mut guest, warmth, step, started, deadline);
        let (greeting, kernel, initialized) = match made {
            Ok(made) => made,
            Err(_) if cancel.is_stopped() => return Err(MicroVmError::Cancelled),
            Err(gone) => return Err(guest.explain(gone)),
        };
        let snapshot = guest.save(deadline)?;
        let times = Times { kernel, initialized, saved: started.elapsed() };
        let exercise = warmth.exercise();
        Ok(Self { name: recipe.name.clone(), snapshot, greeting, exercise, times })
    }
}

impl Template {
    /// The era in which its server was greeted.
    pub(crate) fn era(&self) -> Option<Era> {
        self.greeting.as_deref().map(era)
    }

    /// Whether nothing can write to the saved memory any more. It holds for every template; tests
    /// ask.
    pub fn snapshot_is_sealed(&self) -> bool {
        use rustix::fs::{SealFlags, fcntl_get_seals};
        fcntl_get_seals(&self.snapshot.memory).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
    }
}

type Warm = (Option<Box<RawValue>>, Duration, Duration);

fn warm(
    guest: &mut Guest,
    how: Warmth,
    step: &mut Step,
    started: Instant,
    deadline: Instant,
) -> Result<Warm, Gone> {
    let talk = guest.talk();
    let info: Info = talk.ask(method::INFO, &json!({}), deadline)?;
    *step = if how.discover { Step::Discover } else { Step::Plain };
    let mut greeting = if how.discover { discover(talk, deadline)? } else { None };
    *step = Step::Plain;
    if greeting.is_none() {
        greeting = initialize(talk, deadline)?;
    }
    let initialized = started.elapsed();
    if let Some(era) = greeting.as_deref().map(era) {
        *step = if how.no_tool { Step::NoTool } else { Step::Plain };
        // The first time compiles, later ones settle what was compiled.
        for _ in 0..EXERCISES {
            exercise(guest, how.exercise(), era, deadline)?;
        }
        if how.harmless {
            *step = Step::Harmless;
            call_harmless(guest, era, deadline)?;
        }
    }
    *step = Step::Plain;
    std::thread::sleep(SETTLE);
    // Also says that the server is still there.
    let _health: serde_json::Value = guest.talk().ask(method::HEALTH, &json!({}), deadline)?;
    let () = guest.talk().ask(method::FREEZE, &json!({}), deadline)?;
    Ok((greeting, Duration::from_millis(info.kernel_ms), initialized))
}

/// Calls what the server itself calls harmless: the way from a request to a tool and back is then
/// compiled in the template, and no clone has to compile it.
fn call_harmless(guest: &mut Guest, era: Era, deadline: Instant) -> Result<(), Gone> {
    let listed = match guest.talk().request("tools/list", &params(json!({}), era), deadline) {
        Ok(listed) => listed,
        Err(Gone::ServerRefused { .. }) => return Ok(()),
        Err(gone) => return Err(gone),
    };
    for harmless::Call { name, arguments } in harmless::calls(&listed) {
        for _ in 0..EXERCISES {
            let params = params(json!({"name": name, "arguments": arguments}), era);
            let soon = deadline.min(Instant::now() + PATIENCE);
            match guest.talk().request("tools/call", &params, soon) {
                Ok(_) | Err(Gone::ServerRefused { .. }) => {}
                Err(gone) => return Err(gone),
            }
        }
    }
    Ok(())
}

/// Asks for what only a server of the new era has.
fn discover(talk: &mut Talk, deadline: Instant) -> Result<Option<Box<RawValue>>, Gone> {
    let soon = deadline.min(Instant::now() + DISCOVERY);
    match talk.request("server/discover", &params(json!({}), Era::Modern), soon) {
        Ok(found) if era(&found) == Era::Modern => Ok(Some(found)),
        Ok(_) | Err(Gone::ServerRefused { .. }) => Ok(None),
        Err(gone) => Err(gone),
    }
}

/// Shakes hands in the manner of the old era.
fn initialize(talk: &mut Talk, deadline: Instant) -> Result<Option<Box<RawValue>>, Gone> {
    match talk.request("initialize", &greeting(), deadline) {
        Ok(greeting) => {
            talk.notify("notifications/initialized", deadline)?;
            Ok(Some(greeting))
        }
        Err(Gone::ServerRefused { .. }) => Ok(None),
        Err(gone) => Err(gone),
    }
}

fn era(greeting: &RawValue) -> Era {
    osvm_upstream::own::era(greeting)
}

/// Parameters of a request of osvm's own, as a server of that era wants them.
fn params(params: serde_json::Value, era: Era) -> serde_json::Value {
    osvm_upstream::own::params(params, era)
}

/// What osvm says to a server of the old era: it offers nothing, so it is asked nothing.
fn greeting() -> serde_json::Value {
    json!({
        "protocolVersion": REVISION,
        "capabilities": {},
        "clientInfo": {"name": "osvm", "version": env!("CARGO_PKG_VERSION")},
    })
}

/// A tool that no server has. Calling it runs what every call runs and changes nothing.
const NO_TOOL: &str = "osvm_warm_up";

/// Runs the code that a first call would have to wait for. What the server answers does not matter.
pub(crate) fn exercise(
    guest: &mut Guest,
    how: Exercise,
    era: Era,
    deadline: Instant,
) -> Result<(), Gone> {
    let call = json!({"name": NO_TOOL, "arguments": {}});
    let alive = match era {
        Era::Legacy => "ping",
        Era::Modern => "server/discover",
    };
    let asked = [(alive, json!({})), ("tools/list", json!({})), ("tools/call", call)];
    let count = if how == Exercise::WithCall { 3 } else { 2 };
    for (method, arguments) in asked.into_iter().take(count) {
        match guest.talk().request(method, &params(arguments, era), deadline) {
            Ok(_) | Err(Gone::ServerRefused { .. }) => {}
            Err(gone) => return Err(gone),
        }
    }
    Ok(())
}
