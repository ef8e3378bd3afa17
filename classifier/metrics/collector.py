"""A run as Prometheus asks for it: a reading in, the metrics of the contract (`names`) out.

prometheus-client asks `collect` at every scrape; no number is kept here. A series that is not in the
contract is an error, and one that has no number is 0.
"""

from __future__ import annotations

import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from classifier import _core
from classifier.metrics import names
from classifier.metrics.distinct import estimate
from classifier.metrics.meter import Meter, Reading
from classifier.metrics.names import METRICS, PREFIX, SINKS, Type, Where
from classifier.metrics.tally import LOOKUP_BOUNDS
from classifier.metrics.threads import ThreadTimes
from classifier.policy import SUSPENSIONS, Policy
from classifier.register import Register
from classifier.standing import ALWAYS, instants_of, standing_at

__all__ = ["RunCollector", "registry_of"]

_NS: Final = 1e9
Series = Mapping[tuple[str, ...], float]
"""Values of the labels, and the number."""


class RunCollector(Collector):
    """The metrics of one run, of the kind that it is."""

    def __init__(self, meter: Meter, where: Where) -> None:
        self._meter = meter
        self._where = where
        self._threads = ThreadTimes(meter.thread, SINKS)
        self._standings = _Standings()
        self._others: list[Callable[[], Mapping[str, Series]]] = []

    def add(self, source: Callable[[], Mapping[str, Series]]) -> None:
        """Ask this, too, for numbers by name: those that are not the run's."""
        self._others.append(source)

    def describe(self) -> Iterable[Metric]:
        """Names only: prometheus-client looks whether two collectors have the same."""
        return [_family(metric, {}) for metric in self._metrics()]

    def collect(self) -> Iterator[Metric]:
        """All metrics, of one moment."""
        reading = self._meter.reading()
        numbers = self._of_the_run(reading)
        for source in self._others:
            numbers |= source()
        interfaces = [interface.name for interface in reading.figures.interfaces]
        counters = reading.figures.counters
        for metric in self._metrics():
            series = numbers.get(metric.name)
            if metric.counted is not None and metric.series is not None:
                series = {
                    values: counters.get(key, 0)
                    for values, key in zip(metric.series, metric.counted.keys, strict=True)
                }
            known = metric.series
            if metric.by_interface and known is not None:
                known = tuple((interface, *values) for interface in interfaces for values in known)
            if series is None:
                series = {} if metric.labels else None
            if series is None:
                continue  # absent
            if known is not None:
                unknown = set(series).difference(known)
                if unknown:
                    raise ValueError(f"{metric.name}: no series of the contract: {sorted(unknown)}")
                series = {values: series.get(values, 0) for values in known}
            yield _family(metric, series, numbers.get(f"{metric.name}.sum", {}).get((), 0.0))

    def _metrics(self) -> Iterator[names.Metric]:
        return (metric for metric in METRICS if metric.where in (Where.ALL, self._where))

    def _of_the_run(self, reading: Reading) -> dict[str, Series]:
        figures, tally = reading.figures, reading.tally
        at_ns, register = figures.at_ns, figures.register
        policy = figures.policy or Policy(sha256="", rules=())
        suspended = policy.suspended(register, at_ns)
        found: dict[str, Series] = {
            "flows_total": tally.flows,
            "verdicts_total": tally.verdicts,
            "cases_flagged_total": {(verdict,): count for verdict, count in tally.cases.items()},
            "subscribers": {(kind,): round(count) for kind, count in estimate(tally.subscribers).items()},
            "lookup_duration_seconds": _buckets(tally.lookups),
            "lookup_duration_seconds.sum": {(): tally.lookup_seconds},
            "flagging_active": {(): not suspended},
            "flagging_suspended": {(reason,): reason in suspended for reason in SUSPENSIONS},
            "register_entries": self._standings.counts(register, policy, at_ns),
            "reload_last_successful": {(): figures.last_reload_loaded},
            "reload_last_success_timestamp_seconds": {(): figures.in_force_since_ns / _NS},
            "build_info": {(_core.version, ".".join(platform.python_version_tuple()[:2])): 1},
            "run_progress_timestamp_seconds": {(): reading.time_s},
        }
        if self._where is Where.WATCH:
            found |= _of_interfaces(figures.interfaces) | _of_sinks(reading)
            found["thread_cpu_seconds_total"] = {
                (name,): seconds for name, seconds in self._threads.seconds().items()
            }
            found["metrics_file_failures_total"] = {(): 0}
        if register is not None:
            found |= {
                "register_serial": {(): register.serial},
                "register_issued_timestamp_seconds": {(): register.issued_at_ns / _NS},
            }
            if register.next_update_ns is not None:
                found["register_next_update_timestamp_seconds"] = {(): register.next_update_ns / _NS}
            stale_ns = policy.stale_from_ns(register)
            if stale_ns < ALWAYS[1]:
                found["register_stale_timestamp_seconds"] = {(): stale_ns / _NS}
        return found


def registry_of(collector: RunCollector, *, process: bool) -> CollectorRegistry:
    """What is exposed; with `process`, also what prometheus-client knows of every process."""
    registry = CollectorRegistry()
    registry.register(collector)
    if process:
        ProcessCollector(registry=registry)
    return registry


def _family(metric: names.Metric, series: Series, total: float = 0.0) -> Metric:
    name = PREFIX + metric.name
    if metric.type is Type.HISTOGRAM:
        histogram = HistogramMetricFamily(name, metric.meaning)
        if series:
            buckets: list[tuple[str, float] | tuple[str, float, object]] = [
                (bound, count) for (bound,), count in series.items()
            ]
            histogram.add_metric([], buckets, total)  # type: ignore[arg-type]
        return histogram
    kind = CounterMetricFamily if metric.type is Type.COUNTER else GaugeMetricFamily
    family = kind(name, metric.meaning, labels=metric.labels)
    for values, number in series.items():
        family.add_metric(values, number)
    return family


def _buckets(counts: tuple[int, ...]) -> Series:
    bounds = [f"{bound:g}" for bound in LOOKUP_BOUNDS] + ["+Inf"]
    return {(bound,): count for bound, count in zip(bounds, accumulate(counts), strict=True)}


def _of_interfaces(interfaces: Iterable[_core.Interface]) -> dict[str, Series]:
    every = {(one.name,): one for one in interfaces}
    return {
        "capture_received_packets_total": {key: one.received for key, one in every.items()},
        "capture_dropped_packets_total": {key: one.dropped for key, one in every.items()},
        "capture_delivered_packets_total": {key: one.delivered for key, one in every.items()},
        "capture_ignored_packets_total": {(*key, "outgoing"): one.outgoing for key, one in every.items()},
        "capture_waiting_packets": {
            key: one.received - one.dropped - one.delivered - one.outgoing for key, one in every.items()
        },
        "capture_ring_full_total": {key: one.freezes for key, one in every.items()},
        "capture_ring_bytes": {key: one.ring_bytes for key, one in every.items()},
        "capture_lag_seconds": {key: one.lag_ns / _NS for key, one in every.items()},
        "interface_up": {key: one.up for key, one in every.items()},
        "interface_downs_total": {key: one.downs for key, one in every.items()},
    }


def _of_sinks(reading: Reading) -> dict[str, Series]:
    every = {(one.name,): one for one in reading.sinks}
    return {
        "sink_taken_lines_total": {key: one.taken_lines for key, one in every.items()},
        "sink_written_lines_total": {key: one.written_lines for key, one in every.items()},
        "sink_written_bytes_total": {key: one.written_bytes for key, one in every.items()},
        "sink_lost_lines_total": {key: one.lost_lines for key, one in every.items()},
        "sink_queue_lines": {key: one.queued_lines for key, one in every.items()},
        "sink_queue_bytes": {key: one.queued_bytes for key, one in every.items()},
        "sink_queue_limit_lines": {key: one.queue_limit_lines for key, one in every.items()},
        "sink_queue_limit_bytes": {key: one.queue_limit_bytes for key, one in every.items()},
        "sink_failures_total": {key: one.failures for key, one in every.items()},
        "sink_failing": {key: one.failing for key, one in every.items()},
        "sink_last_success_timestamp_seconds": {key: one.last_success_ns / _NS for key, one in every.items()},
        "sink_gaps_total": {key: one.gaps for key, one in every.items()},
        "sink_rotations_total": {key: one.rotations for key, one in every.items()},
    }


class _Standings:
    """How the entries of a register stand, counted anew only when one of their dates has passed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: tuple[Register | None, int] = None, 0
        self._from_ns = self._until_ns = 0
        self._counts: Counter[tuple[str, ...]] = Counter()

    def counts(self, register: Register | None, policy: Policy, at_ns: int) -> Series:
        """Rows by kind and standing at this time."""
        with self._lock:
            of = register, policy.grace_ns
            is_same = self._of[0] is register and self._of[1] == policy.grace_ns
            if not is_same or not self._from_ns <= at_ns < self._until_ns:
                self._of, self._from_ns, self._until_ns = of, at_ns, ALWAYS[1]
                self._counts = Counter()
                for entry in () if register is None else register.entries:
                    standing = standing_at(entry, at_ns, policy.grace_ns)
                    self._counts[entry.kind.value, standing.value] += 1
                    for instant in instants_of(entry, policy.grace_ns):
                        if at_ns < instant < self._until_ns:
                            self._until_ns = instant
            return self._counts
