//! Definitions of configured servers' tools, believed at first sight and no more once they change.
//!
//! What is believed is kept by `osvm-rules`; whoever lists or calls such tools asks here.

use crate::context::Context;
use osvm_gateway::Trust;
use osvm_policy::Env;
use osvm_rules::pins::{Definition, Pins};
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

/// The pins of the user, as the gateway asks for them.
#[derive(Debug)]
struct Pinned(Pins);

/// Who knows what is believed.
pub(crate) fn trust(context: &Context, env: &Env) -> Arc<dyn Trust> {
    Arc::new(Pinned(context.pins(env)))
}

impl Trust for Pinned {
    fn changed(&self, server: &str, tools: &[&RawValue]) -> Result<Vec<String>, String> {
        // What has no name is no tool: it is neither shown nor called.
        let tools: Vec<_> = tools.iter().filter_map(|tool| Definition::read(tool)).collect();
        let changed = self.0.check(server, &tools).map_err(|error| chain(&error))?;
        Ok(changed.into_iter().map(|changed| changed.tool).collect())
    }
}

/// Those of the tools that are held back. Told on stderr, for whoever asked for the list.
pub(crate) fn held_back(
    context: &Context,
    env: &Env,
    server: &str,
    tools: &[Box<RawValue>],
) -> BTreeSet<String> {
    let raw: Vec<&RawValue> = tools.iter().map(|tool| &**tool).collect();
    match trust(context, env).changed(server, &raw) {
        Ok(changed) => {
            if !changed.is_empty() {
                context.printer.note(&format!(
                    "warning: server `{server}` has changed {}, so what it changed is held back: \
                     `osvm mcp trust {server} --diff`",
                    changed.join(", ")
                ));
            }
            changed.into_iter().collect()
        }
        Err(why) => {
            context.printer.note(&format!(
                "warning: it is not known what server `{server}` has changed, so all of its \
                 tools are held back: {why}"
            ));
            raw.iter().filter_map(|tool| Some(Definition::read(tool)?.name().to_owned())).collect()
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
