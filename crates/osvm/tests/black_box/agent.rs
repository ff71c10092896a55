//! The agent as its users run it: a scripted model, true gateway, calls in real VMs.

use crate::agent_model::{Endpoint, Reply, Shape};
use crate::support::{Home, eventually};
use serde_json::{Value, json};
use snapbox::str;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `osvm` with a model.
pub(crate) fn osvm(home: &Home, endpoint: &Endpoint, args: &[&str]) -> Command {
    let mut command = home.osvm_std(args);
    command.envs(endpoint.env()).stdin(Stdio::null());
    command
}

fn ask(home: &Home, endpoint: &Endpoint, args: &[&str]) -> Output {
    let args = [&["ask", "--direct"], args].concat();
    osvm(home, endpoint, &args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn echo(text: &str) -> Value {
    json!({"text": text})
}

/// Two calls at once, one that depends on them, the answer.
pub(crate) fn three_calls(shape: Shape) -> Vec<Reply> {
    vec![
        shape.calls(&[
            ("one", "system__echo", echo("alpha")),
            ("two", "system__guest_info", json!({})),
        ]),
        shape.calls(&[("three", "system__echo", echo("alpha and omega"))]),
        shape.says("It said alpha and omega."),
    ]
}

/// What is left of three calls: the answer, three virtual machines, and nothing that runs.
pub(crate) fn check_three_calls(home: &Home, endpoint: &Endpoint, output: &Output) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended: Vec<&Value> = lines.iter().filter_map(|line| line.get("call_ended")).collect();
    assert_eq!(ended.len(), 3, "{lines:#?}");
    let (mut machines, mut cids) = (BTreeSet::new(), BTreeSet::new());
    for call in &ended {
        assert_eq!(call["is_error"], false, "{call}");
        let isolation = &call["isolation"];
        assert_eq!(isolation["mode"], "unikernel", "{call}");
        assert_eq!(isolation["fallback"], Value::Null);
        let cid = isolation["cid"].as_u64().unwrap();
        assert!((200..300).contains(&cid), "{call}");
        cids.insert(cid);
        let vm = isolation["vm_pid"].as_u64().unwrap();
        assert!(!Path::new(&format!("/proc/{vm}")).exists(), "the VM is gone");
        machines.insert(vm);
    }
    assert_eq!(machines.len(), 3, "a machine of its own for each call");
    assert_eq!(cids.len(), 3, "a CID of its own for each call");
    let receipts = receipts(home);
    let of = |name: &str| -> BTreeSet<u64> {
        receipts.iter().map(|receipt| receipt["isolation"][name].as_u64().unwrap()).collect()
    };
    assert_eq!((receipts.len(), of("vm_pid"), of("cid")), (3, machines, cids), "{receipts:#?}");
    for receipt in &receipts {
        assert_eq!(receipt["exit"], "result", "{receipt}");
        assert!(receipt["client"].as_str().unwrap().starts_with("osvm-agent"), "{receipt}");
    }
    home.osvm(["receipts", "verify"]).assert().code(0);
    let plan = lines.iter().find_map(|line| line.get("plan")).unwrap();
    assert_eq!(plan["calls"][0]["mode"], "unikernel");
    let last = &lines.last().unwrap()["outcome"];
    assert_eq!(last["text"], "It said alpha and omega.");
    assert_eq!((&last["calls"], &last["steps"]), (&json!(3), &json!(3)));
    assert_eq!((&last["input_tokens"], &last["output_tokens"]), (&json!(300), &json!(30)));
    let asked = endpoint.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked[1].to_string().contains("alpha"), "the results went back");
    let logs = home.osvm(["logs", "--json"]).output().unwrap();
    let logs: Vec<Value> = serde_json::from_slice(&logs.stdout).unwrap();
    assert_eq!(logs.len(), 3, "{logs:#?}");
    check_nothing_runs(home);
}

/// The receipts of this home, oldest first.
pub(crate) fn receipts(home: &Home) -> Vec<Value> {
    let output = home.osvm(["receipts", "ls", "--json"]).output().unwrap();
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// No process of this home, no VM.
#[track_caller]
pub(crate) fn check_nothing_runs(home: &Home) {
    eventually("no process of this home", || home.processes().is_empty().then_some(()));
    let ps = home.osvm(["ps", "--json"]).output().unwrap();
    assert_eq!(text(&ps.stdout), "[]\n");
}

fn plans_calls_and_answers(shape: Shape) {
    let home = Home::new();
    let endpoint = Endpoint::start(shape, three_calls(shape));
    let output = ask(&home, &endpoint, &["--json", "say alpha, then alpha and omega"]);
    check_three_calls(&home, &endpoint, &output);
    assert!(!text(&output.stdout).contains("sk-planted"));
    assert_eq!(text(&output.stderr), "the agent runs on this host, outside of a microVM\n");
}

#[test]
fn an_openai_compatible_model_plans_calls_and_answers() {
    plans_calls_and_answers(Shape::OpenAi);
}

#[test]
fn an_anthropic_model_plans_calls_and_answers() {
    plans_calls_and_answers(Shape::Anthropic);
}

#[test]
fn the_answer_is_on_stdout_and_all_else_on_stderr() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, three_calls(Shape::OpenAi));
    let price = "price = {input = 1000.0, output = 10000.0}\n";
    home.write_config("{}");
    std::fs::write(home.config_path().with_file_name("agent.toml"), price).unwrap();
    let output = osvm(&home, &endpoint, &["ask", "--direct", "say", "alpha"])
        .env("RUST_LOG", "off")
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "It said alpha and omega.\n");
    let said = text(&output.stderr);
    assert!(said.contains("→ system__echo {\"text\":\"alpha\"} (unikernel)\n"), "{said}");
    assert!(said.contains("✓ system__echo: unikernel, CID "), "{said}");
    let verbose = ask(&home, &endpoint, &["-v", "again"]);
    let said = text(&verbose.stderr);
    assert!(
        said.contains("scripted (openai, 127.0.0.1): 100 tokens read, 10 written, 0.2000 USD"),
        "{said}"
    );
}

#[test]
fn a_plan_is_shown_and_nothing_is_called() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, three_calls(Shape::OpenAi));
    let output = osvm(&home, &endpoint, &["plan", "--direct", "say alpha"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        "the agent runs on this host, outside of a microVM\n\
         OSVM: 0μVMs 0uK • agent(host:run) osvm-mcp(uK:cfg) solana(uK:cfg) system(uK:cfg) • net:none • up:0s\n\
         → system__echo {\"text\":\"alpha\"} (unikernel)\n\
         → system__guest_info {} (unikernel)\n"
    );
    home.osvm(["logs"]).assert().code(0).stdout_eq("").stderr_eq("no calls yet\n");
}

/// One script; what is said when it fails, or in answer.
#[track_caller]
fn check(script: Vec<Reply>, code: i32, words: &str) -> (Home, Endpoint) {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, script);
    let output = ask(&home, &endpoint, &["go"]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains(words), "{said}");
    assert_eq!(output.status.code(), Some(code), "{said}");
    check_nothing_runs(&home);
    (home, endpoint)
}

#[test]
fn a_model_that_is_busy_is_asked_again() {
    let busy = |status| Reply::Status(status, "retry-after: 0\r\n", "{}".into());
    let (_, endpoint) =
        check(vec![busy(429), busy(500), Shape::OpenAi.says("at last")], 0, "at last\n");
    assert_eq!(endpoint.asked().len(), 3);
}

#[test]
fn a_model_that_stays_broken_is_given_up() {
    check(vec![Reply::Status(500, "retry-after: 0\r\n", "no luck \u{1b}[2J".into())], 2, "500");
    check(vec![Reply::Status(401, "", "{\"error\":\"sk-planted is wrong\"}".into())], 2, "401");
}

#[test]
fn what_is_no_answer_is_an_error_that_says_so() {
    let Reply::Stream(whole) = Shape::OpenAi.says("half an answer") else { unreachable!() };
    check(vec![Reply::Cut(whole[..60].into())], 2, "error: ");
    check(vec![Reply::Stream("data: {\"rubbish\n\n".into())], 2, "error: ");
    check(vec![Reply::Stream("<html>".into())], 2, "error: ");
}

#[test]
fn a_tool_that_the_model_invented_is_told_to_it() {
    let script = vec![
        Shape::OpenAi.calls(&[("x", "system__ecko", echo("hi"))]),
        Shape::OpenAi.says("there is none"),
    ];
    let (home, endpoint) = check(script, 0, "there is none\n");
    let told = endpoint.asked()[1].to_string();
    assert!(
        told.contains("no tool is called `system__ecko`: did you mean `system__echo`?"),
        "{told}"
    );
    home.osvm(["logs"]).assert().code(0).stdout_eq("").stderr_eq("no calls yet\n");
}

#[test]
fn a_loop_without_end_ends_at_its_limit() {
    let again = Shape::OpenAi.calls(&[("x", "system__nothing", json!({}))]);
    check(vec![again], 2, "which is the limit");
}

#[test]
fn a_huge_result_is_cut_for_the_model_and_can_be_paged_through() {
    let home = crate::serve_servers::home("direct");
    let script = vec![
        Shape::OpenAi.calls(&[("x", "fixture__big", json!({"bytes": 9 * 1024 * 1024}))]),
        Shape::OpenAi.says("that was much"),
    ];
    let endpoint = Endpoint::start(Shape::OpenAi, script);
    let output = ask(&home, &endpoint, &["--yes=all", "go"]);
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "that was much\n", "{said}");
    assert!(said.contains("9437184 bytes"), "{said}");
    let told = endpoint.asked()[1].to_string();
    assert!(told.len() < 100_000, "{}", told.len());
}

#[test]
fn without_a_model_words_choose_the_tool_and_a_flag_says_yes() {
    let home = Home::new();
    let no = home.osvm(["ask", "--direct", "echo \"hi there\""]).env("RUST_LOG", "off");
    no.assert().code(0).stdout_eq("Nothing was called.\n").stderr_eq(str![[r#"
the agent runs on this host, outside of a microVM
OSVM: 0μVMs 0uK • agent(host:run) osvm-mcp(uK:cfg) solana(uK:cfg) system(uK:cfg) • net:none • up:0s
→ system__echo {"text":"hi there"} (unikernel)

"#]]);
    let yes = home.osvm(["ask", "--direct", "--yes", "echo \"hi there\""]);
    yes.assert().code(0).stdout_eq("{\"text\":\"hi there\"}\n").stderr_eq(str![[r#"
the agent runs on this host, outside of a microVM
OSVM: 0μVMs 0uK • agent(host:run) osvm-mcp(uK:cfg) solana(uK:cfg) system(uK:cfg) • net:none • up:0s
→ system__echo {"text":"hi there"} (unikernel)
✓ system__echo: unikernel, CID 200, [..] ms, 19 bytes

"#]]);
    check_nothing_runs(&home);
}

#[test]
fn lines_on_stdin_are_a_conversation() {
    let home = Home::new();
    let mut osvm = home.osvm_std(&["agent", "--direct", "--plain", "--yes"]);
    osvm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut osvm = osvm.spawn().unwrap();
    let lines = "/call system echo {\"text\":\"by hand\"}\n/call x\necho \"one\"\n/calls\n/tolls\n/exit\nnot read\n";
    osvm.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = osvm.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(text(&output.stdout), "{\"text\":\"by hand\"}\n{\"text\":\"one\"}\n", "{said}");
    assert!(said.contains("OSVM: 0μVMs 0uK • agent(host:run)"), "{said}");
    assert!(said.contains("there is no `/tolls`: did you mean `/tools`?"), "{said}");
    check_nothing_runs(&home);
}

#[test]
fn a_session_goes_on_where_it_was() {
    let home = Home::new();
    let shape = Shape::OpenAi;
    let endpoint = Endpoint::start(shape, vec![shape.says("noted"), shape.says("blue")]);
    assert_eq!(text(&ask(&home, &endpoint, &["my color is blue"]).stdout), "noted\n");
    let output = home.osvm(["agent", "sessions", "--json"]).output().unwrap();
    let sessions: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sessions[0]["first"], "my color is blue");
    let resume = format!("--resume={}", sessions[0]["id"].as_str().unwrap());
    assert_eq!(text(&ask(&home, &endpoint, &[&resume, "which is it?"]).stdout), "blue\n");
    let asked = endpoint.asked()[1].to_string();
    assert!(asked.contains("my color is blue") && asked.contains("noted"), "{asked}");
    home.osvm(["ask", "--direct", "--resume=nonsense", "x"]).assert().code(2).stderr_eq(str![[
        r#"
error: there is no session `nonsense`

hint: `osvm agent sessions` lists them

"#
    ]]);
}

#[test]
fn what_is_wrong_is_said_before_anything_is_started() {
    let home = Home::new();
    home.write_config("{}");
    std::fs::write(home.config_path().with_file_name("agent.toml"), "modle = \"x\"\n").unwrap();
    home.osvm(["ask", "--direct", "x"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `[HOME]/.config/osvm/agent.toml` is wrong
  caused by: TOML parse error at line 1, column 1
  |
1 | modle = "x"
  | ^^^^^
unknown field `modle`, expected one of [..]


"#]]);
    let home = Home::new();
    let skip = home.osvm(["ask", "x"]).env("OSVM_SKIP_MICROVM", "yes");
    skip.assert().code(2).stderr_eq("error: `OSVM_SKIP_MICROVM` is 0 or 1, not `yes`\n");
    home.osvm(["ask", "--direct", " "]).assert().code(2).stderr_eq("error: the prompt is empty\n");
}

#[test]
fn without_its_microvm_the_agent_does_not_start_and_says_what_is_missing() {
    let home = Home::new();
    home.osvm(["ask", "hi"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: µVM-1 cannot start, and the agent runs nowhere else
...
hint: [..]or have the agent run on this host with `--direct`

"#]]);
    let direct = home.osvm(["ask", "echo \"hi\""]).env("OSVM_SKIP_MICROVM", "1");
    direct.assert().code(0).stdout_eq("Nothing was called.\n").stderr_eq(str![[r#"
the agent runs on this host, outside of a microVM
...
"#]]);
}

#[test]
fn a_prompt_of_a_megabyte_is_taken_and_a_longer_one_is_not() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Shape::OpenAi.says("long")]);
    for (length, code, said) in [
        (1024 * 1024, 0, "long\n"),
        (1024 * 1024 + 1, 2, "error: the prompt has more than 1048576 bytes, which is the limit\n"),
    ] {
        let mut osvm = osvm(&home, &endpoint, &["ask", "--direct", "-"]);
        osvm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut osvm = osvm.spawn().unwrap();
        osvm.stdin.take().unwrap().write_all(&vec![b'x'; length]).unwrap();
        let output = osvm.wait_with_output().unwrap();
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(all.contains(said), "{all}");
        assert_eq!(output.status.code(), Some(code));
    }
    let mut osvm = home.osvm_std(&["ask", "--direct", "-"]);
    osvm.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut osvm = osvm.spawn().unwrap();
    osvm.stdin.take().unwrap().write_all(&[0, 159, 146, 150, 27, b'[', b'2', b'J']).unwrap();
    let output = osvm.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error: the prompt is not UTF-8\n"));
    let asked = endpoint.asked();
    assert!(1024 * 1024 < asked[0].to_string().len() && asked.len() == 1);
}

/// Ctrl-C once something is going on; returns how osvm ended, and how fast.
fn interrupted(home: &Home, endpoint: &Endpoint, going: impl Fn() -> bool) -> Output {
    let mut osvm = osvm(home, endpoint, &["ask", "--direct", "go"]);
    let osvm = osvm.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("something to interrupt", || going().then_some(()));
    let pid = rustix::process::Pid::from_raw(osvm.id().try_into().unwrap()).unwrap();
    let began = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = osvm.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    check_nothing_runs(home);
    output
}

#[test]
fn ctrl_c_ends_a_model_that_thinks() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Reply::Silence]);
    interrupted(&home, &endpoint, || !endpoint.asked().is_empty());
}

#[test]
fn ctrl_c_ends_the_wait_for_a_model_that_is_busy() {
    let home = Home::new();
    let busy = Reply::Status(429, "retry-after: 600\r\n", "{}".into());
    let endpoint = Endpoint::start(Shape::OpenAi, vec![busy]);
    interrupted(&home, &endpoint, || !endpoint.asked().is_empty());
    assert_eq!(endpoint.asked().len(), 1);
}

#[test]
fn ctrl_c_ends_the_wait_for_an_approval() {
    let home = crate::agent_screen::asking_home();
    let script = vec![Shape::OpenAi.calls(&[("x", "system__echo", echo("hi"))])];
    let endpoint = Endpoint::start(Shape::OpenAi, script);
    let pending = || {
        let pending = home.osvm(["approvals", "ls", "--json"]).output().unwrap();
        text(&pending.stdout).contains("echo")
    };
    interrupted(&home, &endpoint, pending);
    let receipts = receipts(&home);
    assert!(receipts.iter().all(|receipt| receipt["exit"] != "result"), "{receipts:?}");
}

#[test]
fn ctrl_c_destroys_the_virtual_machine_of_a_call() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 60);
    let script = vec![Shape::OpenAi.calls(&[("x", "system__echo", echo("hi"))])];
    let endpoint = Endpoint::start(Shape::OpenAi, script);
    let running = || {
        !home.processes().is_empty()
            && home.osvm(["ps", "--json"]).output().unwrap().stdout != b"[]\n"
    };
    interrupted(&home, &endpoint, running);
}

#[test]
fn a_provider_with_a_wrong_certificate_is_not_talked_to() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, stream);
            // The client hangs up before it says anything.
            assert!(std::io::Read::read(&mut stream, &mut [0]).is_err());
        }
    });
    let mut osvm = home.osvm_std(&["ask", "--direct", "hi"]);
    osvm.env("OSVM_AI_URL", format!("https://localhost:{port}/v1")).env("OSVM_AI_MODEL", "m");
    osvm.env("OSVM_AI_KEY", "sk-planted");
    let output = osvm.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.to_lowercase().contains("certificate"), "{said}");
}
