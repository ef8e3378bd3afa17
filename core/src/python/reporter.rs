//! `_core.Reporter` and what belongs to it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict};

use super::{Classes, FlowBatch};
use crate::fingerprint::Protocol;
use crate::flow::{FlowReport, Report};
use crate::line::has_ports;
use crate::reporter::answers::{self, REASONS};
use crate::reporter::attempts::{self, Rate, Summary};
use crate::reporter::cases::{self, Case};
use crate::reporter::{self, Constants, EVENTS, Stop, ip_address};

/// Python's times reach further than 64 bits.
fn instant(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}

fn protocol(name: &str) -> PyResult<Protocol> {
    let found = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name);
    found.ok_or_else(|| PyValueError::new_err(format!("{name:?}: expected one of PROTOCOLS")))
}

/// What is kept for a class of ends.
#[pyclass(frozen, module = "classifier._core")]
pub struct Ends(Arc<answers::Ends>);

#[pymethods]
impl Ends {
    #[new]
    #[pyo3(signature = (*, from_ns, until_ns, entries, asks_seen, subject_answers, grounds))]
    fn new(
        from_ns: i128,
        until_ns: i128,
        entries: &[u8],
        asks_seen: bool,
        subject_answers: bool,
        grounds: u32,
    ) -> Self {
        Self(Arc::new(answers::Ends {
            from: instant(from_ns),
            until: instant(until_ns),
            entries: entries.into(),
            asks_seen,
            subject_answers,
            grounds,
            reasons: Default::default(),
        }))
    }
}

/// What is said of a flow; all but what its ends tell.
#[pyclass(frozen, module = "classifier._core")]
pub struct Answer(Arc<answers::Answer>);

#[pymethods]
impl Answer {
    #[new]
    #[pyo3(signature = (
        *, from_ns, until_ns, event, tag, flags, newly_flagged, turns, counted, reason, opening, opening_of_first,
        middle, closing
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        from_ns: i128,
        until_ns: i128,
        event: Option<&str>,
        tag: u32,
        flags: bool,
        newly_flagged: bool,
        turns: bool,
        counted: u32,
        reason: usize,
        opening: &[u8],
        opening_of_first: &[u8],
        middle: &[u8],
        closing: &[u8],
    ) -> PyResult<Self> {
        let place = |event: &str| {
            let found = EVENTS.iter().position(|known| *known == event);
            found.ok_or_else(|| PyValueError::new_err(format!("Answer: {event:?} is no event")))
        };
        if reason >= REASONS {
            return Err(PyValueError::new_err(format!("Answer: reasons are numbered from 0 to {}", REASONS - 1)));
        }
        Ok(Self(Arc::new(answers::Answer {
            from: instant(from_ns),
            until: instant(until_ns),
            event: event.map(place).transpose()?,
            tag,
            flags,
            newly_flagged,
            turns,
            counted,
            reason,
            opening: [opening.into(), opening_of_first.into()],
            middle: middle.into(),
            closing: closing.into(),
        })))
    }
}

type SummaryColumns = (i64, String, &'static str, u64, i64, i64, usize, bool, Option<u64>);

fn summary(summary: &Summary) -> SummaryColumns {
    (
        summary.time,
        summary.source_prefix(),
        summary.protocol.name(),
        summary.count,
        summary.first,
        summary.last,
        summary.destinations,
        summary.is_capped,
        summary.prefixes,
    )
}

/// Attempts, without a reporter.
#[pyclass(module = "classifier._core")]
pub struct Attempts(attempts::Attempts);

#[pymethods]
impl Attempts {
    #[new]
    #[pyo3(signature = (*, per_prefix = 10, overall = 1_000, summaries = 1_000, prefixes = 4_096, destinations = 32))]
    fn new(per_prefix: u64, overall: u64, summaries: u64, prefixes: usize, destinations: usize) -> Self {
        Self(attempts::Attempts::new(Rate { per_prefix, overall, summaries, prefixes, destinations }))
    }

    fn admit(&mut self, source: &[u8], destination: &[u8], protocol: &str, time_ns: i64) -> PyResult<bool> {
        let protocol = self::protocol(protocol)?;
        Ok(self.0.admit(ip_address(source), ip_address(destination), protocol, time_ns))
    }

    fn due(&mut self, time_ns: i64) -> Vec<SummaryColumns> {
        self.0.due(time_ns).iter().map(summary).collect()
    }

    fn drain(&mut self, time_ns: i64) -> Vec<SummaryColumns> {
        self.0.drain(time_ns).iter().map(summary).collect()
    }

    #[getter]
    fn due_ns(&self) -> i64 {
        self.0.due_at()
    }

    #[getter]
    fn summarised(&self) -> u64 {
        self.0.summarised()
    }

    #[getter]
    fn evicted(&self) -> u64 {
        self.0.evicted()
    }
}

/// Flagged cases, without a reporter.
#[pyclass(module = "classifier._core")]
pub struct Cases(cases::Cases);

#[pymethods]
impl Cases {
    #[new]
    #[pyo3(signature = (limit = 131_072))]
    fn new(limit: usize) -> Self {
        Self(cases::Cases::new(limit))
    }

    fn first(&mut self, subject: &[u8], remote: &[u8], protocol: &str, time_ns: i64) -> PyResult<bool> {
        let case = Case::new(ip_address(subject), ip_address(remote), self::protocol(protocol)?);
        Ok(self.0.first(case, time_ns))
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    #[getter]
    fn evicted(&self) -> u64 {
        self.0.evicted()
    }
}

/// When cases were first seen, without a reporter.
#[pyclass(module = "classifier._core")]
pub struct FirstSeen(cases::FirstSeen);

#[pymethods]
impl FirstSeen {
    #[new]
    #[pyo3(signature = (limit = 131_072))]
    fn new(limit: usize) -> Self {
        Self(cases::FirstSeen::new(limit))
    }

    fn since(&mut self, subject: &[u8], remote: &[u8], protocol: &str, start_ns: i64) -> PyResult<i64> {
        let case = Case::new(ip_address(subject), ip_address(remote), self::protocol(protocol)?);
        Ok(self.0.since(case, start_ns))
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    #[getter]
    fn evicted(&self) -> u64 {
        self.0.evicted()
    }
}

/// Lines, and what stands beside each.
#[pyclass(frozen, get_all, module = "classifier._core")]
pub struct Lines {
    text: Py<PyBytes>,
    ends: Vec<usize>,
    cases: Vec<usize>,
    flow_ids: Vec<u64>,
    ended: Vec<bool>,
    counted: Vec<u32>,
    first_ns: i64,
    latest_ns: i64,
}

/// What judging a report needs: the columns of `answers.Row`.
type Row<'py> = (
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Option<u16>,
    &'static str,
    &'static str,
    &'static str,
    bool,
    u64,
    u64,
    i64,
    i64,
);

/// The report, why it was made, the tag before, the time, and which reasons its ends have.
type Question<'py> = (Row<'py>, &'static str, u32, i64, Option<[bool; REASONS]>);

fn row<'py>(py: Python<'py>, report: &FlowReport) -> Row<'py> {
    let [(source, _), (destination, port)] = report.ends();
    let initiator = report.initiator();
    (
        PyBytes::new(py, source),
        PyBytes::new(py, destination),
        has_ports(report).then_some(port),
        report.protocol.name(),
        report.finding.confidence.name(),
        report.finding.phase.name(),
        report.via_proxy,
        report.packets[usize::from(initiator)],
        report.packets[usize::from(initiator ^ 1)],
        report.start,
        report.end,
    )
}

/// Protocol, subject, time, tag before and now, first flag of a case.
type Told<'py> = (&'static str, Bound<'py, PyBytes>, i64, u32, u32, bool);

/// Turns batches into lines.
#[pyclass(module = "classifier._core")]
pub struct Reporter {
    reporter: reporter::Reporter,
    polled: Arc<Vec<FlowReport>>,
}

#[pymethods]
impl Reporter {
    #[new]
    #[pyo3(signature = (*, heads, tail, as_of_ns = None, counts = false))]
    fn new(heads: &Bound<'_, PyDict>, tail: &[u8], as_of_ns: Option<i64>, counts: bool) -> PyResult<Self> {
        let mut found: [Vec<u8>; EVENTS.len()] = Default::default();
        for (head, event) in found.iter_mut().zip(EVENTS) {
            let given = heads.get_item(event)?;
            *head =
                given.ok_or_else(|| PyValueError::new_err(format!("Reporter: no head for {event:?}")))?.extract()?;
        }
        let constants = Constants { heads: found, tail: tail.to_vec(), as_of: as_of_ns, counts };
        Ok(Self { reporter: reporter::Reporter::new(constants), polled: Arc::default() })
    }

    fn adopt(&mut self, classes: &Classes, waits_from_ns: i128) {
        self.reporter.adopt(Arc::clone(&classes.0), instant(waits_from_ns));
    }

    fn begin(&mut self, batch: &FlowBatch, capture: &[u8]) {
        self.polled = Arc::clone(&batch.0);
        self.reporter.begin(capture);
    }

    fn go_on(&mut self) -> &'static str {
        match self.reporter.go_on(&self.polled) {
            Stop::Done => "done",
            Stop::Full => "full",
            Stop::Summaries => "summaries",
            Stop::Question => "question",
        }
    }

    fn question<'py>(&self, py: Python<'py>) -> PyResult<Question<'py>> {
        let asked = self.reporter.question(&self.polled);
        let (question, report) = asked.ok_or_else(|| PyRuntimeError::new_err("question: nothing is asked"))?;
        let reasons = question.known.as_ref().map(|ends| ends.reasons.each_ref().map(Option::is_some));
        Ok((row(py, report), Report::name(report.report), question.tag, question.at, reasons))
    }

    #[pyo3(signature = (ends, reason, answer, seen_ns))]
    fn learn(&mut self, ends: Option<&Ends>, reason: Option<&[u8]>, answer: &Answer, seen_ns: i128) -> PyResult<()> {
        let ends = ends.map(|ends| Arc::clone(&ends.0));
        if self.reporter.learn(ends, reason, Arc::clone(&answer.0), instant(seen_ns)) {
            Ok(())
        } else {
            Err(PyRuntimeError::new_err("learn: nothing was asked, or of unknown ends"))
        }
    }

    fn lines(&mut self, py: Python<'_>) -> Option<Lines> {
        let (text, written, times) = self.reporter.lines();
        let (first_ns, latest_ns) = times?;
        let lines = Lines {
            text: PyBytes::new(py, text).unbind(),
            ends: written.iter().map(|line| line.end).collect(),
            cases: written.iter().map(|line| line.case).collect(),
            flow_ids: written.iter().map(|line| line.flow_id).collect(),
            ended: written.iter().map(|line| line.ended).collect(),
            counted: written.iter().map(|line| line.counted).collect(),
            first_ns,
            latest_ns,
        };
        self.reporter.clear_lines();
        Some(lines)
    }

    fn summaries(&mut self) -> Vec<SummaryColumns> {
        self.reporter.take_summaries().iter().map(summary).collect()
    }

    fn counts<'py>(&mut self, py: Python<'py>) -> (Vec<Told<'py>>, Vec<(&'static str, &'static str)>, Vec<f64>) {
        let counts = self.reporter.take_counts();
        let told = counts.told.iter().map(|told| {
            let subject = match told.subject {
                IpAddr::V4(address) => PyBytes::new(py, &address.octets()),
                IpAddr::V6(address) => PyBytes::new(py, &address.octets()),
            };
            (told.protocol.name(), subject, told.time, told.before, told.now, told.first)
        });
        let summarised = counts.summarised.iter().map(|(protocol, confidence)| (protocol.name(), confidence.name()));
        let looked_up = counts.looked_up.iter().map(Duration::as_secs_f64);
        (told.collect(), summarised.collect(), looked_up.collect())
    }

    fn tags(&mut self) -> (Vec<u64>, Vec<u32>) {
        self.reporter.take_tags().into_iter().unzip()
    }

    fn advance(&mut self, time_ns: i64) -> Vec<SummaryColumns> {
        self.reporter.advance(time_ns).iter().map(summary).collect()
    }

    fn end(&mut self) -> Vec<SummaryColumns> {
        self.reporter.end().iter().map(summary).collect()
    }

    fn first_seen(&mut self, subject: &[u8], remote: &[u8], protocol: &str, start_ns: i64) -> PyResult<i64> {
        let case = Case::new(ip_address(subject), ip_address(remote), self::protocol(protocol)?);
        Ok(self.reporter.first_seen(case, start_ns))
    }

    fn size(&self) -> (usize, usize) {
        self.reporter.size()
    }

    fn forget(&mut self) {
        self.reporter.forget();
    }

    fn forget_tag(&mut self, tag: u32) {
        self.reporter.forget_tag(tag);
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.reporter.counters().into_py_dict(py)
    }

    #[getter]
    fn clock_ns(&self) -> i64 {
        self.reporter.clock()
    }
}
