//! A call as Cedar sees it: principal, resource, context.

use crate::evaluate::Asked;
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr as _;
use std::time::UNIX_EPOCH;

/// Longest arguments that rules may look at, in bytes.
const MAX_ARGUMENTS: usize = 1024 * 1024;

/// What marks the name of an agent of osvm's.
const AGENT: &str = "agent:";

/// The question, and what is to be known about those in it.
pub(crate) fn request(
    asked: &Asked<'_>,
    use_arguments: bool,
) -> Result<(Request, Entities), String> {
    let (kind, name) = match asked.client.strip_prefix(AGENT) {
        Some(name) => ("Agent", name),
        None => ("Client", asked.client),
    };
    let (name, version) = name.rsplit_once('/').unwrap_or((name, ""));
    let principal = uid(kind, name)?;
    let server = uid("Server", asked.server)?;
    let tool = tool(asked.server, asked.tool)?;
    let version = RestrictedExpression::new_string(version.to_owned());
    let attributes = HashMap::from([("version".to_owned(), version)]);
    let entities = [
        Entity::new(principal.clone(), attributes, HashSet::new()).map_err(text)?,
        Entity::new_no_attrs(tool.clone(), HashSet::from([server.clone()])),
        Entity::new_no_attrs(server, HashSet::new()),
    ];
    let entities = Entities::from_entities(entities, None).map_err(text)?;
    let context = Context::from_pairs(context(asked, use_arguments)?).map_err(text)?;
    let action = uid("Action", "call")?;
    let request = Request::new(principal, action, tool, context, None).map_err(text)?;
    Ok((request, entities))
}

/// A tool by its two names.
pub(crate) fn tool(server: &str, tool: &str) -> Result<EntityUid, String> {
    uid("Tool", &format!("{server}/{tool}"))
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind = EntityTypeName::from_str(kind).map_err(text)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

fn context(
    asked: &Asked<'_>,
    use_arguments: bool,
) -> Result<Vec<(String, RestrictedExpression)>, String> {
    let arguments = match asked.arguments.get() {
        _ if !use_arguments => record([])?,
        long if MAX_ARGUMENTS < long.len() => {
            return Err("the arguments are longer than 1 MiB, which rules do not look at".into());
        }
        json => {
            let mut reader = serde_json::Deserializer::from_str(json);
            let value = Expression.deserialize(&mut reader).map_err(text)?;
            value.unwrap_or(record([])?)
        }
    };
    let since = asked.now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let time = record([
        ("hour", RestrictedExpression::new_long(unix / 3600 % 24)),
        // 1970 began on a Thursday.
        ("weekday", RestrictedExpression::new_long((unix / 86_400 + 3) % 7 + 1)),
        ("unix", RestrictedExpression::new_long(unix)),
    ])?;
    let calls = i64::try_from(asked.calls_last_minute).unwrap_or(i64::MAX);
    let context = [
        ("arguments", arguments),
        ("time", time),
        ("calls_last_minute", RestrictedExpression::new_long(calls)),
        ("read_only", RestrictedExpression::new_bool(asked.read_only)),
        ("destructive", RestrictedExpression::new_bool(asked.destructive)),
    ];
    Ok(context.map(|(name, value)| (name.to_owned(), value)).into())
}

fn record<const N: usize>(
    fields: [(&str, RestrictedExpression); N],
) -> Result<RestrictedExpression, String> {
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(fields).map_err(text)
}

/// JSON as an expression; `null` is none, and is left out of whatever it is in.
///
/// A name that is there twice is an error: the tool might take the other value than the rules do.
#[derive(Clone, Copy)]
struct Expression;

impl<'de> DeserializeSeed<'de> for Expression {
    type Value = Option<RestrictedExpression>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Expression {
    type Value = Option<RestrictedExpression>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(RestrictedExpression::new_bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(RestrictedExpression::new_long(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        // Cedar has no numbers beyond this.
        Ok(Some(match i64::try_from(value) {
            Ok(value) => RestrictedExpression::new_long(value),
            Err(_) => RestrictedExpression::new_string(value.to_string()),
        }))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(RestrictedExpression::new_string(value.to_string())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(RestrictedExpression::new_string(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut set = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            set.extend(item);
        }
        Ok(Some(RestrictedExpression::new_set(set)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(Name(name)) = members.next_key()? {
            let value = members.next_value_seed(self)?;
            if fields.contains_key(&name) {
                return Err(A::Error::custom("the arguments hold a name twice"));
            }
            fields.insert(name, value);
        }
        let there = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        RestrictedExpression::new_record(there).map(Some).map_err(A::Error::custom)
    }
}

struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}
