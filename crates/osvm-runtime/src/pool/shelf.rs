//! Unused guests by what they are good for, and when to boot the next one.

use super::desk::{ShelfId, Stock};
use super::spare::{Spare, SpareId};
use crate::recipe::{Key, Recipe};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The id of no shelf: of a call whose kind of guest is not kept.
const NONE: ShelfId = 0;

/// Pause after the first failed boot; it doubles with each further one, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// All shelves.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    shelves: Vec<Shelf>,
    last_id: ShelfId,
    last_spare: SpareId,
}

/// The unused guests of one key.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) id: ShelfId,
    pub(super) recipe: Arc<Recipe>,
    /// How many there should be.
    pub(super) wanted: u32,
    pub(super) spares: VecDeque<(SpareId, Spare)>,
    /// Boots under way.
    pub(super) booting: u32,
    pub(super) retry: Retry,
    pub(super) counts: Counts,
}

/// What became of the boots of a shelf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Guests that got ready.
    pub(super) booted: u64,
    /// Boots that failed.
    pub(super) failed: u64,
    /// Guests that ended, or spoke, before a call came.
    pub(super) lost: u64,
    /// Why the last boot failed, if the last one did.
    pub(super) failure: Option<String>,
}

/// When to try again after boots that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retry {
    failures: u32,
    not_before: Option<Instant>,
}

impl Retry {
    /// Waits twice as long as the last time. Boots that fail together count as one failure.
    pub(super) fn failed(&mut self, now: Instant) {
        if !self.left(now).is_zero() {
            return;
        }
        let pause = PAUSE.0.saturating_mul(1 << self.failures.min(16)).min(PAUSE.1);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.checked_add(pause);
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// How long to wait still.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |then| then.saturating_duration_since(now))
    }
}

impl Shelf {
    pub(super) fn memory_mb(&self) -> u32 {
        self.recipe.key.memory.mib()
    }

    /// Guests that are there or on their way.
    fn filled(&self) -> u32 {
        u32::try_from(self.spares.len()).unwrap_or(u32::MAX).saturating_add(self.booting)
    }

    pub(super) fn is_short(&self) -> bool {
        self.filled() < self.wanted
    }
}

impl Shelves {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Shelf> {
        self.shelves.iter()
    }

    pub(super) fn get_mut(&mut self, id: ShelfId) -> Option<&mut Shelf> {
        self.shelves.iter_mut().find(|shelf| shelf.id == id)
    }

    /// The shelf of guests of that key, or the id of none.
    pub(super) fn id_of(&self, key: &Key) -> ShelfId {
        self.shelves.iter().find(|shelf| shelf.recipe.key == *key).map_or(NONE, |shelf| shelf.id)
    }

    /// Puts a guest on its shelf; gives it back if nobody wants it there any more.
    pub(super) fn put(&mut self, id: ShelfId, spare: Spare) -> Option<Spare> {
        self.last_spare += 1;
        let name = self.last_spare;
        match self.get_mut(id) {
            Some(shelf) if shelf.spares.len() < shelf.wanted as usize => {
                shelf.spares.push_back((name, spare));
                None
            }
            _ => Some(spare),
        }
    }

    /// The guest that was put on a shelf last, and its name.
    pub(super) fn last(&self, id: ShelfId) -> Option<&(SpareId, Spare)> {
        self.shelves.iter().find(|shelf| shelf.id == id)?.spares.back()
    }

    /// Takes away the guest of that name, and counts it as lost.
    pub(super) fn lose(&mut self, name: SpareId) -> Option<(Spare, u32)> {
        let held = |shelf: &mut Shelf| {
            let position = shelf.spares.iter().position(|(of, _)| *of == name)?;
            let (_, spare) = shelf.spares.remove(position)?;
            shelf.counts.lost += 1;
            Some((spare, shelf.memory_mb()))
        };
        self.shelves.iter_mut().find_map(held)
    }

    /// Keeps `wanted` guests of each of these kinds, and none of any other. Returns those that
    /// are too many, with their memory in MiB.
    pub(super) fn adopt(&mut self, recipes: Vec<Arc<Recipe>>, wanted: u32) -> Vec<(Spare, u32)> {
        let mut surplus = Vec::new();
        for shelf in &mut self.shelves {
            let kept = recipes.iter().find(|recipe| recipe.key == shelf.recipe.key);
            shelf.wanted = if kept.is_some() { wanted } else { 0 };
            if let Some(recipe) = kept {
                if !Arc::ptr_eq(&shelf.recipe.backend, &recipe.backend) {
                    // What failed under another config may work under this one.
                    shelf.retry = Retry::default();
                }
                shelf.recipe = Arc::clone(recipe);
            }
            let (memory_mb, keep) = (shelf.memory_mb(), shelf.wanted as usize);
            let too_many = shelf.spares.len().saturating_sub(keep);
            surplus.extend(shelf.spares.drain(..too_many).map(|(_, spare)| (spare, memory_mb)));
        }
        self.shelves.retain(|shelf| shelf.wanted > 0);
        for recipe in recipes {
            if wanted > 0 && self.id_of(&recipe.key) == NONE {
                self.last_id += 1;
                self.shelves.push(Shelf {
                    id: self.last_id,
                    recipe,
                    wanted,
                    spares: VecDeque::new(),
                    booting: 0,
                    retry: Retry::default(),
                    counts: Counts::default(),
                });
            }
        }
        surplus
    }

    /// The shelf that misses a guest most and may be filled now; or how long until one may.
    pub(super) fn next_short(
        &mut self,
        now: Instant,
        has_room: impl Fn(u32) -> bool,
    ) -> Result<&mut Shelf, Option<Duration>> {
        let mut soonest: Option<Duration> = None;
        let mut best: Option<&mut Shelf> = None;
        for shelf in &mut self.shelves {
            if !shelf.is_short() || !has_room(shelf.memory_mb()) {
                continue;
            }
            let left = shelf.retry.left(now);
            // After a failure one boot is tried, not as many as there are threads.
            if !left.is_zero() {
                soonest = Some(soonest.map_or(left, |other| other.min(left)));
            } else if (shelf.retry.failures == 0 || shelf.booting == 0)
                && best.as_ref().is_none_or(|best| shelf.filled() < best.filled())
            {
                best = Some(shelf);
            }
        }
        best.ok_or(soonest)
    }
}

impl Stock for Shelves {
    type Spare = Spare;

    fn take(&mut self, shelf: ShelfId) -> Option<Spare> {
        Some(self.get_mut(shelf)?.spares.pop_front()?.1)
    }

    fn give_up(&mut self) -> Option<(Spare, u32)> {
        let shelf = self.shelves.iter_mut().max_by_key(|shelf| shelf.spares.len())?;
        let (_, spare) = shelf.spares.pop_front()?;
        Some((spare, shelf.memory_mb()))
    }

    fn total(&self) -> (u32, u64) {
        self.shelves.iter().fold((0, 0), |(count, memory_mb), shelf| {
            let spares = u32::try_from(shelf.spares.len()).unwrap_or(u32::MAX);
            let memory = u64::from(spares) * u64::from(shelf.memory_mb());
            (count.saturating_add(spares), memory_mb + memory)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_pause_up_to_a_limit() {
        let mut now = Instant::now();
        let mut retry = Retry::default();
        assert_eq!(retry.left(now), Duration::ZERO);
        let pauses: Vec<u128> = (0..10)
            .map(|_| {
                retry.failed(now);
                retry.failed(now);
                let pause = retry.left(now);
                now += pause;
                pause.as_millis()
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000]);
        retry.succeeded();
        assert_eq!(retry.left(now), Duration::ZERO);
    }
}
