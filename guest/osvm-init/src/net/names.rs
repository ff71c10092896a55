//! Names and the addresses they have in this guest, and who waits to be told of one.

use super::dns::{Answer, Question};
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};

/// Names that have an address.
const MAX_NAMES: usize = 256;

/// Questions that wait for the host.
const MAX_WAITING: usize = 64;

/// Addresses of names begin with these: 127.100.0.0/16.
const NETWORK: [u8; 2] = [127, 100];

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

/// The names of a guest.
#[derive(Debug, Default)]
pub(crate) struct Names {
    addresses: HashMap<String, Ipv4Addr>,
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

    /// The address of an allowed name; the same for good.
    pub(crate) fn address(&mut self, name: &str) -> Option<Ipv4Addr> {
        let next = self.addresses.len();
        if let Some(address) = self.addresses.get(name) {
            return Some(*address);
        }
        if MAX_NAMES <= next {
            return None;
        }
        let [a, b] = NETWORK;
        // No address ends with 0 or 255, which some programs take for networks.
        let address = [a, b, u8::try_from(next / 254).ok()?, u8::try_from(next % 254 + 1).ok()?];
        let address = Ipv4Addr::from(address);
        self.addresses.insert(name.to_owned(), address);
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_name_has_an_address_of_its_own_until_there_are_too_many() {
        let mut names = Names::default();
        let name = |i: usize| format!("n{i}.test");
        let given: HashSet<_> = (0..MAX_NAMES).map(|i| names.address(&name(i)).unwrap()).collect();
        assert_eq!(given.len(), MAX_NAMES);
        assert_eq!(names.address("one.more"), None);
        assert_eq!(names.address(&name(0)), Some([127, 100, 0, 1].into()));
        assert_eq!(names.address(&name(254)), Some([127, 100, 1, 1].into()));
    }
}
