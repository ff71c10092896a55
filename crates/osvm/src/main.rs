//! `osvm`: flags, config file, backend choice, terminal, exit codes.
//!
//! The one crate that knows all the others, because it puts them together. What a command does
//! is in the module of its name below `command`; what runs a call is `osvm-runtime`.
//!
//! # Invariants
//!
//! - Nothing is read or started before a command needs it: start-up is part of every call.
//! - Everything a user sees goes through [`printer`], log lines through [`logging`].
//! - One exit: `main` returns it.

mod agent;
mod approval_prompt;
mod arguments;
mod backend;
mod broker;
mod caller;
mod cli;
mod command;
mod confirm;
mod context;
mod daemon;
mod failure;
mod gateways;
mod hosted;
mod interrupt;
mod logging;
mod microvm;
mod printer;
mod servers;
mod trust;
mod vm_program;

use crate::cli::{BackendName, Cli, ColorWhen, Command, Mcp};
use crate::command::{Outcome, Status};
use crate::context::Context;
use crate::printer::Printer;
use clap::Parser;
use osvm_runtime::LongGuests;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse().or_else(cli::agent_by_itself) {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let printer = Printer::new(cli.global.quiet, cli.global.color);
    match start(printer, cli) {
        Ok(status) => status,
        Err(failure) => {
            printer.failure(&failure);
            Status::OsvmFailed
        }
    }
    .into()
}

fn start(printer: Printer, Cli { mut global, command }: Cli) -> Outcome {
    if global.backend.is_none() {
        global.backend = BackendName::from_environment()?;
    }
    logging::start(&global)?;
    run(Context { printer, global, guests: LongGuests::default() }, &command)
}

fn run(context: Context, command: &Command) -> Outcome {
    let context = match command {
        // It lives as long as the process, and keeps the context for that long.
        Command::Daemon(args) => return command::daemon::run(context, args),
        _ => &context,
    };
    match command {
        Command::Agent(args) => command::agent::run(context, args),
        Command::Ask(args) => command::ask::run(context, args),
        Command::Plan(args) => command::ask::plan(context, args),
        Command::Mcp(command) => mcp(context, command),
        Command::Client(command) => command::client::run(context, command),
        Command::Image(command) => command::image::run(context, command),
        Command::Snapshot(command) => command::snapshot::run(context, command),
        Command::Workspace(command) => command::workspace::run(context, command),
        Command::Daemon(_) => Ok(Status::Success),
        Command::Config(command) => command::config::run(context, command),
        Command::Policy(command) => command::policy::run(context, command),
        Command::Approvals(command) => command::policy::approvals(context, command),
        Command::Receipts(command) => command::receipts::run(context, command),
        Command::Secret(command) => command::secret::run(context, command),
        Command::Doctor(args) => command::doctor::run(context, args),
        Command::Ps(args) => command::ps::run(context, args),
        Command::Status(args) => command::status::run(context, args),
        Command::Logs(args) => command::logs::run(context, args),
        Command::Completions(args) => command::completions::run(context, args),
        Command::Man(args) => command::completions::man(context, args),
    }
}

fn mcp(context: &Context, command: &Mcp) -> Outcome {
    match command {
        Mcp::CallTool(args) => command::call_tool::run(context, args),
        Mcp::Serve(args) => command::serve::run(context, args),
        Mcp::Token => command::serve::token(context),
        Mcp::Tools(args) => command::tools::run(context, args),
        Mcp::Inspect(args) => command::tools::inspect(context, args),
        Mcp::Search(args) => command::tools::search(context, args),
        Mcp::Test(args) => command::test::run(context, args),
        Mcp::Microvm(command) => command::microvm::run(context, command),
        Mcp::Promote(args) => command::lives::promote(context, args),
        Mcp::Demote(args) => command::lives::demote(context, args),
        Mcp::Explain(args) => command::lives::explain(context, args),
        Mcp::Add(args) => command::add::run(context, args),
        Mcp::AddGithub(args) => command::add::from_github(context, args),
        Mcp::List(args) => command::servers::list(context, args),
        Mcp::Get(args) => command::servers::get(context, args),
        Mcp::Remove(args) => command::servers::remove(context, args),
        Mcp::Trust(args) => command::trust::run(context, args),
        Mcp::Enable(args) => command::servers::set_enabled(context, args, true),
        Mcp::Disable(args) => command::servers::set_enabled(context, args, false),
        Mcp::Import(args) => command::exchange::import(context, args),
        Mcp::Export(args) => command::exchange::export(context, args),
    }
}

/// Help and version are success; a command line that can't be read is not.
fn usage(error: &clap::Error) -> Status {
    let printer = Printer::new(false, ColorWhen::Auto);
    match printer.usage(error) {
        Err(failure) => {
            printer.failure(&failure);
            Status::OsvmFailed
        }
        Ok(()) if error.use_stderr() => Status::OsvmFailed,
        Ok(()) => Status::Success,
    }
}
