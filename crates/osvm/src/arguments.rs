//! The arguments of a call, from the command line, a file or stdin.
//!
//! What comes out is one JSON object in text form, at most [`LIMIT`] bytes. Whether it fits the
//! tool is for the tool's schema to say.

use crate::failure::Failure;
use osvm_protocol::frame::MAX_PAYLOAD;
use serde_json::value::RawValue;
use std::fs::File;
use std::io::{self, Read};

/// Longest arguments a call takes, in bytes: 10 MiB, the longest frame of the wire.
pub(crate) const LIMIT: u64 = MAX_PAYLOAD as u64;

/// Reads what the user gave as ARGUMENTS; nothing means `{}`.
pub(crate) fn read(given: Option<&str>) -> Result<Box<RawValue>, Failure> {
    match given {
        None => parse(b"{}", "the arguments"),
        Some("-") => parse(&bounded(io::stdin().lock(), "stdin")?, "stdin"),
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let name = format!("`{path}`");
                let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
                parse(&bounded(file, &name)?, &name)
            }
            None if text.len() as u64 > LIMIT => Err(too_long("the arguments")),
            None => parse(text.as_bytes(), "the arguments"),
        },
    }
}

/// Reads to the end, but never more than one byte over the limit.
fn bounded(source: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    source.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
    if bytes.len() as u64 > LIMIT { Err(too_long(name)) } else { Ok(bytes) }
}

fn parse(bytes: &[u8], name: &str) -> Result<Box<RawValue>, Failure> {
    let value: Box<RawValue> = serde_json::from_slice(bytes).map_err(|error| {
        let failure = Failure::new("arguments", format!("cannot read {name} as JSON"));
        failure.caused_by(&error).hint("quote them for the shell, as in '{\"text\":\"hi\"}'")
    })?;
    if value.get().starts_with('{') {
        return Ok(value);
    }
    let kind = match value.get().as_bytes().first() {
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    let message = format!("{name} must be a JSON object, not {kind}");
    Err(Failure::new("arguments", message)
        .hint("give each argument a name, as in '{\"text\":\"hi\"}'"))
}

fn too_long(name: &str) -> Failure {
    let message = format!("{name} holds more than the limit of {LIMIT} bytes (10 MiB)");
    Failure::new("arguments_too_long", message)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::new("arguments", format!("cannot read {name}")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_arguments_are_an_empty_object() {
        assert_eq!(read(None).unwrap().get(), "{}");
    }

    #[test]
    fn an_object_is_taken_as_it_was_written() {
        assert_eq!(read(Some(r#"{"a": 1.0}"#)).unwrap().get(), r#"{"a": 1.0}"#);
    }

    #[test]
    fn a_value_of_another_kind_is_named() {
        check(" [1]", "the arguments must be a JSON object, not an array");
        check("\"x\"", "the arguments must be a JSON object, not a string");
        check("-1", "the arguments must be a JSON object, not a number");
        check("true", "the arguments must be a JSON object, not a boolean");
        check("null", "the arguments must be a JSON object, not null");
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "{\"a\":1} x", "{'a':1}", "{\"a\":\"\u{1}\"}"] {
            check(text, "cannot read the arguments as JSON");
        }
    }

    #[test]
    fn input_at_the_limit_is_read_and_one_byte_more_is_refused() {
        assert_eq!(bounded(io::repeat(b' ').take(LIMIT), "x").unwrap().len() as u64, LIMIT);
        let refusal = bounded(io::repeat(b' '), "`x`").unwrap_err();
        assert_eq!(refusal.message, "`x` holds more than the limit of 10485760 bytes (10 MiB)");
    }

    #[track_caller]
    fn check(text: &str, message: &str) {
        assert_eq!(read(Some(text)).unwrap_err().message, message);
    }
}
