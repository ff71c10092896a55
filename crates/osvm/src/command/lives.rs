//! `osvm mcp promote|demote|explain`: how a server in microVMs lives, and what the other life changes.

use super::{Outcome, Status};
use crate::cli::{Explain, Lives};
use crate::context::{Context, config_failure};
use crate::failure::Failure;
use crate::servers::{self, Configured};
use osvm_image::linux::{LinuxStore, Need};
use osvm_policy::{Config, Env, ExecutionMode, Life, Resolved};
use osvm_servers::{Plain, edit, file};
use serde_json::{Value, json};

/// Has a server live on.
pub(crate) fn promote(context: &Context, args: &Lives) -> Outcome {
    live(context, args, Life::Persistent)
}

/// Has every call get a copy of a server.
pub(crate) fn demote(context: &Context, args: &Lives) -> Outcome {
    live(context, args, Life::Clone)
}

/// What a life means, for whoever chooses one.
fn meaning(life: Life) -> [&'static str; 3] {
    match life {
        Life::Persistent => [
            "one microVM serves all calls of all clients",
            "what a call leaves behind, the next one finds: state is kept, and calls are not isolated from each other",
            "it is ended after `idle_secs` without a call, and its state with it",
        ],
        Life::Clone => [
            "every call gets a copy of the warm server, which is gone after it",
            "nothing that a call leaves behind is there for the next one",
            "variables from secrets are refused: a copy would take them to the disk",
        ],
    }
}

/// A server that can run in a microVM.
fn find(context: &Context, name: &str) -> Result<Configured, Failure> {
    let configured = servers::find(context, name)?;
    if !matches!(configured.entry.target, osvm_servers::Target::Stdio(_)) {
        return Err(Failure::new("denied", format!("server `{name}` runs in no microVM")));
    }
    Ok(configured)
}

fn live(context: &Context, args: &Lives, life: Life) -> Outcome {
    let env = context.env()?;
    let config = context.config(&env)?;
    let name = args.server.as_str();
    find(context, name)?;
    let now = config.resolve(name, "");
    if now.life == life && now.mode == ExecutionMode::MicroVm {
        context.printer.result(&format!("`{name}` lives as `{life}` already"))?;
        return Ok(Status::Success);
    }
    let text = with_life(&config, &env, name, life)?;
    if !args.dry_run {
        let _lock = file::lock(config.path())?;
        file::replace(config.path(), text.as_bytes())?;
    }
    let word = if args.dry_run { "would live" } else { "lives" };
    context.printer.result(&format!("`{name}` {word} as `{life}`:{}", lines(life)))?;
    Ok(Status::Success)
}

fn lines(life: Life) -> String {
    meaning(life).map(|line| format!("\n  {line}")).concat()
}

/// The isolation config in which a server lives that way.
fn with_life(config: &Config, env: &Env, name: &str, life: Life) -> Result<String, Failure> {
    let members = [
        ("execution_mode", Some(Plain::from("microvm"))),
        ("life", Some(Plain::from(life.as_str()))),
    ];
    let text = edit::set(config.text(), false, &["mcp_servers", name], &members)
        .map_err(|error| Failure::new("config", error.to_string()))?;
    Config::parse(&text, config.path(), env).map_err(|errors| config_failure(&errors.into()))?;
    Ok(text)
}

/// Says how a server lives, and what the other life would change.
pub(crate) fn explain(context: &Context, args: &Explain) -> Outcome {
    let env = context.env()?;
    let config = context.config(&env)?;
    let name = args.server.as_str();
    let configured = find(context, name)?;
    let resolved = config.resolve(name, "");
    let (other, command) = match resolved.life {
        Life::Clone => (Life::Persistent, "promote"),
        Life::Persistent => (Life::Clone, "demote"),
    };
    let variables = servers::variables(&configured, &crate::broker::secrets(&env));
    let secrets = variables.map(|variables| variables.secret).unwrap_or_default();
    let secrets: Vec<_> = secrets.into_iter().map(|(variable, _)| variable).collect();
    let remarks = remarks(&resolved, &needs(&env, &resolved), &secrets);
    if args.json {
        context.printer.pretty_json(&json!({
            "server": name, "mode": resolved.mode.as_str(), "life": resolved.life.as_str(),
            "image": resolved.image, "idle_secs": resolved.idle.as_secs(),
            "workspace": resolved.workspace, "mounts": resolved.mounts, "means": meaning(resolved.life),
            "other": {"life": other.as_str(), "means": meaning(other)}, "remarks": remarks,
        }))?;
        return Ok(Status::Success);
    }
    let (mode, life) = (resolved.mode, resolved.life);
    let mut text = match mode {
        ExecutionMode::MicroVm => format!("`{name}` lives as `{life}`:"),
        _ => format!("`{name}` runs in mode `{mode}`; in a microVM it would live as `{life}`:"),
    };
    text.push_str(&lines(life));
    if let Some(workspace) = &resolved.workspace {
        let (path, mode) = (workspace.host_path.display(), workspace.mode.as_str());
        let at = &workspace.guest_path;
        text.push_str(&format!("\n  it has a copy of `{path}` at `{at}`, mode `{mode}`"));
    }
    for mount in &resolved.mounts {
        let (path, at) = (mount.host_path.display(), &mount.guest_path);
        let mode = if mount.readonly { "ro" } else { "rw" };
        text.push_str(&format!("\n  it has a copy of `{path}` at `{at}`, mode `{mode}`"));
    }
    text.push_str(&format!("\n\nas `{other}` (`osvm mcp {command} {name}`):{}", lines(other)));
    for remark in &remarks {
        text.push_str(&format!("\n\nnote: {remark}"));
    }
    context.printer.result(&text)?;
    Ok(Status::Success)
}

/// What the server's image says that it needs, if there is one.
fn needs(env: &Env, resolved: &Resolved) -> Vec<Need> {
    let store = LinuxStore::new(env.home.join(".osvm/images"));
    let manifest = store.manifest(&resolved.image);
    manifest.map(|(manifest, _)| manifest.needs.into_iter().collect()).unwrap_or_default()
}

/// What does not fit the way a server lives.
fn remarks(resolved: &Resolved, needs: &[Need], secrets: &[String]) -> Vec<String> {
    let mut remarks = Vec::new();
    let name = &resolved.server;
    if resolved.life == Life::Clone {
        if needs.contains(&Need::State) && !keeps_files(resolved) {
            remarks.push(format!(
                "its image says that it keeps state between calls, and as `clone` it forgets: \
                 `osvm mcp promote {name}`, or a `workspace` in which it keeps its files"
            ));
        }
        if !secrets.is_empty() {
            remarks.push(format!(
                "its secrets ({}) have it refused as `clone`: `osvm mcp promote {name}`",
                secrets.join(", ")
            ));
        }
    }
    if needs.contains(&Need::Workspace)
        && resolved.workspace.is_none()
        && resolved.mounts.is_empty()
    {
        remarks.push("its image says that it works on files, and it has no `workspace`".into());
    }
    remarks.extend(processors(resolved));
    remarks
}

/// What to say where a config wants more processors than a microVM has.
pub(super) fn processors(resolved: &Resolved) -> Option<String> {
    let wanted = resolved.vcpus;
    (resolved.mode == ExecutionMode::MicroVm && 1 < wanted).then(|| {
        format!(
            "the config wants {wanted} vCPUs, and a microVM has 1: its kernel is built for one \
             processor, so take `vcpus` out"
        )
    })
}

/// Whether there is a folder in which something may stay.
fn keeps_files(resolved: &Resolved) -> bool {
    resolved.workspace.is_some() || resolved.mounts.iter().any(|mount| !mount.readonly)
}

/// Words with which names of tools begin that leave something behind.
const CHANGES: [&str; 14] = [
    "add", "append", "create", "delete", "edit", "insert", "move", "put", "remember", "save",
    "set", "store", "update", "write",
];

/// What to say of a tool whose effect its caller would look for in vain.
pub(super) fn forgets(env: &Env, resolved: &Resolved, tool: &Value) -> Option<String> {
    let clones = resolved.mode == ExecutionMode::MicroVm && resolved.life == Life::Clone;
    if !clones || keeps_files(resolved) {
        return None;
    }
    let read_only = tool.pointer("/annotations/readOnlyHint").and_then(Value::as_bool);
    let state = needs(env, resolved).contains(&Need::State);
    if read_only == Some(true) || !(state || read_only == Some(false) || changes(&resolved.tool)) {
        return None;
    }
    Some(format!(
        "what it changes is gone after the call, because every call gets a copy of the server: \
         `osvm mcp explain {}`",
        resolved.server
    ))
}

/// Whether the first word of a tool's name is one for changing something.
fn changes(tool: &str) -> bool {
    let end = tool.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(tool.len());
    tool.get(..end).is_some_and(|word| CHANGES.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn nowhere() -> Env {
        Env::new(None, None, Some("/nowhere".into())).unwrap()
    }

    fn resolved(server: &str) -> Resolved {
        let text = format!(r#"{{"mcp_servers": {{"s": {server}}}}}"#);
        let config = Config::parse(text, Path::new("c.json"), &nowhere()).unwrap();
        config.resolve("s", "create_entities")
    }

    fn hint(server: &str, tool: &Value) -> Option<String> {
        forgets(&nowhere(), &resolved(server), tool)
    }

    #[test]
    fn a_tool_that_changes_something_in_a_copy_is_told_apart() {
        let clone = r#"{"execution_mode": "microvm"}"#;
        assert!(hint(clone, &json!({})).unwrap().contains("gone after the call"));
        assert!(hint(clone, &json!({"annotations": {"readOnlyHint": false}})).is_some());
        assert_eq!(hint(clone, &json!({"annotations": {"readOnlyHint": true}})), None);
        let persistent = r#"{"execution_mode": "microvm", "life": "persistent"}"#;
        assert_eq!(hint(persistent, &json!({})), None);
        let workspace = r#"{"execution_mode": "microvm",
            "workspace": {"host_path": "/h", "guest_path": "/g"}}"#;
        assert_eq!(hint(workspace, &json!({})), None);
        let mounts = |readonly: bool| {
            let mount = json!({"host_path": "/h", "guest_path": "/g", "readonly": readonly});
            json!({"execution_mode": "microvm", "mounts": [mount]}).to_string()
        };
        assert_eq!(hint(&mounts(false), &json!({})), None);
        assert!(hint(&mounts(true), &json!({})).is_some());
        assert_eq!(hint(r#"{"execution_mode": "unikernel"}"#, &json!({})), None);
    }

    #[test]
    fn a_name_is_judged_by_its_first_word() {
        for tool in ["create_entities", "addObservation", "write-file", "set"] {
            assert!(changes(tool), "{tool}");
        }
        for tool in ["created_at", "settings", "read_graph", "search_and_add", ""] {
            assert!(!changes(tool), "{tool}");
        }
    }

    #[test]
    fn what_does_not_fit_a_life_is_remarked_on() {
        let clone = resolved(r#"{"execution_mode": "microvm"}"#);
        let found = remarks(&clone, &[Need::State, Need::Workspace], &["TOKEN".into()]);
        assert_eq!(found.len(), 3);
        assert!(found.iter().any(|remark| remark.contains("TOKEN")), "{found:?}");
        let persistent = resolved(r#"{"execution_mode": "microvm", "life": "persistent"}"#);
        assert!(remarks(&persistent, &[Need::State], &["TOKEN".into()]).is_empty());
        let two = resolved(r#"{"execution_mode": "microvm", "vcpus": 2}"#);
        let found = remarks(&two, &[], &[]);
        assert!(found.len() == 1 && found[0].contains("2 vCPUs, and a microVM has 1"), "{found:?}");
    }
}
