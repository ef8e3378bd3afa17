"""The contract: every metric with its type, its labels, all their values, and what it means.

docs/metrics.md is made from this table, and tests hold it against what is scraped. No value of a label
comes from the network: `interface` is what `-i` named, and every other label has a closed list.

The rule a reader would get wrong: all series of a closed list are given from the first scrape on, with 0,
so that `rate()` sees the first loss. Only what says "without ... there is none" is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final

from classifier import _core
from classifier.judgement import ACTIONS, Action
from classifier.metrics.tally import LOOKUP_BOUNDS
from classifier.mirror import LOOKS
from classifier.policy import SUSPENSIONS
from classifier.register.entry import Kind
from classifier.standing import VERDICTS, Standing, Verdict

__all__ = ["GROUPS", "METRICS", "PREFIX", "SINKS", "Counted", "Metric", "Type", "Where"]

PREFIX: Final = "vpn_classifier_"
SINKS: Final = ("events", "ledger")
_OF_NO_MATCH: Final = (Standing.PROTOCOL_MISMATCH, Standing.ENDPOINT_MISMATCH)  # depend on the flow


class Type(StrEnum):
    """Of a metric, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Where(StrEnum):
    """Which runs have it."""

    ALL = "all"
    WATCH = "watch"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of a run that a metric shows: one for each of its series, in their order."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; its name without the prefix, but with its unit and `_total`."""

    name: str
    type: Type
    meaning: str
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] | None = ((),)
    """The values of the labels, of every series; with `by_interface` those behind the interface's. None: they
    depend on the run."""
    counted: Counted | None = None
    by_interface: bool = False
    where: Where = Where.ALL


def _values(*labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(str, values)) for values in product(*labels))


def _plain(name: str, key: str, meaning: str) -> Metric:
    """A counter of the run."""
    return Metric(name, Type.COUNTER, meaning, counted=Counted((key,)))


def _parted(name: str, label: str, keys: dict[str, str], meaning: str) -> Metric:
    """A counter of the run in several parts: value of the label, and key of the run's counter."""
    values = tuple((value,) for value in keys)
    return Metric(name, Type.COUNTER, meaning, (label,), values, Counted(tuple(keys.values())))


def _keyed(prefix: str, values: Sequence[str]) -> dict[str, str]:
    return {value: f"{prefix}{value}" for value in values}


def _of_interface(name: str, type_: Type, meaning: str) -> Metric:
    return Metric(name, type_, meaning, ("interface",), by_interface=True, where=Where.WATCH)


def _of_sink(name: str, type_: Type, meaning: str) -> Metric:
    return Metric(name, type_, meaning, ("sink",), _values(SINKS), where=Where.WATCH)


def _can_be(verdict: str, action: str) -> bool:
    """Whether a policy can make this of that: see `policy_file`."""
    if verdict == Verdict.NOT_EVALUATED:
        return action == Action.OBSERVE
    return verdict != Verdict.INDETERMINATE or action != Action.FLAG


_FLOWS: Final = _values(_core.PROTOCOLS, _core.CONFIDENCES, _core.PHASES)
_VERDICTS: Final = tuple(
    values for values in _values(_core.PROTOCOLS, VERDICTS, ACTIONS) if _can_be(*values[1:])
)
_FLAGGED: Final = tuple((str(verdict),) for verdict in VERDICTS if _can_be(verdict, Action.FLAG))
_STATES: Final = tuple(standing for standing in Standing if standing not in _OF_NO_MATCH)
_BOUNDS: Final = tuple((f"{bound:g}",) for bound in LOOKUP_BOUNDS)

_BALANCE: Final = (
    _plain("packets_total", "frames", "Packets (frames) that reached the sensor."),
    _plain("bytes_total", "bytes", "Their bytes on the wire, without those of ignored outgoing ones."),
    _plain(
        "packets_decoded_total",
        "decoded",
        "Packets decoded down to their transport header, or to something known that is of no flow.",
    ),
    _parted(
        "packets_undecoded_total",
        "reason",
        _keyed("undecoded.", _core.UNDECODED),
        "Packets that could not be decoded, by layer and cause.",
    ),
    _parted(
        "packets_ignored_total",
        "reason",
        _keyed("ignored.", ("outgoing", "duplicate", "filtered")),
        "Packets left out on purpose: sent by this host itself, come twice (--remove-duplicates), or not "
        "selected by the BPF expression (those that the kernel left out are not counted anywhere).",
    ),
    _plain("packets_in_flows_total", "flow_packets", "Decoded packets that belong to a flow."),
    _parted(
        "packets_without_flow_total",
        "reason",
        _keyed("no_flow.", _core.NO_FLOW),
        "Decoded packets of no flow.",
    ),
    _plain(
        "packets_refused_total",
        "refused",
        "Decoded packets that the flow table refused. A full table makes room by evicting, so none so far.",
    ),
    _plain(
        "fragments_unmatched_total",
        "fragments_unmatched",
        "Later fragments whose first one was not seen in time.",
    ),
    Metric(
        "fragments_waiting",
        Type.GAUGE,
        "Later fragments that wait for their first one.",
        counted=Counted(("fragments_waiting",)),
    ),
    _parted(
        "fragmented_datagrams_total",
        "outcome",
        _keyed("fragments.", ("reassembled", "incomplete", "overlapping")),
        "Datagrams in fragments: put together, not whole in time, or with parts that overlap.",
    ),
    _plain("packets_duplicate_total", "duplicates", "Packets that came twice within 10 ms, ignored or not."),
    _parted(
        "captures_total",
        "outcome",
        {"read": "captures", "unreadable": "captures.unreadable"},
        "Captures begun, and those that could not be read, or not to their end.",
    ),
    _parted(
        "clock_anomalies_total",
        "kind",
        _keyed("clock.", ("ahead", "behind", "jumps")),
        "Packets whose time is out of line with the packet clock, and jumps that it made.",
    ),
)

_INTERFACES: Final = (
    _of_interface(
        "capture_received_packets_total",
        Type.COUNTER,
        "Packets that the kernel had for the sensor, dropped ones included.",
    ),
    _of_interface(
        "capture_dropped_packets_total",
        Type.COUNTER,
        "Packets unseen by the sensor: a ring had no room for them.",
    ),
    _of_interface(
        "capture_delivered_packets_total", Type.COUNTER, "Packets taken out of the rings and looked at."
    ),
    Metric(
        "capture_ignored_packets_total",
        Type.COUNTER,
        "Packets taken out of the rings and left out on purpose: sent by this host itself.",
        ("interface", "reason"),
        (("outgoing",),),
        by_interface=True,
        where=Where.WATCH,
    ),
    _of_interface(
        "capture_waiting_packets", Type.GAUGE, "Packets in the rings, or just out of them, at this moment."
    ),
    _of_interface("capture_ring_full_total", Type.COUNTER, "Times that a ring became full."),
    _of_interface("capture_ring_bytes", Type.GAUGE, "Size of the rings."),
    _of_interface(
        "capture_lag_seconds",
        Type.GAUGE,
        "How long a packet had waited when it was looked at: the longest of the last second or two. "
        "Some 10 ms are normal at low rates, the age at which the kernel hands over a block.",
    ),
    _of_interface("interface_up", Type.GAUGE, "1: the interface is there and up."),
    _of_interface("interface_downs_total", Type.COUNTER, "Times that the interface went down or away."),
    Metric(
        "mirror_suspected",
        Type.GAUGE,
        "1: the traffic looks as if the mirror sent one direction only, a sample, packets twice, or packets "
        "cut or masked. Judged once a minute; docs/live.md has the thresholds.",
        ("kind",),
        _values(LOOKS),
        where=Where.WATCH,
    ),
)

_FLOW: Final = (
    Metric(
        "flows_active",
        Type.GAUGE,
        "Flows held now.",
        ("state",),
        _values(("undecided", "attempt", "recognised")),
        Counted(tuple(f"flows.active.{state}" for state in ("undecided", "attempt", "recognised"))),
    ),
    _plain("flows_created_total", "flows.created", "Flows begun, recognised or not."),
    Metric(
        "flows_total",
        Type.COUNTER,
        "Flows that reached this confidence and phase. A flow counts once in each that it reaches, so sums "
        "over confidence or phase count flows several times.",
        ("protocol", "confidence", "phase"),
        _FLOWS,
    ),
    _plain(
        "flows_recognised_total", "flows.recognised", "Flows recognised, each counted once, attempts too."
    ),
    _plain(
        "flows_unreported_total",
        "flows.unreported",
        "Flows recognised and not reported, since their table was full.",
    ),
    _parted(
        "evictions_total",
        "table",
        {
            "undecided": "flows.evicted.undecided",
            "attempt": "flows.evicted.attempt",
            "attempt_windows": "attempts.windows_evicted",
            "cases": "cases.evicted",
            "first_seen": "cases.first_seen_evicted",
        },
        "Pushed out of a full table: flows that are undecided or attempts; source prefixes whose attempts "
        "are being counted; cases; times at which cases were first seen.",
    ),
    _plain(
        "attempts_summarised_total",
        "attempts.summarised",
        "Openings that nobody answered, counted in summaries instead of announced.",
    ),
    _plain("l2tp_connections_total", "l2tp.clear", "Clear L2TP connections, counted and never reported."),
)

_VERDICT: Final = (
    Metric(
        "verdicts_total",
        Type.COUNTER,
        "Verdicts given to flows past `attempt`: when a flow is first judged, and again when its verdict or "
        "action changes.",
        ("protocol", "verdict", "action"),
        _VERDICTS,
    ),
    Metric(
        "cases_flagged_total",
        Type.COUNTER,
        "First flags of a case in 24 hours: what people count.",
        ("verdict",),
        _FLAGGED,
    ),
    Metric(
        "subscribers",
        Type.GAUGE,
        "Distinct subjects (the address for IPv4, its /64 for IPv6) of flows past `attempt` with this "
        "verdict, in the last 20 to 24 hours, of a replay in all of it. An estimate, with a standard error "
        "of 2.3 %.",
        ("verdict",),
        _values(VERDICTS),
    ),
    Metric("flagging_active", Type.GAUGE, "1: flags can be given now; 0: flagging is suspended."),
    Metric(
        "flagging_suspended",
        Type.GAUGE,
        "1 for each reason for which nothing is flagged now: the register is stale, enforcement has not "
        "begun (or is not planned: a trial), or there is no register.",
        ("reason",),
        _values(SUSPENSIONS),
    ),
    Metric(
        "lookup_duration_seconds",
        Type.HISTOGRAM,
        "Time to look both ends of a flow up and to apply the policy. One in 64 is measured.",
        ("le",),
        (*_BOUNDS, ("+Inf",)),
    ),
    _plain("flow_events_total", "events.vpn", "Events of flows, those that are left out included."),
    Metric(
        "events_left_out_total",
        Type.COUNTER,
        "Events not written since their flows are not flagged (--keep).",
        counted=Counted(("events.left_out",)),
        where=Where.WATCH,
    ),
)

_REGISTER: Final = (
    Metric(
        "register_entries",
        Type.GAUGE,
        "Rows of the register in force, by how they stand now, whatever the flow.",
        ("kind", "state"),
        _values(tuple(Kind), _STATES),
    ),
    Metric(
        "register_serial", Type.GAUGE, "Serial of the register in force. Without a register there is none."
    ),
    Metric(
        "register_issued_timestamp_seconds",
        Type.GAUGE,
        "When it was issued; its age is time() minus this. Without a register there is none.",
    ),
    Metric(
        "register_next_update_timestamp_seconds",
        Type.GAUGE,
        "When the next issue is due. Without a register there is none.",
    ),
    Metric(
        "register_stale_timestamp_seconds",
        Type.GAUGE,
        "From when on it is too old to flag by: the next issue is overdue by the policy's stale_after. "
        "Without a register there is none.",
    ),
    _parted(
        "reloads_total",
        "outcome",
        _keyed("reloads.", ("loaded", "refused")),
        "Reloads of register and policy that were taken, and that were refused since a file has faults.",
    ),
    Metric(
        "reload_last_successful",
        Type.GAUGE,
        "0: the last reload was refused; 1: it was taken, or there was none.",
    ),
    Metric(
        "reload_last_success_timestamp_seconds",
        Type.GAUGE,
        "When what judges now came into force: the last reload that was taken, or the start.",
    ),
)

_PROCESS: Final = (
    Metric("build_info", Type.GAUGE, "1, for its labels.", ("version", "python"), None),
    Metric(
        "run_progress_timestamp_seconds",
        Type.GAUGE,
        "The latest turn of the run, which is when the numbers are from. Long ago: it hangs.",
    ),
    Metric(
        "thread_cpu_seconds_total",
        Type.COUNTER,
        "CPU time of the run's own thread (run), of the core's (capture-N, worker-N, the first 16 of each), "
        "of the sinks' (sink-NAME), and of all others together (others). The load of a thread is its rate().",
        ("thread",),
        None,
        where=Where.WATCH,
    ),
    Metric(
        "http_connections_closed_total",
        Type.COUNTER,
        "Connections to this page that were cut: too slow, or too many at a time.",
        ("reason",),
        _values(("slow", "crowded")),
        where=Where.WATCH,
    ),
    Metric(
        "metrics_file_failures_total",
        Type.COUNTER,
        "Times that the file of --metrics-file could not be written.",
        where=Where.WATCH,
    ),
    _of_sink("sink_taken_lines_total", Type.COUNTER, "Lines given to the sink: written, lost or queued."),
    _of_sink("sink_written_lines_total", Type.COUNTER, "Lines written."),
    _of_sink("sink_written_bytes_total", Type.COUNTER, "Bytes of lines written."),
    _of_sink(
        "sink_lost_lines_total", Type.COUNTER, "Lines not written, since the queue was full or at the end."
    ),
    _of_sink("sink_queue_lines", Type.GAUGE, "Lines that wait to be written."),
    _of_sink("sink_queue_bytes", Type.GAUGE, "Bytes that wait to be written."),
    _of_sink("sink_queue_limit_lines", Type.GAUGE, "How many lines may wait."),
    _of_sink("sink_queue_limit_bytes", Type.GAUGE, "How many bytes may wait."),
    _of_sink(
        "sink_failures_total",
        Type.COUNTER,
        "Attempts to open, write, rotate or delete a file that failed.",
    ),
    _of_sink("sink_failing", Type.GAUGE, "1: the last attempt failed; the next one comes by itself."),
    _of_sink(
        "sink_last_success_timestamp_seconds", Type.GAUGE, "When something was last written; 0 before that."
    ),
    _of_sink("sink_gaps_total", Type.COUNTER, "Gaps of lost lines that the file names."),
    _of_sink("sink_rotations_total", Type.COUNTER, "Files rotated."),
)

_ENDED: Final = (
    Metric("run_end_timestamp_seconds", Type.GAUGE, "When the replay was done.", where=Where.REPLAY),
    Metric("run_duration_seconds", Type.GAUGE, "How long it took.", where=Where.REPLAY),
    Metric(
        "run_success",
        Type.GAUGE,
        "1: all input was read; 0: some could not be, or it was stopped.",
        where=Where.REPLAY,
    ),
)

GROUPS: Final = (
    ("Capture, by interface", _INTERFACES),
    ("Packets", _BALANCE),
    ("Flows", _FLOW),
    ("Verdicts", _VERDICT),
    ("Register and policy", _REGISTER),
    ("The process", _PROCESS),
    ("A replay that is done", _ENDED),
)
METRICS: Final = tuple(metric for _, metrics in GROUPS for metric in metrics)
