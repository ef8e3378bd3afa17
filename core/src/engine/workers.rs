//! Who works the shards: the caller's thread, or threads that own some shards each and share the decoding.
//!
//! What several threads are to do stands on a board, in order. Each of them carries out every command, in that order,
//! for its own shards. A batch has to be decoded before: whoever has nothing to carry out takes the first one that
//! nobody has begun, so that several are decoded at a time and no thread waits while there is work.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use super::batch::{Arrived, Batch, DecodeCounters, Decoder};
use crate::capture::bpf::Filter;
use crate::flow::{FlowReport, Limits, SHARDS, Shard, ShardCounters};

/// Packets that are decoded, then looked up, then looked at together: few enough to stay in a core's first cache.
pub(super) const TOGETHER: usize = 32;

/// What workers are told.
#[derive(Clone)]
pub(super) enum Command {
    Begin { chain: u64 },
    Batch(Arc<RwLock<Batch>>),
    Tags(Arc<Vec<(u64, u32)>>),
    Milestones(Arc<Limits>),
    Review { number: u64, now: i64 },
    Finish { number: u64, now: i64 },
}

impl Command {
    /// Whether each worker answers it.
    fn is_answered(&self) -> bool {
        matches!(self, Self::Batch(_) | Self::Review { .. } | Self::Finish { .. })
    }
}

/// What a worker answers to a batch, a review and the finish.
pub(super) struct Answer {
    pub worker: usize,
    pub reports: Vec<FlowReport>,
    pub counters: WorkerCounters,
}

/// Counters of a worker since its start.
#[derive(Clone, Copy, Default)]
pub(super) struct WorkerCounters {
    pub shards: ShardCounters,
    pub decode: DecodeCounters,
}

/// The shards of one worker: of 64, those whose number leaves `worker` when divided by the number of workers.
pub(super) struct Owner {
    worker: usize,
    /// In the order of their numbers.
    shards: Vec<Shard>,
    /// Of each number, its place among these; none has the place [`SHARDS`].
    places: [u8; SHARDS],
    limits: Limits,
    decode: DecodeCounters,
}

impl Owner {
    fn new(worker: usize, workers: usize, limits: &Limits) -> Self {
        let numbers = (worker..SHARDS).step_by(workers);
        let mut places = [SHARDS as u8; SHARDS];
        for (place, number) in numbers.clone().enumerate() {
            places[number] = place as u8;
        }
        let shards = numbers.map(|number| Shard::new(number, limits.clone())).collect();
        Self { worker, shards, places, limits: limits.clone(), decode: DecodeCounters::default() }
    }

    /// The shard of a number, if it is one of these.
    #[inline]
    fn shard(&mut self, number: usize) -> Option<&mut Shard> {
        self.shards.get_mut(usize::from(self.places[number % SHARDS]))
    }

    /// Decodes a batch for all workers.
    fn decode(&mut self, batch: &mut Batch) {
        let before = batch.before.clone();
        let (mut clock, mut number) = (before.clock, before.number);
        let decoder = Decoder {
            filter: &Filter::default(),
            peel: &before.peel,
            key_mode: self.limits.key_mode,
            clock: &mut clock,
            number: &mut number,
            counters: &mut self.decode,
            survey: None,
        };
        batch.decode(0..batch.frames.frames().len(), decoder, |_, _| None);
    }

    /// What a batch is for these shards, in order.
    pub fn run(&mut self, batch: &Batch) {
        let packets = batch.packets.all();
        match batch.lists.get(self.worker) {
            None => self.run_packets(batch, packets.len(), |place| packets.get(place)),
            Some(list) => self.run_packets(batch, list.len(), |place| packets.get(*list.get(place)? as usize)),
        }
    }

    #[inline]
    fn run_packets<'batch>(
        &mut self,
        batch: &'batch Batch,
        count: usize,
        packet: impl Fn(usize) -> Option<&'batch Arrived>,
    ) {
        let mut ticks = &batch.ticks[..];
        for first in (0..count).step_by(TOGETHER) {
            let places = first..count.min(first + TOGETHER);
            // Looked up together, so that the memory of one is waited for while others are; what was found may have
            // gone by the time it is used, and is only a hint.
            let mut hints = [None; TOGETHER];
            for (hint, place) in hints.iter_mut().zip(places.clone()) {
                let Some(packet) = packet(place) else { continue };
                *hint = self.shard(packet.shard as usize).and_then(|shard| shard.find(&packet.routed));
            }
            for (hint, place) in hints.into_iter().zip(places) {
                let Some(packet) = packet(place) else { continue };
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
        let is_answered = command.is_answered();
        match command {
            Command::Begin { chain } => {
                for shard in &mut self.shards {
                    shard.begin(chain);
                }
            }
            // A worker that panicked while it decoded has said so; what it made of the batch is not used.
            Command::Batch(batch) => {
                if let Ok(batch) = batch.read() {
                    self.run(&batch);
                }
            }
            Command::Tags(tags) => {
                for &(handle, tag) in tags.iter() {
                    let number = (handle & (SHARDS as u64 - 1)) as usize;
                    if let Some(shard) = self.shard(number) {
                        shard.set_tag(handle, tag);
                    }
                }
            }
            Command::Milestones(limits) => {
                for shard in &mut self.shards {
                    shard.set_milestones(&limits);
                }
            }
            Command::Review { number, now } => {
                for shard in &mut self.shards {
                    shard.review(number, now);
                }
            }
            Command::Finish { number, now } => {
                for shard in &mut self.shards {
                    shard.finish(number, now);
                }
            }
        }
        is_answered
    }

    pub fn answer(&mut self) -> Answer {
        let mut answer = Answer { worker: self.worker, reports: Vec::new(), counters: WorkerCounters::default() };
        answer.counters.decode = self.decode;
        for shard in &mut self.shards {
            let mut reports = shard.take_reports();
            answer.reports.append(&mut reports);
            answer.counters.shards.add(&shard.counters());
        }
        answer
    }
}

/// What the threads are to do.
#[derive(Default)]
struct Board {
    plan: Mutex<Plan>,
    /// Something is new on it.
    news: Condvar,
}

#[derive(Default)]
struct Plan {
    /// Commands that some worker has yet to carry out, in order.
    entries: VecDeque<Entry>,
    /// Number of the first one.
    first: u64,
    /// The workers are to end.
    is_closed: bool,
}

struct Entry {
    command: Command,
    decoding: Decoding,
    /// Workers that have yet to carry it out.
    left: usize,
}

/// How far a batch is decoded.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Decoding {
    Waits,
    Begun,
    /// It can be carried out; so can what is no batch.
    Done,
}

/// What a worker does next.
enum Step {
    Decode(u64, Arc<RwLock<Batch>>),
    Obey(Command),
}

impl Board {
    /// The plan. Nothing can panic while it is locked.
    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, command: Command, decoding: Decoding, workers: usize) {
        self.plan().entries.push_back(Entry { command, decoding, left: workers });
        self.news.notify_all();
    }

    fn close(&self) {
        self.plan().is_closed = true;
        self.news.notify_all();
    }

    /// A batch has been decoded.
    fn decoded(&self, number: u64) {
        let mut plan = self.plan();
        let place = (number - plan.first) as usize;
        if let Some(entry) = plan.entries.get_mut(place) {
            entry.decoding = Decoding::Done;
        }
        self.news.notify_all();
    }

    /// What a worker that has carried out the commands before `next` does now; waits for it. `None` at the end.
    fn step(&self, next: &mut u64) -> Option<Step> {
        let mut plan = self.plan();
        loop {
            if plan.is_closed {
                return None;
            }
            let (first, place) = (plan.first, (*next - plan.first) as usize);
            if let Some(entry) = plan.entries.get_mut(place)
                && entry.decoding == Decoding::Done
            {
                *next += 1;
                entry.left -= 1;
                let command = entry.command.clone();
                while plan.entries.front().is_some_and(|entry| entry.left == 0) {
                    plan.entries.pop_front();
                    plan.first += 1;
                }
                return Some(Step::Obey(command));
            }
            for (number, entry) in (first..).zip(&mut plan.entries) {
                if let Command::Batch(batch) = &entry.command
                    && entry.decoding == Decoding::Waits
                {
                    entry.decoding = Decoding::Begun;
                    return Some(Step::Decode(number, Arc::clone(batch)));
                }
            }
            plan = self.news.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Threads and what they share.
pub(super) struct Threads {
    board: Arc<Board>,
    answers: Receiver<Option<Answer>>,
    threads: Vec<JoinHandle<()>>,
    /// Answers that are still to come.
    expected: usize,
    /// A worker is gone.
    is_broken: bool,
}

impl Threads {
    fn start(count: usize, limits: &Limits) -> std::io::Result<Self> {
        let (answer, answers) = channel();
        let mut threads = Self { board: Arc::default(), answers, threads: Vec::new(), expected: 0, is_broken: false };
        for worker in 0..count {
            let owner = Owner::new(worker, count, limits);
            let (board, answer) = (Arc::clone(&threads.board), answer.clone());
            let thread = std::thread::Builder::new().name(format!("vpn-worker-{worker}"));
            threads.threads.push(thread.spawn(move || work(owner, &board, &answer))?);
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.board.close();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so on stderr; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Tells when a worker ends, whyever.
struct Farewell<'thread>(&'thread Sender<Option<Answer>>);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        // Nobody asks any more when the engine has gone.
        let _ = self.0.send(None);
    }
}

fn work(mut owner: Owner, board: &Board, answers: &Sender<Option<Answer>>) {
    let _farewell = Farewell(answers);
    let mut next = 0;
    while let Some(step) = board.step(&mut next) {
        match step {
            Step::Decode(number, batch) => {
                let Ok(mut batch) = batch.write() else { return };
                owner.decode(&mut batch);
                drop(batch);
                board.decoded(number);
            }
            Step::Obey(command) => {
                if owner.obey(command) && answers.send(Some(owner.answer())).is_err() {
                    return;
                }
            }
        }
    }
}

/// A worker has ended before its time.
pub(super) struct Gone;

/// Where the shards are worked.
pub(super) enum Workers {
    /// On the caller's thread.
    Inline(Box<Owner>),
    Threads(Threads),
}

impl Workers {
    pub fn start(count: usize, limits: &Limits) -> std::io::Result<Self> {
        if count == 1 {
            return Ok(Self::Inline(Box::new(Owner::new(0, 1, limits))));
        }
        Threads::start(count, limits).map(Self::Threads)
    }

    /// Has a command carried out, or put on the board; `take` gets the answer if there is one at once.
    pub fn tell(&mut self, command: Command, take: impl FnOnce(Answer)) -> Result<(), Gone> {
        match self {
            Self::Inline(owner) => {
                if owner.obey(command) {
                    take(owner.answer());
                }
                Ok(())
            }
            Self::Threads(threads) => threads.tell(command, Decoding::Done),
        }
    }
}

impl Threads {
    fn tell(&mut self, command: Command, decoding: Decoding) -> Result<(), Gone> {
        if self.is_broken {
            return Err(Gone);
        }
        if command.is_answered() {
            self.expected += self.threads.len();
        }
        self.board.put(command, decoding, self.threads.len());
        Ok(())
    }

    /// Puts a batch on the board; `is_decoded` or else they decode it.
    pub fn give(&mut self, batch: Arc<RwLock<Batch>>, is_decoded: bool) -> Result<(), Gone> {
        self.tell(Command::Batch(batch), if is_decoded { Decoding::Done } else { Decoding::Waits })
    }

    /// Takes answers until no more than those of this many batches are to come.
    pub fn collect(&mut self, batches: usize, mut take: impl FnMut(Answer)) {
        while self.expected > batches * self.threads.len() && !self.is_broken {
            match self.answers.recv() {
                Ok(Some(answer)) => {
                    self.expected -= 1;
                    take(answer);
                }
                Ok(None) | Err(_) => {
                    self.is_broken = true;
                    self.expected = 0;
                }
            }
        }
    }
}
