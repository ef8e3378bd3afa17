"""From captures to events: poll the engine, ask register and policy, say what is new.

Every flow is judged when it is first reported and whenever a report about it arrives; what was said
about it last is kept as a tag in the engine, so no second table of flows exists here. Captures are
independent: cases, rates and the packet clock begin anew with each, and the events of a capture do not
depend on what else was read. The rule a reader would get wrong: the tag that a batch shows for a flow is
the one from before the batch, so several rows of one flow need the batch's own memory (`_Batch`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

from classifier import _core
from classifier.attempts import Attempts
from classifier.cases import Cases, case_id, subject_prefix
from classifier.errors import ClassifierError
from classifier.events import (
    SCHEMA_VERSION,
    AttemptsItem,
    Event,
    EvidenceItem,
    FlowCounters,
    LinkTypeItem,
    PolicyItem,
    Stats,
    UnreadableItem,
    VpnEvent,
    attempts_event,
    nanoseconds,
    parse_time,
    rfc3339,
    stats_event,
)
from classifier.inputs import InputError, InputFault, Inputs, find
from classifier.policy import FlowFacts, Judgement, Policy
from classifier.register import Register

_MAX_ENTRIES = 16
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to replay; the defaults are those of the command line."""

    min_confidence: str = "likely"
    flow_key: str = "five-tuple"
    as_of_ns: int | None = None
    workers: int = 1
    sensor: str = "replay"


def replay(
    paths: Paths,
    *,
    rules: str | os.PathLike[str] | None = None,
    register: str | os.PathLike[str] | None = None,
    policy: str | os.PathLike[str] | None = None,
    min_confidence: str = "likely",
    as_of: str | date | None = None,
    workers: int = 1,
    flow_key: str = "five-tuple",
    sensor: str = "replay",
) -> Iterator[Event]:
    """Read captures and yield events, the same that the command `vpn-classifier replay` writes.

    `paths`: files, directories, globs or "-", one or several. `rules`: a directory that holds
    `register.csv` and `policy.toml`; `register` and `policy` name one file each and come before it.
    Without a register every verdict is `not_evaluated`. `min_confidence`: "possible", "likely" or
    "confirmed". `as_of`: judge by this time (RFC 3339, a date, or a datetime) instead of the packets'.
    `workers`: threads that read, 1 to 64. `flow_key`: "five-tuple", "+vlan" or "+path". `sensor`: name of the
    observation point, for the events.

    A register or policy that cannot be used raises here (`RegisterError`, `PolicyError`, `ConfigError`), a
    wrong argument ValueError. Input that cannot be read does not end the iteration: when all else has been
    read and the last event was given, `InputError` is raised with every fault.
    """
    settings = Settings(min_confidence, flow_key, _as_of(as_of), workers, sensor)
    names = [paths] if isinstance(paths, str | os.PathLike) else paths
    run = Replay(find([os.fspath(name) for name in names]), *load_rules(rules, register, policy), settings)
    return _checked(run)


def _checked(run: Replay) -> Iterator[Event]:
    yield from run.events()
    if run.faults:
        raise InputError(tuple(run.faults))


def _as_of(moment: str | date | None) -> int | None:
    if moment is None:
        return None
    return parse_time(moment) if isinstance(moment, str) else nanoseconds(moment)


def load_rules(
    rules: str | os.PathLike[str] | None,
    register: str | os.PathLike[str] | None,
    policy: str | os.PathLike[str] | None,
) -> tuple[Register | None, Policy | None]:
    """The register and the policy that these names stand for; neither is ever implied.

    A register needs a policy, since only a policy says what a verdict leads to; a policy alone is fine.
    """
    if rules is not None:
        register = register or Path(rules, "register.csv")
        policy = policy or Path(rules, "policy.toml")
    if register is not None and policy is None:
        raise ClassifierError(
            f"{os.fspath(register)}: a register needs a policy: name one (--policy FILE), "
            "or a directory with both (--rules DIR)"
        )
    return (
        None if register is None else Register.load(Path(register)),
        None if policy is None else Policy.load(Path(policy)),
    )


class Replay:
    """One run over some captures."""

    def __init__(
        self,
        inputs: Inputs,
        register: Register | None = None,
        policy: Policy | None = None,
        settings: Settings | None = None,
        engine: _core.Engine | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._inputs = inputs
        self._register = register
        self._policy = policy
        self._engine = engine or _core.Engine(
            workers=self._settings.workers,
            min_confidence=self._settings.min_confidence,
            flow_key=self._settings.flow_key,
            packet_milestones=() if policy is None else policy.packet_milestones,
            duration_milestones_s=() if policy is None else policy.duration_milestones_s,
        )
        self._links: dict[tuple[int, str, bool], int] = {}
        self._bytes = 0
        self._stopping = False
        self.current: str | None = None
        """The capture being read."""
        self.faults: list[InputFault] = list(inputs.faults)
        """What could not be read, so far."""
        self.interrupted = False
        """`stop` was called before the input was at its end."""

    def stop(self) -> None:
        """Read no further: the flows that are running end, and so do the events. Safe in a signal handler."""
        self._stopping = True

    def progress(self) -> tuple[int, int | None, int]:
        """Bytes read, bytes in all (None when unknown), and frames read."""
        here = self._engine.progress()[0] if self.current is not None else 0
        return self._bytes + here, self._inputs.size, self._engine.stats().get("frames", 0)

    def events(self, on_poll: Callable[[], None] | None = None) -> Iterator[Event]:
        """Everything worth recording, in order; `on_poll` is called several times a second."""
        reporter = _Reporter(self._register, self._policy, self._settings, self._engine)
        begun = False
        clock_ns = 0
        for path in self._inputs.paths:
            for event, time_ns in self._capture(path, reporter, on_poll):
                clock_ns = max(clock_ns, time_ns)
                if not begun:
                    begun = True
                    yield stats_event(clock_ns, self._settings.sensor, "started", self._stats())
                yield event
            if self.interrupted:
                break
        if not begun:
            yield stats_event(clock_ns, self._settings.sensor, "started", self._stats())
        ended = self._stats()
        counters = self._engine.stats() | reporter.counters() | {"captures.unreadable": len(self.faults)}
        ended["counters"] = dict(sorted(counters.items()))
        ended["link_types"] = [
            LinkTypeItem(number=number, name=name, frames=frames, decoded=decoded)
            for (number, name, decoded), frames in sorted(self._links.items())
        ]
        ended["unreadable"] = [
            UnreadableItem(
                pcap_filename=fault.path,
                reason=fault.reason,
                offset=fault.offset,
                found=fault.found,
                expected=fault.expected,
            )
            for fault in self.faults
        ]
        ended["interrupted"] = self.interrupted
        yield stats_event(clock_ns, self._settings.sensor, "ended", ended)

    def _capture(
        self, path: str, reporter: _Reporter, on_poll: Callable[[], None] | None
    ) -> Iterator[tuple[Event, int]]:
        if self._stopping:
            self.interrupted = True
            return
        try:
            self._engine.open(path, path)
        except _core.CaptureError as error:
            self.faults.append(_fault(path, error))
            return
        self.current = path
        finishing = False
        while True:
            if self._stopping and not finishing:
                finishing = self.interrupted = True
                self._engine.finish()
            try:
                batch = self._engine.poll(100)
            except _core.CaptureError as error:
                self.faults.append(_fault(path, error))
                continue
            if batch is None:
                break
            yield from reporter.batch(path, batch)
            if on_poll is not None:
                on_poll()
        yield from reporter.end(path)
        for number, name, frames, decoded in self._engine.link_types():
            key = (number, name, decoded)
            self._links[key] = self._links.get(key, 0) + frames
        self._bytes += self._engine.progress()[0]
        self.current = None

    def _stats(self) -> Stats:
        register = self._register
        as_of_ns = self._settings.as_of_ns
        return {
            "keep": "all",
            "min_confidence": self._settings.min_confidence,
            "flow_key": self._settings.flow_key,
            "as_of": None if as_of_ns is None else rfc3339(as_of_ns),
            "register": None
            if register is None
            else {
                "source": register.source,
                "serial": register.serial,
                "issued_at": rfc3339(register.issued_at_ns),
                "next_update": rfc3339(register.next_update_ns),
                "sha256": register.sha256,
                "entries": len(register.entries),
            },
            "policy_hash": "" if self._policy is None else self._policy.sha256,
        }


def _fault(path: str, error: _core.CaptureError) -> InputFault:
    return InputFault(path, error.reason, error.found, error.expected, error.offset)


class _Row(NamedTuple):
    """One row of a `FlowBatch`; the fields are its columns."""

    report: str
    time_ns: int
    flow_id: int
    community_id: str
    handle: int
    tag: int
    source: bytes
    destination: bytes
    source_ip: str
    destination_ip: str
    source_port: int | None
    destination_port: int | None
    transport: str
    vlan: list[int]
    encap: list[str]
    protocol: str
    variant: str
    confidence: str
    phase: str
    oneway: bool
    midflow: bool
    evidence: list[tuple[str, int, int, int, str, int, int]]
    ruled_out: list[str]
    packets_to_server: int
    packets_to_client: int
    bytes_to_server: int
    bytes_to_client: int
    start_ns: int
    end_ns: int
    end_reason: str | None


class _Said(NamedTuple):
    """What was last said about a flow."""

    verdict: str
    action: str
    rule: str


class _Reporter:
    """Turns the rows of batches into events."""

    def __init__(
        self, register: Register | None, policy: Policy | None, settings: Settings, engine: _core.Engine
    ) -> None:
        self._register = register
        self._policy = policy or Policy(sha256="", rules=())  # which says that nothing was evaluated
        self._as_of_ns = settings.as_of_ns
        self._sensor = settings.sensor
        self._engine = engine
        self._cases = Cases()
        self._attempts = Attempts()
        self._said: list[_Said] = []  # a tag is an index into this, plus 1
        self._tags: dict[_Said, int] = {}
        self._clock_ns = 0
        self._events = 0

    def counters(self) -> dict[str, int]:
        """What this side counts, beside the engine's counters."""
        return {
            "events.vpn": self._events,
            "attempts.summarised": self._attempts.summarised,
            "attempts.windows_evicted": self._attempts.evicted,
            "cases.evicted": self._cases.evicted,
        }

    def batch(self, capture: str, batch: _core.FlowBatch) -> Iterator[tuple[Event, int]]:
        """The events of one batch, each with its time."""
        columns = [getattr(batch, name) for name in _Row._fields]
        tags: dict[int, int] = {}  # by handle: set in this batch
        for row in map(_Row._make, zip(*columns, strict=True)):
            if row.time_ns > self._clock_ns:
                self._clock_ns = row.time_ns
                yield from self._summaries(capture, self._attempts.due(row.time_ns))
            before = tags.get(row.handle, row.tag)
            after = yield from self._row(capture, row, before)
            if row.report == "ended":
                tags.pop(row.handle, None)
            elif after != before:
                tags[row.handle] = after
        if tags:
            self._engine.set_tags(list(tags), list(tags.values()))

    def end(self, capture: str) -> Iterator[tuple[Event, int]]:
        """The capture has ended: the summaries still open."""
        yield from self._summaries(capture, self._attempts.drain(self._clock_ns))
        self._cases.clear()
        self._clock_ns = 0

    def _summaries(
        self, capture: str, items: Iterable[tuple[int, AttemptsItem]]
    ) -> Iterator[tuple[Event, int]]:
        for time_ns, item in items:
            yield attempts_event(time_ns, self._sensor, capture, item), time_ns

    def _row(self, capture: str, row: _Row, tag: int) -> Generator[tuple[Event, int], None, int]:
        report = row.report
        if tag == 0:
            if row.phase == "attempt":
                if report != "recognised":
                    return 0  # counted in a summary, and still an attempt
                if not self._attempts.admit(row.source, row.destination, row.protocol, row.time_ns):
                    return 0
            elif report != "ended":
                report = "recognised"
        said = self._said[tag - 1] if tag else None
        judgement = self._judge(row)
        now = _Said(str(judgement.verdict), str(judgement.action), judgement.rule)
        if said is not None and report in ("milestone", "update"):
            if now != said:
                report = "changed"
            elif report == "milestone":
                return tag
        yield self._event(capture, row, report, judgement, said, now), row.time_ns
        self._events += 1
        if now == said:
            return tag
        if now not in self._tags:
            self._said.append(now)
            self._tags[now] = len(self._said)
        return self._tags[now]

    def _judge(self, row: _Row) -> Judgement:
        if self._as_of_ns is not None:
            # As if the flow ended just then: its age is compared with the register's, too.
            facts = replace(
                _facts(row), start_ns=self._as_of_ns - (row.end_ns - row.start_ns), end_ns=self._as_of_ns
            )
            return self._policy.judge(facts, self._register, self._as_of_ns)
        # When a flow ends, the clock may be an idle timeout past the last packet; nothing was sent then.
        at_ns = min(row.time_ns, row.end_ns) if row.report == "ended" else row.time_ns
        return self._policy.judge(_facts(row), self._register, at_ns)

    def _event(
        self, capture: str, row: _Row, report: str, judgement: Judgement, said: _Said | None, now: _Said
    ) -> VpnEvent:
        subject, remote = row.source, row.destination
        if judgement.subject == "destination":
            subject, remote = remote, subject
        case = case_id(subject, remote, row.protocol)
        newly_flagged = now.action == "flag" and (said is None or said.action != "flag")
        policy: PolicyItem = {
            "verdict": now.verdict,
            "action": now.action,
            "rule": now.rule,
            "direction": str(judgement.direction),
            "subject": subject_prefix(subject),
            "first": newly_flagged and self._cases.first(case, row.time_ns),
            "case_id": case,
            "entries": [
                {
                    "entry_id": match.entry.entry_id,
                    "kind": match.entry.kind.value,
                    "category": match.entry.category.value,
                    "status": match.entry.status.value,
                    "standing": str(match.standing),
                    "end": match.end,
                    "prefix": str(match.entry.prefix),
                }
                for match in judgement.entries[:_MAX_ENTRIES]
            ],
            "register_serial": judgement.register_serial,
            "policy_hash": judgement.policy_hash,
            "why": judgement.why,
        }
        if said is not None and said != now:
            policy["was"] = {"verdict": said.verdict, "action": said.action, "rule": said.rule}
        flow: FlowCounters = {
            "pkts_toserver": row.packets_to_server,
            "pkts_toclient": row.packets_to_client,
            "bytes_toserver": row.bytes_to_server,
            "bytes_toclient": row.bytes_to_client,
            "start": rfc3339(row.start_ns),
            "end": rfc3339(row.end_ns),
        }
        if row.end_reason is not None:
            flow["reason"] = row.end_reason
        event: VpnEvent = {
            "timestamp": rfc3339(row.time_ns),
            "schema": SCHEMA_VERSION,
            "sensor": self._sensor,
            "event_type": "vpn",
            "event": report,
            "flow_id": row.flow_id,
            "community_id": row.community_id,
            "pcap_filename": capture,
            "vlan": row.vlan,
            "encap": row.encap,
            "src_ip": row.source_ip,
            "dest_ip": row.destination_ip,
            "proto": row.transport,
            "ip_v": 4 if len(row.source) == 4 else 6,
            "vpn": {
                "protocol": row.protocol,
                "variant": row.variant,
                "confidence": row.confidence,
                "phase": row.phase,
                "oneway": row.oneway,
                "midflow": row.midflow,
                "evidence": [_evidence(item) for item in row.evidence],
                "ruled_out": row.ruled_out,
            },
            "policy": policy,
            "flow": flow,
            "version": _core.version,
        }
        if row.source_port is not None:
            event["src_port"] = row.source_port
        if row.destination_port is not None:
            event["dest_port"] = row.destination_port
        return event


def _evidence(item: tuple[str, int, int, int, str, int, int]) -> EvidenceItem:
    kind, bits, packet, time_ns, direction, length, count = item
    return {
        "id": kind,
        "bits": bits,
        "packet": packet,
        "time": rfc3339(time_ns),
        "direction": direction,
        "length": length,
        "count": count,
    }


def _facts(row: _Row) -> FlowFacts:
    return FlowFacts(
        protocol=row.protocol,
        variant=row.variant,
        confidence=row.confidence,
        phase=row.phase,
        transport=row.transport,
        source=row.source,
        destination=row.destination,
        source_port=row.source_port,
        destination_port=row.destination_port,
        packets_to_server=row.packets_to_server,
        packets_to_client=row.packets_to_client,
        start_ns=row.start_ns,
        end_ns=row.end_ns,
    )
