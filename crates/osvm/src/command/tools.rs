//! `osvm mcp tools|inspect|search`: the tools that calls find, from the images that calls would
//! boot and from the servers that are configured.
//!
//! A server that is named is asked; the others are shown as they answered last, because listing
//! tools is no reason to start every server there is.

use super::{Outcome, Status};
use crate::cli::{Inspect, Search, Tools};
use crate::context::{Context, cases};
use crate::failure::Failure;
use crate::microvm::{MicroVms, runs_in_one};
use crate::printer::table;
use crate::servers::{self, Configured};
use crate::trust;
use osvm_image::{Image, ImageError};
use osvm_policy::Config;
use osvm_protocol::tool::Tool;
use osvm_servers::{Http, Target, is_builtin};
use osvm_upstream::{Offer, Server, Stop, UpstreamError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest a server may take to say what it offers.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same for one that starts in a microVM.
const FIRST_START: Duration = Duration::from_secs(300);

/// A tool, and where a call of it runs.
#[derive(Debug)]
struct Found {
    server: String,
    tool: String,
    mode: &'static str,
    /// Whether it needs the network, for those that say so.
    network: Option<bool>,
    /// Empty where it says nothing.
    description: String,
    /// All that is known, for programs.
    json: Map<String, Value>,
}

/// A tool of an image, as `--json` shows it.
#[derive(Serialize)]
struct OfImage<'a> {
    #[serde(flatten)]
    tool: &'a Tool<'static>,
    image: &'a str,
    mode: &'static str,
}

/// What a definition says in words.
#[derive(Deserialize)]
struct Words {
    name: String,
    #[serde(default)]
    description: Option<String>,
}

/// Lists all tools, or those of one server.
pub(crate) fn run(context: &Context, args: &Tools) -> Outcome {
    let found = match &args.server {
        Some(server) => of_server(context, server)?,
        None => known(context)?,
    };
    if args.json {
        return print(context, &found);
    }
    let mut rows = vec![["SERVER", "TOOL", "MODE", "NETWORK", "DESCRIPTION"].map(str::to_owned)];
    rows.extend(found.iter().map(|tool| {
        let network = match tool.network {
            Some(true) => "needed",
            Some(false) => "-",
            None => "unknown",
        };
        let description = tool.description.lines().next().unwrap_or_default();
        [&*tool.server, &*tool.tool, tool.mode, network, description].map(str::to_owned)
    }));
    context.printer.result(&table(&rows))?;
    Ok(Status::Success)
}

fn print(context: &Context, found: &[Found]) -> Outcome {
    context.printer.pretty_json(&found.iter().map(|tool| &tool.json).collect::<Vec<_>>())?;
    Ok(Status::Success)
}

/// Shows one tool.
pub(crate) fn inspect(context: &Context, args: &Inspect) -> Outcome {
    let all = of_server(context, &args.server)?;
    let Some(found) = all.iter().find(|found| found.tool == args.tool) else {
        let message = format!("server `{}` has no tool `{}`", args.server, args.tool);
        let failure = Failure::new("unknown_tool", message);
        let near = osvm_policy::nearest(&args.tool, all.iter().map(|found| found.tool.as_str()));
        return Err(match near {
            Some(near) => failure.hint(format!("did you mean `{near}`?")),
            None => failure.hint(format!("`osvm mcp tools {}` lists them", args.server)),
        });
    };
    let env = context.env()?;
    let resolved = context.config(&env)?.resolve(&found.server, &found.tool);
    let hint = super::lives::forgets(&env, &resolved, &Value::Object(found.json.clone()));
    let processors = super::lives::processors(&resolved);
    if args.json {
        let mut json = found.json.clone();
        json.extend(processors.map(|note| ("warning".to_owned(), note.into())));
        json.extend(hint.map(|hint| ("hint".to_owned(), hint.into())));
        context.printer.pretty_json(&json)?;
        return Ok(Status::Success);
    }
    let mut text = format!("{} of {}, runs: {}\n", found.tool, found.server, found.mode);
    if !found.description.is_empty() {
        text.push_str(&format!("\n{}\n", found.description.trim_end()));
    }
    for (member, title) in
        [("annotations", "annotations"), ("inputSchema", "arguments"), ("outputSchema", "result")]
    {
        if let Some(value) = found.json.get(member) {
            let value = serde_json::to_string_pretty(value).unwrap_or_default();
            text.push_str(&format!("\n{title}: {value}\n"));
        }
    }
    for hint in processors.into_iter().chain(hint) {
        text.push_str(&format!("\nnote: {hint}\n"));
    }
    text.push_str(&format!(
        "\nhow a call is isolated: `osvm config explain {} {}`\n",
        found.server, found.tool
    ));
    context.printer.result(&text)?;
    Ok(Status::Success)
}

/// One server or tool in which every word was found, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Hit {
    server: String,
    tool: Option<String>,
    description: String,
}

/// Looks for words in names and descriptions, case ignored.
pub(crate) fn search(context: &Context, args: &Search) -> Outcome {
    let words: Vec<String> = args.words.iter().map(|word| word.to_lowercase()).collect();
    let fits = |texts: [&str; 3]| {
        let text = texts.join(" ").to_lowercase();
        words.iter().all(|word| text.contains(word))
    };
    let env = context.env()?;
    let mut hits = Vec::new();
    for listed in servers::all(context, &env)? {
        let description = listed.entry.description.clone().unwrap_or_default();
        if fits([&listed.name, &listed.entry.summary(), &description]) {
            hits.push(Hit { server: listed.name, tool: None, description });
        }
    }
    // Without an image there is still the rest to look through.
    let found = match known(context) {
        Ok(found) => found,
        Err(failure) if failure.code == "image" => {
            context.printer.note(&format!("warning: {}", failure.message));
            Vec::new()
        }
        Err(failure) => return Err(failure),
    };
    for found in found {
        if fits([&found.server, &found.tool, &found.description]) {
            let Found { server, tool, description, .. } = found;
            hits.push(Hit { server, tool: Some(tool), description });
        }
    }
    if args.json {
        context.printer.pretty_json(&hits)?;
        return Ok(Status::Success);
    }
    let mut rows = vec![["SERVER", "TOOL", "DESCRIPTION"].map(str::to_owned)];
    rows.extend(hits.into_iter().map(|hit| {
        let description = hit.description.lines().next().unwrap_or_default().to_owned();
        [hit.server, hit.tool.unwrap_or_else(|| "-".into()), description]
    }));
    context.printer.result(&table(&rows))?;
    Ok(Status::Success)
}

/// The tools of every server that is enabled, without starting one.
fn known(context: &Context) -> Result<Vec<Found>, Failure> {
    let env = context.env()?;
    let config = context.config(&env)?;
    let listed = servers::all(context, &env)?;
    let off: BTreeSet<&str> = listed
        .iter()
        .filter(|listed| !listed.entry.enabled)
        .map(|listed| listed.name.as_str())
        .collect();
    let mut found = of_images(context, &config, None)?;
    found.retain(|tool| !off.contains(tool.server.as_str()));
    for server in servers::configured(context)? {
        if !super::servers::has_command(&server.entry.target) {
            continue;
        }
        let offer = match &server.spec {
            _ if runs_in_one(&config, &server) => {
                let in_vm = MicroVms::new(context, &env).place(context, &config, &server, None);
                in_vm.ok().and_then(|in_vm| in_vm.server.offer())
            }
            Ok(Some(spec)) => {
                let cache = servers::cache_dir(context, &env);
                Server::new(spec.clone(), Some(cache)).offer()
            }
            Ok(None) | Err(_) => None,
        };
        match offer {
            Some(offer) => found.extend(of_offer(context, &config, &server, &offer)?),
            None => context.printer.note(&format!(
                "note: server `{0}` was not asked yet: `osvm mcp tools {0}`",
                server.name
            )),
        }
    }
    Ok(found)
}

/// The tools of one server, as it lists them now.
fn of_server(context: &Context, name: &str) -> Result<Vec<Found>, Failure> {
    let env = context.env()?;
    let config = context.config(&env)?;
    let all = servers::all(context, &env)?;
    let listed = all.iter().any(|listed| listed.name == name);
    if !listed || is_builtin(name) {
        // An image may carry servers that nobody configured.
        let found = of_images(context, &config, Some(name))?;
        if found.is_empty() {
            return Err(servers::unknown(name, all.iter().map(|listed| listed.name.as_str())));
        }
        return Ok(found);
    }
    let server = servers::find(context, name)?;
    let (offer, _) = ask(context, &config, &server, PATIENCE)?;
    of_offer(context, &config, &server, &offer)
}

/// Asks a server what it offers; starts it if the isolation config lets it be started.
pub(super) fn ask(
    context: &Context,
    config: &Config,
    configured: &Configured,
    patience: Duration,
) -> Result<(Arc<Offer>, Arc<Server>), Failure> {
    if runs_in_one(config, configured) {
        return in_micro_vm(context, config, configured, patience);
    }
    servers::may_start(config, configured)?;
    let Some(spec) = configured.spec.clone()? else {
        let message = format!("server `{}` has no command to start", configured.name);
        return Err(Failure::new("denied", message));
    };
    let cache = servers::cache_dir(context, &context.env()?);
    let server = Server::new(spec, Some(cache));
    let offer = server.refresh(Instant::now() + patience).map_err(|error| upstream(&error))?;
    Ok((offer, server))
}

/// The same of a server that the isolation config has run in a microVM.
fn in_micro_vm(
    context: &Context,
    config: &Config,
    configured: &Configured,
    patience: Duration,
) -> Result<(Arc<Offer>, Arc<Server>), Failure> {
    let env = context.env()?;
    let in_vm = MicroVms::new(context, &env).place(context, config, configured, None)?;
    let server = configured.name.clone();
    in_vm
        .placed
        .warm_up(&Stop::default())
        .map_err(|source| upstream(&UpstreamError::Start { server, source }))?;
    let offer = in_vm.server.refresh(Instant::now() + patience.max(FIRST_START));
    Ok((offer.map_err(|error| upstream(&error))?, in_vm.server))
}

/// A server that could not be asked, as every command shows it.
pub(super) fn upstream(error: &UpstreamError) -> Failure {
    Failure::from_error("upstream", error, error.hint().map(str::to_owned))
}

/// Those that are believed.
fn of_offer(
    context: &Context,
    config: &Config,
    server: &Configured,
    offer: &Offer,
) -> Result<Vec<Found>, Failure> {
    let held_back = trust::held_back(context, &context.env()?, &server.name, &offer.tools);
    let one = |definition: &RawValue| {
        let words: Words = serde_json::from_str(definition.get()).ok()?;
        let mut json: Map<String, Value> = serde_json::from_str(definition.get()).ok()?;
        let mode = match server.entry.target {
            Target::Http(Http { .. }) => "remote",
            _ => config.resolve(&server.name, &words.name).mode.as_str(),
        };
        json.insert("server".into(), server.name.clone().into());
        json.insert("mode".into(), mode.into());
        Some(Found {
            server: server.name.clone(),
            tool: words.name,
            mode,
            network: None,
            description: words.description.unwrap_or_default(),
            json,
        })
    };
    let all = offer.tools.iter().filter_map(|definition| one(definition));
    Ok(all.filter(|found| !held_back.contains(&found.tool)).collect())
}

/// The tools of images, each from the image that the config chooses for it.
fn of_images(
    context: &Context,
    config: &Config,
    server: Option<&str>,
) -> Result<Vec<Found>, Failure> {
    let mut all = Vec::new();
    for image in images(context, config)? {
        for tool in image.tools.iter() {
            let resolved = config.resolve(&tool.server, &tool.name);
            let wanted = server.is_none_or(|server| tool.server == server);
            if !wanted || resolved.unikernel_image != image.name {
                continue;
            }
            let mode = resolved.mode.as_str();
            all.push(Found {
                server: tool.server.to_string(),
                tool: tool.name.to_string(),
                mode,
                network: Some(tool.needs_network),
                description: tool.description.to_string(),
                json: as_map(&OfImage { tool, image: &image.name, mode })?,
            });
        }
    }
    Ok(all)
}

fn as_map(tool: &OfImage<'_>) -> Result<Map<String, Value>, Failure> {
    let unprintable = |error: serde_json::Error| {
        Failure::new("output", "cannot write a tool as JSON").caused_by(&error)
    };
    // Through text: a schema is raw JSON, which only a serializer of text takes.
    let text = serde_json::to_string(tool).map_err(unprintable)?;
    serde_json::from_str(&text).map_err(unprintable)
}

/// Every image that the config makes some call use.
fn images(context: &Context, config: &Config) -> Result<Vec<Image>, Failure> {
    let name = |(server, tool)| config.resolve(server, tool).unikernel_image;
    let names: BTreeSet<String> = cases(config).map(name).collect();
    let store = context.store(config);
    names.iter().map(|name| store.load(name).map_err(|error| image_failure(&error))).collect()
}

/// An image that can't be used, as every command shows it.
pub(super) fn image_failure(error: &ImageError) -> Failure {
    Failure::from_error("image", error, error.hint().map(str::to_owned))
}
