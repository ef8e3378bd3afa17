//! Datagrams in fragments: which flow the later ones belong to, and whole IKE messages out of their parts.
//!
//! The first fragment has the ports and decides; the others count to its flow by (addresses, protocol, id), also those
//! that come before it. Parts are put together only for IKE, whose payloads in clear have to be seen to their end.
//! Everything is bounded: datagrams, octets held, and packet time.
//!
//! A datagram whose fragments overlap is put together by no IPv6 host (RFC 5722, 3), and by IPv4 hosts in ways that
//! differ, so it is not by us: it is counted, and nothing is concluded from it. A fragment that comes twice as it was
//! (a mirror's copy) is no overlap (RFC 8200, 4.5).

use std::collections::{BTreeMap, VecDeque};

use super::shard::Routed;
use crate::decode::Transport;

/// How long the parts of a datagram are waited for: what Linux gives IPv4, half of what RFC 8200, 4.5 gives at most.
const PATIENCE: i64 = 30 * 1_000_000_000;
/// Parts of one datagram of which the places are kept: 65,535 octets in parts of 1,280.
const MOST_PARTS: usize = 52;
/// Octets of one datagram that are put together.
const LARGEST_DATAGRAM: usize = 16_384;
/// Octets held in a shard: 4 MiB in all shards.
const MOST_HELD: usize = 65_536;
/// What a part costs beside its octets.
const PART_COST: usize = 48;
/// Protocols of flows: TCP, UDP, ESP, AH.
const FLOWS: [u8; 4] = [6, 17, 50, 51];

/// What fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DatagramKey {
    source: [u8; 16],
    destination: [u8; 16],
    id: u32,
    scope: u32,
    protocol: u8,
    ip_version: u8,
}

impl DatagramKey {
    /// Of a packet that is a fragment.
    pub fn of(routed: &Routed) -> Option<Self> {
        let packet = &routed.packet;
        packet.fragment.map(|fragment| Self {
            source: packet.source,
            destination: packet.destination,
            id: fragment.id,
            scope: routed.scope,
            protocol: fragment.protocol,
            ip_version: packet.ip_version,
        })
    }
}

/// The flow of a datagram: its slot, and its first frame, which tells it from a later flow in the same slot.
pub type FlowOfDatagram = (u32, u64);

/// A datagram that is held until it is whole.
struct Held {
    /// Its first fragment.
    first: Routed,
    /// Octets of the transport header in front of the payload.
    header: usize,
    /// As long as the transport header says; zero where a part is missing.
    bytes: Vec<u8>,
}

impl Held {
    /// The first fragment, as it was.
    fn give_up(&self) -> Message {
        let end = self.header + self.first.packet.payload_captured as usize;
        Message { first: self.first, payload: self.bytes.get(self.header..end).unwrap_or_default().to_vec() }
    }

    /// Fills in a part; false when it does not lie within.
    fn fill(&mut self, start: u32, part: &[u8]) -> bool {
        let room = self.bytes.get_mut(start as usize..(start as usize).saturating_add(part.len()));
        room.map(|room| room.copy_from_slice(part)).is_some()
    }
}

#[derive(Default)]
struct Datagram {
    came: i64,
    flow: Option<FlowOfDatagram>,
    /// Packets and octets of what came before the first fragment.
    waiting: (u64, u64),
    /// First octet and the one behind the last, of each part.
    parts: Vec<(u32, u32)>,
    end: Option<u32>,
    overlaps: bool,
    /// UDP before the first fragment: what may be a part of IKE, by offset.
    early: Vec<(u32, Vec<u8>)>,
    held: Option<Box<Held>>,
}

impl Datagram {
    /// Notes a part; false when it overlaps another, or leaves the datagram.
    fn note(&mut self, start: u32, end: u32, last: bool) -> bool {
        if self.parts.contains(&(start, end)) {
            return true;
        }
        let overlaps = self.parts.iter().any(|&(from, to)| start < to && from < end)
            || self.end.is_some_and(|known| end > known || last && end != known)
            || last && self.parts.iter().any(|&(_, to)| to > end);
        if last {
            self.end = Some(end);
        }
        if self.parts.len() < MOST_PARTS {
            self.parts.push((start, end));
        }
        !overlaps
    }

    fn is_whole(&self) -> bool {
        !self.overlaps && self.end == Some(self.parts.iter().map(|&(from, to)| to - from).sum())
    }

    /// Octets that are held for it.
    fn octets(&self) -> usize {
        self.early.iter().map(|(_, part)| part.len() + PART_COST).sum::<usize>()
            + self.held.as_ref().map_or(0, |held| held.bytes.len())
    }

    /// The whole message, once all parts are there.
    fn take_whole(&mut self) -> Option<Message> {
        let end = self.end.filter(|_| self.is_whole())? as usize;
        let held = self.held.take_if(|held| held.bytes.len() == end)?;
        let payload = held.bytes.get(held.header..).unwrap_or_default().to_vec();
        Some(Message { first: held.first, payload })
    }
}

/// A whole datagram, or what there is of one that was given up.
pub struct Message {
    /// Its first fragment.
    pub first: Routed,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// What a first fragment came to.
#[derive(Default)]
pub struct First {
    /// Packets and octets of the fragments that came before it.
    pub waiting: (u64, u64),
    /// It is not to be looked at now: it comes back, or its datagram is none.
    pub held: bool,
    /// The datagram, when the other parts were there.
    pub whole: Option<Message>,
}

/// What is counted about fragments.
#[derive(Clone, Copy, Debug, Default)]
pub struct FragmentCounters {
    /// Later fragments that no first fragment has been seen for, in time.
    pub unmatched: u64,
    /// Those that are being waited with, now.
    pub waiting: u64,
    /// Datagrams with parts that overlap.
    pub overlapping: u64,
    /// Datagrams put together.
    pub reassembled: u64,
    /// Datagrams of IKE that did not become whole: parts are missing, were cut, or found no room.
    pub incomplete: u64,
}

impl FragmentCounters {
    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        self.unmatched += other.unmatched;
        self.waiting += other.waiting;
        self.overlapping += other.overlapping;
        self.reassembled += other.reassembled;
        self.incomplete += other.incomplete;
    }
}

/// The datagrams of one shard that came in fragments lately.
pub struct Fragments {
    most: usize,
    datagrams: BTreeMap<DatagramKey, Datagram>,
    /// In the order in which they came, with the time.
    order: VecDeque<(DatagramKey, i64)>,
    held: usize,
    /// What is counted.
    pub counters: FragmentCounters,
}

impl Fragments {
    /// At most `most` datagrams at a time.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            datagrams: BTreeMap::new(),
            order: VecDeque::new(),
            held: 0,
            counters: FragmentCounters::default(),
        }
    }

    /// The first fragment of a datagram, and its flow.
    ///
    /// `hold`: the length of the transport header and what was captured behind it, when the datagram is to be put
    /// together. Then the caller looks at it when it comes back, whole or given up.
    pub fn first(
        &mut self,
        routed: &Routed,
        flow: FlowOfDatagram,
        hold: Option<(usize, &[u8])>,
        given_up: &mut Vec<Message>,
    ) -> First {
        let (Some(key), Some(fragment)) = (DatagramKey::of(routed), routed.packet.fragment) else {
            return First::default();
        };
        let mut room = MOST_HELD.saturating_sub(self.held);
        let mut incomplete = 0;
        let datagram = self.datagram(key, routed.now, given_up);
        let before = datagram.octets();
        room += before;
        // The number has come round to another datagram.
        if datagram.is_whole() || datagram.flow.is_some_and(|known| known != flow) {
            let before = std::mem::replace(datagram, Datagram { came: datagram.came, ..Datagram::default() });
            incomplete += u64::from(before.held.is_some());
            given_up.extend(before.held.map(|held| held.give_up()));
        }
        datagram.flow = Some(flow);
        let waiting = std::mem::take(&mut datagram.waiting);
        let again = datagram.held.is_some();
        let newly_overlaps =
            !datagram.note(0, fragment.length, !fragment.more) && !std::mem::replace(&mut datagram.overlaps, true);
        let early = std::mem::take(&mut datagram.early);
        let mut answer = First { waiting, held: again, whole: None };
        let mut no_room = false;
        if let Some((header, payload)) = hold.filter(|_| !again) {
            let length = header + routed.packet.payload_length as usize;
            let captured = header + payload.len() == fragment.length as usize;
            // Of an overlapping datagram nothing is concluded.
            answer.held = datagram.overlaps;
            no_room = !captured || length > LARGEST_DATAGRAM.min(room);
            if !datagram.overlaps && !no_room {
                let mut held = Box::new(Held { first: *routed, header, bytes: vec![0; length] });
                let parts = early.iter().map(|(start, part)| (*start, part.as_slice()));
                let all_fit = parts.chain([(header as u32, payload)]).all(|(start, part)| held.fill(start, part));
                // What came before and was not kept is missing for good.
                let kept = early.len() + 1 == datagram.parts.len();
                no_room = !all_fit || !kept;
                if !no_room {
                    answer.held = true;
                    datagram.held = Some(held);
                    answer.whole = datagram.take_whole();
                }
            }
        }
        let after = datagram.octets();
        self.held = (self.held + after).saturating_sub(before);
        self.counters.waiting -= waiting.0;
        self.counters.overlapping += u64::from(newly_overlaps);
        self.counters.incomplete += incomplete + u64::from(no_room);
        self.counters.reassembled += u64::from(answer.whole.is_some());
        answer
    }

    /// A later fragment; `part` is what was captured of it. Gives its flow, if that is known, and the datagram when
    /// this part made it whole.
    pub fn later(
        &mut self,
        routed: &Routed,
        part: &[u8],
        given_up: &mut Vec<Message>,
    ) -> (Option<FlowOfDatagram>, Option<Message>) {
        let (Some(key), Some(fragment)) = (DatagramKey::of(routed), routed.packet.fragment) else {
            return (None, None);
        };
        // What is not of a flow's protocol has no flow to wait for, nor has the rest of a tunnel that was opened.
        if !FLOWS.contains(&fragment.protocol) {
            self.counters.unmatched += 1;
            return (None, None);
        }
        // Of what comes before its first fragment no more is kept than leaves room for what does not.
        let room = (MOST_HELD / 4).saturating_sub(self.held);
        let datagram = self.datagram(key, routed.now, given_up);
        let before = datagram.octets();
        let (start, end) = (fragment.offset, fragment.offset.saturating_add(fragment.length));
        let known = datagram.parts.len();
        let newly_overlaps =
            !datagram.note(start, end, !fragment.more) && !std::mem::replace(&mut datagram.overlaps, true);
        let is_new = datagram.parts.len() > known;
        let captured = part.len() == fragment.length as usize;
        let flow = datagram.flow;
        if flow.is_none() {
            datagram.waiting.0 += 1;
            datagram.waiting.1 += u64::from(routed.packet.ip_length);
            if fragment.protocol == Transport::Udp as u8 && is_new && captured && part.len() + PART_COST <= room {
                datagram.early.push((start, part.to_vec()));
            }
        }
        let mut broken = match &mut datagram.held {
            Some(held) => datagram.overlaps || !captured || !held.fill(start, part),
            None => false,
        };
        if broken && let Some(held) = datagram.held.take() {
            if datagram.overlaps {
                broken = false; // nothing is concluded from it, not even that it is incomplete
            } else {
                given_up.push(held.give_up());
            }
        }
        if datagram.overlaps {
            datagram.early.clear();
        }
        let whole = datagram.take_whole();
        let after = datagram.octets();
        self.held = (self.held + after).saturating_sub(before);
        self.counters.waiting += u64::from(flow.is_none());
        self.counters.overlapping += u64::from(newly_overlaps);
        self.counters.incomplete += u64::from(broken);
        self.counters.reassembled += u64::from(whole.is_some());
        (flow, whole)
    }

    /// Nothing is waited for.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Gives up what has been waited for long enough.
    pub fn tick(&mut self, now: i64, given_up: &mut Vec<Message>) {
        while let Some(&(_, came)) = self.order.front() {
            if now.saturating_sub(came) <= PATIENCE {
                break;
            }
            self.give_up_oldest(given_up);
        }
    }

    /// Gives everything up.
    pub fn finish(&mut self, given_up: &mut Vec<Message>) {
        while !self.order.is_empty() {
            self.give_up_oldest(given_up);
        }
    }

    /// Forgets everything: another capture begins.
    pub fn clear(&mut self) {
        self.finish(&mut Vec::new());
    }

    fn datagram(&mut self, key: DatagramKey, now: i64, given_up: &mut Vec<Message>) -> &mut Datagram {
        if !self.datagrams.contains_key(&key) {
            while self.datagrams.len() >= self.most && !self.order.is_empty() {
                self.give_up_oldest(given_up);
            }
            self.order.push_back((key, now));
        }
        self.datagrams.entry(key).or_insert_with(|| Datagram { came: now, ..Datagram::default() })
    }

    fn give_up_oldest(&mut self, given_up: &mut Vec<Message>) {
        let Some((key, came)) = self.order.pop_front() else { return };
        let Some(datagram) = self.datagrams.remove(&key) else { return };
        debug_assert_eq!(datagram.came, came);
        self.counters.unmatched += datagram.waiting.0;
        self.counters.waiting -= datagram.waiting.0;
        self.held = self.held.saturating_sub(datagram.octets());
        if let Some(held) = datagram.held {
            self.counters.incomplete += 1;
            given_up.push(held.give_up());
        }
    }
}

#[cfg(test)]
mod tests;
