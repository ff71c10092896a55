//! The agent inside µVM-1, on the hypervisor this host has.

use crate::agent::{check_nothing_runs, check_three_calls, osvm, three_calls};
use crate::agent_model::{Endpoint, Reply, Shape};
use crate::support::{Home, eventually};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A home in which µVM-1 can start; `None`, said on stderr, where this host lacks something.
fn home() -> Option<Home> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/osvm-agent");
    home_with(|| Some(program))
}

/// The same, with another program as the agent.
fn home_with(program: impl FnOnce() -> Option<PathBuf>) -> Option<Home> {
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
    let home = Home::new();
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

/// QEMU is looked for on it.
fn with_path(command: &mut Command) -> &mut Command {
    command.env("PATH", std::env::var_os("PATH").unwrap())
}

fn plans_calls_and_answers(shape: Shape) {
    let Some(home) = home() else { return };
    let endpoint = Endpoint::start(shape, three_calls(shape));
    let mut ask = osvm(&home, &endpoint, &["ask", "--json", "say alpha, then alpha and omega"]);
    let output = with_path(&mut ask).output().unwrap();
    check_three_calls(&home, &endpoint, &output);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "starting μVM-1 …\n");
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
    let pid = rustix::process::Pid::from_raw(ask.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = ask.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    check_nothing_runs(&home);
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

#[test]
fn an_agent_that_was_turned_gets_nothing_and_leaves_its_traces() {
    const SECRET: &str = "planted-secret-4711";
    let dir = tempfile::tempdir().unwrap();
    let Some(home) = home_with(|| turned(dir.path())) else { return };
    home.write_config("{}");
    let rules = "permit(principal, action, resource);\n\
        forbid(principal, action, resource == Tool::\"system/guest_info\");\n";
    fs::write(home.config_path().with_file_name("policy.cedar"), rules).unwrap();
    let secret = home.write("secret", SECRET);
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Shape::OpenAi.says("x")]);
    let mut ask = osvm(&home, &endpoint, &["ask", "--json", secret.to_str().unwrap()]);
    let output = with_path(&mut ask).env("PLANTED", SECRET).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let report = last["outcome"]["text"].as_str().unwrap();
    // What it may ask is a model: it chose neither the address nor the key.
    let granted: Vec<&str> = report.lines().filter(|line| line.contains(": GRANTED")).collect();
    assert_eq!(granted.len(), 1, "{report}");
    assert!(granted[0].starts_with("host/model 5: "), "{report}");
    for reached in ["REACHED", ": SENT", ": READ", SECRET, "sk-planted", "root:"] {
        assert!(!report.contains(reached), "{reached}: {report}");
    }
    assert_eq!(report.lines().filter(|line| line.contains(": refused ")).count(), 9, "{report}");
    assert_eq!(endpoint.asked()[0]["echo"], "${OSVM_AI_KEY}", "sent as it was, nothing filled in");
    let receipts = home.osvm(["receipts", "ls", "--json"]).output().unwrap();
    let receipts = String::from_utf8_lossy(&receipts.stdout);
    assert!(receipts.contains("guest_info"), "{receipts}");
    assert!(!receipts.contains(SECRET) && !receipts.contains("sk-planted"));
    check_nothing_runs(&home);
}
