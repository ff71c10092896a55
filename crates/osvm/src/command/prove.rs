//! `osvm policy prove`: boots real guests that try what a policy forbids, and says what held.
//!
//! ```text
//! backends of this host × cold, pooled, reused
//!   │ prober: attempts ──▶ broker, files, log ──▶ Server, on loopback, which sees what arrives
//!   ▼
//! judge: what the guest says ∧ what the server saw ∧ what the receipt says ──▶ one cell
//! ```
//!
//! # Invariants
//!
//! - Nothing leaves this host: names mean what the proof says, and addresses of others are only asked
//!   for where they have to be refused.
//! - Nothing of the user's is touched but the image store, which is read, and the addresses of
//!   guests. Files, config, rules, secrets and receipts are the proof's own, and gone after it.
//! - What was not tried is not held: a proof needs the allowed requests to work, too.

mod attempts;
mod judge;
mod log_watch;
mod server;
mod stage;
mod way;

use super::{Outcome, Status};
use crate::backend;
use crate::cli::PolicyProve;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::printer::table;
use attempts::Aim;
use judge::{Finding, Verdict};
use osvm_receipts::{PublicKey, verify};
use osvm_runtime::Cancel;
use serde::Serialize;
use server::Server;
use stage::{IMAGE, Stage, User};
use way::{Start, Way};

/// What a proof came to.
#[derive(Debug, Serialize)]
struct Proof {
    /// Whether everything held everywhere.
    held: bool,
    ways: Vec<Column>,
    skipped: Vec<Skipped>,
    /// What holds for all ways together.
    whole: Vec<Finding>,
}

/// One way of starting a VM.
#[derive(Debug, Serialize)]
struct Column {
    backend: &'static str,
    start: &'static str,
    findings: Vec<Finding>,
    /// Why the rest was not tried.
    failure: Option<Failure>,
}

/// A backend on which nothing was tried.
#[derive(Debug, Serialize)]
struct Skipped {
    backend: &'static str,
    why: String,
}

/// Proves.
pub(crate) fn run(context: &Context, args: &PolicyProve) -> Outcome {
    let env = context.env()?;
    let config = context.config(&env)?;
    context.store(&config).load(IMAGE).map_err(|error| {
        let failure = Failure::new("image", "the guest that tries things is not there");
        failure.caused_by(&error).hint("`cargo xtask install` builds and installs it")
    })?;
    let cancel = Cancel::default();
    let interrupt = Interrupt::watch({
        let cancel = cancel.clone();
        move || cancel.cancel()
    })?;
    let (dirs, range) = (context.dirs(&env), config.cid_range());
    let user = User {
        unikernel_dir: config.unikernel_dir(),
        cid_range: (*range.start(), *range.end()),
        dirs: dirs.clone(),
    };
    let stage = Stage::new(&env, user)?;
    let server = Server::start()?;
    let (mut ways, mut skipped) = (Vec::new(), Vec::new());
    for (name, usable) in backend::every(context.global.backend, &config, &dirs) {
        let backend = match usable {
            Ok(backend) => backend,
            Err(why) => {
                skipped.push(Skipped { backend: name, why });
                continue;
            }
        };
        for start in Start::ALL {
            context
                .printer
                .note(&format!("{name}, {}: guests try what is forbidden", start.as_str()));
            let aim = Aim { port: server.port, other_port: server.other_port, way: ways.len() };
            let way = Way {
                stage: &stage,
                server: &server,
                backend: &backend,
                start,
                aim,
                cancel: &cancel,
            };
            let (findings, failure) = match way::prove(&way) {
                Ok(findings) => (findings, None),
                Err(failure) => (Vec::new(), Some(failure)),
            };
            if let Some(signal) = interrupt.signal() {
                return Ok(Status::Interrupted(signal.exit_code()));
            }
            ways.push(Column { backend: name, start: start.as_str(), findings, failure });
        }
    }
    let whole = whole(&stage, &server, ways.len());
    let all = ways.iter().flat_map(|way| &way.findings).chain(&whole);
    let held = all.clone().all(|finding| finding.verdict == Verdict::Held)
        && ways.iter().all(|way| way.failure.is_none());
    let proof = Proof { held: held && !ways.is_empty(), ways, skipped, whole };
    if args.json {
        context.printer.pretty_json(&proof)?;
    } else {
        show(context, &proof)?;
    }
    match &*proof.ways {
        [] => Err(Failure::new("no_backend", "no VM can be started here, so nothing was shown")
            .hint("`osvm doctor` says what is missing")),
        _ if proof.held => Ok(Status::Success),
        _ => Ok(Status::ToolFailed),
    }
}

/// What holds for all ways together.
fn whole(stage: &Stage, server: &Server, ways: usize) -> Vec<Finding> {
    let mut arrived = Finding::new("nothing else arrived");
    for seen in server.all() {
        let known = seen.allowed_address && seen.mark().is_some_and(|mark| known(mark, ways));
        arrived.require(known, || format!("{} {}", seen.method, seen.target));
    }
    let mut names = Finding::new("no other name was looked up");
    let stray = stage.stray_names();
    names.require(stray.is_empty(), || stray.join(", "));
    let mut files = Finding::new("files are as they were");
    let damage = stage.damage();
    files.require(damage.is_none(), || damage.unwrap_or_default());
    let mut receipts = Finding::new("receipts verify");
    let dir = stage.receipts();
    let verdict = PublicKey::open(&dir).and_then(|key| verify(&dir, &key, None));
    match verdict {
        Ok(verdict) => {
            receipts.require(verdict.is_clean() && verdict.recoveries.is_empty(), || {
                verdict.findings.first().map(|found| found.flaw.to_string()).unwrap_or_default()
            });
            receipts.shown(0 < verdict.lines, || "there are none".into());
        }
        Err(error) => receipts.require(false, || error.to_string()),
    }
    let mut secret = Finding::new("secret in no receipt");
    let texts = stage.written();
    let leaked = texts.iter().any(|text| judge::finds_secret(text, stage.secret()));
    secret.require(!leaked, || "the secret is in a receipt or a log".into());
    vec![arrived, names, files, receipts, secret]
}

/// Whether a mark is one of this proof's.
fn known(mark: &str, ways: usize) -> bool {
    let number = mark.split_once('-').and_then(|(number, _)| number.parse::<usize>().ok());
    number.is_some_and(|number| number < ways)
}

fn show(context: &Context, proof: &Proof) -> Result<(), Failure> {
    let printer = context.printer;
    let word = |verdict: Verdict| match verdict {
        Verdict::Held => "held",
        Verdict::NotShown => "not shown",
        Verdict::Broken => "BROKEN",
    };
    let heads = |part: fn(&Column) -> &'static str, first: &str| {
        let parts = proof.ways.iter().map(|way| part(way).to_owned());
        std::iter::once(first.to_owned()).chain(parts).collect::<Vec<_>>()
    };
    let mut rows = vec![heads(|way| way.backend, "ATTEMPT"), heads(|way| way.start, "")];
    let longest = proof.ways.iter().max_by_key(|way| way.findings.len());
    for (at, finding) in longest.iter().flat_map(|way| &way.findings).enumerate() {
        let cells = proof.ways.iter().map(|way| {
            let verdict = way.findings.get(at).map(|finding| finding.verdict);
            word(verdict.unwrap_or(Verdict::NotShown)).to_owned()
        });
        rows.push(std::iter::once(finding.attempt.to_owned()).chain(cells).collect());
    }
    for finding in &proof.whole {
        rows.push(vec![finding.attempt.to_owned(), word(finding.verdict).to_owned()]);
    }
    if !proof.ways.is_empty() {
        printer.result(&table(&rows))?;
    }
    let places = proof.ways.iter().map(|way| (format!("{}, {}", way.backend, way.start), way));
    for (place, way) in places {
        for finding in way.findings.iter().filter(|finding| finding.verdict != Verdict::Held) {
            let why = finding.why.join("; ");
            printer.result(&format!("{place}, `{}`: {why}", finding.attempt))?;
        }
        if let Some(failure) = &way.failure {
            let chain = [std::slice::from_ref(&failure.message), &failure.causes].concat();
            printer.result(&format!("{place}: {}", chain.join(": ")))?;
        }
    }
    for finding in proof.whole.iter().filter(|finding| finding.verdict != Verdict::Held) {
        printer.result(&format!("`{}`: {}", finding.attempt, finding.why.join("; ")))?;
    }
    for skipped in &proof.skipped {
        printer.result(&format!("skipped: {}: {}", skipped.backend, skipped.why))?;
    }
    if proof.held {
        let count: usize = proof.ways.iter().map(|way| way.findings.len()).sum();
        printer
            .result(&format!("{count} attempts on {} ways: everything held", proof.ways.len()))?;
    }
    Ok(())
}
