//! The engine: source, decode, clock, shards, and one deterministic order of what they report.
//!
//! [`Engine::poll`] reads a block, decodes its frames in order and sends each packet to its shard; workers own
//! shards, and with one worker everything happens on the caller's thread. Nothing is in flight when `poll`
//! returns, so a tag set afterwards is seen by every later report. Reports are ordered by (frame number, flow
//! id), and those of the capture's end come last: neither the blocks nor the workers nor the pauses between polls
//! change anything.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::capture::bpf::Filter;
use crate::capture::{self, CaptureError, InterfaceCounters, LinkType, Reason, Source};
use crate::decode::{DecodeError, NoFlow, Peel};
use crate::fingerprint::Confidence;
use crate::flow::{FlowReport, KeyMode, Limits, PacketClock, SEED, SHARDS, ShardCounters, hash_bytes, mix};
use crate::survey::Survey;

mod batch;
mod workers;

use batch::{Batch, Before, DecodeCounters, Decoder, Tick};
use workers::{Answer, Command, Gone, TOGETHER, WorkerCounters, Workers};

/// Reports after which a poll returns.
const ENOUGH_REPORTS: usize = 4096;
/// Batches that are with the workers beside one for each to decode: enough to read while they work.
const IN_FLIGHT: usize = 1;
/// Bytes of a capture's first frame that go into its name in flow ids.
const NAMING_BYTES: usize = 256;
const SECOND: i64 = 1_000_000_000;

/// Settings of an engine. Bounds are for all shards together.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads, from 1 to 64.
    pub workers: usize,
    /// What tells flows apart.
    pub key_mode: KeyMode,
    /// Least confidence that is reported.
    pub min_confidence: Confidence,
    /// Undecided flows.
    pub max_undecided: usize,
    /// Flows in phase attempt.
    pub max_attempts: usize,
    /// Recognised flows past attempt.
    pub max_recognised: usize,
    /// Datagrams in fragments that are remembered.
    pub max_fragmented: usize,
    /// Packets that come twice within moments count once.
    pub remove_duplicates: bool,
    /// Which tunnels are opened.
    pub peel: Peel,
    /// Frames that it does not select are ignored, as if they were not there but for their numbers.
    pub filter: Filter,
    /// Seconds between updates of a flow.
    pub update_interval: u32,
    /// Packet counts of a flow at which a report is wanted.
    pub packet_milestones: Vec<u64>,
    /// Durations (nanoseconds) of a flow at which a report is wanted.
    pub duration_milestones: Vec<i64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            key_mode: KeyMode::FiveTuple,
            min_confidence: Confidence::Likely,
            max_undecided: 1 << 20,
            max_attempts: 1 << 16,
            max_recognised: 1 << 18,
            max_fragmented: 1 << 15,
            remove_duplicates: false,
            peel: Peel::default(),
            filter: Filter::default(),
            update_interval: 1800,
            packet_milestones: Vec::new(),
            duration_milestones: Vec::new(),
        }
    }
}

/// A setting out of its range.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SettingError {
    /// Its name.
    pub setting: &'static str,
    /// Its range, in words.
    pub expected: &'static str,
}

/// A subscribers' prefix that is none.
pub const NO_PREFIX: SettingError =
    SettingError { setting: "subscribers", expected: "prefixes: 4 or 16 bytes and a length" };

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}", self.setting, self.expected)
    }
}

impl std::error::Error for SettingError {}

impl Settings {
    fn check(&self) -> Result<(), SettingError> {
        let pool = SHARDS..=1 << 26;
        let checks = [
            ("workers", (1..=SHARDS).contains(&self.workers), "a number from 1 to 64"),
            ("max_undecided", pool.contains(&self.max_undecided), "a number from 64 to 67108864"),
            ("max_attempts", pool.contains(&self.max_attempts), "a number from 64 to 67108864"),
            ("max_recognised", pool.contains(&self.max_recognised), "a number from 64 to 67108864"),
            ("max_fragmented", pool.contains(&self.max_fragmented), "a number from 64 to 67108864"),
            ("update_interval_s", self.update_interval > 0, "at least 1 second"),
            ("duration_milestones_s", self.duration_milestones.len() <= 64, "at most 64 durations"),
        ];
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((setting, _, expected)) => Err(SettingError { setting, expected }),
            None => Ok(()),
        }
    }

    fn limits(&self) -> Limits {
        let mut duration_milestones = self.duration_milestones.clone();
        duration_milestones.sort_unstable();
        Limits {
            key_mode: self.key_mode,
            min_confidence: self.min_confidence,
            undecided: self.max_undecided / SHARDS,
            attempts: self.max_attempts / SHARDS,
            recognised: self.max_recognised / SHARDS,
            fragmented: self.max_fragmented / SHARDS,
            remove_duplicates: self.remove_duplicates,
            update_interval: i64::from(self.update_interval) * SECOND,
            packet_milestones: self.packet_milestones.clone(),
            duration_milestones,
        }
    }
}

/// What reading a capture has come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// No capture, or one that is done.
    Idle,
    /// Frames may come.
    Reading,
    /// No more frames: the running flows are to be ended.
    Ending,
}

/// Seconds of the packet clock, at which shards look at what has timed out, and the instants of reviews.
#[derive(Clone, Copy, Default)]
struct Ticker {
    /// The clock of this capture has been set, and the shards have been told.
    has_ticked: bool,
    /// Beginning of the second that the shards have been told.
    second: i64,
    /// How many of the instants have passed.
    reviewed: usize,
}

impl Ticker {
    /// The clock has moved: whether it has reached another second.
    fn tick(&mut self, reviews: &[i64], number: u64, now: i64) -> Option<Tick> {
        if (self.second..self.second.saturating_add(SECOND)).contains(&now) && self.has_ticked {
            return None;
        }
        self.has_ticked = true;
        self.second = now.div_euclid(SECOND).saturating_mul(SECOND);
        Some(self.pass(reviews, number, now))
    }

    /// The tick itself.
    fn pass(&mut self, reviews: &[i64], number: u64, now: i64) -> Tick {
        let passed = reviews.partition_point(|&instant| instant <= now);
        let review = std::mem::replace(&mut self.reviewed, passed) < passed;
        Tick { number, now, review }
    }
}

/// Replays captures, one after the other.
pub struct Engine {
    settings: Settings,
    peel: Arc<Peel>,
    workers: Workers,
    /// Of each worker.
    counters: Vec<WorkerCounters>,
    /// Of what this thread decoded.
    decoded: DecodeCounters,
    captures: u64,
    /// Clocks of the captures before: packets ahead and behind, jumps.
    clocks: [u64; 3],
    source: Option<Box<dyn Source>>,
    state: State,
    is_named: bool,
    name: String,
    clock: PacketClock,
    /// Number of the latest frame.
    number: u64,
    ticker: Ticker,
    /// Instants of the packet clock at which running flows are reported, ascending.
    reviews: Vec<i64>,
    /// How a live capture looks.
    survey: Option<Survey>,
    link_types: Vec<(LinkType, u64)>,
    reports: Vec<FlowReport>,
    spare: Vec<Batch>,
    in_flight: Vec<Arc<RwLock<Batch>>>,
}

impl Engine {
    /// An engine with these settings; starts its workers.
    pub fn new(settings: Settings) -> Result<Self, SettingError> {
        settings.check()?;
        let workers = Workers::start(settings.workers, &settings.limits())
            .map_err(|_| SettingError { setting: "workers", expected: "no more threads than the system allows" })?;
        Ok(Self {
            counters: vec![WorkerCounters::default(); settings.workers],
            peel: Arc::new(settings.peel.clone()),
            settings,
            workers,
            decoded: DecodeCounters::default(),
            captures: 0,
            clocks: [0; 3],
            source: None,
            state: State::Idle,
            is_named: false,
            name: String::new(),
            clock: PacketClock::default(),
            number: 0,
            ticker: Ticker::default(),
            reviews: Vec::new(),
            survey: None,
            link_types: Vec::new(),
            reports: Vec::new(),
            spare: Vec::new(),
            in_flight: Vec::new(),
        })
    }

    /// Whether a capture is being read.
    pub fn is_busy(&self) -> bool {
        self.state != State::Idle
    }

    /// What selects frames.
    pub fn filter(&self) -> &Filter {
        &self.settings.filter
    }

    /// Begins a capture from a path ("-" is standard input); the last two parts of `name` go into flow ids.
    pub fn open(&mut self, path: &Path, name: &str) -> Result<(), CaptureError> {
        let source = capture::open(path)?;
        self.begin(source, name);
        Ok(())
    }

    /// Begins a capture from a source. One that was not finished is forgotten.
    pub fn begin(&mut self, source: Box<dyn Source>, name: &str) {
        self.collect(0);
        if self.state != State::Idle {
            // Now: the next capture may have no frame, at which its shards would be told.
            let _ = self.tell(Command::Begin { chain: 0 });
            self.note_clock();
        }
        self.reports.clear();
        self.survey = source.live_counters().map(|_| Survey::default());
        self.source = Some(source);
        self.state = State::Reading;
        self.is_named = false;
        // The last two parts: where captures of one name lie in folders of their own, the folder tells them apart.
        let parts: Vec<_> = Path::new(name).components().map(|part| part.as_os_str().to_string_lossy()).collect();
        self.name = parts[parts.len().saturating_sub(2)..].join("/");
        self.clock = PacketClock::default();
        self.number = 0;
        self.ticker = Ticker::default();
        self.link_types.clear();
        self.captures += 1;
    }

    /// Works for about `longest`, or until many reports have come; `None` once the capture is done.
    ///
    /// # Errors
    /// Where reading stops early, once. What was whole has been worked, and the next poll ends the running flows.
    pub fn poll(&mut self, longest: Duration) -> Result<Option<Vec<FlowReport>>, CaptureError> {
        let started = Instant::now();
        loop {
            match self.state {
                State::Idle => return Ok(None),
                State::Ending => {
                    // What the last frame brought about comes before the ends, which have its number: an earlier poll
                    // may have given it already, and that must not show.
                    self.collect(0);
                    let mut reports = self.take_reports();
                    self.tell(Command::Finish { number: self.number, now: self.clock.now() })?;
                    self.collect(0);
                    self.note_clock();
                    self.state = State::Idle;
                    reports.append(&mut self.take_reports());
                    return Ok(Some(reports));
                }
                State::Reading => {}
            }
            let mut batch = self.spare.pop().unwrap_or_default();
            batch.clear();
            let more = match &mut self.source {
                Some(source) => source.fill(&mut batch.frames),
                None => Ok(false),
            };
            let delivered_until = self.source.as_ref().and_then(|source| source.delivered_until());
            self.work(batch, delivered_until)?;
            match more {
                Ok(true) => {}
                Ok(false) => self.state = State::Ending,
                Err(error) => {
                    self.state = State::Ending;
                    self.collect(0);
                    return Err(error);
                }
            }
            if self.state == State::Reading && (self.reports.len() >= ENOUGH_REPORTS || started.elapsed() >= longest) {
                self.collect(0);
                return Ok(Some(self.take_reports()));
            }
        }
    }

    /// Stops reading: the next poll ends the running flows. A live capture first gives what has arrived.
    pub fn finish(&mut self) {
        if self.state == State::Reading && !self.source.as_mut().is_some_and(|source| source.stop()) {
            self.state = State::Ending;
        }
    }

    /// Has a batch's packets looked at: here and now, a few at a time so that they stay in the cache, or by the workers.
    fn work(&mut self, mut batch: Batch, delivered_until: Option<i64>) -> Result<(), CaptureError> {
        let frames = batch.frames.frames().len();
        if frames > 0 {
            self.count_links(&batch);
            self.name_capture(&batch);
        }
        if let Workers::Threads(_) = self.workers {
            return self.give(batch, delivered_until);
        }
        for start in (0..frames).step_by(TOGETHER) {
            batch.clear();
            self.decode(&mut batch, start..frames.min(start + TOGETHER));
            if let Workers::Inline(owner) = &mut self.workers {
                owner.run(&batch);
            }
        }
        batch.clear();
        batch.ticks.extend(delivered_until.and_then(|now| self.idle(now)));
        if let Workers::Inline(owner) = &mut self.workers {
            owner.run(&batch);
            let answer = owner.answer();
            self.take(answer);
        }
        self.spare.push(batch);
        Ok(())
    }

    /// Gives a batch to the threads, which decode it if its times are such that the clock is known before.
    fn give(&mut self, mut batch: Batch, delivered_until: Option<i64>) -> Result<(), CaptureError> {
        batch.lists.resize_with(self.settings.workers, Vec::new);
        let frames = batch.frames.frames().len();
        let is_decoded = !self.run_clock(&mut batch);
        if is_decoded {
            self.decode(&mut batch, 0..frames);
        }
        batch.ticks.extend(delivered_until.and_then(|now| self.idle(now)));
        if frames == 0 && batch.ticks.is_empty() {
            self.spare.push(batch);
            return Ok(());
        }
        let batch = Arc::new(RwLock::new(batch));
        if let Workers::Threads(threads) = &mut self.workers {
            threads.give(Arc::clone(&batch), is_decoded).map_err(worker_is_gone)?;
        }
        self.in_flight.push(batch);
        self.collect(IN_FLIGHT + self.settings.workers);
        Ok(())
    }

    /// Runs the clock over a batch that is not decoded yet; whether that was possible. It is not where frames are left
    /// out or looked at in order, nor where the clock depends on their flows.
    fn run_clock(&mut self, batch: &mut Batch) -> bool {
        if !self.settings.filter.is_empty() || self.survey.is_some() {
            return false;
        }
        let ticker = self.ticker;
        batch.before = Before { number: self.number, clock: self.clock.clone(), peel: Arc::clone(&self.peel) };
        for (number, frame) in (self.number + 1..).zip(batch.frames.frames()) {
            match self.clock.observe_time(frame.time) {
                Some(true) => batch.ticks.extend(self.ticker.tick(&self.reviews, number, self.clock.now())),
                Some(false) => {}
                None => {
                    batch.ticks.clear();
                    self.clock = batch.before.clock.clone();
                    self.ticker = ticker;
                    return false;
                }
            }
        }
        self.number += batch.frames.frames().len() as u64;
        true
    }

    /// Decodes some of a batch's frames in order.
    fn decode(&mut self, batch: &mut Batch, range: Range<usize>) {
        let decoder = Decoder {
            filter: &self.settings.filter,
            peel: &self.peel,
            key_mode: self.settings.key_mode,
            clock: &mut self.clock,
            number: &mut self.number,
            counters: &mut self.decoded,
            survey: self.survey.as_mut(),
        };
        batch.decode(range, decoder, |number, now| self.ticker.tick(&self.reviews, number, now));
    }

    /// Moves the clock of a live capture by the host's time while no frame comes.
    fn idle(&mut self, now: i64) -> Option<Tick> {
        let before = self.clock.now().div_euclid(SECOND);
        let is_next = self.clock.idle(now) && now.div_euclid(SECOND) != before;
        is_next.then(|| self.ticker.pass(&self.reviews, self.number, now))
    }

    /// Tags flows by their handles.
    pub fn set_tags(&mut self, tags: Vec<(u64, u32)>) -> Result<(), CaptureError> {
        self.tell(Command::Tags(Arc::new(tags)))
    }

    /// Replaces the instants of the packet clock (nanoseconds) at which every reported flow that still runs is
    /// reported once more: those at which somebody's answer about it may change. Past ones count as passed.
    pub fn review_at(&mut self, mut instants: Vec<i64>) {
        instants.sort_unstable();
        self.ticker.reviewed = if self.ticker.has_ticked {
            let now = self.clock.now();
            instants.partition_point(|&instant| instant <= now)
        } else {
            0
        };
        self.reviews = instants;
    }

    /// Reports every reported flow that still runs; the next poll gives these reports.
    pub fn review(&mut self) -> Result<(), CaptureError> {
        if self.state == State::Idle {
            return Ok(());
        }
        self.tell(Command::Review { number: self.number, now: self.clock.now() })?;
        self.collect(0);
        Ok(())
    }

    /// Replaces the packet counts and durations (nanoseconds) at which reports are wanted.
    pub fn set_milestones(&mut self, packets: Vec<u64>, durations: Vec<i64>) -> Result<(), SettingError> {
        let settings = Settings { packet_milestones: packets, duration_milestones: durations, ..self.settings.clone() };
        settings.check()?;
        self.settings = settings;
        // Workers that are gone show with the next batch.
        let _ = self.tell(Command::Milestones(Arc::new(self.settings.limits())));
        Ok(())
    }

    /// Replaces the subscribers' prefixes, whose own tunnels are not opened.
    pub fn set_subscribers(&mut self, subscribers: &[(Vec<u8>, u8)]) -> Result<(), SettingError> {
        self.peel = Arc::new(Peel::new(self.peel.mode(), subscribers).ok_or(NO_PREFIX)?);
        Ok(())
    }

    /// Bytes of the input read so far, as stored, and how many there are.
    pub fn progress(&self) -> (u64, Option<u64>) {
        self.source.as_ref().map_or((0, None), |source| (source.bytes_read(), source.size()))
    }

    /// How often each thread that captures from interfaces has looked for frames.
    pub fn turns(&self) -> Vec<u64> {
        self.source.as_ref().map_or_else(Vec::new, |source| source.turns())
    }

    /// Link types of the current capture, with the frames of each.
    pub fn link_types(&self) -> &[(LinkType, u64)] {
        &self.link_types
    }

    /// What each interface counts, of this moment; nothing of captures in files.
    pub fn interfaces(&mut self) -> Vec<InterfaceCounters> {
        self.source.as_mut().map(|source| source.interfaces()).unwrap_or_default()
    }

    /// All counters by name. They balance: frames are decoded, undecoded or ignored; decoded ones are packets of flows,
    /// of no flow, fragments unmatched, or waiting for the first of their datagram.
    pub fn stats(&self) -> Vec<(String, u64)> {
        let (mut shards, mut counters) = (ShardCounters::default(), self.decoded);
        for worker in &self.counters {
            shards.add(&worker.shards);
            counters.add(&worker.decode);
        }
        let undecoded: u64 = counters.undecoded.iter().sum();
        let live = self.source.as_ref().and_then(|source| source.live_counters());
        let mut stats = vec![
            ("captures".to_owned(), self.captures),
            ("frames".to_owned(), counters.frames + live.map_or(0, |live| live.outgoing)),
            ("bytes".to_owned(), counters.bytes),
            ("decoded".to_owned(), counters.frames - undecoded - counters.filtered - shards.duplicates[1]),
        ];
        for (kind, &count) in counters.undecoded.iter().enumerate() {
            if count > 0 {
                stats.push((format!("undecoded.{}", DecodeError::kind_name(kind)), count));
            }
        }
        stats.extend(NoFlow::NAMES.iter().zip(counters.no_flow).map(|(name, count)| ((*name).to_owned(), count)));
        stats.extend(
            [
                ("flow_packets", shards.packets),
                ("flows.created", shards.created),
                ("flows.recognised", shards.recognised),
                ("flows.active.undecided", shards.active[0]),
                ("flows.active.attempt", shards.active[1]),
                ("flows.active.recognised", shards.active[2]),
                ("flows.evicted.undecided", shards.evicted_undecided),
                ("flows.evicted.attempt", shards.evicted_attempts),
                ("flows.unreported", shards.unreported),
                ("l2tp.clear", shards.clear_l2tp),
                ("duplicates", shards.duplicates[0]),
                ("ignored.duplicate", shards.duplicates[1]),
                ("fragments_unmatched", shards.fragments.unmatched),
                ("fragments_waiting", shards.fragments.waiting),
                ("fragments.overlapping", shards.fragments.overlapping),
                ("fragments.reassembled", shards.fragments.reassembled),
                ("fragments.incomplete", shards.fragments.incomplete),
                ("clock.ahead", self.clocks[0] + self.clock.ahead),
                ("clock.behind", self.clocks[1] + self.clock.behind),
                ("clock.jumps", self.clocks[2] + self.clock.jumps),
            ]
            .map(|(name, count)| (name.to_owned(), count)),
        );
        if shards.refused > 0 {
            stats.push(("refused".to_owned(), shards.refused));
        }
        if !self.settings.filter.is_empty() {
            stats.push(("ignored.filtered".to_owned(), counters.filtered));
        }
        if let Some(live) = live {
            stats.extend(
                [
                    ("ignored.outgoing", live.outgoing),
                    ("kernel.received", live.received),
                    ("kernel.dropped", live.dropped),
                    ("kernel.freezes", live.freezes),
                    ("interfaces.downs", live.downs),
                    ("interfaces.down", live.down),
                ]
                .map(|(name, count)| (name.to_owned(), count)),
            );
        }
        if let Some(survey) = &self.survey {
            let seen = survey.counters();
            stats.extend(
                [
                    ("mirror.connections", seen.connections),
                    ("mirror.connections_one_way", seen.one_way),
                    ("mirror.streams", seen.streams),
                    ("mirror.streams_with_gaps", seen.gaps),
                    ("mirror.payloads", seen.payloads),
                    ("mirror.payloads_cut", seen.cut),
                    ("mirror.longest_cut_frame", seen.cut_at),
                    ("mirror.first_payloads", seen.first_payloads),
                    ("mirror.first_payloads_blank", seen.blank),
                ]
                .map(|(name, count)| (name.to_owned(), count)),
            );
        }
        stats
    }

    /// The first frame of a capture, of those that are selected, names it in flow ids.
    fn name_capture(&mut self, batch: &Batch) {
        if self.is_named {
            return;
        }
        let filter = &self.settings.filter;
        let mut frames = batch.frames.frames().iter().map(|frame| (frame, batch.frames.bytes(frame)));
        let Some((frame, bytes)) = frames.find(|(frame, bytes)| filter.selects(bytes, frame)) else { return };
        self.is_named = true;
        let bytes = &bytes[..bytes.len().min(NAMING_BYTES)];
        let chain = mix(hash_bytes(hash_bytes(SEED, self.name.as_bytes()), bytes), frame.time as u64);
        // Workers that are gone show when the batch is given to them.
        let _ = self.tell(Command::Begin { chain });
    }

    /// Counts the frames of each link type.
    fn count_links(&mut self, batch: &Batch) {
        for frames in batch.frames.frames().chunk_by(|one, other| one.linktype == other.linktype) {
            let (link, count) = (frames[0].linktype, frames.len() as u64);
            match self.link_types.iter_mut().find(|(known, _)| *known == link) {
                Some((_, sum)) => *sum += count,
                None => self.link_types.push((link, count)),
            }
        }
    }

    fn tell(&mut self, command: Command) -> Result<(), CaptureError> {
        let mut answer = None;
        self.workers.tell(command, |given| answer = Some(given)).map_err(worker_is_gone)?;
        if let Some(answer) = answer {
            self.take(answer);
        }
        Ok(())
    }

    /// Takes the threads' answers until no more than those to so many batches are still to come.
    fn collect(&mut self, batches: usize) {
        let Self { workers: Workers::Threads(threads), counters, reports, .. } = self else { return };
        threads.collect(batches, |answer| take(counters, reports, answer));
        // Batches that every worker has let go of are used again.
        for batch in std::mem::take(&mut self.in_flight) {
            match Arc::try_unwrap(batch) {
                // One at which a worker panicked is left to it.
                Ok(batch) => self.spare.extend(batch.into_inner()),
                Err(batch) => self.in_flight.push(batch),
            }
        }
    }

    fn take(&mut self, answer: Answer) {
        take(&mut self.counters, &mut self.reports, answer);
    }

    /// Reports in their order. Those of one flow in one frame stay in the order in which they were made.
    fn take_reports(&mut self) -> Vec<FlowReport> {
        let mut reports = std::mem::take(&mut self.reports);
        reports.sort_by_key(|report| (report.number, report.flow_id));
        reports
    }

    fn note_clock(&mut self) {
        let clock = std::mem::take(&mut self.clock);
        for (sum, count) in self.clocks.iter_mut().zip([clock.ahead, clock.behind, clock.jumps]) {
            *sum += count;
        }
    }
}

fn take(counters: &mut [WorkerCounters], reports: &mut Vec<FlowReport>, answer: Answer) {
    if let Some(counters) = counters.get_mut(answer.worker) {
        *counters = answer.counters;
    }
    reports.extend(answer.reports);
}

fn worker_is_gone(_: Gone) -> CaptureError {
    CaptureError {
        reason: Reason::Io,
        offset: None,
        found: "a worker thread has ended".to_owned(),
        expected: "all workers to run until the capture is done".to_owned(),
    }
}

#[cfg(test)]
mod tests;
