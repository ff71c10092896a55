//! The pace of the time stamp counter, which the guest of a translating QEMU sees as it is.
//!
//! The guest cannot measure it: its timers run by the host's clock while its loops are translated.
//! So it is told, and what it is told is measured here, against the host's clock.

use quanta::Clock;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long is measured: each microsecond of error at either end is then 10 parts per million.
const WHILE: Duration = Duration::from_millis(100);

/// The paces of real counters, in kHz. Outside is a clock that only counts nanoseconds.
const REAL: std::ops::RangeInclusive<u64> = 1_000_100..=9_999_999;

/// Cycles in a millisecond, measured once; `None` on a host without a steady counter.
pub(super) fn khz() -> Option<u64> {
    static KHZ: OnceLock<Option<u64>> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> Option<u64> {
    let clock = Clock::new();
    let (first, began) = (clock.raw(), Instant::now());
    std::thread::sleep(WHILE);
    let (last, took) = (clock.raw(), began.elapsed());
    pace(last.checked_sub(first)?, took).filter(|khz| REAL.contains(khz))
}

fn pace(cycles: u64, took: Duration) -> Option<u64> {
    let khz = u128::from(cycles).checked_mul(1_000_000)?.checked_div(took.as_nanos())?;
    u64::try_from(khz).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_over_time_are_the_pace() {
        assert_eq!(pace(210_000_000, Duration::from_millis(100)), Some(2_100_000));
        assert_eq!(pace(1, Duration::ZERO), None);
    }
}
