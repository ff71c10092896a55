//! Flags of the agent: `osvm`, `osvm agent`, `osvm ask`, `osvm plan`.

use super::Cli;
use clap::error::ErrorKind;
use clap::{Args, Parser as _, Subcommand, ValueEnum};
use std::io::{self, IsTerminal as _};

/// A command line without a command: on a terminal, and with flags that only the agent has, it
/// means the agent.
///
/// # Errors
///
/// What was wrong with it before, if it means something else.
pub(crate) fn agent_by_itself(error: clap::Error) -> Result<Cli, clap::Error> {
    let may_be = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            io::stdin().is_terminal() && io::stdout().is_terminal()
        }
        ErrorKind::UnknownArgument => true,
        _ => false,
    };
    if !may_be {
        return Err(error);
    }
    let mut arguments: Vec<_> = std::env::args_os().collect();
    arguments.insert(arguments.len().min(1), "agent".into());
    Cli::try_parse_from(arguments).map_err(|_| error)
}

/// Where the agent runs.
#[derive(Debug, Args)]
pub(crate) struct AgentWhere {
    /// Run the agent on this host instead of in a microVM [also: OSVM_SKIP_MICROVM=1]
    #[arg(long)]
    pub(crate) direct: bool,
}

/// What needs no person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Yes {
    /// Tools that say they change nothing.
    ReadOnly,
    /// All of them.
    All,
}

/// A conversation.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "`osvm` on a terminal does the same. docs/agent.md says how to choose a model."
)]
pub(crate) struct Agent {
    /// What to do instead of talking
    #[command(subcommand)]
    pub(crate) command: Option<AgentCommand>,
    /// Lines instead of a full screen; by itself where stdout is no terminal
    #[arg(long)]
    pub(crate) plain: bool,
    /// Go on with a session [default: the newest]
    #[arg(long, value_name = "ID", num_args = 0..=1)]
    pub(crate) resume: Option<Option<String>>,
    /// Run without asking what would be asked: `read-only` tools, or `all`
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "read-only"
    )]
    pub(crate) yes: Option<Yes>,
    /// Where the agent runs.
    #[command(flatten)]
    pub(crate) place: AgentWhere,
}

/// Besides talking.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List the sessions, newest first
    Sessions {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
}

/// One prompt.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  osvm ask \"which account signed this transaction? $(cat transaction.txt)\"
  osvm ask - --json < prompt.txt
  osvm ask --yes \"echo 'hi'\"

Exit codes: 0 there is an answer, 1 without a model: the tool reported an error, 2 osvm could not do it.")]
pub(crate) struct Ask {
    /// The prompt; `-` reads it from stdin
    #[arg(required = true, value_name = "PROMPT")]
    pub(crate) text: Vec<String>,
    /// Print every event as one line of JSON, and the outcome last
    #[arg(long)]
    pub(crate) json: bool,
    /// Go on with a session [default: the newest]
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true)]
    pub(crate) resume: Option<Option<String>>,
    /// Run without asking what would be asked: `read-only` tools, or `all`
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "read-only"
    )]
    pub(crate) yes: Option<Yes>,
    /// Where the agent runs.
    #[command(flatten)]
    pub(crate) place: AgentWhere,
}

/// One plan.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The prompt; `-` reads it from stdin
    #[arg(required = true, value_name = "PROMPT")]
    pub(crate) text: Vec<String>,
    /// Print every event as one line of JSON, and the outcome last
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the agent runs.
    #[command(flatten)]
    pub(crate) place: AgentWhere,
}
