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
use crate::flow::community_id::community_id;

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// What a control character in [`Parts::policy`] stands for.
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

/// The first byte that is no hole.
const TEXT: u8 = Hole::ALL.len() as u8 + 1;

/// What Python adds to a line, as JSON without the braces and commas around it.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Members between `timestamp` and `flow_id`.
    pub head: &'a [u8],
    /// Members between `community_id` and `vlan`.
    pub capture: &'a [u8],
    /// Value of `policy` in pieces, one behind the other, with holes.
    pub policy: &'a [&'a [u8]],
    /// Members behind `flow`.
    pub tail: &'a [u8],
    /// When the case was first seen.
    pub seen: i64,
}

/// Writes the line of a report, its newline included, behind what is in the buffer. Where the id of its case begins.
pub fn write_event_line(buffer: &mut Vec<u8>, report: &FlowReport, parts: &Parts<'_>) -> usize {
    let mut line = Line { buffer, case: 0 };
    let [(source, source_port), (destination, destination_port)] = report.ends();
    let (to_server, to_client) = (usize::from(report.initiator()), usize::from(report.initiator() ^ 1));

    line.text("{\"timestamp\":").time(report.time);
    line.text(",").raw(parts.head);
    line.text(",\"flow_id\":").number(report.flow_id);
    line.text(",\"community_id\":").quoted(&community_id(&report.key));
    line.text(",").raw(parts.capture);
    line.text(",\"vlan\":").list(report.vlans.ids(), |line, id| line.number(u64::from(id)));
    line.text(",\"encap\":").list(report.path.layers(), |line, layer| line.quoted(EncapLayer::name(layer)));
    line.text(",\"src_ip\":").address(source);
    line.text(",\"dest_ip\":").address(destination);
    line.text(",\"proto\":").quoted(report.key.transport.name());
    line.text(",\"ip_v\":").number(u64::from(report.key.ip_version));

    line.text(",\"vpn\":{\"protocol\":").quoted(report.protocol.name());
    line.text(",\"variant\":").quoted(report.finding.variant.name());
    line.text(",\"confidence\":").quoted(report.finding.confidence.name());
    line.text(",\"phase\":").quoted(report.finding.phase.name());
    line.text(",\"oneway\":").flag(report.is_one_way());
    line.text(",\"midflow\":").flag(report.finding.midflow);
    line.text(",\"via_proxy\":").flag(report.via_proxy);
    line.text(",\"evidence\":").list(report.evidence.items().iter(), |line, item| {
        line.text("{\"id\":").quoted(item.kind.id);
        line.text(",\"bits\":").number(u64::from(item.bits()));
        line.text(",\"packet\":").number(item.packet);
        line.text(",\"time\":").time(item.time);
        line.text(",\"direction\":").quoted(report.direction_name(item.direction));
        line.text(",\"length\":").number(u64::from(item.length));
        line.text(",\"count\":").number(u64::from(item.count)).text("}")
    });
    line.text(",\"ruled_out\":").list(report.evidence.ruled_out(), |line, other| line.quoted(LookAlike::name(other)));

    line.text("},\"policy\":");
    for piece in parts.policy {
        line.filled(piece, report, parts.seen);
    }

    line.text(",\"flow\":{\"pkts_toserver\":").number(report.packets[to_server]);
    line.text(",\"pkts_toclient\":").number(report.packets[to_client]);
    line.text(",\"bytes_toserver\":").number(report.bytes[to_server]);
    line.text(",\"bytes_toclient\":").number(report.bytes[to_client]);
    line.text(",\"start\":").time(report.start);
    line.text(",\"end\":").time(report.end);
    if let Some(reason) = report.end_reason {
        line.text(",\"reason\":").quoted(reason.name());
    }
    line.text("},").raw(parts.tail);
    if has_ports(report) {
        line.text(",\"src_port\":").number(u64::from(source_port));
        line.text(",\"dest_port\":").number(u64::from(destination_port));
    }
    line.text("}\n");
    line.case
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
    let mut text = Vec::with_capacity(128);
    let prefix = if subject.len() == 4 { subject } else { subject.get(..8).unwrap_or(subject) };
    for part in [prefix, remote] {
        text.extend(part.iter().copied().flat_map(hexadecimal));
        text.push(b'|');
    }
    text.extend_from_slice(protocol.as_bytes());
    let mut id = [0; 16];
    for (digits, &byte) in id.chunks_exact_mut(2).zip(&Blake2b::<U8>::digest(&text)) {
        digits.copy_from_slice(&hexadecimal(byte));
    }
    id
}

fn hexadecimal(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 })
}

/// Where the next hole is. The inner loop has no way out, so that it becomes one comparison of many bytes.
fn next_hole(text: &[u8]) -> Option<usize> {
    let is_hole = |byte: &u8| *byte < TEXT;
    let chunks = text.chunks(64);
    let (place, chunk) =
        chunks.enumerate().find(|(_, chunk)| chunk.iter().fold(false, |any, byte| any | is_hole(byte)))?;
    Some(place * 64 + chunk.iter().position(is_hole)?)
}

struct Line<'a> {
    buffer: &'a mut Vec<u8>,
    /// Where the id of the case begins.
    case: usize,
}

impl Line<'_> {
    #[inline(always)]
    fn raw(&mut self, json: &[u8]) -> &mut Self {
        self.buffer.extend_from_slice(json);
        self
    }

    #[inline(always)]
    fn text(&mut self, text: &str) -> &mut Self {
        self.raw(text.as_bytes())
    }

    fn quoted(&mut self, name: &str) -> &mut Self {
        self.text("\"").text(name).text("\"")
    }

    fn flag(&mut self, value: bool) -> &mut Self {
        self.text(if value { "true" } else { "false" })
    }

    fn number(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [b'0'; 20];
        let mut first = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
            first -= 1;
            if number == 0 {
                break;
            }
        }
        self.raw(digits.get(first..).unwrap_or_default())
    }

    fn address(&mut self, address: &[u8]) -> &mut Self {
        self.text("\"").bare_address(address).text("\"")
    }

    fn bare_address(&mut self, address: &[u8]) -> &mut Self {
        let &[a, b, c, d] = address else { return self.text(&address_text(address)) };
        self.number(u64::from(a));
        for octet in [b, c, d] {
            self.text(".").number(u64::from(octet));
        }
        self
    }

    /// Text with its holes filled.
    fn filled(&mut self, mut text: &[u8], report: &FlowReport, seen: i64) -> &mut Self {
        while let Some(place) = next_hole(text) {
            self.raw(text.get(..place).unwrap_or_default());
            let byte = text.get(place).copied().unwrap_or_default();
            if let Some(hole) = Hole::ALL.get(usize::from(byte).wrapping_sub(1)) {
                self.hole(*hole, report, seen);
            }
            text = text.get(place + 1..).unwrap_or_default();
        }
        self.raw(text)
    }

    fn hole(&mut self, hole: Hole, report: &FlowReport, seen: i64) -> &mut Self {
        let ends = report.ends().map(|(address, _)| address);
        let end = |place: usize| ends.get(place).copied().unwrap_or_default();
        match hole {
            Hole::Address(place) => self.bare_address(end(place)),
            Hole::Case(place) => {
                self.case = self.buffer.len();
                self.raw(&case_id(end(place), end(1 - place), report.protocol.name()))
            }
            Hole::Seen => self.second(seen),
            Hole::Subject(place) => match <[u8; 16]>::try_from(end(place)) {
                Ok(octets) => {
                    let network = u128::from_be_bytes(octets) >> 64 << 64;
                    self.text(&address_text(&network.to_be_bytes())).text("/64")
                }
                Err(_) => self.bare_address(end(place)),
            },
        }
    }

    fn list<T>(&mut self, items: impl Iterator<Item = T>, write: impl Fn(&mut Self, T) -> &mut Self) -> &mut Self {
        self.text("[");
        for (place, item) in items.enumerate() {
            if place > 0 {
                self.text(",");
            }
            write(self, item);
        }
        self.text("]")
    }

    /// RFC 3339 in UTC, exact to the nanosecond.
    fn time(&mut self, time: i64) -> &mut Self {
        let mut text = *b"\"0000-00-00T00:00:00.000000000Z\"";
        put_second(text.get_mut(1..20), time);
        put(text.get_mut(21..30), time.rem_euclid(SECOND) as u32);
        self.raw(&text)
    }

    /// As sentences name a time: to the second.
    fn second(&mut self, time: i64) -> &mut Self {
        let mut text = *b"0000-00-00 00:00:00 UTC";
        put_second(text.get_mut(..19), time);
        self.raw(&text)
    }
}

/// Date and clock, with what stands between them left as it is.
fn put_second(text: Option<&mut [u8]>, time: i64) {
    let text = text.unwrap_or_default();
    let seconds = time.div_euclid(SECOND);
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let clock = seconds.rem_euclid(DAY) as u32;
    put(text.get_mut(..4), year as u32);
    put(text.get_mut(5..7), month as u32);
    put(text.get_mut(8..10), day as u32);
    put(text.get_mut(11..13), clock / 3600);
    put(text.get_mut(14..16), clock / 60 % 60);
    put(text.get_mut(17..19), clock % 60);
}

/// The last digits of a number, as many as there are places.
#[inline(always)]
fn put(places: Option<&mut [u8]>, mut number: u32) {
    for digit in places.unwrap_or_default().iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

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

    fn written(write: impl for<'a, 'b> Fn(&'a mut Line<'b>) -> &'a mut Line<'b>) -> String {
        let mut buffer = Vec::new();
        write(&mut Line { buffer: &mut buffer, case: 0 });
        String::from_utf8(buffer).unwrap_or_default()
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
}
