//! What a receipt costs, in µs: a process that writes many, one that writes its first, and eight
//! processes' worth of writers at once. `cargo bench -p osvm-receipts`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "it may fail as a test may")]

#[path = "../tests/receipts/support.rs"]
#[expect(dead_code, reason = "the tests use all of it, this only the record")]
mod support;

use osvm_receipts::Receipts;
use osvm_runtime::Ledger as _;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use support::record;

const COUNT: usize = 2000;

fn main() -> std::io::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().join("receipts");
    let many = Receipts::new(&dir);
    report("further receipts", (0..COUNT).map(|_| one(&many)).collect())?;
    let first = (0..COUNT).map(|_| one(&Receipts::new(&dir))).collect();
    report("first receipts of a process", first)?;
    let crowd: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| crowd(&dir))).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap_or_default()).collect()
    });
    report("with eight writers at once", crowd)
}

fn crowd(dir: &Path) -> Vec<Duration> {
    let receipts = Receipts::new(dir);
    (0..COUNT / 8).map(|_| one(&receipts)).collect()
}

/// All that a call pays for.
fn one(receipts: &Receipts) -> Duration {
    let record = record("echo", 1);
    let begun = Instant::now();
    receipts.ready().expect("receipts can be kept");
    receipts.write(&record).expect("a receipt is kept");
    begun.elapsed()
}

fn report(what: &str, mut times: Vec<Duration>) -> std::io::Result<()> {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0, Duration::as_micros);
    writeln!(std::io::stdout(), "{what}: median {} µs, p99 {} µs", at(50), at(99))
}
