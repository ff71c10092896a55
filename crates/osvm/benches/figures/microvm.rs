//! Linux microVMs: how soon a server is there, how fast a clone of it answers, what one more clone
//! costs, and what osvm adds to a call of a server that lives on.
//!
//! The server is `server-everything`, in the image that the tests build (`target/mcp-images`); it is
//! built here if it is not there. A template was warmed with its tool `echo`, because the server calls
//! that harmless. It was not with `get-annotated-message`, which has an argument that may be left out,
//! so the first call of that one in a clone is the first of all.

use crate::figure::Figure;
use crate::gateway::Client;
use crate::host::{Host, WARM_UP};
use anyhow::{Context, Result, anyhow, ensure};
use osvm_image::linux::LinuxStore;
use osvm_microvm::clones::{Pool, Ready};
use osvm_microvm::{Guest, GuestFiles, Persistent, Recipe, Template};
use osvm_qemu::{Accelerator, PROGRAM, QemuLinux};
use osvm_upstream::{Launch, Link, Stop};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measurements behind each median, and clones that run at once.
const RUNS: usize = 20;

/// How often as many clones as that are asked for at once.
const CROWDS: usize = 5;

/// Calls of a server that lives on, on either way.
const CALLS: usize = 200;

/// Clones that are kept ready while pooled ones are measured.
const READY: usize = 2;

/// The image, and what it is built from.
const IMAGE: &str = "everything";
const PACKAGE: &str = "@modelcontextprotocol/server-everything@2026.8.31";

/// A tool, its arguments, and what its answer holds.
type Call = (&'static str, &'static str, &'static str);
const WARMED: Call = ("echo", r#"{"message":"is it you"}"#, "is it you");
const COLD: Call =
    ("get-annotated-message", r#"{"messageType":"success"}"#, "completed successfully");

/// Starts and clones.
pub(crate) fn measure(host: &Host) -> Result<Vec<Figure>> {
    let subject = Subject::new(host)?;
    let (mut figures, template) = starts(&subject)?;
    figures.extend(clones(&subject, &template)?);
    figures.extend(pooled(&subject, &template)?);
    figures.extend(crowds(&subject, &template)?);
    Ok(figures)
}

/// What is measured.
struct Subject {
    host: osvm_microvm::Host,
    recipe: Recipe,
}

impl Subject {
    fn new(host: &Host) -> Result<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target");
        let target = target.canonicalize().context("no target directory")?;
        let files = [target.join("guest-kernel/vmlinux"), target.join("guest/osvm-init")];
        for file in &files {
            let hint = "run `cargo xtask kernel` and `cargo xtask guest`";
            ensure!(file.exists(), "there is no `{}`: {hint}", file.display());
        }
        install(host, &files, &target.join("mcp-images/images"))?;
        let [kernel, init] = &files;
        let qemu = which::which(PROGRAM).context("QEMU is not installed")?;
        let backend = QemuLinux::new(qemu, host.osvm_vm.clone(), Accelerator::Tcg);
        let run = host.home().join("microvm-run");
        let store = LinuxStore::new(target.join("mcp-images/images"));
        let image = store.load(IMAGE)?;
        let recipe = Recipe::of_image(&GuestFiles::load(kernel, init)?, &image)?;
        let host = osvm_microvm::Host::new(Arc::new(backend), run, None);
        Ok(Self { host, recipe })
    }

    fn clone_of(&self, template: &Template) -> Result<Guest> {
        Ok(Ready::make(&self.host, template, false, soon())?.into_guest())
    }
}

/// Gives the home of the measurements the guest files and the images; builds the one that is used.
fn install(host: &Host, files: &[PathBuf], images: &Path) -> Result<()> {
    let own = host.home().join(".osvm");
    fs::create_dir_all(own.join("guest"))?;
    fs::create_dir_all(images)?;
    if own.join("images").exists() {
        return Ok(());
    }
    for file in files {
        symlink(file, own.join("guest").join(file.file_name().context("no file name")?))?;
    }
    symlink(images, own.join("images"))?;
    let known = with_path(host.osvm(&["image", "show", IMAGE])).output()?;
    if !known.status.success() {
        let build = with_path(host.osvm(&["image", "build", IMAGE, "--npm", PACKAGE])).output()?;
        let why = String::from_utf8_lossy(&build.stderr);
        ensure!(build.status.success(), "the image can't be built: {why}");
    }
    Ok(())
}

fn with_path(mut command: Command) -> Command {
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

/// From nothing.
fn starts(subject: &Subject) -> Result<(Vec<Figure>, Template)> {
    let make = || Template::make(&subject.host, &subject.recipe, soon(), &Stop::default());
    let mut templates = (0..RUNS).map(|_| make()).collect::<Result<Vec<_>, _>>()?;
    let times = |pick: fn(&Template) -> Duration| templates.iter().map(pick).collect::<Vec<_>>();
    let initialized = times(|made| made.times.initialized);
    let figures = vec![
        Figure::times("microvm: kernel to osvm-init", &times(|made| made.times.kernel))?
            .goal(1000.0),
        Figure::times("microvm: cold start to `initialize` answered", &initialized)?.goal(9000.0),
        Figure::times("microvm: template made and saved", &times(|made| made.times.saved))?,
    ];
    Ok((figures, templates.pop().context("no template")?))
}

/// From a request to its answer, the clone made for it.
fn clones(subject: &Subject, template: &Template) -> Result<Vec<Figure>> {
    let mut steps = Vec::new();
    let mut whole = |call: Call| -> Result<Vec<Duration>> {
        let run = || {
            let begun = Instant::now();
            let mut guest = subject.clone_of(template)?;
            steps.push(begun.elapsed());
            ask(&mut guest, call)?;
            Ok(begun.elapsed())
        };
        std::iter::repeat_with(run).take(RUNS).collect()
    };
    let (warmed, cold) = (whole(WARMED)?, whole(COLD)?);
    Ok(vec![
        Figure::times("microvm: clone, request to answer, no pool", &warmed)?.goal(250.0),
        Figure::times("microvm: of which until it is unique", &steps)?,
        Figure::times("microvm: the same, a tool not warmed", &cold)?.goal(250.0),
    ])
}

/// From a request to its answer, with a clone that is ready.
fn pooled(subject: &Subject, template: &Template) -> Result<Vec<Figure>> {
    let pool = Pool::new(subject.host.clone(), template.clone(), READY)?;
    let whole = |call: Call| -> Result<Vec<Duration>> {
        let run = || {
            let full = soon();
            while pool.status().0 < READY {
                ensure!(Instant::now() < full, "the pool is not filled: {:?}", pool.status().1);
                std::thread::sleep(Duration::from_millis(5));
            }
            let begun = Instant::now();
            let mut guest = pool.take(soon())?.into_guest();
            ask(&mut guest, call)?;
            Ok(begun.elapsed())
        };
        std::iter::repeat_with(run).take(RUNS).collect()
    };
    Ok(vec![
        Figure::times("microvm: clone from the pool", &whole(WARMED)?)?.goal(40.0),
        Figure::times("microvm: clone from the pool, a tool not warmed", &whole(COLD)?)?.goal(40.0),
    ])
}

/// Many at once, and what each of them has for itself.
fn crowds(subject: &Subject, template: &Template) -> Result<Vec<Figure>> {
    let (mut times, mut private) = (Vec::new(), Vec::new());
    for _ in 0..CROWDS {
        let begun = Instant::now();
        let guests: Vec<Guest> = std::thread::scope(|scope| {
            let run = || -> Result<Guest> {
                let mut guest = subject.clone_of(template)?;
                ask(&mut guest, WARMED)?;
                Ok(guest)
            };
            let threads: Vec<_> = (0..RUNS).map(|_| scope.spawn(run)).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended.map(|made| made.map_err(|_| anyhow!("a thread panicked"))?).collect::<Result<_>>()
        })?;
        times.push(begun.elapsed());
        private.extend(guests.iter().filter_map(Guest::private_kb));
    }
    private.sort_unstable();
    let middle = private.get(private.len() / 2).context("no clone told its memory")?;
    let megabytes = *middle as f64 / 1024.0;
    Ok(vec![
        Figure::exact("microvm: private memory of each further clone", megabytes, "MiB").goal(25.0),
        Figure::times(format!("microvm: {RUNS} clones at once"), &times)?.goal(3000.0),
    ])
}

fn ask(guest: &mut Guest, (name, arguments, expected): Call) -> Result<()> {
    let arguments: Value = serde_json::from_str(arguments)?;
    let params = json!({"name": name, "arguments": arguments});
    let answer = guest.talk().request("tools/call", &params, soon())?;
    ensure!(answer.get().contains(expected), "a wrong answer: {answer}");
    Ok(())
}

/// A server that lives on: over the stream of its guest, and through `osvm mcp serve`, in turns.
pub(crate) fn persistent(host: &Host) -> Result<Vec<Figure>> {
    let mut direct = Line::start(&Subject::new(host)?)?;
    configure(host)?;
    // Images have a tool of that name too.
    let serve = ["mcp", "serve", "--no-prefix", "--servers", IMAGE].as_slice();
    let mut command = with_path(host.osvm(serve));
    command.env_remove("OSVM_BACKEND");
    let mut through = Client::start(command)?;
    through.shake_hands()?;
    let patience = soon();
    // What a server offers is known once it was started.
    while through.tools()? == 0 {
        ensure!(Instant::now() < patience, "the server did not start");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (name, arguments, expected) = WARMED;
    let params = json!({"name": name, "arguments": serde_json::from_str::<Value>(arguments)?});
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // A guest translates what it runs for the first time: the first calls tell nothing.
    for call in 0..10 * WARM_UP + CALLS {
        let begun = Instant::now();
        let answer = direct.ask("tools/call", &params)?;
        let directly = begun.elapsed();
        let begun = Instant::now();
        let other = through.ask("tools/call", &params)?;
        let through_osvm = begun.elapsed();
        for answer in [answer, other] {
            ensure!(answer.to_string().contains(expected), "a wrong answer: {answer}");
        }
        if 10 * WARM_UP <= call {
            without.push(directly);
            with.push(through_osvm);
        }
    }
    let direct = Figure::times("microvm: persistent server, on its guest's stream", &without)?;
    let through = Figure::times("microvm: persistent server, through osvm", &with)?;
    let added = through.value - direct.value;
    let added = Figure::exact("microvm: persistent server, added at the median", added, "ms");
    Ok(vec![direct, through, added.goal(2.0)])
}

fn configure(host: &Host) -> Result<()> {
    let config = host.home().join(".config/osvm");
    fs::create_dir_all(&config)?;
    let mode = json!({"execution_mode": "microvm", "life": "persistent", "timeout_secs": 120});
    let text = json!({"mcp_servers": {IMAGE: mode}}).to_string();
    fs::write(config.join("isolation_config.json"), text)?;
    let text = json!({"mcpServers": {IMAGE: {"command": "npx", "args": ["-y", PACKAGE]}}});
    Ok(fs::write(config.join("mcp_servers.json"), text.to_string())?)
}

/// A server in its guest, with nothing of osvm but the stream.
struct Line {
    read: BufReader<Box<dyn std::io::Read + Send>>,
    write: Box<dyn Write + Send>,
    _end: Box<dyn osvm_upstream::EndLink>,
    last: u64,
}

impl Line {
    fn start(subject: &Subject) -> Result<Self> {
        let server = Persistent::new(subject.host.clone(), subject.recipe.clone());
        let Link { read, write, end, .. } = server.launch(soon(), &Stop::default())?;
        let mut line = Self { read: BufReader::new(read), write, _end: end, last: 0 };
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "figures", "version": "1"}});
        line.ask("initialize", &params)?;
        line.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        Ok(line)
    }

    fn ask(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.last += 1;
        let id = self.last;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        let mut text = String::new();
        loop {
            text.clear();
            ensure!(self.read.read_line(&mut text)? > 0, "the server is gone");
            let message: Value = serde_json::from_str(&text).context("no JSON")?;
            if message.get("id") == Some(&json!(id)) && message.get("method").is_none() {
                return Ok(message);
            }
        }
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        self.write.write_all(format!("{message}\n").as_bytes()).context("cannot write")
    }
}
