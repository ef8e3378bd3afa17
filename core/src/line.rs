//! The event line of a report: what the core knows of a flow, as JSON, around what Python says about it.
//!
//! In: a report, and the parts that Python gives as JSON (who observed, which capture, the policy's judgement).
//! Out: one line of `event.schema.json`, as `events.VpnEvent` types it. A recognised flow gives several of them, so a
//! line is written straight into its buffer. Everything written here is a number, an address, or a name of ours: what
//! could need escaping comes from Python, which has escaped it.
//!
//! One judgement is Python's answer for many flows. What differs between them is left open in it, as a byte that JSON
//! text never has: see [`Hole`].

use std::net::{Ipv4Addr, Ipv6Addr};

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest as _};

use crate::decode::{EncapLayer, Transport};
use crate::fingerprint::LookAlike;
use crate::flow::FlowReport;
use crate::flow::community_id;

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// What a control character in a [`Template`] stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hole {
    /// The address of an end, by its place: 0 the source.
    Address(usize),
    /// What stands for an end as a subject: the address for IPv4, its /64 for IPv6.
    Subject(usize),
    /// The id of the case with this end as its subject.
    Case(usize),
    /// When the case was first seen.
    Seen,
}

impl Hole {
    /// All of them, by their bytes, from 1 on.
    pub const ALL: [Self; 7] = [
        Self::Address(0),
        Self::Address(1),
        Self::Subject(0),
        Self::Subject(1),
        Self::Case(0),
        Self::Case(1),
        Self::Seen,
    ];

    /// Name in the Python module.
    pub fn name(self) -> &'static str {
        match self {
            Self::Address(0) => "source",
            Self::Address(_) => "destination",
            Self::Subject(0) => "source_subject",
            Self::Subject(_) => "destination_subject",
            Self::Case(0) => "source_case",
            Self::Case(_) => "destination_case",
            Self::Seen => "seen",
        }
    }
}

/// JSON in which some bytes are holes, by their places.
#[derive(Clone, Debug, Default)]
pub struct Template {
    text: Box<[u8]>,
    holes: Box<[(usize, Hole)]>,
}

impl From<&[u8]> for Template {
    fn from(text: &[u8]) -> Self {
        let holes = text.iter().enumerate().filter_map(|(place, &byte)| {
            let hole = Hole::ALL.get(usize::from(byte).wrapping_sub(1))?;
            Some((place, *hole))
        });
        Self { text: text.into(), holes: holes.collect() }
    }
}

/// What Python adds to a line, as JSON without the braces and commas around it.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Members between `timestamp` and `flow_id`.
    pub head: &'a [u8],
    /// Members between `community_id` and `vlan`.
    pub capture: &'a [u8],
    /// Value of `policy` in pieces, one behind the other, with holes.
    pub policy: &'a [&'a Template],
    /// Members behind `flow`.
    pub tail: &'a [u8],
    /// When the case was first seen.
    pub seen: i64,
}

/// Whether the flow's ends have ports.
pub fn has_ports(report: &FlowReport) -> bool {
    matches!(report.key.transport, Transport::Tcp | Transport::Udp)
}

/// An address as text (RFC 5952 for IPv6).
pub fn address_text(address: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(address) {
        Ipv4Addr::from(octets).to_string()
    } else if let Ok(octets) = <[u8; 16]>::try_from(address) {
        Ipv6Addr::from(octets).to_string()
    } else {
        String::new()
    }
}

/// The id of a case, as `cases.case_id` makes it: eight bytes of BLAKE2b over subject prefix, remote address and
/// protocol, all in hexadecimal.
pub fn case_id(subject: &[u8], remote: &[u8], protocol: &str) -> [u8; 16] {
    let prefix = if subject.len() == 4 { subject } else { subject.get(..8).unwrap_or(subject) };
    let mut hash = Blake2b::<U8>::new();
    for part in [prefix, remote] {
        let mut text = [b'|'; 33];
        let digits = part.iter().copied().flat_map(hexadecimal);
        text.iter_mut().zip(digits).for_each(|(place, digit)| *place = digit);
        hash.update(text.get(..=2 * part.len()).unwrap_or(&text));
    }
    hash.update(protocol.as_bytes());
    let mut id = [0; 16];
    for (digits, &byte) in id.chunks_exact_mut(2).zip(&hash.finalize()) {
        digits.copy_from_slice(&hexadecimal(byte));
    }
    id
}

fn hexadecimal(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 })
}

/// Lines, one behind the other.
#[derive(Debug)]
pub struct Lines {
    /// What was written.
    pub text: Vec<u8>,
    /// Where the id of the latest case begins.
    case: usize,
    /// The second written last, as text: a line names the same few.
    second: (i64, [u8; 19]),
}

impl Default for Lines {
    fn default() -> Self {
        Self { text: Vec::new(), case: 0, second: (0, second_text(0)) }
    }
}

impl Lines {
    /// Writes the line of a report, its newline included, behind the others. Where the id of its case begins.
    pub fn write(&mut self, report: &FlowReport, parts: &Parts<'_>) -> usize {
        let line = self;
        let [(source, source_port), (destination, destination_port)] = report.ends();
        let (to_server, to_client) = (usize::from(report.initiator()), usize::from(report.initiator() ^ 1));

        line.put("{\"timestamp\":").time(report.time);
        line.put(",").raw(parts.head);
        line.put(",\"flow_id\":").number(report.flow_id);
        line.put(",\"community_id\":\"1:").raw(&community_id::digest(&report.key)).put("\"");
        line.put(",").raw(parts.capture);
        line.put(",\"vlan\":").list(report.vlans.ids(), |line, id| line.number(u64::from(id)));
        line.put(",\"encap\":").list(report.path.layers(), |line, layer| line.quoted(EncapLayer::name(layer)));
        line.put(",\"src_ip\":").address(source);
        line.put(",\"dest_ip\":").address(destination);
        line.put(",\"proto\":").quoted(report.key.transport.name());
        line.put(",\"ip_v\":").number(u64::from(report.key.ip_version));

        line.put(",\"vpn\":{\"protocol\":").quoted(report.protocol.name());
        line.put(",\"variant\":").quoted(report.finding.variant.name());
        line.put(",\"confidence\":").quoted(report.finding.confidence.name());
        line.put(",\"phase\":").quoted(report.finding.phase.name());
        line.put(",\"oneway\":").flag(report.is_one_way());
        line.put(",\"midflow\":").flag(report.finding.midflow);
        line.put(",\"via_proxy\":").flag(report.via_proxy);
        line.put(",\"evidence\":").list(report.evidence.items().iter(), |line, item| {
            line.put("{\"id\":").quoted(item.kind.id);
            line.put(",\"bits\":").number(u64::from(item.bits()));
            line.put(",\"packet\":").number(item.packet);
            line.put(",\"time\":").time(item.time);
            line.put(",\"direction\":").quoted(report.direction_name(item.direction));
            line.put(",\"length\":").number(u64::from(item.length));
            line.put(",\"count\":").number(u64::from(item.count)).put("}")
        });
        line.put(",\"ruled_out\":")
            .list(report.evidence.ruled_out(), |line, other| line.quoted(LookAlike::name(other)));

        line.put("},\"policy\":");
        for piece in parts.policy {
            line.filled(piece, report, parts.seen);
        }

        line.put(",\"flow\":{\"pkts_toserver\":").number(report.packets[to_server]);
        line.put(",\"pkts_toclient\":").number(report.packets[to_client]);
        line.put(",\"bytes_toserver\":").number(report.bytes[to_server]);
        line.put(",\"bytes_toclient\":").number(report.bytes[to_client]);
        line.put(",\"start\":").time(report.start);
        line.put(",\"end\":").time(report.end);
        if let Some(reason) = report.end_reason {
            line.put(",\"reason\":").quoted(reason.name());
        }
        line.put("},").raw(parts.tail);
        if has_ports(report) {
            line.put(",\"src_port\":").number(u64::from(source_port));
            line.put(",\"dest_port\":").number(u64::from(destination_port));
        }
        line.put("}\n");
        line.case
    }

    #[inline(always)]
    fn raw(&mut self, json: &[u8]) -> &mut Self {
        self.text.extend_from_slice(json);
        self
    }

    #[inline(always)]
    fn put(&mut self, text: &str) -> &mut Self {
        self.raw(text.as_bytes())
    }

    fn quoted(&mut self, name: &str) -> &mut Self {
        self.put("\"").put(name).put("\"")
    }

    fn flag(&mut self, value: bool) -> &mut Self {
        self.put(if value { "true" } else { "false" })
    }

    fn number(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [b'0'; 20];
        let mut first = digits.len();
        while number >= 100 {
            first -= 2;
            digits[first..first + 2].copy_from_slice(&pair((number % 100) as u32));
            number /= 100;
        }
        let [tens, ones] = pair(number as u32);
        first -= 1;
        digits[first] = ones;
        if number >= 10 {
            first -= 1;
            digits[first] = tens;
        }
        self.raw(&digits[first..])
    }

    fn address(&mut self, address: &[u8]) -> &mut Self {
        self.put("\"").bare_address(address).put("\"")
    }

    fn bare_address(&mut self, address: &[u8]) -> &mut Self {
        let &[a, b, c, d] = address else { return self.put(&address_text(address)) };
        self.number(u64::from(a));
        for octet in [b, c, d] {
            self.put(".").number(u64::from(octet));
        }
        self
    }

    /// Text with its holes filled.
    fn filled(&mut self, template: &Template, report: &FlowReport, seen: i64) -> &mut Self {
        let mut start = 0;
        for &(place, hole) in &template.holes {
            self.raw(&template.text[start..place]).hole(hole, report, seen);
            start = place + 1;
        }
        self.raw(&template.text[start..])
    }

    fn hole(&mut self, hole: Hole, report: &FlowReport, seen: i64) -> &mut Self {
        let ends = report.ends().map(|(address, _)| address);
        let end = |place: usize| ends.get(place).copied().unwrap_or_default();
        match hole {
            Hole::Address(place) => self.bare_address(end(place)),
            Hole::Case(place) => {
                self.case = self.text.len();
                self.raw(&case_id(end(place), end(1 - place), report.protocol.name()))
            }
            Hole::Seen => self.second(seen),
            Hole::Subject(place) => match <[u8; 16]>::try_from(end(place)) {
                Ok(octets) => {
                    let network = u128::from_be_bytes(octets) >> 64 << 64;
                    self.put(&address_text(&network.to_be_bytes())).put("/64")
                }
                Err(_) => self.bare_address(end(place)),
            },
        }
    }

    fn list<T>(&mut self, items: impl Iterator<Item = T>, write: impl Fn(&mut Self, T) -> &mut Self) -> &mut Self {
        self.put("[");
        for (place, item) in items.enumerate() {
            if place > 0 {
                self.put(",");
            }
            write(self, item);
        }
        self.put("]")
    }

    /// RFC 3339 in UTC, exact to the nanosecond.
    fn time(&mut self, time: i64) -> &mut Self {
        let second = time.div_euclid(SECOND);
        if self.second.0 != second {
            self.second = (second, second_text(second));
        }
        let mut text = *b"\"0000-00-00T00:00:00.000000000Z\"";
        text[1..20].copy_from_slice(&self.second.1);
        text[21..30].copy_from_slice(&nine_digits(time.rem_euclid(SECOND) as u32));
        self.raw(&text)
    }

    /// As sentences name a time: to the second.
    fn second(&mut self, time: i64) -> &mut Self {
        let mut text = *b"0000-00-00 00:00:00 UTC";
        text[..19].copy_from_slice(&second_text(time.div_euclid(SECOND)));
        text[10] = b' ';
        self.raw(&text)
    }
}

/// Date and clock of a second since 1970.
fn second_text(second: i64) -> [u8; 19] {
    let (year, month, day) = date(second.div_euclid(DAY));
    let clock = second.rem_euclid(DAY) as u32;
    let mut text = *b"0000-00-00T00:00:00";
    let places = [0, 2, 5, 8, 11, 14, 17];
    let numbers =
        [year as u32 / 100, year as u32 % 100, month as u32, day as u32, clock / 3600, clock / 60 % 60, clock % 60];
    for (place, number) in places.into_iter().zip(numbers) {
        text[place..place + 2].copy_from_slice(&pair(number));
    }
    text
}

fn nine_digits(number: u32) -> [u8; 9] {
    let (high, low) = (number / 100_000, number % 100_000);
    let [a, b] = pair(high / 100 % 100);
    let [c, d] = pair(high % 100);
    let [e, f] = pair(low / 1_000);
    let [g, h] = pair(low / 10 % 100);
    [a, b, c, d, e, f, g, h, b'0' + (low % 10) as u8]
}

/// The two digits of a number below 100.
#[inline(always)]
fn pair(number: u32) -> [u8; 2] {
    PAIRS[(number % 100) as usize]
}

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + number as u8 / 10, b'0' + number as u8 % 10];
        number += 1;
    }
    pairs
};

/// Year, month and day in the Gregorian calendar of a day since 1970 (Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`). Nanoseconds in 64 bits reach from 1677 to 2262.
fn date(days: i64) -> (u64, u64, u64) {
    // Days since 0000-03-01: with March first, the leap day ends a year.
    let days = (days + 719_468) as u64;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + later, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Path, Vlans};
    use crate::fingerprint::{Confidence, EvidenceKind, Finding, Phase, Protocol, Variant};
    use crate::flow::EndReason;
    use crate::reporter::testing::report;
    use proptest::prelude::*;

    fn written(write: impl Fn(&mut Lines) -> &mut Lines) -> String {
        let mut lines = Lines::default();
        write(&mut lines);
        String::from_utf8(lines.text).unwrap_or_default()
    }

    #[test]
    fn times_as_rfc_3339_writes_them() {
        for (time, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (951_782_400 * SECOND, "2000-02-29T00:00:00.000000000Z"),
            (1_772_366_400 * SECOND + 7, "2026-03-01T12:00:00.000000007Z"),
            (4_107_542_399 * SECOND, "2100-02-28T23:59:59.000000000Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ] {
            assert_eq!(written(|line| line.time(time)), format!("\"{text}\""));
            assert_eq!(written(|line| line.second(time)), format!("{} {} UTC", &text[..10], &text[11..19]));
        }
    }

    /// Each day is the one after the one before, from before 1900 to after 2100.
    #[test]
    fn days_follow_each_other() {
        let mut before = date(-30_000);
        for days in -29_999..60_000 {
            let (year, month, day) = date(days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match before.1 {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = if before.2 < last {
                (before.0, before.1, before.2 + 1)
            } else if before.1 < 12 {
                (before.0, before.1 + 1, 1)
            } else {
                (before.0 + 1, 1, 1)
            };
            assert_eq!((year, month, day), expected);
            before = (year, month, day);
        }
    }

    #[test]
    fn addresses_and_lists() {
        assert_eq!(written(|line| line.address(&[192, 0, 2, 10])), "\"192.0.2.10\"");
        let mut address = [0; 16];
        (address[0], address[15]) = (0xfe, 1);
        assert_eq!(written(|line| line.address(&address)), "\"fe00::1\"");
        let list = |numbers: &[u64]| written(|line| line.list(numbers.iter(), |line, &number| line.number(number)));
        assert_eq!((list(&[]), list(&[7]), list(&[7, 0, 18])), ("[]".into(), "[7]".into(), "[7,0,18]".into()));
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_they_are(number: u64, shift in 0_u32..64) {
            for number in [number, number >> shift, 10_u64.pow(shift % 20), 10_u64.pow(shift % 20) - 1] {
                prop_assert_eq!(written(|line| line.number(number)), number.to_string());
            }
        }

        #[test]
        fn fractions_have_nine_digits(number in 0_u32..1_000_000_000) {
            prop_assert_eq!(nine_digits(number).to_vec(), format!("{number:09}").into_bytes());
        }
    }

    /// By `b2sum -l 64` of `c0000201|c6336401|wireguard`, and of the other's prefix and address likewise.
    #[test]
    fn ids_of_cases_are_those_that_others_compute() {
        assert_eq!(&case_id(&[192, 0, 2, 1], &[198, 51, 100, 1], "wireguard"), b"bf52ec69f6c7f5f7");
        let [subject, remote] = ["2001:db8:1:2:3::4", "2001:db8:ffff::1"]
            .map(|text| text.parse::<Ipv6Addr>().expect("an address").octets());
        assert_eq!(&case_id(&subject, &remote, "ipsec"), b"908e98d06403c0f1");
    }

    fn filled(template: &[u8], report: &FlowReport, seen: i64) -> String {
        written(|line| line.filled(&template.into(), report, seen))
    }

    /// As `_core.HOLES` gives them to Python.
    #[test]
    fn holes_have_the_bytes_from_one_on() {
        let names = Hole::ALL.map(Hole::name);
        assert_eq!(names[..4], ["source", "destination", "source_subject", "destination_subject"]);
        assert_eq!(names[4..], ["source_case", "destination_case", "seen"]);
        let template = Template::from(&b"\x00a\x01\x07\x08"[..]);
        assert_eq!(*template.holes, [(2, Hole::Address(0)), (3, Hole::Seen)], "0 and 8 stand for themselves");
    }

    #[test]
    fn holes_are_filled_with_what_is_a_flows_own() {
        let ipv4 = report("192.168.1.52:54585", "8.8.8.8:53");
        assert_eq!(filled(b"none", &ipv4, 0), "none");
        assert_eq!(
            filled(b"\x01 to \x02, \x03 and \x04", &ipv4, 0),
            "192.168.1.52 to 8.8.8.8, 192.168.1.52 and 8.8.8.8"
        );
        assert_eq!(filled(b"\x05\x07", &ipv4, 951_782_400 * SECOND), "be27fe10444513472000-02-29 00:00:00 UTC");
        let ipv6 = report("[2001:db8:1:2:3::4]:500", "[2001:db8:ffff::1]:500");
        assert_eq!(filled(b"\x01, \x03", &ipv6, 0), "2001:db8:1:2:3::4, 2001:db8:1:2::/64");
        assert_eq!(filled(b"\x02, \x04", &ipv6, 0), "2001:db8:ffff::1, 2001:db8:ffff::/64");
        assert_ne!(filled(b"\x05", &ipv6, 0), filled(b"\x06", &ipv6, 0));
    }

    static FACT: EvidenceKind = EvidenceKind {
        id: "wireguard.fact",
        protocol: Protocol::WireGuard,
        bits: 33,
        fact: "A fact",
        source: "Nowhere",
        rules_out: "nothing",
    };

    /// The first packet went to the initiator: what is counted by direction turns with it.
    fn answered_first() -> FlowReport {
        let mut report = report("192.168.1.52:54585", "8.8.8.8:53");
        report.first_is_low = !report.first_is_low;
        let (confidence, phase, variant) = (Confidence::Confirmed, Phase::Established, Variant::WireGuard);
        report.finding = Finding { confidence, phase, variant, initiator: Some(1), midflow: true };
        report.vlans = Vlans(8 << 16 | 21);
        report.path = Path(1 << 5 | 2);
        for _ in 0..2 {
            report.evidence.add(&FACT, 4, 5, 1, 148);
        }
        report.evidence.rule_out(LookAlike::Dns);
        (report.packets, report.bytes) = ([3, 4], [300, 4_000]);
        (report.time, report.start, report.end) = (SECOND, 2, 3 * SECOND);
        report.end_reason = Some(EndReason::IdleTimeout);
        report
    }

    #[test]
    fn a_line_has_all_that_is_known_of_a_flow() {
        let (opening, entries) = (Template::from(&b"{\"first\":\x05,\"end\":"[..]), Template::from(&b"\"\x01\"}"[..]));
        let parts = Parts {
            head: b"\"event\":\"ended\"",
            capture: b"\"in_iface\":\"eth1\"",
            policy: &[&opening, &entries],
            tail: b"\"version\":\"1\"",
            seen: 0,
        };
        let mut lines = Lines::default();
        let case = lines.write(&answered_first(), &parts);
        let expected = concat!(
            r#"{"timestamp":"1970-01-01T00:00:01.000000000Z","event":"ended","flow_id":7,"#,
            r#""community_id":"1:d/FP5EW3wiY1vCndhwleRRKHowQ=","in_iface":"eth1","vlan":[7,20],"#,
            r#""encap":["ethernet","802.1q"],"src_ip":"192.168.1.52","dest_ip":"8.8.8.8","proto":"UDP","ip_v":4,"#,
            r#""vpn":{"protocol":"wireguard","variant":"standard","confidence":"confirmed","phase":"established","#,
            r#""oneway":false,"midflow":true,"via_proxy":false,"evidence":[{"id":"wireguard.fact","bits":66,"#,
            r#""packet":4,"time":"1970-01-01T00:00:00.000000005Z","direction":"to_server","length":148,"count":2}],"#,
            r#""ruled_out":["dns"]},"policy":{"first":be27fe1044451347,"end":"192.168.1.52"},"#,
            r#""flow":{"pkts_toserver":4,"pkts_toclient":3,"bytes_toserver":4000,"bytes_toclient":300,"#,
            r#""start":"1970-01-01T00:00:00.000000002Z","end":"1970-01-01T00:00:03.000000000Z","#,
            r#""reason":"idle_timeout"},"version":"1","src_port":54585,"dest_port":53}"#,
            "\n"
        );
        assert_eq!(String::from_utf8_lossy(&lines.text), expected);
        assert_eq!(&lines.text[case..case + 16], b"be27fe1044451347");

        // Lines stand one behind the other, each with the place of its own case.
        let second = lines.write(&answered_first(), &parts);
        assert_eq!((second, lines.text.len()), (expected.len() + case, 2 * expected.len()));
    }

    #[test]
    fn who_has_no_ports_gets_none_and_who_runs_no_reason() {
        let mut report = report("[2001:db8:1:2:3::4]:0", "[2001:db8:ffff::1]:0");
        report.key.transport = Transport::Esp;
        report.packets = [3, 0];
        let mut lines = Lines::default();
        lines.write(&report, &Parts { head: b"", capture: b"", policy: &[], tail: b"\"version\":\"1\"", seen: 0 });
        let line = String::from_utf8_lossy(&lines.text);
        assert!(line.ends_with("00Z\"},\"version\":\"1\"}\n"), "{line}");
        assert!(line.contains("\"proto\":\"ESP\",\"ip_v\":6,") && line.contains("\"oneway\":true"), "{line}");
    }
}
