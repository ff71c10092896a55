//! JSON in which every value knows where it stands.
//!
//! `jsonc-parser` gives the tree and its offsets. What has to be plain JSON is checked by
//! serde_json first, whose messages name what was expected.

use crate::error::{Problem, ProblemKind, Problems};
use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use osvm_policy::{Location, member_pointer, printable};
use serde::de::IgnoredAny;
use std::collections::HashMap;
use std::path::Path;

/// What counts as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// RFC 8259, and nothing else.
    Plain,
    /// With comments and commas at the end, as editors take it.
    Comments,
}

impl Dialect {
    /// The same as options of the parser.
    pub(crate) fn options(self) -> ParseOptions {
        let relaxed = self == Self::Comments;
        ParseOptions {
            allow_comments: relaxed,
            allow_trailing_commas: relaxed,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        }
    }
}

/// The text in `bytes`, without a byte order mark.
pub(crate) fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    str::from_utf8(bytes).map_err(|error| {
        let (valid, _) = bytes.split_at_checked(error.valid_up_to()).unwrap_or_default();
        let valid = str::from_utf8(valid).unwrap_or_default();
        let location = locate(valid, valid.len());
        Problem { location, pointer: String::new(), kind: ProblemKind::Encoding }
    })
}

/// The place of the byte at `offset`.
pub(crate) fn locate(text: &str, offset: usize) -> Location {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    Location { line: before.bytes().filter(|byte| *byte == b'\n').count() + 1, column }
}

/// The value that `text` is; `None` if there is nothing but blanks and comments.
pub(crate) fn parse(text: &str, dialect: Dialect) -> Result<Option<Value<'_>>, Problem> {
    let syntax = |location, reason: &str| {
        let kind = ProblemKind::Syntax { language: "JSON", reason: printable(reason) };
        Problem { location, pointer: String::new(), kind }
    };
    if dialect == Dialect::Plain
        && let Err(error) = serde_json::from_str::<IgnoredAny>(text)
    {
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        return Err(syntax(Location { line: error.line(), column: error.column() }, words));
    }
    match parse_to_ast(text, &CollectOptions::default(), &dialect.options()) {
        Ok(parsed) => Ok(parsed.value),
        Err(error) => {
            let words = error.kind().to_string();
            let mut chars = words.chars();
            let words: String =
                chars.next().into_iter().flat_map(char::to_lowercase).chain(chars).collect();
            Err(syntax(locate(text, error.range().start), &words))
        }
    }
}

/// What JSON calls a value.
pub(crate) fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::StringLit(_) => "a string",
        Value::NumberLit(_) => "a number",
        Value::BooleanLit(_) => "true or false",
        Value::Object(_) => "an object",
        Value::Array(_) => "a list",
        Value::NullKeyword(_) => "null",
    }
}

/// The text being read, and what was found wrong with it so far.
#[derive(Debug)]
pub(crate) struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
    more: usize,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, problems: Vec::new(), more: 0 }
    }

    /// Notes that something is wrong. Only the first few are kept.
    pub(crate) fn problem(&mut self, at: &impl Ranged, pointer: &str, kind: ProblemKind) {
        if self.problems.len() < Problems::MOST {
            let location = locate(self.text, at.start());
            self.problems.push(Problem { location, pointer: pointer.to_owned(), kind });
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn invalid(
        &mut self,
        at: &impl Ranged,
        pointer: &str,
        value: &str,
        reason: impl Into<String>,
    ) {
        let kind = ProblemKind::Invalid { value: printable(value), reason: reason.into() };
        self.problem(at, pointer, kind);
    }

    fn wrong_type(&mut self, value: &Value<'_>, pointer: &str, expected: &'static str) {
        self.problem(value, pointer, ProblemKind::WrongType { expected, found: kind(value) });
    }

    pub(crate) fn string(&mut self, value: &Value<'_>, pointer: &str) -> Option<String> {
        let text = value.as_string_lit().map(|text| text.value.clone().into_owned());
        if text.is_none() {
            self.wrong_type(value, pointer, "a string");
        }
        text
    }

    pub(crate) fn bool(&mut self, value: &Value<'_>, pointer: &str) -> Option<bool> {
        let flag = value.as_boolean_lit().map(|flag| flag.value);
        if flag.is_none() {
            self.wrong_type(value, pointer, "true or false");
        }
        flag
    }

    pub(crate) fn object<'v, 'a>(
        &mut self,
        value: &'v Value<'a>,
        pointer: &str,
    ) -> Option<&'v Object<'a>> {
        let object = value.as_object();
        match object {
            Some(object) => self.no_name_twice(object, pointer),
            None => self.wrong_type(value, pointer, "an object"),
        }
        object
    }

    pub(crate) fn strings(&mut self, value: &Value<'_>, pointer: &str) -> Option<Vec<String>> {
        let Some(list) = value.as_array() else {
            self.wrong_type(value, pointer, "a list");
            return None;
        };
        let item =
            |(index, item): (usize, &Value<'_>)| self.string(item, &format!("{pointer}[{index}]"));
        list.elements.iter().enumerate().map(item).collect()
    }

    /// An object of strings, in its order.
    pub(crate) fn pairs(
        &mut self,
        value: &Value<'_>,
        pointer: &str,
        mut check: impl FnMut(&str, &str) -> Result<(), &'static str>,
    ) -> Option<Vec<(String, String)>> {
        let object = self.object(value, pointer)?;
        let mut pairs = Vec::with_capacity(object.properties.len());
        for ObjectProp { name, value, .. } in &object.properties {
            let pointer = member_pointer(pointer, name.as_str());
            let text = self.string(value, &pointer)?;
            if let Err(reason) = check(name.as_str(), &text) {
                // The value may be a secret, so the message has the name only.
                self.invalid(value, &pointer, "…", reason);
            }
            pairs.push((name.as_str().to_owned(), text));
        }
        Some(pairs)
    }

    fn no_name_twice(&mut self, object: &Object<'_>, pointer: &str) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for property in &object.properties {
            let name = property.name.as_str();
            match seen.get(name) {
                Some(first) => {
                    let first = locate(self.text, *first);
                    let kind = ProblemKind::Duplicate { name: printable(name), first };
                    self.problem(property, pointer, kind);
                }
                None => {
                    seen.insert(name, property.start());
                }
            }
        }
    }

    /// What was found wrong, in the order of the text, if anything was.
    pub(crate) fn finish(mut self, path: &Path) -> Result<(), Problems> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| problem.location);
        Err(Problems { path: path.to_owned(), problems: self.problems, more: self.more })
    }
}
