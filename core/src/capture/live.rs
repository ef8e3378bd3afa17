//! Live capture on Linux: threads that take frames out of rings, and the [`Source`] that hands on what they took.
//!
//! ```text
//! interface --> ring 0 --> vpn-capture-0 --\
//!           \-> ring 1 --> vpn-capture-1 ----> Live: the batch with the earliest first frame
//! ```
//!
//! Each thread has one ring of every interface, among which the kernel shares out frames by their addresses
//! ([`fanout`](super::fanout)): the frames of a pair of addresses come through one thread, in the order of time. A thread
//! has [`LOADS`] batches, which go round between it and the reader: when the reader is slow, a thread waits for one, its
//! rings fill, and the kernel counts what they have no room for.
//!
//! Two rules a reader would get wrong. Between frames of two threads, or of two interfaces, there is no strict order of
//! time: blocks of 10 ms are compared by their first frame. And frames count as delivered when the reader gets them, so
//! that the counters of a capture and those of its reader say the same at every moment.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};

use super::af_packet::{self, Options, Taken, Tap, statistics};
use super::bpf::Filter;
use super::{BLOCK, CaptureError, FrameBatch, InterfaceCounters, LiveCounters, PATIENCE, Reason, Source};

/// Batches of each thread: one that it fills, one that is looked at, and some on their way.
const LOADS: usize = 4;
/// A silence of this long after the end was asked for: longer than the kernel takes to hand over its last block.
const SILENCE: Duration = Duration::from_millis(100);
/// While nothing comes, all frames of so long ago have been handed over.
const LAG_NS: i64 = 1_000_000_000;
/// Between two looks at an interface that is down or gone, and at the kernel's counters.
const LOOK: Duration = Duration::from_secs(1);
/// How long a thread waits for a batch.
const WAIT: Duration = Duration::from_millis(50);
/// How long the reader waits for a thread, before who asked it may tell what has been found so far.
const READER_WAIT: Duration = Duration::from_millis(20);

/// What is wanted of the threads: go on; take what has arrived and end; end at once.
const GO_ON: u8 = 0;
const DRAIN: u8 = 1;
const QUIT: u8 = 2;

/// Opens these interfaces and starts the threads; frames come from all of them.
///
/// # Errors
/// An interface does not exist, is of a link type that is not read, or is named twice; the process lacks the capability;
/// a setting is out of its range; the kernel has no memory for a ring, or no thread. The error's text names the interface.
pub fn open(names: &[String], options: Options, filter: &Filter) -> Result<Box<dyn Source>, CaptureError> {
    if let Some((setting, range)) = options.fault() {
        return Err(CaptureError::new(Reason::Interface, None, format!("{setting} out of its range"), range));
    }
    if names.is_empty() {
        return Err(CaptureError::new(Reason::NoInterface, None, "no name", "the name of an interface"));
    }
    let mut rings: Vec<Vec<Tap>> = (0..options.threads).map(|_| Vec::new()).collect();
    let mut interfaces: Vec<Interface> = Vec::with_capacity(names.len());
    for name in names {
        if interfaces.iter().any(|interface| interface.name == *name) {
            return Err(CaptureError::new(Reason::Interface, None, format!("{name} twice"), "each interface once"));
        }
        let taps = af_packet::open(name, &options, filter)?;
        interfaces.push(Interface::new(name, &taps));
        for (of_thread, tap) in rings.iter_mut().zip(taps) {
            of_thread.push(tap);
        }
    }
    let handed = || Handed { by_ring: vec![0; options.threads], ..Handed::default() };
    let handed = interfaces.iter().map(|_| handed()).collect();
    let shared = Arc::new(Shared { options, filter: filter.clone(), interfaces, wanted: AtomicU8::new(GO_ON) });
    // Each may have an error to tell, too: nobody waits to send.
    let (full, filled) = sync_channel(options.threads * (LOADS + 1));
    let mut live = Live {
        shared,
        handed,
        filled,
        lanes: Vec::new(),
        threads: Vec::new(),
        bytes: 0,
        turns: 0,
        looked: Instant::now(),
        failed: false,
    };
    for (number, taps) in rings.into_iter().enumerate() {
        live.start(number, taps, full.clone())?;
    }
    Ok(Box::new(live))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host's time, in nanoseconds since 1970.
fn host_time() -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}

/// What the threads and the reader have in common.
struct Shared {
    options: Options,
    filter: Filter,
    interfaces: Vec<Interface>,
    wanted: AtomicU8,
}

/// One interface.
struct Interface {
    name: String,
    /// Rings that were opened anew for threads that have not fetched theirs yet.
    anew: Mutex<Vec<Option<Tap>>>,
    /// Of each thread's ring.
    kernel: Vec<Mutex<Kernel>>,
}

impl Interface {
    fn new(name: &str, taps: &[Tap]) -> Self {
        let kernel = taps.iter().map(|tap| {
            let (socket, up) = (tap.socket(), tap.begins_up());
            Mutex::new(Kernel { socket, received: 0, dropped: 0, taken: 0, freezes: 0, downs: 0, up })
        });
        Self { name: name.to_owned(), anew: Mutex::new(taps.iter().map(|_| None).collect()), kernel: kernel.collect() }
    }

    /// Looks whether an interface that was down is up again. One that was taken away and made anew is another one: the
    /// first thread to see that opens the rings of all, in their order.
    fn look(&self, thread: usize, tap: &mut Tap, shared: &Shared) {
        let Some(kernel) = self.kernel.get(thread) else { return };
        let mut anew = locked(&self.anew);
        let fetched = match anew.get_mut(thread).and_then(Option::take) {
            None if tap.is_of_its_interface() => {
                // The kernel goes on with an interface that was only down.
                locked(kernel).up = tap.is_up();
                return;
            }
            None => {
                if !tap.can_be_opened_anew() {
                    return;
                }
                let Ok(taps) = af_packet::open(&self.name, &shared.options, &shared.filter) else { return };
                for ((place, tap), kernel) in anew.iter_mut().zip(taps).zip(&self.kernel) {
                    if let Some(never_fetched) = place.replace(tap) {
                        locked(kernel).lose(&never_fetched);
                    }
                }
                anew.get_mut(thread).and_then(Option::take)
            }
            fetched => fetched,
        };
        if let Some(fetched) = fetched {
            locked(kernel).begin_anew(&fetched);
            *tap = fetched;
        }
    }
}

/// What the kernel counts of one ring.
struct Kernel {
    socket: Arc<OwnedFd>,
    received: u64,
    dropped: u64,
    /// Frames taken out of it.
    taken: u64,
    freezes: u64,
    downs: u64,
    up: bool,
}

impl Kernel {
    /// Adds what the kernel has counted since it was asked last.
    fn count(&mut self) {
        if let Ok(counted) = statistics(&self.socket) {
            self.received += u64::from(counted.tp_packets);
            self.dropped += u64::from(counted.tp_drops);
            self.freezes += u64::from(counted.tp_freeze_q_cnt);
        }
    }

    /// The ring is another one from now on. What was still in the old one goes with it.
    fn begin_anew(&mut self, tap: &Tap) {
        self.count();
        self.dropped = self.received.saturating_sub(self.taken);
        self.socket = tap.socket();
        self.up = tap.begins_up();
    }

    /// A ring that nobody has looked at goes, with what is in it.
    fn lose(&mut self, tap: &Tap) {
        if let Ok(counted) = statistics(&tap.socket()) {
            self.received += u64::from(counted.tp_packets);
            self.dropped += u64::from(counted.tp_packets);
        }
    }
}

/// A batch on its way to the reader, or empty on its way back.
#[derive(Default)]
struct Load {
    batch: FrameBatch,
    /// Of each interface, what was taken.
    taken: Vec<Taken>,
    /// Bytes of all frames.
    bytes: usize,
}

impl Load {
    /// By which loads of several threads are put in order; what holds no frame comes first.
    fn first(&self) -> i64 {
        self.batch.frames.first().map_or(i64::MIN, |frame| frame.time)
    }
}

/// From the thread of this number.
type Message = (usize, Result<Load, CaptureError>);

/// What the reader sees of a thread.
#[derive(Default)]
struct Progress {
    turns: AtomicU64,
    /// Loads sent.
    sent: AtomicU64,
    /// The host's time before the last look that found nothing; loads with all that came before were sent.
    idle_at: AtomicI64,
}

/// A thread that captures.
struct Capturer {
    number: usize,
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    taps: Vec<Tap>,
    /// Whose turn it is.
    next: usize,
    /// To the reader, and back.
    full: SyncSender<Message>,
    empty: Receiver<Load>,
    load: Option<Load>,
}

impl Capturer {
    fn run(mut self) {
        if let Err(error) = self.capture() {
            // Where nobody listens any more, nobody needs it.
            let _ = self.full.send((self.number, Err(CaptureError::from_io(&error, None))));
        }
    }

    fn capture(&mut self) -> io::Result<()> {
        let (mut draining, mut silent_since, mut looked) = (false, None::<Instant>, Instant::now());
        loop {
            self.progress.turns.fetch_add(1, Ordering::Relaxed);
            match self.shared.wanted.load(Ordering::Acquire) {
                GO_ON => {}
                DRAIN if draining => {}
                DRAIN => {
                    draining = true;
                    silent_since = None;
                    self.taps.iter().for_each(Tap::close);
                }
                _ => return Ok(()),
            }
            if self.load.is_none() {
                match self.empty.recv_timeout(WAIT) {
                    Ok(load) => self.load = Some(load),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
            if let Some(mut load) = self.load.take() {
                let began = host_time();
                if self.take(&mut load) {
                    silent_since = None;
                    self.progress.sent.fetch_add(1, Ordering::Relaxed);
                    if self.full.send((self.number, Ok(load))).is_err() {
                        return Ok(());
                    }
                } else {
                    self.load = Some(load);
                    self.progress.idle_at.store(began.unwrap_or(0), Ordering::Release);
                    if draining && silent_since.get_or_insert_with(Instant::now).elapsed() >= SILENCE {
                        self.look(draining);
                        return Ok(());
                    }
                    self.wait()?;
                }
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look(draining);
            }
        }
    }

    /// Takes blocks that are ready, until the batch is about full; whether there were any.
    fn take(&mut self, load: &mut Load) -> bool {
        let (mut filled, mut any, mut sources, mut without) = (0, false, 0_u64, 0);
        load.batch.clear();
        load.taken.clear();
        load.taken.resize_with(self.taps.len(), Taken::default);
        while filled < BLOCK && without < self.taps.len() {
            let place = self.next % self.taps.len();
            self.next = place + 1;
            let (Some(tap), Some(sum)) = (self.taps.get_mut(place), load.taken.get_mut(place)) else { break };
            match tap.take(self.shared.options.outgoing, &mut load.batch, &mut filled) {
                None => without += 1,
                Some(taken) => {
                    sum.add(&taken);
                    if let Some(kernel) = self.shared.kernel(place, self.number) {
                        locked(kernel).taken += taken.delivered + taken.outgoing;
                    }
                    sources |= 1 << (place % 64);
                    (any, without) = (true, 0);
                }
            }
        }
        load.bytes = filled;
        if sources.count_ones() > 1 {
            load.batch.frames.sort_by_key(|frame| frame.time);
        }
        any
    }

    /// Waits until a ring has something, for a moment at most.
    fn wait(&mut self) -> io::Result<()> {
        let mut waiting: Vec<_> = self.taps.iter().map(|tap| PollFd::new(tap, PollFlags::IN)).collect();
        match poll(&mut waiting, Some(&PATIENCE)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let failed: Vec<bool> = waiting.iter().map(|one| one.revents().contains(PollFlags::ERR)).collect();
        for (place, _) in failed.into_iter().enumerate().filter(|&(_, failed)| failed) {
            self.note_down(place);
        }
        Ok(())
    }

    /// Looks whether an interface went down. Asking takes the error back, so that the next wait waits again.
    fn note_down(&self, place: usize) {
        let (Some(tap), Some(kernel)) = (self.taps.get(place), self.shared.kernel(place, self.number)) else { return };
        let mut kernel = locked(kernel);
        if tap.has_gone_down() && kernel.up {
            kernel.up = false;
            kernel.downs += 1;
        }
    }

    /// Looks after what is not asked for with every block: counters, and interfaces that come back.
    fn look(&mut self, draining: bool) {
        let shared = Arc::clone(&self.shared);
        for (place, interface) in shared.interfaces.iter().enumerate() {
            // A thread that never waits is not told.
            self.note_down(place);
            let (Some(tap), Some(kernel)) = (self.taps.get_mut(place), interface.kernel.get(self.number)) else {
                break;
            };
            let up = {
                let mut kernel = locked(kernel);
                kernel.count();
                kernel.up
            };
            if !up && !draining {
                interface.look(self.number, tap, &shared);
            }
        }
    }
}

impl Shared {
    /// What is counted of a thread's ring of an interface.
    fn kernel(&self, interface: usize, thread: usize) -> Option<&Mutex<Kernel>> {
        self.interfaces.get(interface)?.kernel.get(thread)
    }
}

/// What the reader has got of an interface.
#[derive(Default)]
struct Handed {
    delivered: u64,
    outgoing: u64,
    /// Of what was delivered, what came through each ring.
    by_ring: Vec<u64>,
    /// The longest wait since the last look, and before that.
    lag: u64,
    lag_before: u64,
}

/// A thread, as the reader has it.
struct Lane {
    progress: Arc<Progress>,
    empty: SyncSender<Load>,
    /// What has come from it, in order.
    loads: VecDeque<Load>,
    /// How many have been handed on.
    handed: u64,
}

/// All interfaces.
struct Live {
    shared: Arc<Shared>,
    handed: Vec<Handed>,
    filled: Receiver<Message>,
    lanes: Vec<Lane>,
    threads: Vec<JoinHandle<()>>,
    bytes: u64,
    turns: u64,
    looked: Instant,
    /// Said once.
    failed: bool,
}

impl Live {
    fn start(&mut self, number: usize, taps: Vec<Tap>, full: SyncSender<Message>) -> Result<(), CaptureError> {
        let (back, empty) = sync_channel(LOADS);
        for _ in 0..LOADS {
            let _ = back.send(Load::default());
        }
        let progress = Arc::new(Progress::default());
        let capturer = Capturer {
            number,
            shared: Arc::clone(&self.shared),
            progress: Arc::clone(&progress),
            taps,
            next: 0,
            full,
            empty,
            load: None,
        };
        let thread = std::thread::Builder::new().name(format!("vpn-capture-{number}")).spawn(move || capturer.run());
        self.threads.push(thread.map_err(|error| CaptureError::from_io(&error, None))?);
        self.lanes.push(Lane { progress, empty: back, loads: VecDeque::new(), handed: 0 });
        Ok(())
    }

    /// Takes what has come from the threads, after waiting for a moment if nothing has; whether more may come.
    fn receive(&mut self) -> Result<bool, CaptureError> {
        let mut may_wait = self.lanes.iter().all(|lane| lane.loads.is_empty());
        loop {
            let came = if may_wait {
                self.filled.recv_timeout(READER_WAIT)
            } else {
                self.filled.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            };
            may_wait = false;
            match came {
                Ok((thread, load)) => {
                    let load = load?;
                    if let Some(lane) = self.lanes.get_mut(thread) {
                        lane.loads.push_back(load);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(true),
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }

    /// Hands on the load with the earliest first frame; whether there was one.
    fn hand_on(&mut self, batch: &mut FrameBatch) -> bool {
        let waiting =
            self.lanes.iter().enumerate().filter_map(|(number, lane)| Some((lane.loads.front()?.first(), number)));
        let Some((_, number)) = waiting.min() else { return false };
        let Some(lane) = self.lanes.get_mut(number) else { return false };
        let Some(mut load) = lane.loads.pop_front() else { return false };
        lane.handed += 1;
        std::mem::swap(batch, &mut load.batch);
        self.bytes += load.bytes as u64;
        let now = host_time();
        for (sum, taken) in self.handed.iter_mut().zip(&load.taken) {
            sum.delivered += taken.delivered;
            sum.outgoing += taken.outgoing;
            if let Some(ring) = sum.by_ring.get_mut(number) {
                *ring += taken.delivered;
            }
            // A clock that was set back gives none.
            let lag = now.and_then(|now| u64::try_from(now.saturating_sub(taken.oldest)).ok());
            sum.lag = sum.lag.max(lag.unwrap_or(0));
        }
        // A thread that has ended needs none.
        let _ = lane.empty.try_send(load);
        true
    }

    /// Says when a thread has ended that was not told to: it was a fault, of which it said so on standard error.
    fn look(&mut self) -> Result<(), CaptureError> {
        self.looked = Instant::now();
        for handed in &mut self.handed {
            handed.lag_before = std::mem::take(&mut handed.lag);
        }
        if self.shared.wanted.load(Ordering::Acquire) == GO_ON && self.threads.iter().any(JoinHandle::is_finished) {
            return Err(CaptureError::new(
                Reason::Io,
                None,
                "a thread that captures has ended",
                "all of them to run until the capture is stopped",
            ));
        }
        Ok(())
    }

    fn next(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let more = self.receive()?;
        if self.looked.elapsed() >= LOOK {
            self.look()?;
        }
        let any = self.hand_on(batch);
        Ok(any || more)
    }
}

impl Source for Live {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        self.turns += 1;
        if self.failed {
            return Ok(false);
        }
        let filled = self.next(batch);
        self.failed = filled.is_err();
        filled
    }

    fn bytes_read(&self) -> u64 {
        self.bytes
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn delivered_until(&self) -> Option<i64> {
        let idle_at = |lane: &Lane| {
            // What had been sent by then is seen, too.
            let idle_at = lane.progress.idle_at.load(Ordering::Acquire);
            (lane.progress.sent.load(Ordering::Relaxed) == lane.handed).then_some(idle_at)
        };
        let idle: Option<Vec<i64>> = self.lanes.iter().map(idle_at).collect();
        let earliest = idle?.into_iter().min().filter(|&at| at > 0)?;
        Some(earliest.saturating_sub(LAG_NS))
    }

    fn live_counters(&self) -> Option<LiveCounters> {
        let mut sum = LiveCounters::default();
        for (interface, handed) in self.shared.interfaces.iter().zip(&self.handed) {
            let InterfaceCounters { received, dropped, freezes, downs, up, .. } = counters(interface, handed, |_| ());
            sum.received += received;
            sum.dropped += dropped;
            sum.outgoing += handed.outgoing;
            sum.freezes += freezes;
            sum.downs += downs;
            sum.down += u64::from(!up);
        }
        Some(sum)
    }

    fn interfaces(&mut self) -> Vec<InterfaceCounters> {
        let ring = u64::from(self.shared.options.block_size) * u64::from(self.shared.options.blocks);
        let ring_bytes = ring * self.shared.options.threads as u64;
        let all = self.shared.interfaces.iter().zip(&self.handed);
        all.map(|(interface, handed)| InterfaceCounters { ring_bytes, ..counters(interface, handed, Kernel::count) })
            .collect()
    }

    fn turns(&self) -> Vec<u64> {
        let threads = self.lanes.iter().map(|lane| lane.progress.turns.load(Ordering::Relaxed));
        std::iter::once(self.turns).chain(threads).collect()
    }

    fn stop(&mut self) -> bool {
        let wanted = &self.shared.wanted;
        let _ = wanted.compare_exchange(GO_ON, DRAIN, Ordering::AcqRel, Ordering::Acquire);
        true
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.wanted.store(QUIT, Ordering::Release);
        // Nobody waits for a batch any more.
        self.lanes.clear();
        for thread in self.threads.drain(..) {
            // One that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

/// What an interface counts, after `update` of each ring.
fn counters(interface: &Interface, handed: &Handed, update: impl Fn(&mut Kernel)) -> InterfaceCounters {
    let mut sum = InterfaceCounters {
        name: interface.name.clone(),
        delivered: handed.delivered,
        outgoing: handed.outgoing,
        by_ring: handed.by_ring.clone(),
        up: true,
        lag: handed.lag.max(handed.lag_before),
        ..InterfaceCounters::default()
    };
    for kernel in &interface.kernel {
        let mut kernel = locked(kernel);
        update(&mut kernel);
        sum.received += kernel.received;
        sum.dropped += kernel.dropped;
        sum.freezes += kernel.freezes;
        // All rings see the same, sooner or later.
        sum.downs = sum.downs.max(kernel.downs);
        sum.up &= kernel.up;
    }
    sum
}

#[cfg(test)]
mod tests {
    //! What needs an interface is in tests/test_watch.py.

    use super::*;
    use crate::capture::{FrameRef, LinkType};

    #[test]
    fn what_cannot_be_opened_says_why() {
        let reason = |names: &[&str], options| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            open(&names, options, &Filter::default()).err().map(|error| error.reason)
        };
        assert_eq!(reason(&[], Options::default()), Some(Reason::NoInterface));
        assert_eq!(reason(&["no such one"], Options::default()), Some(Reason::NoInterface));
        assert_eq!(reason(&["lo"], Options { blocks: 0, ..Options::default() }), Some(Reason::Interface));
    }

    type Thread = (Arc<Progress>, Receiver<Load>);

    /// A reader, and what two threads would have.
    fn reader() -> (Live, SyncSender<Message>, Vec<Thread>) {
        let options = Options { threads: 2, ..Options::default() };
        let wanted = AtomicU8::new(GO_ON);
        let shared = Arc::new(Shared { options, filter: Filter::default(), interfaces: Vec::new(), wanted });
        let (full, filled) = sync_channel(16);
        let mut live = Live {
            shared,
            handed: vec![Handed { by_ring: vec![0; 2], ..Handed::default() }],
            filled,
            lanes: Vec::new(),
            threads: Vec::new(),
            bytes: 0,
            turns: 0,
            looked: Instant::now(),
            failed: false,
        };
        let mut threads = Vec::new();
        for _ in 0..2 {
            let (empty, back) = sync_channel(LOADS);
            let progress = Arc::new(Progress::default());
            live.lanes.push(Lane { progress: Arc::clone(&progress), empty, loads: VecDeque::new(), handed: 0 });
            threads.push((progress, back));
        }
        (live, full, threads)
    }

    fn load(times: &[i64]) -> Load {
        let one = |&time| FrameRef { time, offset: 0, captured: 0, original: 0, linktype: LinkType(1) };
        let batch = FrameBatch { frames: times.iter().map(one).collect(), ..FrameBatch::default() };
        let taken = vec![Taken { delivered: times.len() as u64, outgoing: 0, oldest: 0 }];
        Load { batch, taken, bytes: 0 }
    }

    #[test]
    fn the_batch_with_the_earliest_first_frame_comes_first() {
        let (mut live, full, threads) = reader();
        for (thread, times) in [(0, &[20, 40][..]), (0, &[10, 50]), (1, &[15]), (1, &[]), (1, &[45])] {
            threads[thread].0.sent.fetch_add(1, Ordering::Relaxed);
            assert!(full.send((thread, Ok(load(times)))).is_ok());
        }
        let mut batch = FrameBatch::new();
        let mut came = Vec::new();
        for _ in 0..5 {
            assert_eq!(live.fill(&mut batch), Ok(true));
            came.push(batch.frames().first().map(|frame| frame.time));
        }
        // Those of one thread in its order, whatever their times.
        assert_eq!(came, [Some(15), None, Some(20), Some(10), Some(45)]);
        let counted = &live.handed[0];
        assert_eq!((counted.delivered, &counted.by_ring[..]), (6, &[4, 2][..]));
        assert_eq!(threads.iter().map(|(_, back)| back.try_iter().count()).collect::<Vec<_>>(), [2, 3]);
        drop(full);
        assert_eq!(live.fill(&mut batch), Ok(false));
    }

    #[test]
    fn all_is_delivered_up_to_the_last_look_of_the_thread_that_looked_first() {
        let (mut live, full, threads) = reader();
        threads[0].0.idle_at.store(5 * LAG_NS, Ordering::Release);
        assert_eq!(live.delivered_until(), None);
        threads[1].0.idle_at.store(4 * LAG_NS, Ordering::Release);
        assert_eq!(live.delivered_until(), Some(3 * LAG_NS));
        threads[1].0.sent.fetch_add(1, Ordering::Relaxed);
        assert!(full.send((1, Ok(load(&[1])))).is_ok());
        assert_eq!(live.delivered_until(), None);
        assert_eq!(live.fill(&mut FrameBatch::new()), Ok(true));
        assert_eq!(live.delivered_until(), Some(3 * LAG_NS));
    }

    #[test]
    fn a_fault_of_a_thread_is_told_once() {
        let (mut live, full, _threads) = reader();
        let fault = CaptureError::new(Reason::Io, None, "a fault", "none");
        assert!(full.send((0, Err(fault.clone()))).is_ok());
        assert_eq!(live.fill(&mut FrameBatch::new()), Err(fault));
        assert_eq!(live.fill(&mut FrameBatch::new()), Ok(false));
    }

    #[test]
    fn a_thread_that_ends_untold_is_a_fault() {
        let (mut live, _full, _threads) = reader();
        live.threads.push(std::thread::spawn(|| ()));
        while !live.threads[0].is_finished() {
            std::thread::yield_now();
        }
        assert!(live.look().is_err());
        live.stop();
        assert!(live.look().is_ok());
    }
}
