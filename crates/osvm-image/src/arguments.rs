//! Arguments of a call, checked before a VM is started for them.

use crate::schema::Schema;
use osvm_protocol::frame::MAX_PAYLOAD;
use osvm_protocol::tool::Tool;
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;
use thiserror::Error;

/// Longest text of the arguments, in bytes. A frame holds them with 1 KiB to spare for the rest
/// of the request.
pub const MAX_ARGUMENTS: usize = MAX_PAYLOAD as usize - 1024;

/// One thing that is wrong with the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which argument: `transaction`, `filters[2].name`; empty for the arguments as a whole.
    pub argument: String,
    /// What is wrong with it, and what is expected.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { argument, problem } = self;
        match argument.as_str() {
            "" => write!(f, "the argument object {problem}"),
            _ => write!(f, "argument `{argument}` {problem}"),
        }
    }
}

/// The arguments can't be given to the tool.
#[derive(Debug, Error)]
pub enum ArgumentError {
    /// They are longer than [`MAX_ARGUMENTS`].
    #[error("arguments of {len} bytes are over the limit of {MAX_ARGUMENTS}")]
    TooLong {
        /// Their length, in bytes.
        len: usize,
    },
    /// They are not JSON.
    #[error("arguments of `{server}/{tool}` are not valid JSON")]
    Syntax {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
        /// Where and how.
        source: serde_json::Error,
    },
    /// They do not fit the tool's schema.
    #[error("arguments of `{server}/{tool}` are wrong: {}", sentence(violations))]
    Mismatch {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
        /// Each thing that is wrong, at least one.
        violations: Vec<Violation>,
    },
    /// The image's schema uses what osvm can't check.
    #[error("the argument schema of `{server}/{tool}` cannot be checked")]
    Schema {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
        /// The keyword or the mistake.
        source: serde_json::Error,
    },
}

impl ArgumentError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mismatch { server, tool, .. } => {
                Some(format!("`osvm mcp tools {server} --json` shows the arguments of `{tool}`"))
            }
            Self::Syntax { .. } => {
                Some("give the arguments as one JSON object, in single quotes".into())
            }
            Self::TooLong { .. } | Self::Schema { .. } => None,
        }
    }
}

/// Checks `arguments` against the schema of `tool`.
///
/// # Errors
///
/// [`ArgumentError`], naming each argument that is missing, surplus or of the wrong kind.
pub fn check(tool: &Tool<'_>, arguments: &RawValue) -> Result<(), ArgumentError> {
    let names = || (tool.server.clone().into_owned(), tool.name.clone().into_owned());
    let text = arguments.get();
    if text.len() > MAX_ARGUMENTS {
        return Err(ArgumentError::TooLong { len: text.len() });
    }
    let schema = Schema::parse(tool.input_schema.get()).map_err(|source| {
        let (server, tool) = names();
        ArgumentError::Schema { server, tool, source }
    })?;
    // A raw value is JSON already, but may be nested deeper than anybody wants to read.
    let value: Value = serde_json::from_str(text).map_err(|source| {
        let (server, tool) = names();
        ArgumentError::Syntax { server, tool, source }
    })?;
    let violations = if value.is_object() {
        schema.check(&value)
    } else {
        vec![Violation { argument: String::new(), problem: "is not a JSON object".into() }]
    };
    if violations.is_empty() {
        return Ok(());
    }
    let (server, tool) = names();
    Err(ArgumentError::Mismatch { server, tool, violations })
}

fn sentence(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_protocol::tool::Annotations;
    use std::borrow::Cow;

    fn tool() -> Tool<'static> {
        let schema = r#"{"type":"object","required":["text"],"additionalProperties":false,
            "properties":{"text":{"type":"string"}}}"#;
        let raw = |text: &str| RawValue::from_string(text.into()).unwrap();
        Tool {
            server: "system".into(),
            name: "echo".into(),
            description: "".into(),
            input_schema: Cow::Owned(raw(schema)),
            output_schema: Cow::Owned(raw("true")),
            annotations: Annotations::default(),
            needs_network: false,
        }
    }

    fn check_text(arguments: &str) -> Result<(), String> {
        let arguments = RawValue::from_string(arguments.into()).unwrap();
        check(&tool(), &arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn fitting_arguments_pass() {
        assert_eq!(check_text(r#"{"text":"hi"}"#), Ok(()));
    }

    #[test]
    fn every_wrong_argument_is_named_with_what_is_expected() {
        let error = check_text(r#"{"txet":1}"#).unwrap_err();
        assert_eq!(
            error,
            "arguments of `system/echo` are wrong: argument `text` is missing: it must be a \
             string; argument `txet` is not known: did you mean `text`?"
        );
    }

    #[test]
    fn arguments_that_are_no_object_are_refused_whatever_the_schema_says() {
        let error = check_text("[]").unwrap_err();
        assert!(error.ends_with("the argument object is not a JSON object"), "{error}");
    }

    #[test]
    fn arguments_over_the_limit_are_refused_unread() {
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(MAX_ARGUMENTS));
        assert!(check_text(&long).unwrap_err().contains("over the limit"));
    }

    #[test]
    fn arguments_nested_too_deep_are_an_error_not_an_overflow() {
        let deep = format!(r#"{{"text":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(check_text(&deep).unwrap_err().contains("not valid JSON"));
    }
}
