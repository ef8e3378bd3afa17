//! A worker: decodes the frames of a batch that are for its shards, and lets these look at the packets.

use std::sync::Arc;

use super::batch::Batch;
use crate::capture::bpf::Filter;
use crate::decode::{self, DecodeError, Decoded, NoFlow};
use crate::flow::shard::Routed;
use crate::flow::{FlowKey, FlowReport, KeyMode, Limits, SHARDS, Shard, ShardCounters};
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
        let listed = batch.listed(self.number);
        let count = listed.map_or(batch.frames.frames().len(), <[u32]>::len);
        for first in (0..count).step_by(TOGETHER) {
            let end = count.min(first + TOGETHER);
            self.packets.clear();
            match listed {
                None => self.decode(batch, first..end),
                Some(list) => {
                    let list = list.get(first..end).unwrap_or_default();
                    touch(batch, list);
                    self.decode(batch, list.iter().map(|&place| place as usize));
                }
            }
            let packets = self.packets.all();
            // Looked up together, so that the memory of one is waited for while others are; what was found may have
            // gone by the time it is used, and is only a hint.
            let mut hints = [None; TOGETHER];
            for (hint, packet) in hints.iter_mut().zip(packets) {
                *hint = self.shards.get(packet.shard).and_then(|shard| shard.find(&packet.routed));
            }
            for (packet, hint) in packets.iter().zip(hints) {
                while let Some((tick, later)) = ticks.split_first()
                    && tick.number <= packet.routed.number
                {
                    self.shards.all.iter_mut().for_each(|shard| tick.reach(shard));
                    ticks = later;
                }
                if let Some(shard) = self.shards.get(packet.shard) {
                    shard.packet(&packet.routed, || packet.payload(batch), hint);
                }
            }
        }
        for tick in ticks {
            self.shards.all.iter_mut().for_each(|shard| tick.reach(shard));
        }
    }

    /// Decodes some of the frames.
    #[inline]
    fn decode(&mut self, batch: &Batch, places: impl Iterator<Item = usize>) {
        for place in places {
            let Some(frame) = batch.frames.frames().get(place) else { return };
            let bytes = batch.frames.bytes(frame);
            if !self.filter.selects(bytes, frame) {
                continue;
            }
            let arrived = self.packets.place();
            let routed = &mut arrived.routed;
            match decode::decode(bytes, frame.original, frame.linktype, &batch.peel, &mut routed.packet) {
                // A later fragment has no ports; its addresses choose the shard, as always.
                Ok(Decoded::Flow | Decoded::LaterFragment) => {
                    routed.route(self.key_mode);
                    routed.number = batch.before + 1 + place as u64;
                    routed.time = frame.time;
                    routed.now = batch.clock.get(place).copied().unwrap_or_default();
                    arrived.offset = frame.offset;
                    arrived.shard = FlowKey::shard(routed.pair);
                    if let Some(survey) = &mut self.survey {
                        survey.look(&Surveyed {
                            packet: &routed.packet,
                            pair: routed.pair,
                            hash: routed.hash,
                            direction: routed.from_low,
                            time: frame.time,
                            frame: bytes,
                        });
                    }
                    self.packets.keep();
                }
                Ok(Decoded::NoFlow(reason)) => self.counters.no_flow[reason as usize] += 1,
                Err(error) => self.counters.undecoded[error.kind()] += 1,
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
                    if let Some(shard) = self.shards.get((handle & (SHARDS as u64 - 1)) as usize) {
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
        Self { all: numbers.map(|number| Shard::new(number, limits.clone())).collect(), places }
    }

    /// The shard of a number, if it is one of these.
    #[inline]
    fn get(&mut self, number: usize) -> Option<&mut Shard> {
        self.all.get_mut(usize::from(self.places[number % SHARDS]))
    }
}

/// A packet of a flow.
#[derive(Default)]
struct Arrived {
    /// Where its frame begins, in the batch.
    offset: u32,
    /// Number of its shard.
    shard: usize,
    routed: Routed,
}

impl Arrived {
    /// Its payload, as far as it was captured.
    #[inline]
    fn payload<'batch>(&self, batch: &'batch Batch) -> &'batch [u8] {
        let packet = &self.routed.packet;
        batch.frames.at(self.offset as usize + packet.payload_offset as usize, packet.payload_captured as usize)
    }
}

/// Packets of flows, in order, in memory that is used again.
#[derive(Default)]
struct Packets {
    places: Vec<Arrived>,
    used: usize,
}

impl Packets {
    fn clear(&mut self) {
        self.used = 0;
    }

    /// A place for the next packet, which holds something old.
    #[inline]
    fn place(&mut self) -> &mut Arrived {
        if self.used == self.places.len() {
            self.places.push(Arrived::default());
        }
        &mut self.places[self.used]
    }

    /// The packet in [`Self::place`] is one of these.
    #[inline]
    fn keep(&mut self) {
        self.used += 1;
    }

    #[inline]
    fn all(&self) -> &[Arrived] {
        &self.places[..self.used.min(self.places.len())]
    }
}
