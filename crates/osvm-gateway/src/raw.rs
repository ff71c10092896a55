//! Objects of JSON whose members can be changed while all others stay the text they are.
//!
//! # Invariants
//!
//! - Only the top level is read, so neither depth nor length of what is inside matters.
//! - What is not set or removed keeps its place, its number text and its unknown members.

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Members an object may have. None that means something has as many.
const MAX_MEMBERS: usize = 10_000;

/// An object.
#[derive(Debug, Default)]
pub(crate) struct Object<'a> {
    members: Vec<(Cow<'a, str>, Member<'a>)>,
}

#[derive(Debug)]
enum Member<'a> {
    Kept(&'a RawValue),
    New(Box<RawValue>),
    Within(Object<'a>),
}

impl<'a> Object<'a> {
    /// Reads the top level of `raw`; `None` when it is no object.
    pub(crate) fn read(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    /// A member of the text that was read. Of several with this name the last counts, as with
    /// most readers.
    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        self.members.iter().rev().find(|(found, _)| found == name).and_then(|(_, member)| {
            match member {
                Member::Kept(raw) => Some(*raw),
                Member::New(raw) => Some(raw),
                Member::Within(_) => None,
            }
        })
    }

    /// The text of a member, where it is one.
    pub(crate) fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        text(self.get(name)?)
    }

    /// Puts `value` in the place of the member called `name`, or behind all others.
    pub(crate) fn set(&mut self, name: &'static str, value: Box<RawValue>) {
        self.put(name, Member::New(value));
    }

    /// Sets a member of the object that is the member `outer`, which is made where it is none.
    pub(crate) fn set_within(
        &mut self,
        outer: &'static str,
        name: &'static str,
        value: Box<RawValue>,
    ) {
        let mut within = match self.take(outer) {
            Some(Member::Kept(raw)) => Object::read(raw).unwrap_or_default(),
            Some(Member::Within(object)) => object,
            Some(Member::New(_)) | None => Object::default(),
        };
        within.set(name, value);
        self.put(outer, Member::Within(within));
    }

    /// Adds a member behind all others.
    pub(crate) fn push(&mut self, name: String, value: Box<RawValue>) {
        self.members.push((Cow::Owned(name), Member::New(value)));
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// The members of the text that was read.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.members.iter().filter_map(|(name, member)| match member {
            Member::Kept(raw) => Some((&**name, *raw)),
            Member::New(raw) => Some((&**name, &**raw)),
            Member::Within(_) => None,
        })
    }

    /// Leaves out all members called `name`.
    pub(crate) fn remove(&mut self, name: &str) {
        self.members.retain(|(found, _)| found != name);
    }

    /// Leaves out a member of the object that is the member `outer`, and that too if it has no
    /// other.
    pub(crate) fn remove_within(&mut self, outer: &'static str, name: &str) {
        let Some(mut within) = self.get(outer).and_then(Object::read) else { return };
        let before = within.len();
        within.remove(name);
        if within.len() == before {
            return;
        }
        match within.len() {
            0 => self.remove(outer),
            _ => {
                let raw = within.to_raw();
                self.set(outer, raw);
            }
        }
    }

    /// The object as text.
    pub(crate) fn to_raw(&self) -> Box<RawValue> {
        to_raw(self)
    }

    /// Takes the last member of this name out and leaves its place.
    fn take(&mut self, name: &str) -> Option<Member<'a>> {
        let (_, member) = self.members.iter_mut().rev().find(|(found, _)| found == name)?;
        Some(std::mem::replace(member, Member::Within(Object::default())))
    }

    fn put(&mut self, name: &'static str, value: Member<'a>) {
        let Some(at) = self.members.iter().position(|(found, _)| found == name) else {
            self.members.push((Cow::Borrowed(name), value));
            return;
        };
        let mut index = 0;
        self.members.retain(|(found, _)| {
            index += 1;
            found != name || index == at + 1
        });
        if let Some((_, member)) = self.members.get_mut(at) {
            *member = value;
        }
    }
}

/// The text in `raw`, where it is one.
pub(crate) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|Text(text)| text)
}

/// `value` as text. What osvm writes itself always can be.
pub(crate) fn to_raw(value: &(impl Serialize + ?Sized)) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_default()
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.members.len()))?;
        for (name, member) in &self.members {
            match member {
                Member::Kept(raw) => map.serialize_entry(name, raw)?,
                Member::New(raw) => map.serialize_entry(name, raw)?,
                Member::Within(object) => map.serialize_entry(name, object)?,
            }
        }
        map.end()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), raw)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    if MAX_MEMBERS <= members.len() {
                        return Err(A::Error::custom("an object has too many members"));
                    }
                    members.push((name, Member::Kept(raw)));
                }
                Ok(Object { members })
            }
        }
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        from.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn what_is_not_touched_stays_as_it_was() {
        let text =
            r#"{"b":1.0,"a":{"x": [1e400, "\u0041"]},"_meta":{"k":10000000000000000000001}}"#;
        let read = raw(text);
        let mut object = Object::read(&read).unwrap();
        assert_eq!(object.to_raw().get(), text);
        object.set_within("_meta", "osvm/x", raw("1"));
        object.set("a", raw("2"));
        object.set("c", raw("3"));
        object.remove("b");
        let expected = r#"{"a":2,"_meta":{"k":10000000000000000000001,"osvm/x":1},"c":3}"#;
        assert_eq!(object.to_raw().get(), expected);
    }

    #[test]
    fn of_members_with_one_name_the_last_counts_and_one_is_written() {
        let read = raw(r#"{"a":1,"b":2,"a":3}"#);
        let mut object = Object::read(&read).unwrap();
        assert_eq!(object.get("a").unwrap().get(), "3");
        object.set("a", raw("4"));
        assert_eq!(object.to_raw().get(), r#"{"a":4,"b":2}"#);
        object.set_within("b", "x", raw("5"));
        assert_eq!(object.to_raw().get(), r#"{"a":4,"b":{"x":5}}"#);
    }

    #[test]
    fn what_is_no_object_is_none_and_too_many_members_are_none() {
        for text in ["[]", "1", "null", r#""{}""#] {
            assert!(Object::read(&raw(text)).is_none(), "{text}");
        }
        let many = |count| format!("{{{}}}", vec![r#""a":1"#; count].join(","));
        assert!(Object::read(&raw(&many(MAX_MEMBERS))).is_some());
        assert!(Object::read(&raw(&many(MAX_MEMBERS + 1))).is_none());
    }

    #[test]
    fn names_are_read_whatever_their_spelling() {
        let read = raw(r#"{"\u0061":"\u0062"}"#);
        assert_eq!(Object::read(&read).unwrap().text("a").unwrap(), "b");
    }
}
