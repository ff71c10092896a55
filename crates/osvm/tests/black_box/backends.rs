//! Which hypervisor runs a call, and that each of them is seen to the end.

use crate::support::{Hidden, Home, eventually};
use serde_json::Value;
use snapbox::str;

const ECHO: [&str; 5] = ["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#];

/// The `PATH` of the tests if QEMU is on it; says so when it is not.
fn path_with_qemu() -> Option<std::ffi::OsString> {
    let path = std::env::var_os("PATH")?;
    let there = std::env::split_paths(&path).any(|dir| dir.join("qemu-system-x86_64").exists());
    if !there {
        eprintln!("skipped: QEMU is not installed");
        let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
        assert!(!required.contains("qemu"), "OSVM_REQUIRE names qemu");
    }
    there.then_some(path)
}

#[test]
fn qemu_runs_a_call_and_leaves_nothing() {
    let Some(path) = path_with_qemu() else { return };
    let home = Home::new();
    let expected = if home.kvm_is_hardware() { "qemu-kvm" } else { "qemu-tcg" };
    let call = home.osvm_std(&json(ECHO)).env("OSVM_BACKEND", "qemu").env("PATH", path).output();
    let envelope: Value = serde_json::from_slice(&call.unwrap().stdout).unwrap();
    assert_eq!(envelope["result"]["text"], "hi", "{envelope}");
    assert_eq!(envelope["isolation"]["backend"], expected);
    assert!(envelope["isolation"]["guest_memory_kb"].as_u64().unwrap() > 0, "{envelope}");
    home.assert_nothing_left();
}

#[test]
fn killing_osvm_ends_its_qemu() {
    let Some(path) = path_with_qemu() else { return };
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 30);
    let mut command = home.osvm_std(&ECHO);
    let mut osvm = command.env("OSVM_BACKEND", "qemu").env("PATH", path).spawn().unwrap();
    eventually("a QEMU beside osvm", || (home.processes().len() > 1).then_some(()));
    osvm.kill().unwrap();
    osvm.wait().unwrap();
    home.assert_nothing_left();
}

#[test]
fn auto_takes_qemu_where_kvm_interprets_and_the_embedded_vmm_elsewhere() {
    let Some(path) = path_with_qemu() else { return };
    let home = Home::new();
    let expected = if home.kvm_is_hardware() { "kvm" } else { "qemu-tcg" };
    // The first call measures, the second remembers.
    for _ in 0..2 {
        let mut call = home.osvm_std(&json(ECHO));
        let output = call.env("OSVM_BACKEND", "auto").env("PATH", &path).output().unwrap();
        let envelope: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(envelope["isolation"]["backend"], expected, "{envelope}");
    }
    assert!(home.path().join("run/osvm/kvm.json").exists());
    home.assert_nothing_left();
}

#[test]
fn what_kvm_is_is_measured_once_for_each_start_of_the_host() {
    let Some(path) = path_with_qemu() else { return };
    let home = Home::new();
    // The first call makes the directory where it is remembered.
    home.osvm(ECHO).assert().code(0);
    let chosen = || {
        let mut doctor = home.osvm_std(&["doctor", "--json"]);
        let output = doctor.env("OSVM_BACKEND", "auto").env("PATH", &path).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "backend").unwrap();
        let fact = |name: &str| check[name].as_str().unwrap().to_owned();
        (fact("backend"), fact("reason"))
    };
    let on = |backend: &str, reason: &str| (backend.to_owned(), reason.to_owned());
    let hardware = on("kvm", "this host's KVM runs guests on the processor");
    let interpreted =
        on("qemu-tcg", "this host's KVM interprets guests, and QEMU translates them faster");
    let is_hardware = home.kvm_is_hardware();
    let (truth, lie) = if is_hardware { (hardware, interpreted) } else { (interpreted, hardware) };
    assert_eq!(chosen(), truth);
    let file = home.path().join("run/osvm/kvm.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut remembered: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(remembered["hardware"], is_hardware);
    remembered["hardware"] = (!is_hardware).into();
    std::fs::write(&file, remembered.to_string()).unwrap();
    assert_eq!(chosen(), lie, "it is not measured again");
    remembered["boot_id"] = "of another start".into();
    std::fs::write(&file, remembered.to_string()).unwrap();
    assert_eq!(chosen(), truth, "it is measured again");
}

#[test]
fn auto_does_without_qemu_where_it_is_not_installed() {
    let home = Home::new();
    let mut call = home.osvm_std(&json(ECHO));
    let output = call.env("OSVM_BACKEND", "auto").env("PATH", home.path()).output().unwrap();
    let envelope: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(envelope["isolation"]["backend"], "kvm", "{envelope}");
}

#[test]
fn with_neither_kvm_nor_qemu_the_call_is_denied_with_a_fix() {
    let home = Home::new();
    let auto = ["--backend", "auto"].into_iter().chain(ECHO).collect::<Vec<_>>();
    let Some(call) = home.osvm_without(Hidden::Kvm, &auto) else { return };
    // A PATH with what hides KVM, and without QEMU.
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for name in ["unshare", "sh", "mount"] {
        let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.exists());
        std::os::unix::fs::symlink(found.unwrap(), bin.join(name)).unwrap();
    }
    let call = call.env("PATH", &bin);
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: no virtual machine can be started on this host: there is no `/dev/kvm`, and QEMU is not installed

hint: install QEMU with `sudo apt-get install --no-install-recommends qemu-system-x86`

"#]]);
    home.assert_nothing_left();
}

fn json(call: [&str; 5]) -> Vec<&str> {
    call.into_iter().chain(["--json"]).collect()
}
