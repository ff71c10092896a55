//! A secret that a rule sends is searched for wherever it must not be: in every VM process while its
//! guest runs, in every file that osvm writes, and in all that it prints.

use crate::support::{Home, eventually};
use crate::web::Web;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};

/// Shortest piece of any form of the secret that counts, in bytes.
const PIECE: usize = 12;

/// What the guest asks for and is allowed to know, to see that the search finds what is there.
const MARKER: &str = "/echo?marker-that-is-there";

/// The secret in every form that could be met.
struct Needles(Vec<Vec<u8>>);

impl Needles {
    fn new(value: &str) -> Self {
        let raw: Vec<u8> = (0..value.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&value[at..at + 2], 16).unwrap())
            .collect();
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![value.as_bytes().to_vec(), hex.into_bytes()];
        forms.extend([
            value.to_uppercase().into_bytes(),
            raw.clone(),
            STANDARD.encode(&raw).into(),
        ]);
        // Base64 of a longer text has it in one of three positions.
        for before in ["", "x", "xx"] {
            let encoded = STANDARD.encode(format!("{before}{value}"));
            forms.push(encoded[4..encoded.len() - 4].into());
        }
        let pieces = forms.iter().flat_map(|form| form.chunks_exact(PIECE).map(<[u8]>::to_vec));
        Self(pieces.collect())
    }

    /// The first piece that is in `bytes`.
    fn find(&self, bytes: &[u8]) -> Option<&[u8]> {
        let firsts: [bool; 256] =
            std::array::from_fn(|byte| self.0.iter().any(|needle| usize::from(needle[0]) == byte));
        let mut windows = bytes.windows(PIECE);
        let mut found = None;
        windows.find(|window| {
            firsts[usize::from(window[0])] && {
                found = self.0.iter().find(|needle| needle == window);
                found.is_some()
            }
        })?;
        found.map(Vec::as_slice)
    }
}

fn random() -> String {
    let mut bytes = [0; 32];
    File::open("/dev/urandom").unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The stretches of `bytes` that are not pages of zeros. Most of a VM process was never touched, and
/// QEMU keeps a gigabyte of that.
fn touched(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let is_touched = |page: &&[u8]| **page != ZEROS[..page.len()];
    let mut pages = bytes.chunks(ZEROS.len()).peekable();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(page) = pages.next_if(|page| !is_touched(page)) {
            at += page.len();
        }
        let from = at;
        while let Some(page) = pages.next_if(is_touched) {
            at += page.len();
        }
        (from < at).then(|| &bytes[from..at])
    })
}

/// Runs `see` over all memory of a process that can be read: name of the mapping, and bytes.
fn each_mapping(pid: u32, mut see: impl FnMut(&str, &[u8])) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let name = line.split_whitespace().nth(5).unwrap_or("anonymous");
        // Time and system calls, the same for every process.
        if !rest.starts_with('r') || name.starts_with("[v") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut at = from;
        // Pieces overlap, so that nothing hides on a border.
        let mut bytes = vec![0; 4 << 20];
        while at < to {
            let len = usize::try_from(to - at).unwrap().min(bytes.len());
            match memory.read_at(&mut bytes[..len], at) {
                Ok(0) => panic!("nothing at {at:x} of `{name}`"),
                Ok(read) => {
                    touched(&bytes[..read]).for_each(|bytes| see(name, bytes));
                    at += if at + (read as u64) < to { (read - PIECE).max(1) } else { read } as u64;
                }
                // A file that is shorter than its mapping, or memory of a device.
                Err(_) => break,
            }
        }
    }
}

/// Every process of this home that is not osvm itself: VM processes, in use or not.
fn vm_processes(home: &Home) -> Vec<u32> {
    let host = Path::new(env!("CARGO_BIN_EXE_osvm"));
    let is_vm = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe != host);
    home.processes().into_iter().filter(is_vm).collect()
}

fn search_processes(home: &Home, needles: &Needles, at_least: usize) {
    let all = eventually("the VM processes", || {
        Some(vm_processes(home)).filter(|all| at_least <= all.len())
    });
    let mut marked = false;
    for pid in all {
        let mut searched = 0;
        each_mapping(pid, |name, bytes| {
            searched += bytes.len();
            marked |= bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
            let found = needles.find(bytes);
            assert!(found.is_none(), "the secret is in `{name}` of process {pid}");
        });
        assert!(1 << 20 < searched, "only {searched} bytes of process {pid} were searched");
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(needles.find(&bytes).is_none(), "the secret is in the {file} of process {pid}");
        }
    }
    assert!(marked, "the search does not even find what is there");
}

fn search_files(dir: &Path, needles: &Needles) -> usize {
    let mut searched = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            searched += search_files(&entry.path(), needles);
        } else if kind.is_file() {
            let found = needles.find(&fs::read(entry.path()).unwrap()).is_some();
            assert!(!found, "the secret is in `{}`", entry.path().display());
            searched += 1;
        }
    }
    searched
}

/// A server that sends back what it got in every form, and lets a request wait for the test.
struct Reflection {
    web: Web,
    /// Whether somebody waits, and whether they may go on.
    waiting: Arc<(Mutex<(bool, bool)>, Condvar)>,
    got: Arc<Mutex<Vec<String>>>,
}

impl Reflection {
    fn start() -> Self {
        let waiting = Arc::new((Mutex::new((false, false)), Condvar::new()));
        let got = Arc::new(Mutex::new(Vec::new()));
        let (wait, seen) = (Arc::clone(&waiting), Arc::clone(&got));
        let web = Web::start(move |asked| {
            seen.lock().unwrap().push(asked.authorization.clone());
            if asked.target.starts_with("/gone") {
                return None;
            }
            if asked.target.starts_with("/slow") {
                let mut state = wait.0.lock().unwrap();
                state.0 = true;
                wait.1.notify_all();
                drop(wait.1.wait_while(state, |state| !state.1).unwrap());
            }
            let value = asked.authorization.trim_start_matches("Bearer ");
            let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
            let both = STANDARD.encode(&asked.authorization);
            Some(format!("{} {value} {hex} {both} {}", asked.authorization, STANDARD.encode(value)))
        });
        Self { web, waiting, got }
    }

    fn wait(&self) {
        let state = self.waiting.0.lock().unwrap();
        drop(self.waiting.1.wait_while(state, |state| !state.0).unwrap());
    }

    fn go_on(&self) {
        *self.waiting.0.lock().unwrap() = (false, true);
        self.waiting.1.notify_all();
    }
}

/// One call that uses the secret; everything is searched while its guest waits, and after it.
fn hunt(backend: &str, pooled: bool) {
    let (secret, server) = (random(), Reflection::start());
    let needles = Needles::new(&secret);
    assert!(needles.find(format!("x{secret}").as_bytes()).is_some());
    let home = Home::with_prober();
    let set = home.osvm(["secret", "set", "PLANTED"]).stdin(secret.clone());
    set.assert().code(0);
    let config = json!({
        "pool": {"size": 1}, "default_execution_mode": "microvm",
        "mcp_servers": {"probe": {
            "execution_mode": "unikernel", "unikernel_image": "osvm_prober",
            "memory_mb": 32, "timeout_secs": 300, "network_enabled": true,
            "egress": [{"host": "127.0.0.1", "ports": [server.web.port],
                "headers": {"Authorization": "Bearer ${secret:PLANTED}"}}],
        }},
    });
    home.write_config(&config.to_string());
    let get = |path: &str| {
        json!({"name": path, "method": "host/http",
        "params": {"url": server.web.url(path), "headers": {"X-A": "${secret:PLANTED}"}}})
    };
    let attempts = ["/gone", MARKER, "/slow", MARKER].map(get);
    let arguments = json!({ "attempts": attempts }).to_string();
    if pooled {
        fill_pool(&home, backend);
    }
    let how = if pooled { "--daemon" } else { "--no-daemon" };
    let args = [
        "-vv",
        "--backend",
        backend,
        "mcp",
        "call-tool",
        "probe",
        "attempt",
        &arguments,
        "--json",
        how,
    ];
    let mut command = home.osvm_std(&args);
    let child =
        command.env("PATH", path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.wait();
    // The guest of the call, and beside it, in a pool, the one for the next call.
    search_processes(&home, &needles, if pooled { 2 } else { 1 });
    assert!(search_files(home.path(), &needles) > 3);
    server.go_on();
    let Output { stdout, stderr, status } = child.wait_with_output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    assert!(needles.find(&stdout).is_none() && needles.find(&stderr).is_none());
    let envelope: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(envelope["isolation"]["pooled"], pooled);
    let outcomes = envelope["result"]["outcomes"].as_array().unwrap();
    assert_eq!(outcomes[0]["refused"], 1, "{outcomes:?}");
    for outcome in &outcomes[1..] {
        let result = outcome["result"].as_str().unwrap_or_else(|| panic!("{outcome}"));
        assert!(5 <= result.matches("[secret PLANTED removed]").count(), "{result}");
    }
    let got = server.got.lock().unwrap();
    assert!(!got.is_empty() && got.iter().all(|value| *value == format!("Bearer {secret}")));
    drop(got);
    search_files(home.path(), &needles);
    for report in [&["receipts", "export"][..], &["logs"], &["config", "show"], &["mcp", "list"]] {
        let Output { stdout, stderr, .. } = home.osvm_std(report).output().unwrap();
        assert!(needles.find(&stdout).is_none() && needles.find(&stderr).is_none(), "{report:?}");
    }
    home.osvm(["receipts", "verify"]).assert().code(0);
    if pooled {
        home.osvm(["daemon", "stop"]).assert().code(0);
        search_files(home.path(), &needles);
    }
}

/// Starts a daemon, and waits until it has a guest for the next call.
fn fill_pool(home: &Home, backend: &str) {
    let none = ["mcp", "call-tool", "probe", "attempt", r#"{"attempts":[]}"#, "--daemon"];
    let call =
        home.osvm_std(&[&["--backend", backend], &none[..]].concat()).env("PATH", path()).output();
    assert!(call.unwrap().status.success());
    eventually("a guest in the pool", || {
        let status = home.osvm_std(&["daemon", "status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let shelves = status["pool"]["shelves"].as_array().unwrap();
        shelves.iter().any(|shelf| shelf["idle"] != json!([])).then_some(())
    });
}

fn path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Whether QEMU is there; says so when it is not.
fn has_qemu() -> bool {
    let there = std::env::split_paths(&path()).any(|dir| dir.join("qemu-system-x86_64").exists());
    if !there {
        eprintln!("SKIPPED: QEMU is not installed");
        let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
        assert!(!required.contains("qemu"), "OSVM_REQUIRE names qemu");
    }
    there
}

#[test]
fn what_is_passed_over_is_nothing_but_zeros() {
    let mut bytes = vec![0; 5 * 4096 + 7];
    for at in [4095, 4096, 3 * 4096, 5 * 4096 + 6] {
        bytes[at] = 1;
    }
    let seen: Vec<usize> = touched(&bytes).map(<[u8]>::len).collect();
    assert_eq!(seen, [2 * 4096, 4096, 7]);
    assert_eq!(touched(&[0; 9000]).count(), 0);
}

#[test]
fn a_secret_is_in_no_guest_no_file_and_no_message_of_a_call_of_its_own_vm() {
    hunt("kvm", false);
}

#[test]
fn a_secret_is_in_no_guest_no_file_and_no_message_of_a_call_in_the_pool() {
    hunt("kvm", true);
}

#[test]
fn a_secret_is_in_no_process_of_qemu() {
    if has_qemu() {
        hunt("qemu", false);
    }
}

#[test]
fn a_secret_is_in_no_process_of_qemu_in_the_pool() {
    if has_qemu() {
        hunt("qemu", true);
    }
}
