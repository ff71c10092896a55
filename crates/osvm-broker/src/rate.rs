//! How often a rule was used in the last minute.
//!
//! Two counters a rule: uses in this minute, and in the one before. The last 60 seconds count as
//! this minute plus the share of the one before that still reaches into them, which assumes that
//! its uses were evenly spread. So a rule is never used more than its rate in any clock minute,
//! and a burst across the border between two is cut to what is left.
//!
//! Counted for each server and rule, over all of its calls in this process.

use crate::refusal::Refusal;
use osvm_policy::EgressRule;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// Rules that are remembered. There are as many as configs have.
const MAX_RULES: usize = 10_000;

/// The counters of all rules.
#[derive(Debug)]
pub(crate) struct Rates {
    hasher: RandomState,
    windows: Mutex<HashMap<u64, Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begin: Instant,
    now: u32,
    before: u32,
}

impl Rates {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), windows: Mutex::default() }
    }

    /// Counts one use of a rule, or refuses it.
    pub(crate) fn take(&self, server: &str, rule: &EgressRule, host: &str) -> Result<(), Refusal> {
        self.take_at(Instant::now(), server, rule, host)
    }

    fn take_at(
        &self,
        now: Instant,
        server: &str,
        rule: &EgressRule,
        host: &str,
    ) -> Result<(), Refusal> {
        // `Debug` of a rule has all that tells it from others, and no header's value.
        let key = self.hasher.hash_one((server, format!("{rule:?}")));
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if MAX_RULES <= windows.len() && !windows.contains_key(&key) {
            windows.retain(|_, window| now.duration_since(window.begin) < 2 * MINUTE);
        }
        let window = windows.entry(key).or_insert(Window { begin: now, now: 0, before: 0 });
        window.take(now, rule.rate_per_minute).map_err(|wait| Refusal::Rate {
            host: host.to_owned(),
            per_minute: rule.rate_per_minute,
            retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1),
        })
    }
}

impl Window {
    fn take(&mut self, now: Instant, limit: u32) -> Result<(), Duration> {
        let mut age = now.saturating_duration_since(self.begin);
        if MINUTE <= age {
            let next = age < 2 * MINUTE;
            *self = Self { begin: now, now: 0, before: if next { self.now } else { 0 } };
            if next {
                // The window goes on where the last one ended, not where somebody looked.
                self.begin = now.checked_sub(age - MINUTE).unwrap_or(now);
            }
            age = now.saturating_duration_since(self.begin);
        }
        let left = MINUTE.saturating_sub(age);
        let before = f64::from(self.before) * left.as_secs_f64() / MINUTE.as_secs_f64();
        if f64::from(limit) < before + f64::from(self.now) + 1.0 {
            // One falls out of the minute before, or this one ends.
            let one = MINUTE.checked_div(self.before).unwrap_or(left);
            return Err(if self.now < limit { one.min(left) } else { left });
        }
        self.now += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::policy;

    fn rule(rate: u32) -> EgressRule {
        let rules = format!(r#"[{{"host": "a.com", "rate_per_minute": {rate}}}]"#);
        policy(&rules).egress.remove(0)
    }

    #[test]
    fn a_minute_has_as_many_requests_as_the_rule_says() {
        let (rates, rule, start) = (Rates::new(), rule(3), Instant::now());
        let take = |secs| rates.take_at(start + Duration::from_secs(secs), "s", &rule, "a.com");
        for secs in [0, 1, 2] {
            take(secs).unwrap();
        }
        let Err(Refusal::Rate { per_minute: 3, retry_after_ms, .. }) = take(20) else { panic!() };
        assert_eq!(retry_after_ms, 40_000);
        assert!(take(59).is_err());
        // A third of the minute before is over.
        assert!(take(60).is_err());
        take(81).unwrap();
        assert!(take(82).is_err());
        take(300).unwrap();
    }

    #[test]
    fn servers_and_rules_are_counted_apart() {
        let (rates, one, two) = (Rates::new(), rule(1), rule(2));
        rates.take("s", &one, "a.com").unwrap();
        assert!(rates.take("s", &one, "a.com").is_err());
        rates.take("s", &two, "a.com").unwrap();
        rates.take("t", &one, "a.com").unwrap();
    }
}
