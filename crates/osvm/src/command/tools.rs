//! `osvm mcp tools`: the tools a call finds, from the images that calls would boot.

use super::{Outcome, Status};
use crate::cli::Tools;
use crate::context::{Context, cases};
use crate::failure::Failure;
use crate::printer::table;
use osvm_image::{Image, ImageError, LookupError};
use osvm_policy::{Config, ExecutionMode};
use osvm_protocol::tool::Tool;
use serde::Serialize;
use std::collections::BTreeSet;

/// A tool, and where a call of it runs.
#[derive(Debug, Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    tool: &'a Tool<'static>,
    image: &'a str,
    mode: ExecutionMode,
}

/// Lists all tools, or those of one server.
pub(crate) fn run(context: &Context, args: &Tools) -> Outcome {
    let config = context.config(&context.env()?)?;
    let images = images(context, &config)?;
    let found: Vec<Found<'_>> =
        images.iter().flat_map(|image| found(&config, image, args.server.as_deref())).collect();
    if let (Some(server), true) = (&args.server, found.is_empty()) {
        return Err(unknown_server(&images, server));
    }
    if args.json {
        context.printer.pretty_json(&found)?;
        return Ok(Status::Success);
    }
    let mut rows = vec![["SERVER", "TOOL", "MODE", "NETWORK", "DESCRIPTION"].map(str::to_owned)];
    rows.extend(found.iter().map(|Found { tool, mode, .. }| {
        let network = if tool.needs_network { "needed" } else { "-" };
        [&*tool.server, &*tool.name, mode.as_str(), network, &*tool.description].map(str::to_owned)
    }));
    context.printer.result(&table(&rows))?;
    Ok(Status::Success)
}

/// Every image that the config makes some call use.
fn images(context: &Context, config: &Config) -> Result<Vec<Image>, Failure> {
    let name = |(server, tool)| config.resolve(server, tool).unikernel_image;
    let names: BTreeSet<String> = cases(config).map(name).collect();
    let store = context.store(config);
    names.iter().map(|name| store.load(name).map_err(|error| image_failure(&error))).collect()
}

/// The tools of `image` for which the config chooses that image.
fn found<'a>(
    config: &'a Config,
    image: &'a Image,
    server: Option<&'a str>,
) -> impl Iterator<Item = Found<'a>> {
    let wanted = move |tool: &&Tool<'_>| server.is_none_or(|server| tool.server == server);
    image.tools.iter().filter(wanted).filter_map(|tool| {
        let resolved = config.resolve(&tool.server, &tool.name);
        let chosen = resolved.unikernel_image == image.name;
        chosen.then_some(Found { tool, image: &image.name, mode: resolved.mode })
    })
}

fn unknown_server(images: &[Image], server: &str) -> Failure {
    let nearest = |image: &Image| image.tools.get(server, "").err();
    let error = images.iter().filter_map(nearest).max_by_key(|error| error.hint().is_some());
    let error =
        error.unwrap_or(LookupError::UnknownServer { server: server.into(), nearest: None });
    Failure::from_error("unknown_server", &error, error.hint())
}

/// An image that can't be used, as every command shows it.
fn image_failure(error: &ImageError) -> Failure {
    Failure::from_error("image", error, error.hint().map(str::to_owned))
}
