//! Tools of the agent's own: they touch nothing but its memory, so they run in no virtual machine.

use super::Agent;
use crate::catalog::Catalog;
use crate::conversation::Call;
use crate::model::ToolForModel;
use crate::results::READ_ON;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::PoisonError;

/// Finds tools where there are too many to show.
pub(super) const SEARCH: &str = "osvm_search_tools";

/// Tools that one search finds.
const FOUND: usize = 8;

/// One of them.
#[derive(Debug)]
pub(super) struct Own {
    name: &'static str,
    description: &'static str,
    schema: Box<RawValue>,
    pub(super) only_with_many: bool,
}

impl Own {
    pub(super) fn for_model(&self) -> ToolForModel<'_> {
        ToolForModel { name: self.name, description: self.description, input_schema: &self.schema }
    }
}

/// All of them.
pub(super) fn definitions() -> Vec<Own> {
    // Constants that are JSON can't fail to be JSON.
    let schema = |text: &str| RawValue::from_string(text.into()).unwrap_or_default();
    vec![
        Own {
            name: SEARCH,
            description: "Finds tools by words and makes them callable. There are more tools than \
                are shown; search before you say that something can't be done.",
            schema: schema(
                r#"{"type":"object","properties":{"words":{"type":"string","description":"what the tool should do"}},"required":["words"]}"#,
            ),
            only_with_many: true,
        },
        Own {
            name: READ_ON,
            description: "Reads on in a result that was cut because it is long.",
            schema: schema(
                r#"{"type":"object","properties":{"result":{"type":"integer"},"offset":{"type":"integer","minimum":0}},"required":["result","offset"]}"#,
            ),
            only_with_many: false,
        },
    ]
}

pub(super) fn is_own(name: &str) -> bool {
    name == SEARCH || name == READ_ON
}

/// The answer of a tool of the agent's own, and whether it is an error; `None` for other tools.
pub(super) fn call(agent: &Agent, call: &Call) -> Option<(String, bool)> {
    let answer = match call.name.as_str() {
        SEARCH => search(&agent.catalog, &call.arguments),
        READ_ON => read_on(agent, &call.arguments),
        _ => return None,
    };
    Some(match answer {
        Ok(text) => (text, false),
        Err(text) => (text, true),
    })
}

#[derive(Deserialize)]
struct Words {
    words: String,
}

fn search(catalog: &Catalog, arguments: &RawValue) -> Result<String, String> {
    let Words { words } =
        serde_json::from_str(arguments.get()).map_err(|error| error.to_string())?;
    let found = catalog.search(&words);
    if found.is_empty() {
        return Err("no tool fits these words: try others".into());
    }
    let lines = found.iter().take(FOUND).map(|(tool, _)| {
        let first = tool.description.lines().next().unwrap_or_default();
        format!("{}: {first}", tool.name)
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// The names that a search found.
pub(super) fn found(catalog: &Catalog, arguments: &RawValue) -> Vec<String> {
    let Ok(Words { words }) = serde_json::from_str(arguments.get()) else { return Vec::new() };
    catalog.search(&words).iter().take(FOUND).map(|(tool, _)| tool.name.clone()).collect()
}

fn read_on(agent: &Agent, arguments: &RawValue) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Wanted {
        result: u64,
        offset: usize,
    }
    let Wanted { result, offset } =
        serde_json::from_str(arguments.get()).map_err(|error| error.to_string())?;
    let results = agent.results.lock().unwrap_or_else(PoisonError::into_inner);
    results.read_on(result, offset, agent.limits.result)
}
