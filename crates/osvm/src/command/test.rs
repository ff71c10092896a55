//! `osvm mcp test`: whether a server can be used, what it speaks, what it offers, how long it took.

use super::tools::{ask, image_failure};
use super::{Outcome, Status};
use crate::cli::Test;
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use crate::servers::{self, Configured};
use osvm_policy::Config;
use osvm_servers::Target;
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};

/// What was found, as `--json` shows it. What did not happen is `null`.
#[derive(Debug, Serialize)]
struct Report {
    server: String,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: &'static str,
    /// Whether something was started or reached. The tools of an image are only read.
    started: bool,
    era: Option<&'static str>,
    version: Option<String>,
    server_info: Option<Box<RawValue>>,
    tools: usize,
    prompts: usize,
    resources: usize,
    left_out: Vec<String>,
    total_ms: f64,
}

/// Tries one server.
pub(crate) fn run(context: &Context, args: &Test) -> Outcome {
    let config = context.config(&context.env()?)?;
    let server = servers::find(context, &args.server)?;
    let begin = Instant::now();
    let mut report = match server.entry.target {
        Target::Builtin => builtin(context, &config, &server)?,
        Target::Stdio(_) | Target::Http(_) => {
            upstream(context, &config, &server, Duration::from_secs(args.timeout))?
        }
    };
    report.total_ms = begin.elapsed().as_secs_f64() * 1000.0;
    if args.json {
        context.printer.pretty_json(&report)?;
    } else {
        show(context, &report)?;
    }
    Ok(Status::Success)
}

/// Reads the image in which the tools are, and checks it. Each call boots a guest of its own.
fn builtin(context: &Context, config: &Config, server: &Configured) -> Result<Report, Failure> {
    let resolved = config.resolve(&server.name, "");
    let image = context.store(config).load(&resolved.unikernel_image);
    let image = image.map_err(|error| image_failure(&error))?;
    let tools = image.tools.iter().filter(|tool| tool.server == *server.name).count();
    Ok(report(server, resolved.mode.as_str(), tools))
}

fn report(server: &Configured, mode: &'static str, tools: usize) -> Report {
    Report {
        server: server.name.clone(),
        kind: server.entry.target.as_str(),
        mode,
        started: false,
        era: None,
        version: None,
        server_info: None,
        tools,
        prompts: 0,
        resources: 0,
        left_out: Vec::new(),
        total_ms: 0.0,
    }
}

fn upstream(
    context: &Context,
    config: &Config,
    server: &Configured,
    patience: Duration,
) -> Result<Report, Failure> {
    let (offer, running) = ask(context, config, server, patience)?;
    running.shut_down();
    let mode = match server.entry.target {
        Target::Http(_) => "remote",
        Target::Builtin | Target::Stdio(_) => config.resolve(&server.name, "").mode.as_str(),
    };
    let left_out = offer.left_out.iter().map(|one| format!("{}: {}", one.tool, one.why));
    Ok(Report {
        started: true,
        era: Some(offer.era.name()),
        version: Some(offer.version.clone()),
        server_info: offer.server_info.clone(),
        prompts: offer.prompts.len(),
        resources: offer.resources.len() + offer.resource_templates.len(),
        left_out: left_out.collect(),
        ..report(server, mode, offer.tools.len())
    })
}

fn show(context: &Context, report: &Report) -> Result<(), Failure> {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row("server", report.server.clone()),
        row("type", report.kind.to_owned()),
        row("mode", report.mode.to_owned()),
    ];
    if let (Some(era), Some(version)) = (report.era, &report.version) {
        rows.push(row("speaks", format!("MCP {version} ({era})")));
    }
    if let Some(info) = &report.server_info {
        rows.push(row("says it is", info.get().to_owned()));
    }
    rows.push(row("tools", report.tools.to_string()));
    if report.started {
        rows.push(row("prompts", report.prompts.to_string()));
        rows.push(row("resources", report.resources.to_string()));
    }
    for left_out in &report.left_out {
        rows.push(row("left out", left_out.clone()));
    }
    let what = if report.started { "started and listed in" } else { "image checked in" };
    rows.push(row(what, format!("{:.0} ms", report.total_ms)));
    context.printer.result(&table(&rows))
}
