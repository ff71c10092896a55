//! Flags of the commands about the list of MCP servers and about other clients.

use clap::{Args, Subcommand, ValueEnum};
use osvm_policy::ExecutionMode;
use std::path::PathBuf;

/// A server to add.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  osvm mcp add time uvx://mcp-server-time==2025.9.25 --execution-mode microvm
  osvm mcp add files -- npx -y @modelcontextprotocol/server-filesystem /srv
  osvm mcp add notes https://notes.example/mcp --bearer-from-secret notes
  osvm mcp add mine git+https://github.com/owner/name@v1.2.0
  osvm mcp add osvm-mcp")]
pub(crate) struct Add {
    /// What to call it: letters, digits, `_`, `.` and `-`
    pub(crate) name: String,
    /// A URL, npx://PACKAGE[@VERSION], uvx://PACKAGE[==VERSION], git+https://REPOSITORY@COMMIT, or
    /// a server.json
    #[arg(conflicts_with = "command")]
    pub(crate) source: Option<String>,
    /// The program that is the server, and its arguments, behind `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) how: AddOptions,
}

/// A repository of GitHub to add.
#[derive(Debug, Args)]
pub(crate) struct AddGithub {
    /// The repository, as browsers show it: https://github.com/OWNER/NAME[/tree/REFERENCE]
    pub(crate) url: String,
    /// What to call it [default: the repository's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) how: AddOptions,
}

/// How a server is added.
#[derive(Debug, Args)]
pub(crate) struct AddOptions {
    /// Whether it is a program (stdio) or an address (http) [default: by what is given]
    #[arg(long, value_name = "TRANSPORT", value_parser = transport)]
    pub(crate) transport: Option<Transport>,
    /// Set a variable of its environment; `${NAME}` and `${NAME:-default}` are expanded at each start
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) env: Vec<(String, String)>,
    /// Set a variable of its environment to a secret, which the server will see
    #[arg(long, value_name = "NAME=SECRET", value_parser = pair)]
    pub(crate) env_from_secret: Vec<(String, String)>,
    /// Send a header with every request to it
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// Send a header whose value is a secret, which the server will see
    #[arg(long, value_name = "NAME=SECRET", value_parser = pair)]
    pub(crate) header_from_secret: Vec<(String, String)>,
    /// Send a secret as bearer token
    #[arg(long, value_name = "SECRET")]
    pub(crate) bearer_from_secret: Option<String>,
    /// Where it runs
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) cwd: Option<String>,
    /// A line that says what it is for
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Only write it down: osvm does not use it before `osvm mcp enable`
    #[arg(long)]
    pub(crate) disabled: bool,
    /// Write into the isolation config where its calls run
    #[arg(long, value_name = "MODE")]
    pub(crate) execution_mode: Option<Mode>,
    /// Replace the server that has this name
    #[arg(long)]
    pub(crate) force: bool,
    /// Ask nothing
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A program's stdin and stdout.
    Stdio,
    /// Streamable HTTP.
    Http,
}

fn transport(text: &str) -> Result<Transport, String> {
    match text {
        "stdio" => Ok(Transport::Stdio),
        "http" | "streamable-http" => Ok(Transport::Http),
        "sse" => Err("HTTP+SSE is deprecated: use `http` with the server's Streamable HTTP \
                      endpoint"
            .into()),
        "ws" | "wss" | "websocket" => {
            Err("MCP has no WebSocket transport: use `http` or `stdio`".into())
        }
        _ => Err("known are `stdio` and `http`".into()),
    }
}

/// Where the calls of a server's tools run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// In a unikernel made for the call.
    Unikernel,
    /// In a Linux microVM that runs the server.
    Microvm,
    /// On this host, with your rights.
    Direct,
}

impl From<Mode> for ExecutionMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Unikernel => Self::Unikernel,
            Mode::Microvm => Self::MicroVm,
            Mode::Direct => Self::Direct,
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.trim().into())),
        _ => Err("write it as 'NAME: VALUE'".into()),
    }
}

/// The list.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// How to print it
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "json", default_value_t)]
    pub(crate) format: ListFormat,
}

/// How the list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// The `mcpServers` object that other clients read.
    #[value(name = "mcpservers")]
    McpServers,
}

/// One server.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The server
    pub(crate) name: String,
    /// Print it as JSON, as it is written
    #[arg(long)]
    pub(crate) json: bool,
}

/// One server.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The server
    pub(crate) name: String,
}

/// A file to import.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A file of Claude, Cursor, VS Code or Codex, or a server.json
    pub(crate) file: PathBuf,
    /// Say what would be imported, and import nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace servers of the same name instead of leaving them
    #[arg(long)]
    pub(crate) force: bool,
    /// Print what happened as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where to export to.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The shape
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) format: ExportFormat,
    /// Write it to a file, which must not exist yet [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}

/// A shape of other clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Claude, Cursor and many others; with what only osvm knows.
    #[default]
    #[value(name = "mcpservers")]
    McpServers,
    /// VS Code.
    #[value(name = "vscode")]
    VsCode,
    /// Codex.
    Codex,
}

/// What to look for.
#[derive(Debug, Args)]
pub(crate) struct Search {
    /// Words that all have to be in a name or a description
    #[arg(required = true)]
    pub(crate) words: Vec<String>,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One tool.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The MCP server the tool belongs to
    pub(crate) server: String,
    /// The tool's name
    pub(crate) tool: String,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A server to try.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The server
    pub(crate) server: String,
    /// Longest it may take, in seconds
    #[arg(
        long,
        value_name = "SECS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub(crate) timeout: u64,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// osvm in the files of other clients.
#[derive(Debug, Subcommand)]
pub(crate) enum Client {
    /// List the clients, their files, and whether osvm is in them
    Ls {
        /// Look at the files of the project in this directory
        #[arg(long, value_name = "DIRECTORY", num_args = 0..=1, default_missing_value = ".")]
        project: Option<PathBuf>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write osvm into a client's file: show the change, back the file up, change it
    Connect(Connect),
    /// Take osvm out of a client's file again
    Disconnect(Connect),
}

/// A client's file.
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The client
    #[arg(value_enum)]
    pub(crate) client: ClientName,
    /// The file of the project in this directory, not the user's
    #[arg(long, value_name = "DIRECTORY", num_args = 0..=1, default_missing_value = ".")]
    pub(crate) project: Option<PathBuf>,
    /// Show the change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Ask nothing
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// A client, by the name users type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientName {
    /// The desktop application of Claude.
    ClaudeDesktop,
    /// Claude on the command line.
    ClaudeCode,
    /// Cursor.
    Cursor,
    /// Visual Studio Code.
    #[value(name = "vscode")]
    VsCode,
    /// Codex.
    Codex,
}

/// Completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  osvm completions bash > ~/.local/share/bash-completion/completions/osvm
  osvm completions zsh > ~/.zfunc/_osvm
  osvm completions fish > ~/.config/fish/completions/osvm.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Manual pages.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write one page for each command into this directory [default: the page of osvm to stdout]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) output: Option<PathBuf>,
}
