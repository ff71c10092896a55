//! The tool executor as a program, for Linux and Unikraft.
//!
//! ```text
//! unikraft_tool_executor             serves vsock port 5252 until it is ended
//! unikraft_tool_executor --stdio     serves one connection: frames on stdin and stdout
//! ```
//!
//! # Invariants
//!
//! - With `--stdio` nothing but frames is written to stdout.
//! - Exit code 0 means that it did what it was asked, 2 that it could not.

mod linux;
mod stdio;
mod vsock;

use std::io::{self, Write};
use std::process::ExitCode;
use unikraft_tool_executor::manifest_json;

/// Name of the image this program stands for.
const NAME: &str = env!("CARGO_PKG_NAME");
/// Digest of the sources, from the build script.
const BUILD: &str = env!("OSVM_BUILD_ID");

const HELP: &str = "\
The tools of osvm and their JSON-RPC server, for a guest that runs Linux or Unikraft.

Usage: unikraft_tool_executor [OPTION]

Without an option it serves vsock port 5252 until it is ended.

Options:
  --stdio       Serve one connection: frames on stdin and stdout
  --list-tools  Print the definitions of all tools as a JSON array
  --version     Print version and build id
  --help        Print this help
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let done = match (arguments.next(), arguments.next()) {
        (None, _) => vsock::serve(),
        (Some(option), None) => match option.to_str() {
            Some("--stdio") => stdio::serve(),
            Some("--list-tools") => print(&format!("{}\n", manifest_json())),
            Some("--version") => {
                print(&format!("{NAME} {} (build {BUILD})\n", env!("CARGO_PKG_VERSION")))
            }
            Some("--help") => print(HELP),
            _ => return unusable(&format!("unknown option `{}`", option.display())),
        },
        (Some(_), Some(_)) => return unusable("more than one option"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(2)
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn unusable(problem: &str) -> ExitCode {
    complain(&format_args!("{problem}\n\nhint: run `unikraft_tool_executor --help`"));
    ExitCode::from(2)
}

/// Writes one error to stderr. When even that fails there is nobody left to tell.
fn complain(error: &dyn std::fmt::Display) {
    let _lost = writeln!(io::stderr(), "error: {error}");
}
