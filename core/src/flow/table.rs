//! One shard's table: flows in a slab, found by a hash index, timed out by a wheel.

use super::FlowKey;
use super::wheel::{Linked, Links, Wheel};
use crate::decode::{Path, Vlans};
use crate::fingerprint::{self, Candidate, Finding, FlowPacket, PairFacts, Protocol, Resync, Run};
use hashbrown::HashTable;

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
}

/// A flow.
#[derive(Default)]
pub struct Flow {
    /// Its place in the wheel.
    pub links: Links,
    /// Its key.
    pub key: FlowKey,
    /// Hash of the key.
    pub hash: u64,
    /// Number of its first frame, from 1; 0 marks an empty slot.
    pub first_number: u64,
    /// Time of its first packet.
    pub start: i64,
    /// Latest packet time.
    pub end: i64,
    /// Packet clock at its latest packet.
    pub seen: i64,
    /// Packets by direction.
    pub packets: [u64; 2],
    /// Octets by direction.
    pub bytes: [u64; 2],
    /// Layers of the first packet.
    pub path: Path,
    /// VLAN ids of the first packet.
    pub vlans: Vlans,
    /// The first packet came from the key's `low` end.
    pub first_is_low: bool,
    /// TCP: FIN by direction (bits 0 and 1), RST (bit 2).
    pub closing: u8,
    /// Which bound it counts against.
    pub pool: Pool,
    /// What fingerprints need before any of them keeps state.
    pub track: Track,
    /// Their state.
    pub tracked: Option<Box<Tracked>>,
}

impl Linked for Flow {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Flow {
    /// The stream has been closed by both ends, or reset.
    pub fn closed(&self) -> bool {
        self.closing & 3 == 3 || self.closing & 4 != 0
    }
}

/// The flows of one shard. Slots are bounded by the caller, who evicts before it inserts.
#[derive(Default)]
pub struct Table {
    flows: Vec<Flow>,
    free: Vec<u32>,
    index: HashTable<u32>,
    wheel: Wheel,
    /// Where eviction looks next.
    hand: usize,
}

impl Table {
    /// The slot of a key.
    pub fn find(&self, hash: u64, key: &FlowKey) -> Option<u32> {
        self.index.find(hash, |&slot| self.flows[slot as usize].key == *key).copied()
    }

    /// Whether the flow of a key is in this slot.
    pub fn is_at(&self, slot: u32, key: &FlowKey) -> bool {
        self.flows.get(slot as usize).is_some_and(|flow| flow.first_number != 0 && flow.key == *key)
    }

    /// The flow in a slot.
    pub fn flow(&self, slot: u32) -> &Flow {
        &self.flows[slot as usize]
    }

    /// The flow in a slot.
    pub fn flow_mut(&mut self, slot: u32) -> &mut Flow {
        &mut self.flows[slot as usize]
    }

    /// The flow in a slot that may have been given back, or never have been one.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        self.flows.get_mut(slot as usize).filter(|flow| flow.first_number != 0)
    }

    /// Adds a flow whose first look is due at `deadline`.
    pub fn insert(&mut self, flow: Flow, deadline: i64) -> u32 {
        let hash = flow.hash;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.flows[slot as usize] = flow;
                slot
            }
            None => {
                self.flows.push(flow);
                (self.flows.len() - 1) as u32
            }
        };
        let flows = &self.flows;
        self.index.insert_unique(hash, slot, |&slot| flows[slot as usize].hash);
        self.wheel.insert(&mut self.flows, slot, deadline);
        slot
    }

    /// Takes a flow out. `linked`: it is still in the wheel.
    pub fn remove(&mut self, slot: u32, linked: bool) -> Flow {
        if linked {
            self.wheel.remove(&mut self.flows, slot);
        }
        let hash = self.flows[slot as usize].hash;
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
        self.free.push(slot);
        std::mem::take(&mut self.flows[slot as usize])
    }

    /// Moves an earlier deadline of a linked flow into the wheel.
    pub fn reschedule(&mut self, slot: u32, deadline: i64) {
        self.wheel.remove(&mut self.flows, slot);
        self.wheel.insert(&mut self.flows, slot, deadline);
    }

    /// Puts back a flow that came up and has been seen since.
    pub fn put_back(&mut self, slot: u32, deadline: i64) {
        self.wheel.insert(&mut self.flows, slot, deadline);
    }

    /// Flows whose deadline may have passed; they are out of the wheel.
    pub fn advance(&mut self, now: i64, due: &mut Vec<u32>) {
        self.wheel.advance(&mut self.flows, now, due);
    }

    /// An undecided flow to push out: of the next few, one with a single packet, else the one seen least lately.
    pub fn undecided_victim(&mut self) -> Option<u32> {
        const LOOK: usize = 8;
        let (mut best, mut looked) = (None, 0);
        for _ in 0..self.flows.len() {
            self.hand = (self.hand + 1) % self.flows.len();
            let flow = &self.flows[self.hand];
            if flow.first_number == 0 || flow.pool != Pool::Undecided {
                continue;
            }
            let rank = (flow.packets[0] + flow.packets[1] > 1, flow.seen);
            if best.is_none_or(|(known, _)| rank < known) {
                best = Some((rank, self.hand as u32));
            }
            looked += 1;
            if looked == LOOK {
                break;
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// Slots in use.
    pub fn slots(&self) -> Vec<u32> {
        (0..self.flows.len() as u32).filter(|&slot| self.flows[slot as usize].first_number != 0).collect()
    }

    /// Empties the table for the next capture.
    pub fn clear(&mut self) {
        self.flows.clear();
        self.free.clear();
        self.index.clear();
        self.wheel.clear();
        self.hand = 0;
    }
}

#[cfg(test)]
mod tests;
