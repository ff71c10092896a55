//! Flags of the commands about microVMs of servers and about their templates.

use clap::{Args, Subcommand};

/// Servers in Linux microVMs.
#[derive(Debug, Subcommand)]
pub(crate) enum Microvm {
    /// Start a server in a microVM of its own, and keep it until Ctrl-C
    Launch(MicrovmLaunch),
    /// Start several microVMs of a server at once, for load, and keep them until Ctrl-C
    LaunchMany(MicrovmLaunchMany),
    /// Show the microVMs that run now
    Status(MicrovmStatus),
    /// End the microVMs of a server, whoever runs them; the next call starts another
    Stop(MicrovmServer),
    /// Show what a server's microVM wrote to its console
    Logs(MicrovmServer),
    /// Start a server in a microVM, say what it is and offers, end it
    Test(MicrovmLaunch),
}

/// A server.
#[derive(Debug, Args)]
pub(crate) struct MicrovmServer {
    /// The server
    pub(crate) server: String,
}

/// A server to start.
#[derive(Debug, Args)]
pub(crate) struct MicrovmLaunch {
    /// The server
    pub(crate) server: String,
    /// Memory of the microVM, in MiB [default: as the config says, else the image]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(64..=65_536))]
    pub(crate) memory: Option<u32>,
    /// Processors of the microVM: 1, which is all its kernel knows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) vcpus: Option<u32>,
    /// Program and arguments, in place of the image's own
    #[arg(long, value_name = "COMMAND")]
    pub(crate) command: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A server to start several times.
#[derive(Debug, Args)]
pub(crate) struct MicrovmLaunchMany {
    /// How many
    #[arg(value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) count: u16,
    #[command(flatten)]
    pub(crate) launch: MicrovmLaunch,
}

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct MicrovmStatus {
    /// Only those of this server
    pub(crate) server: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a server lives.
#[derive(Debug, Args)]
pub(crate) struct Lives {
    /// The server
    pub(crate) server: String,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A server to explain.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The server
    pub(crate) server: String,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Changes that calls made in copies of a workspace.
#[derive(Debug, Subcommand)]
pub(crate) enum Workspace {
    /// List the changes that wait
    #[command(visible_alias = "list")]
    Ls {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show changes as a patch
    Show {
        /// Which, as `ls` shows it [default: the only one]
        id: Option<String>,
        /// Print a list of the files as JSON
        #[arg(long)]
        json: bool,
    },
    /// Put changes into the folder they belong to, all of them or none
    Apply {
        /// Which, as `ls` shows it [default: the only one]
        id: Option<String>,
        /// Also over files that were changed since the call
        #[arg(long)]
        force: bool,
    },
    /// Forget changes
    #[command(visible_alias = "remove")]
    Rm {
        /// Which, as `ls` shows it
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Templates: saved servers that calls get copies of.
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// List the templates
    Ls {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove templates; the next call makes another
    Rm {
        /// Servers, or the keys that `ls` shows
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make the template of a server anew
    Rebuild(MicrovmServer),
}
