//! What the rules say about one call.
//!
//! A `forbid` that holds is the last word. Else a `permit` has to hold; if one of those that hold
//! has `@approval`, a person is asked, unless another one that holds has none and names this very
//! tool. The destructive tools of osvm's own servers ask by themselves, in the same way.

use crate::policies::{Policies, Rule};
use crate::request::{request, tool};
use cedar_policy::{Authorizer, Decision};
use serde_json::value::RawValue;
use std::time::SystemTime;

/// Servers that are osvm's own. What others say of their tools is for the user's rules.
const OWN_SERVERS: [&str; 2] = ["solana", "osvm-mcp"];

/// A tool that asks whatever its definition says.
const ALWAYS_ASKS: (&str, &str) = ("solana", "send_transaction");

/// A call that is to be decided about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who calls: a client with its version behind a `/`, an agent with `agent:` before its name.
    pub client: &'a str,
    /// The server.
    pub server: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// The arguments.
    pub arguments: &'a RawValue,
    /// Whether the tool says that it changes nothing.
    pub read_only: bool,
    /// Whether the tool says that it may change something for good.
    pub destructive: bool,
    /// When.
    pub now: SystemTime,
    /// How often this client was let through to this tool in the last minute.
    pub calls_last_minute: u64,
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call may run.
    Allow {
        /// The rule; `None`: there are none.
        rule: Option<String>,
    },
    /// A person is to be asked.
    Ask {
        /// The rule.
        rule: String,
        /// What the person should know.
        why: String,
    },
    /// The call may not run.
    Deny {
        /// The rule; `None`: no rule permits it.
        rule: Option<String>,
        /// Why.
        reason: String,
    },
}

/// Decides. Without rules everything is allowed that need not be asked for.
pub fn evaluate(policies: Option<&Policies>, asked: &Asked<'_>) -> Verdict {
    let built_in = asks_by_itself(asked).then(|| Verdict::Ask {
        rule: "built-in: destructive tools of osvm's own servers ask".into(),
        why: "it may change something for good".into(),
    });
    match policies {
        Some(policies) => by_rules(policies, asked, built_in),
        None => built_in.unwrap_or(Verdict::Allow { rule: None }),
    }
}

fn asks_by_itself(asked: &Asked<'_>) -> bool {
    let own = OWN_SERVERS.contains(&asked.server);
    (asked.server, asked.tool) == ALWAYS_ASKS || own && asked.destructive
}

fn by_rules(policies: &Policies, asked: &Asked<'_>, built_in: Option<Verdict>) -> Verdict {
    let (request, entities) = match request(asked, policies.use_arguments) {
        Ok(request) => request,
        Err(reason) => return Verdict::Deny { rule: None, reason },
    };
    let response = Authorizer::new().is_authorized(&request, &policies.set, &entities);
    // Cedar passes over a rule that fails. One that was to hold the call back must not be.
    for error in response.diagnostics().errors() {
        let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
        let rule = policies.rule(error.policy_id());
        if let Some(rule) = rule.filter(|rule| rule.forbids || rule.approval.is_some()) {
            let reason = format!(
                "a rule cannot be evaluated: {}; `has` asks whether an argument is there",
                error.inner()
            );
            return Verdict::Deny { rule: Some(policies.name(rule)), reason };
        }
    }
    let reasons = response.diagnostics().reason();
    let mut hold: Vec<&Rule> = reasons.filter_map(|id| policies.rule(id)).collect();
    hold.sort_by_key(|rule| rule.line);
    let first = hold.first().map(|rule| policies.name(rule));
    match (response.decision(), first) {
        (Decision::Deny, Some(rule)) => {
            Verdict::Deny { rule: Some(rule), reason: "a rule forbids it".into() }
        }
        (Decision::Deny, None) => Verdict::Deny { rule: None, reason: "no rule permits it".into() },
        (Decision::Allow, first) => permitted(policies, asked, &hold, first, built_in),
    }
}

fn permitted(
    policies: &Policies,
    asked: &Asked<'_>,
    hold: &[&Rule],
    first: Option<String>,
    built_in: Option<Verdict>,
) -> Verdict {
    let this = tool(asked.server, asked.tool).ok();
    let names_it = |rule: &&&Rule| rule.approval.is_none() && rule.tool == this && this.is_some();
    if let Some(rule) = hold.iter().find(names_it) {
        return Verdict::Allow { rule: Some(policies.name(rule)) };
    }
    let asking = hold.iter().find_map(|rule| Some((rule, rule.approval.clone()?)));
    match (asking, built_in) {
        (Some((rule, why)), _) => Verdict::Ask { rule: policies.name(rule), why },
        (None, Some(ask)) => ask,
        (None, None) => Verdict::Allow { rule: first },
    }
}

#[cfg(test)]
mod tests;
