//! The desk: limits, order and turns, whatever happens.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Unused guests: the memory of each, by shelf.
#[derive(Debug, Default)]
struct Shelves(BTreeMap<ShelfId, Vec<u32>>);

impl Stock for Shelves {
    type Spare = (ShelfId, u32);

    fn take(&mut self, shelf: ShelfId) -> Option<Self::Spare> {
        Some((shelf, self.0.get_mut(&shelf)?.pop()?))
    }

    fn give_up(&mut self) -> Option<(Self::Spare, u32)> {
        let (shelf, spares) = self.0.iter_mut().max_by_key(|(_, spares)| spares.len())?;
        let memory_mb = spares.pop()?;
        Some(((*shelf, memory_mb), memory_mb))
    }

    fn total(&self) -> (u32, u64) {
        let spares = || self.0.values().flatten();
        (u32::try_from(spares().count()).unwrap(), spares().map(|mb| u64::from(*mb)).sum())
    }
}

/// A desk, its stock, and what was granted.
struct Office {
    desk: Desk,
    stock: Shelves,
    names: BTreeMap<Ticket, (Arc<str>, Want)>,
    granted: Vec<Ticket>,
}

impl Office {
    fn new(max_vms: u32, max_vms_per_server: u32, max_memory_mb: Option<u32>) -> Self {
        let desk = Desk::new(Limits { max_vms, max_vms_per_server, max_memory_mb });
        Self { desk, stock: Shelves::default(), names: BTreeMap::new(), granted: Vec::new() }
    }

    fn stock(&mut self, shelf: ShelfId, memory_mb: u32) {
        assert!(self.desk.has_room(memory_mb));
        self.desk.come(memory_mb);
        self.stock.0.entry(shelf).or_default().push(memory_mb);
    }

    fn ask(&mut self, server: &str, shelf: ShelfId, memory_mb: u32) -> Ticket {
        let (server, want) = (Arc::from(server), Want { shelf, memory_mb });
        let ticket = self.desk.draw(&server, want);
        self.names.insert(ticket, (server, want));
        ticket
    }

    fn serve(&mut self) -> Vec<Grant<(ShelfId, u32)>> {
        let grants: Vec<_> = std::iter::from_fn(|| self.desk.serve(&mut self.stock)).collect();
        self.granted.extend(grants.iter().map(|grant| grant.ticket));
        grants
    }

    fn leave(&mut self, ticket: Ticket) {
        let (server, want) = &self.names[&ticket];
        self.desk.leave(server, want.memory_mb);
    }
}

#[test]
fn an_unused_guest_of_the_right_kind_is_handed_out() {
    let mut office = Office::new(4, 4, None);
    office.stock(7, 128);
    office.ask("a", 7, 128);
    office.ask("a", 8, 128);
    let grants = office.serve();
    assert_eq!(grants[0].spare, Some((7, 128)));
    assert_eq!(grants[1].spare, None, "a guest of another kind is no guest for this call");
    assert_eq!(office.desk.counts(), Counts { vms: 2, memory_mb: 256, in_use: 2, waiting: 0 });
}

#[test]
fn a_full_house_makes_calls_wait_until_one_leaves() {
    let mut office = Office::new(1, 1, None);
    let first = office.ask("a", 0, 64);
    let second = office.ask("b", 0, 64);
    office.serve();
    assert_eq!(office.granted, [first]);
    office.leave(first);
    office.serve();
    assert_eq!(office.granted, [first, second]);
}

#[test]
fn servers_take_turns_however_long_their_lines_are() {
    let mut office = Office::new(1, 1, None);
    let first = office.ask("greedy", 0, 64);
    let greedy: Vec<_> = (0..3).map(|_| office.ask("greedy", 0, 64)).collect();
    let modest = office.ask("modest", 0, 64);
    office.serve();
    for done in 0..4 {
        let ticket = office.granted[done];
        office.leave(ticket);
        office.serve();
    }
    assert_eq!(office.granted, [first, modest, greedy[0], greedy[1], greedy[2]]);
}

#[test]
fn a_server_at_its_own_limit_keeps_nobody_else_waiting() {
    let mut office = Office::new(4, 1, None);
    let first = office.ask("a", 0, 64);
    let second = office.ask("a", 0, 64);
    let other = office.ask("b", 0, 64);
    office.serve();
    assert_eq!(office.granted, [first, other]);
    assert_eq!(office.desk.of_server("a"), (1, 1));
    office.leave(first);
    office.serve();
    assert_eq!(office.granted, [first, other, second]);
}

#[test]
fn a_large_call_is_not_starved_by_small_ones() {
    let mut office = Office::new(10, 10, Some(256));
    let small = office.ask("small", 0, 128);
    office.serve();
    let large = office.ask("large", 0, 256);
    let more = office.ask("small", 0, 128);
    assert!(office.serve().is_empty(), "128 MiB are free, but it is not its turn");
    office.leave(small);
    office.serve();
    assert_eq!(office.granted, [small, large]);
    office.leave(large);
    office.serve();
    assert_eq!(office.granted, [small, large, more]);
}

#[test]
fn unused_guests_make_room_for_a_call() {
    let mut office = Office::new(2, 2, Some(256));
    office.stock(7, 128);
    office.stock(7, 128);
    office.ask("a", 8, 256);
    let grants = office.serve();
    assert_eq!(grants[0].given_up.len(), 2);
    assert_eq!(office.desk.counts(), Counts { vms: 1, memory_mb: 256, in_use: 1, waiting: 0 });
}

#[test]
fn nothing_is_given_up_for_a_call_that_would_not_fit_even_then() {
    let mut office = Office::new(3, 3, Some(256));
    office.ask("a", 0, 128);
    office.serve();
    office.stock(7, 64);
    office.ask("b", 8, 256);
    assert!(office.serve().is_empty());
    assert_eq!(office.stock.total(), (1, 64));
}

#[test]
fn whoever_leaves_the_queue_lets_the_next_one_come() {
    let mut office = Office::new(1, 1, None);
    let first = office.ask("a", 0, 64);
    office.serve();
    let impatient = office.ask("a", 0, 64);
    let patient = office.ask("a", 0, 64);
    assert!(office.desk.withdraw("a", impatient));
    assert!(!office.desk.withdraw("a", impatient));
    office.leave(first);
    office.serve();
    assert_eq!(office.granted, [first, patient]);
}

#[test]
fn nothing_is_stocked_while_somebody_waits() {
    let mut office = Office::new(2, 1, None);
    office.ask("a", 0, 64);
    office.ask("a", 0, 64);
    office.serve();
    assert!(!office.desk.has_room(64));
}

/// Guests of one shelf are alike, so the shelf decides about their memory, in MiB.
const MEMORY: [u32; 3] = [16, 64, 200];

#[derive(Clone, Debug)]
enum Event {
    Ask { server: usize, shelf: usize },
    Leave { which: usize },
    Withdraw { which: usize },
    Stock { shelf: usize },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let shelf = || 0..MEMORY.len();
    let ask = (0..4_usize, shelf()).prop_map(|(server, shelf)| Event::Ask { server, shelf });
    let leave = any::<usize>().prop_map(|which| Event::Leave { which });
    let withdraw = any::<usize>().prop_map(|which| Event::Withdraw { which });
    let stock = shelf().prop_map(|shelf| Event::Stock { shelf });
    prop::collection::vec(prop_oneof![4 => ask, 3 => leave, 1 => withdraw, 1 => stock], 0..200)
}

proptest! {
    #[test]
    fn limits_order_and_turns_hold_whatever_happens(
        events in events(), max_vms in 1..6_u32, per_server in 1..4_u32, memory in 200..600_u32,
    ) {
        let mut office = Office::new(max_vms, per_server, Some(memory));
        let mut running: Vec<Ticket> = Vec::new();
        let mut waiting: Vec<Ticket> = Vec::new();
        for event in events {
            match event {
                Event::Ask { server, shelf } => {
                    let ticket = office.ask(&format!("s{server}"), shelf as u64, MEMORY[shelf]);
                    waiting.push(ticket);
                }
                Event::Leave { which } if !running.is_empty() => {
                    office.leave(running.swap_remove(which % running.len()));
                }
                Event::Withdraw { which } if !waiting.is_empty() => {
                    let ticket = waiting.remove(which % waiting.len());
                    let server = Arc::clone(&office.names[&ticket].0);
                    prop_assert!(office.desk.withdraw(&server, ticket));
                }
                Event::Stock { shelf } if office.desk.has_room(MEMORY[shelf]) => {
                    office.stock(shelf as u64, MEMORY[shelf]);
                }
                _ => {}
            }
            for grant in office.serve() {
                let server = Arc::clone(&office.names[&grant.ticket].0);
                let earlier = waiting.iter().find(|t| office.names[t].0 == server);
                prop_assert_eq!(earlier, Some(&grant.ticket), "first come, first served");
                waiting.retain(|ticket| *ticket != grant.ticket);
                running.push(grant.ticket);
            }
            check(&office, &running, &waiting, per_server)?;
        }
    }

    /// However a server floods the desk, another one waits for one turn of each of the others.
    #[test]
    fn nobody_is_overtaken_twice_by_the_same_server(
        floods in prop::collection::vec(1..50_usize, 1..5), max_vms in 1..4_u32,
    ) {
        let mut office = Office::new(max_vms, max_vms, None);
        for (server, calls) in floods.iter().enumerate() {
            (0..*calls).for_each(|_| _ = office.ask(&format!("s{server}"), 0, 16));
        }
        office.serve();
        let late = office.ask("late", 0, 16);
        let before = office.granted.len();
        let mut done = 0;
        while !office.granted.contains(&late) {
            let ticket = office.granted[done];
            done += 1;
            office.leave(ticket);
            office.serve();
        }
        let position = office.granted.iter().position(|ticket| *ticket == late).unwrap();
        let between: Vec<_> =
            office.granted[before..position].iter().map(|ticket| &office.names[ticket].0).collect();
        let mut distinct = between.clone();
        distinct.sort();
        distinct.dedup();
        prop_assert_eq!(between.len(), distinct.len());
    }
}

fn check(
    office: &Office,
    running: &[Ticket],
    waiting: &[Ticket],
    per_server: u32,
) -> Result<(), TestCaseError> {
    let counts = office.desk.counts();
    let (unused, unused_mb) = office.stock.total();
    let used_mb: u64 = running.iter().map(|t| u64::from(office.names[t].1.memory_mb)).sum();
    prop_assert_eq!(counts.in_use as usize, running.len());
    prop_assert_eq!(counts.waiting as usize, waiting.len());
    prop_assert_eq!(counts.vms, counts.in_use + unused);
    prop_assert_eq!(counts.memory_mb, used_mb + unused_mb);
    prop_assert!(!office.desk.is_over(0, 0));
    let servers = running.iter().map(|ticket| &office.names[ticket].0);
    let mut per: BTreeMap<&str, u32> = BTreeMap::new();
    servers.for_each(|server| *per.entry(server).or_default() += 1);
    prop_assert!(per.values().all(|in_use| *in_use <= per_server));
    // Nobody waits for nothing: the next in turn is one that really does not fit.
    let next = office.desk.ring.iter().find(|s| office.desk.of_server(s).0 < per_server);
    if let Some(server) = next {
        let want = office.desk.lines[server].waiting[0].1;
        prop_assert!(office.stock.0.get(&want.shelf).is_none_or(Vec::is_empty));
        prop_assert!(!office.desk.fits(want.memory_mb, unused, unused_mb));
    }
    Ok(())
}
