//! One shard's table: flows in a slab, found by a hash index. Those that were reported are timed out by a wheel; the
//! others, of which there are many and whose end nobody is told of, by a look at some of them every second.
//!
//! The rule a reader would get wrong: whether an undecided flow is over is for its next packet to say, by its deadline; it
//! may lie here for some time after that.

use super::index::{self, Index};
use super::layers::{Layers, LayersId};
use super::shard::Routed;
use super::wheel::{Linked, Links, Wheel};
use super::{FlowKey, KeyMode};
use crate::decode::{Packet, Path, Transport, Vlans};
use crate::fingerprint::{self, Candidate, Finding, FlowPacket, PairFacts, Protocol, Resync, Run};

/// Which bound a flow counts against.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Pool {
    /// Nothing recognised.
    #[default]
    Undecided,
    /// Recognised, phase attempt: scanners make these.
    Attempt,
    /// Recognised, past attempt.
    Recognised,
}

/// TCP of an undecided flow: whether a payload is the stream's first, and how often it was looked at.
#[derive(Debug, Default)]
pub struct Segments {
    /// Sequence number behind the SYN, by direction.
    pub start: [Option<u32>; 2],
    /// Payloads looked at, by direction.
    pub looked: [u8; 2],
    /// It asked a proxy for a stream to somebody else, or the proxy answered.
    pub via_proxy: bool,
    /// What a direction began with, while that is too short to tell what it is.
    pub beginnings: Option<Box<[Vec<u8>; 2]>>,
    /// Where records are looked for in a stream that was joined in the middle.
    pub resync: Option<Box<[Resync; 2]>>,
}

/// What an undecided flow keeps for fingerprints.
#[derive(Debug)]
pub enum Track {
    /// UDP, ESP, AH.
    Datagrams([Run; 2]),
    /// TCP.
    Stream(Segments),
}

impl Default for Track {
    fn default() -> Self {
        Self::NONE
    }
}

impl Track {
    /// No runs: nothing was seen, or it is a stream.
    pub const NO_RUNS: [Run; 2] = [Run::NONE; 2];
    /// Nothing was seen.
    pub const NONE: Self = Self::Datagrams(Self::NO_RUNS);

    /// What fingerprints are shown of it.
    pub fn runs(&self) -> &[Run; 2] {
        match self {
            Self::Datagrams(runs) => runs,
            Self::Stream(_) => &Self::NO_RUNS,
        }
    }
}

/// Segments shorter than this are not those of a bulk transfer.
const BULK_SEGMENT: usize = 512;
/// Longest beginning that can be too short to tell what it is.
const LONGEST_BEGINNING: usize = 32;

impl Segments {
    /// Puts the first segments of a direction together while they are too short to tell what they begin. True when
    /// this one is kept for the next one, and is not to be looked at; `joined` holds what was put together.
    pub fn join_beginning<'a>(&mut self, packet: &mut FlowPacket<'a>, joined: &'a mut Vec<u8>) -> bool {
        let own = usize::from(packet.direction & 1);
        if packet.length == 0 {
            return false;
        }
        let kept = self.beginnings.as_mut().map(|beginnings| std::mem::take(&mut beginnings[own])).unwrap_or_default();
        let start = self.start[own];
        let follows =
            !kept.is_empty() && start.map(|start| start.wrapping_add(kept.len() as u32)) == Some(packet.sequence);
        if !follows && !packet.stream_start {
            return false;
        }
        let captured = packet.payload.len() as u32 == packet.length;
        let length = if follows { kept.len() } else { 0 } + packet.payload.len();
        if follows || (captured && length < LONGEST_BEGINNING) {
            if follows {
                *joined = kept;
            }
            joined.extend_from_slice(packet.payload);
            if captured && length < LONGEST_BEGINNING && fingerprint::needs_more(joined) {
                self.beginnings.get_or_insert_default()[own] = std::mem::take(joined);
                return true;
            }
            packet.length += (joined.len() - packet.payload.len()) as u32;
            packet.sequence = start.unwrap_or(packet.sequence);
            packet.payload = joined;
            packet.stream_start = true;
        }
        false
    }

    /// In a stream whose beginning was not seen, looks for a record to begin with.
    pub fn find_record(&mut self, packet: &mut FlowPacket<'_>) {
        let own = usize::from(packet.direction & 1);
        if self.start[own].is_some() || packet.payload.len() < BULK_SEGMENT {
            return;
        }
        let resync = self.resync.get_or_insert_default();
        if let Some(offset) = resync[own].feed(packet.sequence, packet.payload, packet.length) {
            packet.payload = packet.payload.get(offset..).unwrap_or_default();
            packet.sequence = packet.sequence.wrapping_add(offset as u32);
            packet.length -= offset as u32;
            packet.record_start = true;
        }
    }
}

/// What a flow keeps once a fingerprint wants state.
pub struct Tracked {
    /// Fingerprints' state.
    pub candidate: Candidate,
    /// What was reported last.
    pub reported: Option<(Protocol, Finding)>,
    /// IPsec: what the pair of hosts was told last.
    pub said_to_pair: Option<PairFacts>,
    /// Its pool was full when it was to be reported.
    pub unreported: bool,
    /// Python's tag.
    pub tag: u32,
    /// Tells this flow from a former one in the same slot.
    pub generation: u32,
    /// Packet clock at which the next update is due.
    pub next_update: i64,
    /// Durations already passed, of those asked for.
    pub durations: u8,
    /// Its place in the wheel, once it is in a pool other than that of the undecided.
    pub links: Links,
    /// Packets by direction beyond those that [`Flow`] counts.
    pub more_packets: [u64; 2],
}

/// A flow. What every packet needs comes first, in one line of the cache.
#[derive(Default)]
#[repr(C)]
pub struct Flow {
    low: [u8; 16],
    high: [u8; 16],
    low_port: u16,
    high_port: u16,
    /// Transport protocol and, in the top bit, IP version 6.
    kind: u8,
    state: u8,
    layers: LayersId,
    /// Packet clock at its latest packet.
    pub seen: i64,
    /// Packets by direction; [`Self::packets`] has them all.
    packets: [u32; 2],
    /// Fingerprints' state, and what was reported.
    pub tracked: Option<Box<Tracked>>,
    /// Octets by direction.
    pub bytes: [u64; 2],
    /// Latest packet time.
    pub end: i64,
    /// Time of its first packet.
    pub start: i64,
    /// Number of its first frame, from 1; 0 marks an empty slot.
    pub first_number: u64,
    /// What fingerprints need before any of them keeps state.
    pub track: Track,
}

/// Of [`Flow`]'s state: TCP's FIN by direction (bits 0 and 1), RST (bit 2), its end has been scheduled (bit 3).
const CLOSING: u8 = 0x0f;
/// Its pool.
const POOL: u8 = 0x30;
const POOL_AT: u32 = 4;
/// The first packet came from the key's `low` end.
const FIRST_IS_LOW: u8 = 0x40;

impl Linked for Flow {
    fn links(&mut self) -> Option<&mut Links> {
        self.tracked.as_mut().map(|tracked| &mut tracked.links)
    }
}

#[inline]
fn kind(packet: &Packet) -> u8 {
    packet.transport as u8 | u8::from(packet.ip_version != 4) << 7
}

impl Flow {
    /// The stream has been closed by both ends, or reset.
    #[inline]
    pub fn closed(&self) -> bool {
        self.state & 3 == 3 || self.state & 4 != 0
    }

    /// What was seen of its end: FIN by direction (bits 0 and 1), RST (bit 2); bit 3 is the caller's.
    #[inline]
    pub fn closing(&self) -> u8 {
        self.state & CLOSING
    }

    /// Notes more of these.
    #[inline]
    pub fn note_closing(&mut self, bits: u8) {
        self.state |= bits & CLOSING;
    }

    /// Which bound it counts against.
    #[inline]
    pub fn pool(&self) -> Pool {
        match (self.state & POOL) >> POOL_AT {
            0 => Pool::Undecided,
            1 => Pool::Attempt,
            _ => Pool::Recognised,
        }
    }

    /// Counts it against another bound.
    pub fn set_pool(&mut self, pool: Pool) {
        self.state = self.state & !POOL | (pool as u8) << POOL_AT;
    }

    /// The first packet came from the key's `low` end.
    #[inline]
    pub fn first_is_low(&self) -> bool {
        self.state & FIRST_IS_LOW != 0
    }

    /// TCP.
    #[inline]
    pub fn is_stream(&self) -> bool {
        self.kind & 0x7f == Transport::Tcp as u8
    }

    /// Packets by direction. An undecided flow stops counting at four thousand million.
    #[inline]
    pub fn packets(&self) -> [u64; 2] {
        let more = self.tracked.as_ref().map_or([0; 2], |tracked| tracked.more_packets);
        [u64::from(self.packets[0]) + more[0], u64::from(self.packets[1]) + more[1]]
    }

    /// Counts packets of a direction; whether they are its first.
    #[inline]
    pub fn count(&mut self, own: usize, packets: u32, octets: u64) -> bool {
        let own = own & 1;
        let before = self.packets[own];
        self.bytes[own] += octets;
        self.packets[own] = match (before.checked_add(packets), &mut self.tracked) {
            (Some(sum), _) => sum,
            (None, Some(tracked)) => {
                tracked.more_packets[own] += u64::from(before);
                packets
            }
            (None, None) => u32::MAX,
        };
        before == 0
    }
}

/// The flows of one shard. Slots are bounded by the caller, who evicts before it inserts.
pub struct Table {
    flows: Vec<Flow>,
    index: Index,
    mode: KeyMode,
    layers: Layers,
    free: Vec<u32>,
    wheel: Wheel,
    /// Where eviction looks next.
    hand: usize,
    /// Where idle flows are looked for next.
    broom: usize,
}

/// Every flow is looked at once in so many seconds.
const SWEEP_SECONDS: usize = 32;

impl Table {
    /// An empty table.
    pub fn new(mode: KeyMode) -> Self {
        Self {
            flows: Vec::new(),
            index: Index::default(),
            mode,
            layers: Layers::default(),
            free: Vec::new(),
            wheel: Wheel::default(),
            hand: 0,
            broom: 0,
        }
    }

    /// The slot of a packet's flow.
    #[inline]
    pub fn find(&self, routed: &Routed) -> Option<u32> {
        let slot = self.index.find(routed.hash, |slot| self.is_at(slot, routed));
        if let Some(flow) = slot.and_then(|slot| self.flows.get(slot as usize)) {
            // Asks for the lines of the cache behind that of the key, which are waited for when they are needed.
            std::hint::black_box((flow.end, matches!(flow.track, Track::Stream(_))));
        }
        slot
    }

    /// Whether a packet's flow is in this slot.
    #[inline]
    pub fn is_at(&self, slot: u32, routed: &Routed) -> bool {
        self.flows.get(slot as usize).is_some_and(|flow| self.is_of(flow, routed))
    }

    /// A packet's flow, if it is in this slot.
    #[inline]
    pub fn at(&mut self, slot: u32, routed: &Routed) -> Option<&mut Flow> {
        let is_it = self.is_at(slot, routed);
        self.flows.get_mut(slot as usize).filter(|_| is_it)
    }

    /// A slot that is free has no key: its kind is 0.
    #[inline]
    fn is_of(&self, flow: &Flow, routed: &Routed) -> bool {
        let packet = &routed.packet;
        let source = (&packet.source, packet.source_port);
        let destination = (&packet.destination, packet.destination_port);
        let (low, high) = if routed.from_low { (source, destination) } else { (destination, source) };
        let word = |address: &[u8; 16]| u128::from_ne_bytes(*address);
        let addresses = (word(&flow.low) ^ word(low.0)) | (word(&flow.high) ^ word(high.0));
        let others = (flow.low_port ^ low.1) | (flow.high_port ^ high.1) | u16::from(flow.kind ^ kind(packet));
        addresses == 0 && others == 0 && (self.mode == KeyMode::FiveTuple || self.scope(flow) == routed.scope)
    }

    fn scope(&self, flow: &Flow) -> u32 {
        let (vlans, path) = self.layers.get(flow.layers);
        self.mode.scope(vlans, path)
    }

    /// The flow in a slot.
    #[inline]
    pub fn flow(&self, slot: u32) -> &Flow {
        &self.flows[slot as usize]
    }

    /// The flow in a slot.
    #[inline]
    pub fn flow_mut(&mut self, slot: u32) -> &mut Flow {
        &mut self.flows[slot as usize]
    }

    /// The flow in a slot that may have been given back, or never have been one.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        self.flows.get_mut(slot as usize).filter(|flow| flow.first_number != 0)
    }

    /// The key of the flow in a slot.
    pub fn key(&self, slot: u32) -> FlowKey {
        self.key_of(self.flow(slot))
    }

    fn key_of(&self, flow: &Flow) -> FlowKey {
        FlowKey {
            low: flow.low,
            high: flow.high,
            low_port: flow.low_port,
            high_port: flow.high_port,
            transport: match flow.kind & 0x7f {
                6 => Transport::Tcp,
                50 => Transport::Esp,
                51 => Transport::Ah,
                _ => Transport::Udp,
            },
            ip_version: if flow.kind & 0x80 == 0 { 4 } else { 6 },
            scope: self.scope(flow),
        }
    }

    /// VLAN ids and layers of a flow's first packet.
    pub fn layers(&self, slot: u32) -> (Vlans, Path) {
        self.layers.get(self.flow(slot).layers)
    }

    /// Adds a flow, undecided and without packets. `None` when no more can be told apart.
    pub fn insert(&mut self, routed: &Routed) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.flows.len() < index::MOST_SLOTS => {
                self.flows.push(Flow::default());
                (self.flows.len() - 1) as u32
            }
            None => return None,
        };
        let packet = &routed.packet;
        let key = routed.key();
        let layers = self.layers.keep(packet.vlans, packet.path);
        self.flows[slot as usize] = Flow {
            low: key.low,
            high: key.high,
            low_port: key.low_port,
            high_port: key.high_port,
            kind: kind(packet),
            state: if routed.from_low { FIRST_IS_LOW } else { 0 },
            layers,
            seen: routed.now,
            packets: [0; 2],
            tracked: None,
            bytes: [0; 2],
            end: routed.time,
            start: routed.time,
            first_number: routed.number,
            track: if key.transport == Transport::Tcp { Track::Stream(Segments::default()) } else { Track::NONE },
        };
        let mut index = std::mem::take(&mut self.index);
        index.insert(routed.hash, slot, |slot| hash_of(&self.key(slot)));
        self.index = index;
        Some(slot)
    }

    /// Takes a flow out, and gives what fingerprints kept of it.
    pub fn remove(&mut self, slot: u32) -> Option<Box<Tracked>> {
        self.unschedule(slot);
        let hash = hash_of(&self.key(slot));
        let mut index = std::mem::take(&mut self.index);
        index.remove(hash, slot, |slot| hash_of(&self.key(slot)));
        self.index = index;
        self.free.push(slot);
        let flow = &mut self.flows[slot as usize];
        self.layers.release(flow.layers);
        flow.first_number = 0;
        flow.kind = 0;
        flow.track = Track::NONE;
        flow.tracked.take()
    }

    /// Puts a flow that is tracked into the wheel, or moves it there, to come up when `deadline` has passed.
    pub fn schedule(&mut self, slot: u32, deadline: i64) {
        self.unschedule(slot);
        self.wheel.insert(&mut self.flows, slot, deadline);
    }

    fn unschedule(&mut self, slot: u32) {
        if self.flow(slot).tracked.is_some() {
            self.wheel.remove(&mut self.flows, slot);
        }
    }

    /// Another second has come: flows whose deadline may have passed. Those of the wheel are out of it.
    pub fn advance(&mut self, now: i64, due: &mut Vec<u32>) {
        self.wheel.advance(&mut self.flows, now, due);
        for _ in 0..self.flows.len().div_ceil(SWEEP_SECONDS) {
            self.broom = if self.broom + 1 < self.flows.len() { self.broom + 1 } else { 0 };
            let flow = &self.flows[self.broom];
            if flow.first_number != 0 && flow.pool() == Pool::Undecided {
                due.push(self.broom as u32);
            }
        }
    }

    /// An undecided flow to push out: of the next few the first with a single packet, else the one seen least lately.
    pub fn undecided_victim(&mut self) -> Option<u32> {
        const LOOK: usize = 8;
        let (mut best, mut looked) = (None, 0);
        for _ in 0..self.flows.len() {
            self.hand = if self.hand + 1 < self.flows.len() { self.hand + 1 } else { 0 };
            let flow = &self.flows[self.hand];
            if flow.first_number == 0 || flow.pool() != Pool::Undecided {
                continue;
            }
            let slot = self.hand as u32;
            if flow.packets[0] | flow.packets[1] <= 1 && flow.packets[0] & flow.packets[1] == 0 {
                return Some(slot);
            }
            if best.is_none_or(|(seen, _)| flow.seen < seen) {
                best = Some((flow.seen, slot));
            }
            looked += 1;
            if looked == LOOK {
                break;
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// Slots of flows that a fingerprint keeps state for.
    pub fn tracked(&self) -> Vec<u32> {
        let is_tracked = |slot: &u32| {
            let flow = &self.flows[*slot as usize];
            flow.first_number != 0 && flow.tracked.is_some()
        };
        (0..self.flows.len() as u32).filter(is_tracked).collect()
    }

    /// Empties the table for the next capture.
    pub fn clear(&mut self) {
        self.flows.clear();
        self.free.clear();
        self.index.clear();
        self.layers.clear();
        self.wheel.clear();
        self.hand = 0;
        self.broom = 0;
    }
}

fn hash_of(key: &FlowKey) -> u64 {
    key.hash(key.pair_hash())
}

#[cfg(test)]
mod tests;
