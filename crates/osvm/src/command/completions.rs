//! `osvm completions`, `osvm man`: from the definitions that also read the command line.

use super::{Outcome, Status};
use crate::cli::{Cli, Completions, Man};
use crate::context::Context;
use crate::failure::Failure;
use clap::CommandFactory;
use std::io;

/// Prints the completions of a shell.
pub(crate) fn run(context: &Context, args: &Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "osvm", &mut script);
    context.printer.result(&String::from_utf8_lossy(&script))?;
    Ok(Status::Success)
}

/// Prints the manual page, or writes one for each command into a directory.
pub(crate) fn man(context: &Context, args: &Man) -> Outcome {
    let Some(dir) = &args.output else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered
            .map_err(|error| Failure::new("output", "cannot make the page").caused_by(&error))?;
        context.printer.result(&String::from_utf8_lossy(&page))?;
        return Ok(Status::Success);
    };
    let cannot = |error: io::Error| {
        let message = format!("cannot write manual pages into `{}`", dir.display());
        Failure::new("output", message).caused_by(&error)
    };
    std::fs::create_dir_all(dir).map_err(cannot)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(cannot)?;
    Ok(Status::Success)
}
