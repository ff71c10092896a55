//! The agent as a program: the only one of its microVM. It has its host at stdin and stdout, and
//! nothing else.

use std::io::{self, BufReader};
use std::process::ExitCode;

fn main() -> ExitCode {
    match osvm_agent::serve(BufReader::new(io::stdin()), io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        // The host sees that the stream ended; there is nobody else to tell.
        Err(_) => ExitCode::FAILURE,
    }
}
