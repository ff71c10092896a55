//! The gateway: what it adds to a call of a server that runs without a virtual machine, how fast a
//! long list of tools comes, and what a large result costs it.
//!
//! The server is `osvm-fixture`, built for it in the development profile: the same process answers
//! directly and behind osvm, so how fast it is does not matter for what osvm adds.

use crate::daemon::proc_kb;
use crate::figure::Figure;
use crate::host::{Host, RUNS, WARM_UP};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Calls of each of the two, in turns.
const CALLS: usize = 500;

/// Servers behind one osvm, and tools of each.
const SERVERS: usize = 50;
const TOOLS: usize = 20;

/// Bytes of the large result.
const LARGE: usize = 10 * 1024 * 1024;

/// Longest that 50 servers may take to be asked for the first time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What it adds, how fast it lists, what it takes.
pub(crate) fn measure(host: &Host) -> Result<Vec<Figure>> {
    let fixture = fixture(host)?;
    let mut figures = calls(host, &fixture)?;
    figures.extend(lists(host, &fixture)?);
    Ok(figures)
}

/// The server, built if it is not up to date.
fn fixture(host: &Host) -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../osvm-fixture/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--bin", "osvm-fixture", "--manifest-path"]);
    ensure!(build.arg(manifest).status()?.success(), "the server can't be built");
    let target = host.osvm.parent().and_then(Path::parent).context("no target directory")?;
    let built = target.join("debug/osvm-fixture");
    ensure!(built.exists(), "there is no `{}`", built.display());
    Ok(built)
}

fn calls(host: &Host, fixture: &Path) -> Result<Vec<Figure>> {
    let home = Home::new(1, fixture)?;
    let mut direct = Client::start(Command::new(fixture))?;
    let mut through = Client::start(home.serve(host, &["--no-prefix"]))?;
    direct.shake_hands()?;
    through.shake_hands()?;
    let params = json!({"name": "echo", "arguments": {"text": "hi"}});
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for call in 0..WARM_UP + CALLS {
        for (client, times) in [(&mut direct, &mut without), (&mut through, &mut with)] {
            let begun = Instant::now();
            let answer = client.ask("tools/call", &params)?;
            let took = begun.elapsed();
            let text = answer.pointer("/result/content/0/text");
            ensure!(text == Some(&json!("hi")), "a wrong answer: {answer}");
            if WARM_UP <= call {
                times.push(took);
            }
        }
    }
    let direct = Figure::times("gateway: echo, directly", &without)?;
    let through = Figure::times("gateway: echo, through osvm", &with)?;
    let added = Figure::exact("gateway: added at the median", through.value - direct.value, "ms");
    let figures = vec![direct, through, added.goal(1.0), large(&home, host)?];
    Ok(figures)
}

/// How much more memory osvm ever took after a large result went through it.
fn large(home: &Home, host: &Host) -> Result<Figure> {
    let mut client = Client::start(home.serve(host, &["--no-prefix"]))?;
    client.shake_hands()?;
    let mut take = |bytes: usize| -> Result<u64> {
        let params = json!({"name": "big", "arguments": {"bytes": bytes}});
        let answer = client.ask("tools/call", &params)?;
        let text = answer.pointer("/result/content/0/text").and_then(Value::as_str);
        ensure!(text.map(str::len) == Some(bytes), "another answer");
        proc_kb(client.process.id(), "status", "VmHWM:")
    };
    let (before, after) = (take(1)?, take(LARGE)?);
    let grown = after.saturating_sub(before) as f64 / 1024.0;
    Ok(Figure::exact("gateway: growth for a result of 10 MiB", grown, "MiB").goal(40.0))
}

fn lists(host: &Host, fixture: &Path) -> Result<Vec<Figure>> {
    let home = Home::new(SERVERS, fixture)?;
    let mut client = Client::start(home.serve(host, &[]))?;
    client.shake_hands()?;
    let begun = Instant::now();
    while client.tools()? < SERVERS * TOOLS {
        if PATIENCE < begun.elapsed() {
            bail!("{} of {} tools are listed", client.tools()?, SERVERS * TOOLS);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut warm = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        client.tools()?;
        warm.push(begun.elapsed());
    }
    drop(client);
    // Now what the servers offer is known from the last time.
    let mut cold = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let mut client = Client::start(home.serve(host, &[]))?;
        client.shake_hands()?;
        let tools = client.tools()?;
        cold.push(begun.elapsed());
        ensure!(tools >= SERVERS * TOOLS, "{tools} tools are listed");
    }
    Ok(vec![
        Figure::times("gateway: list of 1,000 tools of 50 servers", &warm)?.goal(50.0),
        Figure::times("gateway: the same, from exec", &cold)?.goal(50.0),
    ])
}

/// A home with servers configured.
struct Home(TempDir);

impl Home {
    /// One server is the fixture as it is, more of them have [`TOOLS`] tools each.
    fn new(servers: usize, fixture: &Path) -> Result<Self> {
        let home = TempDir::with_prefix("osvm-bench-").context("cannot make a home")?;
        let config = home.path().join(".config/osvm");
        fs::create_dir_all(&config)?;
        let names = || (0..servers).map(|number| format!("server{number}"));
        let direct = |name| (name, json!({"execution_mode": "direct"}));
        let modes: serde_json::Map<_, _> = names().map(direct).collect();
        let text = json!({"mcp_servers": modes}).to_string();
        fs::write(config.join("isolation_config.json"), text)?;
        let more = TOOLS.to_string();
        let args = if servers == 1 { Vec::new() } else { vec!["--only-tools", &more] };
        let entry = |name| (name, json!({"command": fixture, "args": args}));
        let entries: serde_json::Map<_, _> = names().map(entry).collect();
        let text = json!({"mcpServers": entries}).to_string();
        fs::write(config.join("mcp_servers.json"), text)?;
        Ok(Self(home))
    }

    fn serve(&self, host: &Host, arguments: &[&str]) -> Command {
        let mut command = Command::new(&host.osvm);
        command.args(["mcp", "serve"]).args(arguments).env_clear().env("HOME", self.0.path());
        command.current_dir(self.0.path());
        command
    }
}

/// A client that asks one thing at a time.
pub(crate) struct Client {
    process: Child,
    /// Taken to hang up.
    write: Option<ChildStdin>,
    read: BufReader<ChildStdout>,
    last: u64,
}

impl Client {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().context("cannot run a server")?;
        let read = process.stdout.take().context("no stdout")?;
        let write = process.stdin.take();
        Ok(Self { process, write, read: BufReader::new(read), last: 0 })
    }

    pub(crate) fn shake_hands(&mut self) -> Result<()> {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "figures", "version": "1"}});
        self.ask("initialize", &params)?;
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
    }

    /// How many tools there are, over all pages.
    pub(crate) fn tools(&mut self) -> Result<usize> {
        let (mut count, mut params) = (0, json!({}));
        loop {
            let page = self.ask("tools/list", &params)?;
            let tools = page.pointer("/result/tools").and_then(Value::as_array);
            count += tools.with_context(|| format!("no list: {page}"))?.len();
            match page.pointer("/result/nextCursor") {
                Some(cursor) => params = json!({ "cursor": cursor }),
                None => return Ok(count),
            }
        }
    }

    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.last += 1;
        let id = self.last;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        let mut line = String::new();
        loop {
            line.clear();
            ensure!(self.read.read_line(&mut line)? > 0, "the server is gone");
            let message: Value = serde_json::from_str(&line).context("no JSON")?;
            if message.get("id") == Some(&json!(id)) && message.get("method").is_none() {
                return Ok(message);
            }
        }
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        let write = self.write.as_mut().context("hung up")?;
        write.write_all(format!("{message}\n").as_bytes()).context("cannot write to the server")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.write.take());
        let _ended = self.process.wait();
    }
}
