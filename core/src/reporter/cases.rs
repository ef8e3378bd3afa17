//! Which flag is the first of its case, and when a case was first seen.
//!
//! A case is what people count: (subject prefix, remote address, protocol), where the prefix is the address for IPv4
//! and its /64 for IPv6. Many flows of one subscriber to one endpoint are one case. The first flag of a case says
//! `first`; the next to say so comes 24 hours of packet time later at the earliest. A case without an entry is first
//! seen when its first flow begins, however often the subscriber connects anew.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use crate::fingerprint::Protocol;

/// How long a flag is the only one of its case to say `first`, in nanoseconds.
pub const DAY: i64 = 86_400_000_000_000;
/// Most cases that are remembered.
pub const LIMIT: usize = 131_072;

/// Who, with whom, by which protocol: packed, since there are many.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Case([u8; 26]);

impl Case {
    /// Of these.
    pub fn new(subject: IpAddr, remote: IpAddr, protocol: Protocol) -> Self {
        let mut packed = [0; 26];
        let (who, whom) = packed.split_at_mut(8);
        let is_ipv6 = match subject {
            IpAddr::V6(subject) => {
                who.copy_from_slice(&subject.octets()[..8]);
                1
            }
            IpAddr::V4(subject) => {
                who[..4].copy_from_slice(&subject.octets());
                0
            }
        };
        match remote {
            IpAddr::V6(remote) => whom[..16].copy_from_slice(&remote.octets()),
            IpAddr::V4(remote) => whom[..4].copy_from_slice(&remote.octets()),
        }
        (whom[16], whom[17]) = (protocol as u8, is_ipv6);
        Self(packed)
    }
}

/// The cases flagged in the last 24 hours; the longest known goes when there are more than the limit.
#[derive(Debug)]
pub struct Cases {
    known: HashSet<Case>,
    /// In the order in which they came, each with its time.
    order: VecDeque<(Case, i64)>,
    limit: usize,
    evicted: u64,
}

impl Cases {
    /// None yet.
    pub fn new(limit: usize) -> Self {
        Self { known: HashSet::new(), order: VecDeque::new(), limit, evicted: 0 }
    }

    /// Cases pushed out while still in their 24 hours: their next flag says `first` again.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Whether this flag is the first of its case in 24 hours; it is remembered if so.
    pub fn first(&mut self, case: Case, time: i64) -> bool {
        while let Some(&(_, first)) = self.order.front()
            && time.saturating_sub(first) >= DAY
        {
            self.forget_oldest();
        }
        if self.known.contains(&case) {
            return false;
        }
        if self.known.len() >= self.limit {
            self.forget_oldest();
            self.evicted += 1;
        }
        self.known.insert(case);
        self.order.push_back((case, time));
        true
    }

    /// Forgets them all: another capture begins, with a clock of its own.
    pub fn clear(&mut self) {
        self.known.clear();
        self.order.clear();
    }

    fn forget_oldest(&mut self) {
        if let Some((case, _)) = self.order.pop_front() {
            self.known.remove(&case);
        }
    }
}

/// When each case was first seen; of more than the limit, the one not met for longest is forgotten.
#[derive(Debug)]
pub struct FirstSeen {
    /// With the number of the time that it was last met.
    since: HashMap<Case, (i64, u64)>,
    /// What was met, in order; only the latest time of a case counts.
    met: VecDeque<(Case, u64)>,
    times: u64,
    limit: usize,
    evicted: u64,
}

impl FirstSeen {
    /// None yet.
    pub fn new(limit: usize) -> Self {
        Self { since: HashMap::new(), met: VecDeque::new(), times: 0, limit, evicted: 0 }
    }

    /// Cases forgotten: they count as seen for the first time again.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The start of the earliest flow of the case; this one, which began at `start`, included.
    pub fn since(&mut self, case: Case, start: i64) -> i64 {
        let next = self.times + 1;
        let (since, time) = self.since.entry(case).or_insert((start, next));
        *since = start.min(*since);
        let since = *since;
        if *time == self.times {
            return since; // met twice in a row: it is where it belongs
        }
        *time = next;
        self.times = next;
        self.met.push_back((case, next));
        if self.since.len() > self.limit {
            self.forget_oldest();
        }
        if self.met.len() > 2 * self.limit {
            let Self { since, met, .. } = self;
            met.retain(|(case, time)| since.get(case).is_some_and(|(_, latest)| latest == time));
        }
        since
    }

    /// Forgets them all: another capture begins.
    pub fn clear(&mut self) {
        self.since.clear();
        self.met.clear();
    }

    fn forget_oldest(&mut self) {
        while let Some((case, time)) = self.met.pop_front() {
            if let Entry::Occupied(known) = self.since.entry(case)
                && known.get().1 == time
            {
                known.remove();
                self.evicted += 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Cases, alike in pairs but for one thing, and what people call them.
    const CASES: [(&str, &str, Protocol, &str); 9] = [
        ("198.51.100.7", "203.0.113.10", Protocol::WireGuard, "a"),
        ("198.51.100.7", "203.0.113.10", Protocol::OpenVpn, "another protocol"),
        ("198.51.100.7", "203.0.113.11", Protocol::WireGuard, "another remote end"),
        ("198.51.100.8", "203.0.113.10", Protocol::WireGuard, "another subject"),
        ("203.0.113.10", "198.51.100.7", Protocol::WireGuard, "the other way round"),
        ("2001:db8:1:2::3", "2001:db8::1", Protocol::WireGuard, "one /64"),
        ("2001:db8:1:2:ffff::9", "2001:db8::1", Protocol::WireGuard, "one /64"),
        ("2001:db8:1:3::3", "2001:db8::1", Protocol::WireGuard, "another /64"),
        ("2001:db8:1:2::3", "2001:db8::2", Protocol::WireGuard, "another remote end of a /64"),
    ];

    fn case(subject: &str, remote: &str, protocol: Protocol) -> Case {
        Case::new(subject.parse().expect("an address"), remote.parse().expect("an address"), protocol)
    }

    fn cases() -> impl Iterator<Item = (Case, &'static str)> {
        CASES.into_iter().map(|(subject, remote, protocol, name)| (case(subject, remote, protocol), name))
    }

    #[test]
    fn a_case_is_subject_prefix_remote_address_and_protocol() {
        for (one, name) in cases() {
            for (other, other_name) in cases() {
                assert_eq!(one == other, name == other_name, "{name}, {other_name}");
            }
        }
        // Addresses of both families with the same first bytes.
        let ipv4 = case("32.1.13.184", "32.1.13.184", Protocol::Ipsec);
        assert_ne!(ipv4, case("2001:db8::", "2001:db8::", Protocol::Ipsec));
    }

    proptest! {
        /// Against a map of the first flags, which is looked through each time.
        #[test]
        fn the_first_flag_in_24_hours_is_first_as_far_as_the_limit_reaches(
            limit in 1_usize..6,
            steps in proptest::collection::vec((0..CASES.len(), prop_oneof![0..DAY / 4, Just(DAY), 0..3 * DAY]), 0..80),
        ) {
            let (mut known, mut plain) = (Cases::new(limit), BTreeMap::new());
            let (mut time, mut evicted) = (0, 0);
            for (number, (place, wait)) in steps.into_iter().enumerate() {
                time += wait;
                let (case, name) = cases().nth(place).expect("a case");
                plain.retain(|_, (flagged, _): &mut (i64, usize)| time - *flagged < DAY);
                let is_first = !plain.contains_key(name);
                if is_first {
                    if plain.len() == limit {
                        plain.pop_oldest();
                        evicted += 1;
                    }
                    plain.insert(name, (time, number));
                }
                prop_assert_eq!(known.first(case, time), is_first, "{}", name);
                prop_assert_eq!((known.known.len(), known.order.len()), (plain.len(), plain.len()));
                prop_assert_eq!(known.evicted(), evicted);
            }
        }

        /// The same of when a case was first seen: the one that was not met for longest goes.
        #[test]
        fn a_case_is_seen_since_its_earliest_flow_as_far_as_the_limit_reaches(
            limit in 1_usize..6,
            steps in proptest::collection::vec((0..CASES.len(), 0_i64..50), 0..120),
        ) {
            let (mut seen, mut plain) = (FirstSeen::new(limit), BTreeMap::new());
            let mut evicted = 0;
            for (number, (place, start)) in steps.into_iter().enumerate() {
                let (case, name) = cases().nth(place).expect("a case");
                let since = plain.get(name).map_or(start, |&(since, _): &(i64, usize)| since.min(start));
                if !plain.contains_key(name) && plain.len() == limit {
                    plain.pop_oldest();
                    evicted += 1;
                }
                plain.insert(name, (since, number));
                prop_assert_eq!(seen.since(case, start), since, "{}", name);
                prop_assert_eq!(seen.since.len(), plain.len());
                prop_assert!(seen.met.len() <= 2 * limit, "{} of {limit}", seen.met.len());
                prop_assert_eq!(seen.evicted(), evicted);
            }
        }
    }

    trait Oldest {
        /// Forgets what has the least number.
        fn pop_oldest(&mut self);
    }

    impl Oldest for BTreeMap<&'static str, (i64, usize)> {
        fn pop_oldest(&mut self) {
            let oldest = self.iter().min_by_key(|(_, (_, number))| *number).map(|(name, _)| *name);
            oldest.and_then(|name| self.remove(name));
        }
    }

    #[test]
    fn a_day_later_to_the_nanosecond_a_flag_is_first_again() {
        let (case, _) = cases().next().expect("a case");
        let mut known = Cases::new(9);
        let firsts = [5, DAY + 4, DAY + 5, 2 * DAY + 4].map(|time| known.first(case, time));
        assert_eq!(firsts, [true, false, true, false]);
    }

    #[test]
    fn another_capture_knows_no_case() {
        let (case, _) = cases().next().expect("a case");
        let (mut known, mut seen) = (Cases::new(9), FirstSeen::new(9));
        for _ in 0..2 {
            assert_eq!((known.first(case, DAY), known.first(case, DAY)), (true, false));
            // Met twice in a row across the end of a capture, too.
            assert_eq!((seen.since(case, 7), seen.since(case, 9)), (7, 7));
            known.clear();
            seen.clear();
            assert_eq!(seen.since(case, 8), 8);
            seen.clear();
        }
        assert_eq!((known.evicted(), seen.evicted()), (0, 0));
    }
}
