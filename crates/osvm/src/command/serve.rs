//! `osvm mcp serve`: every tool as one MCP server, for the client at the other end of the pipe, or
//! for any client over HTTP. `osvm mcp token`: what the latter have to show.
//!
//! On a pipe, stdout belongs to the protocol; everything for people is on stderr.

use super::{Outcome, Status};
use crate::cli::Serve;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::printer::table;
use osvm_gateway::{Catalog, CatalogError, End, Gateway, Guard, Selection, Stop, Token};
use osvm_policy::ExecutionMode;
use serde::Serialize;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tracing::info;

/// Serves until the client goes away.
pub(crate) fn run(context: &Context, args: &Serve) -> Outcome {
    let env = context.env()?;
    let runtime = context.runtime(context.config(&env)?, &env)?;
    let selection = Selection {
        servers: args.servers.clone(),
        tools: args.tools.clone(),
        no_prefix: args.no_prefix,
    };
    let gateway = Gateway::new(runtime, &selection).map_err(|error| unservable(&error))?;
    if args.dry_run {
        return show(context, args, &gateway.catalog());
    }
    let gateway = Arc::new(gateway);
    let stop = Stop::new().map_err(|error| no_descriptor(&error))?;
    let interrupt = Interrupt::watch({
        let stop = stop.clone();
        move || stop.stop()
    })?;
    if let Some(address) = args.http {
        let token = (!args.no_token).then(|| own_token(context)).transpose()?;
        over_http(context, &gateway, address, token, &stop)?;
        return Ok(interrupt
            .signal()
            .map_or(Status::Success, |signal| Status::Interrupted(signal.exit_code())));
    }
    let input = own(io::stdin().as_fd())?;
    let output = own(io::stdout().as_fd())?;
    info!(tools = gateway.catalog().tools().len(), "serving MCP on stdin and stdout");
    let end = osvm_gateway::serve(&gateway, input, output, &stop);
    let end = end.map_err(|error| Failure::from_error("input", &error, None))?;
    info!(?end, "the client is gone");
    Ok(match (end, interrupt.signal()) {
        (End::Stopped, Some(signal)) => Status::Interrupted(signal.exit_code()),
        _ => Status::Success,
    })
}

fn over_http(
    context: &Context,
    gateway: &Arc<Gateway>,
    address: SocketAddr,
    token: Option<Token>,
    stop: &Stop,
) -> Result<(), Failure> {
    let guard = Guard::new(address, token).ok_or_else(|| {
        let message = format!("other machines reach `{address}`, so clients have to show a token");
        Failure::new("denied", message).hint("leave out `--no-token`, or serve at 127.0.0.1")
    })?;
    let cannot = |error: io::Error| {
        Failure::new("host", format!("cannot serve at `{address}`")).caused_by(&error)
    };
    let listener = TcpListener::bind(address).map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    context.printer.note(&format!("serving MCP at http://{address}/mcp"));
    osvm_gateway::serve_http(gateway, listener, guard, stop).map_err(cannot)
}

/// Prints the token that clients over HTTP have to show.
pub(crate) fn token(context: &Context) -> Outcome {
    context.printer.result(own_token(context)?.reveal())?;
    Ok(Status::Success)
}

/// It lies beside the isolation config.
fn own_token(context: &Context) -> Result<Token, Failure> {
    let path = context.config_path(&context.env()?).with_file_name("mcp_token");
    Token::load_or_create(&path).map_err(|error| Failure::from_error("token", &error, error.hint()))
}

fn own(fd: impl AsFd) -> Result<OwnedFd, Failure> {
    fd.as_fd().try_clone_to_owned().map_err(|error| no_descriptor(&error))
}

fn no_descriptor(error: &io::Error) -> Failure {
    Failure::new("host", "cannot get a file descriptor").caused_by(error)
}

fn unservable(error: &CatalogError) -> Failure {
    let code = match error {
        CatalogError::Image { .. } => "image",
        CatalogError::UnknownServer { .. } => "unknown_server",
        CatalogError::UnknownTool { .. } => "unknown_tool",
    };
    Failure::from_error(code, error, error.hint())
}

/// One tool, as `--dry-run` shows it.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    server: &'a str,
    tool: &'a str,
    mode: ExecutionMode,
    needs_network: bool,
}

fn show(context: &Context, args: &Serve, catalog: &Catalog) -> Outcome {
    let rows = catalog.tools().map(|listed| Row {
        name: &listed.name,
        server: &listed.tool.server,
        tool: &listed.tool.name,
        mode: listed.mode,
        needs_network: listed.tool.needs_network,
    });
    if args.json {
        context.printer.pretty_json(&rows.collect::<Vec<_>>())?;
        return Ok(Status::Success);
    }
    let mut lines = vec![["NAME", "SERVER", "TOOL", "MODE", "NETWORK"].map(str::to_owned)];
    lines.extend(rows.map(|row| {
        let network = if row.needs_network { "needed" } else { "-" };
        [row.name, row.server, row.tool, row.mode.as_str(), network].map(str::to_owned)
    }));
    context.printer.result(&table(&lines))?;
    Ok(Status::Success)
}
