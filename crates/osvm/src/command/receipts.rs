//! `osvm receipts`: what calls left behind, and whether it is all there.

use super::{Outcome, Status};
use crate::cli::{self, ReceiptFormat, ReceiptsVerify};
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use osvm_receipts::{
    Hash, Kind, Line, PublicKey, Receipt, ReceiptError, Verdict, files, lines, ocsf, verify,
};
use serde_json::json;
use serde_json::value::RawValue;
use std::path::Path;

/// Runs one of the commands below `osvm receipts`.
pub(crate) fn run(context: &Context, command: &cli::Receipts) -> Outcome {
    let dir = context.receipts_dir(&context.env()?);
    match command {
        cli::Receipts::Ls { count, json } => list(context, &dir, *count, *json),
        cli::Receipts::Show { call } => show(context, &dir, call),
        cli::Receipts::Verify(args) => check(context, &dir, args),
        cli::Receipts::Export { format } => export(context, &dir, *format),
    }
}

fn list(context: &Context, dir: &Path, count: usize, as_json: bool) -> Outcome {
    let mut newest = Vec::new();
    for number in files(dir).map_err(failure)?.into_iter().rev() {
        let lines = lines(dir, number).map_err(failure)?.into_iter().rev();
        newest.extend(lines.take(count.saturating_sub(newest.len())));
        if count <= newest.len() {
            break;
        }
    }
    newest.reverse();
    if as_json {
        for line in &newest {
            print(context, line)?;
        }
        return Ok(Status::Success);
    }
    if newest.is_empty() {
        context.printer.note("no receipts yet");
        return Ok(Status::Success);
    }
    let heads = ["NUMBER", "TIME", "CLIENT", "TOOL", "DECISION", "MODE", "EXIT", "REACHED"];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(newest.iter().map(row));
    context.printer.result(&table(&rows))?;
    Ok(Status::Success)
}

fn row(line: &Line) -> [String; 8] {
    let dash = || "-".to_owned();
    match &line.kind {
        Some(Kind::Call(receipt)) => {
            let Receipt { seq, time, client, server, tool, decision, exit, .. } = &**receipt;
            let left_out = usize::try_from(receipt.reaches_left_out).unwrap_or(usize::MAX);
            let reached = receipt.reaches.len().saturating_add(left_out).to_string();
            let mode = receipt.isolation.mode.as_str().to_owned();
            let tool = format!("{server}/{tool}");
            let (time, client) = (time.clone(), client.clone());
            [seq.to_string(), time, client, tool, decision.clone(), mode, exit.clone(), reached]
        }
        Some(Kind::Recovery(found)) => {
            let (seq, time) = (found.seq.to_string(), found.time.clone());
            [seq, time, dash(), dash(), dash(), dash(), "recovery".into(), dash()]
        }
        None => {
            let place = format!("line {}", line.place.line);
            [place, dash(), dash(), dash(), dash(), dash(), "unreadable".into(), dash()]
        }
    }
}

fn show(context: &Context, dir: &Path, query: &str) -> Outcome {
    let number = query.parse::<u64>().ok();
    let is_meant = |line: &Line| match &line.kind {
        Some(Kind::Call(receipt)) => match number {
            Some(number) => receipt.seq == number,
            None => !query.is_empty() && receipt.call.starts_with(query),
        },
        Some(Kind::Recovery(found)) => Some(found.seq) == number,
        None => false,
    };
    for file in files(dir).map_err(failure)?.into_iter().rev() {
        let lines = lines(dir, file).map_err(failure)?;
        if let Some(line) = lines.iter().rev().find(|line| is_meant(line)) {
            let value: serde_json::Value = serde_json::from_slice(&line.text).unwrap_or_default();
            context.printer.pretty_json(&value)?;
            return Ok(Status::Success);
        }
    }
    let shown: String = query.chars().take(64).collect();
    Err(Failure::new("receipts", format!("there is no receipt of a call `{shown}`"))
        .hint("`osvm receipts ls` lists the newest ones"))
}

fn check(context: &Context, dir: &Path, args: &ReceiptsVerify) -> Outcome {
    if files(dir).map_err(failure)?.is_empty() && args.anchor.is_none() && !dir.exists() {
        context.printer.note("no receipts yet");
        return Ok(Status::Success);
    }
    let key = match &args.key {
        Some(text) => PublicKey::parse(text)
            .ok_or_else(|| Failure::new("usage", "`--key` is 64 hexadecimal digits"))?,
        None => PublicKey::open(dir).map_err(failure)?,
    };
    let verdict = verify(dir, &key, args.anchor).map_err(failure)?;
    if args.json {
        context.printer.pretty_json(&told(&verdict, &key))?;
    } else {
        for finding in &verdict.findings {
            let (file, line) = (finding.place.file.display(), finding.place.line);
            let place = if line == 0 { file.to_string() } else { format!("{file} line {line}") };
            context.printer.result(&format!("{place}: {}", finding.flaw))?;
        }
        for (place, found) in &verdict.recoveries {
            let (file, line, time) = (place.file.display(), place.line, &found.time);
            let lost = if found.lines_lost { ", receipts had been removed" } else { "" };
            let head = if found.head_lost { ", the head had been removed" } else { "" };
            let foreign = if found.foreign_lines > 0 { ", foreign lines were there" } else { "" };
            let torn = if found.torn_bytes > 0 { ", a crash had cut one off" } else { "" };
            let note =
                format!("{file} line {line}: recovered at {time}{torn}{lost}{head}{foreign}");
            context.printer.note(&note);
        }
        let state = if verdict.is_clean() { "all as they were written" } else { "NOT all right" };
        context.printer.result(&format!("{} receipts, {state}", verdict.lines))?;
        if let Some(newest) = verdict.newest {
            context.printer.note(&format!("newest: {newest}\nkey: {key}"));
        }
    }
    Ok(if verdict.is_clean() { Status::Success } else { Status::ToolFailed })
}

fn told(verdict: &Verdict, key: &PublicKey) -> serde_json::Value {
    let findings = verdict.findings.iter().map(|finding| {
        json!({
            "file": finding.place.file.display().to_string(),
            "line": finding.place.line,
            "flaw": finding.flaw.to_string(),
        })
    });
    json!({
        "clean": verdict.is_clean(),
        "receipts": verdict.lines,
        "newest": verdict.newest.map(|newest| newest.to_string()),
        "key": key.to_string(),
        "findings": findings.collect::<Vec<_>>(),
        "recoveries": verdict.recoveries.len(),
        "torn_bytes": verdict.torn_bytes,
    })
}

fn export(context: &Context, dir: &Path, format: ReceiptFormat) -> Outcome {
    for number in files(dir).map_err(failure)? {
        for line in lines(dir, number).map_err(failure)? {
            match (format, &line.kind) {
                (ReceiptFormat::Json, _) => print(context, &line)?,
                (ReceiptFormat::Ocsf, Some(Kind::Call(receipt))) => {
                    let event = ocsf::event(receipt, &Hash::of(&line.text));
                    context.printer.json(&event)?;
                }
                // What is no call is no activity.
                (ReceiptFormat::Ocsf, _) => {}
            }
        }
    }
    Ok(Status::Success)
}

/// A line as it stands, if it is JSON; `verify` is there for what is not.
fn print(context: &Context, line: &Line) -> Result<(), Failure> {
    match serde_json::from_slice::<&RawValue>(&line.text) {
        Ok(json) => context.printer.json(&json),
        Err(_) => Ok(()),
    }
}

fn failure(error: ReceiptError) -> Failure {
    Failure::from_error("receipts", &error, error.hint())
}
