//! A worker: decodes the frames of a batch that are for its shards, and lets these look at the packets.

use std::sync::Arc;

use super::batch::{Batch, Tick};
use crate::capture::FrameRef;
use crate::capture::bpf::Filter;
use crate::decode::{self, DecodeError, Decoded, NoFlow, Peel};
use crate::flow::shard::Routed;
use crate::flow::{FlowKey, FlowReport, Hint, KeyMode, Limits, Memory, SHARDS, Shard, ShardCounters};
use crate::survey::{Survey, SurveyCounters, Surveyed};

/// Packets that are decoded, then looked up, then looked at together: few enough to stay in a core's first cache.
const TOGETHER: usize = 32;

/// Bytes that a core fetches at once.
const CACHE_LINE: usize = 64;

/// What workers are told beside batches.
#[derive(Clone)]
pub(super) enum Command {
    Begin { chain: u64 },
    Live(bool),
    Tags(Arc<Vec<(u64, u32)>>),
    Milestones(Arc<Limits>),
    Review { number: u64, now: i64 },
    Finish { number: u64, now: i64 },
}

/// Counters of a worker since its start; those of the survey since the capture's.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerCounters {
    pub undecoded: [u64; DecodeError::KINDS],
    pub no_flow: [u64; NoFlow::KINDS],
    pub shards: ShardCounters,
    pub survey: Option<SurveyCounters>,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        let (undecoded, no_flow) = ([0; DecodeError::KINDS], [0; NoFlow::KINDS]);
        Self { undecoded, no_flow, shards: ShardCounters::default(), survey: None }
    }
}

impl WorkerCounters {
    pub fn add(&mut self, other: &Self) {
        let sums = self.undecoded.iter_mut().chain(&mut self.no_flow);
        for (sum, count) in sums.zip(other.undecoded.iter().chain(&other.no_flow)) {
            *sum += count;
        }
        self.shards.add(&other.shards);
        if let Some(survey) = &other.survey {
            self.survey.get_or_insert_default().add(survey);
        }
    }
}

impl WorkerCounters {
    /// Decodes a frame that is not plain; whether it is of a flow.
    #[inline(never)]
    fn decode_layers(
        &mut self,
        bytes: &[u8],
        frame: &FrameRef,
        peel: &Peel,
        key_mode: KeyMode,
        routed: &mut Routed,
    ) -> bool {
        match decode::decode_layers(bytes, frame.original, frame.linktype, peel, &mut routed.packet) {
            // A later fragment has no ports; its addresses choose the shard, as always.
            Ok(Decoded::Flow | Decoded::LaterFragment) => {
                routed.route(key_mode);
                return true;
            }
            Ok(Decoded::NoFlow(reason)) => self.no_flow[reason as usize] += 1,
            Err(error) => self.undecoded[error.kind()] += 1,
        }
        false
    }
}

/// One of several workers, or the only one.
pub(super) struct Worker {
    number: usize,
    key_mode: KeyMode,
    filter: Filter,
    shards: Shards,
    packets: Packets,
    counters: WorkerCounters,
    /// How a live capture looks.
    survey: Option<Box<Survey>>,
}

impl Worker {
    pub fn new(number: usize, workers: usize, limits: &Limits, filter: &Filter) -> Self {
        Self {
            number,
            key_mode: limits.key_mode,
            filter: filter.clone(),
            shards: Shards::new(number, workers, limits),
            packets: Packets::default(),
            counters: WorkerCounters::default(),
            survey: None,
        }
    }

    /// Which of the workers it is, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// What a batch is for these shards, in order.
    pub fn run(&mut self, batch: &Batch) {
        if let Some(chain) = batch.chain {
            self.obey(Command::Begin { chain });
        }
        let mut ticks = &batch.ticks[..];
        let (frames, clock) = (batch.frames.frames(), &batch.clock[..]);
        match batch.listed(self.number) {
            None => {
                let mut first = 0;
                for (frames, clock) in frames.chunks(TOGETHER).zip(clock.chunks(TOGETHER)) {
                    let places = first..first + frames.len();
                    self.decode(
                        batch,
                        frames.iter().zip(clock).zip(places).map(|((frame, &now), place)| (frame, now, place)),
                    );
                    self.look_up();
                    self.look(batch, &mut ticks);
                    first += frames.len();
                }
            }
            Some(list) => {
                for list in list.chunks(TOGETHER) {
                    touch(batch, list);
                    let listed = list.iter().filter_map(|&place| {
                        let place = place as usize;
                        Some((frames.get(place)?, *clock.get(place)?, place))
                    });
                    self.decode(batch, listed);
                    self.look_up();
                    self.look(batch, &mut ticks);
                }
            }
        }
        for tick in ticks {
            self.shards.all.iter_mut().for_each(|shard| tick.reach(shard));
        }
    }

    /// Decodes some frames, each with the clock at it and its place in the batch.
    #[inline(always)]
    fn decode<'batch>(&mut self, batch: &'batch Batch, frames: impl Iterator<Item = (&'batch FrameRef, i64, usize)>) {
        let takes_all = self.filter.is_empty() && self.survey.is_none();
        let (mut used, number, key_mode) = (0, batch.before.wrapping_add(1), self.key_mode);
        for (frame, now, place) in frames {
            let bytes = batch.frames.bytes(frame);
            if !takes_all && !self.filter.selects(bytes, frame) {
                continue;
            }
            let Some(arrived) = self.packets.places.get_mut(used) else { break };
            let is_plain = arrived.read(bytes, frame, now, key_mode);
            let routed = &mut arrived.routed;
            if !is_plain && !self.counters.decode_layers(bytes, frame, &batch.peel, key_mode, routed) {
                continue;
            }
            routed.number = number.wrapping_add(place as u64);
            arrived.shard = self.shards.place(FlowKey::shard(routed.pair));
            if let Some(shard) = self.shards.all.get(arrived.shard) {
                shard.prefetch_index(routed);
            }
            used += 1;
            if !takes_all && let Some(survey) = &mut self.survey {
                survey.look(&Surveyed {
                    packet: &routed.packet,
                    pair: routed.pair,
                    hash: routed.hash,
                    direction: routed.from_low,
                    time: frame.time,
                    frame: bytes,
                });
            }
        }
        self.packets.used = used;
    }

    /// Finds where the flows of these packets may be, all together: the memory of one is waited for while others are.
    #[inline(never)]
    fn look_up(&mut self) {
        let Self { packets, shards, .. } = self;
        for arrived in packets.all_mut() {
            if let Some(shard) = shards.all.get(arrived.shard) {
                arrived.hint = shard.guess(&arrived.routed);
            }
        }
    }

    /// Lets the shards look at the packets, and at the seconds that have passed by then.
    #[inline(never)]
    fn look(&mut self, batch: &Batch, ticks: &mut &[Tick]) {
        for arrived in self.packets.all() {
            while let Some((tick, later)) = ticks.split_first()
                && tick.number <= arrived.routed.number
            {
                self.shards.all.iter_mut().for_each(|shard| tick.reach(shard));
                *ticks = later;
            }
            if let Some(shard) = self.shards.all.get_mut(arrived.shard) {
                shard.packet(&arrived.routed, || arrived.payload(batch), arrived.hint);
            }
        }
    }

    /// Carries a command out.
    pub fn obey(&mut self, command: Command) {
        let shards = self.shards.all.iter_mut();
        match command {
            Command::Begin { chain } => shards.for_each(|shard| shard.begin(chain)),
            Command::Live(is_live) => self.survey = is_live.then(Box::default),
            Command::Tags(tags) => {
                for &(handle, tag) in tags.iter() {
                    let place = self.shards.place((handle & (SHARDS as u64 - 1)) as usize);
                    if let Some(shard) = self.shards.all.get_mut(place) {
                        shard.set_tag(handle, tag);
                    }
                }
            }
            Command::Milestones(limits) => shards.for_each(|shard| shard.set_milestones(&limits)),
            Command::Review { number, now } => shards.for_each(|shard| shard.review(number, now)),
            Command::Finish { number, now } => shards.for_each(|shard| shard.finish(number, now)),
        }
    }

    /// Reports since the last time.
    pub fn take_reports(&mut self, reports: &mut Vec<FlowReport>) {
        for shard in &mut self.shards.all {
            reports.append(&mut shard.take_reports());
        }
    }

    /// Flows that will be reported when they end.
    pub fn running(&self) -> usize {
        self.shards.all.iter().map(Shard::running).sum()
    }

    /// Counts from nothing again; between captures.
    pub fn forget_counters(&mut self) {
        self.counters = WorkerCounters::default();
        self.shards.all.iter_mut().for_each(Shard::forget_counters);
    }

    pub fn counters(&self) -> WorkerCounters {
        let mut counters = self.counters;
        for shard in &self.shards.all {
            counters.shards.add(&shard.counters());
        }
        counters.survey = self.survey.as_ref().map(|survey| survey.counters());
        counters
    }
}

/// Asks for the beginnings of frames, which another core has most likely read, before the first of them is needed: one
/// after the other would be waited for longer than all of them together.
#[inline]
fn touch(batch: &Batch, places: &[u32]) {
    let mut sum = 0;
    for &place in places {
        let Some(frame) = batch.frames.frames().get(place as usize) else { return };
        let bytes = batch.frames.bytes(frame);
        sum ^= bytes.first().copied().unwrap_or_default() ^ bytes.get(CACHE_LINE - 1).copied().unwrap_or_default();
    }
    std::hint::black_box(sum);
}

/// The shards of one worker: of 64, those whose number leaves its own when divided by the number of workers.
struct Shards {
    /// In the order of their numbers.
    all: Vec<Shard>,
    /// Of each number, its place among these; none has the place [`SHARDS`].
    places: [u8; SHARDS],
}

impl Shards {
    fn new(worker: usize, workers: usize, limits: &Limits) -> Self {
        let numbers = (worker..SHARDS).step_by(workers);
        let mut places = [SHARDS as u8; SHARDS];
        for (place, number) in numbers.clone().enumerate() {
            places[number] = place as u8;
        }
        let memory = Memory::default();
        Self { all: numbers.map(|number| Shard::new(number, limits.clone(), &memory)).collect(), places }
    }

    /// The place of the shard of a number; none if it is not one of these.
    #[inline]
    fn place(&self, number: usize) -> usize {
        usize::from(self.places[number % SHARDS])
    }
}

/// A packet of a flow.
#[derive(Default)]
struct Arrived {
    /// Where its frame begins, in the batch.
    offset: u32,
    /// Place of its shard.
    shard: usize,
    /// Where its flow may be.
    hint: Hint,
    routed: Routed,
}

impl Arrived {
    /// Decodes a frame, if it is plain.
    #[inline(always)]
    fn read(&mut self, bytes: &[u8], frame: &FrameRef, now: i64, key_mode: KeyMode) -> bool {
        self.offset = frame.offset;
        (self.routed.time, self.routed.now) = (frame.time, now);
        let is_plain = decode::plain(bytes, frame.linktype, &mut self.routed);
        if is_plain {
            self.routed.set_scope(key_mode);
        }
        is_plain
    }

    /// Its payload, as far as it was captured.
    #[inline]
    fn payload<'batch>(&self, batch: &'batch Batch) -> &'batch [u8] {
        let packet = &self.routed.packet;
        batch.frames.at(self.offset as usize + packet.payload_offset as usize, packet.payload_captured as usize)
    }
}

/// Packets of flows, in order, in memory that is used again.
struct Packets {
    places: Box<[Arrived; TOGETHER]>,
    used: usize,
}

impl Default for Packets {
    fn default() -> Self {
        Self { places: Box::new(std::array::from_fn(|_| Arrived::default())), used: 0 }
    }
}

impl Packets {
    #[inline]
    fn all(&self) -> &[Arrived] {
        &self.places[..self.used.min(TOGETHER)]
    }

    #[inline]
    fn all_mut(&mut self) -> &mut [Arrived] {
        &mut self.places[..self.used.min(TOGETHER)]
    }
}
