//! One shard's table: flows in a slab, found by a hash index. Those that were reported are timed out by a wheel; the
//! others, of which there are many and whose end nobody is told of, by a look at some of them every second.
//!
//! ```text
//! index --slot--> flows    64 bytes each, one line of the cache: all that most packets need
//!            \--> details  the rest: for fingerprints and reports
//! ```
//!
//! The rule a reader would get wrong: whether an undecided flow is over is for its next packet to say, by its deadline; it
//! may lie here for some time after that.

use std::hint::select_unpredictable;

use super::index::{self, Guess, Index};
use super::key::{KIND, KeyWords};
use super::layers::{Layers, LayersId};
use super::memory::{Memory, Part};
use super::prefetch::prefetch;
use super::shard::Routed;
use super::wheel::{Linked, Links, Wheel};
use super::{FlowKey, KeyMode};
use crate::decode::{Path, Transport, Vlans, tcp_flags};
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
    /// With fewer packets than these, and before [`Self::quiet_until`], no report is due.
    pub quiet_packets: u64,
    /// See [`Self::quiet_packets`].
    pub quiet_until: i64,
    /// Its place in the wheel, once it is in a pool other than that of the undecided.
    pub links: Links,
    /// Packets by end beyond those that [`Flow`] counts.
    pub more_packets: [u64; 2],
}

impl Tracked {
    /// Nothing yet.
    pub fn new(generation: u32) -> Self {
        Self {
            candidate: Candidate::default(),
            reported: None,
            said_to_pair: None,
            unreported: false,
            tag: 0,
            generation,
            next_update: 0,
            durations: 0,
            quiet_packets: 0,
            quiet_until: i64::MIN,
            links: Links::default(),
            more_packets: [0; 2],
        }
    }

    /// Whether what was found after so many packets, at this time, is known, and no report is due.
    #[inline(always)]
    pub fn is_quiet(&self, found: Option<(Protocol, Finding)>, packets: [u64; 2], now: i64) -> bool {
        (packets[0] + packets[1] < self.quiet_packets) & (now < self.quiet_until) && found == self.reported
    }
}

/// What every packet of a flow needs: one line of the cache. The rest is in its [`Details`].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Flow {
    low: [u64; 2],
    high: [u64; 2],
    ports: u32,
    /// [`KeyWords::kind`]; zero marks an empty slot. Above it [`QUIET`] and [`SETTLED`].
    kind: u8,
    state: u8,
    layers: LayersId,
    /// Packet clock at its latest packet.
    pub seen: i64,
    /// Packets by end, the `low` one first; [`Table::packets`] has them all.
    packets: [u32; 2],
    /// Lower half of the octets by end.
    octets: [u32; 2],
}

/// The rest of a flow. What counting needs comes first, and what nothing needs but a report comes last.
#[repr(C)]
pub struct Details {
    /// Latest packet time, but for packets that passed.
    end: i64,
    /// Fingerprints' state, and what was reported.
    pub tracked: Option<Box<Tracked>>,
    /// Upper half of the octets by end.
    octets: [u32; 2],
    /// What fingerprints need before any of them keeps state.
    pub track: Track,
    /// Time of its first packet.
    pub start: i64,
    /// Number of its first frame, from 1.
    pub first_number: u64,
}

impl Details {
    const EMPTY: Self = Self { end: 0, tracked: None, octets: [0; 2], track: Track::NONE, start: 0, first_number: 0 };

    /// Asks for the memory of all of it: two lines of the cache.
    #[inline(always)]
    fn prefetch(&self) {
        prefetch(Some(&self.end));
        prefetch(Some(&self.first_number));
    }
}

/// Of [`Flow`]'s kind: a segment without payload changes nothing but the counts.
const QUIET: u8 = 0x10;
/// The same for any segment from an end, the `low` one first, unless it opens or closes.
const SETTLED: [u8; 2] = [0x20, 0x40];
/// Of [`Flow`]'s state: TCP's FIN by direction (bits 0 and 1), RST (bit 2), its end has been scheduled (bit 3).
const CLOSING: u8 = 0x0f;
/// Its pool.
const POOL: u8 = 0x30;
const POOL_AT: u32 = 4;
/// The first packet came from the key's `low` end.
const FIRST_IS_LOW: u8 = 0x40;
/// There is [`Details::tracked`].
const TRACKED: u8 = 0x80;

/// No flow that is not closed ends sooner.
pub const SHORTEST_TIMEOUT: i64 = 60 * SECOND;
/// What may still be on its way when a stream is closed.
pub const CLOSED_TIMEOUT: i64 = 10 * SECOND;
const SECOND: i64 = 1_000_000_000;

impl Linked for Flows {
    fn links(&mut self, slot: u32) -> Option<&mut Links> {
        self.whole_mut(slot)?.1.tracked.as_mut().map(|tracked| &mut tracked.links)
    }
}

impl Flow {
    const EMPTY: Self = Self {
        low: [0; 2],
        high: [0; 2],
        ports: 0,
        kind: 0,
        state: 0,
        layers: 0,
        seen: 0,
        packets: [0; 2],
        octets: [0; 2],
    };

    fn words(&self) -> KeyWords {
        KeyWords { low: self.low, high: self.high, ports: self.ports, kind: self.kind & KIND }
    }

    fn hash(&self, scope: u32) -> u64 {
        let words = self.words();
        words.hash(words.pair_hash(), scope)
    }

    #[inline]
    fn is_used(&self) -> bool {
        self.kind != 0
    }

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

    /// When it ends if nothing comes and nothing is recognised.
    pub fn undecided_deadline(&self) -> i64 {
        self.seen.saturating_add(if self.closed() { CLOSED_TIMEOUT } else { SHORTEST_TIMEOUT })
    }

    /// The first packet came from the key's `low` end.
    #[inline]
    pub fn first_is_low(&self) -> bool {
        self.state & FIRST_IS_LOW != 0
    }

    /// TCP.
    #[inline]
    pub fn is_stream(&self) -> bool {
        self.words().is_stream()
    }

    /// Fingerprints keep state for it.
    #[inline]
    pub fn is_tracked(&self) -> bool {
        self.state & TRACKED != 0
    }

    /// Notes that fingerprints keep state for it, in [`Details::tracked`].
    pub fn note_tracked(&mut self) {
        self.state |= TRACKED;
        self.kind &= KIND;
    }

    /// Which end a packet came from: 0 the sender of the flow's first packet.
    #[inline]
    pub fn direction(&self, routed: &Routed) -> usize {
        usize::from(routed.from_low != self.first_is_low())
    }

    /// Whether a packet is of this flow. A slot that is free has no key: its kind is 0.
    #[inline(always)]
    fn is_of(&self, routed: &Routed, mode: KeyMode, layers: &Layers) -> bool {
        let key = &routed.key;
        let addresses = (self.low[0] ^ key.low[0])
            | (self.low[1] ^ key.low[1])
            | (self.high[0] ^ key.high[0])
            | (self.high[1] ^ key.high[1]);
        let others = (self.ports ^ key.ports) | u32::from((self.kind ^ key.kind) & KIND);
        addresses | u64::from(others) == 0 && (mode == KeyMode::FiveTuple || self.scope(mode, layers) == routed.scope)
    }

    /// What of its key is not in [`Self::words`].
    fn scope(&self, mode: KeyMode, layers: &Layers) -> u32 {
        if mode == KeyMode::FiveTuple {
            return 0;
        }
        let (vlans, path) = layers.get(self.layers);
        mode.scope(vlans, path)
    }

    /// Which of its ends a packet came from: 0 the one that is `low`.
    ///
    /// Counts and [`SETTLED`] go by this: it is told by the packet alone.
    #[inline(always)]
    fn end_of(routed: &Routed) -> usize {
        usize::from(!routed.from_low)
    }

    /// Packets by end.
    #[inline(always)]
    pub fn packets(&self, tracked: Option<&Tracked>) -> [u64; 2] {
        let more = tracked.map_or([0; 2], |tracked| tracked.more_packets);
        [0, 1].map(|end| u64::from(self.packets[end]) + more[end])
    }

    /// Values by end, of the sender of the flow's first packet and of the other one.
    fn by_direction<Value: Copy>(&self, by_end: [Value; 2]) -> [Value; 2] {
        if self.first_is_low() { by_end } else { [by_end[1], by_end[0]] }
    }

    /// Whether no time-out can have passed before a packet. Not for one from before the latest, either.
    #[inline(always)]
    fn is_busy(&self, routed: &Routed) -> bool {
        routed.now.wrapping_sub(self.seen) as u64 <= SHORTEST_TIMEOUT as u64
    }

    /// Counts a packet of this flow that is nothing but one more. False when it may be more than that, and nothing was done.
    #[inline(always)]
    fn pass(&mut self, routed: &Routed) -> bool {
        if (self.kind & routed.wanted == 0) | !self.is_busy(routed) {
            return false;
        }
        let end = Self::end_of(routed);
        let (packets, octets) = (&mut self.packets[end], &mut self.octets[end]);
        let (Some(more_packets), Some(more_octets)) =
            (packets.checked_add(1), octets.checked_add(routed.packet.ip_length))
        else {
            return false;
        };
        (*packets, *octets, self.seen) = (more_packets, more_octets, routed.now);
        true
    }

    /// Counts packets of a direction; whether they are its first.
    #[inline]
    pub fn count(&mut self, details: &mut Details, routed: &Routed, packets: u64, octets: u64) -> bool {
        // Fragments have no ports, so whether they come from the key's `low` end goes by the addresses alone.
        let end = Self::end_of(routed);
        let latest = select_unpredictable(self.kind & QUIET != 0, self.seen, details.end);
        details.end = latest.max(routed.time);
        // Until it is settled again.
        self.kind &= KIND;
        self.seen = routed.now;
        let sum = u64::from(self.octets[end]) + octets;
        self.octets[end] = sum as u32;
        if sum >> 32 != 0 {
            details.octets[end] = details.octets[end].saturating_add((sum >> 32) as u32);
        }
        let packets = u32::try_from(packets).unwrap_or(u32::MAX);
        let before = self.packets[end];
        self.packets[end] = match (before.checked_add(packets), &mut details.tracked) {
            (Some(sum), _) => sum,
            (None, Some(tracked)) => {
                tracked.more_packets[end] += u64::from(before);
                packets
            }
            (None, None) => u32::MAX,
        };
        before == 0
    }

    /// Notes which of a stream's packets will be nothing but one more, after one has been looked at: `looked_at` payloads
    /// of a direction are.
    #[inline]
    pub fn settle(&mut self, details: &Details, looked_at: u8) {
        self.kind &= KIND;
        if let Track::Stream(segments) = &details.track
            && segments.resync.is_none()
            && self.state & (CLOSING | TRACKED) == 0
            && details.end == self.seen
        {
            let settled = |end: usize, bit: u8| if segments.looked[end] > looked_at { bit } else { 0 };
            let first = usize::from(!self.first_is_low());
            self.kind |= QUIET | settled(first, SETTLED[0]) | settled(first ^ 1, SETTLED[1]);
        }
    }
}

/// Flags of segments that are looked at whatever their stream is.
const ENDS: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;

/// Of [`QUIET`] and [`SETTLED`], which a packet wants of its flow to be nothing but one more; none if it is more whatever
/// its flow is.
#[inline(always)]
pub fn wanted(routed: &Routed) -> u8 {
    let packet = &routed.packet;
    let settled = select_unpredictable(routed.from_low, SETTLED[0], SETTLED[1]);
    let wanted = select_unpredictable(packet.payload_length == 0, QUIET, settled);
    let may_pass = (packet.transport == Transport::Tcp)
        & (packet.tcp_flags & ENDS == 0)
        & packet.fragment.is_none()
        & (routed.time == routed.now);
    select_unpredictable(may_pass, wanted, 0)
}

/// Where a packet's flow may be; that it is nowhere holds for as long as nothing has come or gone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint {
    guess: Guess,
    epoch: u32,
}

/// What a packet met where its flow may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Met {
    /// It was nothing but one more, and has been counted.
    Passed,
    /// Its flow goes on, in this slot.
    Flow(u32),
    /// Its flow is elsewhere, may be over, or has not begun; or it is a fragment.
    Unknown,
}

/// Flows, in chunks that stay where they are when there are more.
#[derive(Default)]
struct Flows {
    memory: Memory,
    chunks: Vec<Part<Chunk>>,
    used: u32,
    /// Changes with every flow that comes or goes.
    epoch: u32,
}

const CHUNK: usize = 64;

struct Chunk {
    flows: [Flow; CHUNK],
    details: [Details; CHUNK],
}

impl Chunk {
    const EMPTY: Self = Self { flows: [Flow::EMPTY; CHUNK], details: [const { Details::EMPTY }; CHUNK] };
}

impl Flows {
    fn len(&self) -> usize {
        self.used as usize
    }

    /// This slot, or the first one if it is none: which packets begin a flow nobody could predict.
    #[inline(always)]
    fn clamp(&self, slot: u32) -> u32 {
        select_unpredictable(slot < self.used, slot, 0)
    }

    #[inline(always)]
    fn get(&self, slot: u32) -> Option<&Flow> {
        self.chunks.get(slot as usize / CHUNK).map(|chunk| &chunk.flows[slot as usize % CHUNK])
    }

    #[inline(always)]
    fn get_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        self.chunks.get_mut(slot as usize / CHUNK).map(|chunk| &mut chunk.flows[slot as usize % CHUNK])
    }

    #[inline(always)]
    fn details(&self, slot: u32) -> Option<&Details> {
        self.chunks.get(slot as usize / CHUNK).map(|chunk| &chunk.details[slot as usize % CHUNK])
    }

    #[inline(always)]
    fn whole(&self, slot: u32) -> Option<(&Flow, &Details)> {
        let chunk = self.chunks.get(slot as usize / CHUNK)?;
        Some((&chunk.flows[slot as usize % CHUNK], &chunk.details[slot as usize % CHUNK]))
    }

    #[inline(always)]
    fn whole_mut(&mut self, slot: u32) -> Option<(&mut Flow, &mut Details)> {
        let chunk = &mut **self.chunks.get_mut(slot as usize / CHUNK)?;
        Some((&mut chunk.flows[slot as usize % CHUNK], &mut chunk.details[slot as usize % CHUNK]))
    }

    /// Room for one more.
    fn push(&mut self) -> u32 {
        let slot = self.used;
        match self.get_mut(slot) {
            Some(flow) => *flow = Flow::EMPTY,
            None => self.chunks.push(self.memory.place(|| Chunk::EMPTY)),
        }
        self.used += 1;
        slot
    }

    /// Slots in use, in order.
    fn all(&self) -> impl Iterator<Item = (u32, &Flow)> {
        let flows = self.chunks.iter().flat_map(|chunk| chunk.flows.iter());
        (0..self.used).zip(flows).filter(|(_, flow)| flow.is_used())
    }

    /// Forgets all and keeps the memory: what is in it goes when there is something else.
    fn clear(&mut self) {
        self.used = 0;
    }
}

/// The flows of one shard. Slots are bounded by the caller, who evicts before it inserts.
pub struct Table {
    flows: Flows,
    index: Index,
    mode: KeyMode,
    /// Packets that passed.
    passed: u64,
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
/// Flows that are asked for ahead meanwhile.
const SWEEP_AHEAD: u32 = 8;

impl Table {
    /// An empty table, whose flows will be in this memory.
    pub fn new(mode: KeyMode, memory: &Memory) -> Self {
        Self {
            flows: Flows { memory: memory.clone(), ..Flows::default() },
            index: Index::default(),
            mode,
            passed: 0,
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
        self.index.find(routed.hash, |slot| self.is_at(slot, routed))
    }

    /// Asks for the memory of what tells where a flow is: the first of three steps, before [`Self::guess`] and a look.
    #[inline(always)]
    pub fn prefetch_index(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Guesses where a flow is, and asks for it, and for the rest of it if the packet is certainly looked at in full.
    #[inline(always)]
    pub fn guess(&self, routed: &Routed) -> Hint {
        let guess = self.index.guess(routed.hash);
        if let Some((flow, details)) = self.flows.whole(self.flows.clamp(guess.slot())) {
            prefetch(Some(flow));
            // What is asked for already is asked for again at no cost: which packets they are nobody could predict.
            let in_full = routed.wanted == 0;
            prefetch(Some(select_unpredictable(in_full, &details.end, &flow.seen)));
            prefetch(Some(select_unpredictable(in_full, &details.first_number, &flow.low[0])));
        }
        Hint { guess, epoch: self.flows.epoch }
    }

    /// The slot of a packet's flow now.
    #[inline]
    pub fn resolve(&self, hint: Hint, routed: &Routed) -> Option<u32> {
        match hint.epoch == self.flows.epoch {
            true => self.index.resolve(hint.guess, routed.hash, |slot| self.is_at(slot, routed)),
            false => self.find(routed),
        }
    }

    /// Counts a packet that is nothing but one more of a flow that goes on: most packets. Of others nothing is done.
    #[inline(always)]
    pub fn pass(&mut self, hint: Hint, routed: &Routed) -> Met {
        let Self { flows, layers, mode, passed, .. } = self;
        let slot = hint.guess.slot();
        let Some(flow) = flows.get_mut(slot).filter(|flow| flow.is_of(routed, *mode, layers)) else {
            return Met::Unknown;
        };
        if flow.pass(routed) {
            *passed = passed.wrapping_add(1);
            return Met::Passed;
        }
        let goes_on = routed.packet.fragment.is_none() & (flow.closing() == 0) & flow.is_busy(routed);
        if goes_on { Met::Flow(slot) } else { Met::Unknown }
    }

    /// How many packets were nothing but one more of their flow.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Counts these from nothing again.
    pub fn forget_passed(&mut self) {
        self.passed = 0;
    }

    /// Whether a packet's flow is in this slot.
    #[inline(always)]
    fn is_at(&self, slot: u32, routed: &Routed) -> bool {
        self.flows.get(slot).is_some_and(|flow| flow.is_of(routed, self.mode, &self.layers))
    }

    fn scope(&self, flow: &Flow) -> u32 {
        flow.scope(self.mode, &self.layers)
    }

    /// The flow in a slot.
    #[inline]
    pub fn flow(&self, slot: u32) -> &Flow {
        &self.flows.chunks[slot as usize / CHUNK].flows[slot as usize % CHUNK]
    }

    /// The flow in a slot.
    #[inline]
    pub fn flow_mut(&mut self, slot: u32) -> &mut Flow {
        &mut self.flows.chunks[slot as usize / CHUNK].flows[slot as usize % CHUNK]
    }

    /// The rest of the flow in a slot.
    #[inline]
    pub fn details(&self, slot: u32) -> &Details {
        &self.flows.chunks[slot as usize / CHUNK].details[slot as usize % CHUNK]
    }

    /// The flow in a slot, and the rest of it.
    #[inline]
    pub fn whole_mut(&mut self, slot: u32) -> (&mut Flow, &mut Details) {
        let chunk = &mut *self.flows.chunks[slot as usize / CHUNK];
        (&mut chunk.flows[slot as usize % CHUNK], &mut chunk.details[slot as usize % CHUNK])
    }

    /// The flow in a slot that may have been given back, or never have been one.
    pub fn get_mut(&mut self, slot: u32) -> Option<(&mut Flow, &mut Details)> {
        let is_there = (slot as usize) < self.flows.len();
        self.flows.whole_mut(slot).filter(|(flow, _)| is_there && flow.is_used())
    }

    /// What fingerprints keep of the flow in a slot.
    pub fn tracked_mut(&mut self, slot: u32) -> Option<&mut Tracked> {
        self.whole_mut(slot).1.tracked.as_deref_mut()
    }

    /// The key of the flow in a slot.
    pub fn key(&self, slot: u32) -> FlowKey {
        let flow = self.flow(slot);
        FlowKey::new(&flow.words(), self.scope(flow))
    }

    /// VLAN ids and layers of a flow's first packet.
    pub fn layers(&self, slot: u32) -> (Vlans, Path) {
        self.layers.get(self.flow(slot).layers)
    }

    /// Packets by direction. An undecided flow stops counting at four thousand million.
    #[inline]
    pub fn packets(&self, slot: u32) -> [u64; 2] {
        let (flow, details) = (self.flow(slot), self.details(slot));
        flow.by_direction(flow.packets(details.tracked.as_deref()))
    }

    /// Octets by direction.
    pub fn octets(&self, slot: u32) -> [u64; 2] {
        let (flow, details) = (self.flow(slot), self.details(slot));
        flow.by_direction([0, 1].map(|end| u64::from(details.octets[end]) << 32 | u64::from(flow.octets[end])))
    }

    /// Time of the latest packet.
    pub fn end(&self, slot: u32) -> i64 {
        let (flow, details) = (self.flow(slot), self.details(slot));
        if flow.kind & QUIET == 0 { details.end } else { flow.seen }
    }

    /// Adds a flow, undecided and without packets. `None` when no more can be told apart.
    pub fn insert(&mut self, routed: &Routed) -> Option<u32> {
        let (key, mode, layers) = (&routed.key, self.mode, &self.layers);
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.flows.len() < index::MOST_SLOTS => self.flows.push(),
            None => return None,
        };
        // Before it is in its slot: its own hash is known.
        let flows = &self.flows;
        self.index.insert(routed.hash, slot, || {
            let scope = move |flow: &Flow| {
                let (vlans, path) = layers.get(flow.layers);
                mode.scope(vlans, path)
            };
            flows.all().map(move |(slot, flow)| (flow.hash(scope(flow)), slot))
        });
        self.flows.epoch = self.flows.epoch.wrapping_add(1);
        let layers = self.layers.keep(routed.packet.vlans, routed.packet.path);
        // Each where it belongs: what is written in parts, and moved as a whole, is waited for.
        let (flow, details) = self.whole_mut(slot);
        (flow.low, flow.high, flow.ports, flow.kind) = (key.low, key.high, key.ports, key.kind);
        flow.state = if routed.from_low { FIRST_IS_LOW } else { 0 };
        flow.layers = layers;
        flow.seen = routed.now;
        (flow.packets, flow.octets) = ([0; 2], [0; 2]);
        details.tracked = None;
        (details.start, details.end, details.first_number) = (routed.time, routed.time, routed.number);
        details.octets = [0; 2];
        details.track = if key.is_stream() { Track::Stream(Segments::default()) } else { Track::NONE };
        // Room for the next one.
        let next = self.free.last().copied().unwrap_or(self.flows.len() as u32);
        prefetch(self.flows.get(next));
        if let Some(details) = self.flows.details(next) {
            details.prefetch();
        }
        Some(slot)
    }

    /// Takes a flow out, and gives what fingerprints kept of it.
    pub fn remove(&mut self, slot: u32) -> Option<Box<Tracked>> {
        self.unschedule(slot);
        let flow = *self.flow(slot);
        let hash = flow.hash(self.scope(&flow));
        let mut index = std::mem::take(&mut self.index);
        index.remove(hash, slot, |slot| {
            let flow = self.flow(slot);
            flow.hash(self.scope(flow))
        });
        self.index = index;
        self.flows.epoch = self.flows.epoch.wrapping_add(1);
        self.free.push(slot);
        self.layers.release(flow.layers);
        *self.flow_mut(slot) = Flow::EMPTY;
        // Of a flow without state the details stay as they are until another has the slot: nobody needs to touch them.
        if flow.is_tracked() { self.whole_mut(slot).1.tracked.take() } else { None }
    }

    /// Puts a flow that is tracked into the wheel, or moves it there, to come up when `deadline` has passed.
    pub fn schedule(&mut self, slot: u32, deadline: i64) {
        self.unschedule(slot);
        self.wheel.insert(&mut self.flows, slot, deadline);
    }

    fn unschedule(&mut self, slot: u32) {
        if self.flow(slot).is_tracked() {
            self.wheel.remove(&mut self.flows, slot);
        }
    }

    /// Another second has come: flows whose deadline may have passed. Those of the wheel are out of it.
    pub fn advance(&mut self, now: i64, due: &mut Vec<u32>) {
        self.wheel.advance(&mut self.flows, now, due);
        for _ in 0..self.flows.len().div_ceil(SWEEP_SECONDS) {
            self.broom = if self.broom + 1 < self.flows.len() { self.broom + 1 } else { 0 };
            prefetch(self.flows.get(self.broom as u32 + SWEEP_AHEAD));
            let flow = self.flow(self.broom as u32);
            if flow.is_used() && flow.pool() == Pool::Undecided && now > flow.undecided_deadline() {
                due.push(self.broom as u32);
            }
        }
    }

    /// An undecided flow to push out: of the next few the first with a single packet, else the one seen least lately.
    pub fn undecided_victim(&mut self) -> Option<u32> {
        let victim = self.choose_victim();
        // The next one will be near the hand, and its flow, its place in the index and its details far from all that is at
        // hand when it is pushed out.
        let next = self.hand + 1;
        prefetch(self.flows.get(next as u32 + 1));
        if let Some(flow) = self.flows.get(next as u32) {
            self.index.prefetch(flow.hash(self.scope(flow)));
        }
        if let Some(details) = self.flows.details(next as u32) {
            details.prefetch();
        }
        victim
    }

    fn choose_victim(&mut self) -> Option<u32> {
        const LOOK: usize = 8;
        let (mut best, mut looked) = (None, 0);
        for _ in 0..self.flows.len() {
            self.hand = if self.hand + 1 < self.flows.len() { self.hand + 1 } else { 0 };
            let slot = self.hand as u32;
            let flow = self.flow(slot);
            if !flow.is_used() || flow.pool() != Pool::Undecided {
                continue;
            }
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

    /// Empties the table for the next capture. What fingerprints keep of its flows has been let go.
    pub fn clear(&mut self) {
        self.flows.epoch = self.flows.epoch.wrapping_add(1);
        self.flows.clear();
        self.free.clear();
        self.index.clear();
        self.layers.clear();
        self.wheel.clear();
        self.hand = 0;
        self.broom = 0;
    }
}

#[cfg(test)]
mod tests;
