//! The gate: rules and approvals behind the runtime's [`Gate`].

use crate::approvals::{Answered, Approvals, Pending, Prompt, end};
use crate::error::PolicyError;
use crate::evaluate::{Asked, Verdict, evaluate};
use crate::policies::Policies;
use crate::rates::Rates;
use osvm_runtime::{Gate, Permit, Question, Refusal, Stage};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Where the rules are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFile {
    /// The file.
    pub path: PathBuf,
    /// Whether it has to be there, because somebody named it.
    pub required: bool,
}

/// Decides about calls as the user's rules say. The file is read when the first call comes, and
/// again when it has changed.
#[derive(Debug)]
pub struct Rules {
    file: RuleFile,
    rates: Rates,
    approvals: Approvals,
    prompt: Option<Arc<dyn Prompt>>,
    loaded: Mutex<Option<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    identity: Identity,
    policies: Arc<Policies>,
}

/// Which file it was, and in which state.
type Identity = (u64, u64, u64, i64, i64);

impl Rules {
    /// Rules in `file`; what has to be remembered between calls is kept below `state`.
    pub fn new(file: RuleFile, state: &Path) -> Self {
        Self {
            file,
            rates: Rates::new(state.join("rates")),
            approvals: Approvals::new(state.join("approvals")),
            prompt: None,
            loaded: Mutex::new(None),
        }
    }

    /// The same, with somebody to ask.
    #[must_use]
    pub fn with_prompt(self, prompt: Option<Arc<dyn Prompt>>) -> Self {
        Self { prompt, ..self }
    }

    /// The rules that are in force; `None` when there is no file.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn policies(&self) -> Result<Option<Arc<Policies>>, PolicyError> {
        let path = &self.file.path;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let found = path.metadata();
        let identity =
            found.as_ref().ok().map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        if let (Some(loaded), Some(identity)) = (&*loaded, identity)
            && loaded.identity == identity
        {
            return Ok(Some(Arc::clone(&loaded.policies)));
        }
        *loaded = None;
        let absent = found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if absent && !self.file.required {
            return Ok(None);
        }
        let policies = Arc::new(Policies::load(path)?);
        *loaded = identity.map(|identity| Loaded { identity, policies: Arc::clone(&policies) });
        Ok(Some(policies))
    }

    fn verdict(&self, ask: &Question<'_>) -> Result<Verdict, Refusal> {
        let policies = self.policies().map_err(|error| Refusal {
            rule: None,
            reason: chain(&error),
            hint: error.hint(),
        })?;
        let now = SystemTime::now();
        let asked = |calls_last_minute| Asked {
            client: ask.client.as_str(),
            server: ask.server,
            tool: ask.tool,
            arguments: ask.arguments,
            read_only: ask.annotations.is_some_and(|tool| tool.read_only_hint),
            destructive: ask.annotations.is_some_and(|tool| tool.destructive_hint),
            now,
            calls_last_minute,
        };
        let policies = policies.as_deref();
        if !policies.is_some_and(|policies| policies.use_rate) {
            return Ok(evaluate(policies, &asked(0)));
        }
        let key = (ask.client.as_str(), ask.server, ask.tool);
        let counted = self.rates.count(key, now, |count| {
            let verdict = evaluate(policies, &asked(count));
            // One that waits for a person is counted as if it had been let through.
            let through = !matches!(verdict, Verdict::Deny { .. });
            (verdict, through)
        });
        counted.map_err(|error| Refusal {
            rule: None,
            reason: format!("the calls of the last minute cannot be counted: {error}"),
            hint: None,
        })
    }

    fn asked_for(&self, ask: &Question<'_>, rule: String, why: &str) -> Result<Permit, Refusal> {
        let prompt = self.prompt.as_deref();
        let (begun, end) = (Instant::now(), end(prompt, ask.deadline));
        let pending = Pending::new(ask, end, &rule, why);
        let (server, tool, id) = (ask.server, ask.tool, &pending.id);
        let asking = || {
            if let Some(observer) = ask.observer {
                observer.stage(Stage::Asking);
            }
        };
        let answered = self.approvals.wait(&pending, prompt, end, ask.cancel, asking);
        let refuse = |reason, hint| Refusal { rule: Some(rule.clone()), reason, hint };
        match answered {
            Ok(Answered::Yes) => Ok(Permit {
                rule: Some(format!("{rule}, approved by a person")),
                waited: begun.elapsed(),
            }),
            Ok(Answered::No) => {
                Err(refuse(format!("`{server}/{tool}` was not approved by the user"), None))
            }
            Ok(Answered::Nobody) => Err(refuse(
                format!("`{server}/{tool}` needs the user's approval, and nobody answered in time"),
                Some(format!(
                    "`osvm approvals allow {id}` approves it for the next attempt within ten \
                     minutes; a longer `timeout_secs` gives a person more time"
                )),
            )),
            Err(error) => {
                let hint = error.hint();
                Err(refuse(format!("nobody can be asked for approval: {}", chain(&error)), hint))
            }
        }
    }
}

impl Gate for Rules {
    fn decide(&self, ask: &Question<'_>) -> Result<Permit, Refusal> {
        let (server, tool) = (ask.server, ask.tool);
        match self.verdict(ask)? {
            Verdict::Allow { rule } => Ok(Permit { rule, waited: Duration::ZERO }),
            Verdict::Ask { rule, why } => self.asked_for(ask, rule, &why),
            Verdict::Deny { rule, reason } => {
                let by = rule.as_ref().map(|rule| format!(": {rule}")).unwrap_or_default();
                let reason = format!("the rules do not let `{server}/{tool}` run: {reason}{by}");
                let hint = format!("`osvm policy explain {server} {tool}` tells why");
                Err(Refusal { rule, reason, hint: Some(hint) })
            }
        }
    }
}

/// The error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
