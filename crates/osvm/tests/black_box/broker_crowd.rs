//! Many guests that ask for many requests at once, each from its own VM.

use crate::support::Home;
use crate::web::Web;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// VMs that ask at once.
const VMS: usize = 50;
/// Requests of each: one after the other, and all at once.
const ONE_BY_ONE: usize = 10;
const AT_ONCE: usize = 10;
/// Requests of each to a rule that allows so many a minute to all.
const LIMITED: usize = 4;
const PER_MINUTE: usize = 100;
/// How long the first guest waits for the last one.
const PATIENCE: Duration = Duration::from_secs(90);
/// What one osvm may take for all of it, in KiB: far less than the guests have, and no more than
/// an unoptimised program with a thread for each of them needs.
const MAX_RSS_KIB: u64 = 256 * 1024;

/// What the server counts.
#[derive(Default)]
struct Counts {
    /// Guests that are there.
    joined: BTreeSet<String>,
    /// Requests by path.
    asked: BTreeMap<String, usize>,
    /// When a limited request came first and last.
    limited: Option<(Instant, Instant)>,
}

fn attempts(web: &Web, vm: usize) -> Value {
    let get = |name: String, path: &str| json!({"name": name, "method": "host/http", "params": {"url": web.url(path)}});
    let mut attempts = vec![get("join".into(), &format!("/join/{vm}"))];
    attempts.extend((0..ONE_BY_ONE).map(|number| {
        let path = format!("/own/{vm}/{number}");
        get(path.clone(), &path)
    }));
    let mut crowd = get("crowd".into(), &format!("/crowd/{vm}"));
    crowd["times"] = AT_ONCE.into();
    crowd["at_once"] = true.into();
    let mut limited = get("limited".into(), &format!("/limited/{vm}"));
    limited["times"] = LIMITED.into();
    attempts.extend([crowd, limited]);
    json!({ "attempts": attempts })
}

/// Most memory that a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default()
}

#[test]
fn a_thousand_requests_of_fifty_vms_get_their_own_answers_within_limits() {
    let counts = Arc::new((Mutex::new(Counts::default()), Condvar::new()));
    let web = Web::start({
        let counts = Arc::clone(&counts);
        move |asked| {
            let (counts, all) = (&counts.0, &counts.1);
            let mut counts = counts.lock().unwrap();
            *counts.asked.entry(asked.target.clone()).or_default() += 1;
            if let Some(vm) = asked.target.strip_prefix("/join/") {
                counts.joined.insert(vm.to_owned());
                all.notify_all();
                // Nobody goes on before all are there, so all ask at the same time.
                let missing = |counts: &mut Counts| counts.joined.len() < VMS;
                drop(all.wait_timeout_while(counts, PATIENCE, missing).unwrap());
            } else if asked.target.starts_with("/limited/") {
                let now = Instant::now();
                let first = counts.limited.map_or(now, |(first, _)| first);
                counts.limited = Some((first, now));
            }
            Some(format!("answer to {}", asked.target))
        }
    });
    let home = Home::with_prober();
    let rule = |paths: &str, rate: usize| json!({"host": "127.0.0.1", "ports": [web.port], "paths": [paths], "rate_per_minute": rate});
    let config = json!({"mcp_servers": {"probe": {
        "unikernel_image": "osvm_prober", "memory_mb": 32, "timeout_secs": 120,
        "network_enabled": true, "egress": [rule("/limited/*", PER_MINUTE), rule("/*", 100_000)],
    }}});
    home.write_config(&config.to_string());
    let lines: Vec<String> = (0..VMS)
        .map(|vm| {
            json!({"server": "probe", "tool": "attempt", "arguments": attempts(&web, vm)})
                .to_string()
        })
        .collect();
    let file = home.write("calls.jsonl", lines.join("\n"));
    let jobs = VMS.to_string();
    let batch = ["mcp", "call-tool", "--batch", file.to_str().unwrap(), "--jobs", &jobs];
    let mut command = home.osvm_std(&batch);
    let mut osvm = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let (pid, out) = (osvm.id(), osvm.stdout.take().unwrap());
    let peak = std::thread::spawn(move || {
        let mut peak = 0;
        while let found @ 1.. = peak_kib(pid) {
            peak = found.max(peak);
            std::thread::sleep(Duration::from_millis(20));
        }
        peak
    });
    let text = std::io::read_to_string(out).unwrap();
    assert!(osvm.wait().unwrap().success(), "{text}");
    let peak = peak.join().unwrap();
    assert!(peak < MAX_RSS_KIB, "osvm took {peak} KiB");

    let mut cids = BTreeSet::new();
    let mut let_through = 0;
    for (vm, line) in text.lines().enumerate() {
        let envelope: Value = serde_json::from_str(line).unwrap();
        cids.insert(envelope["isolation"]["cid"].as_u64().unwrap());
        let outcomes = envelope["result"]["outcomes"].as_array().unwrap();
        assert_eq!(outcomes.len(), ONE_BY_ONE + 3);
        let (limited, others) = outcomes.split_last().unwrap();
        for outcome in others {
            let path = match outcome["name"].as_str().unwrap() {
                "join" => format!("/join/{vm}"),
                "crowd" => format!("/crowd/{vm}"),
                own => own.to_owned(),
            };
            assert_eq!(outcome["succeeded"], outcome["sent"], "{outcome}");
            assert_eq!(outcome["strays"], 0, "{outcome}");
            let result: Value = serde_json::from_str(outcome["result"].as_str().unwrap()).unwrap();
            assert_eq!(result["body"], format!("answer to {path}"));
        }
        let sum = |name: &str| limited[name].as_u64().unwrap();
        assert_eq!(sum("succeeded") + sum("refused"), LIMITED as u64);
        let_through += sum("succeeded");
    }
    assert_eq!(cids.len(), VMS, "all VMs were there at once");

    let counts = counts.0.lock().unwrap();
    let of = |prefix: &str| -> usize {
        counts.asked.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, n)| n).sum()
    };
    assert_eq!(of("/own/") + of("/crowd/"), VMS * (ONE_BY_ONE + AT_ONCE));
    assert!((0..VMS).all(|vm| counts.asked[&format!("/crowd/{vm}")] == AT_ONCE));
    assert_eq!(of("/limited/") as u64, let_through);
    let (first, last) = counts.limited.unwrap();
    if last - first < Duration::from_secs(55) {
        assert_eq!(of("/limited/"), PER_MINUTE);
    }
    // Connections are of one call, and are kept during it.
    assert_eq!(web.connections(), VMS as u64);
    drop(counts);
    eprintln!("peak memory of osvm: {peak} KiB");
    home.assert_nothing_left();
}
