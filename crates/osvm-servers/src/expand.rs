//! `${VAR}` and `${VAR:-default}` in the texts of an entry, as Claude Code reads them.
//!
//! A variable that is set, even to nothing, wins over the default. What is no such reference, a
//! `$` or an open brace, stays as it is.

use crate::entry::Entry;
use osvm_policy::printable;
use thiserror::Error;

/// Why a text can't be expanded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpandError {
    /// A variable without default is not set.
    #[error("variable `{name}` is not set")]
    Unset {
        /// The variable.
        name: String,
    },
    /// What stands between the braces is no variable.
    #[error("`${{{name}}}` is no variable")]
    NoVariable {
        /// What stands there.
        name: String,
    },
}

impl ExpandError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unset { name } => {
                Some(format!("set it, or write a default: `${{{name}:-default}}`"))
            }
            Self::NoVariable { .. } => Some("write `${NAME}` or `${NAME:-default}`".into()),
        }
    }
}

/// `text` with every reference replaced by what `lookup` knows.
///
/// # Errors
///
/// The first reference that can't be.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((inner, following)) = after.split_once('}') else { break };
        expanded.push_str(before);
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if !is_variable(name) {
            return Err(ExpandError::NoVariable { name: printable(inner) });
        }
        match (lookup(name), default) {
            (Some(value), _) => expanded.push_str(&value),
            (None, Some(default)) => expanded.push_str(default),
            (None, None) => return Err(ExpandError::Unset { name: name.to_owned() }),
        }
        rest = following;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// `entry` with every text in it expanded.
///
/// # Errors
///
/// The first reference that can't be.
pub fn expand_entry(
    entry: &Entry,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Entry, ExpandError> {
    let mut entry = entry.clone();
    entry.try_map(|text| {
        *text = expand(text, lookup)?;
        Ok(())
    })?;
    Ok(entry)
}

fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_becomes_its_value_wherever_it_stands() {
        check("a${X}b${X}", Ok("a1b1"));
    }

    #[test]
    fn a_default_is_for_a_variable_that_is_not_set() {
        check("${NO:-d}", Ok("d"));
        check("${NO:-}", Ok(""));
        check("${X:-d}", Ok("1"));
        check("${EMPTY:-d}", Ok(""));
    }

    #[test]
    fn what_a_value_holds_is_not_expanded_again() {
        check("${NESTED}", Ok("${X}"));
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        check("${NO}", Err(ExpandError::Unset { name: "NO".into() }));
    }

    #[test]
    fn what_is_no_variable_is_not_taken_for_one() {
        check("${input:key}", Err(ExpandError::NoVariable { name: "input:key".into() }));
        check("${}", Err(ExpandError::NoVariable { name: String::new() }));
    }

    #[test]
    fn dollars_and_open_braces_stay() {
        check("$X $5 ${X", Ok("$X $5 ${X"));
    }

    #[track_caller]
    fn check(text: &str, expected: Result<&str, ExpandError>) {
        let lookup = |name: &str| match name {
            "X" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${X}".to_owned()),
            _ => None,
        };
        assert_eq!(expand(text, &lookup), expected.map(str::to_owned));
    }
}
