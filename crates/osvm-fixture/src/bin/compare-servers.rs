//! Compares what a client sees of a server directly with what it sees of it through osvm.
//!
//! ```text
//! compare-servers PLAN.json
//!
//! folder ◀─ template ─▶ folder          the same files for both
//!   │ direct: server      │ through: osvm mcp serve ─▶ server
//!   ▼                     ▼
//! lists, calls     ==     lists, calls
//! ```
//!
//! # Invariants
//!
//! - Every tool that the server lists is called, or the plan says why not. A plan for a tool that is
//!   not listed is a difference.
//! - Compared is JSON: the order of members does not count, that of entries of a list does not
//!   either, because osvm sorts them; everything else does.
//! - Only this is taken out of it: what osvm has to add to `_meta`, and what the plan masks because it
//!   is never the same twice.
//! - A server of both eras is compared in both, unless the plan names one.
//! - Where osvm gives every call a server of its own, so does this to the calls it compares with.
//!
//! The last line says how much was the same: `12 passed, 0 failed`.

use anyhow::{Context as _, Result, ensure};
use osvm_upstream::{ClientFacts, Deaf, Era, Offer, Outgoing, Reply, Server, Spec, Stop, Target};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest one request may take, a start of Node or Python with it, in a microVM too.
const PATIENCE: Duration = Duration::from_secs(280);

/// What osvm adds to every result.
const ISOLATION: &str = "osvm/isolation";

/// What osvm adds to results of servers that have a workspace.
const WORKSPACE: &str = "osvm/workspace";

/// How much of two values is shown where they differ, in characters.
const SHOWN: usize = 1500;

/// What to compare.
#[derive(Debug, Deserialize)]
struct Plan {
    direct: Program,
    through: Program,
    /// Where the server works; made anew from `template` before each side is asked.
    folder: PathBuf,
    template: PathBuf,
    calls: Vec<Planned>,
    /// Tools that are not called, and why.
    skipped: BTreeMap<String, String>,
    /// Where every call has to run, as osvm calls it; anywhere without it.
    #[serde(default)]
    mode: Option<String>,
    /// Whether every call has a server of its own, with files of its own.
    #[serde(default)]
    each_afresh: bool,
    #[serde(default)]
    eras: Eras,
}

/// In which eras a server is compared.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Eras {
    /// In all that it speaks.
    #[default]
    All,
    /// In the one that it prefers.
    Preferred,
    /// In the one with `initialize`, as far as it is spoken; what the other one wraps around
    /// every result does not count.
    Legacy,
}

/// A server's command line.
#[derive(Debug, Deserialize)]
struct Program {
    command: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

/// A call of a tool.
#[derive(Debug, Deserialize)]
struct Planned {
    tool: String,
    arguments: Value,
    #[serde(default)]
    masks: Vec<Mask>,
}

/// What is different each time.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mask {
    /// Every digit: times, durations, numbers of processes.
    Digits,
    /// Runs of seven and more hexadecimal digits: ids of commits.
    Hashes,
    /// What follows that word on a line.
    After(String),
    /// What follows that word, on all lines.
    Rest(String),
}

/// What one side showed, by what it was asked.
type Seen = BTreeMap<String, Value>;

fn main() -> Result<ExitCode> {
    let path = std::env::args().nth(1).context("usage: compare-servers PLAN.json")?;
    let plan = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
    let plan: Plan = serde_json::from_str(&plan).with_context(|| format!("`{path}` is no plan"))?;
    let (mut passed, mut failed) = (0, 0);
    let (first, dual) = eras(&plan)?;
    let other = match first {
        Era::Legacy => Era::Modern,
        Era::Modern => Era::Legacy,
    };
    let eras = match plan.eras {
        Eras::All => [Some(first), dual.then_some(other)],
        Eras::Preferred => [Some(first), None],
        Eras::Legacy => [Some(Era::Legacy), None],
    };
    for era in eras.into_iter().flatten() {
        let direct = look(&plan, &plan.direct, era, false)?;
        let through = look(&plan, &plan.through, era, true)?;
        let asked: std::collections::BTreeSet<_> = direct.keys().chain(through.keys()).collect();
        for what in asked {
            let (one, two) = (direct.get(what), through.get(what));
            if one == two {
                passed += 1;
                continue;
            }
            failed += 1;
            say(&format!("{}: {what} differs", era.name()))?;
            say(&format!("  directly:     {}", shown(one)))?;
            say(&format!("  through osvm: {}", shown(two)))?;
        }
    }
    say(&format!("{passed} passed, {failed} failed"))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The era that the server prefers, and whether it speaks the other one too.
fn eras(plan: &Plan) -> Result<(Era, bool)> {
    let server = start(plan, &plan.direct)?;
    let offer = server.refresh(soon()).context("the server can't be asked")?;
    server.shut_down();
    Ok((offer.era, offer.dual))
}

/// Starts one side on fresh files and asks it for all there is.
fn look(plan: &Plan, program: &Program, era: Era, isolated: bool) -> Result<Seen> {
    let mut server = start(plan, program)?;
    let side = if isolated { "osvm" } else { "the server" };
    let offer = offer(&server).with_context(|| format!("{side} can't be asked"))?;
    let mut seen = lists(&offer)?;
    let names: Vec<String> = listed(&offer.tools)?.into_iter().map(|(name, _)| name).collect();
    for name in names {
        if plan.skipped.contains_key(&name) {
            continue;
        }
        if !plan.calls.iter().any(|call| call.tool == name) {
            seen.insert(format!("plan for `{name}`"), json!(format!("missing for {side}")));
        }
    }
    for (number, call) in plan.calls.iter().enumerate() {
        if plan.each_afresh && !isolated {
            server.shut_down();
            server = start(plan, program)?;
        }
        let params = json!({"name": call.tool, "arguments": call.arguments});
        let mut answer = ask(&server, "tools/call", &params, era)
            .with_context(|| format!("{side}: call of `{}`", call.tool))?;
        if isolated {
            let place = take_isolation(&mut answer);
            let fits = place
                .is_some_and(|place| place.is_none() || plan.mode.is_none() || place == plan.mode);
            ensure!(fits, "osvm did not say that `{}` was isolated so: {answer}", call.tool);
        }
        if matches!(plan.eras, Eras::Legacy) {
            take_wrapping(&mut answer);
        }
        mask(&mut answer, &call.masks);
        seen.insert(format!("call {number} of `{}`", call.tool), answer);
    }
    server.shut_down();
    Ok(seen)
}

/// All lists, when there is something in them: osvm may not have asked the server yet.
fn offer(server: &Server) -> Result<Arc<Offer>> {
    let deadline = soon();
    loop {
        let offer = server.refresh(deadline)?;
        if !offer.tools.is_empty() {
            return Ok(offer);
        }
        ensure!(Instant::now() < deadline, "it lists no tools");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn start(plan: &Plan, program: &Program) -> Result<Arc<Server>> {
    if plan.folder.exists() {
        fs::remove_dir_all(&plan.folder).context("cannot remove the files of the last server")?;
    }
    copy(&plan.template, &plan.folder)?;
    let Program { command, args, env } = program;
    let target = Target::Process {
        command: command.clone(),
        args: args.clone(),
        env: env.clone().into_iter().collect(),
        cwd: Some(plan.folder.clone()),
    };
    Ok(Server::new(Spec::new("compared", target), None))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make `{}`", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()));
    for entry in entries? {
        let (entry, to) = (entry?, to.to_owned());
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)
                .with_context(|| format!("cannot write `{}`", to.display()))?;
        }
    }
    Ok(())
}

/// Every list, as an object by name or address.
fn lists(offer: &Offer) -> Result<Seen> {
    let all = [
        ("tools", &offer.tools),
        ("prompts", &offer.prompts),
        ("resources", &offer.resources),
        ("resource templates", &offer.resource_templates),
    ];
    let mut seen = Seen::new();
    for (what, entries) in all {
        seen.insert(format!("number of {what}"), entries.len().into());
        for (name, entry) in listed(entries)? {
            seen.insert(format!("{what}: `{name}`"), entry);
        }
    }
    Ok(seen)
}

/// Entries of a list, each with what tells it from others.
fn listed(entries: &[Box<RawValue>]) -> Result<Vec<(String, Value)>> {
    let read = |entry: &RawValue| {
        let entry: Value = serde_json::from_str(entry.get())?;
        let name = ["uri", "uriTemplate", "name"].into_iter().find_map(|key| entry.get(key));
        let name = name.and_then(Value::as_str).context("an entry has no name")?.to_owned();
        Ok((name, entry))
    };
    entries.iter().map(|entry| read(entry)).collect()
}

fn ask(server: &Server, method: &str, params: &Value, era: Era) -> Result<Value> {
    let params = to_raw_value(params)?;
    let outgoing = Outgoing {
        method,
        params: Some(&params),
        client: ClientFacts { owner: 1, ..ClientFacts::default() },
        era_wanted: Some(era),
        relay: &Deaf,
    };
    Ok(match server.request(&outgoing, soon(), &Stop::default())? {
        Reply::Result(result) => serde_json::from_str(result.get())?,
        Reply::Error(error) => json!({"error": serde_json::from_str::<Value>(error.get())?}),
    })
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Takes out what osvm adds: the place where the call ran, if osvm says that. A protocol error has no
/// place for it.
fn take_isolation(answer: &mut Value) -> Option<Option<String>> {
    let answer = answer.as_object_mut()?;
    if answer.contains_key("error") {
        return Some(None);
    }
    let meta = answer.get_mut("_meta").and_then(Value::as_object_mut)?;
    let found = meta.remove(ISOLATION);
    meta.remove(WORKSPACE);
    if meta.is_empty() {
        answer.remove("_meta");
    }
    found.map(|found| found.get("mode").and_then(Value::as_str).map(str::to_owned))
}

/// Takes out what servers of the new era add to every result.
fn take_wrapping(answer: &mut Value) {
    let Some(answer) = answer.as_object_mut() else { return };
    answer.remove("resultType");
    if let Some(meta) = answer.get_mut("_meta").and_then(Value::as_object_mut) {
        meta.remove("io.modelcontextprotocol/serverInfo");
        if meta.is_empty() {
            answer.remove("_meta");
        }
    }
}

/// Masks every text in `value`.
fn mask(value: &mut Value, masks: &[Mask]) {
    match value {
        Value::String(text) => {
            for mask in masks {
                *text = masked(text, mask);
            }
        }
        Value::Number(_) if masks.iter().any(|mask| matches!(mask, Mask::Digits)) => {
            *value = "#".into();
        }
        Value::Array(all) => all.iter_mut().for_each(|value| mask(value, masks)),
        Value::Object(all) => all.values_mut().for_each(|value| mask(value, masks)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn masked(text: &str, mask: &Mask) -> String {
    match mask {
        Mask::Digits => text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect(),
        Mask::Hashes => {
            let words = text.split_inclusive(|c: char| !c.is_ascii_hexdigit());
            let word = |word: &str| {
                let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
                let rest = word.get(digits.len()..).unwrap_or_default();
                if digits.len() < 7 { word.to_owned() } else { format!("#{rest}") }
            };
            words.map(word).collect()
        }
        Mask::After(prefix) => {
            let line = |line: &str| match line.split_once(prefix.as_str()) {
                Some((before, _)) => format!("{before}{prefix}#"),
                None => line.to_owned(),
            };
            text.split('\n').map(line).collect::<Vec<_>>().join("\n")
        }
        Mask::Rest(prefix) => match text.split_once(prefix.as_str()) {
            Some((before, _)) => format!("{before}{prefix}#"),
            None => text.to_owned(),
        },
    }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".into(), |value| value.to_string().chars().take(SHOWN).collect())
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_take_out_what_they_name_and_nothing_else() {
        let check = |text: &str, mask: &Mask, expected: &str| {
            assert_eq!(masked(text, mask), expected);
        };
        check("at 09:15, a5", &Mask::Digits, "at ##:##, a#");
        check("commit 0123456789abcdef. added cafe", &Mask::Hashes, "commit #. added cafe");
        check("size: 1\ncreated: now", &Mask::After("created: ".into()), "size: 1\ncreated: #");
        check("env: {\na\nb", &Mask::Rest("{".into()), "env: {#");
    }

    #[test]
    fn only_the_envelope_of_osvm_is_taken_out_of_meta() {
        let mut answer = json!({"_meta": {ISOLATION: {"mode": "direct"}, "x": 1}, "content": []});
        assert_eq!(take_isolation(&mut answer), Some(Some("direct".into())));
        assert_eq!(answer, json!({"_meta": {"x": 1}, "content": []}));
        assert_eq!(take_isolation(&mut json!({"content": []})), None);
    }
}
