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

/// `line`, an answer, with a member of the result's `_meta`, or of the error's `data`. Data of another kind
/// becomes the member `data` of its own object. `None` for a result that is no object: then there is no
/// place for it.
pub(super) fn with_news(line: &[u8], name: &str, value: &Value) -> Option<Vec<u8>> {
    let mut answer: Members = serde_json::from_slice(line).ok()?;
    let (outcome, place) = match answer.get("error") {
        Some(_) => ("error", "data"),
        None => ("result", "_meta"),
    };
    let mut told: Members = serde_json::from_str(answer.get(outcome)?.get()).ok()?;
    let known = told.get(place).map_or("{}", RawValue::get);
    let mut news = match serde_json::from_str::<Members>(known) {
        Ok(members) => members,
        Err(_) if place == "data" && known == "null" => Members(Vec::new()),
        Err(_) if place == "data" => {
            Members(vec![("data".to_owned(), told.get(place)?.to_owned())])
        }
        Err(_) => return None,
    };
    news.set(name, to_raw_value(value).ok()?);
    told.set(place, to_raw_value(&news).ok()?);
    answer.set(outcome, to_raw_value(&told).ok()?);
    serde_json::to_vec(&answer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        let added = with_news(line.as_bytes(), "x", &json!({"a": 1}));
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
        check(r#"{"id":1,"result":{"_meta":[]}}"#, None);
        check(r#"{"id":1,"error":[]}"#, None);
        check(r#"{"id":1}"#, None);
    }

    #[test]
    fn an_error_has_it_in_its_data_beside_what_the_server_said() {
        check(
            r#"{"id":1,"error":{"code":1,"message":"m"}}"#,
            Some(r#"{"id":1,"error":{"code":1,"message":"m","data":{"x":{"a":1}}}}"#),
        );
        check(
            r#"{"id":1,"error":{"code":1,"data":{"y":[ ]},"message":"m"}}"#,
            Some(r#"{"id":1,"error":{"code":1,"data":{"y":[ ],"x":{"a":1}},"message":"m"}}"#),
        );
        check(
            r#"{"id":1,"error":{"data":"why"}}"#,
            Some(r#"{"id":1,"error":{"data":{"data":"why","x":{"a":1}}}}"#),
        );
        check(
            r#"{"id":1,"error":{"data":null}}"#,
            Some(r#"{"id":1,"error":{"data":{"x":{"a":1}}}}"#),
        );
    }
}
