//! Values as every file format here has them, in the order in which they are to be written.

use jsonc_parser::cst::CstInputValue;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

/// A value to be written. Objects keep their order, which `serde_json::Value` does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// True or false.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Plain>),
    /// An object.
    Map(Vec<(String, Plain)>),
}

impl Plain {
    /// A list of strings.
    pub(crate) fn texts(items: &[String]) -> Self {
        Self::List(items.iter().cloned().map(Self::Text).collect())
    }

    /// An object of strings.
    pub(crate) fn pairs(pairs: &[(String, String)]) -> Self {
        let pair = |(name, value): &(String, String)| (name.clone(), Self::Text(value.clone()));
        Self::Map(pairs.iter().map(pair).collect())
    }
}

impl From<&str> for Plain {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Self::Map(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl From<Plain> for CstInputValue {
    fn from(value: Plain) -> Self {
        match value {
            Plain::Bool(flag) => Self::Bool(flag),
            Plain::Text(text) => Self::String(text),
            Plain::List(items) => Self::Array(items.into_iter().map(Into::into).collect()),
            Plain::Map(members) => {
                Self::Object(members.into_iter().map(|(name, v)| (name, v.into())).collect())
            }
        }
    }
}

impl From<Plain> for toml_edit::Value {
    fn from(value: Plain) -> Self {
        match value {
            Plain::Bool(flag) => flag.into(),
            Plain::Text(text) => text.into(),
            Plain::List(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Plain::Map(members) => {
                let members = members.into_iter().map(|(name, value)| (name, Self::from(value)));
                Self::InlineTable(members.collect())
            }
        }
    }
}
