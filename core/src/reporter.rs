//! From reports to event lines: what is said of a flow, and when.
//!
//! In: the batches of one capture after the other. Out: the lines of what is said, and summaries of attempts. A flow is
//! judged when it is first reported and whenever a report about it arrives; who judges is Python, which is asked for
//! what has not been answered before ([`answers`]). What was said about a flow last is its tag in the engine.
//! Cases, rates and the packet clock begin anew with each capture.
//!
//! The rule a reader would get wrong: the tag that a report shows is the one from before its batch, so several reports
//! of one flow in a batch need the batch's own memory.

pub mod answers;
pub mod attempts;
pub mod cases;
mod hash;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::classes::{Classes, EndsClass, StateClass};
use crate::fingerprint::{Confidence, Phase, Protocol};
use crate::flow::{FlowReport, Report};
use crate::line::{Lines, Parts};
use answers::{Answer, AnswerKey, Answers, Ends, REASONS};
use attempts::{Attempts, Rate, Summary};
use cases::{Case, Cases, FirstSeen};
use hash::Mixing;

/// What a line may announce.
pub const EVENTS: [&str; 4] = ["recognised", "changed", "update", "ended"];
/// Bytes of lines that are given at once: what a core's cache holds.
const FULL: usize = 1 << 18;
/// So long after its last packet, a flow may be over.
pub const RUNS: i64 = 60_000_000_000;
/// One of so many look-ups is timed: a clock costs a good part of one.
const TIMED: u64 = 64;

/// Reports whose evidence is asked for together, so that nobody waits for one after the other.
const AHEAD: usize = 16;

/// Why [`Reporter::go_on`] returns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// All reports of the batch have been looked at.
    Done,
    /// There are many lines to be taken.
    Full,
    /// Summaries stand behind the lines.
    Summaries,
    /// An answer is needed to go on.
    Question,
}

/// What Python is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Time of judgement.
    pub at: i64,
    /// What was said before.
    pub tag: u32,
    /// What is kept of the ends.
    pub known: Option<Arc<Ends>>,
    ends_class: EndsClass,
    state_class: StateClass,
}

/// One line among those that were written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Where it ends, its newline included.
    pub end: usize,
    /// Where the id of its case begins.
    pub case: usize,
    /// Of which flow.
    pub flow_id: u64,
    /// The flow has ended.
    pub ended: bool,
    /// [`Answer::counted`].
    pub counted: u32,
}

/// What was said of a flow, for who counts it.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Of which protocol.
    pub protocol: Protocol,
    /// Who.
    pub subject: IpAddr,
    /// When.
    pub time: i64,
    /// What was said before.
    pub before: u32,
    /// What is said now.
    pub now: u32,
    /// It is the first flag of its case.
    pub first: bool,
}

/// What metrics count.
#[derive(Debug, Default)]
pub struct Counts {
    /// What was said.
    pub told: Vec<Told>,
    /// Attempts that are counted in a summary, and never told of.
    pub summarised: Vec<(Protocol, Confidence)>,
    /// How long look-ups took, those that were timed.
    pub looked_up: Vec<Duration>,
}

#[derive(Clone, Debug)]
struct Found {
    ends: Arc<Ends>,
    answer: Arc<Answer>,
    /// When the case was first seen.
    seen: i64,
}

/// How far the present report has come.
#[derive(Debug, Default)]
struct Pending {
    /// It is to be judged.
    is_admitted: bool,
    /// Its look-up is timed, since then.
    began: Option<Instant>,
    found: Option<Found>,
    /// As if nothing had passed since its last packet.
    silent: Option<Found>,
    question: Option<Question>,
}

enum Next {
    Report,
    Summaries,
    Question,
}

/// What never changes.
#[derive(Debug)]
pub struct Constants {
    /// Members of a line before `flow_id`, for each of [`EVENTS`].
    pub heads: [Vec<u8>; EVENTS.len()],
    /// Members behind `flow`.
    pub tail: Vec<u8>,
    /// Judge by this time instead of the packets'.
    pub as_of: Option<i64>,
    /// Gather [`Counts`].
    pub counts: bool,
}

/// Turns reports into lines.
#[derive(Debug)]
pub struct Reporter {
    constants: Constants,
    classes: Arc<Classes>,
    /// First seen from then on, a case waits for the next register.
    waits_from: i64,
    answers: Answers,
    /// The tags that stand for something.
    said: HashSet<u32, Mixing>,
    attempts: Attempts,
    cases: Cases,
    first_seen: FirstSeen,
    clock: i64,
    capture: Vec<u8>,
    /// By handle: set in this batch.
    tags: HashMap<u64, u32, Mixing>,
    place: usize,
    pending: Pending,
    asked: u64,
    lines: Lines,
    written: Vec<Written>,
    /// Of the first of them, and the latest.
    times: Option<(i64, i64)>,
    summaries: Vec<Summary>,
    counts: Counts,
}

impl Reporter {
    /// That knows nothing yet.
    pub fn new(constants: Constants) -> Self {
        Self {
            constants,
            classes: Arc::default(),
            waits_from: i64::MAX,
            answers: Answers::default(),
            said: HashSet::default(),
            attempts: Attempts::new(Rate::default()),
            cases: Cases::new(cases::LIMIT),
            first_seen: FirstSeen::new(cases::LIMIT),
            clock: 0,
            capture: Vec::new(),
            tags: HashMap::default(),
            place: 0,
            pending: Pending::default(),
            asked: 0,
            lines: Lines::default(),
            written: Vec::new(),
            times: None,
            summaries: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Another register or policy judges from here on: no answer holds any more.
    pub fn adopt(&mut self, classes: Arc<Classes>, waits_from: i64) {
        (self.classes, self.waits_from) = (classes, waits_from);
        self.answers.clear();
    }

    /// Begins a batch of the capture that these members name.
    pub fn begin(&mut self, capture: &[u8]) {
        self.capture.clear();
        self.capture.extend_from_slice(capture);
        (self.place, self.pending) = (0, Pending::default());
    }

    /// Looks at reports of the batch that was begun until there is something to do for others.
    pub fn go_on(&mut self, batch: &[FlowReport]) -> Stop {
        while let Some(report) = batch.get(self.place) {
            if self.lines.text.len() >= FULL {
                return Stop::Full;
            }
            if self.place.is_multiple_of(AHEAD) && !self.pending.is_admitted {
                touch(batch.iter().skip(self.place).take(AHEAD));
            }
            match self.report(report) {
                Next::Report => {
                    self.place += 1;
                    self.pending = Pending::default();
                }
                Next::Summaries => return Stop::Summaries,
                Next::Question => return Stop::Question,
            }
        }
        Stop::Done
    }

    /// What is asked, and of which report.
    pub fn question<'a>(&self, batch: &'a [FlowReport]) -> Option<(&Question, &'a FlowReport)> {
        Some((self.pending.question.as_ref()?, batch.get(self.place)?))
    }

    /// Answers what was asked. `ends`: what to keep of the ends, unless it is known; `reason`: the one that the answer
    /// gives, unless they have it; `seen`: when the case was first seen. Whether that is an answer.
    pub fn learn(&mut self, ends: Option<Arc<Ends>>, reason: Option<&[u8]>, answer: Arc<Answer>, seen: i64) -> bool {
        let Some(Question { tag, known, ends_class, state_class, .. }) = self.pending.question.take() else {
            return false;
        };
        let Some(mut ends) = ends.or(known) else { return false };
        if let (Some(reason), true) = (reason, answer.reason < REASONS) {
            Arc::make_mut(&mut ends).reasons[answer.reason] = Some(reason.into());
        }
        let waits = ends.asks_seen && seen >= self.waits_from;
        let key = AnswerKey { grounds: ends.grounds, state: state_class, tag, waits };
        self.said.insert(answer.tag);
        self.answers.keep(key, Arc::clone(&answer));
        self.answers.keep_ends(ends_class, Arc::clone(&ends));
        let found = Some(Found { ends, answer, seen });
        if self.pending.found.is_none() {
            self.pending.found = found;
        } else {
            self.pending.silent = found;
        }
        true
    }

    /// How much is kept: classes of ends, and answers.
    pub fn size(&self) -> (usize, usize) {
        self.answers.size()
    }

    /// Forgets the answers.
    pub fn forget(&mut self) {
        self.answers.clear();
    }

    /// This tag stands for nothing any more.
    pub fn forget_tag(&mut self, tag: u32) {
        self.said.remove(&tag);
    }

    /// The lines written so far, and the time of the first and the latest of them.
    pub fn lines(&self) -> (&[u8], &[Written], Option<(i64, i64)>) {
        (&self.lines.text, &self.written, self.times)
    }

    /// Lets the lines go.
    pub fn clear_lines(&mut self) {
        self.lines.text.clear();
        self.written.clear();
        self.times = None;
    }

    /// The summaries to be given now.
    pub fn take_summaries(&mut self) -> Vec<Summary> {
        std::mem::take(&mut self.summaries)
    }

    /// What was counted since the last time.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// The tags that the batch has set.
    pub fn take_tags(&mut self) -> HashMap<u64, u32, Mixing> {
        std::mem::take(&mut self.tags)
    }

    /// It is this time now, if it was not already: the summaries that are due.
    pub fn advance(&mut self, time: i64) -> Vec<Summary> {
        if time <= self.clock {
            return Vec::new();
        }
        self.clock = time;
        if self.attempts.due_at() <= time { self.attempts.due(time) } else { Vec::new() }
    }

    /// The capture has ended: the summaries still open.
    pub fn end(&mut self) -> Vec<Summary> {
        let summaries = self.attempts.drain(self.clock);
        self.cases.clear();
        self.first_seen.clear();
        self.clock = 0;
        summaries
    }

    /// When the case was first seen, with a flow that began then.
    pub fn first_seen(&mut self, case: Case, start: i64) -> i64 {
        self.first_seen.since(case, start)
    }

    /// Of the packets of the present capture, as far as reports have shown it.
    pub fn clock(&self) -> i64 {
        self.clock
    }

    /// What is counted here.
    pub fn counters(&self) -> [(&'static str, u64); 4] {
        [
            ("attempts.summarised", self.attempts.summarised()),
            ("attempts.windows_evicted", self.attempts.evicted()),
            ("cases.evicted", self.cases.evicted()),
            ("cases.first_seen_evicted", self.first_seen.evicted()),
        ]
    }

    fn report(&mut self, report: &FlowReport) -> Next {
        let tag = self.tags.get(&report.handle).copied().unwrap_or(report.tag);
        let [source, destination] = report.ends().map(|(address, _)| ip_address(address));
        if !self.pending.is_admitted {
            self.summaries = self.advance(report.time);
            if !self.summaries.is_empty() {
                return Next::Summaries;
            }
            if report.finding.phase == Phase::Attempt && !self.said.contains(&tag) {
                if report.report != Report::Recognised {
                    return Next::Report; // counted in a summary, and still an attempt
                }
                if !self.attempts.admit(source, destination, report.protocol, report.time) {
                    if self.constants.counts {
                        self.counts.summarised.push((report.protocol, report.finding.confidence));
                    }
                    return Next::Report;
                }
            }
            self.pending.is_admitted = true;
            if self.constants.counts {
                self.pending.began = self.asked.is_multiple_of(TIMED).then(Instant::now);
                self.asked += 1;
            }
        }

        // When a flow ends, the clock may be an idle timeout past its last packet: nothing was sent.
        let is_over = report.report == Report::Ended && report.end < report.time;
        let at = self.constants.as_of.unwrap_or(if is_over { report.end } else { report.time });
        let mut found = match self.pending.found.take() {
            Some(found) => found,
            None => match self.look_up(report, [source, destination], tag, at) {
                Ok(found) => found,
                Err(question) => return self.ask(None, question),
            },
        };
        if let Some(began) = self.pending.began.take() {
            self.counts.looked_up.push(began.elapsed());
        }
        let is_dated = self.constants.as_of.is_none();
        if found.answer.turns && is_dated && report.end < report.time.saturating_sub(RUNS) {
            // It may be over, and a date may have passed since: what was never sent is not flagged.
            let silent = match self.pending.silent.take() {
                Some(silent) => silent,
                None => match self.look_up(report, [source, destination], tag, report.end) {
                    Ok(silent) => silent,
                    Err(question) => return self.ask(Some(found), question),
                },
            };
            if !silent.answer.flags {
                if report.report == Report::Milestone {
                    return Next::Report;
                }
                found = silent;
            }
        }

        if report.report == Report::Ended {
            self.tags.remove(&report.handle);
        } else if found.answer.tag != tag {
            self.tags.insert(report.handle, found.answer.tag);
        }
        if let Some(event) = found.answer.event {
            self.tell(report, [source, destination], tag, event, &found);
        }
        Next::Report
    }

    fn ask(&mut self, found: Option<Found>, question: Question) -> Next {
        self.pending.found = found;
        self.pending.question = Some(question);
        Next::Question
    }

    /// What is kept of a report for this time, or what to ask.
    fn look_up(&mut self, report: &FlowReport, ends: [IpAddr; 2], tag: u32, at: i64) -> Result<Found, Question> {
        let ends_class = self.classes.ends(report);
        let state_class = self.classes.state(report);
        let question = |known| Question { at, tag, known, ends_class, state_class };
        let Some(known) = self.answers.ends(&ends_class, at) else { return Err(question(None)) };
        let duration = report.end.saturating_sub(report.start);
        let mut seen = self.constants.as_of.map_or(report.start, |end| end.saturating_sub(duration));
        let mut waits = false;
        if known.asks_seen {
            if report.finding.phase != Phase::Attempt {
                seen = self.first_seen.since(case(report, ends, known), seen);
            }
            waits = seen >= self.waits_from;
        }
        let key = AnswerKey { grounds: known.grounds, state: state_class, tag, waits };
        match self.answers.answer(&key, at) {
            Some(answer) if known.reasons.get(answer.reason).is_some_and(Option::is_some) => {
                Ok(Found { ends: Arc::clone(known), answer: Arc::clone(answer), seen })
            }
            _ => Err(question(Some(Arc::clone(known)))),
        }
    }

    /// Writes the line.
    fn tell(&mut self, report: &FlowReport, ends: [IpAddr; 2], before: u32, event: usize, found: &Found) {
        let Found { ends: known, answer, seen } = found;
        let first = answer.newly_flagged && self.cases.first(case(report, ends, known), report.time);
        if self.constants.counts {
            let [subject, _] = sides(ends, known);
            let told = Told { protocol: report.protocol, subject, time: report.time, before, now: answer.tag, first };
            self.counts.told.push(told);
        }
        let (first_time, latest) = self.times.unwrap_or((report.time, report.time));
        self.times = Some((first_time, latest.max(report.time)));
        let Some(reason) = known.reasons.get(answer.reason).and_then(Option::as_ref) else { return };
        let policy = [&answer.opening[usize::from(first)], &known.entries, &answer.middle, reason, &answer.closing];
        let parts = Parts {
            head: self.constants.heads.get(event).map(Vec::as_slice).unwrap_or_default(),
            capture: &self.capture,
            policy: &policy,
            tail: &self.constants.tail,
            seen: *seen,
        };
        let case = self.lines.write(report, &parts);
        self.written.push(Written {
            end: self.lines.text.len(),
            case,
            flow_id: report.flow_id,
            ended: report.report == Report::Ended,
            counted: answer.counted,
        });
    }
}

/// Asks the memory for what will be written.
fn touch<'a>(reports: impl Iterator<Item = &'a FlowReport>) {
    let evidence = reports.filter_map(|report| report.evidence.items().first());
    std::hint::black_box(evidence.fold(0, |sum, item| sum ^ item.packet));
}

/// Subject and remote end.
fn sides([source, destination]: [IpAddr; 2], known: &Ends) -> [IpAddr; 2] {
    if known.subject_answers { [destination, source] } else { [source, destination] }
}

fn case(report: &FlowReport, ends: [IpAddr; 2], known: &Ends) -> Case {
    let [subject, remote] = sides(ends, known);
    Case::new(subject, remote, report.protocol)
}

/// A packed address.
pub fn ip_address(packed: &[u8]) -> IpAddr {
    if let Ok(octets) = <[u8; 16]>::try_from(packed) {
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packed).unwrap_or_default()))
    }
}

/// The network of an address, by the length of a prefix in its family.
fn network(address: IpAddr, ipv4: u32, ipv6: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let spare = u32::MAX.checked_shr(ipv4).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !spare))
        }
        IpAddr::V6(address) => {
            let spare = u128::MAX.checked_shr(ipv6).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !spare))
        }
    }
}

#[cfg(test)]
mod tests;
