//! `cargo xtask bench microvm`: the figures of Linux microVMs, medians, each beside its goal.
//!
//! The server is image `everything` of the user's store. `OSVM_BENCH_ROOT` (an erofs file) and
//! `OSVM_BENCH_COMMAND` (words) name another one.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement speaks, and has nobody to answer to"
)]

use osvm_image::Digest;
use osvm_image::linux::LinuxStore;
use osvm_microvm::clones::{Pool, Ready};
use osvm_microvm::{Guest, GuestFiles, Host, Recipe, Template};
use osvm_qemu::{Accelerator, PROGRAM, QemuLinux};
use osvm_upstream::Stop;
use osvm_vmm::MemoryMib;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measurements behind each median, and clones that run at once.
const SAMPLES: usize = 20;

/// Cold starts behind their median: each takes seconds.
const COLD: usize = 5;

fn main() {
    // Asked for by `cargo test --benches` and the like: nothing to do.
    if std::env::args().any(|word| word == "--test" || word == "--list") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((host, recipe)) = subject(dir.path()) else { return };
    let mut cold: Vec<Template> = (0..COLD).map(|_| template(&host, &recipe)).collect();
    show(
        "kernel to the first line of osvm-init",
        median(cold.iter().map(|t| t.times.kernel)),
        1000.0,
    );
    show(
        "cold start to `initialize` answered",
        median(cold.iter().map(|t| t.times.initialized)),
        9000.0,
    );
    show("template made, from nothing", median(cold.iter().map(|t| t.times.saved)), f64::NAN);
    let template = cold.pop().unwrap();

    let mut steps = Vec::new();
    let whole = median((0..SAMPLES).map(|_| {
        let started = Instant::now();
        let mut guest = clone(&host, &template);
        steps.push(started.elapsed());
        echo(&mut guest);
        started.elapsed()
    }));
    show("clone, from request to the right answer, no pool", whole, 250.0);
    show("  of it until it is restored, unique and on time", median(steps.into_iter()), f64::NAN);

    let pool = Pool::new(host.clone(), template.clone(), 2).unwrap();
    let pooled = median((0..SAMPLES).map(|_| {
        while pool.status().0 < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let started = Instant::now();
        let mut guest = pool.take(soon()).unwrap().into_guest();
        echo(&mut guest);
        started.elapsed()
    }));
    drop(pool);
    show("the same with a clone ready in the pool", pooled, 40.0);
    crowd(&host, &template);
}

/// Many at once, and what each of them has for itself.
fn crowd(host: &Host, template: &Template) {
    let started = Instant::now();
    let guests: Vec<Guest> = std::thread::scope(|scope| {
        let run = || {
            let mut guest = clone(host, template);
            echo(&mut guest);
            guest
        };
        let threads: Vec<_> = (0..SAMPLES).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    show("20 clones at once, all right", started.elapsed(), 3000.0);
    let mut private: Vec<u64> = guests.iter().filter_map(Guest::private_kb).collect();
    private.sort_unstable();
    let middle = private.get(private.len() / 2).copied().unwrap_or_default();
    println!(
        "{:55} {:8.1} MB   (at most 25 MB)",
        "private memory of each further clone",
        middle as f64 / 1024.0
    );
}

fn template(host: &Host, recipe: &Recipe) -> Template {
    Template::make(host, recipe, soon(), &Stop::default()).unwrap()
}

fn clone(host: &Host, template: &Template) -> Guest {
    Ready::make(host, template, false, soon()).unwrap().into_guest()
}

fn echo(guest: &mut Guest) {
    let params = json!({"name": "echo", "arguments": {"message": "is it you"}});
    let answer = guest.talk().request("tools/call", &params, soon()).unwrap();
    assert!(answer.get().contains("is it you"), "{answer}");
}

fn subject(dir: &Path) -> Option<(Host, Recipe)> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let (kernel, init) = (target.join("guest-kernel/vmlinux"), target.join("guest/osvm-init"));
    let files = match GuestFiles::load(&kernel, &init) {
        Ok(files) => files,
        Err(error) => return missing(&format!("{error}: run `cargo xtask kernel`")),
    };
    let Ok(qemu) = which::which(PROGRAM) else { return missing("QEMU is not installed") };
    let guard = std::env::var_os("OSVM_VM_PROGRAM").map(PathBuf::from);
    let guard = guard.unwrap_or_else(|| target.join("release/osvm-vm"));
    let backend = QemuLinux::new(qemu, guard, Accelerator::Tcg);
    let host = Host::new(Arc::new(backend), dir.join("run"), None);
    let recipe = match std::env::var_os("OSVM_BENCH_ROOT") {
        Some(root) => named(files, Path::new(&root)),
        None => {
            let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
            let store = LinuxStore::new(home.join(".osvm/images"));
            match store.load("everything") {
                Ok(image) => Recipe::of_image(&files, &image).unwrap(),
                Err(error) => return missing(&format!("image `everything`: {error}")),
            }
        }
    };
    Some((host, recipe))
}

fn missing(what: &str) -> Option<(Host, Recipe)> {
    println!("skipped: {what}");
    None
}

fn named(files: GuestFiles, root: &Path) -> Recipe {
    let command = std::env::var("OSVM_BENCH_COMMAND").unwrap();
    let mut words = command.split_whitespace().map(str::to_owned);
    Recipe {
        name: "bench".into(),
        files,
        root: Arc::new(File::open(root).unwrap()),
        root_digest: Digest::of(root.to_string_lossy().as_bytes()),
        command: words.next().unwrap(),
        args: words.collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/home/osvm".into())],
        secrets: Vec::new(),
        cwd: "/".into(),
        own: vec!["/home/osvm".into()],
        memory: MemoryMib::new(128).unwrap(),
        writable_mib: 32,
        max_processes: 256,
        network: false,
        workspace: None,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

fn median(samples: impl Iterator<Item = Duration>) -> Duration {
    let mut samples: Vec<_> = samples.collect();
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

fn show(name: &str, value: Duration, goal: f64) {
    let goal = if goal.is_nan() { String::new() } else { format!("(at most {goal} ms)") };
    println!("{name:55} {:8.1} ms   {goal}", value.as_secs_f64() * 1000.0);
}
