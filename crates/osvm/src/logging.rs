//! Log lines on stderr: which, and how they look.
//!
//! `-v` and `-vv` decide, else `RUST_LOG`. With neither there are no log lines, only warnings,
//! which look like the rest of what osvm says to people: `warning: …`. Errors are left out then,
//! because what a command returns says the same, once. Setting this up is on the way of every
//! call, so the filter language, which needs a parser, is only there when `RUST_LOG` asks for it.

use crate::cli::{Global, LogFormat};
use crate::failure::Failure;
use crate::printer::Printer;
use std::fmt;
use std::io;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// The variable that names targets and levels, as in `osvm_runtime=debug`.
const VARIABLE: &str = "RUST_LOG";

/// Where lines come from that a guest wrote. They are for those who ask for the log.
const GUEST: &str = "osvm::guest";

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
    let format = global.log_format;
    match (level, directives) {
        (Some(level), _) => lines(format, level),
        (None, Some(directives)) => {
            let filter = EnvFilter::try_new(&directives).map_err(|error| {
                Failure::new("usage", format!("`{VARIABLE}` holds no log filter: `{directives}`"))
                    .caused_by(&error)
                    .hint(format!("try `{VARIABLE}=info`"))
            })?;
            lines(format, filter);
        }
        (None, None) if format == LogFormat::Json => lines(format, FilterFn::new(is_warning)),
        (None, None) => {
            let warnings = tracing_subscriber::fmt::layer()
                .event_format(Warning)
                .with_ansi(false)
                .with_writer(io::stderr)
                .log_internal_errors(false);
            Registry::default().with(FilterFn::new(is_warning)).with(warnings).init();
        }
    }
    Ok(())
}

fn is_warning(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::WARN && metadata.target() != GUEST
}

fn lines(format: LogFormat, filter: impl Layer<Registry> + Send + Sync) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        // A closed stderr must not turn a log line into a panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(Printer::colors_stderr());
            Registry::default().with(filter).with(lines).init();
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            Registry::default().with(filter).with(lines).init();
        }
    }
}

/// A warning without time and span: for people, not for a log.
struct Warning;

impl<S, N> FormatEvent<S, N> for Warning
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("warning: ")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
