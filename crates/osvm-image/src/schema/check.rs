//! A value against a schema: every violation, in words for whoever wrote the value.

use super::{Rules, Schema, Type, Types};
use crate::arguments::Violation;
use crate::image::nearest;
use serde_json::{Map, Number, Value};
use std::cmp::Ordering;
use std::fmt::Write as _;

/// Violations that are reported; a reader fixes the first ones first anyway.
const MAX_VIOLATIONS: usize = 8;

/// Longest piece of a value that is quoted, in characters.
const MAX_QUOTE: usize = 40;

/// Names and values that are listed as what is possible.
const MAX_LISTED: usize = 12;

impl Schema {
    /// What is wrong with `value`; nothing if it fits.
    pub(crate) fn check(&self, value: &Value) -> Vec<Violation> {
        let mut check = Check { path: String::new(), found: Vec::new() };
        check.schema(self, value);
        check.found
    }

    /// The schema in a few words, after "it must be".
    fn expectation(&self) -> String {
        let Self::Rules(rules) = self else { return "a value".into() };
        match &rules.values {
            Some(values) => listed("one of ", values.iter().map(quote)),
            None => rules.types.to_string(),
        }
    }
}

struct Check {
    /// Where the value stands: `filters[2].name`, empty for the whole.
    path: String,
    found: Vec<Violation>,
}

impl Check {
    fn report(&mut self, problem: String) {
        if self.found.len() < MAX_VIOLATIONS {
            self.found.push(Violation { argument: self.path.clone(), problem });
        }
    }

    /// Does `act` one step further down.
    fn within(&mut self, step: &str, act: impl FnOnce(&mut Self)) {
        let len = self.path.len();
        if len > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        act(self);
        self.path.truncate(len);
    }

    fn schema(&mut self, schema: &Schema, value: &Value) {
        match schema {
            Schema::Anything => {}
            Schema::Nothing => self.report("must not be given".into()),
            Schema::Rules(rules) => self.rules(rules, value),
        }
    }

    fn rules(&mut self, rules: &Rules, value: &Value) {
        if !rules.types.allow(value) {
            self.report(format!("is {}: it must be {}", kind(value), rules.types));
            return;
        }
        if let Some(values) = &rules.values
            && !values.iter().any(|allowed| equal(allowed, value))
        {
            let allowed = listed("one of ", values.iter().map(quote));
            self.report(format!("is {}: it must be {allowed}", quote(value)));
        }
        if let Some(constant) = &rules.constant
            && !equal(constant, value)
        {
            self.report(format!("is {}: it must be {}", quote(value), quote(constant)));
        }
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => self.number(rules, number),
            Value::String(text) => {
                let bounds = (rules.min_length, rules.max_length);
                self.length(bounds, text.chars().count() as u64, "characters");
            }
            Value::Array(items) => self.array(rules, items),
            Value::Object(members) => self.object(rules, members),
        }
        self.combinations(rules, value);
    }

    fn number(&mut self, rules: &Rules, number: &Number) {
        let bounds = [
            (&rules.minimum, [Ordering::Greater, Ordering::Equal].as_slice(), "at least"),
            (&rules.maximum, &[Ordering::Less, Ordering::Equal], "at most"),
            (&rules.exclusive_minimum, &[Ordering::Greater], "more than"),
            (&rules.exclusive_maximum, &[Ordering::Less], "less than"),
        ];
        for (bound, allowed, words) in bounds {
            let Some(bound) = bound else { continue };
            if !compare(number, bound).is_some_and(|order| allowed.contains(&order)) {
                self.report(format!("is {number}: it must be {words} {bound}"));
            }
        }
    }

    fn length(&mut self, (min, max): (Option<u64>, Option<u64>), length: u64, unit: &str) {
        if let Some(min) = min.filter(|min| length < *min) {
            self.report(format!("has {length} {unit}: it must have at least {min}"));
        }
        if let Some(max) = max.filter(|max| *max < length) {
            self.report(format!("has {length} {unit}: it must have at most {max}"));
        }
    }

    fn array(&mut self, rules: &Rules, items: &[Value]) {
        self.length((rules.min_items, rules.max_items), items.len() as u64, "items");
        let Some(schema) = &rules.items else { return };
        for (index, item) in items.iter().enumerate() {
            if self.found.len() >= MAX_VIOLATIONS {
                return;
            }
            self.within(&format!("[{index}]"), |check| check.schema(schema, item));
        }
    }

    fn object(&mut self, rules: &Rules, members: &Map<String, Value>) {
        let bounds = (rules.min_properties, rules.max_properties);
        self.length(bounds, members.len() as u64, "members");
        for name in rules.required.iter().filter(|name| !members.contains_key(*name)) {
            let expectation =
                rules.properties.get(name).map_or("given".into(), Schema::expectation);
            self.within(name, |check| {
                check.report(format!("is missing: it must be {expectation}"));
            });
        }
        for (name, value) in members {
            if self.found.len() >= MAX_VIOLATIONS {
                return;
            }
            let step: String = name.chars().take(MAX_QUOTE).flat_map(char::escape_debug).collect();
            match (rules.properties.get(name), &rules.additional_properties) {
                (Some(schema), _) => self.within(&step, |check| check.schema(schema, value)),
                (None, None | Some(Schema::Anything)) => {}
                (None, Some(Schema::Nothing)) => {
                    let problem = format!("is not known: {}", known(name, rules));
                    self.within(&step, |check| check.report(problem));
                }
                (None, Some(schema)) => self.within(&step, |check| check.schema(schema, value)),
            }
        }
    }

    fn combinations(&mut self, rules: &Rules, value: &Value) {
        for schema in &rules.all_of {
            self.schema(schema, value);
        }
        let fitting = |schemas: &[Schema]| {
            schemas.iter().filter(|schema| schema.check(value).is_empty()).count()
        };
        if let Some(schemas) = &rules.any_of
            && fitting(schemas) == 0
        {
            let forms = listed("", schemas.iter().map(Schema::expectation));
            self.report(format!("has none of the forms it may have: {forms}"));
        }
        if let Some(schemas) = &rules.one_of {
            let fitting = fitting(schemas);
            if fitting != 1 {
                let forms = listed("", schemas.iter().map(Schema::expectation));
                let of = "of the forms of which it must have one";
                self.report(format!("has {fitting} {of}: {forms}"));
            }
        }
    }
}

/// What could have been meant by a name that is not known.
fn known(name: &str, rules: &Rules) -> String {
    let names = || rules.properties.keys().map(String::as_str);
    if let Some(nearest) = nearest(name, names()) {
        return format!("did you mean `{nearest}`?");
    }
    if rules.properties.is_empty() {
        return "there are none".into();
    }
    listed("there are ", names().map(|name| format!("`{name}`")))
}

impl Types {
    fn allow(&self, value: &Value) -> bool {
        self.0.is_empty() || self.0.iter().any(|kind| kind.allows(value))
    }
}

impl std::fmt::Display for Types {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("a value");
        }
        for (position, kind) in self.0.iter().enumerate() {
            f.write_str(if position == 0 { "" } else { " or " })?;
            f.write_str(kind.words())?;
        }
        Ok(())
    }
}

impl Type {
    fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Null, Value::Null)
            | (Self::Boolean, Value::Bool(_))
            | (Self::Number, Value::Number(_))
            | (Self::String, Value::String(_))
            | (Self::Array, Value::Array(_))
            | (Self::Object, Value::Object(_)) => true,
            // Section 6.1.1 of the standard's validation part: 1.0 is an integer.
            (Self::Integer, Value::Number(number)) => {
                !number.is_f64() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
            }
            _ => false,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "true or false",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Equality of JSON Schema: numbers by value, so 1 is 1.0.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => compare(one, other) == Some(Ordering::Equal),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, one)| other.get(name).is_some_and(|other| equal(one, other)))
        }
        _ => one == other,
    }
}

/// Whole numbers exactly, others as floats.
fn compare(one: &Number, other: &Number) -> Option<Ordering> {
    match (one.as_i128(), other.as_i128()) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

fn quote(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("`{}…`", text.get(..end).unwrap_or_default()),
        None => format!("`{text}`"),
    }
}

fn listed(before: &str, names: impl Iterator<Item = String>) -> String {
    let mut text = String::from(before);
    for (position, name) in names.enumerate() {
        if position == MAX_LISTED {
            text.push_str(", …");
            break;
        }
        let separator = if position == 0 { "" } else { ", " };
        // Writing to a string can't fail.
        let _ = write!(text, "{separator}{name}");
    }
    text
}
