//! `osvm mcp serve`: every tool as one MCP server, for the client at the other end of the pipe, or
//! for any client over HTTP. `osvm mcp token`: what the latter have to show.
//!
//! On a pipe, stdout belongs to the protocol; everything for people is on stderr.

use super::{Outcome, Status};
use crate::cli::Serve;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::microvm::Fleet;
use crate::printer::table;
use crate::servers;
use crate::{gateways, trust};
use osvm_gateway::{
    CatalogError, Configured, End, Gateway, Guard, Selection, Servers, Stop, Token,
};
use osvm_policy::Env;
use osvm_runtime::Site;
use osvm_servers::Target;
use osvm_upstream::Server;
use serde::Serialize;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// For how long `--dry-run` waits for servers to tell what they offer.
const ASKED: Duration = Duration::from_secs(15);

/// Serves until the client goes away.
pub(crate) fn run(context: &Context, args: &Serve) -> Outcome {
    let env = context.env()?;
    let runtime = context.runtime(context.config(&env)?, &env)?;
    let selection = Selection {
        servers: args.servers.clone(),
        tools: args.tools.clone(),
        no_prefix: args.no_prefix,
    };
    let servers = behind(context, &env)?;
    let gateway = Gateway::new(runtime, servers, &selection).map_err(|error| unservable(&error))?;
    gateway.start();
    if args.dry_run {
        gateway.settle(ASKED);
        let shown = show(context, args, &gateway);
        gateway.shut_down();
        return shown;
    }
    let stop = Stop::new().map_err(|error| no_descriptor(&error))?;
    let interrupt = Interrupt::watch({
        let stop = stop.clone();
        move || stop.stop()
    })?;
    if let Some(address) = args.http {
        let token = (!args.no_token).then(|| own_token(context)).transpose()?;
        over_http(context, &env, &gateway, address, token, &stop)?;
        return Ok(interrupt
            .signal()
            .map_or(Status::Success, |signal| Status::Interrupted(signal.exit_code())));
    }
    let input = own(io::stdin().as_fd())?;
    let output = own(io::stdout().as_fd())?;
    info!(tools = gateway.catalog().tools().len(), "serving MCP on stdin and stdout");
    let told = gateways::tell(context, &env, &gateway, "stdio".to_owned());
    let end = osvm_gateway::serve(&gateway, input, output, &stop);
    drop(told);
    let end = end.map_err(|error| Failure::from_error("input", &error, None))?;
    info!(?end, "the client is gone");
    Ok(match (end, interrupt.signal()) {
        (End::Stopped, Some(signal)) => Status::Interrupted(signal.exit_code()),
        _ => Status::Success,
    })
}

/// The configured servers. One that can't be used is told, and left out.
pub(crate) fn behind(context: &Context, env: &Env) -> Result<Servers, Failure> {
    let all = servers::all(context, env)?;
    let hidden = all
        .iter()
        .filter(|listed| matches!(listed.entry.target, Target::Builtin) && !listed.entry.enabled)
        .map(|listed| listed.name.clone())
        .collect();
    let cache = servers::cache_dir(context, env);
    let mut configured = Vec::new();
    let all = servers::configured(context)?;
    let micro_vms = Arc::new(Fleet::new(context, env, &context.config(env)?, &all));
    for servers::Configured { name, entry, spec } in all {
        let site = match entry.target {
            Target::Builtin => continue,
            Target::Stdio(_) => Site::Process,
            Target::Http(_) => Site::Remote,
        };
        match spec {
            Ok(spec) => {
                let server = spec.map(|spec| Server::new(spec, Some(cache.clone())));
                configured.push(Configured { name, server, site });
            }
            Err(failure) => {
                let Failure { message, causes, .. } = failure;
                let chain = [vec![message], causes].concat().join(": ");
                context.printer.note(&format!("warning: server `{name}` is left out: {chain}"));
            }
        }
    }
    let trust = Some(trust::trust(context, env));
    Ok(Servers { configured, hidden, micro_vms: Some(micro_vms), trust })
}

fn over_http(
    context: &Context,
    env: &Env,
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
    let _told = gateways::tell(context, env, gateway, format!("http://{address}/mcp"));
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

pub(crate) fn unservable(error: &CatalogError) -> Failure {
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
    mode: &'a str,
    /// `null` where nobody has said.
    needs_network: Option<bool>,
}

fn show(context: &Context, args: &Serve, gateway: &Gateway) -> Outcome {
    for name in gateway.not_asked() {
        context.printer.note(&format!(
            "server `{name}` is not started: no call of it may run on this host; what it offered \
             last is shown"
        ));
    }
    let catalog = gateway.catalog();
    let rows = catalog.tools().map(|listed| Row {
        name: &listed.name,
        server: &listed.server,
        tool: &listed.tool,
        mode: listed.mode(),
        needs_network: listed.needs_network,
    });
    if args.json {
        context.printer.pretty_json(&rows.collect::<Vec<_>>())?;
        return Ok(Status::Success);
    }
    let mut lines = vec![["NAME", "SERVER", "TOOL", "MODE", "NETWORK"].map(str::to_owned)];
    lines.extend(rows.map(|row| {
        let network = match row.needs_network {
            Some(true) => "needed",
            Some(false) => "-",
            None => "?",
        };
        [row.name, row.server, row.tool, row.mode, network].map(str::to_owned)
    }));
    context.printer.result(&table(&lines))?;
    Ok(Status::Success)
}
