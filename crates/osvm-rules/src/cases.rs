//! The user's own cases: what they expect of their rules.
//!
//! ```json
//! [{"client": "claude-code/2.1", "server": "fs", "tool": "rm", "arguments": {}, "expect": "deny"}]
//! ```

use crate::evaluate::{Asked, Verdict, evaluate};
use crate::policies::Policies;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::SystemTime;
use thiserror::Error;

/// One case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Who calls.
    #[serde(default = "cli")]
    pub client: String,
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The arguments; none are `{}`.
    #[serde(default)]
    pub arguments: Option<Box<RawValue>>,
    /// Whether the tool says that it changes nothing.
    #[serde(default)]
    pub read_only: bool,
    /// Whether the tool says that it may change something for good.
    #[serde(default)]
    pub destructive: bool,
    /// When, RFC 3339, UTC; now unless it says so.
    #[serde(default)]
    pub time: Option<String>,
    /// How often it was called in the last minute.
    #[serde(default)]
    pub calls_last_minute: u64,
    /// What should come of it.
    pub expect: Expect,
}

/// What may come of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// It may run.
    Allow,
    /// It may not.
    Deny,
    /// A person is asked.
    Ask,
}

/// Cases can't be read.
#[derive(Debug, Error)]
pub enum CaseError {
    /// They are no list of cases.
    #[error("this is no list of cases")]
    Form(#[source] serde_json::Error),
    /// One has a time that is none.
    #[error("case {number} has a `time` that is not RFC 3339 in UTC")]
    Time {
        /// Which one, from 1.
        number: usize,
    },
}

/// Reads a JSON list of cases.
///
/// # Errors
///
/// [`CaseError`].
pub fn read(text: &str) -> Result<Vec<Case>, CaseError> {
    let cases: Vec<Case> = serde_json::from_str(text).map_err(CaseError::Form)?;
    for (case, number) in cases.iter().zip(1..) {
        if case.time.is_some() && case.time().is_none() {
            return Err(CaseError::Time { number });
        }
    }
    Ok(cases)
}

impl Case {
    /// What the rules say to it.
    pub fn run(&self, policies: Option<&Policies>) -> Verdict {
        let now = self.time().unwrap_or_else(SystemTime::now);
        evaluate(
            policies,
            &Asked {
                client: &self.client,
                server: &self.server,
                tool: &self.tool,
                arguments: self.arguments.as_deref().unwrap_or(RawValue::NULL),
                read_only: self.read_only,
                destructive: self.destructive,
                now,
                calls_last_minute: self.calls_last_minute,
            },
        )
    }

    fn time(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(self.time.as_deref()?).ok()
    }
}

impl From<&Verdict> for Expect {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Allow { .. } => Self::Allow,
            Verdict::Ask { .. } => Self::Ask,
            Verdict::Deny { .. } => Self::Deny,
        }
    }
}

fn cli() -> String {
    "cli".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn cases_are_run_as_calls_are() {
        let rules = br#"permit(principal, action, resource)
            when { context.time.hour < 12 && context.calls_last_minute < 5 };
            @approval("x") permit(principal == Client::"a", action, resource);"#;
        let policies = Policies::parse(rules, Path::new("p")).unwrap();
        let cases = read(
            r#"[{"server":"s","tool":"t","time":"2026-01-01T11:00:00Z","expect":"allow"},
                {"server":"s","tool":"t","time":"2026-01-01T12:00:00Z","expect":"deny"},
                {"server":"s","tool":"t","time":"2026-01-01T11:00:00Z","calls_last_minute":5,
                 "expect":"deny"},
                {"client":"a/1","server":"s","tool":"t","arguments":{"x":1},"expect":"ask"}]"#,
        );
        for case in cases.unwrap() {
            let verdict = case.run(Some(&policies));
            assert_eq!(Expect::from(&verdict), case.expect, "{verdict:?}");
        }
    }

    #[test]
    fn a_misspelt_case_is_an_error() {
        assert!(read(r#"[{"server":"s","tool":"t","expects":"allow"}]"#).is_err());
        assert!(read(r#"[{"server":"s","tool":"t","time":"noon","expect":"allow"}]"#).is_err());
    }
}
