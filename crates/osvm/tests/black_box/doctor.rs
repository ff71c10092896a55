//! `osvm doctor`: what is wrong, and what mends it.

use crate::support::{Hidden, Home};
use serde_json::{Value, json};
use snapbox::str;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn on_a_host_where_calls_run_every_check_is_ok() {
    let home = Home::new();
    home.osvm(["doctor"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
ok    kvm          [..]
ok    vm program   [OSVM]-vm
ok    vsock        osvm brings its own device[..]
-     qemu         not installed
                   fix: install QEMU with `sudo apt-get install --no-install-recommends qemu-system-x86`
-     firecracker  not installed
                   fix: put a release of Firecracker on `PATH`, or name it by `OSVM_FIRECRACKER`
ok    config       [HOME]/.config/osvm/isolation_config.json, to be written by the first call
ok    backend      kvm: asked for
...
ok    image        `unikraft_tool_executor` sha256:[..]
ok    cids         100 of 100 free (200 to 299)
ok    leftovers    none

calls can run here

"#]]);
    assert!(!home.config_path().exists(), "looking changes nothing");
    assert_eq!(fs::read_dir(home.path().join("run")).unwrap().count(), 0, "nothing at all");
}

#[test]
fn a_missing_image_comes_with_its_fix() {
    let home = Home::without_images();
    let report = check(home.osvm(["doctor", "--json"]).output().unwrap(), 2);
    assert_eq!(report["ok"], false);
    let image = find(&report, "image");
    assert_eq!(image["state"], "fail");
    assert_eq!(image["fix"], "scripts/build-unikraft-tool-executor.sh");
}

#[test]
fn the_report_for_programs_holds_what_was_measured() {
    let home = Home::new();
    let report = check(home.osvm(["doctor", "--json"]).output().unwrap(), 0);
    assert!(["hardware", "interpreted"].contains(&find(&report, "kvm")["kvm"].as_str().unwrap()));
    assert_eq!(find(&report, "cids")["free"], 100);
    let listed = home.store().list().unwrap();
    let digest = listed[0].entry.as_ref().unwrap().digest.to_string();
    assert_eq!(find(&report, "image")["image_digest"], digest);
    assert_eq!(find(&report, "leftovers")["pids"], json!([]));
}

#[test]
fn kvm_that_is_absent_is_told_from_kvm_that_is_forbidden() {
    let home = Home::new();
    for (hidden, kind) in [(Hidden::Kvm, "absent"), (Hidden::KvmPermission, "no permission")] {
        let Some(doctor) = home.osvm_without(hidden, &["doctor", "--json"]) else { return };
        let report = check(doctor.output().unwrap(), 2);
        let kvm = find(&report, "kvm");
        assert_eq!((&kvm["state"], &kvm["kvm"]), (&json!("fail"), &json!(kind)));
        assert!(kvm["fix"].is_string(), "{kvm}");
    }
}

#[test]
fn a_config_with_an_error_is_one_failed_check_among_others() {
    let home = Home::new();
    home.write_config("{\"memory\": 1}");
    let report = check(home.osvm(["doctor", "--json"]).output().unwrap(), 2);
    assert_eq!(find(&report, "config")["state"], "fail");
    assert_eq!(find(&report, "images")["state"], "skipped");
    assert_eq!(find(&report, "kvm")["state"], "ok");
}

#[test]
fn fix_ends_a_vm_process_whose_osvm_is_gone_and_no_other() {
    let home = Home::new();
    // Stands for the VM program: it waits, and does not know that its lifeline is gone.
    let program = home.path().join("osvm-vm");
    fs::copy("/bin/sleep", &program).unwrap();
    let start = || {
        let mut command = Command::new(&program);
        command.arg("600").stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let (lifeline, held) = std::io::pipe().unwrap();
    let (dead_lifeline, dropped) = std::io::pipe().unwrap();
    drop(dropped);
    let mut alive = start().stdout(lifeline).spawn().unwrap();
    let mut orphan = start().stdout(dead_lifeline).spawn().unwrap();
    let doctor = |args: &[&str]| {
        let output = home.osvm_std(args).env("OSVM_VM_PROGRAM", &program).output().unwrap();
        (String::from_utf8(output.stderr.clone()).unwrap(), check(output, 0))
    };
    let (_, before) = doctor(&["doctor", "--json"]);
    assert_eq!(find(&before, "leftovers")["pids"], json!([orphan.id()]));
    assert_eq!(find(&before, "leftovers")["fix"], "osvm doctor --fix");
    let (notes, after) = doctor(&["doctor", "--fix", "--json"]);
    let ended = format!("ended VM process {}, which an earlier osvm left\n", orphan.id());
    assert_eq!(notes, ended);
    assert_eq!(find(&after, "leftovers")["pids"], json!([]));
    assert!(!orphan.wait().unwrap().success());
    assert!(Path::new(&format!("/proc/{}/fd/0", alive.id())).exists(), "the other one lives");
    drop(held);
    alive.kill().unwrap();
    alive.wait().unwrap();
}

fn find<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()
}

#[track_caller]
fn check(output: std::process::Output, code: i32) -> Value {
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{report}");
    serde_json::from_str(&report).unwrap()
}
