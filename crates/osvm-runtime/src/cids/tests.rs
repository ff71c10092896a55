//! CIDs among threads and processes, dead ones included.

use super::*;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// What tells this test binary to be the other process; see [`be_another_process`].
const OTHER: &str = "OSVM_TEST_OTHER_PROCESS";

fn claim() -> Claim<'static> {
    Claim { call: CallId::now(), server: "solana", tool: "get_balance" }
}

fn now() -> Instant {
    Instant::now()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Takes without waiting.
fn take(cids: &Cids) -> Result<Lease, CidError> {
    cids.take(claim(), now(), &Cancel::default())
}

fn bench(range: RangeInclusive<u32>) -> (TempDir, Cids) {
    let dir = tempfile::tempdir().unwrap();
    let cids = Cids::new(dir.path().join("run"), range);
    (dir, cids)
}

fn is_free(cids: &Cids) -> bool {
    cids.list().unwrap().is_empty()
}

#[test]
fn looking_makes_nothing() {
    let (dir, cids) = bench(200..=299);
    assert!(is_free(&cids));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_lowest_free_cid_is_taken_and_comes_round_again_last() {
    let (dir, cids) = bench(200..=203);
    let (first, second) = (take(&cids).unwrap(), take(&cids).unwrap());
    assert_eq!((first.cid().get(), second.cid().get()), (200, 201));
    drop(first);
    let another = Cids::new(dir.path().join("run"), 200..=203);
    assert_eq!(take(&another).unwrap().cid().get(), 200, "who has taken none takes the lowest");
    let later: Vec<u32> = (0..4).map(|_| take(&cids.clone()).unwrap().cid().get()).collect();
    assert_eq!(later, [202, 203, 200, 202]);
}

#[test]
fn a_hundred_are_taken_and_given_back() {
    let (_dir, cids) = bench(200..=299);
    let leases: Vec<_> = (0..100).map(|_| take(&cids).unwrap()).collect();
    let taken: BTreeSet<u32> = leases.iter().map(|lease| lease.cid().get()).collect();
    assert_eq!(taken, (200..=299).collect());
    drop(leases);
    assert!(is_free(&cids));
}

#[test]
fn a_range_without_addresses_is_refused() {
    for range in [
        0..=5,
        2..=2,
        3..=u32::MAX,
        #[expect(clippy::reversed_empty_ranges, reason = "the point")]
        (300..=200),
    ] {
        let (_dir, cids) = bench(range);
        assert!(matches!(take(&cids), Err(CidError::BadRange { .. })));
    }
}

#[test]
fn holders_are_listed_with_what_they_said() {
    let (_dir, cids) = bench(200..=299);
    let claim = claim();
    let mut lease = cids.take(claim, now(), &Cancel::default()).unwrap();
    lease.set_vm_pid(4711);
    let holders = cids.list().unwrap();
    let [holder] = &*holders else { panic!("{holders:?}") };
    assert_eq!(holder.cid, lease.cid());
    assert_eq!((holder.pid, holder.vm_pid), (Some(std::process::id()), Some(4711)));
    assert_eq!(holder.call, Some(claim.call));
    assert_eq!(holder.tool, "solana/get_balance");
    assert!(holder.since.unwrap().elapsed().unwrap() < Duration::from_secs(60));
}

#[test]
fn a_process_that_keeps_the_lease_keeps_the_cid_until_it_dies() {
    let (_dir, cids) = bench(200..=200);
    let lease = take(&cids).unwrap();
    let mut vm = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(lease.keep().try_clone().unwrap())
        .spawn()
        .unwrap();
    drop(lease);
    assert!(matches!(take(&cids), Err(CidError::AllTaken { .. })));
    vm.kill().unwrap();
    vm.wait().unwrap();
    take(&cids).unwrap();
}

#[test]
fn who_finds_all_taken_waits_until_one_is_free() {
    let (_dir, cids) = bench(200..=200);
    let lease = take(&cids).unwrap();
    let waiting = std::thread::spawn({
        let cids = cids.clone();
        move || cids.take(claim(), soon(), &Cancel::default()).map(|lease| lease.cid().get())
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    drop(lease);
    assert_eq!(waiting.join().unwrap().unwrap(), 200);
}

#[test]
fn at_the_deadline_the_holders_are_named() {
    let (_dir, cids) = bench(200..=201);
    let _leases = [take(&cids).unwrap(), take(&cids).unwrap()];
    let start = now();
    let deadline = start + Duration::from_millis(60);
    let error = cids.take(claim(), deadline, &Cancel::default()).unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(60));
    let pid = std::process::id();
    assert_eq!(
        error.to_string(),
        format!("all 2 CIDs (200 to 201) are taken: 2 by `solana/get_balance` of process {pid}")
    );
    assert!(error.hint().is_some());
}

#[test]
fn who_waits_can_be_cancelled() {
    let (_dir, cids) = bench(200..=200);
    let _lease = take(&cids).unwrap();
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cids.take(claim(), soon(), &cancel));
        std::thread::sleep(Duration::from_millis(20));
        cancel.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(CidError::Cancelled)));
    });
}

#[test]
fn many_holders_are_summed_up_largest_first() {
    let holder = |pid, tool: &str| Holder {
        cid: Cid::MIN,
        pid,
        vm_pid: None,
        since: None,
        call: None,
        tool: tool.into(),
        idle: false,
        micro_vm: false,
    };
    let mut holders = vec![holder(None, "a/a"), holder(Some(1), "b/b"), holder(Some(2), "b/b")];
    holders.extend([holder(Some(2), "b/b"), holder(Some(3), "c/c"), holder(Some(1), "b/b")]);
    holders.push(holder(Some(1), "b/b"));
    assert_eq!(
        tally(&holders),
        "3 by `b/b` of process 1, 2 by `b/b` of process 2, 1 by `a/a` of process ?, 1 by others"
    );
}

#[test]
fn a_long_range_lists_its_few_holders_in_order() {
    let (dir, _) = bench(200..=200);
    let take = |range: RangeInclusive<u32>| {
        let cids = Cids::new(dir.path(), range);
        cids.take(claim(), Instant::now(), &Cancel::default()).unwrap()
    };
    let held = [take(40_000..=40_000), take(200..=300), take(200..=300), take(65_535..=65_535)];
    let all = Cids::new(dir.path(), 0..=65_535);
    let listed: Vec<u32> = all.list().unwrap().iter().map(|holder| holder.cid.get()).collect();
    assert_eq!(listed, [200, 201, 40_000, 65_535]);
    drop(held);
    assert_eq!(all.list().unwrap(), []);
}

#[test]
fn processes_that_race_never_share_a_cid() {
    let (dir, cids) = bench(200..=239);
    let mut others: Vec<_> = (0..4).map(|_| Other::start(&cids, 10)).collect();
    let taken: Vec<u32> = others.iter_mut().flat_map(Other::taken).collect();
    assert_eq!(taken.iter().copied().collect::<BTreeSet<_>>(), (200..=239).collect());
    assert_eq!(taken.len(), 40);
    let pids: BTreeSet<_> = cids.list().unwrap().into_iter().map(|holder| holder.pid).collect();
    assert_eq!(pids, others.iter().map(|other| Some(other.child.id())).collect());
    drop(others);
    assert!(is_free(&cids));
    drop(dir);
}

#[test]
fn threads_that_race_never_have_the_same_cid_even_one_after_the_other() {
    let (_dir, cids) = bench(200..=263);
    let barrier = std::sync::Barrier::new(8);
    let taken = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    // Given back at once, so a CID is used twice if anybody begins there again.
                    (0..8).map(|_| take(&cids).unwrap().cid()).collect::<Vec<_>>()
                })
            })
            .collect();
        let taken = takers.into_iter().flat_map(|taker| taker.join().unwrap());
        taken.collect::<std::collections::BTreeSet<_>>()
    });
    assert_eq!(taken.len(), 64);
}

#[test]
fn the_cids_of_a_killed_process_are_free() {
    let (_dir, cids) = bench(200..=203);
    let mut other = Other::start(&cids, 4);
    assert_eq!(other.taken(), [200, 201, 202, 203]);
    assert!(matches!(take(&cids), Err(CidError::AllTaken { .. })));
    drop(other);
    assert_eq!(take(&cids).unwrap().cid().get(), 200);
}

/// A process of its own that takes CIDs and holds them until it is killed.
struct Other {
    child: Child,
}

impl Other {
    fn start(cids: &Cids, count: usize) -> Self {
        let range = cids.range();
        let task = format!("{count} {} {} {}", range.start(), range.end(), cids.dir.display());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cids::tests::be_another_process", "--nocapture"])
            .env(OTHER, task)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Waits until it has taken them.
    fn taken(&mut self) -> Vec<u32> {
        let output = BufReader::new(self.child.stdout.take().unwrap());
        let line = output
            .lines()
            .map(Result::unwrap)
            .find_map(|line| line.split_once("taken:").map(|(_, taken)| taken.to_owned()));
        line.unwrap().split_whitespace().map(|cid| cid.parse().unwrap()).collect()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The body of [`Other`], and a check of its own when nobody asks for another process.
#[test]
fn be_another_process() {
    let Ok(task) = std::env::var(OTHER) else {
        let (_dir, cids) = bench(200..=200);
        assert_eq!(take(&cids).unwrap().cid().get(), 200);
        return;
    };
    let [count, first, last, dir] = task.splitn(4, ' ').collect::<Vec<_>>()[..] else {
        panic!("{task}")
    };
    let cids = Cids::new(dir, first.parse().unwrap()..=last.parse().unwrap());
    let take = |_| cids.take(claim(), soon(), &Cancel::default()).unwrap();
    let leases: Vec<Lease> = (0..count.parse::<u32>().unwrap()).map(take).collect();
    let taken: Vec<_> = leases.iter().map(|lease| lease.cid().to_string()).collect();
    println!("taken: {}", taken.join(" "));
    // Nobody writes: this waits for the end of the test that started it.
    let _ = std::io::stdin().read_line(&mut String::new());
}
