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
