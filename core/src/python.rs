//! The Python module `classifier._core`: conversions and error mapping, nothing else. Documentation is in the stub.

mod reporter;
mod rows;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::capture::bpf::{Filter, Instruction, Program};
use crate::capture::{self, InterfaceCounters, LinkType, af_packet, live};
use crate::classes;
use crate::decode::{self, DecodeError, EncapLayer, NoFlow, Peel, PeelMode, Transport};
use crate::engine::{self, Settings};
use crate::fingerprint::{self, Confidence, LookAlike, Phase, Protocol, Variant};
use crate::flow::community_id::community_id;
use crate::flow::{EndReason, FlowReport, KeyMode, Report};
use crate::line::{Hole, address_text, has_ports};
use crate::prefixes;

create_exception!(classifier._core, CaptureError, PyException, "A capture could not be read (any further).");

fn capture_error(py: Python<'_>, name: &str, error: &capture::CaptureError) -> PyErr {
    let exception = CaptureError::new_err(format!("{name}: {error}"));
    let value = exception.value(py);
    let set = value
        .setattr("reason", error.reason.as_str())
        .and_then(|()| value.setattr("path", name))
        .and_then(|()| value.setattr("offset", error.offset))
        .and_then(|()| value.setattr("found", error.found.as_str()))
        .and_then(|()| value.setattr("expected", error.expected.as_str()));
    match set {
        Ok(()) => exception,
        Err(other) => other,
    }
}

/// One row of the evidence table.
#[pyclass(frozen, module = "classifier._core")]
struct EvidenceKind(&'static fingerprint::EvidenceKind);

#[pymethods]
impl EvidenceKind {
    #[getter]
    fn id(&self) -> &'static str {
        self.0.id
    }

    #[getter]
    fn protocol(&self) -> &'static str {
        self.0.protocol.name()
    }

    #[getter]
    fn bits(&self) -> u16 {
        self.0.bits
    }

    #[getter]
    fn fact(&self) -> &'static str {
        self.0.fact
    }

    #[getter]
    fn source(&self) -> &'static str {
        self.0.source
    }

    #[getter]
    fn rules_out(&self) -> &'static str {
        self.0.rules_out
    }

    fn __repr__(&self) -> String {
        format!("EvidenceKind({:?}, {} bits)", self.0.id, self.0.bits)
    }
}

/// Prefixes, compiled: which of them holds an address.
#[pyclass(frozen, module = "classifier._core")]
struct PrefixMap(Arc<prefixes::PrefixMap>);

#[pymethods]
impl PrefixMap {
    #[new]
    fn new(prefixes: Vec<(PyBackedBytes, u8)>, numbers: Vec<u32>) -> PyResult<Self> {
        if prefixes.len() != numbers.len() {
            return Err(PyValueError::new_err("PrefixMap: as many numbers as prefixes are needed"));
        }
        let items = prefixes.iter().zip(numbers).map(|((address, length), number)| (&**address, *length, number));
        let map = prefixes::PrefixMap::new(items).map_err(|place| {
            PyValueError::new_err(format!("PrefixMap: no prefix at {place}: expected 4 or 16 bytes and a length"))
        })?;
        Ok(Self(Arc::new(map)))
    }

    fn number(&self, address: &[u8]) -> u32 {
        self.0.number(address)
    }
}

/// What tells reports apart for who judges them.
#[pyclass(frozen, module = "classifier._core")]
struct Classes(Arc<classes::Classes>);

#[pymethods]
impl Classes {
    #[new]
    #[pyo3(signature = (
        register, networks, *, ports = Vec::new(), packets = Vec::new(), packets_of_one = Vec::new(),
        durations_ns = Vec::new(), first_record_ns = 0, as_of_ns = None
    ), text_signature = "(register, networks, *, ports=(), packets=(), packets_of_one=(), durations_ns=(), \
        first_record_ns=0, as_of_ns=None)")]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        register: &PrefixMap,
        networks: &PrefixMap,
        mut ports: Vec<u16>,
        mut packets: Vec<u64>,
        mut packets_of_one: Vec<u64>,
        mut durations_ns: Vec<i64>,
        first_record_ns: i64,
        as_of_ns: Option<i64>,
    ) -> Self {
        ports.sort_unstable();
        packets.sort_unstable();
        packets_of_one.sort_unstable();
        durations_ns.sort_unstable();
        Self(Arc::new(classes::Classes {
            maps: [Arc::clone(&register.0), Arc::clone(&networks.0)],
            ports,
            packets,
            packets_of_one,
            durations: durations_ns,
            first_record: first_record_ns,
            as_of: as_of_ns,
        }))
    }
}

/// Reports as columns.
#[pyclass(frozen, module = "classifier._core")]
struct FlowBatch(Arc<Vec<FlowReport>>);

impl FlowBatch {
    fn rows(&self) -> &[FlowReport] {
        &self.0
    }

    fn column<'py, T: IntoPyObject<'py>>(
        &self,
        py: Python<'py>,
        value: impl Fn(&FlowReport) -> T,
    ) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.rows().iter().map(value))
    }

    /// A column of names, of which there are few: each is made once.
    fn names<'py>(&self, py: Python<'py>, name: impl Fn(&FlowReport) -> &'static str) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.rows().iter().map(|row| PyString::intern(py, name(row))))
    }
}

#[pymethods]
impl FlowBatch {
    #[new]
    fn new(rows: Vec<Bound<'_, PyDict>>) -> PyResult<Self> {
        Ok(Self(Arc::new(rows.iter().map(rows::report).collect::<PyResult<_>>()?)))
    }

    fn __len__(&self) -> usize {
        self.rows().len()
    }

    #[getter]
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.names(py, |row| row.report.name())
    }

    #[getter]
    fn number<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.number)
    }

    #[getter]
    fn time_ns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.time)
    }

    #[getter]
    fn flow_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.flow_id)
    }

    #[getter]
    fn community_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| community_id(&row.key))
    }

    #[getter]
    fn handle<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.handle)
    }

    #[getter]
    fn tag<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.tag)
    }

    #[getter]
    fn source<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| PyBytes::new(py, row.ends()[0].0))
    }

    #[getter]
    fn destination<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| PyBytes::new(py, row.ends()[1].0))
    }

    #[getter]
    fn source_ip<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| address_text(row.ends()[0].0))
    }

    #[getter]
    fn destination_ip<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| address_text(row.ends()[1].0))
    }

    #[getter]
    fn source_port<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| has_ports(row).then(|| row.ends()[0].1))
    }

    #[getter]
    fn destination_port<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| has_ports(row).then(|| row.ends()[1].1))
    }

    #[getter]
    fn transport<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.names(py, |row| row.key.transport.name())
    }

    #[getter]
    fn vlan<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.vlans.ids().collect::<Vec<_>>())
    }

    #[getter]
    fn encap<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.path.layers().map(EncapLayer::name).collect::<Vec<_>>())
    }

    #[getter]
    fn protocol<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.names(py, |row| row.protocol.name())
    }

    #[getter]
    fn variant<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.names(py, |row| row.finding.variant.name())
    }

    #[getter]
    fn confidence<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.names(py, |row| row.finding.confidence.name())
    }

    #[getter]
    fn phase<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.names(py, |row| row.finding.phase.name())
    }

    #[getter]
    fn oneway<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.is_one_way())
    }

    #[getter]
    fn midflow<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.finding.midflow)
    }

    #[getter]
    fn flipped<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.initiator() == 1)
    }

    #[getter]
    fn evidence<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| {
            row.evidence
                .items()
                .iter()
                .map(|item| {
                    let direction = row.direction_name(item.direction);
                    (item.kind.id, item.bits(), item.packet, item.time, direction, item.length, item.count)
                })
                .collect::<Vec<_>>()
        })
    }

    #[getter]
    fn via_proxy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.via_proxy)
    }

    #[getter]
    fn ruled_out<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.evidence.ruled_out().map(LookAlike::name).collect::<Vec<_>>())
    }

    #[getter]
    fn packets_to_server<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.packets[usize::from(row.initiator())])
    }

    #[getter]
    fn packets_to_client<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.packets[usize::from(row.initiator() ^ 1)])
    }

    #[getter]
    fn bytes_to_server<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.bytes[usize::from(row.initiator())])
    }

    #[getter]
    fn bytes_to_client<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.bytes[usize::from(row.initiator() ^ 1)])
    }

    #[getter]
    fn start_ns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.start)
    }

    #[getter]
    fn end_ns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.end)
    }

    #[getter]
    fn end_reason<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |row| row.end_reason.map(EndReason::name))
    }
}

impl From<Vec<FlowReport>> for FlowBatch {
    fn from(polled: Vec<FlowReport>) -> Self {
        Self(Arc::new(polled))
    }
}

/// What one interface counts.
#[pyclass(frozen, get_all, module = "classifier._core")]
struct Interface {
    name: String,
    received: u64,
    delivered: u64,
    by_ring: Vec<u64>,
    dropped: u64,
    outgoing: u64,
    freezes: u64,
    downs: u64,
    up: bool,
    ring_bytes: u64,
    lag_ns: u64,
}

impl From<InterfaceCounters> for Interface {
    fn from(counters: InterfaceCounters) -> Self {
        let InterfaceCounters {
            name,
            received,
            delivered,
            by_ring,
            dropped,
            outgoing,
            freezes,
            downs,
            up,
            ring_bytes,
            lag,
        } = counters;
        Self { name, received, delivered, by_ring, dropped, outgoing, freezes, downs, up, ring_bytes, lag_ns: lag }
    }
}

/// Replays captures, one after the other.
#[pyclass(frozen, module = "classifier._core")]
struct Engine(Mutex<State>);

struct State {
    engine: engine::Engine,
    /// Of the current capture, for errors.
    name: String,
}

impl Engine {
    /// Works on the engine without the interpreter lock: who waits for the engine must not hold it.
    fn with<R: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut State) -> R + Send) -> R {
        py.detach(|| work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn nanoseconds(seconds: &[f64]) -> Vec<i64> {
    seconds.iter().map(|seconds| (seconds * 1e9) as i64).collect()
}

fn setting_error(error: &engine::SettingError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A program for each link type: instructions of code, jt, jf and k.
type Programs = Vec<(u16, Vec<(u16, u8, u8, u32)>)>;

fn selection(programs: Programs) -> Option<Filter> {
    let one = |(link, instructions): (u16, Vec<_>)| {
        let instructions = instructions.into_iter().map(|(code, jt, jf, k)| Instruction { code, jt, jf, k });
        Some((LinkType(link), Program::new(instructions.collect())?))
    };
    programs.into_iter().map(one).collect::<Option<_>>().map(Filter)
}

fn is_busy() -> PyErr {
    PyRuntimeError::new_err("open: the capture before is not finished; poll until None")
}

fn parse<T>(setting: &'static str, expected: &'static str, value: Option<T>) -> PyResult<T> {
    value.ok_or_else(|| setting_error(&engine::SettingError { setting, expected }))
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (
        *, workers = 1, min_confidence = "likely", flow_key = "five-tuple", update_interval_s = 1800,
        packet_milestones = Vec::new(), duration_milestones_s = Vec::new(), max_undecided = 1_048_576,
        max_attempts = 65_536, max_recognised = 262_144, max_fragmented = 32_768, remove_duplicates = false,
        peel = "operator", subscribers = Vec::new(), filter = Vec::new()
    ), text_signature = "(*, workers=1, min_confidence='likely', flow_key='five-tuple', update_interval_s=1800, \
        packet_milestones=(), duration_milestones_s=(), max_undecided=1048576, max_attempts=65536, \
        max_recognised=262144, max_fragmented=32768, remove_duplicates=False, peel='operator', subscribers=(), filter=())")]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        workers: usize,
        min_confidence: &str,
        flow_key: &str,
        update_interval_s: u32,
        packet_milestones: Vec<u64>,
        duration_milestones_s: Vec<f64>,
        max_undecided: usize,
        max_attempts: usize,
        max_recognised: usize,
        max_fragmented: usize,
        remove_duplicates: bool,
        peel: &str,
        subscribers: Vec<(Vec<u8>, u8)>,
        filter: Programs,
    ) -> PyResult<Self> {
        let confidence = Confidence::ALL.into_iter().find(|level| level.name() == min_confidence);
        let peel = parse("peel", "\"operator\", \"all\" or \"none\"", PeelMode::parse(peel))?;
        let engine = engine::Engine::new(Settings {
            workers,
            key_mode: parse("flow_key", "\"five-tuple\", \"+vlan\" or \"+path\"", KeyMode::parse(flow_key))?,
            min_confidence: parse("min_confidence", "\"possible\", \"likely\" or \"confirmed\"", confidence)?,
            max_undecided,
            max_attempts,
            max_recognised,
            max_fragmented,
            remove_duplicates,
            peel: Peel::new(peel, &subscribers).ok_or_else(|| setting_error(&engine::NO_PREFIX))?,
            filter: parse("filter", "programs of classic BPF that jump forward and end", selection(filter))?,
            update_interval: update_interval_s,
            packet_milestones,
            duration_milestones: nanoseconds(&duration_milestones_s),
        })
        .map_err(|error| setting_error(&error))?;
        Ok(Self(Mutex::new(State { engine, name: String::new() })))
    }

    fn announce(&self, py: Python<'_>, paths: Vec<String>) {
        self.with(py, |state| state.engine.announce(paths));
    }

    fn open(&self, py: Python<'_>, path: &str, name: &str) -> PyResult<()> {
        let opened = self.with(py, |state| {
            if state.engine.is_busy() {
                return None;
            }
            name.clone_into(&mut state.name);
            Some(state.engine.open(Path::new(path), name))
        });
        match opened {
            None => Err(is_busy()),
            Some(opened) => opened.map_err(|error| capture_error(py, name, &error)),
        }
    }

    #[pyo3(signature = (
        names, *, threads = 1, snap_length = 262_144, block_size = 262_144, blocks = 256, outgoing = false,
        promiscuous = true
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn open_interfaces(
        &self,
        py: Python<'_>,
        names: Vec<String>,
        threads: usize,
        snap_length: u32,
        block_size: u32,
        blocks: u32,
        outgoing: bool,
        promiscuous: bool,
    ) -> PyResult<()> {
        let options = af_packet::Options { threads, snap_length, block_size, blocks, outgoing, promiscuous };
        let name = names.join(",");
        let opened = self.with(py, |state| {
            if state.engine.is_busy() {
                return None;
            }
            name.clone_into(&mut state.name);
            let opened = live::open(&names, options, state.engine.filter());
            Some(opened.map(|source| state.engine.begin(source, &name)))
        });
        match opened {
            None => Err(is_busy()),
            Some(opened) => opened.map_err(|error| capture_error(py, &name, &error)),
        }
    }

    #[pyo3(signature = (max_ms = 100))]
    fn poll(&self, py: Python<'_>, max_ms: u64) -> PyResult<Option<FlowBatch>> {
        py.check_signals()?;
        self.with(py, |state| {
            let polled = state.engine.poll(Duration::from_millis(max_ms));
            polled.map_err(|error| (state.name.clone(), error))
        })
        .map(|reports| reports.map(FlowBatch::from))
        .map_err(|(name, error)| capture_error(py, &name, &error))
    }

    fn set_tags(&self, py: Python<'_>, handles: Vec<u64>, tags: Vec<u32>) -> PyResult<()> {
        if handles.len() != tags.len() {
            return Err(PyValueError::new_err("set_tags: as many tags as handles are needed"));
        }
        self.with(py, |state| {
            let tagged = state.engine.set_tags(handles.into_iter().zip(tags).collect());
            tagged.map_err(|error| (state.name.clone(), error))
        })
        .map_err(|(name, error)| capture_error(py, &name, &error))
    }

    fn set_milestones(
        &self,
        py: Python<'_>,
        packet_milestones: Vec<u64>,
        duration_milestones_s: Vec<f64>,
    ) -> PyResult<()> {
        let durations = nanoseconds(&duration_milestones_s);
        self.with(py, |state| state.engine.set_milestones(packet_milestones, durations))
            .map_err(|error| setting_error(&error))
    }

    fn set_subscribers(&self, py: Python<'_>, subscribers: Vec<(Vec<u8>, u8)>) -> PyResult<()> {
        let replaced = self.with(py, |state| state.engine.set_subscribers(&subscribers));
        replaced.map_err(|error| setting_error(&error))
    }

    fn review_at(&self, py: Python<'_>, instants_ns: Vec<i64>) {
        self.with(py, |state| state.engine.review_at(instants_ns));
    }

    fn review(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state| state.engine.review().map_err(|error| (state.name.clone(), error)))
            .map_err(|(name, error)| capture_error(py, &name, &error))
    }

    fn finish(&self, py: Python<'_>) {
        self.with(py, |state| state.engine.finish());
    }

    fn progress(&self, py: Python<'_>) -> (u64, Option<u64>) {
        self.with(py, |state| state.engine.progress())
    }

    fn turns(&self, py: Python<'_>) -> Vec<u64> {
        self.with(py, |state| state.engine.turns())
    }

    fn link_types(&self, py: Python<'_>) -> Vec<(u16, &'static str, u64, bool)> {
        self.with(py, |state| {
            let types = state.engine.link_types().into_iter();
            types.map(|(link, frames)| (link.0, link.name(), frames, decode::link_type_is_supported(link))).collect()
        })
    }

    fn interfaces(&self, py: Python<'_>) -> Vec<Interface> {
        self.with(py, |state| state.engine.interfaces().into_iter().map(Interface::from).collect())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.with(py, |state| state.engine.stats()).into_py_dict(py)
    }
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let names = |names: Vec<&'static str>| PyTuple::new(py, names);
    module.add("version", env!("CARGO_PKG_VERSION"))?;
    module.add("PROTOCOLS", names(Protocol::ALL.map(Protocol::name).to_vec())?)?;
    module.add("VARIANTS", names(Variant::ALL.iter().map(|variant| variant.name()).collect())?)?;
    module.add("CONFIDENCES", names(Confidence::ALL.map(Confidence::name).to_vec())?)?;
    module.add("PHASES", names(Phase::ALL.map(Phase::name).to_vec())?)?;
    module.add("TRANSPORTS", names(Transport::ALL.map(Transport::name).to_vec())?)?;
    module.add("REPORTS", names(Report::ALL.map(Report::name).to_vec())?)?;
    module.add("END_REASONS", names(EndReason::ALL.map(EndReason::name).to_vec())?)?;
    module.add("LAYERS", names(EncapLayer::ALL.iter().map(|layer| layer.name()).collect())?)?;
    let undecoded: Vec<_> = (0..DecodeError::KINDS).map(DecodeError::kind_name).collect();
    module.add("UNDECODED", PyTuple::new(py, undecoded)?)?;
    module.add("NO_FLOW", names(NoFlow::NAMES.iter().filter_map(|name| name.strip_prefix("no_flow.")).collect())?)?;
    module.add("RULED_OUT", names(LookAlike::ALL.iter().map(|look_alike| look_alike.name()).collect())?)?;
    let kinds =
        fingerprint::evidence_kinds().map(|kind| Py::new(py, EvidenceKind(kind))).collect::<PyResult<Vec<_>>>()?;
    module.add("EVIDENCE", PyTuple::new(py, kinds)?)?;
    let holes = Hole::ALL.iter().zip(1_u8..).map(|(hole, byte)| (hole.name(), PyBytes::new(py, &[byte])));
    module.add("RUNS_NS", crate::reporter::RUNS)?;
    module.add("HOLES", holes.into_py_dict(py)?)?;
    module.add("CaptureError", py.get_type::<CaptureError>())?;
    module.add_class::<EvidenceKind>()?;
    module.add_class::<Classes>()?;
    module.add_class::<reporter::Ends>()?;
    module.add_class::<reporter::Answer>()?;
    module.add_class::<reporter::Attempts>()?;
    module.add_class::<reporter::Cases>()?;
    module.add_class::<reporter::FirstSeen>()?;
    module.add_class::<reporter::Lines>()?;
    module.add_class::<reporter::Reporter>()?;
    module.add_class::<FlowBatch>()?;
    module.add_class::<Interface>()?;
    module.add_class::<PrefixMap>()?;
    module.add_class::<Engine>()
}
