//! Reads captures, block by block: numbers their frames and runs the packet clock, which there is only one of.

use std::path::Path;
use std::sync::Arc;

use super::SECOND;
use super::batch::{Batch, Tick};
use crate::capture::bpf::Filter;
use crate::capture::{CaptureError, FrameBatch, FrameRef, LinkType, Source};
use crate::decode::{self, Decoded, Peel};
use crate::flow::shard::Routed;
use crate::flow::{KeyMode, PacketClock, SEED, hash_bytes, mix};

/// No link has longer frames; segmentation offload makes 65,535. A power of two.
const LARGEST_FRAME: u32 = 1 << 18;
/// Bytes of a capture's first frame that go into its name in flow ids.
const NAMING_BYTES: usize = 256;

/// What reading counts, over all captures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadCounters {
    pub captures: u64,
    pub frames: u64,
    pub bytes: u64,
    pub filtered: u64,
    /// Packets ahead of the clock and behind it, and its jumps.
    pub ahead: u64,
    pub behind: u64,
    pub jumps: u64,
}

impl ReadCounters {
    pub fn add(&mut self, other: &Self) {
        self.captures += other.captures;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.filtered += other.filtered;
        self.ahead += other.ahead;
        self.behind += other.behind;
        self.jumps += other.jumps;
    }
}

/// A capture, and where it stands.
pub(super) struct Reader {
    pub source: Option<Box<dyn Source>>,
    pub peel: Arc<Peel>,
    pub link_types: Vec<(LinkType, u64)>,
    /// Number of the latest frame.
    number: u64,
    filter: Filter,
    key_mode: KeyMode,
    name: String,
    is_named: bool,
    clock: PacketClock,
    /// The clock has been set, and the shards have been told.
    has_ticked: bool,
    /// Beginning of the second that the shards have been told, and of the next.
    second: i64,
    next_second: i64,
    /// Instants of the packet clock at which running flows are reported, ascending, and how many have passed.
    reviews: Vec<i64>,
    reviewed: usize,
    counters: ReadCounters,
}

impl Reader {
    pub fn new(filter: Filter, peel: Peel, key_mode: KeyMode) -> Self {
        Self {
            source: None,
            peel: Arc::new(peel),
            link_types: Vec::new(),
            number: 0,
            filter,
            key_mode,
            name: String::new(),
            is_named: false,
            clock: PacketClock::default(),
            has_ticked: false,
            second: 0,
            next_second: 0,
            reviews: Vec::new(),
            reviewed: 0,
            counters: ReadCounters::default(),
        }
    }

    /// Begins a capture.
    pub fn begin(&mut self, source: Box<dyn Source>, name: &str) {
        self.source = Some(source);
        // The last two parts: where captures of one name lie in folders of their own, the folder tells them apart.
        let parts: Vec<_> = Path::new(name).components().map(|part| part.as_os_str().to_string_lossy()).collect();
        self.name = parts[parts.len().saturating_sub(2)..].join("/");
        self.is_named = false;
        self.end();
        self.number = 0;
        self.has_ticked = false;
        self.reviewed = 0;
        self.link_types.clear();
        self.counters.captures += 1;
    }

    /// Ends the capture's clock.
    pub fn end(&mut self) {
        self.counters = self.counters();
        self.clock = PacketClock::default();
    }

    /// Counts from nothing again; between captures. The clock counts, too.
    pub fn forget_counters(&mut self) {
        (self.clock, self.counters) = (PacketClock::default(), ReadCounters::default());
    }

    pub fn counters(&self) -> ReadCounters {
        let mut counters = self.counters;
        counters.ahead += self.clock.ahead;
        counters.behind += self.clock.behind;
        counters.jumps += self.clock.jumps;
        counters
    }

    /// Number of the latest frame, and the packet clock.
    pub fn stands(&self) -> (u64, i64) {
        (self.number, self.clock.now())
    }

    /// Replaces the instants of reviews, ascending; past ones count as passed.
    pub fn review_at(&mut self, instants: Vec<i64>) {
        let now = self.clock.now();
        self.reviewed = if self.has_ticked { instants.partition_point(|&instant| instant <= now) } else { 0 };
        self.reviews = instants;
    }

    /// Fills a batch; `Ok(false)` at the end of the capture.
    ///
    /// # Errors
    /// Those of [`Source::fill`]: what has been put into the batch is to be used first.
    pub fn fill(&mut self, batch: &mut Batch) -> Result<bool, CaptureError> {
        batch.clear();
        self.fill_by(batch, |source, frames| source.fill(frames))
    }

    /// As [`Self::fill`], from a block that is in the batch: see [`Source::take`].
    pub fn take(&mut self, batch: &mut Batch) -> Result<bool, CaptureError> {
        self.fill_by(batch, |source, frames| source.take(frames))
    }

    fn fill_by(
        &mut self,
        batch: &mut Batch,
        fill: impl FnOnce(&mut dyn Source, &mut FrameBatch) -> Result<bool, CaptureError>,
    ) -> Result<bool, CaptureError> {
        let Some(source) = &mut self.source else { return Ok(false) };
        let more = fill(source.as_mut(), &mut batch.frames);
        let delivered_until = source.delivered_until();
        batch.peel = Arc::clone(&self.peel);
        batch.before = self.number;
        self.count(batch);
        self.name_capture(batch);
        self.run_clock(batch);
        if let Some(now) = delivered_until {
            self.idle(batch, now);
        }
        more
    }

    /// Counts frames, and those of each link type.
    fn count(&mut self, batch: &Batch) {
        let frames = batch.frames.frames();
        self.counters.frames += frames.len() as u64;
        let (sum, bits) = frames.iter().fold((0_u64, 0), |(sum, bits), frame| {
            (sum.wrapping_add(u64::from(frame.original)), bits | frame.original)
        });
        self.counters.bytes += if bits < LARGEST_FRAME {
            sum
        } else {
            // What a record claims beyond any frame there is stays out of the sum.
            frames.iter().map(|frame| u64::from(frame.original.min(LARGEST_FRAME).max(frame.captured))).sum::<u64>()
        };
        let Some(&FrameRef { linktype: first, .. }) = frames.first() else { return };
        // Nearly always the same in all of them.
        let is_one = frames.iter().fold(true, |is_one, frame| is_one & (frame.linktype == first));
        let parts: &mut dyn Iterator<Item = &[FrameRef]> = match is_one {
            true => &mut std::iter::once(frames),
            false => &mut frames.chunk_by(|one, other| one.linktype == other.linktype),
        };
        for part in parts {
            let (link, count) = (part[0].linktype, part.len() as u64);
            match self.link_types.iter_mut().find(|(known, _)| *known == link) {
                Some((_, sum)) => *sum += count,
                None => self.link_types.push((link, count)),
            }
        }
    }

    /// The first frame of a capture, of those that are selected, names it in flow ids.
    fn name_capture(&mut self, batch: &mut Batch) {
        if self.is_named {
            return;
        }
        let mut frames = batch.frames.frames().iter().map(|frame| (frame, batch.frames.bytes(frame)));
        let Some((frame, bytes)) = frames.find(|(frame, bytes)| self.filter.selects(bytes, frame)) else { return };
        self.is_named = true;
        let bytes = &bytes[..bytes.len().min(NAMING_BYTES)];
        batch.chain = Some(mix(hash_bytes(hash_bytes(SEED, self.name.as_bytes()), bytes), frame.time as u64));
    }

    /// Runs the clock over the frames.
    fn run_clock(&mut self, batch: &mut Batch) {
        let Batch { frames, clock, ticks, .. } = batch;
        let first = self.number + 1;
        // Most packets come a little after the one before, in the same second: for these the clock is told once.
        let is_filtered = !self.filter.is_empty();
        let mut now = self.clock.now();
        // In most blocks all of them do.
        if !is_filtered && self.has_ticked && now >= self.second && is_steady(frames.frames(), now, self.next_second) {
            clock.extend(frames.frames().iter().map(|frame| frame.time));
            self.clock.observe_time(clock.last().copied().unwrap_or(now));
            self.number += frames.frames().len() as u64;
            return;
        }
        let mut steady = !is_filtered && self.has_ticked && now >= self.second;
        clock.extend((first..).zip(frames.frames()).map(|(number, frame)| {
            if steady & (frame.time > now) & (frame.time < self.next_second) {
                now = frame.time;
                return now;
            }
            self.clock.step(now);
            if is_filtered && !self.filter.selects(frames.bytes(frame), frame) {
                self.counters.filtered += 1;
                return now;
            }
            let has_moved = self.clock.step(frame.time) || self.observe_other(frames, frame);
            now = self.clock.now();
            if has_moved && !(self.has_ticked && (self.second..self.next_second).contains(&now)) {
                self.has_ticked = true;
                self.second = now.div_euclid(SECOND).saturating_mul(SECOND);
                self.next_second = self.second.saturating_add(SECOND);
                ticks.push(self.tick(number, now));
            }
            steady = !is_filtered && self.has_ticked && now >= self.second;
            now
        }));
        self.clock.step(now);
        self.number += frames.frames().len() as u64;
    }

    /// A frame that does not move the clock by a little; whether it does.
    #[inline(never)]
    fn observe_other(&mut self, frames: &FrameBatch, frame: &FrameRef) -> bool {
        match self.clock.observe_time(frame.time) {
            Some(has_moved) => has_moved,
            None => self.clock.observe(frame.time, self.flow_hash(frames, frame)),
        }
    }

    /// Hash of a frame's flow, if it has one.
    #[cold]
    fn flow_hash(&self, frames: &FrameBatch, frame: &FrameRef) -> Option<u64> {
        let mut routed = Routed::default();
        let bytes = frames.bytes(frame);
        match decode::decode(bytes, frame.original, frame.linktype, &self.peel, &mut routed.packet) {
            Ok(Decoded::Flow | Decoded::LaterFragment) => {
                routed.route(self.key_mode);
                Some(routed.hash)
            }
            _ => None,
        }
    }

    /// Moves the clock of a live capture by the host's time while no frame comes.
    fn idle(&mut self, batch: &mut Batch, now: i64) {
        let before = self.clock.now().div_euclid(SECOND);
        if self.clock.idle(now) && now.div_euclid(SECOND) != before {
            batch.ticks.push(self.tick(self.number, now));
        }
    }

    fn tick(&mut self, number: u64, now: i64) -> Tick {
        let passed = self.reviews.partition_point(|&instant| instant <= now);
        let review = std::mem::replace(&mut self.reviewed, passed) < passed;
        Tick { number, now, review }
    }
}

/// Whether frames come in the order of their times, from `now` on and before `until`.
fn is_steady(frames: &[FrameRef], now: i64, until: i64) -> bool {
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return false };
    let pairs = frames.iter().zip(frames.iter().skip(1));
    now <= first.time
        && last.time < until
        && pairs.fold(true, |is_steady, (one, next)| is_steady & (one.time <= next.time))
}
