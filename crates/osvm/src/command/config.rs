//! `osvm config`: where the isolation config is, what it says, and whether it is right.

use super::{Outcome, Status};
use crate::cli;
use crate::context::{Context, config_failure};
use osvm_policy::{Config, schema};

/// Runs one of the commands below `osvm config`.
pub(crate) fn run(context: &Context, command: &cli::Config) -> Outcome {
    let printer = context.printer;
    match command {
        cli::Config::Path => {
            let path = context.config_path(&context.env()?);
            printer.result(&path.display().to_string())?;
        }
        cli::Config::Show => {
            let config = context.config(&context.env()?)?;
            printer.result(config.text())?;
        }
        cli::Config::Validate { file } => {
            let env = context.env()?;
            let path = file.clone().unwrap_or_else(|| context.config_path(&env));
            let config = Config::load(&path, &env).map_err(|error| config_failure(&error))?;
            for warning in config.warnings() {
                printer.note(&format!("warning: {warning}"));
            }
            printer.result(&format!("`{}` is valid", path.display()))?;
        }
        cli::Config::Schema => printer.result(schema())?,
        cli::Config::Explain { server, tool, json } => {
            let explanation = context.config(&context.env()?)?.explain(server, tool);
            if *json {
                printer.pretty_json(&explanation)?;
            } else {
                printer.result(&explanation.to_string())?;
            }
        }
    }
    Ok(Status::Success)
}
