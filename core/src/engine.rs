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
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::capture::bpf::Filter;
use crate::capture::{self, CaptureError, FrameBatch, FrameRef, InterfaceCounters, LinkType, Reason, Source};
use crate::decode::{self, DecodeError, Decoded, NoFlow, Peel};
use crate::fingerprint::Confidence;
use crate::flow::shard::Routed;
use crate::flow::{
    FlowKey, FlowReport, KeyMode, Limits, PacketClock, SEED, SHARDS, Shard, ShardCounters, hash_bytes, mix,
};
use crate::survey::{Survey, Surveyed};

/// Reports after which a poll returns.
const ENOUGH_REPORTS: usize = 4096;
/// Batches on their way to the workers: enough to read while they work.
const IN_FLIGHT: usize = 3;
/// No link has longer frames; segmentation offload makes 65,535.
const LARGEST_FRAME: u32 = 262_144;
/// Bytes of a capture's first frame that go into its name in flow ids.
const NAMING_BYTES: usize = 256;
/// Packets that are decoded, then looked up, then looked at together: few enough to stay in a core's first cache.
const TOGETHER: usize = 32;
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

/// Decoded frames on their way to the shards.
#[derive(Default)]
struct Batch {
    frames: FrameBatch,
    /// Packets of flows, in order.
    packets: Packets,
    /// Frames at which the clock reached another second.
    ticks: Vec<Tick>,
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

/// A packet of a flow.
#[derive(Default)]
struct Arrived {
    /// Where its frame begins, in the batch.
    offset: u32,
    /// Number of its shard.
    shard: u32,
    routed: Routed,
}

/// The clock has reached another second.
#[derive(Clone, Copy)]
struct Tick {
    /// At this frame.
    number: u64,
    /// The clock then.
    now: i64,
    /// An instant has passed at which running flows are to be looked at again.
    review: bool,
}

impl Tick {
    fn reach(self, shard: &mut Shard) {
        shard.tick(self.number, self.now);
        if self.review {
            shard.review(self.number, self.now);
        }
    }
}

impl Batch {
    #[inline]
    fn payload(&self, arrived: &Arrived) -> &[u8] {
        let packet = &arrived.routed.packet;
        self.frames.at(arrived.offset as usize + packet.payload_offset as usize, packet.payload_captured as usize)
    }
}

/// What workers are told.
#[derive(Clone)]
enum Command {
    Begin { chain: u64 },
    Batch(Arc<Batch>),
    Tags(Arc<Vec<(u64, u32)>>),
    Milestones(Arc<Limits>),
    Review { number: u64, now: i64 },
    Finish { number: u64, now: i64 },
}

/// What they answer to a batch and to the finish.
struct Answer {
    worker: usize,
    reports: Vec<FlowReport>,
    counters: ShardCounters,
}

/// The shards of one worker: of 64, those whose number leaves `worker` when divided by the number of workers.
struct Owner {
    /// In the order of their numbers.
    shards: Vec<Shard>,
    /// Of each number, its place among these; none has the place [`SHARDS`].
    places: [u8; SHARDS],
}

impl Owner {
    fn new(worker: usize, workers: usize, limits: &Limits) -> Self {
        let numbers = (worker..SHARDS).step_by(workers);
        let mut places = [SHARDS as u8; SHARDS];
        for (place, number) in numbers.clone().enumerate() {
            places[number] = place as u8;
        }
        Self { shards: numbers.map(|number| Shard::new(number, limits.clone())).collect(), places }
    }

    /// The shard of a number, if it is one of these.
    #[inline]
    fn shard(&mut self, number: usize) -> Option<&mut Shard> {
        self.shards.get_mut(usize::from(self.places[number % SHARDS]))
    }

    /// What a batch is for these shards, in order.
    fn run(&mut self, batch: &Batch) {
        let mut ticks = &batch.ticks[..];
        for packets in batch.packets.all().chunks(TOGETHER) {
            // Looked up together, so that the memory of one is waited for while others are; what was found may have
            // gone by the time it is used, and is only a hint.
            let mut hints = [None; TOGETHER];
            for (hint, packet) in hints.iter_mut().zip(packets) {
                *hint = self.shard(packet.shard as usize).and_then(|shard| shard.find(&packet.routed));
            }
            for (packet, hint) in packets.iter().zip(hints) {
                while let Some((tick, later)) = ticks.split_first()
                    && tick.number <= packet.routed.number
                {
                    self.shards.iter_mut().for_each(|shard| tick.reach(shard));
                    ticks = later;
                }
                if let Some(shard) = self.shard(packet.shard as usize) {
                    shard.packet(&packet.routed, || batch.payload(packet), hint);
                }
            }
        }
        for tick in ticks {
            self.shards.iter_mut().for_each(|shard| tick.reach(shard));
        }
    }

    /// Carries a command out; whether it is to be answered.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Begin { chain } => {
                for shard in &mut self.shards {
                    shard.begin(chain);
                }
                false
            }
            Command::Batch(batch) => {
                self.run(&batch);
                true
            }
            Command::Tags(tags) => {
                for &(handle, tag) in tags.iter() {
                    let number = (handle & (SHARDS as u64 - 1)) as usize;
                    if let Some(shard) = self.shard(number) {
                        shard.set_tag(handle, tag);
                    }
                }
                false
            }
            Command::Milestones(limits) => {
                for shard in &mut self.shards {
                    shard.set_milestones(&limits);
                }
                false
            }
            Command::Review { number, now } => {
                for shard in &mut self.shards {
                    shard.review(number, now);
                }
                true
            }
            Command::Finish { number, now } => {
                for shard in &mut self.shards {
                    shard.finish(number, now);
                }
                true
            }
        }
    }

    fn answer(&mut self, worker: usize) -> Answer {
        let mut answer = Answer { worker, reports: Vec::new(), counters: ShardCounters::default() };
        for shard in &mut self.shards {
            let mut reports = shard.take_reports();
            answer.reports.append(&mut reports);
            answer.counters.add(&shard.counters());
        }
        answer
    }
}

/// Where the shards are worked: on the caller's thread, or on threads that own some each.
enum Workers {
    Inline(Owner),
    Threads { commands: Vec<SyncSender<Command>>, answers: Receiver<Answer>, threads: Vec<JoinHandle<()>> },
}

impl Workers {
    fn start(count: usize, limits: &Limits) -> std::io::Result<Self> {
        let owner = |worker| Owner::new(worker, count, limits);
        if count == 1 {
            return Ok(Self::Inline(owner(0)));
        }
        let (answer, answers) = channel();
        let (mut commands, mut threads) = (Vec::new(), Vec::new());
        for worker in 0..count {
            let (command, inbox) = sync_channel(IN_FLIGHT + 2);
            let (owner, answer) = (owner(worker), answer.clone());
            let thread = std::thread::Builder::new()
                .name(format!("vpn-worker-{worker}"))
                .spawn(move || work(worker, owner, &inbox, &answer))?;
            commands.push(command);
            threads.push(thread);
        }
        Ok(Self::Threads { commands, answers, threads })
    }
}

fn work(worker: usize, mut owner: Owner, inbox: &Receiver<Command>, answers: &Sender<Answer>) {
    while let Ok(command) = inbox.recv() {
        if owner.obey(command) && answers.send(owner.answer(worker)).is_err() {
            return;
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Self::Threads { commands, threads, .. } = self {
            commands.clear();
            for thread in threads.drain(..) {
                // A worker that panicked has said so on stderr; there is nobody left to tell.
                let _ = thread.join();
            }
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

/// Counters of the decode stage, over all captures.
#[derive(Clone, Copy, Debug)]
struct Counters {
    captures: u64,
    frames: u64,
    bytes: u64,
    filtered: u64,
    undecoded: [u64; DecodeError::KINDS],
    no_flow: [u64; NoFlow::KINDS],
    clock_ahead: u64,
    clock_behind: u64,
    clock_jumps: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            captures: 0,
            frames: 0,
            bytes: 0,
            filtered: 0,
            undecoded: [0; DecodeError::KINDS],
            no_flow: [0; NoFlow::KINDS],
            clock_ahead: 0,
            clock_behind: 0,
            clock_jumps: 0,
        }
    }
}

/// Replays captures, one after the other.
pub struct Engine {
    settings: Settings,
    workers: Workers,
    /// Counters of each worker's shards.
    shard_counters: Vec<ShardCounters>,
    /// Answers that are still to come.
    expected: usize,
    source: Option<Box<dyn Source>>,
    state: State,
    named: bool,
    name: String,
    clock: PacketClock,
    number: u64,
    /// The clock of this capture has been set, and the shards have been told.
    ticked: bool,
    /// Beginning of the second that the shards have been told.
    second: i64,
    /// Instants of the packet clock at which running flows are reported, ascending, and how many have passed.
    reviews: Vec<i64>,
    reviewed: usize,
    counters: Counters,
    /// Of a live capture.
    survey: Option<Survey>,
    link_types: Vec<(LinkType, u64)>,
    reports: Vec<FlowReport>,
    spare: Vec<Batch>,
    in_flight: Vec<Arc<Batch>>,
}

impl Engine {
    /// An engine with these settings; starts its workers.
    pub fn new(settings: Settings) -> Result<Self, SettingError> {
        settings.check()?;
        let workers = Workers::start(settings.workers, &settings.limits())
            .map_err(|_| SettingError { setting: "workers", expected: "no more threads than the system allows" })?;
        Ok(Self {
            shard_counters: vec![ShardCounters::default(); settings.workers],
            settings,
            workers,
            expected: 0,
            source: None,
            state: State::Idle,
            named: false,
            name: String::new(),
            clock: PacketClock::default(),
            number: 0,
            ticked: false,
            second: 0,
            reviews: Vec::new(),
            reviewed: 0,
            counters: Counters::default(),
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
            let _ = self.command(&Command::Begin { chain: 0 });
            self.note_clock();
        }
        self.reports.clear();
        self.survey = source.live_counters().map(|_| Survey::default());
        self.source = Some(source);
        self.state = State::Reading;
        self.named = false;
        // The last two parts: where captures of one name lie in folders of their own, the folder tells them apart.
        let parts: Vec<_> = Path::new(name).components().map(|part| part.as_os_str().to_string_lossy()).collect();
        self.name = parts[parts.len().saturating_sub(2)..].join("/");
        self.clock = PacketClock::default();
        self.number = 0;
        self.ticked = false;
        self.reviewed = 0;
        self.link_types.clear();
        self.counters.captures += 1;
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
                    self.command(&Command::Finish { number: self.number, now: self.clock.now() })?;
                    self.collect(0);
                    self.note_clock();
                    self.state = State::Idle;
                    reports.append(&mut self.take_reports());
                    return Ok(Some(reports));
                }
                State::Reading => {}
            }
            let mut batch = self.spare.pop().unwrap_or_default();
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

    /// Decodes a batch's frames and has their packets looked at: here and now, a few at a time so that they stay in the
    /// cache, or by the workers.
    fn work(&mut self, mut batch: Batch, delivered_until: Option<i64>) -> Result<(), CaptureError> {
        let frames = batch.frames.frames().len();
        if self.settings.workers > 1 {
            self.route(&mut batch, 0..frames);
            if let Some(now) = delivered_until {
                self.idle(&mut batch, now);
            }
            return self.dispatch(batch);
        }
        for start in (0..frames).step_by(TOGETHER) {
            self.route(&mut batch, start..frames.min(start + TOGETHER));
            if let Workers::Inline(owner) = &mut self.workers {
                owner.run(&batch);
            }
        }
        batch.packets.clear();
        batch.ticks.clear();
        if let Some(now) = delivered_until {
            self.idle(&mut batch, now);
        }
        if let Workers::Inline(owner) = &mut self.workers {
            owner.run(&batch);
            let answer = owner.answer(0);
            self.take(answer);
        }
        self.spare.push(batch);
        Ok(())
    }

    /// Moves the clock of a live capture by the host's time while no frame comes.
    fn idle(&mut self, batch: &mut Batch, now: i64) {
        let before = self.clock.now().div_euclid(SECOND);
        if self.clock.idle(now) && now.div_euclid(SECOND) != before {
            let passed = self.reviews.partition_point(|&instant| instant <= now);
            let review = std::mem::replace(&mut self.reviewed, passed) < passed;
            batch.ticks.push(Tick { number: self.number, now, review });
        }
    }

    /// Tags flows by their handles.
    pub fn set_tags(&mut self, tags: Vec<(u64, u32)>) -> Result<(), CaptureError> {
        self.command(&Command::Tags(Arc::new(tags)))
    }

    /// Replaces the instants of the packet clock (nanoseconds) at which every reported flow that still runs is
    /// reported once more: those at which somebody's answer about it may change. Past ones count as passed.
    pub fn review_at(&mut self, mut instants: Vec<i64>) {
        instants.sort_unstable();
        self.reviewed = if self.ticked {
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
        self.command(&Command::Review { number: self.number, now: self.clock.now() })?;
        self.collect(0);
        Ok(())
    }

    /// Replaces the packet counts and durations (nanoseconds) at which reports are wanted.
    pub fn set_milestones(&mut self, packets: Vec<u64>, durations: Vec<i64>) -> Result<(), SettingError> {
        let settings = Settings { packet_milestones: packets, duration_milestones: durations, ..self.settings.clone() };
        settings.check()?;
        self.settings = settings;
        // Workers that are gone show with the next batch.
        let _ = self.command(&Command::Milestones(Arc::new(self.settings.limits())));
        Ok(())
    }

    /// Replaces the subscribers' prefixes, whose own tunnels are not opened.
    pub fn set_subscribers(&mut self, subscribers: &[(Vec<u8>, u8)]) -> Result<(), SettingError> {
        self.settings.peel = Peel::new(self.settings.peel.mode(), subscribers).ok_or(NO_PREFIX)?;
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
        let mut shards = ShardCounters::default();
        for counters in &self.shard_counters {
            shards.add(counters);
        }
        let counters = &self.counters;
        let undecoded: u64 = counters.undecoded.iter().sum();
        let live = self.source.as_ref().and_then(|source| source.live_counters());
        let mut stats = vec![
            ("captures".to_owned(), counters.captures),
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
                ("clock.ahead", counters.clock_ahead + self.clock.ahead),
                ("clock.behind", counters.clock_behind + self.clock.behind),
                ("clock.jumps", counters.clock_jumps + self.clock.jumps),
            ]
            .map(|(name, count)| (name.to_owned(), count)),
        );
        if shards.refused > 0 {
            stats.push(("refused".to_owned(), shards.refused));
        }
        if !self.settings.filter.0.is_empty() {
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

    /// Decodes some of a batch's frames in order: counters, clock, and which packet goes to which shard.
    fn route(&mut self, batch: &mut Batch, range: Range<usize>) {
        batch.packets.clear();
        batch.ticks.clear();
        let is_filtered = !self.settings.filter.0.is_empty();
        let frames = batch.frames.frames().get(range).unwrap_or_default();
        self.counters.frames += frames.len() as u64;
        // What a record claims beyond any frame there is stays out of the sum.
        let octets = |frame: &FrameRef| u64::from(frame.original.min(LARGEST_FRAME).max(frame.captured));
        self.counters.bytes += frames.iter().map(octets).sum::<u64>();
        for of_one_link in frames.chunk_by(|one, other| one.linktype == other.linktype) {
            self.count_link_type(of_one_link);
        }
        for frame in frames {
            self.number += 1;
            let bytes = batch.frames.bytes(frame);
            if is_filtered
                && self
                    .settings
                    .filter
                    .program(frame.linktype)
                    .is_some_and(|asked| !asked.accepts(bytes, frame.original))
            {
                self.counters.filtered += 1;
                continue;
            }
            if !self.named {
                self.name_capture(bytes, frame.time);
            }
            let arrived = batch.packets.place();
            let routed = &mut arrived.routed;
            let peel = &self.settings.peel;
            let hash = match decode::decode(bytes, frame.original, frame.linktype, peel, &mut routed.packet) {
                // A later fragment has no ports; its addresses choose the shard, as always.
                Ok(Decoded::Flow | Decoded::LaterFragment) => {
                    routed.route(self.settings.key_mode);
                    arrived.shard = FlowKey::shard(routed.pair) as u32;
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
                    Some(routed.hash)
                }
                Ok(Decoded::NoFlow(reason)) => {
                    self.counters.no_flow[reason as usize] += 1;
                    None
                }
                Err(error) => {
                    self.counters.undecoded[error.kind()] += 1;
                    None
                }
            };
            if self.clock.observe(frame.time, hash) {
                self.tick(&mut batch.ticks);
            }
            if hash.is_some() {
                arrived.offset = frame.offset;
                arrived.routed.number = self.number;
                arrived.routed.time = frame.time;
                arrived.routed.now = self.clock.now();
                batch.packets.keep();
            }
        }
    }

    /// The first frame of a capture names it in flow ids.
    #[cold]
    fn name_capture(&mut self, first: &[u8], time: i64) {
        self.named = true;
        let first = &first[..first.len().min(NAMING_BYTES)];
        let chain = mix(hash_bytes(hash_bytes(SEED, self.name.as_bytes()), first), time as u64);
        // Workers that are gone show when the batch is sent to them.
        let _ = self.command(&Command::Begin { chain });
    }

    /// The clock has moved: whether it has reached another second.
    fn tick(&mut self, ticks: &mut Vec<Tick>) {
        let now = self.clock.now();
        if (self.second..self.second.saturating_add(SECOND)).contains(&now) && self.ticked {
            return;
        }
        self.ticked = true;
        self.second = now.div_euclid(SECOND).saturating_mul(SECOND);
        let passed = self.reviews.partition_point(|&instant| instant <= now);
        let review = std::mem::replace(&mut self.reviewed, passed) < passed;
        ticks.push(Tick { number: self.number, now, review });
    }

    /// Counts frames of one link type.
    fn count_link_type(&mut self, frames: &[FrameRef]) {
        let Some(link) = frames.first().map(|frame| frame.linktype) else { return };
        match self.link_types.iter_mut().find(|(known, _)| *known == link) {
            Some((_, count)) => *count += frames.len() as u64,
            None => self.link_types.push((link, frames.len() as u64)),
        }
    }

    fn dispatch(&mut self, batch: Batch) -> Result<(), CaptureError> {
        if batch.packets.all().is_empty() && batch.ticks.is_empty() {
            self.spare.push(batch);
            return Ok(());
        }
        let batch = Arc::new(batch);
        self.command(&Command::Batch(Arc::clone(&batch)))?;
        self.in_flight.push(batch);
        // Answers of all but the latest few batches.
        self.collect((IN_FLIGHT - 1) * self.settings.workers);
        Ok(())
    }

    fn command(&mut self, command: &Command) -> Result<(), CaptureError> {
        match &mut self.workers {
            Workers::Inline(owner) => {
                if owner.obey(command.clone()) {
                    let answer = owner.answer(0);
                    self.take(answer);
                }
                Ok(())
            }
            Workers::Threads { commands, .. } => {
                for inbox in commands {
                    inbox.send(command.clone()).map_err(|_| worker_is_gone())?;
                }
                if matches!(command, Command::Batch(_) | Command::Review { .. } | Command::Finish { .. }) {
                    self.expected += self.settings.workers;
                }
                Ok(())
            }
        }
    }

    /// Takes answers until no more than `left` are still to come.
    fn collect(&mut self, left: usize) {
        while self.expected > left {
            let answer = match &self.workers {
                Workers::Threads { answers, .. } => answers.recv(),
                Workers::Inline(_) => break,
            };
            self.expected -= 1;
            match answer {
                Ok(answer) => self.take(answer),
                // Every worker is gone; the next command says so.
                Err(_) => break,
            }
        }
        // Batches that every worker has let go of are used again.
        for batch in std::mem::take(&mut self.in_flight) {
            match Arc::try_unwrap(batch) {
                Ok(batch) => self.spare.push(batch),
                Err(batch) => self.in_flight.push(batch),
            }
        }
    }

    fn take(&mut self, answer: Answer) {
        if let Some(counters) = self.shard_counters.get_mut(answer.worker) {
            *counters = answer.counters;
        }
        self.reports.extend(answer.reports);
    }

    /// Reports in their order. Those of one flow in one frame stay in the order in which they were made.
    fn take_reports(&mut self) -> Vec<FlowReport> {
        let mut reports = std::mem::take(&mut self.reports);
        reports.sort_by_key(|report| (report.number, report.flow_id));
        reports
    }

    fn note_clock(&mut self) {
        let clock = std::mem::take(&mut self.clock);
        self.counters.clock_ahead += clock.ahead;
        self.counters.clock_behind += clock.behind;
        self.counters.clock_jumps += clock.jumps;
    }
}

fn worker_is_gone() -> CaptureError {
    CaptureError {
        reason: Reason::Io,
        offset: None,
        found: "a worker thread has ended".to_owned(),
        expected: "all workers to run until the capture is done".to_owned(),
    }
}

#[cfg(test)]
mod tests;
