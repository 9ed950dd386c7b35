//! Which names the gateway answered with which address, so that a connection to an address is known
//! by its name.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are remembered; the oldest is forgotten for a new one.
const ADDRESSES: usize = 8192;
/// Names of one address.
const NAMES: usize = 16;
/// Clients use an answer for longer than they may: a name stays known this much longer than its TTL.
const GRACE: Duration = Duration::from_secs(600);

/// Names by address.
#[derive(Debug, Default)]
pub struct Names {
    table: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    names: HashMap<IpAddr, Vec<Name>>,
    /// Addresses in the order in which they came.
    order: VecDeque<IpAddr>,
}

#[derive(Debug)]
struct Name {
    name: String,
    until: Instant,
}

impl Names {
    fn table(&self) -> MutexGuard<'_, Remembered> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that `name` was answered with `address`, for `ttl` and some time more.
    pub fn remember(&self, address: IpAddr, name: &str, ttl: Duration) {
        self.remember_at(Instant::now(), address, name, ttl);
    }

    fn remember_at(&self, now: Instant, address: IpAddr, name: &str, ttl: Duration) {
        let table = &mut *self.table();
        if !table.names.contains_key(&address) {
            if table.order.len() >= ADDRESSES
                && let Some(oldest) = table.order.pop_front()
            {
                table.names.remove(&oldest);
            }
            table.order.push_back(address);
        }
        let names = table.names.entry(address).or_default();
        names.retain(|known| known.name != name && known.until > now);
        if names.len() >= NAMES {
            names.remove(0);
        }
        names.push(Name {
            name: name.to_owned(),
            until: now + ttl.min(Duration::from_secs(24 * 60 * 60)) + GRACE,
        });
    }

    /// The names of an address, the latest first.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Vec<String> {
        self.of_at(Instant::now(), address)
    }

    fn of_at(&self, now: Instant, address: IpAddr) -> Vec<String> {
        let table = self.table();
        let known = table.names.get(&address).into_iter().flatten().rev();
        known
            .filter(|known| known.until > now)
            .map(|known| known.name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_latest_name_of_an_address_comes_first_and_each_once() {
        let names = Names::default();
        for name in ["a.example", "b.example", "a.example"] {
            names.remember(ADDRESS, name, MINUTE);
        }
        assert_eq!(names.of(ADDRESS), ["a.example", "b.example"]);
        assert!(names.of(Ipv4Addr::LOCALHOST.into()).is_empty());
    }

    #[test]
    fn names_are_forgotten_some_time_after_their_answer() {
        let names = Names::default();
        let now = Instant::now();
        names.remember_at(now, ADDRESS, "a.example", MINUTE);
        let last = now + MINUTE + GRACE - Duration::from_millis(1);
        assert_eq!(names.of_at(last, ADDRESS).len(), 1);
        assert!(names.of_at(now + MINUTE + GRACE, ADDRESS).is_empty());
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let names = Names::default();
        for number in 0..2 * ADDRESSES as u32 {
            names.remember(Ipv4Addr::from_bits(number).into(), "a.example", MINUTE);
        }
        for number in 0..3 * NAMES {
            names.remember(ADDRESS, &format!("{number}.example"), MINUTE);
        }
        let table = names.table();
        assert!(table.names.len() <= ADDRESSES && table.order.len() == table.names.len());
        assert_eq!(table.names[&ADDRESS].len(), NAMES);
    }
}
