//! `osvm policy prove`: everything holds, on every backend that this host has.

use crate::support::Home;
use serde_json::Value;
use snapbox::str;
use std::collections::BTreeSet;
use std::process::Output;

/// The ways of starting a guest.
const STARTS: [&str; 3] = ["cold", "pooled", "reused"];

/// A proof on one backend, which may take longer than a command of other tests.
fn prove(home: &Home, backend: &str) -> (Value, Output) {
    let mut command = home.osvm_std(&["policy", "prove", "--json", "--backend", backend]);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    if let Some(firecracker) = std::env::var_os("OSVM_FIRECRACKER") {
        command.env("OSVM_FIRECRACKER", firecracker);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let proof = serde_json::from_slice(&output.stdout);
    (proof.unwrap_or_else(|error| panic!("{error}: {told}")), output)
}

/// Checks that everything held on a backend, or that this host does not have it.
#[track_caller]
fn check(backend: &str, needs: &str) {
    let home = Home::with_prober();
    let (proof, output) = prove(&home, backend);
    let ways = proof["ways"].as_array().unwrap();
    if ways.is_empty() {
        eprintln!("SKIPPED: {}", proof["skipped"]);
        let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == needs), "OSVM_REQUIRE names {needs}");
        assert_eq!(output.status.code(), Some(2), "nothing was shown, and that is no success");
        return;
    }
    let broken = |finding: &&Value| finding["verdict"] != "held";
    for way in ways {
        assert_eq!(way["failure"], Value::Null, "{way:#}");
        let findings = way["findings"].as_array().unwrap();
        let broken: Vec<_> = findings.iter().filter(broken).collect();
        assert!(broken.is_empty(), "{} {}: {broken:#?}", way["backend"], way["start"]);
        assert!(findings.len() > 60, "{}", findings.len());
    }
    let whole: Vec<_> = proof["whole"].as_array().unwrap().iter().filter(broken).collect();
    assert!(whole.is_empty(), "{whole:#?}");
    let backends: BTreeSet<_> = ways.iter().map(|way| way["backend"].as_str().unwrap()).collect();
    for backend in backends {
        let starts = ways.iter().filter(|way| way["backend"] == backend);
        let starts: Vec<_> = starts.map(|way| way["start"].as_str().unwrap()).collect();
        assert_eq!(starts, STARTS, "{backend}");
    }
    assert_eq!((&proof["held"], output.status.code()), (&Value::Bool(true), Some(0)));
    home.assert_nothing_left();
}

#[test]
fn on_kvm_everything_holds_whichever_way_a_guest_is_started() {
    check("kvm", "kvm");
}

#[test]
fn on_qemu_everything_holds_whichever_way_a_guest_is_started() {
    check("qemu", "qemu");
}

#[test]
fn on_firecracker_everything_holds_whichever_way_a_guest_is_started() {
    check("firecracker", "firecracker");
}

#[test]
fn without_its_image_nothing_is_shown_and_the_way_to_it_is_told() {
    let home = Home::new();
    home.osvm(["policy", "prove"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: the guest that tries things is not there
  caused by: unikernel image not found: `[HOME]/.osvm/unikernels/osvm_prober.img`

hint: `cargo xtask install` builds and installs it

"#]]);
}
