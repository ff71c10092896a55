//! Names and the addresses they have in this guest, and who waits to be told of one.

use super::dns::{Answer, Question};
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The address that is on the interface; names have it and its neighbours. The block is that of AS112
/// (RFC 7535), a sink for questions that should not have been asked, which anybody may keep at home.
/// IANA's registry calls it globally reachable, so programs that refuse addresses which are not public
/// refuse none of these; and nothing else that a program could want is there.
pub(crate) const BLOCK: Ipv4Addr = Ipv4Addr::new(192, 31, 196, 1);

/// Names that have an address at once: all of the block but the first and the last address, which some
/// programs take for networks.
const MAX_NAMES: usize = 254;

/// How long nobody may have asked for a name whose address is given to another one. Programs may use an
/// answer for five seconds.
const REST: Duration = Duration::from_secs(60);

/// Questions that wait for the host.
const MAX_WAITING: usize = 64;

/// Who asked.
#[derive(Debug)]
pub(crate) enum Waiter {
    Datagram(SocketAddr, Question),
    Connection(u32, Question),
}

impl Waiter {
    pub(crate) fn question(&self) -> &Question {
        match self {
            Self::Datagram(_, question) | Self::Connection(_, question) => question,
        }
    }
}

/// The address of a name, and whether another name had it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) address: Ipv4Addr,
    pub(crate) again: bool,
}

/// The names of a guest.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// With the time when somebody asked last.
    addresses: HashMap<String, (Ipv4Addr, Instant)>,
    waiting: BTreeMap<String, Vec<Waiter>>,
}

impl Names {
    /// What is known without the host: the guest's own name.
    pub(crate) fn known(&self, question: &Question) -> Option<Answer> {
        let own = question.name == "localhost" || question.name.ends_with(".localhost");
        own.then_some(Answer::Address(Ipv4Addr::LOCALHOST))
    }

    /// Has somebody wait; true for the first who waits for this name. Too many are given back.
    pub(crate) fn wait(&mut self, waiter: Waiter) -> Result<bool, Waiter> {
        if MAX_WAITING <= self.waiting.values().map(Vec::len).sum() {
            return Err(waiter);
        }
        let waiting = self.waiting.entry(waiter.question().name.clone()).or_default();
        waiting.push(waiter);
        Ok(waiting.len() == 1)
    }

    /// Those who waited for this name.
    pub(crate) fn waited(&mut self, name: &str) -> Vec<Waiter> {
        self.waiting.remove(name).unwrap_or_default()
    }

    pub(crate) fn forget_waiters(&mut self) {
        self.waiting.clear();
    }

    /// The address of an allowed name: the one it has, or a free one, or that of a name for which nobody
    /// has asked for long. `None` if there is none of them.
    pub(crate) fn address(&mut self, name: &str, now: Instant) -> Option<Given> {
        if let Some((address, asked)) = self.addresses.get_mut(name) {
            *asked = now;
            return Some(Given { address: *address, again: false });
        }
        let (address, again) = match self.addresses.len() {
            taken if taken < MAX_NAMES => {
                let [a, b, c, _] = BLOCK.octets();
                (Ipv4Addr::from([a, b, c, u8::try_from(taken + 1).ok()?]), false)
            }
            _ => (self.take_oldest(now)?, true),
        };
        self.addresses.insert(name.to_owned(), (address, now));
        Some(Given { address, again })
    }

    fn take_oldest(&mut self, now: Instant) -> Option<Ipv4Addr> {
        let oldest = self.addresses.iter().min_by_key(|(_, (_, asked))| *asked);
        let (name, _) =
            oldest.filter(|(_, (_, asked))| REST <= now.saturating_duration_since(*asked))?;
        let name = name.clone();
        self.addresses.remove(&name).map(|(address, _)| address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_name_has_an_address_of_its_own_until_there_are_too_many() {
        let (mut names, now) = (Names::default(), Instant::now());
        let name = |i: usize| format!("n{i}.test");
        let given: HashSet<_> =
            (0..MAX_NAMES).map(|i| names.address(&name(i), now).unwrap().address).collect();
        assert_eq!(given.len(), MAX_NAMES);
        assert!(given.contains(&BLOCK) && given.contains(&Ipv4Addr::from([192, 31, 196, 254])));
        assert_eq!(names.address("one.more", now), None);
        let known = Given { address: BLOCK, again: false };
        assert_eq!(names.address(&name(0), now), Some(known));
    }

    #[test]
    fn an_address_is_given_again_when_nobody_asked_for_its_name_for_long() {
        let (mut names, start) = (Names::default(), Instant::now());
        for i in 0..MAX_NAMES {
            names.address(&format!("n{i}.test"), start).unwrap();
        }
        let soon = start + REST / 2;
        names.address("n0.test", soon).unwrap();
        assert_eq!(names.address("one.more", soon), None);
        let later = start + REST;
        let given = names.address("one.more", later).unwrap();
        assert!(given.again && given.address != BLOCK);
        assert_eq!(names.address("n0.test", later), Some(Given { address: BLOCK, again: false }));
        assert_eq!(names.addresses.len(), MAX_NAMES);
    }
}
