//! `cargo xtask test`: sets up what is missing, then runs every test there is.
//!
//! A step that fails does not stop the others: one run names everything that is wrong. What can't
//! run on this host is skipped, counted and named; nothing is left out in silence.
//!
//! Host tests are built in the development profile, guests and the `osvm` that scripts drive in
//! the release profile, which is what users run; nothing is built in both for one purpose.

mod steps;

use crate::printer;
use crate::project::Project;
use crate::tally::Tally;
use anyhow::Result;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What a step comes to.
type Outcome = Result<Tally>;

/// The steps so far.
#[derive(Debug)]
struct Run {
    started: Instant,
    total: Tally,
    rows: Vec<Vec<String>>,
}

impl Run {
    fn step(&mut self, name: &str, step: impl FnOnce() -> Outcome) {
        printer::step(name);
        let started = Instant::now();
        let tally = step().unwrap_or_else(|error| {
            printer::error(&error);
            Tally::one(false)
        });
        self.total += tally;
        self.rows.push(vec![name.to_owned(), tally.to_string(), seconds(started.elapsed())]);
    }
}

/// `cargo xtask test`.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    let mut run = Run { started: Instant::now(), total: Tally::default(), rows: Vec::new() };
    run.step("tools", || steps::set_up(project));
    let kernel = steps::begin_guest_kernel(project);
    run.step("tidy", || crate::tidy::check(project));
    run.step("format", || steps::format(project));
    run.step("clippy", || steps::clippy(project));
    run.step("guest images", || steps::guest_images(project));
    run.step("guest kernel", || steps::end_guest_kernel(kernel));
    run.step("host tests", || steps::host_tests(project));
    run.step("documentation tests", || steps::doc_tests(project));
    run.step("guest tests", || steps::guest_tests(project));
    run.step("demo and scripts", || steps::scripts(project));
    // What follows waits for the network, for guests and for other programs now and then.
    let fuzz_targets = steps::begin_fuzz_targets(project);
    let mut missing = None;
    run.step("npm, PyPI", || steps::packages(project, &mut missing));
    let missing = missing.as_ref();
    run.step("conformance", || {
        steps::with_packages(missing, "conformance", || crate::conformance::check(project))
    });
    run.step("other clients", || {
        steps::with_packages(missing, "other clients", || crate::clients::check(project))
    });
    run.step("other servers", || {
        steps::with_packages(missing, "other servers", || crate::servers::check(project))
    });
    run.step("test-host", || steps::in_test_host(project));
    run.step("fuzzing", || steps::fuzzing(project, fuzz_targets));
    run.step("dependencies", || steps::deny(project));
    run.rows.push(vec!["all".into(), String::new(), seconds(run.started.elapsed())]);
    printer::note(&format!("\n{}\n", printer::table(&run.rows)));
    printer::result(&run.total.to_string());
    Ok(if run.total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn seconds(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}

/// Counts a skip, with its reason, as a failure where `required` says so.
fn skipped(what: &str, reason: &str, required: bool) -> Tally {
    printer::note(&format!("{what} skipped: {reason}"));
    if required { Tally::one(false) } else { Tally::skip() }
}
