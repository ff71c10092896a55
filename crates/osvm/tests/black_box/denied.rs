//! Isolation that can't be had: the call fails and says why, unless the config says otherwise.

use crate::support::{Hidden, Home};
use osvm_runtime::Cancel;
use osvm_runtime::cids::{Cids, Claim};
use serde_json::Value;
use snapbox::str;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

const ECHO: [&str; 5] = ["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#];

#[test]
fn a_missing_image_is_named_with_its_path() {
    let home = Home::without_images();
    home.osvm(ECHO).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: unikernel image not found: `[HOME]/.osvm/unikernels/unikraft_tool_executor.img`

hint: build and install it with `scripts/build-unikraft-tool-executor.sh`

"#]]);
    home.assert_nothing_left();
}

#[test]
fn an_altered_image_is_not_booted() {
    let home = Home::new();
    let path = home.store().image_path("unikraft_tool_executor");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    home.osvm(ECHO).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `[HOME]/.osvm/unikernels/unikraft_tool_executor.img` was altered: its digest is sha256:[..], sha256:[..] was installed

hint: install it anew with `scripts/build-unikraft-tool-executor.sh`

"#]]);
    home.assert_nothing_left();
}

#[test]
fn without_kvm_the_call_is_denied() {
    let home = Home::new();
    let Some(call) = home.osvm_without(Hidden::Kvm, &ECHO) else { return };
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot open `/dev/kvm`
  caused by: No such file or directory (os error 2)

hint: run `osvm doctor` to see what works on this host

"#]]);
    home.assert_nothing_left();
}

#[test]
fn without_permission_for_kvm_the_call_is_denied() {
    let home = Home::new();
    let Some(call) = home.osvm_without(Hidden::KvmPermission, &ECHO) else { return };
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot open `/dev/kvm`
  caused by: Permission denied (os error 13)

hint: add your user to group `kvm`: `sudo usermod -aG kvm $USER`, then log in again

"#]]);
    home.assert_nothing_left();
}

#[test]
fn a_denied_call_tells_programs_why_in_its_envelope() {
    let home = Home::without_images();
    let call = ["mcp", "call-tool", "--json", "system", "echo", r#"{"text":"hi"}"#];
    let output = home.osvm(call).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let envelope: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(envelope["error"]["code"], "image");
    assert_eq!(envelope["isolation"]["mode"], "unikernel");
    assert_eq!(envelope["isolation"]["vm_pid"], Value::Null);
    assert_eq!(envelope["isolation"]["fallback"], Value::Null);
    assert_eq!(envelope.get("result"), None);
}

#[test]
fn a_call_that_never_began_has_an_envelope_too() {
    let home = Home::without_images();
    let call = ["mcp", "call-tool", "--json", "system", "echo", "["];
    home.osvm(call).assert().code(2).stdout_eq(str![[r#"
{"error":{"code":"arguments","message":"cannot read the arguments as JSON","causes":["EOF while parsing a list at line 1 column 1"],"hint":"quote them for the shell, as in '{\"text\":\"hi\"}'"},"call":null,"isolation":null}

"#]]).stderr_eq(str![[r#"
error: cannot read the arguments as JSON
  caused by: EOF while parsing a list at line 1 column 1

hint: quote them for the shell, as in '{"text":"hi"}'

"#]]);
}

#[test]
fn a_configured_fallback_runs_the_tool_and_says_so_everywhere() {
    let home = Home::new();
    home.write_config(r#"{"on_isolation_failure": "fallback"}"#);
    let call: Vec<&str> = ECHO.into_iter().chain(["--json"]).collect();
    let Some(call) = home.osvm_without(Hidden::Kvm, &call) else { return };
    let output = call.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let envelope: Value = serde_json::from_slice(&output.stdout).unwrap();
    let reason = "cannot open `/dev/kvm`: No such file or directory (os error 2)";
    assert_eq!(envelope["result"]["text"], "hi");
    assert_eq!(envelope["isolation"]["mode"], "direct");
    assert_eq!(envelope["isolation"]["fallback"], reason);
    assert_eq!(envelope["isolation"]["vm_pid"], Value::Null);
    assert!(stderr.starts_with("warning: isolation failed"), "{stderr}");
    let status = home.osvm(["status"]).assert().code(0);
    status.stdout_eq(str![[r#"
OSVM: 0μVMs 0uK* • net:none • up:0s
* the last call could not be isolated: cannot open `/dev/kvm`: No such file or directory (os error 2)

"#]]).stderr_eq("");
    home.assert_nothing_left();
}

#[test]
fn a_vm_program_that_is_missing_or_not_to_be_trusted_is_not_run() {
    let home = Home::new();
    let missing = home.path().join("nowhere/osvm-vm");
    let call = home.osvm(ECHO).env("OSVM_VM_PROGRAM", missing);
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot run `[HOME]/nowhere/osvm-vm`
  caused by: No such file or directory (os error 2)

hint: build it beside `osvm` with `cargo build --release -p osvm --bins`, or set `OSVM_VM_PROGRAM` to where it is

"#]]);
    let open_to_all = home.write("osvm-vm", "");
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
    let call = home.osvm(ECHO).env("OSVM_VM_PROGRAM", open_to_all);
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot run `[HOME]/osvm-vm`
  caused by: everybody may write to it (mode 0777)

hint: somebody may have changed it: build it anew, and let only its owner write to it

"#]]);
    home.assert_nothing_left();
}

#[test]
fn qemu_that_is_not_installed_is_named_with_the_way_to_get_it() {
    let home = Home::new();
    // An empty PATH has none.
    let call = home.osvm(ECHO).env("OSVM_BACKEND", "qemu").env("PATH", home.path());
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot run `qemu-system-x86_64`
  caused by: entity not found

hint: install QEMU with `sudo apt-get install --no-install-recommends qemu-system-x86`

"#]]);
}

#[test]
fn firecracker_that_is_not_installed_is_named_with_the_way_to_get_it() {
    let home = Home::new();
    let call = home.osvm(ECHO).env("OSVM_BACKEND", "firecracker").env("PATH", home.path());
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot run `firecracker`
  caused by: entity not found

hint: put a release of Firecracker on `PATH`, or name it by `OSVM_FIRECRACKER`

"#]]);
}

#[test]
fn a_tool_that_needs_a_microvm_is_not_run_elsewhere() {
    let home = Home::new();
    home.write_config(r#"{"mcp_servers": {"system": {"execution_mode": "microvm"}}}"#);
    home.osvm(ECHO).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `system/echo` is configured for mode `microvm`, but is a tool of a unikernel

hint: set `execution_mode` of the tool to "unikernel" in the isolation config

"#]]);
}

#[test]
fn with_all_cids_taken_the_call_waits_and_then_names_the_holders() {
    let home = Home::new();
    home.write_config(r#"{"mcp_servers": {"system": {"timeout_secs": 1}}}"#);
    let cids = Cids::new(home.path().join("run/osvm"), 200..=299);
    let call = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    let claim = Claim { call, server: "test", tool: "holder" };
    let now = Instant::now();
    let leases: Vec<_> =
        (0..100).map(|_| cids.take(claim, now, &Cancel::default()).unwrap()).collect();
    home.osvm(ECHO).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: all 100 CIDs (200 to 299) are taken: 100 by `test/holder` of process [..]

hint: `osvm ps` lists the guests that hold them; try again when one has ended

"#]]);
    assert!(1.0 <= now.elapsed().as_secs_f64(), "it waits until the deadline");
    drop(leases);
    home.osvm(ECHO).assert().code(0);
    home.assert_nothing_left();
}
