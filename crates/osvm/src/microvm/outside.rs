//! The way out of a server in microVMs, if the isolation config gives it one.
//!
//! # Invariants
//!
//! - A copy has the policy of the call it serves. A server that lives on has that of the server as a whole: nobody
//!   can tell for which of the calls in flight it asks.

use crate::broker;
use crate::context::Context;
use osvm_microvm::Outside;
use osvm_policy::{Config, Env, ExecutionMode, Life, Resolved};
use std::sync::Arc;

/// Through whom the guests of the server reach what; nothing where none of its tools may reach
/// anything.
pub(super) fn of(
    context: &Context,
    env: &Env,
    config: &Config,
    resolved: &Resolved,
) -> Option<Outside> {
    let server = resolved.server.as_str();
    let some_tool = allows(config, server);
    if resolved.life == Life::Persistent && some_tool && !resolved.network_enabled {
        tracing::warn!(
            server,
            "`network_enabled` of single tools has no effect in a server that lives on: set it for the server"
        );
    }
    some_tool.then(|| Outside {
        services: Arc::new(broker::new(env, config, &context.dirs(env))),
        guests: context.guests.clone(),
        policy: Arc::new(resolved.clone()),
    })
}

/// Whether some tool of the server may reach something from a microVM.
fn allows(config: &Config, server: &str) -> bool {
    let named = config.servers().filter(|entry| entry.name == server);
    named.flat_map(|entry| entry.tools).chain([""]).any(|tool| {
        let tool = config.resolve(server, tool);
        tool.mode == ExecutionMode::MicroVm && tool.network_enabled
    })
}

/// What of the way out makes another server of one that runs, as text.
pub(crate) fn key(config: &Config, server: &str) -> String {
    let resolved = config.resolve(server, "");
    format!("{} {} {:?}", allows(config, server), resolved.network_enabled, resolved.egress)
}
