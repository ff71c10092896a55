//! The record of a call: made when the call is over, written before anybody sees its answer.

use super::Run;
use crate::error::{CallError, Denial, chain};
use crate::exchange::Answer;
use crate::ledger::{Decision, Record};
use crate::pool::Busy;
use osvm_image::Digest;
use tracing::{error, warn};

impl Run<'_> {
    /// The outcome, once its record is kept; without one there is no answer.
    pub(super) fn recorded(
        &mut self,
        outcome: Result<Answer, CallError>,
    ) -> Result<Answer, CallError> {
        if matches!(outcome, Err(CallError::Ledger(_))) {
            return outcome;
        }
        let record = self.record(&outcome);
        let Err(source) = self.runtime.ledger.write(&record) else { return outcome };
        match outcome {
            // What went wrong first is what the caller should know.
            Err(failure) if !self.began => {
                warn!("no receipt of the call is kept: {}", chain(&source));
                Err(failure)
            }
            _ => {
                error!("no receipt of the call is kept: {}", chain(&source));
                Err(CallError::NoReceipt { outcome: record.exit, source })
            }
        }
    }

    fn record(&mut self, outcome: &Result<Answer, CallError>) -> Record {
        let (reaches, reaches_left_out) = self.trace.take();
        let refused_by = match outcome {
            Err(CallError::Denied(Denial::Refused(refusal))) => refusal.rule.clone(),
            _ => None,
        };
        let permitted_by = self.permit.as_ref().and_then(|permit| permit.rule.clone());
        Record {
            call: self.id,
            client: self.call.client.clone(),
            server: self.call.server.clone(),
            tool: self.call.tool.clone(),
            arguments: Digest::of(self.call.arguments.get().as_bytes()),
            result: outcome.as_ref().ok().map(digest),
            decision: self.decision(outcome),
            rule: refused_by.or(permitted_by),
            origin: self.policy.origins.get("execution_mode").to_string(),
            isolation: self.isolation.clone(),
            isolation_failure: self.isolation_failure.clone(),
            exit: exit(outcome).into(),
            reason: outcome.as_ref().err().map(|error| chain(error)),
            reaches,
            reaches_left_out,
        }
    }

    fn decision(&self, outcome: &Result<Answer, CallError>) -> Decision {
        match outcome {
            _ if self.permit.is_some() => Decision::Allow,
            Err(CallError::Denied(_) | CallError::Busy(Busy::TooLarge { .. })) => Decision::Deny,
            _ => Decision::None,
        }
    }
}

fn exit(outcome: &Result<Answer, CallError>) -> &'static str {
    match outcome {
        Ok(Answer::Result(_) | Answer::Mcp(_)) => "result",
        Ok(Answer::ToolError(_) | Answer::McpError(_)) => "tool_error",
        Err(error) => error.code(),
    }
}

fn digest(answer: &Answer) -> Digest {
    match answer {
        Answer::Result(json) | Answer::Mcp(json) | Answer::McpError(json) => {
            Digest::of(json.get().as_bytes())
        }
        // An error object without numbers that could fail to be written.
        Answer::ToolError(error) => Digest::of(&serde_json::to_vec(error).unwrap_or_default()),
    }
}
