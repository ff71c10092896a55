//! The command line: every flag and command of `osvm`, and the words of its help.
//!
//! What a command does is in the module of its name below `command/`.

mod agent;
mod image;
mod microvm;
mod rules;
mod servers;

pub(crate) use agent::{Agent, AgentCommand, Ask, Plan, Yes, agent_by_itself};
pub(crate) use image::{
    Image, ImageBuild, ImageNeed, ImageRuntime, ImageShow, ImageSign, ImageVerify,
};
pub(crate) use microvm::{
    Explain, Lives, Microvm, MicrovmLaunch, MicrovmLaunchMany, MicrovmServer, MicrovmStatus,
    Snapshot, Workspace,
};
pub(crate) use rules::{
    Approvals, Policy, PolicyExplain, PolicyProve, ReceiptFormat, Receipts, ReceiptsVerify, Trust,
};
pub(crate) use servers::{
    Add, AddGithub, AddOptions, Client, ClientName, Completions, Connect, Export, ExportFormat,
    Get, Import, Inspect, List, ListFormat, Man, Named, Search, Test, Transport,
};

use crate::failure::Failure;
use clap::builder::Styles;
use clap::builder::styling::{AnsiColor, Effects};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Section titles and literals stand out; nothing is told by color alone.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().effects(Effects::BOLD))
    .usage(AnsiColor::Green.on_default().effects(Effects::BOLD))
    .literal(AnsiColor::Cyan.on_default().effects(Effects::BOLD))
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs every tool call of an AI agent in its own throw-away virtual machine.
#[derive(Debug, Parser)]
#[command(
    name = "osvm",
    version,
    styles = STYLES,
    arg_required_else_help = true,
    subcommand_required = true,
    infer_subcommands = false,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "\
On a terminal, `osvm` without a command starts the agent.

Exit codes: 0 it worked, 1 the tool reported an error, 2 osvm could not do it."
)]
pub(crate) struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Log more: -v what a call does and when, -vv details
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Log nothing and say only why something failed
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// How log lines look on stderr
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) log_format: LogFormat,
    /// The isolation config to read [default: OSVM_CONFIG, else as `osvm config path` says]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The Cedar rules to ask [default: as the config says, else `policy.cedar` beside it]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// What boots the virtual machines [default: OSVM_BACKEND, else as the config says]
    #[arg(long, global = true, value_enum, value_name = "NAME")]
    pub(crate) backend: Option<BackendName>,
    /// When to use colors; NO_COLOR is respected
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) color: ColorWhen,
}

impl BackendName {
    /// The name in `OSVM_BACKEND`; empty means unset.
    ///
    /// Not read by clap, for which a variable would count as an argument, and `osvm` without
    /// arguments shows its help.
    pub(crate) fn from_environment() -> Result<Option<Self>, Failure> {
        let Some(name) = std::env::var_os("OSVM_BACKEND").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let name = name.to_string_lossy();
        let known = Self::from_str(&name, false).map_err(|_| {
            let known: Vec<_> = Self::value_variants()
                .iter()
                .filter_map(|known| Some(format!("`{}`", known.to_possible_value()?.get_name())))
                .collect();
            Failure::new("usage", format!("`OSVM_BACKEND` names no backend: `{name}`"))
                .hint(format!("known are {}", known.join(", ")))
        })?;
        Ok(Some(known))
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A hypervisor, by the name users type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// The best one that works on this host.
    Auto,
    /// The VMM inside osvm, on `/dev/kvm`.
    Kvm,
    /// QEMU as a child process.
    Qemu,
    /// Firecracker as a child process.
    Firecracker,
}

/// When output is colored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Talk to the agent, which acts only through isolated calls
    Agent(Agent),
    /// Have the agent answer one prompt
    Ask(Ask),
    /// Show what the agent would call first for a prompt, and call nothing
    Plan(Plan),
    /// Call MCP tools, each call in a virtual machine of its own
    #[command(subcommand)]
    Mcp(Mcp),
    /// Write osvm into the files of MCP clients
    #[command(subcommand)]
    Client(Client),
    /// Build and keep images of MCP servers for Linux microVMs
    #[command(subcommand)]
    Image(Image),
    /// Look at and remove the saved servers that calls get copies of
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Look at and apply what calls changed in copies of a workspace
    #[command(subcommand)]
    Workspace(Workspace),
    /// Keep virtual machines ready for calls of other processes
    Daemon(Daemon),
    /// Look at and check the isolation config
    #[command(subcommand)]
    Config(Config),
    /// Check and try the rules about calls
    #[command(subcommand)]
    Policy(Policy),
    /// Answer calls that wait for a person
    #[command(subcommand)]
    Approvals(Approvals),
    /// Look at what calls left behind, and check that it is all there
    #[command(subcommand)]
    Receipts(Receipts),
    /// Keep secrets that the broker sends for tools, and that no tool sees
    #[command(subcommand)]
    Secret(Secret),
    /// Check whether calls can run on this host, and say how to fix what is wrong
    Doctor(Doctor),
    /// List the virtual machines that run now
    Ps(Ps),
    /// Print the status line
    Status(StatusArgs),
    /// Show what a virtual machine wrote to its console
    Logs(Logs),
    /// Print what completes command lines in a shell
    Completions(Completions),
    /// Print the manual page
    Man(Man),
}

/// Calls and lists of tools.
#[derive(Debug, Subcommand)]
pub(crate) enum Mcp {
    /// Call one tool: boot a virtual machine, call, destroy it
    #[command(visible_alias = "call")]
    CallTool(CallTool),
    /// Be one MCP server with all tools, for the client that started osvm or over HTTP
    Serve(Serve),
    /// Print the token that clients of `mcp serve --http` have to show
    Token,
    /// List the tools of the images on this host and of the servers that are configured
    Tools(Tools),
    /// Show one tool: its definition, and where its calls run
    Inspect(Inspect),
    /// Look for words in the names and descriptions of servers and tools
    Search(Search),
    /// Add a server
    Add(Add),
    /// Add a server from a repository of GitHub
    AddGithub(AddGithub),
    /// List the servers
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one server
    Get(Get),
    /// Take a server off the list
    #[command(visible_alias = "rm")]
    Remove(Named),
    /// Believe tool definitions that a server changed, or show what changed
    Trust(Trust),
    /// Let osvm use a server
    Enable(Named),
    /// Keep a server on the list without using it
    Disable(Named),
    /// Start a server and say what it is and offers
    Test(Test),
    /// Start, look at and end microVMs of servers by hand
    #[command(subcommand)]
    Microvm(Microvm),
    /// Have one microVM of a server serve all calls, and keep its state
    Promote(Lives),
    /// Have every call get a copy of a server, which is gone after it
    Demote(Lives),
    /// Say how a server lives in microVMs, and what the other life would change
    Explain(Explain),
    /// Take servers over from the file of another client
    Import(Import),
    /// Print the servers in the shape of another client
    Export(Export),
}

/// One call.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  osvm mcp call-tool system echo '{\"text\":\"hi\"}'
  osvm mcp call-tool solana decode_transaction @transaction.json
  echo '{\"text\":\"hi\"}' | osvm mcp call-tool system echo - --json
  osvm mcp call-tool --batch calls.jsonl --jobs 8

Exit codes: 0 the tool answered, 1 the tool reported an error, 2 osvm could not run it.")]
pub(crate) struct CallTool {
    /// The MCP server the tool belongs to
    #[arg(required_unless_present = "batch")]
    pub(crate) server: Option<String>,
    /// The tool's name
    #[arg(required_unless_present = "batch")]
    pub(crate) tool: Option<String>,
    /// The arguments: a JSON object, `@FILE`, or `-` for stdin [default: {}]
    #[arg(value_name = "ARGUMENTS")]
    pub(crate) arguments: Option<String>,
    /// Print an envelope: result or error, and how the call was isolated
    #[arg(long)]
    pub(crate) json: bool,
    /// Make the calls of a file (`-` for stdin), one a line, and print an envelope a line:
    /// {"server": ..., "tool": ..., "arguments": {...}}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "tool", "arguments"])]
    pub(crate) batch: Option<PathBuf>,
    /// Calls of a batch to run at once
    #[arg(
        long,
        value_name = "N",
        requires = "batch",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=4096)
    )]
    pub(crate) jobs: u16,
    /// Let one virtual machine serve consecutive calls of a batch to one server
    #[arg(long, requires = "batch")]
    pub(crate) reuse: bool,
    /// Have the daemon run it, and start one if there is none [default: if the config has a pool]
    #[arg(long, conflicts_with = "no_daemon")]
    pub(crate) daemon: bool,
    /// Run it in this process, whatever the config says
    #[arg(long)]
    pub(crate) no_daemon: bool,
}

/// What to serve.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  osvm mcp serve --dry-run
  osvm mcp serve --servers solana --no-prefix
  osvm mcp serve --http 127.0.0.1:7777
  claude mcp add osvm -- osvm mcp serve

A client starts this command and speaks MCP with it over stdin and stdout, unless --http is given.")]
pub(crate) struct Serve {
    /// Only the tools of these servers
    #[arg(long, value_name = "SERVERS", value_delimiter = ',')]
    pub(crate) servers: Option<Vec<String>>,
    /// Only these tools, each as SERVER/TOOL or by the name that clients see
    #[arg(long, value_name = "TOOLS", value_delimiter = ',')]
    pub(crate) tools: Option<Vec<String>>,
    /// Leave out the server's name where no other tool has the same name
    #[arg(long)]
    pub(crate) no_prefix: bool,
    /// Serve over Streamable HTTP at this address, as http://ADDRESS/mcp
    #[arg(long, value_name = "ADDRESS", conflicts_with = "dry_run")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// Ask clients over HTTP for no token; only where no other machine reaches the address
    #[arg(long, requires = "http")]
    pub(crate) no_token: bool,
    /// Print what would be served, and under which names
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print it as JSON
    #[arg(long, requires = "dry_run")]
    pub(crate) json: bool,
}

/// Which tools to list.
#[derive(Debug, Args)]
pub(crate) struct Tools {
    /// Only the tools of this server
    pub(crate) server: Option<String>,
    /// Print the definitions as JSON, schemas included
    #[arg(long)]
    pub(crate) json: bool,
}

/// The daemon.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Without a command it runs the daemon until Ctrl-C or SIGTERM. `osvm mcp call-tool` starts one by
itself where the isolation config keeps a pool: \"pool\": {\"size\": 4}"
)]
pub(crate) struct Daemon {
    /// What to do with the one that runs
    #[command(subcommand)]
    pub(crate) command: Option<DaemonCommand>,
    /// End when nobody has asked for anything for so long
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) idle_exit: Option<u64>,
    /// How long calls that run may take to finish once it ends
    #[arg(
        long,
        value_name = "SECS",
        default_value_t = crate::command::daemon::DRAIN_SECS,
        value_parser = clap::value_parser!(u64).range(0..=3600)
    )]
    pub(crate) drain: u64,
    /// Leave the terminal's session; it is what starts one on demand
    #[arg(long, hide = true)]
    pub(crate) background: bool,
}

/// What to do with a daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Print what it holds and does
    Status {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// End it: calls that run may finish, and every virtual machine is destroyed
    Stop,
}

/// The isolation config.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print where the config is
    Path,
    /// Print the config that is in force
    Show,
    /// Check a config without using it
    Validate {
        /// The file to check [default: the config that is in force]
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of the config
    Schema,
    /// Say how a tool would run, and which line of the config decides each setting
    Explain {
        /// The MCP server the tool belongs to
        server: String,
        /// The tool's name
        tool: String,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Secrets.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  osvm secret set RPC_KEY
  pass show rpc | osvm secret set RPC_KEY

An egress rule uses it: \"headers\": {\"Authorization\": \"Bearer ${secret:RPC_KEY}\"}")]
pub(crate) enum Secret {
    /// Set a secret; its value is asked for, or read from stdin
    Set {
        /// 1 to 64 letters, digits, `_` and `-`
        name: String,
    },
    /// List the names of all secrets
    Ls {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a secret
    Rm {
        /// Its name
        name: String,
    },
}

/// Host checks.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 calls can run here, 2 they cannot.")]
pub(crate) struct Doctor {
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// First end and remove what an earlier osvm left behind
    #[arg(long)]
    pub(crate) fix: bool,
}

/// Running virtual machines.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Print the list as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The status line.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print the same facts as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Consoles of the last 200 calls.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// A CID or a call id; without one, list the calls that are kept
    pub(crate) call: Option<String>,
    /// Go on until the virtual machine has ended
    #[arg(short, long, requires = "call")]
    pub(crate) follow: bool,
    /// Print the list of kept calls as JSON
    #[arg(long, conflicts_with_all = ["call", "follow"])]
    pub(crate) json: bool,
}
