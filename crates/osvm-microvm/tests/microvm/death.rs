//! However osvm ends, its guests end with it, their CIDs are free, and no file of theirs is left.

use crate::guest::{Bench, Runtime, soon};
use osvm_microvm::Template;
use osvm_microvm::clones::Ready;
use osvm_protocol::cid;
use osvm_runtime::cids::Cids;
use osvm_upstream::Stop;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set for the process that is going to be killed: the folder of its CIDs.
const VICTIM: &str = "OSVM_TEST_VICTIM";

/// Clones that run when their osvm is killed.
const CLONES: usize = 20;

#[test]
fn sigkill_leaves_no_process_no_file_and_no_cid() {
    if std::env::var_os(VICTIM).is_some() {
        return victim();
    }
    let Some(bench) = Bench::new() else { return };
    if bench.recipe(Runtime::Node).is_none() {
        return;
    }
    let temporary = bench.dir().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "death::sigkill_leaves_no_process_no_file_and_no_cid", "--nocapture"])
        .env(VICTIM, bench.dir())
        .env("TMPDIR", &temporary)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("victim:")).unwrap();
    let (_, pids) = line.split_once("victim:").unwrap();
    let processes: Vec<_> = pids.split_whitespace().map(|pid| format!("/proc/{pid}")).collect();
    assert_eq!(processes.len(), CLONES);
    assert!(processes.iter().all(|process| Path::new(process).exists()));
    let cids = Cids::new(bench.dir().join("run"), cid::EPHEMERAL);
    assert_eq!(cids.list().unwrap().len(), CLONES);

    victim.kill().unwrap();
    victim.wait().unwrap();
    let killed = Instant::now();
    while processes.iter().any(|process| Path::new(process).exists()) {
        assert!(killed.elapsed() < Duration::from_secs(5), "a guest outlived its osvm");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(cids.list().unwrap(), []);
    assert_eq!(files(bench.dir()), [bench.dir().join("run/cids")]);
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(below).collect()
}

/// Makes clones, says who they are, and waits for its end.
fn victim() {
    let folder = std::env::var_os(VICTIM).unwrap();
    let bench = Bench::at(Path::new(&folder)).unwrap();
    let recipe = bench.recipe(Runtime::Node).unwrap();
    let template = Template::make(&bench.host, &recipe, soon(), &Stop::default()).unwrap();
    let make = |_| Ready::make(&bench.host, &template, false, soon()).unwrap().into_guest();
    let guests: Vec<_> = (0..CLONES).map(make).collect();
    let pids: Vec<_> = guests.iter().map(|guest| guest.vm_pid().to_string()).collect();
    println!("victim: {}", pids.join(" "));
    std::thread::sleep(Duration::from_secs(600));
}
