//! JSON Schema 2020-12, as far as arguments of tools need it.
//!
//! Checked: `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`,
//! `minProperties`, `maxProperties`, `minItems`, `maxItems`, `minLength`, `maxLength`, `minimum`,
//! `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `allOf`, `anyOf`, `oneOf`. Annotations (`title`, `description`, `format`,
//! …) are read over, as the standard wants it. Any other keyword makes the schema unreadable:
//! what can't be checked must not look checked.
//!
//! Own code, because this stands in the way of every call: crate `jsonschema` 0.60 without
//! default features takes 2 ms for its first schema (it parses all meta-schemas), 5 MB of
//! program and 110 crates; this takes 10 to 30 µs.

mod check;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Number, Value};
use std::collections::BTreeMap;
use std::fmt;

/// A schema, read and known to be checkable in full.
#[derive(Debug)]
pub(crate) enum Schema {
    /// `true`: anything fits.
    Anything,
    /// `false`: nothing fits.
    Nothing,
    /// Each rule on its own.
    Rules(Box<Rules>),
}

/// The keywords of one schema object.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Rules {
    #[serde(rename = "type")]
    types: Types,
    #[serde(rename = "enum")]
    values: Option<Vec<Value>>,
    #[serde(rename = "const", deserialize_with = "present")]
    constant: Option<Value>,
    properties: BTreeMap<String, Schema>,
    required: Vec<String>,
    additional_properties: Option<Schema>,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
    items: Option<Schema>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    minimum: Option<Number>,
    maximum: Option<Number>,
    exclusive_minimum: Option<Number>,
    exclusive_maximum: Option<Number>,
    all_of: Vec<Schema>,
    any_of: Option<Vec<Schema>>,
    one_of: Option<Vec<Schema>>,

    #[serde(rename = "$schema")]
    _schema: IgnoredAny,
    #[serde(rename = "$id")]
    _id: IgnoredAny,
    #[serde(rename = "$comment")]
    _comment: IgnoredAny,
    #[serde(rename = "title")]
    _title: IgnoredAny,
    #[serde(rename = "description")]
    _description: IgnoredAny,
    #[serde(rename = "default")]
    _default: IgnoredAny,
    #[serde(rename = "examples")]
    _examples: IgnoredAny,
    #[serde(rename = "format")]
    _format: IgnoredAny,
    #[serde(rename = "contentEncoding")]
    _content_encoding: IgnoredAny,
    #[serde(rename = "contentMediaType")]
    _content_media_type: IgnoredAny,
    #[serde(rename = "deprecated")]
    _deprecated: IgnoredAny,
    #[serde(rename = "readOnly")]
    _read_only: IgnoredAny,
    #[serde(rename = "writeOnly")]
    _write_only: IgnoredAny,
}

/// One of the seven types of JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

/// The types a value may have; none named means that any will do.
#[derive(Debug, Default)]
struct Types(Vec<Type>);

impl Schema {
    /// Reads a schema; the error names what can't be read or checked.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SchemaVisitor)
    }
}

struct SchemaVisitor;

impl<'de> Visitor<'de> for SchemaVisitor {
    type Value = Schema;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a schema (an object or a boolean)")
    }

    fn visit_bool<E: Error>(self, all: bool) -> Result<Schema, E> {
        Ok(if all { Schema::Anything } else { Schema::Nothing })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Schema, A::Error> {
        let rules = Rules::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Schema::Rules(Box::new(rules)))
    }
}

impl<'de> Deserialize<'de> for Types {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let types = match Value::deserialize(deserializer)? {
            Value::Array(types) => types,
            one => vec![one],
        };
        let types = types.into_iter().map(Type::deserialize).collect::<Result<_, _>>();
        types.map(Types).map_err(D::Error::custom)
    }
}

/// `null` is a constant like any other; only a missing member is none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests;
