//! `osvm policy` and `osvm approvals`: what the rules say, and what a person says.

use super::{Outcome, Status};
use crate::arguments;
use crate::cli;
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::table;
use osvm_protocol::tool::Annotations;
use osvm_rules::{
    ApprovalError, Asked, Expect, Policies, PolicyError, SCHEMA, Verdict, evaluate, read_cases,
};
use serde_json::json;
use std::path::Path;
use std::time::SystemTime;

/// Longest file of cases that is read, in bytes.
const MAX_CASES: u64 = 16 * 1024 * 1024;

/// Runs one of the commands below `osvm policy`.
pub(crate) fn run(context: &Context, command: &cli::Policy) -> Outcome {
    match command {
        cli::Policy::Check { file } => check(context, file.as_deref()),
        cli::Policy::Explain(args) => explain(context, args),
        cli::Policy::Test { file } => test(context, file),
        cli::Policy::Prove(args) => super::prove::run(context, args),
        cli::Policy::Schema => {
            context.printer.result(SCHEMA.trim_end())?;
            Ok(Status::Success)
        }
    }
}

fn check(context: &Context, file: Option<&Path>) -> Outcome {
    let printer = context.printer;
    let policies = match file {
        Some(file) => Policies::load(file),
        None => {
            let env = context.env()?;
            let rules = context.rules(&context.config(&env)?, &env);
            match rules.policies() {
                Ok(Some(policies)) => {
                    return told(context, &policies);
                }
                Ok(None) => {
                    printer.note("there are no rules: the isolation config decides alone");
                    return Ok(Status::Success);
                }
                Err(error) => Err(error),
            }
        }
    };
    match policies {
        Ok(policies) => told(context, &policies),
        Err(PolicyError::Invalid { path, problems }) => {
            for problem in &problems {
                printer.result(&format!("{}: {problem}", path.display()))?;
            }
            let message = format!("the rules in `{}` are wrong", path.display());
            Err(Failure::new("policy", message))
        }
        Err(error) => Err(failure(&error)),
    }
}

fn told(context: &Context, policies: &Policies) -> Outcome {
    for warning in policies.warnings() {
        context.printer.note(&format!("warning: {warning}"));
    }
    if policies.is_empty() {
        context.printer.note("warning: without a `permit` no call runs");
    }
    let (path, count) = (policies.path().display(), policies.len());
    context.printer.result(&format!("`{path}` is valid: {count} rules"))?;
    Ok(Status::Success)
}

fn explain(context: &Context, args: &cli::PolicyExplain) -> Outcome {
    let env = context.env()?;
    let config = context.config(&env)?;
    let given = arguments::read(args.arguments.as_deref().or(Some("{}")))?;
    let rules = context.rules(&config, &env);
    let policies = rules.policies().map_err(|error| failure(&error))?;
    let resolved = config.resolve(&args.server, &args.tool);
    // Where there is no image, or the tool is another server's, nothing is known of it.
    let image = context.store(&config).load(&resolved.unikernel_image).ok();
    let annotations =
        image.and_then(|image| Some(image.tools.get(&args.server, &args.tool).ok()?.annotations));
    let Annotations { read_only_hint, destructive_hint, .. } = annotations.unwrap_or_default();
    let verdict = evaluate(
        policies.as_deref(),
        &Asked {
            client: &args.client,
            server: &args.server,
            tool: &args.tool,
            arguments: &given,
            read_only: read_only_hint,
            destructive: destructive_hint,
            now: SystemTime::now(),
            calls_last_minute: 0,
        },
    );
    let (word, rule, why) = parts(&verdict);
    let origin = resolved.origins.get("execution_mode").to_string();
    let mode = resolved.mode.as_str();
    if args.json {
        context.printer.pretty_json(&json!({
            "decision": Expect::from(&verdict), "rule": rule, "reason": why,
            "mode": mode, "origin": origin, "config": config.path().display().to_string(),
        }))?;
        return Ok(Status::Success);
    }
    let rule = rule.unwrap_or("none: the isolation config decides alone");
    let place = format!("{mode}, {} {origin}", config.path().display());
    let mut rows = vec![["decision".into(), word.into()], ["rule".into(), rule.to_owned()]];
    rows.extend(why.map(|why| ["why".into(), why.to_owned()]));
    rows.push(["runs in".into(), place]);
    context.printer.result(&table(&rows))?;
    Ok(Status::Success)
}

fn parts(verdict: &Verdict) -> (&'static str, Option<&str>, Option<&str>) {
    match verdict {
        Verdict::Allow { rule } => ("allow", rule.as_deref(), None),
        Verdict::Ask { rule, why } => ("ask", Some(rule), Some(why)),
        Verdict::Deny { rule, reason } => {
            ("deny", rule.as_deref().or(Some("no rule")), Some(reason))
        }
    }
}

fn test(context: &Context, file: &Path) -> Outcome {
    let env = context.env()?;
    let rules = context.rules(&context.config(&env)?, &env);
    let policies = rules.policies().map_err(|error| failure(&error))?;
    let unreadable = || Failure::new("cases", format!("cannot read `{}`", file.display()));
    let metadata = file.metadata().map_err(|error| unreadable().caused_by(&error))?;
    if MAX_CASES < metadata.len() {
        return Err(Failure::new("cases", format!("`{}` is too long", file.display())));
    }
    let text = std::fs::read_to_string(file).map_err(|error| unreadable().caused_by(&error))?;
    let cases = read_cases(&text).map_err(|error| {
        Failure::new("cases", format!("cannot use the cases in `{}`", file.display()))
            .caused_by(&error)
    })?;
    let mut failed = 0_usize;
    for (case, number) in cases.iter().zip(1..) {
        let verdict = case.run(policies.as_deref());
        if Expect::from(&verdict) != case.expect {
            failed += 1;
            let (word, rule, why) = parts(&verdict);
            let (server, tool, client) = (&case.server, &case.tool, &case.client);
            let because = rule.or(why).map(|why| format!(": {why}")).unwrap_or_default();
            let what = format!("case {number}: `{server}/{tool}` by `{client}` is {word}{because}");
            context.printer.result(&what)?;
        }
    }
    let count = cases.len();
    context.printer.note(&format!("{} of {count} cases hold", count.saturating_sub(failed)));
    Ok(if failed == 0 { Status::Success } else { Status::ToolFailed })
}

/// Runs one of the commands below `osvm approvals`.
pub(crate) fn approvals(context: &Context, command: &cli::Approvals) -> Outcome {
    let approvals = context.approvals(&context.env()?);
    let (answer, allow) = match command {
        cli::Approvals::Ls { json } => {
            let pending = approvals.list().map_err(|error| approval_failure(&error))?;
            if *json {
                context.printer.pretty_json(&pending)?;
            } else if pending.is_empty() {
                context.printer.note("no call waits for an approval");
            } else {
                let heads = ["ID", "UNTIL", "CLIENT", "TOOL", "ARGUMENTS", "WHY"];
                let mut rows = vec![heads.map(str::to_owned)];
                rows.extend(pending.into_iter().map(|call| {
                    let tool = format!("{}/{}", call.server, call.tool);
                    let arguments = call.arguments.chars().take(60).collect();
                    [call.id, call.until, call.client, tool, arguments, call.why]
                }));
                context.printer.result(&table(&rows))?;
            }
            return Ok(Status::Success);
        }
        cli::Approvals::Allow(answer) => (answer, true),
        cli::Approvals::Deny(answer) => (answer, false),
    };
    let answered = approvals.answer(&answer.id, allow, answer.always);
    let pending = answered.map_err(|error| approval_failure(&error))?;
    let word = if allow { "allowed" } else { "denied" };
    let until = if answer.always { "from now on" } else { "this once" };
    let what = format!("{word} {until}: {}/{} by {}", pending.server, pending.tool, pending.client);
    context.printer.note(&what);
    Ok(Status::Success)
}

fn failure(error: &PolicyError) -> Failure {
    Failure::from_error("policy", error, error.hint())
}

fn approval_failure(error: &ApprovalError) -> Failure {
    Failure::from_error("approvals", error, error.hint())
}
