//! Whether an attempt came to what it had to come to: by what the guest says, by what the server saw,
//! and by the receipt. None of the three is believed alone.

use super::attempts::{Aim, Attempt, Expect, SMUGGLED};
use super::server::{Seen, Server};
use super::stage::{PLANTED, Stage};
use super::way::Start;
use osvm_receipts::{Kind, Receipt, files, lines};
use osvm_runtime::{Answer, Reach, Report, RunMode};
use serde::{Deserialize, Serialize};

/// What came of one attempt.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    /// The attempt.
    pub(super) attempt: &'static str,
    /// Whether it came to what it had to come to.
    pub(super) verdict: Verdict,
    /// What did not.
    pub(super) why: Vec<String>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// As it had to.
    Held,
    /// Nothing got through, but that is not enough: it was not tried, or is not in the receipts.
    NotShown,
    /// Something got through, or what is allowed did not.
    Broken,
}

impl Finding {
    /// One that nothing speaks against yet.
    pub(super) fn new(attempt: &'static str) -> Self {
        Self { attempt, verdict: Verdict::Held, why: Vec::new() }
    }

    /// Something that has to hold.
    pub(super) fn require(&mut self, holds: bool, why: impl FnOnce() -> String) {
        self.note(holds, Verdict::Broken, why);
    }

    /// Something without which nothing is shown.
    pub(super) fn shown(&mut self, holds: bool, why: impl FnOnce() -> String) {
        self.note(holds, Verdict::NotShown, why);
    }

    fn note(&mut self, holds: bool, verdict: Verdict, why: impl FnOnce() -> String) {
        if !holds {
            self.verdict = self.verdict.max(verdict);
            self.why.push(why());
        }
    }
}

/// One call, and all that is known of it.
pub(super) struct Told<'a> {
    pub(super) stage: &'a Stage,
    pub(super) server: &'a Server,
    pub(super) backend: &'static str,
    pub(super) start: Start,
    pub(super) aim: Aim,
    pub(super) report: &'a Report,
}

/// What the prober says of one attempt.
#[derive(Debug, Deserialize)]
struct Outcome {
    sent: u32,
    succeeded: u32,
    refused: u32,
    strays: u32,
    unsent: Option<String>,
    result: Option<String>,
    error: Option<Refused>,
}

#[derive(Debug, Deserialize)]
struct Refused {
    code: i64,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Outcomes {
    outcomes: Vec<Outcome>,
}

/// Judges the attempts of one call.
pub(super) fn judge(told: &Told<'_>, attempts: &[Attempt]) -> Vec<Finding> {
    let answer = match &told.report.outcome {
        Ok(Answer::Result(json)) => Ok(json.get()),
        Ok(_) => Err("the prober answered with an error".to_owned()),
        Err(error) => Err(format!("the call failed: {error}")),
    };
    let outcomes = answer.and_then(|json| {
        let read = serde_json::from_str::<Outcomes>(json);
        read.map(|read| (json, read.outcomes)).map_err(|error| format!("no outcomes: {error}"))
    });
    let (answer, outcomes) = match outcomes {
        Ok(outcomes) => outcomes,
        Err(why) => {
            return attempts
                .iter()
                .map(|attempt| {
                    let mut finding = of_call(told, attempt.name);
                    finding.shown(false, || why.clone());
                    finding
                })
                .collect();
        }
    };
    let notes = notes(told);
    let mut notes = notes.as_slice();
    let mut outcomes = outcomes.into_iter();
    let leaked = finds_secret(answer, told.stage.secret());
    attempts
        .iter()
        .map(|attempt| {
            let (own, rest) = notes.split_at_checked(attempt.notes).unwrap_or((notes, &[]));
            notes = rest;
            let mut finding = of_call(told, attempt.name);
            finding.require(!leaked, || "the secret is in what the guest answered".into());
            match outcomes.next() {
                Some(outcome) => by_guest(&mut finding, attempt, &outcome),
                None => finding.shown(false, || "the guest did not try it".into()),
            }
            by_server(&mut finding, attempt, told);
            by_receipt(&mut finding, attempt, own);
            finding
        })
        .collect()
}

/// Whether a call ran where it should have.
pub(super) fn of_call(told: &Told<'_>, name: &'static str) -> Finding {
    let mut finding = Finding::new(name);
    let ran = &told.report.isolation;
    finding.require(ran.mode == RunMode::Unikernel && ran.fallback.is_none(), || {
        "the call was not isolated".into()
    });
    finding.shown(ran.backend == Some(told.backend), || "another backend ran the call".into());
    let started = (ran.pooled, ran.reused);
    let expected = (told.start == Start::Pooled, told.start == Start::Reused);
    finding.shown(started == expected, || {
        let (pooled, reused) = started;
        format!("the guest was started another way: pooled {pooled}, reused {reused}")
    });
    finding.shown(receipt(told).is_some(), || "there is no receipt of the call".into());
    finding
}

fn by_guest(finding: &mut Finding, attempt: &Attempt, outcome: &Outcome) {
    let times = attempt.times();
    finding.shown(outcome.sent == times && outcome.unsent.is_none(), || {
        format!("the guest made {} of {times} requests", outcome.sent)
    });
    finding.require(outcome.strays == 0, || "answers came that nobody asked for".into());
    let code = outcome.error.as_ref().map(|error| error.code);
    let told = || match &outcome.error {
        Some(error) => format!("{}: {}", error.code, error.message),
        None => "no error".into(),
    };
    let result = outcome.result.as_deref().unwrap_or_default();
    match attempt.expect {
        Expect::Works(text) => {
            finding.require(outcome.succeeded == times && result.contains(text), || {
                format!("what is allowed did not work: {}", told())
            });
        }
        Expect::Stripped => {
            finding.require(outcome.succeeded == times, || {
                format!("what is allowed did not work: {}", told())
            });
        }
        Expect::Refused(expected) => {
            finding.require(outcome.succeeded == 0 && code == Some(expected), || {
                format!("expected a refusal with code {expected}: {}", told())
            });
        }
        Expect::Limited(of, expected) => {
            let right = outcome.succeeded == of && outcome.refused == times.saturating_sub(of);
            finding.require(right && code == Some(expected), || {
                format!("{} of {times} were let through, not {of}: {}", outcome.succeeded, told())
            });
        }
        Expect::Cut => {
            let cut = result.contains(&format!("[secret {PLANTED} removed]"));
            finding.require(outcome.succeeded == times && cut, || {
                format!("nothing was cut out of the answer: {}", told())
            });
        }
        Expect::Unanswered => {
            let answered = outcome.succeeded.saturating_add(outcome.refused);
            finding.require(answered == 0, || "it was answered".into());
        }
    }
}

fn by_server(finding: &mut Finding, attempt: &Attempt, told: &Told<'_>) {
    let arrived = told.server.seen(&told.aim.mark(attempt.name));
    let (count, expected) = (arrived.len(), attempt.arrivals);
    finding.require(count <= expected, || {
        let shown = |seen: &Seen| format!("{} {}", seen.method, seen.target);
        let last = arrived.last().map(shown).unwrap_or_default();
        format!("{count} requests reached the server, not {expected}; the last is {last}")
    });
    finding.shown(expected <= count, || {
        format!("{count} requests reached the server, not {expected}")
    });
    let secret = told.stage.secret();
    for seen in &arrived {
        finding.require(seen.allowed_address, || "it reached the other host".into());
        let allowed = seen.method == "GET" || seen.method == "POST";
        finding.require(allowed && !seen.path().starts_with("/forbidden"), || {
            format!("{} {} reached the server", seen.method, seen.target)
        });
        let with_secret = seen.target.starts_with("/secret/");
        let value = seen.header("authorization").unwrap_or_default();
        finding.shown(!with_secret || value == format!("Bearer {secret}"), || {
            "the server did not get the secret, so nothing was shown".into()
        });
        let leaked = seen.headers.iter().any(|(_, value)| value.contains(secret));
        finding.require((with_secret || !leaked) && !seen.target.contains(secret), || {
            "the secret was sent where no rule sends it".into()
        });
        if matches!(attempt.expect, Expect::Stripped) {
            let smuggled = seen.headers.iter().find(|(_, value)| value.contains(SMUGGLED));
            finding.require(smuggled.is_none(), || format!("a header arrived: {smuggled:?}"));
            let host = format!("127.0.0.1:{}", told.aim.port);
            finding.require(seen.header("host") == Some(&host), || "`Host` is the guest's".into());
        }
    }
}

fn by_receipt(finding: &mut Finding, attempt: &Attempt, notes: &[Reach]) {
    let expected = match attempt.expect {
        Expect::Refused(_) => 1,
        Expect::Limited(of, _) => attempt.times().saturating_sub(of) as usize,
        Expect::Works(_) | Expect::Stripped | Expect::Cut | Expect::Unanswered => 0,
    };
    finding.shown(notes.len() == attempt.notes, || {
        format!("the receipt has {} entries of it, not {}", notes.len(), attempt.notes)
    });
    let refused = notes.iter().filter(|reach| refusal(reach).is_some()).count();
    finding.shown(refused == expected, || {
        format!("the receipt says that {refused} were refused, not {expected}")
    });
}

fn refusal(reach: &Reach) -> Option<&str> {
    match reach {
        Reach::Http { refused, .. } | Reach::File { refused, .. } => refused.as_deref(),
        Reach::Other { refused, .. } => Some(refused),
    }
}

/// What the receipt of a call says that was reached.
pub(super) fn notes(told: &Told<'_>) -> Vec<Reach> {
    receipt(told).map(|receipt| receipt.reaches).unwrap_or_default()
}

/// The receipt of a call, if there is exactly one.
fn receipt(told: &Told<'_>) -> Option<Box<Receipt>> {
    let (dir, call) = (told.stage.receipts(), told.report.call.to_string());
    let all = files(&dir).ok()?.into_iter().filter_map(|file| lines(&dir, file).ok()).flatten();
    let mut own = all.filter_map(|line| match line.kind {
        Some(Kind::Call(receipt)) if receipt.call == call => Some(receipt),
        _ => None,
    });
    own.next().filter(|_| own.next().is_none())
}

/// Whether a text has the secret in it, in any of the forms that a server may send back.
pub(super) fn finds_secret(text: &str, secret: &str) -> bool {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let base64 = STANDARD_NO_PAD.encode(secret);
    // What the last letters of a text in Base64 are, depends on what follows.
    let base64 = base64.get(..base64.len().saturating_sub(2)).unwrap_or_default();
    [secret, &hex, base64].iter().any(|form| text.contains(form))
}
