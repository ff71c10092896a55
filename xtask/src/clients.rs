//! MCP clients that are not osvm's, in front of osvm: Claude Code, the inspector, and the Python SDK
//! before and since 2026-07-28. None of them needs a network, and none has one where this host can
//! take it away.

use crate::osvm::Said;
use crate::packages::{self, Missing};
use crate::project::Project;
use crate::stage::{self, Stage};
use crate::tally::Tally;
use crate::{printer, process};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Longest one client may take, in seconds.
const PATIENCE: u32 = 120;

/// The two shapes of MCP, in the inspector's words.
const ERAS: [&str; 2] = ["legacy", "modern"];

/// Calls of the inspector under load, and how many at once.
const LOAD: (u64, u64) = (500, 8);

/// `cargo xtask clients`.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    packages::counted(check(project)?)
}

/// Runs all clients that can be installed. `Err` in the inner result is why one can't be.
pub(crate) fn check(project: &Project) -> Result<Result<Tally, Missing>> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Ok(Err(format!("they call unikernels, and `/dev/kvm` can't be opened: {error}")));
    }
    let wanted = ["clients", "conformance", "python1", "python2"];
    let packages = match packages::had(project, &wanted)? {
        Ok(packages) => packages,
        Err(missing) => return Ok(Err(missing)),
    };
    let node = packages.node();
    // The embedded VMM whichever is the fastest here: a small tool starts soonest in it.
    let stage = Stage::new(project, "clients")?.with_backend("kvm");
    let stage = stage.with_programs_of(node.parent().context("Node.js is in no folder")?);
    let npm = packages.npm("clients");
    let clients = Clients { npm, node, stage: &stage, offline: can_go_offline() };
    if !clients.offline {
        printer::note("  the clients keep their network: this user can't take it away");
    }
    let mut tally = Tally::default();
    let mut run = |name: &str, outcome: Result<String>| {
        match &outcome {
            Ok(saw) => printer::note(&format!("  ok    {name}: {saw}")),
            Err(error) => {
                printer::note(&format!("  FAIL  {name}"));
                printer::error(error);
            }
        }
        tally += Tally::one(outcome.is_ok());
    };
    run("claude mcp list", clients.claude());
    for era in ERAS {
        run(&format!("inspector, {era}, list"), clients.inspector_lists(era));
        run(&format!("inspector, {era}, call"), clients.inspector_calls(era));
    }
    run("inspector, under load", clients.inspector_load());
    let client = |name: &str| project.root.join("xtask/mcp").join(name).join("client.py");
    let (first, second) = (client("python1"), client("python2"));
    run("Python SDK 1", clients.python(&packages.python("python1"), &first, None, "2025-11-25"));
    let two = packages.python("python2");
    run("Python SDK 2", clients.python(&two, &second, Some("auto"), "2026-07-28"));
    run("Python SDK 2, old era", clients.python(&two, &second, Some("legacy"), "2025-11-25"));
    Ok(Ok(tally))
}

/// What is installed, and where it is tried.
#[derive(Debug)]
struct Clients<'a> {
    npm: PathBuf,
    node: PathBuf,
    stage: &'a Stage,
    offline: bool,
}

impl Clients<'_> {
    /// The program checks the health of its servers without a model or an account.
    fn claude(&self) -> Result<String> {
        let program = self.npm.join("@anthropic-ai/claude-code-linux-x64/claude");
        let serve = self.stage.serve(&[]);
        let mut add = self.stage.command(&program);
        add.args(["mcp", "add", "--scope", "user", "osvm", "--", &serve.command]).args(&serve.args);
        self.said(add)?;
        let mut list = self.stage.command(&program);
        list.args(["mcp", "list"]);
        let said = self.said(list)?;
        let line = said.stdout.lines().find(|line| line.starts_with("osvm: "));
        let line = line.with_context(|| format!("osvm is not listed: {}", said.stdout))?;
        ensure!(line.ends_with("Connected"), "{line}");
        Ok("connected".into())
    }

    fn inspector_lists(&self, era: &str) -> Result<String> {
        let listed = self.inspector(era, &["--method", "tools/list"])?;
        let listed = listed.get("tools").and_then(Value::as_array).context("no list of tools")?;
        let echo = json!("system__echo");
        ensure!(listed.iter().any(|tool| tool.get("name") == Some(&echo)), "no `system__echo`");
        Ok(format!("{} tools", listed.len()))
    }

    fn inspector_calls(&self, era: &str) -> Result<String> {
        let call = ["--method", "tools/call", "--tool-name", "system__echo"];
        let called = self.inspector(era, &[&call[..], &["--tool-arg", "text=hello"]].concat())?;
        let text = called.pointer("/structuredContent/text").and_then(Value::as_str);
        ensure!(text == Some("hello"), "a wrong answer: {called}");
        let mode = called.pointer("/_meta/osvm~1isolation/isolation/mode").and_then(Value::as_str);
        ensure!(mode == Some("unikernel"), "not in a unikernel: {called}");
        Ok("answered from a unikernel".into())
    }

    /// Many calls, each in a virtual machine of its own, and not one that fails.
    fn inspector_load(&self) -> Result<String> {
        let (requests, at_once) = (LOAD.0.to_string(), LOAD.1.to_string());
        let report = self.inspector(
            "modern",
            &[
                "--method",
                "tools/call",
                "--tool-name",
                "system__echo",
                "--tool-arg",
                "text=hello",
                "--load",
                "--load-requests",
                &requests,
                "--load-concurrency",
                &at_once,
            ],
        )?;
        let number = |path: &str| {
            let number = report.pointer(path).and_then(Value::as_f64);
            number.with_context(|| format!("no `{path}` in {report}"))
        };
        // An answer that is an error is answered, too.
        let (ok, failed) = (number("/ok")?, number("/errors")? + number("/toolErrors")?);
        ensure!(LOAD.0 as f64 <= ok && failed == 0.0, "not every call was answered: {report}");
        let (median, rate) = (number("/latencyMs/p50")?, number("/throughput")?);
        Ok(format!("{ok} calls, {rate:.0} a second, {median:.0} ms at the median"))
    }

    /// Runs the inspector's command line on `osvm mcp serve`, and reads the JSON it prints.
    fn inspector(&self, era: &str, arguments: &[&str]) -> Result<Value> {
        let serve = self.stage.serve(&["--servers", "system"]);
        let mut inspector = self.stage.command(&self.node);
        let launcher = "@modelcontextprotocol/inspector/clients/launcher/build/index.js";
        inspector.arg(self.npm.join(launcher)).args(["--cli", &serve.command]).args(&serve.args);
        inspector.args(["--protocol-era", era]).args(arguments);
        let said = self.said(inspector)?;
        serde_json::from_str(&said.stdout).with_context(|| {
            format!("the inspector printed no JSON: {}{}", said.stdout, said.stderr)
        })
    }

    fn python(
        &self,
        python: &Path,
        script: &Path,
        mode: Option<&str>,
        version: &str,
    ) -> Result<String> {
        let serve = self.stage.serve(&["--servers", "system"]);
        let mut client = self.stage.command(python);
        client.arg(script).args(mode).arg(&serve.command).args(&serve.args);
        let said = self.said(client)?;
        let seen: Value = serde_json::from_str(&said.stdout).with_context(|| {
            format!("the client printed no JSON: {}{}", said.stdout, said.stderr)
        })?;
        let texts: Vec<Value> = (0..3).map(|n| json!({"text": format!("call {n}")})).collect();
        let member = |name: &str| seen.get(name).cloned().unwrap_or_default();
        ensure!(member("version") == version, "another revision: {seen}");
        ensure!(member("structured") == json!(texts), "other answers: {seen}");
        ensure!(member("errors") == json!([false, false, false, true]), "other errors: {seen}");
        Ok(version.into())
    }

    /// Runs a client to its end, without a network if it can be.
    fn said(&self, command: Command) -> Result<Said> {
        let mut offline = self.stage.command("unshare");
        offline.args(["--net", "--map-root-user"]).arg(command.get_program());
        offline.args(command.get_args());
        let command = if self.offline { offline } else { command };
        let shown = process::show(&command);
        let output = stage::bounded(&command, PATIENCE).output();
        let output = output.with_context(|| format!("cannot run `{shown}`"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "`{shown}`: {}: {stdout}{stderr}", output.status);
        Ok(Said { code: output.status.code(), stdout, stderr })
    }
}

/// Whether this user may have a network namespace of its own.
fn can_go_offline() -> bool {
    process::succeeds(Command::new("unshare").args(["--net", "--map-root-user", "true"]))
}
