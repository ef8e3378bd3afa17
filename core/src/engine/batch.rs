//! A block of frames on its way through the engine: decoded in order, its packets listed for the workers of their shards.

use std::ops::Range;
use std::sync::Arc;

use crate::capture::bpf::Filter;
use crate::capture::{FrameBatch, FrameRef};
use crate::decode::{self, DecodeError, Decoded, NoFlow, Peel};
use crate::flow::shard::Routed;
use crate::flow::{FlowKey, KeyMode, PacketClock, Shard};
use crate::survey::{Survey, Surveyed};

/// No link has longer frames; segmentation offload makes 65,535.
const LARGEST_FRAME: u32 = 262_144;

/// Frames and what they turned out to be.
#[derive(Default)]
pub(super) struct Batch {
    pub frames: FrameBatch,
    /// Packets of flows, in order.
    pub packets: Packets,
    /// For each of several workers, which of these are for its shards.
    pub lists: Vec<Vec<u32>>,
    /// Frames at which the clock reached another second.
    pub ticks: Vec<Tick>,
    /// What was before the first frame, for a worker that decodes them.
    pub before: Before,
}

/// Where a capture stands.
#[derive(Clone, Default)]
pub(super) struct Before {
    /// Number of the latest frame.
    pub number: u64,
    pub clock: PacketClock,
    /// Which tunnels are opened from here on.
    pub peel: Arc<Peel>,
}

/// Packets of flows, in order, in memory that is used again.
#[derive(Default)]
pub(super) struct Packets {
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
    pub fn all(&self) -> &[Arrived] {
        &self.places[..self.used.min(self.places.len())]
    }
}

/// A packet of a flow.
#[derive(Default)]
pub(super) struct Arrived {
    /// Where its frame begins, in the batch.
    offset: u32,
    /// Number of its shard.
    pub shard: u32,
    pub routed: Routed,
}

/// The clock has reached another second.
#[derive(Clone, Copy)]
pub(super) struct Tick {
    /// At this frame.
    pub number: u64,
    /// The clock then.
    pub now: i64,
    /// An instant has passed at which running flows are to be looked at again.
    pub review: bool,
}

impl Tick {
    pub fn reach(self, shard: &mut Shard) {
        shard.tick(self.number, self.now);
        if self.review {
            shard.review(self.number, self.now);
        }
    }
}

/// Counters of decoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecodeCounters {
    pub frames: u64,
    pub bytes: u64,
    pub filtered: u64,
    pub undecoded: [u64; DecodeError::KINDS],
    pub no_flow: [u64; NoFlow::KINDS],
}

impl Default for DecodeCounters {
    fn default() -> Self {
        Self { frames: 0, bytes: 0, filtered: 0, undecoded: [0; DecodeError::KINDS], no_flow: [0; NoFlow::KINDS] }
    }
}

impl DecodeCounters {
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.filtered += other.filtered;
        let sums = self.undecoded.iter_mut().chain(&mut self.no_flow);
        for (sum, count) in sums.zip(other.undecoded.iter().chain(&other.no_flow)) {
            *sum += count;
        }
    }
}

/// How frames are decoded, and what decoding them moves on.
pub(super) struct Decoder<'engine> {
    pub filter: &'engine Filter,
    pub peel: &'engine Peel,
    pub key_mode: KeyMode,
    pub clock: &'engine mut PacketClock,
    /// Number of the latest frame.
    pub number: &'engine mut u64,
    pub counters: &'engine mut DecodeCounters,
    pub survey: Option<&'engine mut Survey>,
}

impl Batch {
    /// Forgets what is in it and keeps the memory.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.lists.iter_mut().for_each(Vec::clear);
        self.ticks.clear();
    }

    /// The payload of one of its packets, as far as it was captured.
    #[inline]
    pub fn payload(&self, arrived: &Arrived) -> &[u8] {
        let packet = &arrived.routed.packet;
        self.frames.at(arrived.offset as usize + packet.payload_offset as usize, packet.payload_captured as usize)
    }

    /// Decodes some of the frames in order: counters, clock, and which packet goes to which worker. `moved` is told the
    /// frame at which the clock moved, and the time, and says whether that is a tick.
    #[inline]
    pub fn decode(
        &mut self,
        range: Range<usize>,
        decoder: Decoder<'_>,
        mut moved: impl FnMut(u64, i64) -> Option<Tick>,
    ) {
        let Decoder { filter, peel, key_mode, clock, number, counters, mut survey } = decoder;
        let frames = self.frames.frames().get(range).unwrap_or_default();
        counters.frames += frames.len() as u64;
        // What a record claims beyond any frame there is stays out of the sum.
        let octets = |frame: &FrameRef| u64::from(frame.original.min(LARGEST_FRAME).max(frame.captured));
        counters.bytes += frames.iter().map(octets).sum::<u64>();
        for frame in frames {
            *number += 1;
            let bytes = self.frames.bytes(frame);
            if !filter.selects(bytes, frame) {
                counters.filtered += 1;
                continue;
            }
            let arrived = self.packets.place();
            let routed = &mut arrived.routed;
            let hash = match decode::decode(bytes, frame.original, frame.linktype, peel, &mut routed.packet) {
                // A later fragment has no ports; its addresses choose the shard, as always.
                Ok(Decoded::Flow | Decoded::LaterFragment) => {
                    routed.route(key_mode);
                    arrived.shard = FlowKey::shard(routed.pair) as u32;
                    if let Some(survey) = &mut survey {
                        survey.look(&Surveyed {
                            packet: &routed.packet,
                            pair: routed.pair,
                            hash: routed.hash,
                            direction: routed.from_low,
                            time: frame.time,
                            frame: bytes,
                        });
                    }
                    Some(routed.hash)
                }
                Ok(Decoded::NoFlow(reason)) => {
                    counters.no_flow[reason as usize] += 1;
                    None
                }
                Err(error) => {
                    counters.undecoded[error.kind()] += 1;
                    None
                }
            };
            if clock.observe(frame.time, hash) {
                self.ticks.extend(moved(*number, clock.now()));
            }
            if hash.is_some() {
                arrived.offset = frame.offset;
                arrived.routed.number = *number;
                arrived.routed.time = frame.time;
                arrived.routed.now = clock.now();
                let (shard, place) = (arrived.shard as usize, self.packets.used as u32);
                self.packets.keep();
                if !self.lists.is_empty() {
                    let worker = shard % self.lists.len();
                    self.lists[worker].push(place);
                }
            }
        }
    }
}
