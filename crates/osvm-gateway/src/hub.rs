//! What has changed, for those who tell clients: they wait here, each at its own pace.

use crate::catalog::Difference;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Updates of resources that are kept for who is slow. Who is slower misses the oldest.
const KEPT: usize = 1024;

/// Bytes of all of them together.
const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// The news of one osvm.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lists: Lists,
    updates: VecDeque<Arc<Update>>,
    bytes: usize,
    /// Number of the first of `updates`.
    first: u64,
}

/// How often each list has changed: tools, prompts, resources.
pub(crate) type Lists = [u64; 3];

/// A resource has other content now.
#[derive(Debug)]
pub(crate) struct Update {
    /// Whose it is.
    pub(crate) server: String,
    /// Its URI there.
    pub(crate) uri: String,
    /// The parameters of the notification.
    pub(crate) params: Box<RawValue>,
}

/// Up to where somebody has heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    lists: Lists,
    next: u64,
}

/// What somebody has not heard yet.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) changed: Difference,
    /// How often each list has changed until now.
    pub(crate) lists: Lists,
    pub(crate) updates: Vec<Arc<Update>>,
}

impl Hub {
    /// Where who begins to listen now begins.
    pub(crate) fn now(&self) -> Heard {
        let state = self.lock();
        Heard { lists: state.lists, next: state.first + state.updates.len() as u64 }
    }

    /// How often each list has changed.
    pub(crate) fn lists(&self) -> Lists {
        self.lock().lists
    }

    /// Tells that lists have changed.
    pub(crate) fn changed(&self, difference: Difference) {
        let mut state = self.lock();
        let Difference { tools, prompts, resources } = difference;
        for (count, changed) in state.lists.iter_mut().zip([tools, prompts, resources]) {
            *count += u64::from(changed);
        }
        drop(state);
        self.news.notify_all();
    }

    /// Tells that a resource has other content.
    pub(crate) fn updated(&self, update: Update) {
        let mut state = self.lock();
        state.bytes += update.params.get().len();
        state.updates.push_back(Arc::new(update));
        while KEPT < state.updates.len() || KEPT_BYTES < state.bytes {
            let Some(oldest) = state.updates.pop_front() else { break };
            state.bytes = state.bytes.saturating_sub(oldest.params.get().len());
            state.first += 1;
        }
        drop(state);
        self.news.notify_all();
    }

    /// Waits up to `patience` for something that has not been heard.
    pub(crate) fn wait(&self, heard: &mut Heard, patience: Duration) -> News {
        let state = self.lock();
        let nothing = |state: &mut State| {
            state.lists == heard.lists && state.first + state.updates.len() as u64 <= heard.next
        };
        let waited = self.news.wait_timeout_while(state, patience, nothing);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let lists = state.lists;
        let [tools, prompts, resources] =
            std::array::from_fn(|n| lists.get(n) != heard.lists.get(n));
        let changed = Difference { tools, prompts, resources };
        let known = usize::try_from(heard.next.saturating_sub(state.first)).unwrap_or(usize::MAX);
        let updates = state.updates.iter().skip(known).cloned().collect();
        *heard = Heard { lists: state.lists, next: state.first + state.updates.len() as u64 };
        News { changed, lists, updates }
    }

    // Each change is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(uri: &str) -> Update {
        Update { server: "s".into(), uri: uri.into(), params: RawValue::NULL.to_owned() }
    }

    #[test]
    fn everybody_hears_everything_once_and_nothing_of_before() {
        let hub = Hub::default();
        hub.changed(Difference { tools: true, ..Difference::default() });
        hub.updated(update("old"));
        let (mut one, mut other) = (hub.now(), hub.now());
        hub.changed(Difference { prompts: true, ..Difference::default() });
        hub.updated(update("new"));
        for heard in [&mut one, &mut other] {
            let news = hub.wait(heard, Duration::ZERO);
            assert_eq!(news.changed, Difference { prompts: true, ..Difference::default() });
            assert_eq!(news.updates.iter().map(|u| &*u.uri).collect::<Vec<_>>(), ["new"]);
            let news = hub.wait(heard, Duration::ZERO);
            assert!(!news.changed.any() && news.updates.is_empty());
        }
    }

    #[test]
    fn who_is_slow_misses_the_oldest_updates_only() {
        let hub = Hub::default();
        let mut heard = hub.now();
        (0..KEPT + 3).for_each(|n| hub.updated(update(&n.to_string())));
        let news = hub.wait(&mut heard, Duration::ZERO);
        assert_eq!(news.updates.len(), KEPT);
        assert_eq!(news.updates.last().unwrap().uri, (KEPT + 2).to_string());
        assert!(hub.wait(&mut heard, Duration::ZERO).updates.is_empty());
    }
}
