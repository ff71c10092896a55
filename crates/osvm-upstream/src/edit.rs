//! Parameters on their way to a server: `_meta` is edited, the rest stays the text it is.
//!
//! # Invariants
//!
//! - Members keep their order and their text. Line breaks between tokens become spaces, since on
//!   a pipe a message is a line.
//! - What `_meta` says about one hop (revision, capabilities, progress token) is said anew.

use crate::words::{Era, META_CAPABILITIES, META_INFO, META_LEVEL, META_TOKEN, META_VERSION};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// What `_meta` is to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta<'a> {
    pub(crate) era: Era,
    /// Only written in the modern era, and so are the next three.
    pub(crate) version: &'a str,
    pub(crate) capabilities: Option<&'a RawValue>,
    pub(crate) info: Option<&'a RawValue>,
    pub(crate) level: Option<&'a str>,
    /// Whether progress is wanted although the parameters have no token.
    pub(crate) progress: bool,
}

/// Parameters, and the token that stood in them.
#[derive(Debug)]
pub(crate) struct Edited {
    /// `None` where there is nothing to say.
    pub(crate) text: Option<String>,
    pub(crate) token: Option<Box<RawValue>>,
}

/// Members of an object, in their order.
pub(crate) struct Members<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object; `None` for anything else.
    pub(crate) fn read(value: &'a RawValue) -> Option<Self> {
        serde_json::from_str(value.get()).ok()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    pub(crate) fn write(&self) -> String {
        let mut text = String::with_capacity(64);
        text.push('{');
        for (key, value) in &self.0 {
            push_member(&mut text, key, value.get());
        }
        text.push('}');
        text
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Text(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Walk)
    }
}

/// Borrows where it can.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Edits `params` for request `id`; `None` when they are no object.
pub(crate) fn params(params: Option<&RawValue>, meta: &Meta<'_>, id: u64) -> Option<Edited> {
    let members = match params {
        Some(params) => Members::read(params)?,
        None => Members(Vec::new()),
    };
    let old = members.get("_meta").map(Members::read);
    let Members(old) = old.flatten().unwrap_or(Members(Vec::new()));
    let token = old.iter().find(|(key, _)| key == META_TOKEN).map(|(_, token)| (*token).to_owned());
    let text = write_meta(&old, meta, (token.is_some() || meta.progress).then_some(id));
    let len = params.map_or(0, |params| params.get().len());
    let mut out = String::with_capacity(len.saturating_add(text.len()).saturating_add(16));
    out.push('{');
    for (key, value) in &members.0 {
        if key != "_meta" {
            push_member(&mut out, key, value.get());
        }
    }
    // An empty `_meta` that was there stays there: it is not ours to judge.
    if text != "{}" || members.get("_meta").is_some() {
        push_member(&mut out, "_meta", &text);
    }
    out.push('}');
    let text = (out != "{}" || params.is_some()).then_some(out);
    Some(Edited { text, token })
}

fn write_meta(old: &[(Cow<'_, str>, &RawValue)], meta: &Meta<'_>, token: Option<u64>) -> String {
    let ours = [META_VERSION, META_CAPABILITIES, META_INFO, META_LEVEL, META_TOKEN];
    let mut text = String::from("{");
    for (key, value) in old.iter().filter(|(key, _)| !ours.contains(&key.as_ref())) {
        push_member(&mut text, key, value.get());
    }
    if meta.era == Era::Modern {
        push_member(&mut text, META_VERSION, &quoted(meta.version));
        push_member(&mut text, META_CAPABILITIES, meta.capabilities.map_or("{}", RawValue::get));
        let own = crate::words::own_info();
        push_member(&mut text, META_INFO, meta.info.map_or(&own, RawValue::get));
        if let Some(level) = meta.level {
            push_member(&mut text, META_LEVEL, &quoted(level));
        }
    }
    if let Some(token) = token {
        push_member(&mut text, META_TOKEN, &token.to_string());
    }
    text.push('}');
    text
}

/// `params` of a notification about progress, with the token that the request came with.
pub(crate) fn with_token(params: &RawValue, token: Option<&RawValue>) -> Option<Box<RawValue>> {
    let mut members = Members::read(params)?;
    let place = members.0.iter_mut().find(|(key, _)| key == META_TOKEN)?;
    place.1 = token?;
    RawValue::from_string(members.write()).ok()
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    // A string can always be written.
    serde_json::to_string(text).unwrap_or_default()
}

fn push_member(text: &mut String, key: &str, value: &str) {
    if !text.ends_with('{') || text.len() > 1 {
        text.push(',');
    }
    text.push_str(&quoted(key));
    text.push(':');
    push_flat(text, value);
}

/// Adds JSON without the line breaks between its tokens; inside strings there can be none.
fn push_flat(text: &mut String, value: &str) {
    for (n, piece) in value.split(['\n', '\r']).enumerate() {
        if n > 0 {
            text.push(' ');
        }
        text.push_str(piece);
    }
}

/// A message as one line, without its end.
pub(crate) fn request(id: u64, method: &str, params: Option<&str>) -> String {
    message(&format!(r#""id":{id},"method":{}"#, quoted(method)), params)
}

/// A notification.
pub(crate) fn notification(method: &str, params: Option<&str>) -> String {
    message(&format!(r#""method":{}"#, quoted(method)), params)
}

fn message(head: &str, params: Option<&str>) -> String {
    let len = head.len().saturating_add(params.map_or(0, str::len)).saturating_add(40);
    let mut text = String::with_capacity(len);
    text.push_str(r#"{"jsonrpc":"2.0","#);
    text.push_str(head);
    if let Some(params) = params {
        text.push_str(r#","params":"#);
        push_flat(&mut text, params);
    }
    text.push('}');
    text
}

/// The answer to a request of the server.
pub(crate) fn answer(id: &RawValue, outcome: Result<&RawValue, &RawValue>) -> String {
    let (word, value) = match outcome {
        Ok(result) => ("result", result),
        Err(error) => ("error", error),
    };
    let mut text = format!(r#"{{"jsonrpc":"2.0","id":{id},"{word}":"#);
    push_flat(&mut text, value.get());
    text.push('}');
    text
}

#[cfg(test)]
mod tests;
