//! Log lines on stderr: which, and how they look.
//!
//! `-v` and `-vv` decide, else `RUST_LOG`, else warnings. Setting this up is on the way of every
//! call, so the filter language, which needs a parser, is only there when `RUST_LOG` asks for it.

use crate::cli::{Global, LogFormat};
use crate::failure::Failure;
use crate::printer::Printer;
use std::io;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// The variable that names targets and levels, as in `osvm_runtime=debug`.
const VARIABLE: &str = "RUST_LOG";

/// Starts logging for the rest of the process.
pub(crate) fn start(global: &Global) -> Result<(), Failure> {
    let level = match (global.quiet, global.verbose) {
        (true, _) => return Ok(()),
        (false, 0) => None,
        (false, 1) => Some(LevelFilter::INFO),
        (false, 2) => Some(LevelFilter::DEBUG),
        (false, _) => Some(LevelFilter::TRACE),
    };
    let directives = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    match (level, directives) {
        (Some(level), _) => install(global.log_format, level),
        (None, Some(directives)) => {
            let filter = EnvFilter::try_new(&directives).map_err(|error| {
                Failure::new("usage", format!("`{VARIABLE}` holds no log filter: `{directives}`"))
                    .caused_by(&error)
                    .hint(format!("try `{VARIABLE}=info`"))
            })?;
            install(global.log_format, filter);
        }
        (None, None) => install(global.log_format, LevelFilter::WARN),
    }
    Ok(())
}

fn install(format: LogFormat, filter: impl Layer<Registry> + Send + Sync) {
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_span_events(FmtSpan::NONE)
        // A closed stderr must not turn a log line into a panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(Printer::colors_stderr());
            Registry::default().with(filter).with(lines).init();
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            Registry::default().with(filter).with(lines).init();
        }
    }
}
