//! MCP servers that are not osvm's, behind osvm, on this host and in microVMs: what a client sees
//! through it is what it sees without it.
//!
//! The comparing is done by `compare-servers` of package `osvm-fixture`; here is which servers, with
//! which files, and which call of each of their tools.
//!
//! # Masked
//!
//! What is never the same twice, in one call each: the times and the process environment that
//! `server-everything` and `server-filesystem` tell, the time that `mcp-server-time` is there for.

mod micro_vm;

use crate::packages::{self, Missing, Packages};
use crate::project::Project;
use crate::stage::{self, Program, Stage};
use crate::tally::Tally;
use crate::{printer, process};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Longest one comparison may take, in seconds.
const PATIENCE: u32 = 600;

/// Whoever commits in the repository of `mcp-server-git`, and when: so that ids of commits are the
/// same on both sides.
const COMMITTER: [(&str, &str); 6] = [
    ("GIT_AUTHOR_NAME", "A"),
    ("GIT_AUTHOR_EMAIL", "a@example.org"),
    ("GIT_AUTHOR_DATE", "2026-01-02T03:04:05+00:00"),
    ("GIT_COMMITTER_NAME", "A"),
    ("GIT_COMMITTER_EMAIL", "a@example.org"),
    ("GIT_COMMITTER_DATE", "2026-01-02T03:04:05+00:00"),
];

/// A server, the files it finds, and the calls.
struct Compared {
    name: &'static str,
    program: Program,
    calls: Value,
    /// Tools that are not called, and why.
    skipped: Value,
    /// Fills the folder in which it works.
    fill: fn(&Path) -> Result<()>,
    /// How `osvm image build` makes an image of it.
    image: Vec<String>,
    /// What of the folder its guests get, if anything: a folder in it.
    workspace: Option<&'static str>,
    /// Variables that are other ones in a guest.
    env_inside: &'static [(&'static str, &'static str)],
}

/// `cargo xtask servers`.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    packages::counted(check(project)?)
}

/// Compares all of them. `Err` in the inner result is why none can be run here.
pub(crate) fn check(project: &Project) -> Result<Result<Tally, Missing>> {
    let packages = match packages::had(project, &["conformance", "python2", "servers"])? {
        Ok(packages) => packages,
        Err(missing) => return Ok(Err(missing)),
    };
    let compare = stage::fixture(project, "compare-servers")?;
    let folder = project.root.join("target/mcp/work");
    let servers = servers(&packages, &folder);
    let mut tally = Tally::default();
    for server in &servers {
        let stage = Stage::new(project, server.name)?;
        stage.add(server.name, &server.program)?;
        tally += one(&stage, &compare, &folder, server, ("on the host", json!({})))
            .with_context(|| format!("cannot compare `{}`", server.name))?;
    }
    tally += micro_vm::check(project, &compare, &packages)?;
    Ok(Ok(tally))
}

/// Compares one server with itself behind the osvm of the stage, which knows it by its name.
fn one(
    stage: &Stage,
    compare: &Path,
    folder: &Path,
    server: &Compared,
    (place, more): (&str, Value),
) -> Result<Tally> {
    let template = template(stage, server)?;
    let mut direct = server.program.clone();
    // Both sides have the same home and the same programs.
    direct.env.extend(stage.serve(&[]).env);
    let through = stage.serve(&["--no-prefix", "--servers", server.name]);
    let program = |program: &Program| {
        let env: serde_json::Map<_, _> =
            program.env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        json!({"command": program.command, "args": program.args, "env": env})
    };
    let mut plan = json!({
        "direct": program(&direct),
        "through": program(&through),
        "folder": folder,
        "template": template,
        "calls": server.calls,
        "skipped": server.skipped,
    });
    if let (Value::Object(plan), Value::Object(more)) = (&mut plan, more) {
        plan.extend(more);
    }
    let path = stage.home().join("plan.json");
    fs::write(&path, plan.to_string()).context("cannot write the plan")?;
    let mut command = stage.command(compare);
    command.arg(&path);
    let mut tally = Tally::default();
    let status = process::watch(stage::bounded(&command, PATIENCE), |line| {
        printer::note(&format!("    {} {place}: {line}", server.name));
        tally += Tally::from_summary(line).unwrap_or_default();
    })?;
    if tally.is_empty() || (!status.success() && tally.failed == 0) {
        tally += Tally::one(false);
    }
    Ok(tally)
}

/// The files that the server finds, made if they are not there.
fn template(stage: &Stage, server: &Compared) -> Result<PathBuf> {
    let template = stage.home().join("template");
    if !template.exists() {
        fs::create_dir_all(&template)?;
        (server.fill)(&template)?;
    }
    Ok(template)
}

fn servers(packages: &Packages, folder: &Path) -> Vec<Compared> {
    let mut servers = Vec::from(of_npm(packages, folder));
    servers.extend(of_pypi(&packages.python("python2"), folder));
    servers
}

fn of_npm(packages: &Packages, folder: &Path) -> [Compared; 4] {
    let (npm, node) = (packages.npm("servers"), &packages.node());
    let script = |name: &str| {
        let script = format!("@modelcontextprotocol/{name}/dist/index.js");
        npm.join(script).display().to_string()
    };
    let at = |path: &str| folder.join(path).display().to_string();
    let graph = at("graph.jsonl");
    [
        Compared {
            name: "everything",
            program: Program::new(node, [script("server-everything")]),
            calls: everything(),
            skipped: json!({}),
            fill: nothing,
            image: words(&["--npm", "@modelcontextprotocol/server-everything@2026.8.31"]),
            workspace: None,
            env_inside: &[],
        },
        Compared {
            name: "filesystem",
            program: Program::new(node, [script("server-filesystem"), at("files")]),
            calls: filesystem(&at),
            skipped: json!({}),
            fill: some_files,
            image: words(&[
                "--npm",
                "@modelcontextprotocol/server-filesystem@2026.8.31",
                "--arg",
                &at("files"),
            ]),
            workspace: Some("files"),
            env_inside: &[],
        },
        Compared {
            name: "memory",
            program: Program::new(node, [script("server-memory")])
                .with_env("MEMORY_FILE_PATH", graph),
            calls: memory(),
            skipped: json!({}),
            fill: nothing,
            image: words(&[
                "--npm",
                "@modelcontextprotocol/server-memory@2026.8.31",
                "--needs",
                "state",
            ]),
            workspace: None,
            env_inside: &[("MEMORY_FILE_PATH", "/tmp/graph.jsonl")],
        },
        Compared {
            name: "sequential-thinking",
            program: Program::new(node, [script("server-sequential-thinking")]),
            calls: thinking(),
            skipped: json!({}),
            fill: nothing,
            image: words(&["--npm", "@modelcontextprotocol/server-sequential-thinking@2026.8.31"]),
            workspace: None,
            env_inside: &[],
        },
    ]
}

fn of_pypi(python: &Path, folder: &Path) -> [Compared; 2] {
    let repository_at = folder.join("repository").display().to_string();
    let git = COMMITTER
        .into_iter()
        .fold(Program::new(python, ["-m", "mcp_server_git"]), |program, (name, value)| {
            program.with_env(name, value)
        });
    [
        Compared {
            name: "time",
            program: Program::new(python, ["-m", "mcp_server_time"]).with_env("TZ", "Etc/UTC"),
            calls: json!([
                {"tool": "get_current_time", "arguments": {"timezone": "Europe/Paris"},
                    "masks": ["digits", {"after": "day_of_week"}]},
                {"tool": "get_current_time", "arguments": {"timezone": "Nowhere/None"}},
                {"tool": "convert_time", "arguments": {"source_timezone": "UTC", "time": "12:30",
                    "target_timezone": "Asia/Kathmandu"}, "masks": ["digits", {"after": "day_of_week"}]},
            ]),
            skipped: json!({}),
            fill: nothing,
            image: words(&["--pypi", "mcp-server-time==2026.10.19"]),
            workspace: None,
            env_inside: &[],
        },
        Compared {
            name: "git",
            program: git,
            calls: repository(&repository_at),
            skipped: json!({}),
            fill: a_repository,
            image: words(&["--pypi", "mcp-server-git==2026.10.19", "--deb", "git"]),
            workspace: Some("repository"),
            env_inside: &[],
        },
    ]
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn everything() -> Value {
    json!([
        {"tool": "echo", "arguments": {"message": "grüße \u{1f980} \"\\"}},
        {"tool": "echo", "arguments": {}},
        {"tool": "get-annotated-message", "arguments": {"messageType": "error", "includeImage": true}},
        // The environment of the process, which is osvm's choice when osvm starts it.
        {"tool": "get-env", "arguments": {}, "masks": [{"rest": "{"}]},
        {"tool": "get-resource-links", "arguments": {"count": 3}, "masks": ["digits"]},
        {"tool": "get-resource-reference", "arguments": {"resourceType": "Text", "resourceId": 1},
            "masks": [{"after": "created at"}]},
        {"tool": "get-structured-content", "arguments": {"location": "Chicago"}},
        {"tool": "get-sum", "arguments": {"a": 0.1, "b": 2e3}},
        {"tool": "get-sum", "arguments": {"a": "x"}},
        {"tool": "get-tiny-image", "arguments": {}},
        {"tool": "gzip-file-as-resource", "arguments": {"name": "a.gz",
            "data": "data:text/plain;base64,b3N2bQ==", "outputType": "resource"}},
        {"tool": "toggle-simulated-logging", "arguments": {}},
        {"tool": "toggle-simulated-logging", "arguments": {}},
        {"tool": "toggle-subscriber-updates", "arguments": {}},
        {"tool": "toggle-subscriber-updates", "arguments": {}},
        {"tool": "trigger-long-running-operation", "arguments": {"duration": 0.2, "steps": 2}},
        {"tool": "simulate-research-query", "arguments": {"topic": "x"}},
    ])
}

fn filesystem(at: &dyn Fn(&str) -> String) -> Value {
    let (a, b, new) = (at("files/a.txt"), at("files/b.md"), at("files/new.txt"));
    let (folder, made) = (at("files"), at("files/made/deep"));
    let path = |path: &str| json!({ "path": path });
    json!([
        {"tool": "list_allowed_directories", "arguments": {}},
        {"tool": "read_file", "arguments": path(&a)},
        {"tool": "read_text_file", "arguments": {"path": a, "head": 1}},
        {"tool": "read_text_file", "arguments": path("/etc/hostname")},
        {"tool": "read_media_file", "arguments": path(&at("files/dot.png"))},
        {"tool": "read_multiple_files", "arguments": {"paths": [a, b, at("files/none")]}},
        {"tool": "write_file", "arguments": {"path": new, "content": "one\ntwo\n"}},
        {"tool": "edit_file", "arguments": {"path": new,
            "edits": [{"oldText": "two", "newText": "three"}], "dryRun": false}},
        {"tool": "create_directory", "arguments": path(&made)},
        {"tool": "move_file", "arguments": {"source": new, "destination": at("files/made/moved")}},
        {"tool": "list_directory", "arguments": path(&folder)},
        {"tool": "list_directory_with_sizes", "arguments": {"path": folder, "sortBy": "size"}},
        {"tool": "directory_tree", "arguments": path(&folder)},
        {"tool": "search_files", "arguments": {"path": folder, "pattern": "**/*.md"}},
        {"tool": "get_file_info", "arguments": path(&a), "masks":
            [{"after": "created: "}, {"after": "modified: "}, {"after": "accessed: "}]},
    ])
}

fn memory() -> Value {
    let entity = |name: &str| json!({"name": name, "entityType": "thing", "observations": ["is"]});
    let relation = json!({"from": "a", "to": "b", "relationType": "knows"});
    json!([
        {"tool": "create_entities", "arguments": {"entities": [entity("a"), entity("b")]}},
        {"tool": "create_relations", "arguments": {"relations": [relation]}},
        {"tool": "add_observations", "arguments": {"observations":
            [{"entityName": "a", "contents": ["was", "will be"]}]}},
        {"tool": "add_observations", "arguments": {"observations":
            [{"entityName": "nobody", "contents": ["x"]}]}},
        {"tool": "search_nodes", "arguments": {"query": "was"}},
        {"tool": "open_nodes", "arguments": {"names": ["b"]}},
        {"tool": "delete_observations", "arguments": {"deletions":
            [{"entityName": "a", "observations": ["was"]}]}},
        {"tool": "delete_relations", "arguments": {"relations": [relation]}},
        {"tool": "read_graph", "arguments": {}},
        {"tool": "delete_entities", "arguments": {"entityNames": ["a"]}},
        {"tool": "read_graph", "arguments": {}},
    ])
}

fn thinking() -> Value {
    let thought = |number: u32, more: Value| {
        let mut arguments = json!({"thought": "so", "nextThoughtNeeded": true,
            "thoughtNumber": number, "totalThoughts": 2});
        if let (Some(arguments), Value::Object(more)) = (arguments.as_object_mut(), more) {
            arguments.extend(more);
        }
        json!({"tool": "sequentialthinking", "arguments": arguments})
    };
    json!([
        thought(1, json!({})),
        thought(2, json!({"branchFromThought": 1, "branchId": "b"})),
        thought(3, json!({"isRevision": true, "revisesThought": 1, "nextThoughtNeeded": false})),
        thought(0, json!({"thought": 1})),
    ])
}

fn repository(path: &str) -> Value {
    let call = |tool: &str, more: Value| {
        let mut arguments = json!({ "repo_path": path });
        if let (Some(arguments), Value::Object(more)) = (arguments.as_object_mut(), more) {
            arguments.extend(more);
        }
        json!({ "tool": tool, "arguments": arguments })
    };
    json!([
        call("git_status", json!({})),
        call("git_diff_unstaged", json!({"context_lines": 1})),
        call("git_add", json!({"files": ["a.txt"]})),
        call("git_diff_staged", json!({})),
        call("git_commit", json!({"message": "Second"})),
        call("git_log", json!({"max_count": 5})),
        call("git_show", json!({"revision": "HEAD"})),
        call("git_create_branch", json!({"branch_name": "other"})),
        call("git_checkout", json!({"branch_name": "other"})),
        call("git_diff", json!({"target": "HEAD~1"})),
        call("git_diff", json!({"target": "--output=x"})),
        call("git_branch", json!({"branch_type": "local"})),
        call("git_reset", json!({})),
    ])
}

fn nothing(_: &Path) -> Result<()> {
    Ok(())
}

fn some_files(folder: &Path) -> Result<()> {
    let files = folder.join("files");
    fs::create_dir_all(&files)?;
    fs::write(files.join("a.txt"), "first\nsecond\n")?;
    fs::write(files.join("b.md"), "# Heading\n")?;
    // The eight bytes that every PNG begins with, and nothing more: nobody here looks at it.
    fs::write(files.join("dot.png"), b"\x89PNG\r\n\x1a\n")?;
    Ok(())
}

fn a_repository(folder: &Path) -> Result<()> {
    let repository: PathBuf = folder.join("repository");
    fs::create_dir_all(&repository)?;
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(&repository).envs(COMMITTER);
        process::text(&mut git).map(drop)
    };
    git(&["init", "--quiet", "--initial-branch", "main"])?;
    fs::write(repository.join("a.txt"), "first\n")?;
    git(&["add", "a.txt"])?;
    git(&["commit", "--quiet", "--message", "First"])?;
    fs::write(repository.join("a.txt"), "first\nsecond\n")?;
    Ok(())
}
