//! Why a tool runs where it runs: each option with the line it comes from.

use crate::model::ExecutionMode;
use crate::nearest::nearest;
use crate::resolve::{Level, Origin, Resolved, Scope, Warning};
use crate::words::printable;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};

/// What applies to one tool, and why. Its `Display` is a table for a terminal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Name of the MCP server.
    pub server: String,
    /// Name of the tool.
    pub tool: String,
    /// The config file.
    #[serde(serialize_with = "crate::model::lossy_path")]
    pub config: PathBuf,
    /// Where the tool runs.
    pub mode: ExecutionMode,
    /// Which entry decided that, in words.
    pub decided_by: String,
    /// Every option. Variables and headers are shown by name only, since values may be secret.
    pub options: Vec<ExplainedOption>,
    /// Names that the file does not know, and what may have been meant.
    pub notes: Vec<String>,
    /// What the user should know before trusting this.
    pub warnings: Vec<Warning>,
}

/// One option of a tool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedOption {
    /// Its name in the file.
    pub name: &'static str,
    /// What applies.
    pub value: Value,
    /// Where that comes from.
    pub origin: Origin,
}

pub(crate) fn explain(scope: Scope<'_>, resolved: &Resolved, config: &Path) -> Explanation {
    Explanation {
        server: resolved.server.clone(),
        tool: resolved.tool.clone(),
        config: config.to_owned(),
        mode: resolved.mode,
        decided_by: decided_by(scope),
        options: options(resolved),
        notes: notes(scope, resolved),
        warnings: resolved.warnings.clone(),
    }
}

fn decided_by(scope: Scope<'_>) -> String {
    let Some(mode) = scope.mode() else {
        return "the built-in default, because the file says nothing about the mode".into();
    };
    match mode.level {
        Level::Tool => "the tool's own entry".into(),
        Level::Server => format!("`{}` of the server's entry", mode.name),
        Level::Top => {
            let nobody = match (scope.server, scope.tool) {
                (None, _) => "the server has no entry",
                (Some(_), None) => "the server's entry names no mode and the tool has no entry",
                (Some(_), Some(_)) => "the entries of server and tool name no mode",
            };
            format!("`{}`, because {nobody}", mode.name)
        }
    }
}

fn options(resolved: &Resolved) -> Vec<ExplainedOption> {
    let names: Vec<_> = resolved.env_vars.iter().map(|(name, _)| name).collect();
    let mut values = vec![
        ("execution_mode", json!(resolved.mode)),
        ("on_isolation_failure", json!(resolved.on_isolation_failure)),
        ("unikernel_image", json!(resolved.unikernel_image)),
        ("memory_mb", json!(resolved.memory_mb)),
        ("vcpus", json!(resolved.vcpus)),
        ("timeout_secs", json!(resolved.timeout.as_secs())),
        ("network_enabled", json!(resolved.network_enabled)),
        ("egress", json!(resolved.egress)),
        ("mounts", json!(resolved.mounts)),
        ("env_vars", json!(names)),
        ("kraft_config", json!(resolved.kraft_config)),
    ];
    if let Some(command) = &resolved.server_command {
        values.push(("server_command", json!(command)));
    }
    if resolved.mode == ExecutionMode::MicroVm {
        values.extend([
            ("life", json!(resolved.life)),
            ("image", json!(resolved.image)),
            ("idle_secs", json!(resolved.idle.as_secs())),
            ("ping_secs", json!(resolved.ping.unwrap_or_default().as_secs())),
        ]);
        if let Some(workspace) = &resolved.workspace {
            values.push(("workspace", json!(workspace)));
        }
        // Then the image has the last word.
        if *resolved.origins.get("memory_mb") == Origin::BuiltIn
            && let Some((_, value)) = values.iter_mut().find(|(name, _)| *name == "memory_mb")
        {
            *value = json!("as the image says");
        }
    }
    let explain =
        |(name, value)| ExplainedOption { name, value, origin: resolved.origins.get(name).clone() };
    values.into_iter().map(explain).collect()
}

fn notes(scope: Scope<'_>, resolved: &Resolved) -> Vec<String> {
    let unknown = |what: &str, name: &str, near: Option<&str>| {
        let near = near.map(|near| format!("; the nearest entry is `{near}`")).unwrap_or_default();
        format!("no entry for {what} `{}`{near}", printable(name))
    };
    match (scope.server, scope.tool) {
        (None, _) => {
            let names = scope.root.servers.keys().map(String::as_str);
            vec![unknown("server", &resolved.server, nearest(&resolved.server, names))]
        }
        (Some((_, server)), None) => {
            let names = server.tools.keys().map(String::as_str);
            vec![unknown("tool", &resolved.tool, nearest(&resolved.tool, names))]
        }
        (Some(_), Some(_)) => Vec::new(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, tool) = (printable(&self.server), printable(&self.tool));
        writeln!(f, "{server}/{tool} runs in mode `{}`: {}", self.mode, self.decided_by)?;
        writeln!(f, "config: {}", self.config.display())?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        writeln!(f)?;
        let width = self.options.iter().map(|option| option.name.len()).max().unwrap_or(0);
        let values: Vec<_> = self.options.iter().map(|option| option.value.to_string()).collect();
        let value_width =
            values.iter().map(String::len).filter(|len| *len <= 40).max().unwrap_or(0);
        for (option, value) in self.options.iter().zip(&values) {
            writeln!(f, "{:width$}  {value:value_width$}  {}", option.name, option.origin)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
