//! Attempts against a plain reading of what is announced, and two floods by the usual rate.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const SECOND: i64 = 1_000_000_000;
/// Addresses with the networks that count, by hand.
const SOURCES: [(&str, &str); 8] = [
    ("192.0.2.1", "192.0.2.0/24"),
    ("192.0.2.200", "192.0.2.0/24"),
    ("192.0.3.200", "192.0.3.0/24"),
    ("198.51.100.7", "198.51.100.0/24"),
    ("203.0.113.9", "203.0.113.0/24"),
    ("2001:db8:1:2::3", "2001:db8:1::/48"),
    ("2001:db8:1:ffff::3", "2001:db8:1::/48"),
    ("2001:db8:2:2::3", "2001:db8:2::/48"),
];

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// One that is not announced.
#[derive(Clone, Copy)]
struct Silent {
    destination: u8,
    protocol: Protocol,
    time: i64,
}

struct PlainWindow {
    prefix: &'static str,
    start: i64,
    made: u64,
    silent: Vec<Silent>,
}

/// All attempts of a window are held until it ends, and then looked at.
struct Plain {
    rate: Rate,
    windows: Vec<PlainWindow>,
    rest: Vec<PlainWindow>,
    rest_start: i64,
    start: i64,
    announced: u64,
    summaries: u64,
    evicted: u64,
    closed: Vec<String>,
}

impl Plain {
    fn new(rate: Rate) -> Self {
        let (windows, rest, closed) = Default::default();
        Self { rate, windows, rest, rest_start: 0, start: 0, announced: 0, summaries: 0, evicted: 0, closed }
    }

    fn admit(&mut self, prefix: &'static str, attempt: Silent) -> bool {
        if attempt.time - self.start >= WINDOW {
            (self.start, self.announced, self.summaries) = (attempt.time, 0, 0);
        }
        if self.windows.iter().all(|window| window.prefix != prefix) {
            if self.windows.len() == self.rate.prefixes {
                self.close(attempt.time);
                self.evicted += 1;
            }
            self.windows.push(PlainWindow { prefix, start: attempt.time, made: 0, silent: Vec::new() });
        }
        let window = self.windows.iter_mut().find(|window| window.prefix == prefix).expect("a window");
        window.made += 1;
        let is_announced = window.made <= self.rate.per_prefix && self.announced < self.rate.overall;
        if is_announced {
            self.announced += 1;
        } else {
            window.silent.push(attempt);
        }
        is_announced
    }

    fn close(&mut self, end: i64) {
        let window = self.windows.remove(0);
        if window.silent.is_empty() {
            return;
        }
        if window.made > self.rate.per_prefix && self.summaries < self.rate.summaries {
            self.summaries += 1;
            self.tell(end, window.prefix, &[window], false);
        } else {
            if self.rest.is_empty() {
                self.rest_start = end;
            }
            self.rest.push(window);
        }
    }

    fn close_rest(&mut self, end: i64) {
        let rest = std::mem::take(&mut self.rest);
        let mut told = BTreeSet::new();
        // A family comes with its first window, and each protocol of it with the first that has it.
        for (first, protocol) in
            rest.iter().flat_map(|window| protocols(window).map(move |protocol| (window, protocol)))
        {
            if told.insert((first.family(), protocol.name())) {
                let mine = rest.iter().filter(|window| window.family() == first.family());
                self.tell(end, first.family(), &mine.map(|window| window.only(protocol)).collect::<Vec<_>>(), true);
            }
        }
    }

    /// A summary of these windows for each protocol, in the order in which they come.
    fn tell(&mut self, end: i64, prefix: &str, windows: &[PlainWindow], is_rest: bool) {
        let mut told = BTreeSet::new();
        for protocol in windows.iter().flat_map(protocols).filter(|protocol| told.insert(protocol.name())) {
            let of_protocol = |window: &&PlainWindow| protocols(window).any(|other| other == protocol);
            let prefixes = windows.iter().filter(of_protocol).count() as u64;
            let some: Vec<_> =
                windows.iter().flat_map(|window| &window.silent).filter(|one| one.protocol == protocol).collect();
            let destinations = some.iter().map(|one| one.destination).collect::<BTreeSet<_>>().len();
            let times = || some.iter().map(|one| one.time);
            self.closed.push(text(
                end,
                prefix,
                protocol,
                some.len() as u64,
                [times().min(), times().max()].map(|time| time.expect("one at least")),
                destinations.min(self.rate.destinations),
                destinations > self.rate.destinations,
                is_rest.then_some(prefixes),
            ));
        }
    }

    fn due(&mut self, time: i64) -> Vec<String> {
        while self.windows.first().is_some_and(|window| window.start + WINDOW <= time) {
            self.close(self.windows[0].start + WINDOW);
        }
        if !self.rest.is_empty() && self.rest_start + WINDOW <= time {
            self.close_rest(self.rest_start + WINDOW);
        }
        std::mem::take(&mut self.closed)
    }

    fn drain(&mut self, time: i64) -> Vec<String> {
        while !self.windows.is_empty() {
            self.close(time);
        }
        self.close_rest(time);
        (self.start, self.announced, self.summaries) = (0, 0, 0);
        std::mem::take(&mut self.closed)
    }
}

impl PlainWindow {
    fn family(&self) -> &'static str {
        if self.prefix.contains(':') { "::/0" } else { "0.0.0.0/0" }
    }

    fn only(&self, protocol: Protocol) -> Self {
        let silent = self.silent.iter().copied().filter(|one| one.protocol == protocol).collect();
        Self { silent, ..*self }
    }
}

/// Those of a window, in the order in which they come.
fn protocols(window: &PlainWindow) -> impl Iterator<Item = Protocol> {
    let mut met = BTreeSet::new();
    window.silent.iter().map(|one| one.protocol).filter(move |protocol| met.insert(protocol.name()))
}

#[expect(clippy::too_many_arguments, reason = "the fields of a summary, of which tests compare the text")]
fn text(
    time: i64,
    prefix: &str,
    protocol: Protocol,
    count: u64,
    [first, last]: [i64; 2],
    destinations: usize,
    is_capped: bool,
    prefixes: Option<u64>,
) -> String {
    let more = if is_capped { "+" } else { "" };
    format!("{time} {prefix} {} {count} {first}..{last} to {destinations}{more}, {prefixes:?}", protocol.name())
}

fn as_text(summaries: &[Summary]) -> Vec<String> {
    let one = |summary: &Summary| {
        let Summary { time, protocol, count, first, last, destinations, is_capped, prefixes, .. } = *summary;
        text(time, &summary.source_prefix(), protocol, count, [first, last], destinations, is_capped, prefixes)
    };
    summaries.iter().map(one).collect()
}

type Steps = Vec<(usize, u8, usize, i64)>;

/// Source, destination, protocol, and nanoseconds since the one before; mostly several in a window.
fn steps() -> impl Strategy<Value = Steps> {
    let wait = prop_oneof![4 => 0..4 * SECOND, 2 => 4 * SECOND..WINDOW, 1 => Just(WINDOW), 1 => WINDOW..3 * WINDOW];
    proptest::collection::vec((0..SOURCES.len(), 0_u8..6, 0..Protocol::ALL.len(), wait), 0..80)
}

fn rates() -> impl Strategy<Value = Rate> {
    (0_u64..4, 0_u64..7, 0_u64..4, 1_usize..5, 1_usize..4).prop_map(
        |(per_prefix, overall, summaries, prefixes, destinations)| Rate {
            per_prefix,
            overall,
            summaries,
            prefixes,
            destinations,
        },
    )
}

proptest! {
    /// Over two captures, of which the second has an earlier clock.
    #[test]
    fn as_a_plain_reading(rate in rates(), captures in [steps(), steps()]) {
        let (mut attempts, mut plain) = (Attempts::new(rate), Plain::new(rate));
        let (mut made, mut announced, mut summed) = (0_u64, 0_u64, 0_u64);
        for steps in captures {
            let mut time = 1_000 * SECOND;
            for (source, destination, protocol, wait) in steps {
                time += wait;
                // As the reporter does: asked only when there may be something.
                let due = if attempts.due_at() <= time { attempts.due(time) } else { Vec::new() };
                prop_assert_eq!(as_text(&due), plain.due(time));
                prop_assert!(attempts.due_at() > time);
                summed += due.iter().map(|summary| summary.count).sum::<u64>();

                let (source, prefix) = SOURCES[source];
                let protocol = Protocol::ALL[protocol];
                let is_announced =
                    attempts.admit(address(source), IpAddr::from([10, 0, 0, destination]), protocol, time);
                prop_assert_eq!(is_announced, plain.admit(prefix, Silent { destination, protocol, time }));
                prop_assert!(attempts.windows.len() <= rate.prefixes);
                made += 1;
                announced += u64::from(is_announced);
            }
            let rest = attempts.drain(time);
            prop_assert_eq!(as_text(&rest), plain.drain(time));
            summed += rest.iter().map(|summary| summary.count).sum::<u64>();
            prop_assert!(attempts.windows.is_empty() && attempts.order.is_empty() && attempts.rest.is_empty());
            prop_assert_eq!(attempts.due_at(), NEVER);
        }
        prop_assert_eq!((announced + summed, attempts.summarised()), (made, summed));
        prop_assert_eq!(attempts.evicted(), plain.evicted);
    }
}

#[test]
fn a_scanner_is_announced_ten_times_a_minute_and_summed_up() {
    let mut attempts = Attempts::new(Rate::default());
    let scan = |attempts: &mut Attempts, time: i64| {
        let targets = (0..1_000_u32).map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
        targets.filter(|&target| attempts.admit(address("192.0.2.9"), target, Protocol::Ipsec, time)).count()
    };
    assert_eq!(scan(&mut attempts, 5), 10);
    assert_eq!(as_text(&attempts.due(WINDOW + 4)), [""; 0]);
    let expected = format!("{} 192.0.2.0/24 ipsec 990 5..5 to 32+, None", WINDOW + 5);
    assert_eq!(as_text(&attempts.due(WINDOW + 5)), [expected]);
    assert_eq!(scan(&mut attempts, WINDOW + 5), 10);
    assert_eq!(attempts.summarised(), 1_980);
}

/// Openings from addresses that nobody has twice cost one summary, and no more memory than is set.
#[test]
fn a_flood_from_forged_sources_is_one_summary_of_the_rest() {
    let mut attempts = Attempts::new(Rate::default());
    let sources = (0..10_000_u32).map(|number| IpAddr::from((0x2000_0001 + (number << 8)).to_be_bytes()));
    let to = address("192.0.2.9");
    assert_eq!(sources.filter(|&source| attempts.admit(source, to, Protocol::OpenVpn, 7)).count(), 1_000);
    assert_eq!((attempts.windows.len(), attempts.evicted()), (4_096, 10_000 - 4_096));
    assert_eq!(as_text(&attempts.drain(9)), ["9 0.0.0.0/0 openvpn 9000 7..7 to 1, Some(9000)"]);
}

/// What is kept apart has at most so many summaries; the others are in the rest, and none is lost.
#[test]
fn scanners_beyond_the_summaries_of_a_window_are_in_the_rest() {
    let mut attempts = Attempts::new(Rate { per_prefix: 1, overall: 0, summaries: 2, ..Rate::default() });
    for number in 0..5 {
        for _ in 0..3 {
            assert!(!attempts.admit(IpAddr::from([10, 0, number, 1]), address("192.0.2.9"), Protocol::Ipsec, 7));
        }
    }
    let expected = [
        "9 10.0.0.0/24 ipsec 3 7..7 to 1, None",
        "9 10.0.1.0/24 ipsec 3 7..7 to 1, None",
        "9 0.0.0.0/0 ipsec 9 7..7 to 1, Some(3)",
    ];
    assert_eq!(as_text(&attempts.drain(9)), expected);
}
