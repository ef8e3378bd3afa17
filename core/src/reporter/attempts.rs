//! Which attempts are announced one by one, and which are summarised.
//!
//! A scanner opens thousands of handshakes that nobody answers. Per source prefix (/24, /48) and window of packet time
//! the first few are announced; the rest are counted and given as one summary per protocol when the window ends. A
//! flood from forged sources is another matter, many prefixes with an attempt or two: what the overall rate keeps from
//! them goes into one summary of the rest for each family and protocol. All tables are bounded, and so is the number of
//! summaries; every attempt is announced or in exactly one of them.
//!
//! The rule a reader would get wrong: a prefix has a summary of its own when it made more attempts than would be
//! announced, whether they were or not. A prefix that is pushed out of the table before gives its summary early, or
//! goes to the rest, and is counted.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::network;
use crate::fingerprint::Protocol;

/// How long attempts are counted together, in nanoseconds.
pub const WINDOW: i64 = 60_000_000_000;
const NEVER: i64 = i64::MAX;

/// How much is announced and held.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Announced per prefix and window.
    pub per_prefix: u64,
    /// Announced per window, all prefixes together.
    pub overall: u64,
    /// Summaries of prefixes, per window.
    pub summaries: u64,
    /// Windows held at once.
    pub prefixes: usize,
    /// Distinct destinations counted per summary.
    pub destinations: usize,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_prefix: 10, overall: 1_000, summaries: 1_000, prefixes: 4_096, destinations: 32 }
    }
}

/// Attempts that were counted instead of announced.
#[derive(Clone, Debug)]
pub struct Summary {
    /// When it was made.
    pub time: i64,
    /// Whose: a /24 or /48.
    pub source: IpAddr,
    /// With which protocol.
    pub protocol: Protocol,
    /// How many.
    pub count: u64,
    /// Time of the first.
    pub first: i64,
    /// Time of the last.
    pub last: i64,
    /// Distinct destinations.
    pub destinations: usize,
    /// There are more.
    pub is_capped: bool,
    /// Of the rest, which are of all prefixes of a family: so many windows of one.
    pub prefixes: Option<u64>,
}

impl Summary {
    /// Its prefix as text.
    pub fn source_prefix(&self) -> String {
        let length = match self.source {
            _ if self.prefixes.is_some() => 0,
            IpAddr::V4(_) => 24,
            IpAddr::V6(_) => 48,
        };
        format!("{}/{length}", self.source)
    }
}

#[derive(Debug)]
struct Count {
    first: i64,
    last: i64,
    flows: u64,
    destinations: Vec<IpAddr>,
    is_capped: bool,
    /// Of the rest: so many windows of a prefix.
    prefixes: u64,
}

impl Count {
    fn new(first: i64) -> Self {
        Self { first, last: first, flows: 0, destinations: Vec::new(), is_capped: false, prefixes: 0 }
    }

    fn add_destination(&mut self, destination: IpAddr, most: usize) {
        let is_full = self.is_capped && self.destinations.len() >= most;
        if !is_full && !self.destinations.contains(&destination) {
            if self.destinations.len() < most {
                self.destinations.push(destination);
            } else {
                self.is_capped = true;
            }
        }
    }

    fn summary(&self, time: i64, source: IpAddr, protocol: Protocol, prefixes: Option<u64>) -> Summary {
        Summary {
            time,
            source,
            protocol,
            count: self.flows,
            first: self.first,
            last: self.last,
            destinations: self.destinations.len(),
            is_capped: self.is_capped,
            prefixes,
        }
    }
}

#[derive(Debug)]
struct Window {
    start: i64,
    /// Announced or not.
    made: u64,
    /// Of those that were not announced.
    counts: Vec<(Protocol, Count)>,
}

/// Decides which attempts are announced, and counts the others.
#[derive(Debug)]
pub struct Attempts {
    rate: Rate,
    windows: HashMap<IpAddr, Window>,
    /// The prefixes of the windows, in the order in which they end.
    order: VecDeque<IpAddr>,
    /// The unspecified address of a family stands for it.
    rest: Vec<((IpAddr, Protocol), Count)>,
    rest_start: i64,
    closed: Vec<Summary>,
    overall_start: i64,
    overall: u64,
    summaries: u64,
    due_at: i64,
    summarised: u64,
    evicted: u64,
}

impl Attempts {
    /// Of this rate.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            windows: HashMap::new(),
            order: VecDeque::new(),
            rest: Vec::new(),
            rest_start: 0,
            closed: Vec::new(),
            overall_start: 0,
            overall: 0,
            summaries: 0,
            due_at: NEVER,
            summarised: 0,
            evicted: 0,
        }
    }

    /// Before that, [`Self::due`] has nothing to give.
    pub fn due_at(&self) -> i64 {
        self.due_at
    }

    /// Attempts counted instead of announced.
    pub fn summarised(&self) -> u64 {
        self.summarised
    }

    /// Windows that ended early because too many prefixes were active.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Whether to announce this attempt; it is counted for a summary if not.
    pub fn admit(&mut self, source: IpAddr, destination: IpAddr, protocol: Protocol, time: i64) -> bool {
        if time.saturating_sub(self.overall_start) >= WINDOW {
            self.overall_start = time;
            (self.overall, self.summaries) = (0, 0);
        }
        let prefix = network(source, 24, 48);
        if !self.windows.contains_key(&prefix) {
            self.open(prefix, time);
        }
        let Some(window) = self.windows.get_mut(&prefix) else { return true };
        window.made += 1;
        let is_announced = window.made <= self.rate.per_prefix && self.overall < self.rate.overall;
        if is_announced {
            self.overall += 1;
            return true;
        }
        self.summarised += 1;
        let of_protocol = window.counts.iter_mut().find(|(other, _)| *other == protocol);
        if let Some((_, count)) = of_protocol {
            count.flows += 1;
            count.last = time;
            count.add_destination(destination, self.rate.destinations);
        } else {
            let count = Count { flows: 1, destinations: vec![destination], ..Count::new(time) };
            window.counts.push((protocol, count));
        }
        false
    }

    /// Summaries of the windows that have ended by now, each with the time of its end.
    pub fn due(&mut self, time: i64) -> Vec<Summary> {
        while let Some(end) = self.oldest().map(|start| start.saturating_add(WINDOW))
            && end <= time
        {
            self.close(end);
        }
        let rest_end = self.rest_start.saturating_add(WINDOW);
        if !self.rest.is_empty() && rest_end <= time {
            self.close_rest(rest_end);
        }
        let rest_start = (!self.rest.is_empty()).then_some(self.rest_start);
        let start = self.oldest().into_iter().chain(rest_start).min();
        self.due_at = start.map_or(NEVER, |start| start.saturating_add(WINDOW));
        std::mem::take(&mut self.closed)
    }

    /// Summaries of all windows: the capture has ended.
    pub fn drain(&mut self, time: i64) -> Vec<Summary> {
        while !self.order.is_empty() {
            self.close(time);
        }
        self.close_rest(time);
        (self.overall_start, self.overall, self.summaries) = (0, 0, 0);
        self.due(time)
    }

    /// When the oldest window began.
    fn oldest(&self) -> Option<i64> {
        self.windows.get(self.order.front()?).map(|window| window.start)
    }

    fn open(&mut self, prefix: IpAddr, time: i64) {
        if self.windows.len() >= self.rate.prefixes {
            self.close(time);
            self.evicted += 1;
        }
        self.windows.insert(prefix, Window { start: time, made: 0, counts: Vec::new() });
        self.order.push_back(prefix);
        self.due_at = self.due_at.min(time.saturating_add(WINDOW));
    }

    /// The oldest window ends.
    fn close(&mut self, end: i64) {
        let Some(prefix) = self.order.pop_front() else { return };
        let Some(window) = self.windows.remove(&prefix) else { return };
        if window.made > self.rate.per_prefix && self.summaries < self.rate.summaries {
            self.summaries += u64::from(!window.counts.is_empty());
            for (protocol, count) in window.counts {
                self.closed.push(count.summary(end, prefix, protocol, None));
                self.due_at = i64::MIN;
            }
            return;
        }
        for (protocol, mut count) in window.counts {
            let most = self.rate.destinations;
            let rest = self.rest_of(prefix, protocol, count.first, end);
            rest.last = rest.last.max(count.last);
            rest.flows += count.flows;
            rest.prefixes += 1;
            rest.is_capped |= count.is_capped;
            count.destinations.sort_unstable();
            for destination in count.destinations {
                rest.add_destination(destination, most);
            }
        }
    }

    /// Where windows that ended at `end` are counted together, the first attempt of one included.
    fn rest_of(&mut self, prefix: IpAddr, protocol: Protocol, first: i64, end: i64) -> &mut Count {
        if self.rest.is_empty() {
            self.rest_start = end;
            self.due_at = self.due_at.min(end.saturating_add(WINDOW));
        }
        let key = (network(prefix, 0, 0), protocol);
        let place = self.rest.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
            self.rest.push((key, Count::new(first)));
            self.rest.len() - 1
        });
        let rest = &mut self.rest[place].1;
        rest.first = rest.first.min(first);
        rest
    }

    fn close_rest(&mut self, end: i64) {
        for ((family, protocol), count) in self.rest.drain(..) {
            self.closed.push(count.summary(end, family, protocol, Some(count.prefixes)));
        }
    }
}

#[cfg(test)]
mod tests;
