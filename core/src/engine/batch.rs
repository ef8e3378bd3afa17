//! A block of frames on its way from the reader to the workers, and which of them are for which worker.

use std::sync::Arc;

use crate::capture::{FrameBatch, FrameRef};
use crate::decode::{self, Decoded, Packet, Peel};
use crate::flow::key::KeyWords;
use crate::flow::{FlowKey, SHARDS, Shard};

/// Frames, and when they came.
#[derive(Default)]
pub(super) struct Batch {
    pub frames: FrameBatch,
    /// Number of the frame before the first one.
    pub before: u64,
    /// The packet clock at each frame.
    pub clock: Vec<i64>,
    /// Frames at which the clock reached another second.
    pub ticks: Vec<Tick>,
    /// A capture begins: its name in flow ids.
    pub chain: Option<u64>,
    /// Which tunnels are opened.
    pub peel: Arc<Peel>,
    /// For each of several workers, the places of the frames that it is to look at.
    lists: Vec<Vec<u32>>,
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

impl Batch {
    /// Forgets what is in it and keeps the memory.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.clock.clear();
        self.ticks.clear();
        self.chain = None;
        self.lists.iter_mut().for_each(Vec::clear);
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.frames.frames().is_empty() && self.ticks.is_empty()
    }

    /// Of one of several workers, the places of the frames that it is to look at.
    #[inline]
    pub fn listed(&self, worker: usize) -> Option<&[u32]> {
        self.lists.get(worker).map(Vec::as_slice)
    }

    /// Hash of the host pair of a frame that has to be decoded for it.
    #[inline(never)]
    fn pair(&self, frame: &FrameRef) -> Option<u64> {
        let mut packet = Packet::default();
        let bytes = self.frames.bytes(frame);
        match decode::decode(bytes, frame.original, frame.linktype, &self.peel, &mut packet) {
            Ok(Decoded::Flow | Decoded::LaterFragment) => Some(KeyWords::of(&packet).0.pair_hash()),
            _ => None,
        }
    }

    /// Lists the frames for so many workers: those of one host pair for one, whose shard it has. What belongs to no flow
    /// is somebody's, to be counted.
    pub fn list(&mut self, workers: usize) {
        self.lists.resize_with(workers, Vec::new);
        let owners: [u8; SHARDS] = std::array::from_fn(|shard| (shard % workers) as u8);
        for (place, frame) in (0..).zip(self.frames.frames()) {
            let bytes = self.frames.bytes(frame);
            let (ipv4, ipv6) = (KeyWords::pair_of_ipv4, KeyWords::pair_of_ipv6);
            let pair = match decode::plain_addresses(bytes, frame.linktype, ipv4, ipv6) {
                Some(pair) => Some(pair),
                None => self.pair(frame),
            };
            let shard = pair.map_or(place as usize, FlowKey::shard);
            if let Some(list) = self.lists.get_mut(usize::from(owners[shard % SHARDS])) {
                list.push(place);
            }
        }
    }
}
