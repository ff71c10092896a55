//! Changes to a text of JSON that leave everything else in it as it was written.
//!
//! Works on the concrete syntax tree of `jsonc-parser`. What comes out is read again and compared
//! by who calls this: an edit is only written if it reads back as what was meant.

use crate::error::Problem;
use crate::json::{self, Dialect};
use crate::plain::Plain;
use jsonc_parser::cst::{CstObject, CstRootNode};
use osvm_policy::member_pointer;
use thiserror::Error;

/// Why a text can't be edited.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EditError {
    /// It is not JSON.
    #[error("{0}")]
    Syntax(Problem),
    /// A value on the way is no object.
    #[error("`{pointer}` is not an object")]
    NoObject {
        /// The way to it.
        pointer: String,
    },
}

/// Sets the members in `path`, an object that is made if it is not there; the rest of it stays.
/// `None` takes a member away. `comments` says whether the text may have comments.
///
/// # Errors
///
/// The text is not JSON, or something on the way is no object.
pub fn set(
    text: &str,
    comments: bool,
    path: &[&str],
    members: &[(&str, Option<Plain>)],
) -> Result<String, EditError> {
    let root = parse(text, comments)?;
    let object = descend(&root, path)?;
    for (name, value) in members {
        match (object.get(name), value) {
            (Some(property), None) => property.remove(),
            (Some(property), Some(value)) => property.set_value(value.clone().into()),
            (None, Some(value)) => {
                object.append(name, value.clone().into());
            }
            (None, None) => {}
        }
    }
    Ok(finish(&root))
}

/// Takes the member `name` of `path` away; `None` if it is not there.
///
/// # Errors
///
/// As [`set`].
pub fn remove(
    text: &str,
    comments: bool,
    path: &[&str],
    name: &str,
) -> Result<Option<String>, EditError> {
    let root = parse(text, comments)?;
    let mut object = root.object_value();
    for step in path {
        object = object.and_then(|object| object.object_value(step));
    }
    let Some(property) = object.and_then(|object| object.get(name)) else { return Ok(None) };
    property.remove();
    Ok(Some(finish(&root)))
}

fn parse(text: &str, comments: bool) -> Result<CstRootNode, EditError> {
    let dialect = if comments { Dialect::Comments } else { Dialect::Plain };
    // The tree's parser agrees on what is JSON, but this one says better what is wrong.
    if !text.trim().is_empty() {
        json::parse(text, dialect).map_err(EditError::Syntax)?;
    }
    CstRootNode::parse(text, &dialect.options())
        .map_err(|_| EditError::NoObject { pointer: String::new() })
}

/// The object at `path`, made if need be.
fn descend(root: &CstRootNode, path: &[&str]) -> Result<CstObject, EditError> {
    let no_object = |pointer: &str| EditError::NoObject { pointer: pointer.to_owned() };
    let mut object = root.object_value_or_create().ok_or_else(|| no_object("the file"))?;
    let mut pointer = String::new();
    for step in path {
        pointer = member_pointer(&pointer, step);
        object = object.object_value_or_create(step).ok_or_else(|| no_object(&pointer))?;
    }
    Ok(object)
}

fn finish(root: &CstRootNode) -> String {
    let mut text = root.to_string();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "{\n  // mine\n  \"a\": {\"x\": 1.0, \"y\": [ ]}, // kept\n  \"b\": {},\n}\n";

    #[test]
    fn everything_that_is_not_named_stays_byte_for_byte() {
        let set = set(FILE, true, &["b"], &[("c", Some(Plain::Bool(true)))]).unwrap();
        assert_eq!(set, FILE.replace("{},\n", "{\n    \"c\": true\n  },\n"));
        assert_eq!(remove(&set, true, &["b"], "c").unwrap().unwrap(), FILE);
    }

    #[test]
    fn an_empty_text_becomes_an_object() {
        let set = set("", false, &["a", "b"], &[("c", Some("d".into()))]).unwrap();
        assert_eq!(set, "{\n  \"a\": {\n    \"b\": {\n      \"c\": \"d\"\n    }\n  }\n}\n");
    }

    #[test]
    fn what_is_no_object_is_not_replaced_by_one() {
        let error = set("{\"a\": []}", false, &["a"], &[("c", None)]).unwrap_err();
        assert_eq!(error.to_string(), "`a` is not an object");
    }

    #[test]
    fn a_member_that_is_not_there_is_nothing_to_remove() {
        assert_eq!(remove("{}", false, &["a"], "b").unwrap(), None);
    }
}
