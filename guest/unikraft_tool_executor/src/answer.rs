//! Reads JSON that came from outside: part by part, and only the parts that are asked for.
//!
//! `serde_json` would be compiled once for every type of answer, and an image has no room for
//! twenty of them. Here an answer is cut into the text of its parts, each checked when it is used.
//!
//! # Invariants
//!
//! - Total: any text gives parts or [`Odd`], which names the part that is not as it should be.
//! - Numbers are never floats: what is not a whole number of 64 bits is refused.

use alloc::borrow::Cow;
use alloc::format;
use core::fmt;
use osvm_protocol::code::TOOL_FAILED;
use osvm_protocol::message::RpcError;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// One part of an answer, not read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    name: &'static str,
    raw: Option<&'a RawValue>,
}

/// A part of an answer is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Odd {
    name: &'static str,
    expected: &'static str,
}

impl From<Odd> for RpcError {
    #[cold]
    fn from(Odd { name, expected }: Odd) -> Self {
        Self::new(TOOL_FAILED, format!("answer cannot be understood: `{name}` is not {expected}"))
    }
}

impl<'a> Part<'a> {
    /// A whole text, which errors call `name`.
    pub(crate) fn new(name: &'static str, raw: &'a RawValue) -> Self {
        Self { name, raw: Some(raw) }
    }

    /// A part that is not there.
    pub(crate) fn missing(name: &'static str) -> Self {
        Self { name, raw: None }
    }

    /// What errors call it.
    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    /// Says that this is not what it should be.
    #[cold]
    pub(crate) fn odd(self, expected: &'static str) -> Odd {
        Odd { name: self.name, expected }
    }

    /// Whether the part is not there at all. `null` is there.
    pub(crate) fn is_missing(self) -> bool {
        self.raw.is_none()
    }

    /// Whether there is nothing: no part, or `null`.
    pub(crate) fn is_nothing(self) -> bool {
        self.raw.is_none_or(|raw| raw.get() == "null")
    }

    /// The text as it is; `null` when the part is missing.
    pub(crate) fn raw(self) -> &'a RawValue {
        self.raw.unwrap_or(RawValue::NULL)
    }

    /// The members of these names; others are skipped.
    pub(crate) fn parts<const N: usize>(
        self,
        names: [&'static str; N],
    ) -> Result<[Part<'a>; N], Odd> {
        let mut parts = names.map(Part::missing);
        pick(self.name, self.raw().get(), &mut parts)?;
        Ok(parts)
    }

    /// Calls `each` for every element of a list, until one fails.
    #[inline(never)]
    pub(crate) fn each(
        self,
        each: &mut dyn FnMut(Part<'a>) -> Result<(), RpcError>,
    ) -> Result<(), RpcError> {
        let mut outcome = Ok(());
        let mut deserializer = serde_json::Deserializer::from_str(self.raw().get());
        let each = Each { name: self.name, each, outcome: &mut outcome };
        let read = each.deserialize(&mut deserializer);
        outcome?;
        Ok(read.map_err(|_| self.odd("a list"))?)
    }

    /// A whole number from 0 to `u64::MAX`.
    pub(crate) fn number(self) -> Result<u64, Odd> {
        self.raw().get().parse().map_err(|_| self.odd("a whole number"))
    }

    /// A whole number, or nothing.
    pub(crate) fn optional_number(self) -> Result<Option<u64>, Odd> {
        if self.is_nothing() { Ok(None) } else { self.number().map(Some) }
    }

    /// A string.
    pub(crate) fn text(self) -> Result<Cow<'a, str>, Odd> {
        let read = serde_json::from_str::<Text<'a>>(self.raw().get());
        read.map(|Text(text)| text).map_err(|_| self.odd("a string"))
    }

    /// A string, or nothing.
    pub(crate) fn optional_text(self) -> Result<Option<Cow<'a, str>>, Odd> {
        if self.is_nothing() { Ok(None) } else { self.text().map(Some) }
    }

    /// `true` or `false`.
    pub(crate) fn flag(self) -> Result<bool, Odd> {
        match self.raw().get() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.odd("true or false")),
        }
    }
}

/// The members of these names of an object that nobody has looked at yet.
pub(crate) fn parts_of<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
) -> Result<[Part<'a>; N], Odd> {
    let mut parts = names.map(Part::missing);
    pick("answer", text, &mut parts)?;
    Ok(parts)
}

#[inline(never)]
fn pick<'a>(name: &'static str, text: &'a str, parts: &mut [Part<'a>]) -> Result<(), Odd> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let picked = Pick(parts).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    picked.map_err(|_| Odd { name, expected: "an object" })
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Fills in the parts that an object has.
struct Pick<'p, 'a>(&'p mut [Part<'a>]);

impl<'a> DeserializeSeed<'a> for Pick<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Pick<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(parts) = self;
        while let Some(at) = map.next_key_seed(NameOf(parts))? {
            match at.and_then(|at| parts.get_mut(at)) {
                // Two values for one name: whoever checks one may use the other.
                Some(part) if part.raw.is_some() => return Err(de::Error::duplicate_field("")),
                Some(part) => part.raw = Some(map.next_value()?),
                None => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }
}

/// Finds out which part a member is.
struct NameOf<'p, 'a>(&'p [Part<'a>]);

impl<'a> DeserializeSeed<'a> for NameOf<'_, '_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameOf<'_, '_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|part| part.name == name))
    }
}

/// Calls a function for every element.
struct Each<'p, 'a> {
    name: &'static str,
    each: &'p mut dyn FnMut(Part<'a>) -> Result<(), RpcError>,
    outcome: &'p mut Result<(), RpcError>,
}

impl<'a> DeserializeSeed<'a> for Each<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for Each<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(raw) = list.next_element()? {
            *self.outcome = (self.each)(Part { name: self.name, raw: Some(raw) });
            if self.outcome.is_err() {
                return Err(de::Error::custom("an element"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    fn part(text: &str) -> Part<'_> {
        Part::new("it", raw(text))
    }

    #[test]
    fn members_are_found_by_name_and_the_rest_is_skipped() {
        let text = r#"{"x":[{"a":1}],"a":5,"\u0062":"t\n","c":null,"d":true}"#;
        let [a, b, c, d, e] = part(text).parts(["a", "b", "c", "d", "e"]).unwrap();
        assert_eq!(a.number(), Ok(5));
        assert_eq!(b.text().unwrap(), "t\n");
        assert!(c.is_nothing() && !c.is_missing() && e.is_nothing() && e.is_missing());
        assert_eq!(
            (d.flag(), c.optional_number(), c.optional_text()),
            (Ok(true), Ok(None), Ok(None))
        );
        assert_eq!(e.number(), Err(Odd { name: "e", expected: "a whole number" }));
        assert_eq!(e.raw().get(), "null");
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused() {
        assert_eq!(part(r#"{"a":1,"a":2}"#).parts(["a"]).unwrap_err(), part("0").odd("an object"));
        assert!(part(r#"{"b":1,"b":2}"#).parts(["a"]).is_ok());
    }

    #[test]
    fn only_whole_numbers_are_numbers() {
        assert_eq!(part("18446744073709551615").number(), Ok(u64::MAX));
        for text in ["18446744073709551616", "1.0", "1e3", "-1", "-0", "\"1\"", "null", "[1]"] {
            assert!(part(text).number().is_err(), "{text}");
        }
    }

    #[test]
    fn lists_end_at_the_first_element_that_is_odd() {
        let mut seen = Vec::new();
        let error = part("[1,2,\"x\",4]")
            .each(&mut |part| {
                seen.push(part.number()?);
                Ok(())
            })
            .unwrap_err();
        assert_eq!(error.message, "answer cannot be understood: `it` is not a whole number");
        assert_eq!(seen, [1, 2]);
        let error = part("{}").each(&mut |_| Ok(())).unwrap_err();
        assert_eq!(error.message, "answer cannot be understood: `it` is not a list");
    }

    proptest! {
        #[test]
        fn any_json_is_parts_or_odd(text in r#"[\[\]{}":,0-9a-c\\n -]{0,40}"#) {
            let Ok(raw) = RawValue::from_string(text) else { return Ok(()) };
            let part = Part::new("it", &raw);
            let _ = (part.number(), part.text(), part.flag(), part.optional_number());
            let _ = part.each(&mut |part| part.parts(["a", ""]).map(drop).map_err(Into::into));
            if let Ok(names) = part.parts(["a", "b"]) {
                let found: Vec<String> = names.iter().map(|part| part.raw().get().into()).collect();
                prop_assert_eq!(found.len(), 2);
            }
        }
    }
}
