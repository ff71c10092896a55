//! The agent inside µVM-1, on the hypervisor this host has.

use crate::agent::{check_nothing_runs, check_three_calls, osvm, receipts};
use crate::agent_model::{Endpoint, Reply, Shape};
use crate::support::{Home, eventually};
use crate::web::Web;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

/// A home in which µVM-1 can start; `None`, said on stderr, where this host lacks something.
fn home() -> Option<Home> {
    equipped(Home::with_prober())
}

/// `home`, with what µVM-1 needs.
fn equipped(home: Home) -> Option<Home> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/osvm-agent");
    equipped_with(home, || Some(program))
}

/// The same, with another program as the agent.
fn equipped_with(home: Home, program: impl FnOnce() -> Option<PathBuf>) -> Option<Home> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let files = ["guest-kernel/vmlinux", "guest/osvm-init", "guest/osvm-agent"];
    let missing = files.iter().find(|file| !target.join(file).exists());
    let programs = ["qemu-system-x86_64", "mkfs.erofs"];
    let absent = programs.iter().find(|program| program_path(program).is_none());
    if let Some(lacks) = missing.or(absent) {
        eprintln!("SKIPPED: `{lacks}` is missing: `cargo xtask kernel`, `cargo xtask install`");
        let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
        assert!(!required.contains("microvm"), "OSVM_REQUIRE names microvm");
        return None;
    }
    let guest = home.path().join(".osvm/guest");
    fs::create_dir_all(&guest).unwrap();
    for file in &files[..2] {
        fs::copy(target.join(file), guest.join(Path::new(file).file_name().unwrap())).unwrap();
    }
    let root = home.path().join("root/bin");
    fs::create_dir_all(&root).unwrap();
    fs::copy(program()?, root.join("osvm-agent")).unwrap();
    let mut build = home.osvm_std(&["image", "build", "osvm-agent", "--rootfs", "root"]);
    build.args(["--command", "/bin/osvm-agent", "--memory", "192"]);
    let output = with_path(&mut build).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(home)
}

fn program_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.exists())
}

/// QEMU is looked for on it, and runs Linux guests on every host.
fn with_path(command: &mut Command) -> &mut Command {
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("OSVM_BACKEND", "qemu")
}

/// MicroVMs and unikernels that run, as `osvm status` counts them, each time somebody looked.
#[derive(Clone)]
struct Counted {
    // A thread that outlives the test must not keep its home.
    home: Weak<Home>,
    seen: Arc<Mutex<Vec<(u64, u64)>>>,
}

impl Counted {
    fn look(&self) {
        let Some(home) = self.home.upgrade() else { return };
        let status = home.osvm(["status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let count = |name: &str| status[name].as_u64().unwrap();
        self.seen.lock().unwrap().push((count("micro_vms"), count("unikernels")));
    }
}

/// What guests ask over HTTP: the two of the first plan are answered when both are there, and all
/// are counted before they are answered.
fn web(counted: Counted) -> Web {
    let there = (Mutex::new(0_u32), Condvar::new());
    Web::start(move |asked| {
        let (count, changed) = &there;
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count == 1 {
            let both = changed.wait_timeout_while(count, Duration::from_secs(60), |n| *n < 2);
            drop(both.unwrap());
        } else {
            // In the lock: the first one is answered after this.
            counted.look();
            changed.notify_all();
        }
        Some(format!("answer to {}", asked.target))
    })
}

fn plans_calls_and_answers(shape: Shape) {
    let Some(home) = home() else { return };
    let home = Arc::new(home);
    let counted = Counted { home: Arc::downgrade(&home), seen: Arc::default() };
    let web = web(counted.clone());
    let rule = json!({"host": "127.0.0.1", "ports": [web.port], "paths": ["/*"]});
    let probe = json!({"unikernel_image": "osvm_prober", "memory_mb": 32, "timeout_secs": 60,
        "network_enabled": true, "egress": [rule]});
    home.write_config(&json!({"mcp_servers": {"probe": probe}}).to_string());
    let get = |path: &str| {
        let params = json!({"url": web.url(path)});
        json!({"attempts": [{"name": "get", "method": "host/http", "params": params}]})
    };
    let script = vec![
        shape.calls(&[
            ("one", "probe__attempt", get("/alpha")),
            ("two", "probe__attempt", get("/beta")),
        ]),
        shape.calls(&[("three", "probe__attempt", get("/alpha-and-beta"))]),
        shape.says("It said alpha and omega."),
    ];
    let endpoint = Endpoint::watched(shape, script, {
        let counted = counted.clone();
        move |_| counted.look()
    });
    let args = ["ask", "--json", "--yes=all", "get alpha and beta, then what they say"];
    let mut ask = osvm(&home, &endpoint, &args);
    let output = with_path(&mut ask).output().unwrap();
    check_three_calls(&home, &endpoint, &output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said, "starting μVM-1 for the first time; from now on it is copied …\n");
    let told = endpoint.asked();
    assert!(told[1].to_string().contains("answer to /beta"), "{}", told[1]);
    assert!(told[2].to_string().contains("answer to /alpha-and-beta"), "{}", told[2]);
    counted.look();
    let seen = counted.seen.lock().unwrap().clone();
    // The model, two calls, the model, a call, the model; then all is over.
    assert_eq!(seen, [(1, 0), (1, 2), (1, 0), (1, 1), (1, 0), (0, 0)]);
}

#[test]
fn an_openai_compatible_model_is_planned_with_in_a_microvm() {
    plans_calls_and_answers(Shape::OpenAi);
}

#[test]
fn an_anthropic_model_is_planned_with_in_a_microvm() {
    plans_calls_and_answers(Shape::Anthropic);
}

#[test]
fn its_microvm_is_counted_while_it_runs_and_gone_with_ctrl_c() {
    let Some(home) = home() else { return };
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Reply::Silence]);
    let mut ask = osvm(&home, &endpoint, &["ask", "think"]);
    let ask = with_path(&mut ask).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the model to be asked", || (!endpoint.asked().is_empty()).then_some(()));
    let status = home.osvm(["status", "--json"]).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["micro_vms"], &status["unikernels"]), (&1.into(), &0.into()));
    interrupt(ask.id());
    let output = ask.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    check_nothing_runs(&home);
}

#[test]
fn a_copy_of_it_is_started_the_second_time() {
    let Some(home) = home() else { return };
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Shape::OpenAi.says("here")]);
    for (said, resumed) in [
        ("starting μVM-1 for the first time; from now on it is copied …\n", false),
        ("starting μVM-1 …\n", true),
    ] {
        let mut ask = osvm(&home, &endpoint, &["ask", "--json", "who is there?"]);
        let output = with_path(&mut ask).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), said);
        assert!(String::from_utf8_lossy(&output.stdout).contains(r#""text":"here""#));
        let snapshots = home.osvm(["snapshot", "ls"]).output().unwrap();
        assert!(String::from_utf8_lossy(&snapshots.stdout).contains("osvm-agent"), "{resumed}");
    }
    // A snapshot that can't be used costs a boot, and nothing else.
    for entry in fs::read_dir(home.path().join(".osvm/snapshots")).unwrap() {
        fs::write(entry.unwrap().path().join("state"), "rubbish").unwrap();
    }
    let mut ask = osvm(&home, &endpoint, &["ask", "still there?"]);
    let output = with_path(&mut ask).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "here\n");
    check_nothing_runs(&home);
}

/// Whatever can go wrong with a model or a result, one after the other in one µVM-1, which goes on.
#[test]
fn no_failure_of_a_model_or_a_tool_ends_its_session() {
    let Some(home) = equipped(crate::serve_servers::home("direct")) else { return };
    let shape = Shape::OpenAi;
    let busy = |status| Reply::Status(status, "retry-after: 0\r\n", "{}".into());
    let Reply::Stream(whole) = shape.says("half an answer") else { unreachable!() };
    let half = whole[..whole.find("\n\n").unwrap() + 2].to_owned();
    let big = |bytes: usize| shape.calls(&[("x", "fixture__big", json!({"bytes": bytes}))]);
    let mut script = vec![busy(429), busy(500), shape.says("at last")];
    script.push(Reply::Status(401, "", "{}".into()));
    script.push(Reply::Cut(half));
    script.push(Reply::Stream("data: {\"rubbish\n\n".into()));
    let invented = shape.calls(&[("x", "system__ecko", json!({}))]);
    script.extend([invented.clone(), shape.says("there is none")]);
    script.extend(vec![invented; 24]);
    script.extend([big(9 * 1024 * 1024), shape.says("that was much")]);
    script.extend([big(10 * 1024 * 1024), shape.says("that was too much")]);
    script.push(shape.says("still here"));
    let requests = script.len();
    let endpoint = Endpoint::start(shape, script);
    let mut agent = osvm(&home, &endpoint, &["agent", "--plain", "--yes=all"]);
    agent.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut agent = with_path(&mut agent).spawn().unwrap();
    let prompts =
        ["busy", "refused", "cut", "rubbish", "invented", "endless", "big", "10 MiB", "?"];
    agent.stdin.take().unwrap().write_all((prompts.join("\n") + "\n").as_bytes()).unwrap();
    let output = agent.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "at last\nthere is none\nthat was much\nthat was too much\nstill here\n",
        "{said}"
    );
    for line in [
        "answered 429: {}: trying again in 0.0 s",
        "error: the model's provider answered 401",
        "the model's answer was cut off",
        "error: the model's provider sent what is no answer",
        "no tool is called `system__ecko`: did you mean `system__echo`?",
        "error: the model asked for calls 24 times without an answer, which is the limit",
        "9437184 bytes",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(endpoint.asked().len(), requests, "{said}");
    let told = endpoint.asked()[requests - 2].to_string();
    assert!(told.contains("bytes") && told.len() < 200_000, "{}", told.len());
    check_nothing_runs(&home);
}

#[test]
fn ctrl_c_while_it_starts_leaves_nothing() {
    let Some(home) = home() else { return };
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Reply::Silence]);
    let mut ask = osvm(&home, &endpoint, &["ask", "think"]);
    let ask = with_path(&mut ask).stderr(Stdio::null()).spawn().unwrap();
    eventually("a microVM that boots", || {
        let ps = home.osvm(["ps", "--json"]).output().unwrap();
        String::from_utf8_lossy(&ps.stdout).contains("osvm-agent").then_some(())
    });
    assert!(endpoint.asked().is_empty());
    interrupt(ask.id());
    let ended = ask.wait_with_output().unwrap().status;
    assert!(!ended.success(), "{ended}");
    check_nothing_runs(&home);
}

fn interrupt(process: u32) {
    let pid = rustix::process::Pid::from_raw(process.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

/// Builds the agent that was turned; `None`, said on stderr, where that can't be.
fn turned(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/turned_agent.rs");
    let program = dir.join("turned");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "--target=x86_64-unknown-linux-musl", "-Cstrip=symbols", "-o"]);
    let output = rustc.arg(&program).arg(source).output().unwrap();
    if !output.status.success() {
        eprintln!(
            "SKIPPED: no program for Linux guests: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
        assert!(!required.contains("microvm"), "OSVM_REQUIRE names microvm");
        return None;
    }
    Some(program)
}

/// The agent that was turned, asked once.
fn ask_turned(prompt: impl FnOnce(&Home) -> String) -> Option<(Home, Endpoint, Command)> {
    let dir = tempfile::tempdir().unwrap();
    let home = equipped_with(Home::new(), || turned(dir.path()))?;
    home.write_config("{}");
    let rules = "permit(principal, action, resource);\n\
        forbid(principal, action, resource == Tool::\"system/guest_info\");\n";
    fs::write(home.config_path().with_file_name("policy.cedar"), rules).unwrap();
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Shape::OpenAi.says("x")]);
    let mut ask = osvm(&home, &endpoint, &["ask", "--json", &prompt(&home)]);
    with_path(&mut ask).env("PLANTED", SECRET);
    Some((home, endpoint, ask))
}

/// What nobody in µVM-1 may see.
const SECRET: &str = "planted-secret-4711";

#[test]
fn an_agent_that_was_turned_gets_nothing_and_leaves_its_traces() {
    let planted = |home: &Home| {
        let secret = home.write("secret", SECRET);
        // Of another session.
        let sessions = home.path().join(".local/state/osvm/sessions");
        fs::create_dir_all(&sessions).unwrap();
        let session = sessions.join("01ARZ3NDEKTSV4RRFFQ69G5FAV.jsonl");
        let line = json!({"time": "", "message": {"role": "user", "text": SECRET}});
        fs::write(&session, format!("{line}\n")).unwrap();
        format!("{}|{}", secret.display(), session.display())
    };
    let Some((home, endpoint, mut ask)) = ask_turned(planted) else { return };
    let Output { status, stdout, stderr } = ask.output().unwrap();
    let said = String::from_utf8_lossy(&stdout);
    assert_eq!(status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&stderr));
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let report = last["outcome"]["text"].as_str().unwrap();
    // What it may ask is a model: it chose neither the address nor the key.
    let granted: Vec<&str> = report.lines().filter(|line| line.contains(": GRANTED")).collect();
    assert_eq!(granted.len(), 1, "{report}");
    assert!(granted[0].starts_with("host/model 5: "), "{report}");
    for reached in ["REACHED", ": SENT", ": READ", SECRET, "sk-planted", "root:"] {
        assert!(!report.contains(reached), "{reached}: {report}");
    }
    assert!(report.contains("sessions/01ARZ3NDEKTSV4RRFFQ69G5FAV.jsonl: not read"), "{report}");
    assert_eq!(report.lines().filter(|line| line.contains(": refused ")).count(), 9, "{report}");
    assert_eq!(endpoint.asked()[0]["echo"], "${OSVM_AI_KEY}", "sent as it was, nothing filled in");
    let receipts = receipts(&home);
    let mut denied: Vec<String> = receipts
        .iter()
        .filter(|receipt| receipt["decision"] == "deny")
        .filter(|receipt| receipt["client"].as_str().unwrap().starts_with("osvm-agent"))
        .map(|it| format!("{}/{}", it["server"].as_str().unwrap(), it["tool"].as_str().unwrap()))
        .collect();
    denied.sort();
    let expected = [
        "host/agent/prompt",
        "host/host/file",
        "host/host/http",
        "host/host/secret",
        "host/resources/read",
        "host/tools/call",
        "system/guest_info",
    ];
    assert_eq!(denied, expected, "{receipts:#?}");
    let receipts = Value::from(receipts).to_string();
    assert!(!receipts.contains(SECRET) && !receipts.contains("sk-planted"));
    check_nothing_runs(&home);
}

#[test]
fn an_agent_that_hears_nothing_is_left_with_the_second_ctrl_c() {
    let Some((home, _, mut ask)) = ask_turned(|_| "STUCK".into()) else { return };
    let ask = ask.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the agent to be asked", || {
        let state = home.path().join(".local/state/osvm");
        let ps = home.osvm(["ps", "--json"]).output().unwrap();
        let up = String::from_utf8_lossy(&ps.stdout).contains("osvm-agent");
        (up && home.path().join(".osvm/snapshots").exists() && state.exists()).then_some(())
    });
    // Until it hears signals itself, one ends osvm; after that the first only cancels.
    std::thread::sleep(Duration::from_secs(3));
    interrupt(ask.id());
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    interrupt(ask.id());
    let output = ask.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cancelling …"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    check_nothing_runs(&home);
}
