//! The host's processor, as far as a guest depends on it: its kind, and the pace of its time stamp
//! counter.
//!
//! A guest that is translated sees the host's counter as it is, and cannot measure it: its timers run
//! by the host's clock while its loops are translated. So it is told, and what it is told is measured
//! here, against the host's clock.

use quanta::Clock;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long is measured: each 100 ns of error at either end is then 5 parts per million.
const WHILE: Duration = Duration::from_millis(20);

/// Readings of counter and clock, of which the best counts. Each takes some 100 ns.
const READINGS: u32 = 64;

/// The paces of real counters, in kHz. Outside is a clock that only counts nanoseconds.
const REAL: std::ops::RangeInclusive<u64> = 1_000_100..=9_999_999;

/// What a saved guest depends on: processors that differ here may run it wrongly, or show it another
/// time.
pub fn identity() -> String {
    let host = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = tsc_khz().map(|khz| (khz.saturating_add(500) / 1000).to_string());
    let mhz = mhz.unwrap_or_else(|| "unknown".to_owned());
    format!("{}; TSC {mhz} MHz", model(&host))
}

/// The processor's name in the host's table.
fn model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or("unknown processor").to_owned()
}

/// Cycles of the counter in a millisecond, measured once; `None` on a host without a steady one.
pub fn tsc_khz() -> Option<u64> {
    static KHZ: OnceLock<Option<u64>> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> Option<u64> {
    let clock = Clock::new();
    let (first, began) = both(&clock);
    std::thread::sleep(WHILE);
    let (last, ended) = both(&clock);
    let took = ended.saturating_duration_since(began);
    pace(last.checked_sub(first)?, took).filter(|khz| REAL.contains(khz))
}

/// Counter and clock at the same moment: of some readings the one that took the shortest, because a
/// host that is busy may stop us between the two.
fn both(clock: &Clock) -> (u64, Instant) {
    let read = |_| {
        let before = clock.raw();
        let now = Instant::now();
        let took = clock.raw().saturating_sub(before);
        (took, (before.saturating_add(took / 2), now))
    };
    let shortest = (0..READINGS).map(read).min_by_key(|(took, _)| *took);
    shortest.map_or_else(|| (clock.raw(), Instant::now()), |(_, reading)| reading)
}

fn pace(cycles: u64, took: Duration) -> Option<u64> {
    let khz = u128::from(cycles).checked_mul(1_000_000)?.checked_div(took.as_nanos())?;
    u64::try_from(khz).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_what_the_host_calls_it() {
        let table = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel\t\t: 6\n";
        assert_eq!(model(table), "Some CPU @ 2 GHz");
        assert_eq!(model("Processor: 3"), "unknown processor");
    }

    #[test]
    fn cycles_over_time_are_the_pace() {
        assert_eq!(pace(210_000_000, Duration::from_millis(100)), Some(2_100_000));
        assert_eq!(pace(1, Duration::ZERO), None);
    }
}
