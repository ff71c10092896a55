//! An answer of a server with something added to it; all else stays as the server wrote it.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::fmt;

/// The members of an object, in order, unread.
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// `line`, an answer with a result, with a member of the result's `_meta`. `None` for a result that
/// is no object: then there is no place for it.
pub(super) fn with_meta(line: &[u8], name: &str, value: &Value) -> Option<Vec<u8>> {
    let mut answer: Members = serde_json::from_slice(line).ok()?;
    let mut result: Members = serde_json::from_str(answer.get("result")?.get()).ok()?;
    let meta = result.get("_meta").map_or("{}", RawValue::get);
    let mut meta: Members = serde_json::from_str(meta).ok()?;
    meta.set(name, to_raw_value(value).ok()?);
    result.set("_meta", to_raw_value(&meta).ok()?);
    answer.set("result", to_raw_value(&result).ok()?);
    serde_json::to_vec(&answer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        let added = with_meta(line.as_bytes(), "x", &json!({"a": 1}));
        assert_eq!(added.map(|line| String::from_utf8(line).unwrap()).as_deref(), expected);
    }

    #[test]
    fn what_the_server_wrote_stays_as_it_was() {
        check(
            r#"{"jsonrpc":"2.0","id":1,"result":{"n":12345678901234567890.10,"b":[ ]}}"#,
            Some(
                r#"{"jsonrpc":"2.0","id":1,"result":{"n":12345678901234567890.10,"b":[ ],"_meta":{"x":{"a":1}}}}"#,
            ),
        );
        check(
            r#"{"id":1,"result":{"_meta":{"y":2,"x":0}}}"#,
            Some(r#"{"id":1,"result":{"_meta":{"y":2,"x":{"a":1}}}}"#),
        );
    }

    #[test]
    fn a_result_that_is_no_object_has_no_place_for_it() {
        check(r#"{"id":1,"result":[]}"#, None);
        check(r#"{"id":1,"error":{}}"#, None);
    }
}
