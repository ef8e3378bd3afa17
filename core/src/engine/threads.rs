//! Several workers, each on a thread of its own.
//!
//! What they are to do stands on a board, in order, and each carries all of it out for its own shards. Who has nothing
//! to carry out reads the next block, puts it on the board in its turn, and then lists its frames for the others. Blocks of
//! a plain file are read side by side, by tickets; of anything else one at a time. Who has read a block finds its frames:
//! to walk from record to record through what another core has read is slower than to read it. So beside that list, what goes from core to core is of each packet the beginning of
//! its frame: what is written by one and read by another costs more than to decode it again.
//!
//! Nothing is on the board, and nobody reads, when [`Threads::wait`] returns.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use super::batch::Batch;
use super::reader::Reader;
use super::worker::{Command, Worker, WorkerCounters};
use super::{ENOUGH_REPORTS, Gone};
use crate::capture::bpf::Filter;
use crate::capture::{Blocks, CaptureError};
use crate::flow::{FlowReport, Limits};

/// Blocks on the board beside one for each worker: enough for who is ahead to go on reading.
const AHEAD: usize = 6;
/// Who has no more blocks than these to carry out reads first. Two workers that read only when they had nothing else to do
/// waited for each other at each block, and took half as long again.
const LEAST: usize = 3;

/// Threads and what they share with the caller.
pub(super) struct Threads {
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
}

struct Board {
    /// Locked by who reads, and by the caller while nobody does.
    reader: Arc<Mutex<Reader>>,
    plan: Mutex<Plan>,
    /// There is something to do.
    work: Condvar,
    /// Nothing is on the board, and nobody reads; or a worker is gone.
    quiet: Condvar,
}

#[derive(Default)]
struct Plan {
    /// What some worker has yet to carry out, in order.
    entries: VecDeque<Entry>,
    /// No more blocks are read than these.
    room: usize,
    /// Number of the first one.
    first: u64,
    reading: Reading,
    /// The capture, if its blocks may be read side by side.
    blocks: Option<Blocks>,
    /// Of the block to be read next, and of the one to be put on the board next; those of one capture follow those of another.
    ticket: u64,
    turn: u64,
    /// Of the capture's first block.
    first_ticket: u64,
    /// The first block that ends after this is the last one for now.
    until: Option<Instant>,
    reports: Vec<FlowReport>,
    counters: Vec<WorkerCounters>,
    /// Batches to be used again.
    spare: Vec<Batch>,
    /// Workers that wait for something to do. To wake nobody costs a system call all the same.
    waiting: usize,
    /// The workers are to end.
    is_closed: bool,
    /// A worker has ended before.
    is_broken: bool,
}

struct Entry {
    task: Task,
    /// Its frames are not listed yet.
    waits: bool,
    /// Workers that have yet to carry it out.
    left: usize,
}

#[derive(Clone)]
enum Task {
    Batch(Arc<RwLock<Batch>>),
    Command(Command),
    /// To say what was counted.
    Count,
}

/// Whether blocks are to be read.
#[derive(Default)]
enum Reading {
    /// No.
    #[default]
    Paused,
    /// Yes.
    Wanted,
    /// Somebody does.
    Begun,
    /// The capture has ended.
    Ended(Result<(), CaptureError>),
}

/// What a worker does next.
enum Step {
    /// Reads the next block, and puts it on the board.
    Read(Batch),
    /// Reads the block of a number, to put it on the board when it is its turn.
    ReadBlock(Blocks, u64, Batch),
    /// Puts a block that it has read on the board.
    Put(Batch),
    CarryOut(Task),
}

impl Plan {
    fn is_quiet(&self) -> bool {
        self.entries.is_empty() && !matches!(self.reading, Reading::Begun | Reading::Wanted)
    }

    /// Whether no further block is to be begun.
    fn is_enough(&self) -> bool {
        self.reports.len() >= ENOUGH_REPORTS || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

impl Board {
    /// The plan. Nothing panics while it is locked.
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is on the board and nobody reads.
    fn wait<'board>(&'board self, mut plan: MutexGuard<'board, Plan>) -> MutexGuard<'board, Plan> {
        while !plan.is_quiet() && !plan.is_broken {
            plan = self.quiet.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
        plan
    }

    /// What a worker that has carried out the entries before `next`, and has `read` a block, does now; waits for it.
    /// `None` at the end.
    fn step(&self, next: &mut u64, read: &mut Option<(u64, Batch)>) -> Option<Step> {
        let mut plan = self.plan();
        loop {
            if plan.is_closed {
                return None;
            }
            if let Some((_, batch)) = read.take_if(|(ticket, _)| *ticket < plan.first_ticket) {
                // Of a capture that is left.
                plan.spare.push(batch);
            }
            let is_wanted = matches!(plan.reading, Reading::Wanted);
            let turn = plan.turn;
            if is_wanted && let Some((_, batch)) = read.take_if(|(ticket, _)| *ticket == turn) {
                plan.reading = Reading::Begun;
                plan.turn += 1;
                return Some(Step::Put(batch));
            }
            let place = next.saturating_sub(plan.first) as usize;
            let to_do = plan.entries.len().saturating_sub(place);
            if to_do <= LEAST && plan.entries.len() < plan.room && read.is_none() {
                if let Some(blocks) = &plan.blocks {
                    if is_wanted || matches!(plan.reading, Reading::Begun) {
                        let (blocks, ticket) = (blocks.clone(), plan.ticket);
                        plan.ticket += 1;
                        *read = Some((ticket, Batch::default()));
                        let number = ticket - plan.first_ticket;
                        return Some(Step::ReadBlock(blocks, number, plan.spare.pop().unwrap_or_default()));
                    }
                } else if is_wanted {
                    plan.reading = Reading::Begun;
                    return Some(Step::Read(plan.spare.pop().unwrap_or_default()));
                }
            }
            if let Some(entry) = plan.entries.get_mut(place)
                && !entry.waits
            {
                *next += 1;
                return Some(Step::CarryOut(entry.task.clone()));
            }
            plan.waiting += 1;
            plan = self.work.wait(plan).unwrap_or_else(PoisonError::into_inner);
            plan.waiting -= 1;
        }
    }

    /// Puts a block on the board, and lists its frames. `fill` reads it, or finds the frames in what has been read.
    fn put(
        &self,
        mut batch: Batch,
        workers: usize,
        fill: impl FnOnce(&mut Reader, &mut Batch) -> Result<bool, CaptureError>,
    ) {
        let Ok(mut reader) = self.reader.lock() else { return };
        let more = fill(&mut reader, &mut batch);
        let is_empty = batch.is_empty();
        let batch = Arc::new(RwLock::new(batch));
        let mut plan = self.plan();
        plan.reading = match more {
            Ok(true) if plan.is_enough() => Reading::Paused,
            Ok(true) => Reading::Wanted,
            Ok(false) => Reading::Ended(Ok(())),
            Err(error) => Reading::Ended(Err(error)),
        };
        let number = plan.first + plan.entries.len() as u64;
        if !is_empty {
            plan.entries.push_back(Entry { task: Task::Batch(Arc::clone(&batch)), waits: true, left: workers });
        }
        self.tell_all(plan);
        drop(reader);
        if is_empty {
            return;
        }
        if let Ok(mut batch) = batch.write() {
            batch.list(workers);
        }
        let mut plan = self.plan();
        let place = number.saturating_sub(plan.first) as usize;
        if let Some(entry) = plan.entries.get_mut(place) {
            entry.waits = false;
        }
        self.tell_all(plan);
    }

    /// An entry has been carried out.
    fn done(&self, number: u64, reports: &mut Vec<FlowReport>) {
        let mut plan = self.plan();
        plan.reports.append(reports);
        let place = number.saturating_sub(plan.first) as usize;
        if let Some(entry) = plan.entries.get_mut(place) {
            entry.left -= 1;
        }
        let mut is_news = false;
        while plan.entries.front().is_some_and(|entry| entry.left == 0) {
            let entry = plan.entries.pop_front();
            plan.first += 1;
            is_news = true;
            if let Some(Entry { task: Task::Batch(batch), .. }) = entry
                && let Ok(batch) = Arc::try_unwrap(batch)
            {
                plan.spare.extend(batch.into_inner());
            }
        }
        // Who waits for room is not woken for each block.
        if is_news && plan.entries.len() <= plan.room / 2 {
            self.tell_all(plan);
        }
    }

    fn count(&self, worker: &Worker) {
        let counters = worker.counters();
        if let Some(known) = self.plan().counters.get_mut(worker.number()) {
            *known = counters;
        }
    }

    /// Wakes who waits for what the plan says now.
    fn tell_all(&self, plan: MutexGuard<'_, Plan>) {
        let (is_quiet, waiting) = (plan.is_quiet(), plan.waiting);
        drop(plan);
        if waiting > 0 {
            self.work.notify_all();
        }
        if is_quiet {
            self.quiet.notify_all();
        }
    }
}

/// Tells when a worker ends, whyever.
struct Farewell<'board>(&'board Board);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let mut plan = self.0.plan();
        plan.is_broken = true;
        drop(plan);
        self.0.quiet.notify_all();
    }
}

fn work(mut worker: Worker, board: &Board, workers: usize) {
    let _farewell = Farewell(board);
    let (mut next, mut reports, mut read) = (0, Vec::new(), None);
    while let Some(step) = board.step(&mut next, &mut read) {
        match step {
            Step::Read(batch) => board.put(batch, workers, Reader::fill),
            Step::Put(batch) => board.put(batch, workers, Reader::take),
            Step::ReadBlock(blocks, number, mut batch) => {
                batch.clear();
                blocks.read(number, &mut batch.frames);
                if let Some((_, room)) = &mut read {
                    *room = batch;
                }
            }
            Step::CarryOut(task) => {
                match task {
                    // Nobody writes any more, and one who panicked while it wrote has ended.
                    Task::Batch(batch) => match batch.read() {
                        Ok(batch) => worker.run(&batch),
                        Err(_) => return,
                    },
                    Task::Command(command) => worker.obey(command),
                    Task::Count => board.count(&worker),
                }
                worker.take_reports(&mut reports);
                board.done(next - 1, &mut reports);
            }
        }
    }
}

impl Threads {
    /// Starts so many workers.
    pub fn start(count: usize, limits: &Limits, filter: &Filter, reader: Arc<Mutex<Reader>>) -> std::io::Result<Self> {
        let plan = Plan { room: count + AHEAD, counters: vec![WorkerCounters::default(); count], ..Plan::default() };
        let board =
            Arc::new(Board { reader, plan: Mutex::new(plan), work: Condvar::default(), quiet: Condvar::default() });
        let mut threads = Self { board, threads: Vec::new() };
        for number in 0..count {
            let worker = Worker::new(number, count, limits, filter);
            let board = Arc::clone(&threads.board);
            let thread = std::thread::Builder::new().name(format!("vpn-worker-{number}"));
            threads.threads.push(thread.spawn(move || work(worker, &board, count))?);
        }
        Ok(threads)
    }

    /// Another capture begins, whose blocks may be read side by side.
    pub fn begin_capture(&self, blocks: Option<Blocks>) {
        let mut plan = self.board.plan();
        plan.blocks = blocks;
        (plan.first_ticket, plan.turn) = (plan.ticket, plan.ticket);
    }

    /// Has a command carried out by all workers, in its turn.
    pub fn tell(&self, command: Command) -> Result<(), Gone> {
        self.put(Task::Command(command))
    }

    fn put(&self, task: Task) -> Result<(), Gone> {
        let mut plan = self.board.plan();
        if plan.is_broken {
            return Err(Gone);
        }
        plan.entries.push_back(Entry { task, waits: false, left: self.threads.len() });
        self.board.tell_all(plan);
        Ok(())
    }

    /// Has blocks read and looked at until an instant, or until there are many reports.
    pub fn begin(&self, until: Option<Instant>) {
        let mut plan = self.board.plan();
        plan.reading = Reading::Wanted;
        plan.until = until;
        self.board.tell_all(plan);
    }

    /// Waits until what was begun is done. The end of the capture, when it came to that.
    pub fn wait(&self) -> Result<Option<Result<(), CaptureError>>, Gone> {
        let mut plan = self.board.wait(self.board.plan());
        let reading = std::mem::take(&mut plan.reading);
        match reading {
            _ if plan.is_broken => Err(Gone),
            Reading::Ended(result) => Ok(Some(result)),
            _ => Ok(None),
        }
    }

    /// Waits until everything is carried out, and takes the reports.
    pub fn take_reports(&self, reports: &mut Vec<FlowReport>) -> Result<(), Gone> {
        self.put(Task::Count)?;
        let mut plan = self.board.wait(self.board.plan());
        reports.append(&mut plan.reports);
        if plan.is_broken { Err(Gone) } else { Ok(()) }
    }

    /// Whether a worker has ended before its time.
    pub fn is_broken(&self) -> bool {
        self.board.plan().is_broken
    }

    /// What all workers have counted, when reports were last taken.
    pub fn counters(&self) -> WorkerCounters {
        let mut sum = WorkerCounters::default();
        self.board.plan().counters.iter().for_each(|counters| sum.add(counters));
        sum
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.board.plan().is_closed = true;
        self.board.work.notify_all();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so on stderr; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}
