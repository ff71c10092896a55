//! The daemon as users meet it: started on demand or by hand, used, ended, killed.

use crate::support::{Home, eventually, wait_for_end_of};
use command_fds::{CommandFdExt as _, FdMapping};
use serde_json::{Value, json};
use snapbox::str;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};

const ECHO: [&str; 6] = ["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#, "--json"];

/// A home whose config keeps VMs ready.
fn with_pool(size: u32) -> Home {
    let home = Home::new();
    home.write_config(&json!({"pool": {"size": size}}).to_string());
    home
}

fn json_of(home: &Home, args: &[&str]) -> Value {
    let output = home.osvm_std(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn status(home: &Home) -> Value {
    json_of(home, &["daemon", "status", "--json"])
}

/// Waits until so many VMs are unused, and returns the status.
#[track_caller]
fn wait_for_idle(home: &Home, count: usize) -> Value {
    eventually("unused VMs", || {
        let status = status(home);
        let idle = status["pool"]["shelves"][0]["idle"].as_array().map_or(0, Vec::len);
        (idle == count && status["pool"]["vms"] == count).then_some(status)
    })
}

fn stop(home: &Home) {
    home.osvm(["daemon", "stop"]).assert().code(0).stdout_eq("").stderr_eq(str![[r#"
the daemon, process [..], has ended

"#]]);
    home.assert_nothing_left();
}

/// A daemon in the foreground, once it listens.
fn foreground(home: &Home) -> Child {
    let daemon = home.spawn(&["daemon"]);
    let socket = home.path().join("run/osvm/daemon.sock");
    eventually("the daemon to listen", || socket.exists().then_some(()));
    daemon
}

fn signal(process: &Child, signal: &str) {
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
}

#[test]
fn a_config_with_a_pool_starts_a_daemon_that_has_a_vm_ready_for_the_next_call() {
    let home = with_pool(2);
    let first = json_of(&home, &ECHO);
    assert_eq!(first["result"], json!({"text": "hi"}));
    let idle = wait_for_idle(&home, 2);
    let second = json_of(&home, &ECHO);
    assert_eq!(second["result"], json!({"text": "hi"}));
    let isolation = &second["isolation"];
    assert_eq!((&isolation["pooled"], &isolation["mode"]), (&json!(true), &json!("unikernel")));
    let ready = idle["pool"]["shelves"][0]["idle"].as_array().unwrap();
    assert!(ready.iter().any(|spare| spare["vm_pid"] == isolation["vm_pid"]));
    let [boot, vm_boot, total] =
        ["boot_ms", "vm_boot_ms", "total_ms"].map(|name| isolation[name].as_f64().unwrap());
    assert!(0.0 < boot && boot < total && 0.0 < vm_boot, "{isolation}");
    wait_for_end_of(isolation["vm_pid"].as_u64().unwrap().try_into().unwrap());
    stop(&home);
}

#[test]
fn unused_vms_are_listed_as_what_they_are() {
    let home = with_pool(1);
    json_of(&home, &ECHO);
    let status = wait_for_idle(&home, 1);
    home.osvm(["ps"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
CID  VM PID  OSVM PID  UP[..]TOOL                    CALL
[..]  unikraft_tool_executor  unused

"#]]);
    let vms = json_of(&home, &["ps", "--json"]);
    assert_eq!((&vms[0]["idle"], &vms[0]["osvm_pid"]), (&json!(true), &status["pid"]));
    let line = json_of(&home, &["status", "--json"]);
    assert_eq!((&line["unikernels"], &line["idle"]), (&json!(1), &json!(1)));
    home.osvm(["daemon", "status"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
daemon  process [..], version [VERSION], up [..]s, 1 clients
config  [HOME]/.config/osvm/isolation_config.json
calls   0 running, 0 waiting for a VM; 1 answered, 0 tool errors, 0 failed, 0 cancelled
VMs     1 of 100: 0 in use, 1 unused; 128 MiB
pool    unikraft_tool_executor (sha256:[..]) with 128 MiB on kvm: 1 of 1 ready, 0 booting; [..] booted, 0 failed, 0 lost

"#]]);
    stop(&home);
}

#[test]
fn without_a_pool_or_with_no_daemon_each_call_runs_by_itself() {
    let home = Home::new();
    json_of(&home, &ECHO);
    home.assert_nothing_left();
    let home = with_pool(1);
    let envelope = json_of(&home, &[ECHO.as_slice(), &["--no-daemon"]].concat());
    assert_eq!(envelope["isolation"]["pooled"], false);
    home.assert_nothing_left();
    home.osvm(["daemon", "status"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: no daemon answers at `[HOME]/run/osvm/daemon.sock`
  caused by: No such file or directory (os error 2)

hint: start it with `osvm daemon`

"#]]);
}

#[test]
fn an_error_is_told_as_without_a_daemon() {
    let home = with_pool(1);
    for flag in ["--daemon", "--no-daemon"] {
        let call = home.osvm(["mcp", "call", "system", "ehco", flag]);
        call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: server `system` has no tool `ehco`

hint: did you mean `echo`?

"#]]);
        let call = ["mcp", "call", "solana", "decode_transaction", r#"{"transaction":"!"}"#, flag];
        let call = home.osvm(call).assert().code(1).stdout_eq("");
        assert!(call.get_output().stderr.starts_with(b"error: "));
    }
    stop(&home);
}

#[test]
fn killing_the_daemon_leaves_no_vm_and_the_next_call_starts_another_one() {
    let home = with_pool(2);
    json_of(&home, &ECHO);
    let before = wait_for_idle(&home, 2);
    let pid = before["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    for spare in before["pool"]["shelves"][0]["idle"].as_array().unwrap() {
        wait_for_end_of(spare["vm_pid"].as_u64().unwrap().try_into().unwrap());
    }
    assert!(home.path().join("run/osvm/daemon.sock").exists(), "its socket is left over");
    assert_eq!(json_of(&home, &ECHO)["result"], json!({"text": "hi"}));
    assert_ne!(wait_for_idle(&home, 2)["pid"], before["pid"]);
    stop(&home);
}

#[test]
fn a_signal_ends_the_daemon_in_order() {
    for name in ["TERM", "INT"] {
        let home = with_pool(1);
        let daemon = foreground(&home);
        let status = wait_for_idle(&home, 1);
        signal(&daemon, name);
        let output = daemon.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", output.status);
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!(
                "the daemon listens on `{}/run/osvm/daemon.sock`; Ctrl-C ends it\n",
                home.path().display()
            )
        );
        let vm = &status["pool"]["shelves"][0]["idle"][0]["vm_pid"];
        assert!(!Path::new(&format!("/proc/{vm}")).exists());
        home.assert_nothing_left();
    }
}

#[test]
fn a_second_daemon_is_told_of_the_first() {
    let home = with_pool(1);
    let mut daemon = foreground(&home);
    let second = home.osvm(["daemon"]).assert().code(2).stdout_eq("");
    let said = String::from_utf8_lossy(&second.get_output().stderr).into_owned();
    let expected = format!(
        "error: a daemon is running already, as process {}\n\nhint: `osvm daemon stop` ends it\n",
        daemon.id()
    );
    assert_eq!(said, expected);
    stop(&home);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn ctrl_c_at_the_client_ends_the_call_and_its_vm() {
    let home = Home::with_hostile_image();
    home.write_config(
        &json!({
            "pool": {"size": 1},
            "mcp_servers": {"system": {"unikernel_image": "hostile",
                "env_vars": {"HOSTILE": "spin"}, "timeout_secs": 60}},
        })
        .to_string(),
    );
    let call = home.spawn(&["mcp", "call", "system", "echo", r#"{"text":"hi"}"#]);
    let vm = eventually("a VM that serves the call", || {
        let vms = json_of(&home, &["ps", "--json"]);
        let vm = vms.as_array().unwrap().iter().find(|vm| vm["tool"] == "system/echo");
        vm.map(|vm| u32::try_from(vm["vm_pid"].as_u64().unwrap()).unwrap())
    });
    signal(&call, "INT");
    let output = call.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "error: interrupted by SIGINT\n");
    wait_for_end_of(vm);
    assert_eq!(status(&home)["calls"]["cancelled"], 1);
    stop(&home);
}

#[test]
fn a_call_for_another_backend_is_not_given_to_the_daemon() {
    let home = with_pool(1);
    json_of(&home, &ECHO);
    // As the config says, which `OSVM_BACKEND` of these tests is not.
    let mut command =
        home.osvm_std(&["mcp", "call", "system", "echo", r#"{"text":"hi"}"#, "--daemon"]);
    let output = command.env("OSVM_BACKEND", "auto").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "error: the daemon was started for another config or backend\n");
    stop(&home);
}

#[test]
fn a_daemon_that_cannot_start_is_explained_and_the_call_still_isolated() {
    let home = with_pool(1);
    // A directory where its lock belongs.
    std::fs::create_dir_all(home.path().join("run/osvm/daemon.lock")).unwrap();
    std::fs::set_permissions(
        home.path().join("run/osvm"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let output = home.osvm_std(&ECHO).output().unwrap();
    let envelope: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(envelope["isolation"]["mode"], "unikernel");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the daemon does not run the call"), "{said}");
    let call = home.osvm_std(&[ECHO.as_slice(), &["--daemon"]].concat()).output().unwrap();
    assert_eq!(call.status.code(), Some(2));
    let envelope: Value = serde_json::from_slice(&call.stdout).unwrap();
    assert_eq!(envelope["error"]["code"], "daemon");
}

#[test]
fn a_socket_of_systemd_is_used_and_left_in_its_place() {
    let home = with_pool(1);
    let path = home.path().join("run/osvm/daemon.sock");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::set_permissions(
        path.parent().unwrap(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let osvm = home.osvm_std(&["daemon"]);
    // The shell keeps its process id, so the number in `LISTEN_PID` is the daemon's.
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" daemon"]).arg(osvm.get_program());
    shell.env_clear().current_dir(home.path());
    shell.envs(osvm.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let parent_fd = OwnedFd::from(listener);
    shell.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
    let mut daemon = shell.spawn().unwrap();
    assert_eq!(json_of(&home, &ECHO)["result"], json!({"text": "hi"}));
    assert_eq!(status(&home)["pid"], daemon.id());
    home.osvm(["daemon", "stop"]).assert().code(0);
    assert!(daemon.wait().unwrap().success());
    assert!(path.exists(), "it is systemd's");
}
