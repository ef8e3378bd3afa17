//! The engine: a reader, workers, and one deterministic order of what they report.
//!
//! [`Engine::poll`] has blocks of frames read, in which the packet clock is run once for all ([`reader`]), and looked at
//! by workers ([`worker`]), each of which decodes the packets for its own shards: one on the caller's thread, or several
//! on threads of their own ([`threads`]), which read on while the caller looks at reports. Of many captures that were
//! announced, several are worked at the same time, each by one worker ([`ahead`]). A tag is in every report that is given
//! after it was set. Reports are ordered by (frame number, flow id), and those of the capture's end come last: neither
//! the blocks nor the workers nor the pauses between polls change anything.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::capture::bpf::Filter;
use crate::capture::{self, CaptureError, InterfaceCounters, LinkType, Reason, Source};
use crate::decode::{DecodeError, NoFlow, Peel};
use crate::fingerprint::Confidence;
use crate::flow::{FlowReport, KeyMode, Limits, Report, SHARDS};

mod ahead;
mod batch;
mod reader;
mod threads;
mod worker;

use ahead::{Ahead, Next, Standing};
use batch::Batch;
use reader::{ReadCounters, Reader};
use threads::Threads;
use worker::{Command, Worker, WorkerCounters};

/// Reports after which a poll returns.
const ENOUGH_REPORTS: usize = 4096;
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
    /// One worker works it, from its beginning to its end.
    Ahead,
}

/// A worker has ended before its time.
struct Gone;

/// Where the shards are worked.
enum Workers {
    /// On the caller's thread.
    Inline(Box<Worker>),
    Threads(Threads),
}

/// Replays captures, one after the other.
pub struct Engine {
    settings: Settings,
    reader: Arc<Mutex<Reader>>,
    workers: Workers,
    state: State,
    is_live: bool,
    /// Threads read on for the next poll.
    is_ahead: bool,
    /// How reading ended, which a poll has yet to say.
    end: Option<Result<(), CaptureError>>,
    /// Tags by handle that were set when threads had read on: reports that are not given yet may be without them.
    tags: HashMap<u64, u32>,
    reports: Vec<FlowReport>,
    batch: Batch,
    /// Instants of the packet clock at which running flows are reported.
    reviews: Vec<i64>,
    /// Of captures that one worker works each, once some are announced.
    ahead: Option<Ahead>,
    /// What was counted of those of them that are done, and how the latest capture stood in the end if it was one.
    aside: (ReadCounters, WorkerCounters),
    latest: Option<Standing>,
}

impl Engine {
    /// An engine with these settings; starts its workers.
    pub fn new(settings: Settings) -> Result<Self, SettingError> {
        settings.check()?;
        let (limits, filter) = (settings.limits(), &settings.filter);
        let reader = Reader::new(filter.clone(), settings.peel.clone(), settings.key_mode);
        let reader = Arc::new(Mutex::new(reader));
        let workers = match settings.workers {
            1 => Workers::Inline(Box::new(Worker::new(0, 1, &limits, filter))),
            count => Threads::start(count, &limits, filter, Arc::clone(&reader))
                .map(Workers::Threads)
                .map_err(|_| SettingError { setting: "workers", expected: "no more threads than the system allows" })?,
        };
        Ok(Self {
            settings,
            reader,
            workers,
            state: State::Idle,
            is_live: false,
            is_ahead: false,
            end: None,
            tags: HashMap::new(),
            reports: Vec::new(),
            batch: Batch::default(),
            reviews: Vec::new(),
            ahead: None,
            aside: (ReadCounters::default(), WorkerCounters::default()),
            latest: None,
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

    /// The captures that will be opened next, in this order, each by its path as its name; several workers work them
    /// ahead. Instead of those that were announced before.
    pub fn announce(&mut self, paths: Vec<String>) {
        if self.ahead.is_none() && self.settings.workers > 1 && paths.len() > 1 {
            // Without further threads, all workers together work one after the other.
            self.ahead = Ahead::start(&self.settings, &self.reviews).ok();
        }
        if let Some(ahead) = &self.ahead {
            ahead.announce(paths);
        }
    }

    /// Begins a capture from a path ("-" is standard input); the last two parts of `name` go into flow ids.
    pub fn open(&mut self, path: &Path, name: &str) -> Result<(), CaptureError> {
        if self.state == State::Ahead {
            self.leave();
        }
        if let Some(ahead) = self.ahead.as_mut().filter(|_| path.as_os_str() == name)
            && let Some(opened) = ahead.open(name)
        {
            opened?;
            self.leave();
            self.state = State::Ahead;
            return Ok(());
        }
        let source = capture::open(path)?;
        self.begin(source, name);
        Ok(())
    }

    /// Begins a capture from a source. One that was not finished is forgotten.
    pub fn begin(&mut self, source: Box<dyn Source>, name: &str) {
        self.leave();
        let was_live = std::mem::replace(&mut self.is_live, source.live_counters().is_some());
        if was_live || self.is_live {
            let _ = self.tell(Command::Live(self.is_live));
        }
        self.latest = None;
        if let Workers::Threads(threads) = &self.workers {
            threads.begin_capture(source.blocks());
        }
        self.reader().begin(source, name);
        self.state = State::Reading;
    }

    /// Forgets a capture that was not finished. Workers that are gone show at the next poll.
    fn leave(&mut self) {
        let _ = self.settle();
        self.end = None;
        match self.state {
            State::Idle => {}
            State::Ahead => {
                let standing = self.ahead.as_ref().map(Ahead::leave).unwrap_or_default();
                self.put_aside(standing);
            }
            State::Reading | State::Ending => {
                // Now: the next capture may have no frame, at which its shards would be told.
                let _ = self.tell(Command::Begin { chain: 0 });
                let _ = self.collect();
            }
        }
        self.state = State::Idle;
        self.reports.clear();
        self.tags.clear();
    }

    /// Leaves the capture and counts from nothing again, as if it were new, but keeps the memory.
    fn forget(&mut self) {
        self.leave();
        self.reader().forget_counters();
        if let Workers::Inline(worker) = &mut self.workers {
            worker.forget_counters();
        }
    }

    /// Counts a capture that one worker has worked.
    fn put_aside(&mut self, standing: Standing) {
        self.aside.0.add(&standing.read);
        self.aside.1.add(&standing.worked);
        self.latest = Some(standing);
    }

    /// Works for about `longest`, or until many reports have come; `None` once the capture is done.
    ///
    /// # Errors
    /// Where reading stops early, once. What was whole has been worked, and the next poll ends the running flows. When a
    /// worker is gone, once for each capture, which then is done.
    pub fn poll(&mut self, longest: Duration) -> Result<Option<Vec<FlowReport>>, CaptureError> {
        let polled = self.advance(longest);
        if polled.is_err() && matches!(&self.workers, Workers::Threads(threads) if threads.is_broken()) {
            self.state = State::Idle;
        }
        polled
    }

    fn advance(&mut self, longest: Duration) -> Result<Option<Vec<FlowReport>>, CaptureError> {
        match self.state {
            State::Idle => Ok(None),
            State::Reading => {
                let until = || Instant::now().checked_add(longest);
                if self.end.is_none() {
                    self.read(until())?;
                }
                match self.end.take() {
                    None => {
                        let reports = self.take_reports();
                        self.read_on(until());
                        Ok(Some(reports))
                    }
                    Some(end) => {
                        self.state = State::Ending;
                        // What the last frames brought about comes with the ends, of which the next poll tells.
                        end.and_then(|()| self.advance(longest))
                    }
                }
            }
            State::Ending => {
                // What the last frame brought about comes before the ends, which have its number: an earlier poll
                // may have given it already, and that must not show.
                let mut reports = self.take_reports();
                let (number, now) = self.reader().stands();
                self.tell(Command::Finish { number, now })?;
                self.collect()?;
                reports.append(&mut self.take_reports());
                self.reader().end();
                self.state = State::Idle;
                Ok(Some(reports))
            }
            State::Ahead => match self.ahead.as_mut().map(|ahead| ahead.next(longest)).transpose()? {
                Some(Next::Reports(mut reports)) => {
                    self.tag(&mut reports);
                    Ok(Some(reports))
                }
                Some(Next::End(standing, ended)) => {
                    self.put_aside(*standing);
                    self.state = State::Idle;
                    ended.map_err(worker_is_gone).map(|()| None)
                }
                None => Ok(None),
            },
        }
    }

    /// Reads and has looked at what is read, or waits for those who read on.
    fn read(&mut self, until: Option<Instant>) -> Result<(), CaptureError> {
        let worker = match &mut self.workers {
            Workers::Threads(threads) => {
                if !self.is_ahead {
                    threads.begin(until);
                    self.is_ahead = true;
                }
                return self.settle();
            }
            Workers::Inline(worker) => worker,
        };
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let more = reader.fill(&mut self.batch);
            worker.run(&self.batch);
            worker.take_reports(&mut self.reports);
            match more {
                Ok(true) if self.reports.len() >= ENOUGH_REPORTS => return Ok(()),
                Ok(true) if until.is_some_and(|until| Instant::now() >= until) => return Ok(()),
                Ok(true) => continue,
                Ok(false) => self.end = Some(Ok(())),
                Err(error) => self.end = Some(Err(error)),
            }
            return Ok(());
        }
    }

    /// Has threads go on while the caller looks at reports. Not with a live capture, whose ring waits for it.
    fn read_on(&mut self, until: Option<Instant>) {
        if let Workers::Threads(threads) = &self.workers
            && !self.is_live
        {
            threads.begin(until);
            self.is_ahead = true;
        }
    }

    /// Waits until nothing is in flight.
    fn settle(&mut self) -> Result<(), CaptureError> {
        if let Workers::Threads(threads) = &self.workers
            && std::mem::take(&mut self.is_ahead)
        {
            self.end = threads.wait().map_err(worker_is_gone)?;
            return self.collect();
        }
        Ok(())
    }

    /// Stops reading: the next poll ends the running flows. A live capture first gives what has arrived, and one that is
    /// worked ahead what was. Captures that were announced are not to come any more.
    pub fn finish(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.finish();
        }
        // Workers that are gone show at the next poll.
        let _ = self.settle();
        // How reading has ended by itself, the next poll says.
        let goes_on = self.state == State::Reading && self.end.is_none();
        if goes_on && !self.reader().source.as_mut().is_some_and(|source| source.stop()) {
            self.state = State::Ending;
        }
    }

    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tags flows by their handles.
    pub fn set_tags(&mut self, tags: Vec<(u64, u32)>) -> Result<(), CaptureError> {
        if self.state == State::Ahead {
            // The reports that come may all be there already.
            self.tags.extend(tags);
            return Ok(());
        }
        if self.is_ahead || !self.reports.is_empty() {
            self.tags.extend(tags.iter().copied());
        }
        self.tell(Command::Tags(Arc::new(tags)))
    }

    /// Replaces the instants of the packet clock (nanoseconds) at which every reported flow that still runs is
    /// reported once more: those at which somebody's answer about it may change. Past ones count as passed.
    pub fn review_at(&mut self, mut instants: Vec<i64>) {
        instants.sort_unstable();
        let _ = self.settle();
        self.reader().review_at(instants.clone());
        self.reviews.clone_from(&instants);
        self.renew(move |engine| engine.review_at(instants));
    }

    /// Has captures that are worked ahead worked by the present settings, where `order` makes the difference.
    fn renew(&self, order: impl FnOnce(&mut Self) + Send + 'static) {
        if let Some(ahead) = &self.ahead {
            ahead.renew(&self.settings, &self.reviews, order);
        }
    }

    /// Reports every reported flow that still runs; the next poll gives these reports, or a later one when the capture
    /// is worked ahead.
    pub fn review(&mut self) -> Result<(), CaptureError> {
        match (&self.state, &self.ahead) {
            (State::Idle, _) => return Ok(()),
            (State::Ahead, Some(ahead)) => {
                ahead.order(|engine| drop(engine.review()));
                return Ok(());
            }
            _ => {}
        }
        self.settle()?;
        let (number, now) = self.reader().stands();
        self.tell(Command::Review { number, now })?;
        self.collect()
    }

    /// Replaces the packet counts and durations (nanoseconds) at which reports are wanted.
    pub fn set_milestones(&mut self, packets: Vec<u64>, durations: Vec<i64>) -> Result<(), SettingError> {
        let (of_packets, of_durations) = (packets.clone(), durations.clone());
        let settings = Settings { packet_milestones: packets, duration_milestones: durations, ..self.settings.clone() };
        settings.check()?;
        self.settings = settings;
        let _ = self.settle();
        // Workers that are gone show with the next batch.
        let _ = self.tell(Command::Milestones(Arc::new(self.settings.limits())));
        self.renew(move |engine| drop(engine.set_milestones(of_packets, of_durations)));
        Ok(())
    }

    /// Replaces the subscribers' prefixes, whose own tunnels are not opened.
    pub fn set_subscribers(&mut self, subscribers: &[(Vec<u8>, u8)]) -> Result<(), SettingError> {
        let _ = self.settle();
        self.settings.peel = Peel::new(self.settings.peel.mode(), subscribers).ok_or(NO_PREFIX)?;
        self.reader().peel = Arc::new(self.settings.peel.clone());
        let subscribers = subscribers.to_vec();
        self.renew(move |engine| drop(engine.set_subscribers(&subscribers)));
        Ok(())
    }

    /// Bytes of the input read so far, as stored, and how many there are.
    pub fn progress(&self) -> (u64, Option<u64>) {
        if let Some(standing) = self.standing_ahead() {
            return standing.progress;
        }
        self.reader().source.as_ref().map_or((0, None), |source| (source.bytes_read(), source.size()))
    }

    /// How often each thread that captures from interfaces has looked for frames.
    pub fn turns(&self) -> Vec<u64> {
        self.reader().source.as_ref().map_or_else(Vec::new, |source| source.turns())
    }

    /// Link types of the current capture, with the frames of each.
    pub fn link_types(&self) -> Vec<(LinkType, u64)> {
        self.standing_ahead().map_or_else(|| self.reader().link_types.clone(), |standing| standing.link_types)
    }

    /// Where the work on the current capture stands, if one worker works it.
    fn standing_ahead(&self) -> Option<Standing> {
        match (&self.state, &self.ahead) {
            (State::Ahead, Some(ahead)) => Some(ahead.standing()),
            _ => self.latest.clone(),
        }
    }

    /// Where the work of these workers on the current capture stands.
    fn standing(&self) -> Standing {
        let worked = match &self.workers {
            Workers::Inline(worker) => worker.counters(),
            Workers::Threads(threads) => threads.counters(),
        };
        let read = self.reader().counters();
        Standing { read, worked, link_types: self.link_types(), progress: self.progress() }
    }

    /// Reported flows that run now, on the caller's thread.
    fn running(&self) -> usize {
        match &self.workers {
            Workers::Inline(worker) => worker.running(),
            Workers::Threads(_) => 0,
        }
    }

    /// What each interface counts, of this moment; nothing of captures in files.
    pub fn interfaces(&mut self) -> Vec<InterfaceCounters> {
        self.reader().source.as_mut().map(|source| source.interfaces()).unwrap_or_default()
    }

    /// All counters by name. They balance: frames are decoded, undecoded or ignored; decoded ones are packets of flows,
    /// of no flow, fragments unmatched, or waiting for the first of their datagram.
    pub fn stats(&mut self) -> Vec<(String, u64)> {
        // Workers that are gone show at the next poll.
        let _ = self.settle();
        let Standing { mut read, worked: mut counters, .. } = self.standing();
        read.add(&self.aside.0);
        counters.add(&self.aside.1);
        if self.state == State::Ahead
            && let Some(ahead) = &self.ahead
        {
            let standing = ahead.standing();
            read.add(&standing.read);
            counters.add(&standing.worked);
        }
        let shards = &counters.shards;
        let undecoded: u64 = counters.undecoded.iter().sum();
        let reader = self.reader();
        let live = reader.source.as_ref().and_then(|source| source.live_counters());
        let mut stats = vec![
            ("captures".to_owned(), read.captures),
            ("frames".to_owned(), read.frames + live.map_or(0, |live| live.outgoing)),
            ("bytes".to_owned(), read.bytes),
            ("decoded".to_owned(), read.frames - undecoded - read.filtered - shards.duplicates[1]),
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
                ("clock.ahead", read.ahead),
                ("clock.behind", read.behind),
                ("clock.jumps", read.jumps),
            ]
            .map(|(name, count)| (name.to_owned(), count)),
        );
        if shards.refused > 0 {
            stats.push(("refused".to_owned(), shards.refused));
        }
        if !self.settings.filter.is_empty() {
            stats.push(("ignored.filtered".to_owned(), read.filtered));
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
        if let Some(seen) = counters.survey {
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

    /// Has all workers carry a command out, after everything that was read.
    fn tell(&mut self, command: Command) -> Result<(), CaptureError> {
        match &mut self.workers {
            Workers::Inline(worker) => {
                worker.obey(command);
                Ok(())
            }
            Workers::Threads(threads) => threads.tell(command).map_err(worker_is_gone),
        }
    }

    /// Gathers the reports of everything that was read and told.
    fn collect(&mut self) -> Result<(), CaptureError> {
        match &mut self.workers {
            Workers::Inline(worker) => {
                worker.take_reports(&mut self.reports);
                Ok(())
            }
            Workers::Threads(threads) => threads.take_reports(&mut self.reports).map_err(worker_is_gone),
        }
    }

    /// Puts tags into reports that may be without them. Those of flows that have ended are not needed any more.
    fn tag(&mut self, reports: &mut [FlowReport]) {
        for report in reports {
            let tag = match report.report {
                Report::Ended => self.tags.remove(&report.handle),
                _ => self.tags.get(&report.handle).copied(),
            };
            report.tag = tag.unwrap_or(report.tag);
        }
    }

    /// What was gathered, in its order. Reports of one flow in one frame stay in the order in which they were made.
    fn take_reports(&mut self) -> Vec<FlowReport> {
        let mut reports = std::mem::take(&mut self.reports);
        if !self.tags.is_empty() {
            self.tag(&mut reports);
            self.tags.clear();
        }
        reports.sort_by_key(|report| (report.number, report.flow_id));
        reports
    }
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
