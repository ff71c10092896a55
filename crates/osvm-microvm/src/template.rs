//! A warm server, saved: booted, initialised, its tools listed, frozen.
//!
//! The server is a client's of the era with `initialize`, because that is the state worth saving. A
//! server that refuses is saved as it is, and whoever uses a clone greets it.

use crate::error::MicroVmError;
use crate::guest::{Guest, Host, Life};
use crate::harmless;
use crate::recipe::Recipe;
use crate::talk::Gone;
use osvm_protocol::linux::{Info, method};
use osvm_upstream::Stop;
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
    /// A tool that it does not have.
    no_tool: bool,
    /// Those of its tools that it calls harmless.
    harmless: bool,
}

/// What a server was asked last, so that one that did not survive it is not asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Plain,
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
    /// The `InitializeResult`, or nothing for a server that knows no `initialize`.
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
    /// Until `initialize` was answered.
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
        let mut warmth = Warmth { no_tool: true, harmless: true };
        loop {
            let mut step = Step::Plain;
            let made = Self::attempt(host, recipe, warmth, &mut step, deadline, cancel);
            let again = match &made {
                Err(MicroVmError::Gone(Gone::Ended(_) | Gone::HungUp)) => true,
                Err(MicroVmError::Gone(Gone::Deadline)) => Instant::now() < deadline,
                _ => false,
            };
            match step {
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
    let greeting = match talk.request("initialize", &greeting(), deadline) {
        Ok(greeting) => Some(greeting),
        Err(Gone::ServerRefused { .. }) => None,
        Err(gone) => return Err(gone),
    };
    let initialized = started.elapsed();
    if greeting.is_some() {
        talk.notify("notifications/initialized", deadline)?;
        *step = if how.no_tool { Step::NoTool } else { Step::Plain };
        // The first time compiles, later ones settle what was compiled.
        for _ in 0..EXERCISES {
            exercise(guest, how.exercise(), deadline)?;
        }
        if how.harmless {
            *step = Step::Harmless;
            call_harmless(guest, deadline)?;
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
fn call_harmless(guest: &mut Guest, deadline: Instant) -> Result<(), Gone> {
    let listed = match guest.talk().request("tools/list", &json!({}), deadline) {
        Ok(listed) => listed,
        Err(Gone::ServerRefused { .. }) => return Ok(()),
        Err(gone) => return Err(gone),
    };
    for harmless::Call { name, arguments } in harmless::calls(&listed) {
        for _ in 0..EXERCISES {
            let params = json!({"name": name, "arguments": arguments});
            let soon = deadline.min(Instant::now() + PATIENCE);
            match guest.talk().request("tools/call", &params, soon) {
                Ok(_) | Err(Gone::ServerRefused { .. }) => {}
                Err(gone) => return Err(gone),
            }
        }
    }
    Ok(())
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
pub(crate) fn exercise(guest: &mut Guest, how: Exercise, deadline: Instant) -> Result<(), Gone> {
    let call = json!({"name": NO_TOOL, "arguments": {}});
    let asked = [("ping", json!({})), ("tools/list", json!({})), ("tools/call", call)];
    let count = if how == Exercise::WithCall { 3 } else { 2 };
    for (method, params) in asked.iter().take(count) {
        match guest.talk().request(method, params, deadline) {
            Ok(_) | Err(Gone::ServerRefused { .. }) => {}
            Err(gone) => return Err(gone),
        }
    }
    Ok(())
}
