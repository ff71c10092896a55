//! `cargo xtask conformance`: the official conformance suite of MCP, against both sides of osvm.
//!
//! ```text
//! suite ── HTTP ─▶ osvm mcp serve --no-prefix ── stdio ─▶ osvm-fixture       server scenarios
//! suite ◀─ HTTP ── conformance-client, which is osvm-upstream                client scenarios
//! ```
//!
//! # Invariants
//!
//! - What has to pass is what the suite says that each revision requires. No list of expected
//!   failures is given to it.
//! - Every required server scenario has to pass. A client scenario may be in [`CANNOT`], with its
//!   reason; one that is there and passes is a failure, so the list stays true.
//! - Scenarios that no revision requires are run and shown, and don't count.

mod report;

use crate::packages::{self, Missing};
use crate::project::Project;
use crate::stage::{self, Program, Stage};
use crate::tally::Tally;
use crate::{printer, process};
use anyhow::{Context, Result, bail};
use report::{Outcome, Scenario};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// The revisions whose requirements the suite knows and osvm meets.
const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];

/// Client scenarios that can't pass, by the beginning of their names, and why.
const CANNOT: [(&str, &str); 1] = [(
    "auth/",
    "they test an OAuth client; osvm sends bearer tokens from its secret store, and asks nobody \
     to log in",
)];

/// Longest one run of the suite may take, in seconds.
const PATIENCE: u32 = 300;

/// Which side of osvm is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// `cargo xtask conformance`.
pub(crate) fn run(project: &Project, revision: Option<&str>) -> Result<ExitCode> {
    if let Some(revision) = revision.filter(|revision| !REVISIONS.contains(revision)) {
        bail!("no requirements for `{revision}`: known are {}", REVISIONS.join(" and "));
    }
    packages::counted(measure(project, revision)?)
}

/// The same as one of many tests. `Err` in the inner result is why it can't be run here.
pub(crate) fn check(project: &Project) -> Result<Result<Tally, Missing>> {
    measure(project, None)
}

fn measure(project: &Project, revision: Option<&str>) -> Result<Result<Tally, Missing>> {
    let packages = match packages::had(project, &["conformance"])? {
        Ok(packages) => packages,
        Err(missing) => return Ok(Err(missing)),
    };
    let package = packages.npm("conformance").join("@modelcontextprotocol/conformance");
    let stage = Stage::new(project, "conformance")?;
    let fixture = stage::fixture(project, "osvm-fixture")?;
    stage.add("fixture", &Program::new(&fixture, [] as [&str; 0]))?;
    let serving = stage.serve_http(&["--no-prefix", "--servers", "fixture"])?;
    let client = fixture.with_file_name("conformance-client");
    let suite = Suite { package, node: packages.node(), stage: &stage };
    let mut tally = Tally::default();
    for revision in REVISIONS.into_iter().filter(|one| revision.is_none_or(|only| only == *one)) {
        let arguments = ["--url".into(), serving.url.clone()];
        tally += suite.run(Side::Server, revision, &arguments)?;
        let arguments = ["--command".into(), client.display().to_string()];
        tally += suite.run(Side::Client, revision, &arguments)?;
    }
    Ok(Ok(tally))
}

/// The suite, installed.
#[derive(Debug)]
struct Suite<'a> {
    package: PathBuf,
    node: PathBuf,
    stage: &'a Stage,
}

impl Suite<'_> {
    /// Runs all scenarios of one side and one revision, and shows how they ended.
    fn run(&self, side: Side, revision: &str, arguments: &[String]) -> Result<Tally> {
        let results = self.stage.home().join(format!("{}-{revision}", side.word()));
        let mut command = self.stage.command(&self.node);
        command.arg(self.package.join("dist/index.js")).arg(side.word()).args(arguments);
        command.args(["--requirements", revision, "--output-dir"]).arg(&results);
        let said = said(stage::bounded(&command, PATIENCE))?;
        let required = self.required(side, revision)?;
        let mut scenarios = report::read(&said, &required);
        if scenarios.iter().all(|scenario| scenario.outcome == Outcome::Missing) {
            bail!("the suite ran nothing: {said}");
        }
        if side == Side::Client {
            excuse(&mut scenarios);
        }
        printer::note(&format!("\n{} scenarios of {revision}", side.word()));
        printer::note(&report::table(&scenarios));
        for scenario in scenarios.iter().filter(|scenario| scenario.counts_as(false)) {
            for line in report::failures(&results, &scenario.name) {
                printer::note(&format!("  {}: {line}", scenario.name));
            }
        }
        Ok(report::tally(&scenarios))
    }

    /// What the suite says that a revision requires.
    fn required(&self, side: Side, revision: &str) -> Result<Vec<String>> {
        let path = self.package.join(format!("requirements/{revision}.yaml"));
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read `{}`", path.display()))?;
        let required = report::required(&text, side.word());
        if required.is_empty() {
            bail!("`{}` requires nothing of a {}", path.display(), side.word());
        }
        Ok(required)
    }
}

/// Takes scenarios that can't pass out of those that have to.
fn excuse(scenarios: &mut [Scenario]) {
    for scenario in scenarios.iter_mut() {
        let reason = CANNOT.iter().find(|(prefix, _)| scenario.name.starts_with(prefix));
        let Some((_, reason)) = reason else { continue };
        scenario.outcome = match scenario.outcome {
            Outcome::Passed if scenario.required => Outcome::Surprise,
            Outcome::Failed | Outcome::Missing => Outcome::Cannot(reason),
            other => other,
        };
    }
}

/// What a program writes to stdout, however it ends.
fn said(mut command: Command) -> Result<String> {
    let shown = process::show(&command);
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
