//! Flags of `osvm policy`, `osvm approvals`, `osvm receipts` and `osvm mcp trust`.

use clap::{Args, Subcommand, ValueEnum};
use osvm_receipts::Anchor;
use std::path::PathBuf;

/// Rules about calls.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Check the rules: every mistake with its line and column
    Check {
        /// The file to check [default: the rules that are in force]
        file: Option<PathBuf>,
    },
    /// Say whether a call would run, and which rule and which line of the config decide that
    Explain(PolicyExplain),
    /// Run cases of your own: what you expect of the rules
    Test {
        /// A JSON list of cases
        file: PathBuf,
    },
    /// Print the schema that rules are checked against
    Schema,
    /// Boot guests that try what a policy forbids, on every way a VM can be started here
    Prove(PolicyProve),
}

/// A proof.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 everything held, 1 something did not, 2 nothing could be shown."
)]
pub(crate) struct PolicyProve {
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A call that is not made.
#[derive(Debug, Args)]
pub(crate) struct PolicyExplain {
    /// The MCP server the tool belongs to
    pub(crate) server: String,
    /// The tool's name
    pub(crate) tool: String,
    /// The tool's arguments, a JSON object
    pub(crate) arguments: Option<String>,
    /// Who calls, as it says itself; `agent:` stands before an agent's name
    #[arg(long, value_name = "NAME", default_value = "cli")]
    pub(crate) client: String,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Calls that wait for a person.
#[derive(Debug, Subcommand)]
pub(crate) enum Approvals {
    /// List the calls that wait for an answer
    Ls {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a call run
    Allow(Answer),
    /// Let a call fail
    Deny(Answer),
}

/// An answer.
#[derive(Debug, Args)]
pub(crate) struct Answer {
    /// What `osvm approvals ls` calls it
    pub(crate) id: String,
    /// From now on for this client, tool and rule, whatever the arguments
    #[arg(long)]
    pub(crate) always: bool,
}

/// What calls left behind.
#[derive(Debug, Subcommand)]
pub(crate) enum Receipts {
    /// List the newest receipts
    Ls {
        /// How many
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
        count: usize,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print one receipt
    Show {
        /// Id of the call, or how it begins, or the number of the receipt
        call: String,
    },
    /// Check that every receipt is there, in order and as it was written
    Verify(ReceiptsVerify),
    /// Print all receipts, one JSON document on a line
    Export {
        /// In which form
        #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
        format: ReceiptFormat,
    },
}

/// What to check against.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing is wrong, 1 something is, 2 it could not be checked."
)]
pub(crate) struct ReceiptsVerify {
    /// A line that was verified earlier and kept elsewhere, as this command prints it
    #[arg(long, value_name = "NUMBER:HASH")]
    pub(crate) anchor: Option<Anchor>,
    /// The public key, 64 hexadecimal digits, kept elsewhere [default: `key.pub` beside them]
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Form of exported receipts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReceiptFormat {
    /// As they are
    #[default]
    Json,
    /// Events of the Open Cybersecurity Schema Framework, class API Activity
    Ocsf,
}

/// Tool definitions that changed.
#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// Believe what this server says of its tools now; without one, list those that changed
    pub(crate) server: Option<String>,
    /// Show what changed, and believe nothing
    #[arg(long)]
    pub(crate) diff: bool,
}
