//! A shard: the flows between some of the host pairs, with a fixed share of every bound.
//!
//! There are always 64 of them, whatever the number of workers, so what is kept, timed out and pushed out does
//! not depend on it. A pair of hosts meets in one shard: fragments, ESP beside IKE, port 500 beside 4500.

use std::collections::{BTreeMap, VecDeque};

use super::duplicates::Recent;
use super::fragments::{FragmentCounters, Fragments, Message};
use super::hash::mix;
use super::key::{FlowKey, KeyMode, KeyWords};
use super::memory::Memory;
use super::record::{EndReason, FlowReport, Report};
use super::table::{Details, Flow, Hint, Met, Pool, SHORTEST_TIMEOUT, Segments, Table, Track, Tracked, wanted};
use crate::decode::{Packet, Target, Transport, tcp_flags};
use crate::fingerprint::{self, Confidence, Finding, FlowPacket, PairFacts, Phase, Protocol, Run};

/// Logical shards.
pub const SHARDS: usize = 64;
const SECOND: i64 = 1_000_000_000;
const UDP_HEADER: usize = 8;
const L2TP_PORT: u16 = 1701;
/// TCP payloads of a direction in which a fingerprint is looked for.
const SEGMENTS_LOOKED_AT: u8 = 16;
/// Those in which a tunnel through a proxy is asked for: some ask for a password first.
const PROXY_SEGMENTS: u8 = 4;
/// Flows of one host pair that know of each other.
const FLOWS_OF_A_PAIR: usize = 16;
/// IKE SAs of one host pair that are told apart.
const SESSIONS_OF_A_PAIR: usize = 8;

/// Settings of a shard: its share of the engine's.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What tells flows apart.
    pub key_mode: KeyMode,
    /// Least confidence that is reported.
    pub min_confidence: Confidence,
    /// Undecided flows.
    pub undecided: usize,
    /// Flows in phase attempt.
    pub attempts: usize,
    /// Recognised flows past attempt.
    pub recognised: usize,
    /// Nanoseconds between updates of a flow.
    pub update_interval: i64,
    /// Packet counts of a flow at which a report is wanted.
    pub packet_milestones: Vec<u64>,
    /// Durations (nanoseconds, ascending) of a flow at which a report is wanted.
    pub duration_milestones: Vec<i64>,
    /// Datagrams in fragments that are remembered.
    pub fragmented: usize,
    /// Packets that come twice are counted once.
    pub remove_duplicates: bool,
}

impl Limits {
    /// How many of the durations at which a report is wanted have passed.
    fn durations_passed(&self, duration: i64) -> u8 {
        self.duration_milestones.partition_point(|&passed| passed <= duration) as u8
    }
}

/// What a shard counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardCounters {
    /// Packets that belong to a flow.
    pub packets: u64,
    /// Flows begun.
    pub created: u64,
    /// Flows recognised at the least confidence.
    pub recognised: u64,
    /// Flows in each pool now.
    pub active: [u64; 3],
    /// Pushed out while undecided.
    pub evicted_undecided: u64,
    /// Pushed out in phase attempt.
    pub evicted_attempts: u64,
    /// Recognised flows not reported because their pool was full.
    pub unreported: u64,
    /// Packets that found no room.
    pub refused: u64,
    /// Clear L2TP control connections begun (SCCRQ seen): counted, never reported.
    pub clear_l2tp: u64,
    /// Packets that came twice, and how many of them were ignored.
    pub duplicates: [u64; 2],
    /// Fragments.
    pub fragments: FragmentCounters,
}

impl ShardCounters {
    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.created += other.created;
        self.recognised += other.recognised;
        for (sum, value) in self.active.iter_mut().zip(other.active) {
            *sum += value;
        }
        self.evicted_undecided += other.evicted_undecided;
        self.evicted_attempts += other.evicted_attempts;
        self.unreported += other.unreported;
        self.refused += other.refused;
        self.clear_l2tp += other.clear_l2tp;
        for (sum, value) in self.duplicates.iter_mut().zip(other.duplicates) {
            *sum += value;
        }
        self.fragments.add(&other.fragments);
    }
}

/// A decoded packet on its way to its shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Routed {
    /// What was decoded.
    pub packet: Packet,
    /// The key of its flow.
    pub key: KeyWords,
    /// Of the flow's key, what is not in the packet: see [`KeyMode`].
    pub scope: u32,
    /// Hash of the flow's key.
    pub hash: u64,
    /// Hash of the host pair.
    pub pair: u64,
    /// Its source is the key's `low` end.
    pub from_low: bool,
    /// Number of its frame.
    pub number: u64,
    /// Its own time.
    pub time: i64,
    /// Packet clock when it came.
    pub now: i64,
    /// What its flow has to be, for it to be nothing but one more: see [`super::table::wanted`].
    pub wanted: u8,
}

impl Target for Routed {
    #[inline(always)]
    fn packet(&mut self) -> &mut Packet {
        &mut self.packet
    }

    /// Routes it by its five-tuple: see [`Self::set_scope`] for the rest.
    #[inline(always)]
    fn complete(&mut self) {
        (self.key, self.from_low) = KeyWords::of(&self.packet);
        self.pair = self.key.pair_hash();
        self.scope = 0;
        self.hash = self.key.hash(self.pair, self.scope);
        self.wanted = wanted(self);
    }
}

impl Routed {
    /// Sets what follows from the packet and its times.
    #[inline(always)]
    pub fn route(&mut self, mode: KeyMode) {
        self.complete();
        self.set_scope(mode);
    }

    /// Tells flows of one five-tuple apart by what the mode names.
    #[inline(always)]
    pub fn set_scope(&mut self, mode: KeyMode) {
        if mode != KeyMode::FiveTuple {
            self.scope = mode.scope(self.packet.vlans, self.packet.path);
            self.hash = self.key.hash(self.pair, self.scope);
        }
    }
}

/// What a packet added to its flow's counts.
#[derive(Clone, Copy, Default)]
struct Counted {
    /// Packets: more than one when later fragments came before the first.
    packets: u64,
    /// They are the first of their direction.
    first_of_direction: bool,
}

/// What a packet showed to the fingerprints.
struct Shown {
    found: Option<(Protocol, Finding)>,
    /// What was reported before.
    known: Option<(Protocol, Finding)>,
    facts: Option<PairFacts>,
    /// They keep state for its flow from now on.
    is_new: bool,
    /// See [`Tracked::is_quiet`].
    is_quiet: bool,
}

/// IPsec flows between two hosts.
#[derive(Default)]
struct Pair {
    esp: bool,
    finished: bool,
    sessions: Vec<Session>,
    slots: Vec<u32>,
}

/// One IKE SA of a pair.
struct Session {
    spi: u64,
    encrypted: bool,
    initiator_is_low: Option<bool>,
}

impl Pair {
    /// Takes in what a flow says; whether anything was new.
    fn join(&mut self, facts: &PairFacts, first_is_low: bool) -> bool {
        let mut news = (facts.esp && !self.esp) || (facts.finished && !self.finished);
        self.esp |= facts.esp;
        self.finished |= facts.finished;
        if facts.spi != 0 {
            let initiator_is_low = facts.initiator.map(|direction| (direction == 0) == first_is_low);
            if self.sessions.len() >= SESSIONS_OF_A_PAIR && !self.sessions.iter().any(|known| known.spi == facts.spi) {
                // An opening that nobody answered goes first, else the oldest.
                let oldest = self.sessions.iter().position(|session| !session.encrypted).unwrap_or(0);
                self.sessions.remove(oldest);
            }
            match self.sessions.iter_mut().find(|session| session.spi == facts.spi) {
                Some(session) => {
                    news |= facts.encrypted_ike && !session.encrypted
                        || initiator_is_low.is_some() && session.initiator_is_low.is_none();
                    session.encrypted |= facts.encrypted_ike;
                    session.initiator_is_low = session.initiator_is_low.or(initiator_is_low);
                }
                None => {
                    self.sessions.push(Session { spi: facts.spi, encrypted: facts.encrypted_ike, initiator_is_low });
                    news = true;
                }
            }
        }
        news
    }

    /// A finished handshake stands behind the flows of the pair.
    fn established(&self) -> bool {
        self.finished || (self.esp && self.sessions.iter().any(|session| session.encrypted))
    }

    /// The IKE SA of a flow; that of ESP the latest that has come to encrypted messages.
    fn session(&self, spi: u64) -> Option<&Session> {
        let mut sessions = self.sessions.iter().rev();
        sessions.find(|session| if spi == 0 { session.encrypted } else { session.spi == spi })
    }
}

/// Fewer of [`Shard::tracked`] are not worth a look at which of them have been given back.
const FEW_TRACKED: usize = 64;

/// One shard.
pub struct Shard {
    recent: Recent,
    table: Table,
    number: usize,
    limits: Limits,
    counters: ShardCounters,
    pairs: BTreeMap<u64, Pair>,
    fragments: Fragments,
    /// Attempts in the order in which they came; entries may be stale.
    attempts: VecDeque<(u32, u32)>,
    generation: u32,
    /// Slots that fingerprints have come to keep state for. Some have been given back since, and may be here twice.
    tracked: Vec<u32>,
    /// So many of them, and those that have been given back are forgotten.
    most_tracked: usize,
    chain: u64,
    due: Vec<u32>,
    reports: Vec<FlowReport>,
}

impl Shard {
    /// An empty shard, whose flows will be in this memory.
    pub fn new(number: usize, limits: Limits, memory: &Memory) -> Self {
        Self {
            number,
            fragments: Fragments::new(limits.fragmented),
            recent: Recent::default(),
            table: Table::new(limits.key_mode, memory),
            limits,
            counters: ShardCounters::default(),
            pairs: BTreeMap::new(),
            attempts: VecDeque::new(),
            generation: 0,
            tracked: Vec::new(),
            most_tracked: 0,
            chain: 0,
            due: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// A new capture begins; `chain` names it in flow ids.
    pub fn begin(&mut self, chain: u64) {
        self.chain = chain;
        self.clear_table();
        self.pairs.clear();
        self.attempts.clear();
        self.fragments.clear();
        self.recent.clear();
        self.counters.active = [0; 3];
    }

    /// Counters since the shard was made.
    pub fn counters(&self) -> ShardCounters {
        let packets = self.counters.packets + self.table.passed();
        ShardCounters { packets, fragments: self.fragments.counters, ..self.counters }
    }

    /// Counts from nothing again; between captures.
    pub fn forget_counters(&mut self) {
        self.counters = ShardCounters::default();
        self.fragments.counters = FragmentCounters::default();
        self.table.forget_passed();
    }

    /// Flows in phase attempt or past it.
    pub fn running(&self) -> usize {
        let [_, attempts, recognised] = self.counters.active;
        (attempts + recognised) as usize
    }

    /// Reports made since the last call.
    pub fn take_reports(&mut self) -> Vec<FlowReport> {
        std::mem::take(&mut self.reports)
    }

    /// Tags the flow behind a handle, if it still runs.
    pub fn set_tag(&mut self, handle: u64, tag: u32) {
        let (slot, generation) = ((handle >> 6) as u32 & 0x03ff_ffff, (handle >> 32) as u32);
        if let Some(tracked) = self.table.get_mut(slot).and_then(|(_, details)| details.tracked.as_mut())
            && tracked.generation == generation
        {
            tracked.tag = tag;
        }
    }

    /// The clock has reached another second: idle flows end.
    pub fn tick(&mut self, number: u64, now: i64) {
        if !self.fragments.is_empty() {
            let mut given_up = Vec::new();
            self.fragments.tick(now, &mut given_up);
            self.look_at_given_up(given_up, number, now);
        }
        let mut due = std::mem::take(&mut self.due);
        due.clear();
        self.table.advance(now, &mut due);
        for &slot in &due {
            let deadline = self.deadline(slot);
            if now > deadline {
                let reason = if self.table.flow(slot).closed() { EndReason::EndOfFlow } else { EndReason::IdleTimeout };
                self.end(slot, number, now, reason);
            } else if self.table.flow(slot).pool() != Pool::Undecided {
                self.table.schedule(slot, deadline);
            }
        }
        self.due = due;
    }

    /// Reports every reported flow that still runs: what others make of it may have changed.
    pub fn review(&mut self, number: u64, now: i64) {
        for slot in self.tracked() {
            self.push_report(slot, Report::Milestone, number, now, None);
        }
    }

    /// Takes over new milestones; the bounds of the pools stay.
    pub fn set_milestones(&mut self, limits: &Limits) {
        self.limits.packet_milestones.clone_from(&limits.packet_milestones);
        self.limits.duration_milestones.clone_from(&limits.duration_milestones);
        for slot in self.tracked() {
            let (flow, details) = self.table.whole_mut(slot);
            let duration = flow.seen.saturating_sub(details.start);
            if let Some(tracked) = details.tracked.as_mut() {
                tracked.durations = self.limits.durations_passed(duration);
                tracked.quiet_until = i64::MIN;
            }
        }
    }

    /// The capture is over: every flow ends.
    pub fn finish(&mut self, number: u64, now: i64) {
        let mut given_up = Vec::new();
        self.fragments.finish(&mut given_up);
        self.look_at_given_up(given_up, number, now);
        for slot in self.tracked() {
            let reason = if self.table.flow(slot).closed() { EndReason::EndOfFlow } else { EndReason::ForcedEnd };
            self.push_report(slot, Report::Ended, number, now, Some(reason));
        }
        self.clear_table();
        self.pairs.clear();
        self.attempts.clear();
        self.counters.active = [0; 3];
    }

    fn clear_table(&mut self) {
        for slot in self.tracked.drain(..) {
            if let Some((_, details)) = self.table.get_mut(slot) {
                details.tracked = None;
            }
        }
        self.table.clear();
    }

    /// Slots of flows that fingerprints keep state for, in order: not found by looking at all flows, of which there are many.
    fn tracked(&mut self) -> Vec<u32> {
        self.forget_given_back();
        self.tracked.clone()
    }

    fn forget_given_back(&mut self) {
        let table = &self.table;
        self.tracked.retain(|&slot| table.flow(slot).is_tracked());
        self.tracked.sort_unstable();
        self.tracked.dedup();
        self.most_tracked = (2 * self.tracked.len()).max(FEW_TRACKED);
    }

    /// A flow has come to be one of [`Self::tracked`].
    #[cold]
    fn list_tracked(&mut self, slot: u32) {
        if self.tracked.len() >= self.most_tracked {
            self.forget_given_back();
        }
        self.tracked.push(slot);
    }

    /// See [`Table::prefetch_index`].
    #[inline(always)]
    pub fn prefetch_index(&self, routed: &Routed) {
        self.table.prefetch_index(routed.hash);
    }

    /// See [`Table::guess`].
    #[inline(always)]
    pub fn guess(&self, routed: &Routed) -> Hint {
        self.table.guess(routed)
    }

    /// A packet of one of this shard's flows; `payload` is what was captured of it, and `hint` where its flow may be.
    #[inline(always)]
    pub fn packet<'a>(&mut self, routed: &Routed, payload: impl Fn() -> &'a [u8], hint: Hint) {
        if self.recent.has_seen(routed, &payload) {
            self.counters.duplicates[0] += 1;
            if self.limits.remove_duplicates {
                self.counters.duplicates[1] += 1;
                return;
            }
        }
        match self.table.pass(hint, routed) {
            Met::Passed => {}
            Met::Flow(slot) => self.packet_of(slot, routed, payload()),
            Met::Unknown => self.packet_in_full(routed, payload(), hint),
        }
    }

    /// A packet, whole, of the flow in this slot.
    #[inline(never)]
    fn packet_of(&mut self, slot: u32, routed: &Routed, payload: &[u8]) {
        self.counters.packets += 1;
        let (flow, details) = self.table.whole_mut(slot);
        let first_of_direction = flow.count(details, routed, 1, u64::from(routed.packet.ip_length));
        self.look(slot, routed, payload, routed.number, Counted { packets: 1, first_of_direction });
    }

    /// A packet, whatever it is.
    #[inline(never)]
    fn packet_in_full(&mut self, routed: &Routed, payload: &[u8], hint: Hint) {
        match routed.packet.fragment {
            None => {
                let found = self.table.resolve(hint, routed);
                let Some(slot) = self.slot(routed, found) else { return self.refuse() };
                self.packet_of(slot, routed, payload);
            }
            Some(fragment) if fragment.offset == 0 => self.first_fragment(routed, payload),
            Some(_) => self.later_fragment(routed, payload),
        }
    }

    /// The first fragment of a datagram: the packet of its flow.
    fn first_fragment(&mut self, routed: &Routed, payload: &[u8]) {
        let Some(slot) = self.slot(routed, self.table.find(routed)) else { return self.refuse() };
        let packet = &routed.packet;
        let hold = (packet.transport == Transport::Udp
            && fingerprint::needs_all(&flow_packet(routed, payload, routed.number, 0, &Track::NO_RUNS)))
        .then_some((UDP_HEADER, payload));
        let mut given_up = Vec::new();
        let first = self.fragments.first(routed, self.flow_of_datagram(slot), hold, &mut given_up);
        let (packets, octets) = (1 + first.waiting.0, u64::from(packet.ip_length) + first.waiting.1);
        let first_of_direction = self.count(slot, routed, packets, octets);
        let counted = Counted { packets, first_of_direction };
        if let Some(message) = first.whole {
            self.look_at_message(&message, routed, counted);
        } else if first.held {
            self.report_count(slot, routed, counted);
        } else {
            self.look(slot, routed, payload, routed.number, counted);
        }
        self.look_at_given_up(given_up, routed.number, routed.now);
    }

    /// A later fragment counts to the flow of its datagram, now or when the first one comes.
    fn later_fragment(&mut self, routed: &Routed, part: &[u8]) {
        let mut given_up = Vec::new();
        let (flow, message) = self.fragments.later(routed, part, &mut given_up);
        if let Some((slot, first_number)) = flow {
            if self.table.get_mut(slot).is_some_and(|(_, details)| details.first_number == first_number) {
                let octets = u64::from(routed.packet.ip_length);
                let first_of_direction = self.count(slot, routed, 1, octets);
                let counted = Counted { packets: 1, first_of_direction };
                match message {
                    Some(message) => self.look_at_message(&message, routed, counted),
                    None => self.report_count(slot, routed, counted),
                }
            } else {
                // Its flow has ended.
                self.fragments.counters.unmatched += 1;
            }
        }
        self.look_at_given_up(given_up, routed.number, routed.now);
    }

    fn flow_of_datagram(&self, slot: u32) -> (u32, u64) {
        (slot, self.table.details(slot).first_number)
    }

    /// A datagram that has become whole with the packet `by`.
    fn look_at_message(&mut self, message: &Message, by: &Routed, counted: Counted) {
        let number = message.first.number;
        let mut routed = Routed { number: by.number, now: by.now, ..message.first };
        routed.packet.payload_captured = message.payload.len() as u32;
        if let Some(slot) = self.table.find(&routed) {
            self.look(slot, &routed, &message.payload, number, counted);
        }
    }

    /// Datagrams that did not become whole: their first fragments are looked at as they are.
    fn look_at_given_up(&mut self, given_up: Vec<Message>, number: u64, now: i64) {
        for message in given_up {
            let routed = Routed { number, now, ..message.first };
            if let Some(slot) = self.table.find(&routed) {
                self.look(slot, &routed, &message.payload, message.first.number, Counted::default());
            }
        }
    }

    /// No more flows can be told apart: the bounds of the pools are lower, so this is not to be seen.
    fn refuse(&mut self) {
        self.counters.refused += 1;
    }

    /// Counts packets of a flow; whether they are the first of their direction.
    #[inline]
    fn count(&mut self, slot: u32, routed: &Routed, packets: u64, octets: u64) -> bool {
        self.counters.packets += packets;
        let (flow, details) = self.table.whole_mut(slot);
        flow.count(details, routed, packets, octets)
    }

    /// Reports what the mere number of packets brings about.
    fn report_count(&mut self, slot: u32, routed: &Routed, counted: Counted) {
        let reported = self.table.details(slot).tracked.as_ref().and_then(|tracked| tracked.reported);
        self.report(slot, routed, reported, reported, counted);
    }

    /// Looks at a packet; `number` is its frame's.
    #[inline(always)]
    fn look(&mut self, slot: u32, routed: &Routed, payload: &[u8], number: u64, counted: Counted) {
        if routed.packet.transport != Transport::Tcp {
            return self.show_datagram(slot, routed, payload, number, counted);
        }
        let (flow, details) = self.table.whole_mut(slot);
        let own = flow.direction(routed) & 1;
        let begins = note_segment(flow, details, &routed.packet, own);
        // Most segments are of streams that have shown what they are, or have nothing to show.
        if !flow.is_tracked()
            && let Track::Stream(segments) = &mut details.track
            && (routed.packet.payload_length == 0 || segments.looked[own] > SEGMENTS_LOOKED_AT)
        {
            if segments.looked[own] > SEGMENTS_LOOKED_AT {
                segments.resync = None;
            }
            flow.settle(details, SEGMENTS_LOOKED_AT);
        } else {
            self.show_segment(slot, routed, payload, number, counted, begins);
            self.close_if_ended(slot, routed.now);
            let (flow, details) = self.table.whole_mut(slot);
            flow.settle(details, SEGMENTS_LOOKED_AT);
        }
    }

    /// Shows a packet of UDP, ESP or AH to the fingerprints.
    #[inline(never)]
    fn show_datagram(&mut self, slot: u32, routed: &Routed, payload: &[u8], number: u64, counted: Counted) {
        let packet = &routed.packet;
        let (flow, details) = self.table.whole_mut(slot);
        let own = flow.direction(routed) & 1;
        let Details { track: Track::Datagrams(runs), tracked, .. } = details else { return };
        if packet.transport == Transport::Udp && tracked.as_ref().is_none_or(|tracked| tracked.candidate.reads_runs()) {
            runs[own].update(payload, packet.payload_length, packet.has_no_checksum());
            if tracked.is_none()
                && fingerprint::is_strange(payload, packet.payload_length, &runs[own])
                && !is_on_port(packet, L2TP_PORT)
            {
                return;
            }
        }
        let looked_at = flow_packet(routed, payload, number, own, runs);
        if tracked.is_none() && !fingerprint::screen(&looked_at) {
            if is_l2tp_opening(&looked_at) {
                self.counters.clear_l2tp += 1;
            }
            return;
        }
        let shown = observe(flow, tracked, &mut self.generation, &looked_at, routed.now);
        self.tell(slot, routed, shown, counted);
    }

    /// Shows a segment to the fingerprints.
    #[inline(never)]
    fn show_segment(
        &mut self,
        slot: u32,
        routed: &Routed,
        payload: &[u8],
        number: u64,
        counted: Counted,
        stream_start: bool,
    ) {
        let (flow, details) = self.table.whole_mut(slot);
        let own = flow.direction(routed) & 1;
        let Details { track: Track::Stream(segments), tracked, .. } = details else { return };
        let mut joined = Vec::new();
        let mut looked_at = FlowPacket { stream_start, ..flow_packet(routed, payload, number, own, &Track::NO_RUNS) };
        if segments.join_beginning(&mut looked_at, &mut joined) {
            return;
        }
        if tracked.is_some() {
            segments.resync = None;
        } else {
            if segments.looked[own] <= PROXY_SEGMENTS
                && fingerprint::is_proxied(looked_at.payload, looked_at.stream_start)
            {
                segments.via_proxy = true;
            }
            if segments.via_proxy && looked_at.payload.ends_with(b"\r\n\r\n") {
                // Behind the request and its answer the stream begins anew.
                segments.start[own] = Some(looked_at.sequence.wrapping_add(looked_at.length));
            }
            segments.find_record(&mut looked_at);
            if !fingerprint::screen(&looked_at) {
                if looked_at.stream_start && !segments.via_proxy {
                    // What the stream begins with has been seen: what comes in its middle begins no other.
                    segments.looked[own] = SEGMENTS_LOOKED_AT + 1;
                }
                return;
            }
        }
        let shown = observe(flow, tracked, &mut self.generation, &looked_at, routed.now);
        self.tell(slot, routed, shown, counted);
    }

    /// Tells what a packet showed, if it is news.
    #[inline(always)]
    fn tell(&mut self, slot: u32, routed: &Routed, shown: Shown, counted: Counted) {
        if shown.is_new {
            self.list_tracked(slot);
        }
        if counted.first_of_direction || !shown.is_quiet {
            self.report(slot, routed, shown.found, shown.known, counted);
        }
        if let Some(facts) = shown.facts {
            self.join_pair(slot, routed, facts);
        }
    }

    /// The slot of a packet's flow, which begins where there is none.
    #[inline(always)]
    fn slot(&mut self, routed: &Routed, found: Option<u32>) -> Option<u32> {
        match found {
            Some(slot) if self.goes_on(slot, routed) => Some(slot),
            _ => self.begin_flow(routed, found),
        }
    }

    /// A packet belongs to the flow in this slot, and not to the next one of its key.
    #[inline(always)]
    fn goes_on(&self, slot: u32, routed: &Routed) -> bool {
        let flow = self.table.flow(slot);
        if flow.closing() == 0 && routed.now.saturating_sub(flow.seen) <= SHORTEST_TIMEOUT {
            return true;
        }
        // Half closed, too: of many streams one direction alone is seen.
        let reopened =
            flow.closing() != 0 && routed.packet.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
        routed.now <= self.deadline(slot) && !reopened
    }

    /// The next flow of a key, of which the former is over.
    #[inline(never)]
    fn begin_flow(&mut self, routed: &Routed, former: Option<u32>) -> Option<u32> {
        if let Some(slot) = former {
            let reason = if self.table.flow(slot).closed() { EndReason::EndOfFlow } else { EndReason::IdleTimeout };
            self.end(slot, routed.number, routed.now, reason);
        }
        if self.counters.active[Pool::Undecided as usize] as usize >= self.limits.undecided
            && let Some(victim) = self.table.undecided_victim()
        {
            self.counters.evicted_undecided += 1;
            self.end(victim, routed.number, routed.now, EndReason::LackOfResources);
        }
        let slot = self.table.insert(routed)?;
        self.counters.created += 1;
        self.counters.active[Pool::Undecided as usize] += 1;
        Some(slot)
    }

    /// Reports what a packet brought about.
    fn report(
        &mut self,
        slot: u32,
        routed: &Routed,
        found: Option<(Protocol, Finding)>,
        known: Option<(Protocol, Finding)>,
        counted: Counted,
    ) {
        let Some((protocol, finding)) = found.filter(|(_, finding)| finding.confidence >= self.limits.min_confidence)
        else {
            return;
        };
        let report = match known {
            None => Report::Recognised,
            Some(known) if known != (protocol, finding) => Report::Changed,
            Some(_) => match self.due_report(slot, routed.now, counted) {
                Some(report) => report,
                None => return,
            },
        };
        if !self.enter_pool(slot, finding.phase, routed) {
            // Once for each flow, however many packets it has.
            if let Some(tracked) = self.table.tracked_mut(slot)
                && tracked.reported.is_none()
                && !std::mem::replace(&mut tracked.unreported, true)
            {
                self.counters.unreported += 1;
            }
            return;
        }
        let limits = &self.limits;
        let (_, details) = self.table.whole_mut(slot);
        let duration = routed.now.saturating_sub(details.start);
        if let Some(tracked) = details.tracked.as_mut() {
            if known.is_none() {
                self.counters.recognised += 1;
                tracked.next_update = routed.now.saturating_add(limits.update_interval);
            } else if report == Report::Update {
                tracked.next_update = routed.now.saturating_add(limits.update_interval);
            }
            tracked.durations = limits.durations_passed(duration);
            tracked.quiet_until = i64::MIN;
            tracked.reported = Some((protocol, finding));
        }
        self.push_report(slot, report, routed.number, routed.now, None);
    }

    /// Whether a flow that is known and has not changed is due for a report all the same.
    fn due_report(&mut self, slot: u32, now: i64, counted: Counted) -> Option<Report> {
        let packets = self.table.packets(slot).iter().sum::<u64>();
        let Self { limits, table, .. } = self;
        let (_, details) = table.whole_mut(slot);
        let tracked = details.tracked.as_mut()?;
        let next_duration = limits.duration_milestones.get(usize::from(tracked.durations));
        let next_duration = next_duration.map_or(i64::MAX, |&next| details.start.saturating_add(next));
        let milestones = limits.packet_milestones.iter().copied();
        tracked.quiet_packets = milestones.clone().filter(|&wanted| wanted > packets).min().unwrap_or(u64::MAX);
        tracked.quiet_until = tracked.next_update.min(next_duration);
        let before = packets - counted.packets;
        if milestones.clone().any(|wanted| (before + 1..=packets).contains(&wanted))
            || (counted.first_of_direction && !limits.packet_milestones.is_empty())
            || now >= next_duration
        {
            return Some(Report::Milestone);
        }
        (now >= tracked.next_update).then_some(Report::Update)
    }

    /// Moves a flow to the pool of its phase; false when that pool is full and the flow is not in one yet.
    fn enter_pool(&mut self, slot: u32, phase: Phase, routed: &Routed) -> bool {
        let wanted = if phase == Phase::Attempt { Pool::Attempt } else { Pool::Recognised };
        let flow = self.table.flow(slot);
        let pool = flow.pool();
        if pool == wanted || pool == Pool::Recognised {
            return true;
        }
        if wanted == Pool::Recognised
            && self.counters.active[Pool::Recognised as usize] as usize >= self.limits.recognised
        {
            return pool == Pool::Attempt;
        }
        if wanted == Pool::Attempt {
            if self.counters.active[Pool::Attempt as usize] as usize >= self.limits.attempts {
                self.evict_attempt(routed);
            }
            let generation = self.table.details(slot).tracked.as_ref().map_or(0, |tracked| tracked.generation);
            self.attempts.push_back((slot, generation));
            if self.attempts.len() > 2 * self.limits.attempts + 64 {
                self.forget_stale_attempts();
            }
        }
        self.table.flow_mut(slot).set_pool(wanted);
        if pool == Pool::Undecided {
            let first_deadline = self.deadline(slot);
            self.table.schedule(slot, first_deadline);
        }
        self.counters.active[pool as usize] -= 1;
        self.counters.active[wanted as usize] += 1;
        true
    }

    fn is_attempt(&self, slot: u32, generation: u32) -> bool {
        let (pool, details) = (self.table.flow(slot).pool(), self.table.details(slot));
        pool == Pool::Attempt && details.tracked.as_ref().is_some_and(|tracked| tracked.generation == generation)
    }

    fn forget_stale_attempts(&mut self) {
        let mut attempts = std::mem::take(&mut self.attempts);
        attempts.retain(|&(slot, generation)| self.is_attempt(slot, generation));
        self.attempts = attempts;
    }

    fn evict_attempt(&mut self, routed: &Routed) {
        while let Some((slot, generation)) = self.attempts.pop_front() {
            if self.is_attempt(slot, generation) {
                self.counters.evicted_attempts += 1;
                self.end(slot, routed.number, routed.now, EndReason::LackOfResources);
                return;
            }
        }
    }

    /// Lets the IPsec flows between two hosts know of each other.
    fn join_pair(&mut self, slot: u32, routed: &Routed, facts: PairFacts) {
        // Most packets say nothing new, and a pair is joined only by flows that are reported.
        match self.table.tracked_mut(slot) {
            Some(tracked) if tracked.reported.is_some() && tracked.said_to_pair != Some(facts) => {
                tracked.said_to_pair = Some(facts);
            }
            _ => return,
        }
        let first_is_low = self.table.flow(slot).first_is_low();
        let pair = self.pairs.entry(routed.pair).or_default();
        if pair.slots.len() >= FLOWS_OF_A_PAIR && !pair.slots.contains(&slot) {
            // Openings that nobody answered make room.
            let table = &self.table;
            pair.slots.retain(|&known| table.flow(known).pool() != Pool::Attempt);
        }
        let newcomer = !pair.slots.contains(&slot) && pair.slots.len() < FLOWS_OF_A_PAIR;
        if newcomer {
            pair.slots.push(slot);
        }
        if !pair.join(&facts, first_is_low) && !newcomer {
            return;
        }
        let established = pair.established();
        for slot in pair.slots.clone() {
            let Some(pair) = self.pairs.get(&routed.pair) else { return };
            let Some((flow, details)) = self.table.get_mut(slot) else { continue };
            let first_is_low = flow.first_is_low();
            let Some(tracked) = details.tracked.as_mut() else { continue };
            let Some(facts) = tracked.candidate.pair_facts() else { continue };
            let session = pair.session(facts.spi);
            let initiator =
                session.and_then(|session| session.initiator_is_low).map(|low| u8::from(low != first_is_low));
            let same_session = facts.spi != 0 && session.is_some_and(|session| session.encrypted);
            if tracked.candidate.raise_by_pair(routed.number, routed.now, established, same_session, initiator) {
                tracked.reported = tracked.candidate.best();
                // Past its attempt it must leave that pool, where a flood of openings would push it out.
                if let Some((_, finding)) = tracked.reported {
                    self.enter_pool(slot, finding.phase, routed);
                }
                self.push_report(slot, Report::Changed, routed.number, routed.now, None);
            }
        }
    }

    /// Closed streams linger for a moment, for what is still on its way.
    #[inline]
    fn close_if_ended(&mut self, slot: u32, now: i64) {
        let flow = self.table.flow_mut(slot);
        if flow.closing() != 0 && flow.closed() && flow.seen == now && flow.closing() & 8 == 0 {
            flow.note_closing(8);
            if flow.pool() != Pool::Undecided {
                let first_deadline = self.deadline(slot);
                self.table.schedule(slot, first_deadline);
            }
        }
    }

    fn deadline(&self, slot: u32) -> i64 {
        deadline(self.table.flow(slot), self.table.details(slot))
    }

    /// Takes a flow out, and reports its end if it had been reported.
    fn end(&mut self, slot: u32, number: u64, now: i64, reason: EndReason) {
        self.counters.active[self.table.flow(slot).pool() as usize] -= 1;
        if self.table.flow(slot).is_tracked() {
            self.push_report(slot, Report::Ended, number, now, Some(reason));
            let pair = self.table.key(slot).pair_hash();
            if let Some(members) = self.pairs.get_mut(&pair) {
                members.slots.retain(|&member| member != slot);
                if members.slots.is_empty() {
                    self.pairs.remove(&pair);
                }
            }
        }
        self.table.remove(slot);
    }

    fn push_report(&mut self, slot: u32, report: Report, number: u64, now: i64, end_reason: Option<EndReason>) {
        let (flow, details) = (self.table.flow(slot), self.table.details(slot));
        let Some(tracked) = details.tracked.as_ref() else { return };
        let Some((protocol, finding)) = tracked.reported else { return };
        let key = self.table.key(slot);
        let (vlans, path) = self.table.layers(slot);
        self.reports.push(FlowReport {
            report,
            number,
            time: now,
            flow_id: flow_id(self.chain, &key, details.first_number),
            handle: u64::from(tracked.generation) << 32 | u64::from(slot) << 6 | self.number as u64,
            tag: tracked.tag,
            key,
            first_is_low: flow.first_is_low(),
            vlans,
            path,
            protocol,
            finding,
            evidence: tracked.candidate.evidence().clone(),
            via_proxy: matches!(&details.track, Track::Stream(segments) if segments.via_proxy),
            packets: self.table.packets(slot),
            bytes: self.table.octets(slot),
            start: details.start,
            end: self.table.end(slot),
            end_reason,
        });
    }
}

/// 63 bits that name a flow: the capture, the key and the number of its first packet.
fn flow_id(chain: u64, key: &FlowKey, first_number: u64) -> u64 {
    mix(mix(chain, key.hash(key.pair_hash())), first_number) >> 1
}

/// When a flow ends if nothing comes: idle timeouts by what is known of it.
fn deadline(flow: &Flow, details: &Details) -> i64 {
    if flow.closed() || flow.pool() == Pool::Undecided {
        return flow.undecided_deadline();
    }
    let timeout = match details.tracked.as_ref().and_then(|tracked| tracked.reported) {
        None => return flow.undecided_deadline(),
        Some((Protocol::Ipsec, _)) => 3600,
        Some(_) if flow.is_stream() => 1800,
        Some(_) => 600,
    };
    flow.seen.saturating_add(timeout * SECOND)
}

/// Shows a packet to what fingerprints keep of its flow, from now on if they have not before.
#[inline(always)]
fn observe(
    flow: &mut Flow,
    tracked: &mut Option<Box<Tracked>>,
    generation: &mut u32,
    looked_at: &FlowPacket<'_>,
    now: i64,
) -> Shown {
    let is_new = tracked.is_none();
    let tracked = tracked.get_or_insert_with(|| {
        flow.note_tracked();
        *generation = generation.wrapping_add(1) & 0x7fff_ffff;
        Box::new(Tracked::new(*generation))
    });
    let found = tracked.candidate.observe(looked_at);
    let is_quiet = tracked.is_quiet(found, flow.packets(Some(tracked)), now);
    Shown { found, known: tracked.reported, facts: tracked.candidate.pair_facts(), is_new, is_quiet }
}

/// A packet as fingerprints see it; `number` is its frame's.
#[inline(always)]
fn flow_packet<'a>(routed: &Routed, payload: &'a [u8], number: u64, own: usize, runs: &'a [Run; 2]) -> FlowPacket<'a> {
    let packet = &routed.packet;
    FlowPacket {
        payload,
        length: packet.payload_length,
        number,
        time: routed.time,
        direction: own as u8,
        transport: packet.transport,
        ip_version: packet.ip_version,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        checksum_zero: packet.has_no_checksum(),
        sequence: packet.tcp_sequence,
        stream_start: false,
        record_start: false,
        runs,
    }
}

/// TCP: notes openings and closings; whether this payload is the first of its direction.
fn note_segment(flow: &mut Flow, details: &mut Details, packet: &Packet, own: usize) -> bool {
    let is_known = details.tracked.is_some();
    let Track::Stream(segments) = &mut details.track else { return false };
    let flags = packet.tcp_flags;
    let mut closing = 0;
    if flags & tcp_flags::SYN != 0 {
        // Data may come with the SYN (RFC 7413), and begins behind it. Another number is another stream.
        let start = Some(packet.tcp_sequence.wrapping_add(1));
        if segments.start[own] != start {
            // What is known of a flow that is looked at is not for a stray SYN to take back.
            let via_proxy = segments.via_proxy && is_known;
            *segments = Segments { start: segments.start, via_proxy, ..Segments::default() };
            segments.start[own] = start;
        }
    }
    if flags & tcp_flags::FIN != 0 {
        closing |= 1 << own;
    }
    if flags & tcp_flags::RST != 0 {
        closing |= 4;
    }
    if packet.payload_length > 0 {
        segments.looked[own] = segments.looked[own].saturating_add(1);
    }
    let begins = flags & tcp_flags::SYN == 0 && segments.start[own] == Some(packet.tcp_sequence);
    flow.note_closing(closing);
    begins
}

fn is_on_port(packet: &Packet, port: u16) -> bool {
    (packet.source_port == port) | (packet.destination_port == port)
}

/// A clear L2TP Start-Control-Connection-Request (RFC 2661, 3.1, 4.4.1, 6.1): T, L and S set, version 2, its own
/// length, tunnel 0, and first the message type AVP with value 1.
fn is_l2tp_opening(packet: &FlowPacket<'_>) -> bool {
    packet.transport == Transport::Udp
        && packet.on_port(L2TP_PORT)
        && packet.u16(0).is_some_and(|flags| flags & 0xcb0f == 0xc802)
        && packet.u16(2).map(u32::from) == Some(packet.length)
        && packet.u16(4) == Some(0)
        && packet.u64(12) == Some(0x8008_0000_0000_0001)
}

#[cfg(test)]
mod tests;
