//! Captures that are worked ahead, side by side: each by one hand, from its beginning to its end.
//!
//! Who replays many captures says which ones come. A hand takes the next one and has an engine of one worker, which it
//! keeps, work it; the reports are kept here until the capture is opened and polled. So nothing but reports goes from core
//! to core, and nobody waits where one capture ends and the next begins. Of as many hands as there are workers all but
//! one are threads; the last one is the caller's, which works while there is nothing to tell it: one more thread than
//! cores would take the time of who looks at the reports. By all workers together ([`super::threads`]) is
//! worked what is no file on a disk, what is large, and what has too little behind it for the others to do meanwhile.
//!
//! Bounded are the captures that are ahead and the reports that are kept: who has too many waits until its capture is
//! open. When settings change, captures of which nothing has been told are begun anew.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::reader::ReadCounters;
use super::worker::WorkerCounters;
use super::{ENOUGH_REPORTS, Engine, Gone, Settings};
use crate::capture::{CaptureError, LinkType};
use crate::flow::FlowReport;

/// Captures for each hand that may have been begun before they are opened. When half of them are left, those who wait
/// go on.
const MOST_CAPTURES: usize = 8;
/// Reports that may be kept before their captures are opened.
const MOST_REPORTS: usize = 4 * ENOUGH_REPORTS;
/// Bytes of a file. While a larger one is worked by one hand, the others may have reached the bounds.
const LARGEST: u64 = 256 << 20;
/// Flows of a capture after which an engine is made anew, so that its memory is given back: that of many threads is more
/// than that of one.
const MANY_FLOWS: u64 = 1 << 16;
/// How long a hand works before it tells.
const STEP: Duration = Duration::from_millis(20);

/// What somebody wants done to the engine that works a capture.
type Order = Box<dyn FnOnce(&mut Engine) + Send>;

/// Threads, what they share with the caller, and the caller's own hand.
pub(super) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    hand: Hand,
}

struct Shared {
    plan: Mutex<Plan>,
    /// There is something to do, or room for its reports.
    work: Condvar,
    /// The open capture has something to tell.
    told: Condvar,
}

struct Plan {
    /// Hands.
    workers: usize,
    /// With which a capture is begun.
    brief: Arc<Brief>,
    /// Those that come, in order.
    captures: VecDeque<Capture>,
    /// The first of them has been opened.
    is_open: bool,
    /// Number of the latest one that was taken.
    taken: u64,
    /// Threads that wait for work and have not been woken, and whether the caller waits for what they tell. To wake nobody
    /// costs a system call all the same.
    waiting: usize,
    is_awaited: bool,
    is_closed: bool,
    /// A thread has ended before its time.
    is_broken: bool,
}

/// By what captures are worked.
struct Brief {
    settings: Settings,
    reviews: Vec<i64>,
}

struct Capture {
    /// Also its name.
    path: String,
    /// Of the file, once somebody has asked; 0 for what is none.
    size: Option<u64>,
    by: By,
}

/// Who works a capture.
enum By {
    Undecided,
    All,
    One(Box<Job>),
}

/// A capture that one hand works.
#[derive(Default)]
struct Job {
    /// Number under which it was taken, if it was. A hand that finds its number gone drops what it has.
    taken: Option<u64>,
    is_opened: bool,
    is_done: bool,
    /// What there is to tell, in order.
    told: VecDeque<Told>,
    /// Some of it has been told.
    is_begun: bool,
    orders: Vec<Order>,
    standing: Standing,
}

enum Told {
    Reports(Vec<FlowReport>),
    Error(CaptureError),
}

/// Where the work on a capture stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub read: ReadCounters,
    pub worked: WorkerCounters,
    pub link_types: Vec<(LinkType, u64)>,
    pub progress: (u64, Option<u64>),
}

/// What comes next of the open capture.
pub(super) enum Next {
    Reports(Vec<FlowReport>),
    /// It is done, or who worked it is gone.
    End(Box<Standing>, Result<(), Gone>),
}

/// What a hand is to do next: begin a capture, or go on with the one that it has.
struct Step {
    number: u64,
    begin: Option<(String, Arc<Brief>)>,
    orders: Vec<Order>,
}

impl Brief {
    fn new(settings: &Settings, reviews: &[i64]) -> Arc<Self> {
        Arc::new(Self { settings: Settings { workers: 1, ..settings.clone() }, reviews: reviews.to_vec() })
    }

    fn engine(&self) -> Result<Engine, Gone> {
        let mut engine = Engine::new(self.settings.clone()).map_err(|_| Gone)?;
        engine.review_at(self.reviews.clone());
        Ok(engine)
    }
}

impl Job {
    fn kept(&self) -> usize {
        let count = |told: &Told| if let Told::Reports(reports) = told { reports.len() } else { 0 };
        self.told.iter().map(count).sum()
    }

    fn tell(&mut self, told: Told) {
        match (self.told.back_mut(), told) {
            (Some(Told::Reports(known)), Told::Reports(mut more)) if known.len() < ENOUGH_REPORTS => {
                known.append(&mut more);
            }
            (_, Told::Reports(more)) if more.is_empty() => {}
            (_, told) => self.told.push_back(told),
        }
    }
}

impl Capture {
    fn job(&self) -> Option<&Job> {
        if let By::One(job) = &self.by { Some(job) } else { None }
    }

    fn job_mut(&mut self) -> Option<&mut Job> {
        if let By::One(job) = &mut self.by { Some(job) } else { None }
    }

    /// Bytes that one hand can read.
    fn size(&mut self) -> u64 {
        *self.size.get_or_insert_with(|| {
            let path = Some(&self.path).filter(|path| *path != "-");
            let file = path.and_then(|path| Path::new(path).metadata().ok()).filter(|found| found.is_file());
            file.map_or(0, |file| file.len())
        })
    }
}

impl Plan {
    /// Those that may be begun, with their jobs.
    fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.captures.iter().take(self.most()).filter_map(Capture::job)
    }

    /// Captures that may be begun.
    fn most(&self) -> usize {
        self.workers * MOST_CAPTURES
    }

    /// The job of a number, and whether its capture is open.
    fn job(&mut self, number: u64) -> Option<(&mut Job, bool)> {
        let (is_open, most) = (self.is_open, self.most());
        let jobs = self.captures.iter_mut().take(most).enumerate();
        let mut jobs = jobs.filter_map(|(place, capture)| Some((capture.job_mut()?, is_open && place == 0)));
        jobs.find(|(job, _)| job.taken == Some(number))
    }

    /// The job of the open capture.
    fn open_job(&mut self) -> Option<&mut Job> {
        if self.is_open { self.captures.front_mut().and_then(Capture::job_mut) } else { None }
    }

    fn kept(&self) -> usize {
        self.jobs().map(Job::kept).sum()
    }

    /// Whether those who wait are to go on: a little now and then would wake them for each capture.
    fn is_short(&self) -> bool {
        let begun = self.jobs().filter(|job| job.taken.is_some()).count();
        self.jobs().next().is_some_and(|job| !job.is_done)
            || begun <= self.most() / 2 && self.kept() <= MOST_REPORTS / 2
    }

    /// Decides who works a capture.
    fn decide(&mut self, place: usize) {
        let others = self.workers as u64 - 1;
        let Some(capture) = self.captures.get_mut(place).filter(|capture| matches!(capture.by, By::Undecided)) else {
            return;
        };
        let size = capture.size();
        let mut behind = 0;
        for later in self.captures.iter_mut().skip(place + 1) {
            if behind >= size * others {
                break;
            }
            behind += later.size();
        }
        if let Some(capture) = self.captures.get_mut(place) {
            let is_for_one = (1..=LARGEST).contains(&size) && behind >= size * others;
            capture.by = if is_for_one { By::One(Box::default()) } else { By::All };
        }
    }

    /// To begin the next capture that is to be worked by one hand, if there is room for what it tells.
    fn take(&mut self) -> Option<Step> {
        let has_room = self.kept() < MOST_REPORTS;
        for place in 0..self.captures.len().min(self.most()) {
            self.decide(place);
            let is_open = self.is_open && place == 0;
            if !has_room && !is_open {
                return None;
            }
            if let Some(capture) = self.captures.get_mut(place)
                && let By::One(job) = &mut capture.by
                && job.taken.is_none()
            {
                self.taken += 1;
                job.taken = Some(self.taken);
                let begin = Some((capture.path.clone(), Arc::clone(&self.brief)));
                return Some(Step { number: self.taken, begin, orders: std::mem::take(&mut job.orders) });
            }
        }
        None
    }

    /// To go on with a job, if there is room for what it tells, all flows included that run, which are reported at the end.
    fn go_on(&mut self, number: u64, running: usize) -> Option<Step> {
        let kept = self.kept();
        let (job, is_open) = self.job(number)?;
        let has_room = if is_open { job.kept() < 2 * ENOUGH_REPORTS } else { kept + running < MOST_REPORTS };
        has_room.then(|| Step { number, begin: None, orders: std::mem::take(&mut job.orders) })
    }
}

impl Shared {
    /// The plan. Nothing panics while it is locked.
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work.
    fn wait<'shared>(&'shared self, mut plan: MutexGuard<'shared, Plan>) -> MutexGuard<'shared, Plan> {
        plan.waiting += 1;
        self.work.wait(plan).unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all who wait for work.
    fn wake(&self, mut plan: MutexGuard<'_, Plan>) {
        plan.waiting = 0;
        drop(plan);
        self.work.notify_all();
    }

    /// What a thread's hand is to do next; waits for it. `None` at the end.
    fn next(&self, hand: &mut Hand) -> Option<Step> {
        let mut plan = self.plan();
        loop {
            if plan.is_closed {
                return None;
            }
            if let Some(step) = hand.next(&mut plan) {
                return Some(step);
            }
            plan = self.wait(plan);
        }
    }

    /// Notes something of a job, if its work is still wanted.
    fn note(&self, number: u64, note: impl FnOnce(&mut Job)) {
        let mut plan = self.plan();
        let Some((job, is_open)) = plan.job(number) else { return };
        note(job);
        let is_awaited = is_open && std::mem::take(&mut plan.is_awaited);
        drop(plan);
        if is_awaited {
            self.told.notify_one();
        }
    }
}

/// Tells when a hand is gone, whyever.
struct Farewell<'shared>(&'shared Shared);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let mut plan = self.0.plan();
        plan.is_broken = true;
        plan.is_awaited = false;
        drop(plan);
        self.0.told.notify_one();
    }
}

/// One that works captures: an engine, which is kept since to make it would be a good part of the work on a small
/// capture, and what it works now.
#[derive(Default)]
struct Hand {
    engine: Option<(Arc<Brief>, Box<Engine>)>,
    job: Option<u64>,
}

impl Hand {
    /// What it is to do next, if there is anything.
    fn next(&mut self, plan: &mut Plan) -> Option<Step> {
        if let (Some(number), Some((_, engine))) = (self.job, &self.engine)
            && plan.job(number).is_some()
        {
            return plan.go_on(number, engine.running());
        }
        self.job = None;
        plan.take()
    }

    /// Does it, for about so long, and notes what there is to tell.
    fn work(&mut self, shared: &Shared, step: Step, longest: Duration) -> Result<(), Gone> {
        let Step { number, begin, orders } = step;
        if let Some((path, brief)) = begin
            && let Err(error) = self.begin(&path, brief)?
        {
            shared.note(number, |job| {
                job.tell(Told::Error(error));
                job.is_done = true;
            });
            return Ok(());
        }
        let (_, engine) = self.engine.as_mut().ok_or(Gone)?;
        orders.into_iter().for_each(|order| order(engine));
        let polled = engine.poll(longest);
        let (is_done, standing) = (!engine.is_busy(), engine.standing());
        let flows = standing.worked.shards.created;
        self.job = Some(number).filter(|_| !is_done);
        // That it is open is said with what it tells first, of most captures once: to tell takes the lock and may wake
        // somebody.
        shared.note(number, |job| {
            job.is_opened = true;
            job.tell(polled.map_or_else(Told::Error, |reports| Told::Reports(reports.unwrap_or_default())));
            job.standing = standing;
            job.is_done = is_done;
        });
        if is_done && flows > MANY_FLOWS {
            self.engine = None;
        }
        Ok(())
    }

    /// Opens a capture.
    fn begin(&mut self, path: &str, brief: Arc<Brief>) -> Result<Result<(), CaptureError>, Gone> {
        let known = self.engine.take().filter(|(known, _)| Arc::ptr_eq(known, &brief));
        let engine = known.map_or_else(|| brief.engine().map(Box::new), |(_, engine)| Ok(engine))?;
        let (_, engine) = self.engine.insert((brief, engine));
        engine.forget();
        Ok(engine.open(Path::new(path), path))
    }

    /// The caller's, who has nothing to be told: works for a while, or else waits for so long until there may be something.
    fn help<'shared>(
        &mut self,
        shared: &'shared Shared,
        mut plan: MutexGuard<'shared, Plan>,
        longest: Duration,
    ) -> MutexGuard<'shared, Plan> {
        let Some(step) = self.next(&mut plan) else {
            plan.is_awaited = true;
            return shared.told.wait_timeout(plan, longest).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(plan);
        let farewell = Farewell(shared);
        if self.work(shared, step, longest.min(STEP)).is_ok() {
            std::mem::forget(farewell);
        }
        shared.plan()
    }
}

/// A thread's life.
fn work(shared: &Shared) {
    let _farewell = Farewell(shared);
    let mut hand = Hand::default();
    while let Some(step) = shared.next(&mut hand)
        && hand.work(shared, step, STEP).is_ok()
    {}
}

impl Ahead {
    /// Starts a thread for each worker but the caller, for an engine with these settings.
    pub fn start(settings: &Settings, reviews: &[i64]) -> std::io::Result<Self> {
        let workers = settings.workers;
        let plan = Plan {
            workers,
            brief: Brief::new(settings, reviews),
            captures: VecDeque::new(),
            is_open: false,
            taken: 0,
            waiting: 0,
            is_awaited: false,
            is_closed: false,
            is_broken: false,
        };
        let (work_here, told) = (Condvar::default(), Condvar::default());
        let shared = Arc::new(Shared { plan: Mutex::new(plan), work: work_here, told });
        let mut ahead = Self { shared, threads: Vec::new(), hand: Hand::default() };
        for number in 1..workers {
            let shared = Arc::clone(&ahead.shared);
            let thread = std::thread::Builder::new().name(format!("vpn-ahead-{number}"));
            ahead.threads.push(thread.spawn(move || work(&shared))?);
        }
        Ok(ahead)
    }

    /// The captures that come, instead of those that were to come.
    pub fn announce(&self, paths: Vec<String>) {
        let mut plan = self.shared.plan();
        let open = usize::from(plan.is_open);
        plan.captures.truncate(open);
        plan.captures.extend(paths.into_iter().map(|path| Capture { path, size: None, by: By::Undecided }));
        self.shared.wake(plan);
    }

    /// Opens a capture if it is the next and one hand works it; works until that hand has opened it.
    pub fn open(&mut self, path: &str) -> Option<Result<(), CaptureError>> {
        let mut plan = self.shared.plan();
        if plan.is_broken || plan.captures.front().is_none_or(|next| next.path != path) {
            return None;
        }
        plan.decide(0);
        plan.is_open = true;
        if plan.open_job().is_none() {
            self.close(plan);
            return None;
        }
        self.tell_all(plan);
        plan = self.shared.plan();
        loop {
            let is_broken = plan.is_broken;
            let job = plan.open_job()?;
            if job.is_opened {
                return Some(Ok(()));
            }
            if let Some(Told::Error(error)) = job.told.pop_front() {
                self.close(plan);
                return Some(Err(error));
            }
            if is_broken {
                self.close(plan);
                return None;
            }
            plan = self.hand.help(&self.shared, plan, STEP);
        }
    }

    /// What the open capture tells next; no reports when nothing comes for so long.
    pub fn next(&mut self, longest: Duration) -> Result<Next, CaptureError> {
        let until = Instant::now().checked_add(longest);
        let mut is_late = false;
        let mut plan = self.shared.plan();
        loop {
            let is_broken = plan.is_broken;
            let Some(job) = plan.open_job() else { return Ok(Next::End(Box::default(), Ok(()))) };
            let told = job.told.pop_front();
            job.is_begun |= told.is_some();
            match told {
                Some(Told::Reports(reports)) => {
                    self.tell_all(plan);
                    return Ok(Next::Reports(reports));
                }
                Some(Told::Error(error)) => return Err(error),
                None if job.is_done => return Ok(Next::End(Box::new(self.close(plan)), Ok(()))),
                None if is_broken => return Ok(Next::End(Box::new(self.close(plan)), Err(Gone))),
                None => {}
            }
            if is_late {
                return Ok(Next::Reports(Vec::new()));
            }
            // Who has no time works a little all the same: it may be the caller's own hand that has the open capture.
            let left = until.map_or(longest, |until| until.saturating_duration_since(Instant::now()));
            is_late = left.is_zero();
            plan = self.hand.help(&self.shared, plan, left);
        }
    }

    /// Leaves the open capture, wherever its work stands.
    pub fn leave(&self) -> Standing {
        self.close(self.shared.plan())
    }

    fn close(&self, mut plan: MutexGuard<'_, Plan>) -> Standing {
        let standing = plan.open_job().map(|job| std::mem::take(&mut job.standing)).unwrap_or_default();
        if std::mem::take(&mut plan.is_open) {
            plan.captures.pop_front();
        }
        self.tell_all(plan);
        standing
    }

    /// Where the work on the open capture stands.
    pub fn standing(&self) -> Standing {
        self.shared.plan().open_job().map(|job| job.standing.clone()).unwrap_or_default()
    }

    /// Forgets the captures that come, and has the open one finished.
    pub fn finish(&self) {
        self.announce(Vec::new());
        self.order(Engine::finish);
    }

    /// Has something done to the engine that works the open capture, when it comes to that.
    pub fn order(&self, order: impl FnOnce(&mut Engine) + Send + 'static) {
        if let Some(job) = self.shared.plan().open_job() {
            job.orders.push(Box::new(order));
        }
    }

    /// Works with other settings from now on: of the open capture what is still to be read, if some of it has been told,
    /// where `order` makes the difference; all others from their beginning.
    pub fn renew(&self, settings: &Settings, reviews: &[i64], order: impl FnOnce(&mut Engine) + Send + 'static) {
        let mut plan = self.shared.plan();
        plan.brief = Brief::new(settings, reviews);
        if let Some(job) = plan.open_job().filter(|job| job.is_begun) {
            job.orders.push(Box::new(order));
        }
        for job in plan.captures.iter_mut().filter_map(Capture::job_mut).filter(|job| !job.is_begun) {
            // Whether it can be opened has been told.
            *job = Job { is_opened: job.is_opened, ..Job::default() };
        }
        self.shared.wake(plan);
    }

    /// Wakes who waits for what the plan says now.
    fn tell_all(&self, plan: MutexGuard<'_, Plan>) {
        if plan.waiting > 0 && plan.is_short() {
            self.shared.wake(plan);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut plan = self.shared.plan();
        plan.is_closed = true;
        self.shared.wake(plan);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
