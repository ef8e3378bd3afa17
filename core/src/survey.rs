//! How a live capture looks: both directions of what it shows, every packet of it, and whole.
//!
//! Follows a sample of the flows in memory of its own, whatever becomes of them in the flow table: TCP connections for
//! packets of both directions, and what is numbered on the wire (TCP octets, ESP and WireGuard packets) for numbers that
//! are missing. Of all packets of the sample it sees whether they hold the payload that their IP header says, and of each
//! flow whether its first payload is one byte over and over. It counts, and judges nothing: who reads the counters knows
//! how many are enough, and whether packets were lost on this side.
//!
//! Two rules a reader would get wrong. A segment that is lost on its way is sent again, and one that overtakes another is
//! not missing: what counts is the span of the numbers against the sum of what came, after a second at least, so that
//! only what never comes is missing. And a sample is one of host pairs: a flow is followed packet by packet, or not at all.

use crate::decode::{Packet, Transport, tcp_flags};

/// Flows that are followed at a time.
const ENTRIES: usize = 1024;
/// A flow makes room for another one when it has been silent so long.
const SILENCE: i64 = 10 * SECOND;
const SECOND: i64 = 1_000_000_000;
/// Packets, and time, after which a connection or a stream has shown what it is. Twice what a sender puts on the wire
/// before it waits for an answer (RFC 6928), and longer than any round trip.
const ENOUGH_PACKETS: u32 = 20;
const ENOUGH_TIME: i64 = SECOND;
/// A stream has gaps when more than one in so many is missing. TCP at such a loss hardly moves.
const MISSING: u32 = 10;
/// Numbers this far apart are not of one stream.
const FARTHEST: u32 = 1 << 28;
/// Packets a second that are looked at; beyond, half of the host pairs are left out, and so on.
const BUSY: u32 = 20_000;
const QUIET: u32 = 4_000;
/// A payload of fewer bytes may be the same byte by its nature.
const LEAST_PAYLOAD: usize = 16;

/// What is counted, all since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SurveyCounters {
    /// TCP connections that were followed long enough.
    pub connections: u64,
    /// Of these: packets of one direction only.
    pub one_way: u64,
    /// Numbered streams (one direction of a flow) that were followed long enough, each again from there on.
    pub streams: u64,
    /// Of these: more than a tenth is missing.
    pub gaps: u64,
    /// Packets with payload.
    pub payloads: u64,
    /// Of these: with less of it than their IP header says.
    pub cut: u64,
    /// Bytes of the longest of these frames.
    pub cut_at: u64,
    /// Flows by their first payload.
    pub first_payloads: u64,
    /// Of these: one byte over and over.
    pub blank: u64,
}

impl SurveyCounters {
    /// Adds those of other flows.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.one_way += other.one_way;
        self.streams += other.streams;
        self.gaps += other.gaps;
        self.payloads += other.payloads;
        self.cut += other.cut;
        self.cut_at = self.cut_at.max(other.cut_at);
        self.first_payloads += other.first_payloads;
        self.blank += other.blank;
    }
}

/// One direction of a flow.
#[derive(Clone, Copy, Default)]
struct Stream {
    is_followed: bool,
    /// Numbered packets since `since`.
    packets: u32,
    /// What names the stream: an SPI or a WireGuard index.
    name: u32,
    /// The lowest number and the one behind the highest.
    low: u32,
    high: u32,
    /// How much came, what came twice counted twice.
    sum: u64,
    since: i64,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    hash: u64,
    began: i64,
    seen: i64,
    /// Packets of each direction, until it is known to be of one or both.
    packets: [u32; 2],
    judged: bool,
    has_payload: bool,
    streams: [Stream; 2],
}

/// A sample of the flows.
pub struct Survey {
    entries: Box<[Entry]>,
    /// Host pairs whose hash has these bits zero are looked at.
    mask: u64,
    second: i64,
    looked: u32,
    counters: SurveyCounters,
}

impl Default for Survey {
    fn default() -> Self {
        Self {
            entries: vec![Entry::default(); ENTRIES].into_boxed_slice(),
            mask: 0,
            second: 0,
            looked: 0,
            counters: SurveyCounters::default(),
        }
    }
}

/// A packet of a flow, and what is known of its frame.
pub struct Surveyed<'a> {
    /// What was decoded.
    pub packet: &'a Packet,
    /// Hash of its host pair.
    pub pair: u64,
    /// Hash of its flow.
    pub hash: u64,
    /// Which of the two directions.
    pub direction: bool,
    /// When it came.
    pub time: i64,
    /// All captured bytes of its frame.
    pub frame: &'a [u8],
}

impl Survey {
    /// Counters since the start.
    pub fn counters(&self) -> SurveyCounters {
        self.counters
    }

    /// Takes note of a packet of a flow. Most of them are not of the sample.
    #[inline]
    pub fn look(&mut self, surveyed: &Surveyed<'_>) {
        if surveyed.pair & self.mask == 0 {
            self.look_at(surveyed);
        }
    }

    fn look_at(&mut self, surveyed: &Surveyed<'_>) {
        let Surveyed { packet, hash, time, frame, .. } = *surveyed;
        self.keep_pace(time);
        let start = packet.payload_offset as usize;
        let payload = frame.get(start..start + packet.payload_captured as usize).unwrap_or_default();
        // Of a fragment, headers speak of the whole datagram.
        if packet.fragment.is_some() {
            return;
        }
        let counters = &mut self.counters;
        if packet.payload_length > 0 {
            counters.payloads += 1;
            if packet.payload_captured < packet.payload_length {
                counters.cut += 1;
                counters.cut_at = counters.cut_at.max(frame.len() as u64);
            }
        }
        let Some(entry) = self.entries.get_mut((hash >> 16) as usize % ENTRIES) else { return };
        if entry.hash != hash {
            if entry.seen.saturating_add(SILENCE) > time && entry.hash != 0 {
                return;
            }
            *entry = Entry { hash, began: time, ..Entry::default() };
        }
        entry.seen = time;
        if !entry.has_payload && payload.len() >= LEAST_PAYLOAD {
            entry.has_payload = true;
            counters.first_payloads += 1;
            counters.blank += u64::from(payload.iter().all(|byte| Some(byte) == payload.first()));
        }
        let own = usize::from(surveyed.direction);
        if packet.transport == Transport::Tcp && packet.tcp_flags & (tcp_flags::SYN | tcp_flags::RST) != 0 {
            // Numbers begin anew.
            entry.streams = [Stream::default(); 2];
        } else if let Some((name, number, length)) = numbered(packet, payload) {
            entry.streams[own].take(name, number, length, time, counters);
        }
        if packet.transport == Transport::Tcp && !entry.judged {
            entry.packets[own] = entry.packets[own].saturating_add(1);
            if entry.packets[own] >= ENOUGH_PACKETS && time.saturating_sub(entry.began) >= ENOUGH_TIME {
                entry.judged = true;
                counters.connections += 1;
                counters.one_way += u64::from(entry.packets[own ^ 1] == 0);
            }
        }
    }

    /// Looks at fewer host pairs when there is much to look at, and at more again when there is little.
    fn keep_pace(&mut self, time: i64) {
        self.looked = self.looked.saturating_add(1);
        if time.saturating_sub(self.second) < SECOND && self.looked < BUSY {
            return;
        }
        let mask = if self.looked >= BUSY {
            self.mask << 1 | 1
        } else if self.looked < QUIET && time.saturating_sub(self.second) < 2 * SECOND {
            self.mask >> 1
        } else {
            self.mask
        };
        (self.second, self.looked) = (time, 0);
        if mask != self.mask {
            self.mask = mask;
            // A flow that comes back into the sample would seem to have gaps.
            self.entries.fill(Entry::default());
        }
    }
}

impl Stream {
    fn take(&mut self, name: u32, number: u32, length: u32, time: i64, counters: &mut SurveyCounters) {
        let end = number.wrapping_add(length);
        let distance = |from: u32, to: u32| to.wrapping_sub(from) as i32;
        let is_far = distance(self.low, number).unsigned_abs() > FARTHEST || time < self.since;
        if !self.is_followed || name != self.name || is_far {
            *self = Self {
                is_followed: true,
                packets: 1,
                name,
                low: number,
                high: end,
                sum: u64::from(length),
                since: time,
            };
            return;
        }
        // What lies before fills a gap of the time before.
        if distance(self.low, number) < 0 {
            return;
        }
        if distance(self.high, end) > 0 {
            self.high = end;
        }
        self.packets += 1;
        self.sum += u64::from(length);
        if self.packets >= ENOUGH_PACKETS && time.saturating_sub(self.since) >= ENOUGH_TIME {
            let span = u64::from(self.high.wrapping_sub(self.low));
            counters.streams += 1;
            counters.gaps += u64::from(span.saturating_sub(self.sum) * u64::from(MISSING) > span);
            // It goes on from here: the first packet from now on may be one that was sent again.
            *self = Self { name, low: self.high, high: self.high, since: time, is_followed: true, ..Self::default() };
        }
    }
}

/// What numbers a packet, if anything does: the stream's name, the number, and how far it counts.
fn numbered(packet: &Packet, payload: &[u8]) -> Option<(u32, u32, u32)> {
    let word = |at: usize| payload.get(at..).and_then(<[u8]>::first_chunk::<4>);
    match packet.transport {
        Transport::Tcp => (packet.payload_length > 0).then_some((0, packet.tcp_sequence, packet.payload_length)),
        Transport::Esp => Some((u32::from_be_bytes(*word(0)?), u32::from_be_bytes(*word(4)?), 1)),
        // WireGuard's data: the counter's low half (whitepaper 5.4.6).
        Transport::Udp if payload.starts_with(&[4, 0, 0, 0]) && packet.payload_length.is_multiple_of(16) => {
            Some((u32::from_le_bytes(*word(4)?), u32::from_le_bytes(*word(8)?), 1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::mix;

    /// A packet: its direction, its number, the length of its payload, and milliseconds.
    struct Sent {
        direction: bool,
        number: u32,
        length: u32,
        time: i64,
    }

    fn look(survey: &mut Survey, flow: u64, transport: Transport, sent: &Sent, payload: &[u8]) {
        let mut frame = vec![0; 54];
        frame.extend_from_slice(payload);
        let packet = Packet {
            transport,
            tcp_sequence: sent.number,
            payload_offset: 54,
            payload_captured: payload.len() as u32,
            payload_length: sent.length,
            ..Packet::default()
        };
        survey.look(&Surveyed {
            packet: &packet,
            pair: mix(1, flow),
            hash: mix(2, flow),
            direction: sent.direction,
            time: sent.time * 1_000_000,
            frame: &frame,
        });
    }

    /// `packets` segments of a hundred bytes each way, 40 ms apart, of which some come.
    fn transfer(survey: &mut Survey, flow: u64, packets: u32, comes: impl Fn(u32, bool) -> bool) {
        for turn in 0..packets {
            for direction in [false, true] {
                // Numbers go over their end.
                let number = u32::MAX.wrapping_add(turn * 100).wrapping_sub(500);
                let sent = Sent { direction, number, length: 100, time: i64::from(turn) * 40 };
                if comes(turn, direction) {
                    look(survey, flow, Transport::Tcp, &sent, &[1, 2].repeat(50));
                }
            }
        }
    }

    #[test]
    fn a_sound_transfer_is_whole_and_goes_both_ways() {
        let mut survey = Survey::default();
        for flow in 1..=10 {
            transfer(&mut survey, flow, 60, |_, _| true);
        }
        let counters = survey.counters();
        assert_eq!((counters.connections, counters.one_way), (10, 0));
        assert_eq!((counters.streams, counters.gaps), (40, 0));
        assert_eq!((counters.payloads, counters.cut, counters.first_payloads, counters.blank), (1200, 0, 10, 0));
    }

    #[test]
    fn one_direction_alone() {
        let mut survey = Survey::default();
        transfer(&mut survey, 1, 60, |_, direction| direction);
        transfer(&mut survey, 2, 60, |_, _| true);
        assert_eq!((survey.counters().connections, survey.counters().one_way), (2, 1));
    }

    #[test]
    fn one_in_three() {
        let mut survey = Survey::default();
        transfer(&mut survey, 1, 200, |turn, _| turn % 3 == 0);
        let counters = survey.counters();
        assert!(counters.streams >= 4 && counters.gaps == counters.streams, "{counters:?}");
    }

    #[test]
    fn what_is_lost_on_its_way_comes_again() {
        let mut survey = Survey::default();
        let send = |survey: &mut Survey, turn: u32, time: i64| {
            let sent = Sent { direction: true, number: turn * 100, length: 100, time };
            look(survey, 1, Transport::Tcp, &sent, &[0; 100]);
        };
        for turn in 0..120 {
            // One in five comes 300 ms late, one in seven twice.
            let late = turn % 5 == 0 && turn < 100;
            if !late {
                send(&mut survey, turn, i64::from(turn) * 40);
            }
            if turn % 7 == 0 {
                send(&mut survey, turn, i64::from(turn) * 40);
            }
            if turn >= 8 && (turn - 8) % 5 == 0 {
                send(&mut survey, turn - 8, i64::from(turn) * 40);
            }
        }
        let counters = survey.counters();
        assert!(counters.streams >= 3 && counters.gaps == 0, "{counters:?}");
    }

    #[test]
    fn numbers_of_esp_and_wireguard() {
        for (transport, header) in [(Transport::Esp, [9, 9, 9, 9]), (Transport::Udp, [4, 0, 0, 0])] {
            for (every, gaps) in [(1, 0), (4, 1)] {
                let mut survey = Survey::default();
                for number in (0..30 * every).step_by(every as usize) {
                    let mut payload = [7; 32];
                    payload[..4].copy_from_slice(&header);
                    payload[4..8].copy_from_slice(&[5; 4]);
                    match transport {
                        Transport::Esp => payload[4..8].copy_from_slice(&u32::to_be_bytes(number)),
                        _ => payload[8..12].copy_from_slice(&u32::to_le_bytes(number)),
                    }
                    let sent = Sent { direction: true, number: 0, length: 32, time: i64::from(number) * 60 };
                    look(&mut survey, 3, transport, &sent, &payload);
                }
                assert_eq!((survey.counters().streams, survey.counters().gaps), (1, gaps), "{transport:?}");
            }
        }
    }

    #[test]
    fn cut_and_blank_payloads() {
        let mut survey = Survey::default();
        for flow in 1..=4 {
            let sent = Sent { direction: false, number: 0, length: 100, time: 0 };
            look(&mut survey, flow, Transport::Udp, &sent, if flow % 2 == 0 { &[0; 100] } else { &[3, 4, 5] });
        }
        let counters = survey.counters();
        assert_eq!((counters.payloads, counters.cut, counters.cut_at), (4, 2, 57));
        assert_eq!((counters.first_payloads, counters.blank), (2, 2));
    }

    #[test]
    fn a_sample_is_enough_of_a_busy_link() {
        let mut survey = Survey::default();
        for number in 0..200_000_u64 {
            let sent = Sent { direction: false, number: 0, length: 0, time: 5_000 + number as i64 / 100 };
            look(&mut survey, number % 997 + 1, Transport::Udp, &sent, &[]);
        }
        assert!(survey.mask > 1);
    }
}
