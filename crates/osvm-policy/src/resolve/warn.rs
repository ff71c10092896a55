//! What is allowed, but not what most people want.

use super::{Level, Resolved, Scope};
use crate::model::{ExecutionMode, OnFailure};
use crate::source::Location;
use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;

/// Memory a unikernel is known to do well with, in MiB.
const RECOMMENDED_MEMORY: RangeInclusive<u32> = 64..=256;
/// Longest timeout that is not remarked on, in seconds.
const RECOMMENDED_TIMEOUT: u64 = 60;

/// Something the user should know before trusting a config.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    /// Where in the file it comes from.
    pub location: Option<Location>,
    /// What it is.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location {
            Some(location) => write!(f, "{location}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// What to say about one tool. Built-in defaults never warn, so every warning has a place.
pub(super) fn warnings(
    scope: Scope<'_>,
    resolved: &Resolved,
    locate: &impl Fn(usize) -> Location,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |option: &str, message: String| {
        warnings.push(Warning { location: resolved.origins.location(option), message });
    };
    if resolved.mode == ExecutionMode::Direct {
        warn("execution_mode", "in mode `direct` a tool runs on the host with your rights".into());
    } else if resolved.on_isolation_failure == OnFailure::Fallback {
        let message =
            "with `fallback` a tool runs on the host with your rights when isolation fails";
        warn("on_isolation_failure", message.into());
    }
    let memory = resolved.memory_mb;
    if resolved.mode == ExecutionMode::Unikernel && !RECOMMENDED_MEMORY.contains(&memory) {
        let (least, most) = (RECOMMENDED_MEMORY.start(), RECOMMENDED_MEMORY.end());
        warn(
            "memory_mb",
            format!("{memory} MiB: a unikernel does best with {least} to {most} MiB"),
        );
    }
    let timeout = resolved.timeout.as_secs();
    if RECOMMENDED_TIMEOUT < timeout {
        let message = format!(
            "{timeout} s is long for one call: at most {RECOMMENDED_TIMEOUT} s is recommended"
        );
        warn("timeout_secs", message);
    }
    match (resolved.network_enabled, resolved.egress.is_empty()) {
        (true, true) => {
            let message = "the network is enabled, but without `egress` rules nothing is reachable";
            warn("network_enabled", message.into());
        }
        (false, false) => {
            let message = "`egress` has no effect while `network_enabled` is false";
            warn("egress", message.into());
        }
        (true, false) | (false, true) => {}
    }
    if resolved.mode == ExecutionMode::MicroVm {
        if 1 < resolved.vcpus {
            let message = format!(
                "{} vCPUs: a microVM has 1, because its kernel is built for one processor",
                resolved.vcpus
            );
            warn("vcpus", message);
        }
        if scope.mounts(resolved.mode).is_some_and(|picked| picked.level == Level::Tool) {
            let message = "`mounts` of a tool has no effect in a microVM: its server has one list \
                           for all its tools";
            warn("mounts", message.into());
        }
    } else {
        for option in ["life", "image", "idle_secs", "ping_secs", "workspace"] {
            if resolved.origins.location(option).is_some() && resolved.tool.is_empty() {
                warn(option, format!("`{option}` has an effect only in mode `microvm`"));
            }
        }
    }
    let switch = scope.server.and_then(|(_, server)| server.use_microvm.as_ref());
    if let Some(switch) = switch.filter(|switch| !switch.value)
        && resolved.mode == ExecutionMode::MicroVm
    {
        let message = "`use_microvm` is false, but the mode is `microvm`: set `execution_mode`";
        warnings.push(Warning { location: Some(locate(switch.at)), message: message.into() });
    }
    warnings
}
