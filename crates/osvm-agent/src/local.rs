//! Planning without a model: the tool whose words fit best, with the arguments that can be
//! recognised. It says what it is, and asks before it runs.
//!
//! # Not here
//!
//! - Any understanding: words that no tool has are not guessed at.

use crate::catalog::{Catalog, Tool};
use crate::conversation::Call;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Calls of one plan.
const MOST_CALLS: usize = 16;

/// What could be made of a request.
#[derive(Debug)]
pub enum Plan {
    /// These calls, all arguments filled.
    Calls(Vec<Call>),
    /// This tool fits, and these arguments of it were not found in the request.
    Missing {
        /// The tool.
        tool: String,
        /// The names of its arguments.
        arguments: Vec<String>,
    },
    /// No tool has any of these words.
    NoTool,
}

/// Plans `request` with the tools there are.
pub fn plan(catalog: &Catalog, request: &str) -> Plan {
    let values = Values::of(request);
    let found = catalog.search(&values.words);
    let mut missing = None;
    for (tool, _) in found.iter().take(5) {
        match fill(tool, &values, request) {
            Ok(calls) => return Plan::Calls(calls),
            Err(arguments) => {
                missing.get_or_insert_with(|| Plan::Missing { tool: tool.name.clone(), arguments });
            }
        }
    }
    missing.unwrap_or(Plan::NoTool)
}

/// What was recognised in a request.
#[derive(Debug, Default)]
struct Values {
    /// The request without what was recognised.
    words: String,
    addresses: Vec<String>,
    signatures: Vec<String>,
    numbers: Vec<Value>,
    quoted: Vec<String>,
    urls: Vec<String>,
}

impl Values {
    fn of(request: &str) -> Self {
        let mut values = Self::default();
        let mut rest = String::new();
        // Quoted text first: whatever stands in it is text.
        for (index, piece) in request.split('"').enumerate() {
            let closed = index % 2 == 1;
            if closed {
                values.quoted.push(piece.to_owned());
            } else {
                rest.push_str(piece);
                rest.push(' ');
            }
        }
        for word in rest.split_whitespace() {
            let word = word.trim_matches(|c: char| {
                matches!(c, ',' | '.' | ';' | '?' | '!' | '(' | ')' | '\'')
            });
            if is_base58(word) && (86..=88).contains(&word.len()) {
                values.signatures.push(word.into());
            } else if is_base58(word) && (32..=44).contains(&word.len()) {
                values.addresses.push(word.into());
            } else if word.starts_with("https://") || word.starts_with("http://") {
                values.urls.push(word.into());
            } else if let Some(number) = number(word) {
                values.numbers.push(number);
            } else {
                values.words.push_str(word);
                values.words.push(' ');
            }
        }
        values
    }
}

/// Base58 as Bitcoin and Solana write it: without 0, O, I and l.
fn is_base58(word: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() && !matches!(c, '0' | 'O' | 'I' | 'l');
    !word.is_empty() && word.chars().all(letter)
}

/// A number as it was typed; its text is kept, so nothing is rounded.
fn number(word: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(word).ok()?;
    value.is_number().then_some(value)
}

#[derive(Debug, Default, Deserialize)]
struct Schema {
    #[serde(default)]
    properties: BTreeMap<String, Property>,
    #[serde(default)]
    required: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Property {
    #[serde(default)]
    r#type: Option<Value>,
    #[serde(default, rename = "enum")]
    one_of: Option<Vec<Value>>,
}

impl Property {
    fn is(&self, kind: &str) -> bool {
        match &self.r#type {
            Some(Value::String(name)) => name == kind,
            Some(Value::Array(names)) => names.iter().any(|name| name == kind),
            _ => false,
        }
    }
}

/// The calls of one tool that a request means, or the arguments that are missing.
fn fill(tool: &Tool, values: &Values, request: &str) -> Result<Vec<Call>, Vec<String>> {
    let schema: Schema = serde_json::from_str(tool.input_schema.get()).unwrap_or_default();
    // The one argument that several values were given for makes several calls.
    let many = schema.properties.iter().find_map(|(name, property)| {
        let given = candidates(name, property, values, request);
        (given.len() > 1 && schema.required.contains(name)).then_some((name, given.len()))
    });
    let count = many.map_or(1, |(_, count)| count.min(MOST_CALLS));
    let mut calls = Vec::new();
    for index in 0..count {
        let mut taken = Taken::default();
        let (mut arguments, mut missing) = (Map::new(), Vec::new());
        for (name, property) in &schema.properties {
            let needed = schema.required.contains(name);
            let given = candidates(name, property, values, request);
            let at = if many.is_some_and(|(many, _)| many == name) {
                index
            } else {
                taken.next(name, property)
            };
            match given.get(at) {
                Some(value) => _ = arguments.insert(name.clone(), value.clone()),
                None if needed => missing.push(name.clone()),
                None => {}
            }
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        let Ok(arguments) = to_raw_value(&arguments) else { return Err(Vec::new()) };
        calls.push(Call { id: format!("local_{index}"), name: tool.name.clone(), arguments });
    }
    Ok(calls)
}

/// Values of one kind go to the arguments of that kind one after the other.
#[derive(Default)]
struct Taken(BTreeMap<&'static str, usize>);

impl Taken {
    fn next(&mut self, name: &str, property: &Property) -> usize {
        let kind = match kind(name, property) {
            Some(kind) => kind,
            None => return 0,
        };
        let next = self.0.entry(kind).or_insert(0);
        *next += 1;
        *next - 1
    }
}

/// What an argument takes, by its schema and its name.
fn kind(name: &str, property: &Property) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if property.one_of.is_some() {
        return None;
    }
    if property.is("integer") || property.is("number") {
        return Some("number");
    }
    if !property.is("string") {
        return None;
    }
    if has(&["signature"]) {
        Some("signature")
    } else if has(&[
        "address",
        "pubkey",
        "public_key",
        "publickey",
        "owner",
        "mint",
        "account",
        "wallet",
    ]) {
        Some("address")
    } else if has(&["url", "uri"]) {
        Some("url")
    } else {
        Some("text")
    }
}

/// The values of a request that fit an argument.
fn candidates(name: &str, property: &Property, values: &Values, request: &str) -> Vec<Value> {
    let texts = |texts: &[String]| texts.iter().cloned().map(Value::String).collect::<Vec<_>>();
    if let Some(one_of) = &property.one_of {
        let said = |value: &&Value| {
            let word = value.as_str().unwrap_or_default().to_lowercase();
            !word.is_empty()
                && values.words.to_lowercase().split_whitespace().any(|said| said == word)
        };
        return one_of.iter().filter(said).take(1).cloned().collect();
    }
    match kind(name, property) {
        Some("signature") => texts(&values.signatures),
        Some("address") => texts(&values.addresses),
        Some("url") => texts(&values.urls),
        Some("number") => values.numbers.clone(),
        Some(_) if !values.quoted.is_empty() => texts(&values.quoted),
        // `echo: some words` says the words after the colon.
        Some(_) => request
            .split_once(": ")
            .map(|(_, text)| Value::String(text.trim().into()))
            .into_iter()
            .collect(),
        None => Vec::new(),
    }
}

/// The arguments of `/call server tool {json}`.
///
/// # Errors
///
/// What is wrong with them, in words.
pub fn arguments(text: &str) -> Result<Box<RawValue>, String> {
    let text = if text.trim().is_empty() { "{}" } else { text.trim() };
    let raw: Box<RawValue> = serde_json::from_str(text)
        .map_err(|error| format!("the arguments are not JSON: {error}"))?;
    if raw.get().starts_with('{') { Ok(raw) } else { Err("the arguments are not an object".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "So11111111111111111111111111111111111111112";
    const OTHER: &str = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";

    fn catalog() -> Catalog {
        let tools = [
            r#"{"name":"solana__get_balance","description":"The balance of an account","inputSchema":
                {"type":"object","properties":{"address":{"type":"string"},"commitment":
                {"type":"string","enum":["confirmed","finalized"]}},"required":["address"]}}"#,
            r#"{"name":"solana__request_airdrop","description":"Asks for test money","inputSchema":
                {"type":"object","properties":{"address":{"type":"string"},"lamports":
                {"type":"integer"}},"required":["address","lamports"]}}"#,
            r#"{"name":"system__echo","description":"Says what it was told","inputSchema":
                {"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}}"#,
        ];
        Catalog::new(tools.iter().map(|tool| serde_json::from_str(tool).unwrap()).collect())
    }

    #[track_caller]
    fn check(request: &str, expected: &[(&str, &str)]) {
        let Plan::Calls(calls) = plan(&catalog(), request) else {
            panic!("no calls for {request}")
        };
        let calls: Vec<(&str, &str)> =
            calls.iter().map(|call| (call.name.as_str(), call.arguments.get())).collect();
        assert_eq!(calls, expected);
    }

    #[test]
    fn the_tool_with_the_words_gets_what_looks_like_its_arguments() {
        let balance = format!(r#"{{"address":"{ADDRESS}"}}"#);
        check(&format!("what is the balance of {ADDRESS}?"), &[("solana__get_balance", &balance)]);
        let finalized = format!(r#"{{"address":"{ADDRESS}","commitment":"finalized"}}"#);
        check(&format!("finalized balance of {ADDRESS}"), &[("solana__get_balance", &finalized)]);
        let airdrop = format!(r#"{{"address":"{ADDRESS}","lamports":1000000000}}"#);
        check(
            &format!("request an airdrop of 1000000000 lamports to {ADDRESS}"),
            &[("solana__request_airdrop", &airdrop)],
        );
        check(r#"echo "hello there""#, &[("system__echo", r#"{"text":"hello there"}"#)]);
        check("echo: hello there", &[("system__echo", r#"{"text":"hello there"}"#)]);
    }

    #[test]
    fn two_addresses_are_two_calls() {
        let one = format!(r#"{{"address":"{ADDRESS}"}}"#);
        let other = format!(r#"{{"address":"{OTHER}"}}"#);
        check(
            &format!("balance of {ADDRESS} and {OTHER}"),
            &[("solana__get_balance", &one), ("solana__get_balance", &other)],
        );
    }

    #[test]
    fn what_is_missing_is_said_and_what_no_tool_does_is_not_guessed() {
        let missing = plan(&catalog(), "what is my balance");
        assert!(
            matches!(&missing, Plan::Missing { tool, arguments }
                if tool == "solana__get_balance" && arguments == &["address"]),
            "{missing:?}"
        );
        assert!(matches!(plan(&catalog(), "sing a song"), Plan::NoTool));
        assert!(matches!(plan(&catalog(), ""), Plan::NoTool));
    }

    #[test]
    fn arguments_of_a_call_by_hand_are_an_object() {
        assert_eq!(arguments(" {\"a\": 1.0} ").unwrap().get(), "{\"a\": 1.0}");
        assert_eq!(arguments("").unwrap().get(), "{}");
        assert!(arguments("[1]").is_err());
        assert!(arguments("{").is_err());
    }
}
