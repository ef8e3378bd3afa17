"""A `reporter.Reporter` without shortcuts: every row is judged by itself and written as a dict.

Slow and short, to compare the other one with; what both use (cases, attempts, `Policy.judge`, the line that
`fake_engine.event_line` makes of columns) has tests of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
from fake_engine import event_line

from classifier import _core
from classifier._core import Attempts, Cases, FirstSeen
from classifier.answers import Said, entry_items
from classifier.attempts import Summary, attempts_item
from classifier.cases import case_id, subject_prefix
from classifier.events import SCHEMA_VERSION, Counted, Event, Place, VpnLine, attempts_event
from classifier.judgement import Judgement
from classifier.metrics.tally import Tally
from classifier.pipeline import Settings
from classifier.policy import FlowFacts, Policy
from classifier.register import Register

MINUTE = 60 * 1_000_000_000
COLUMNS = [name for name in vars(_core.FlowBatch) if not name.startswith("_")]


class PlainReporter:
    """Takes the place of `pipeline.Reporter`."""

    def __init__(
        self,
        register: Register | None,
        policy: Policy | None,
        settings: Settings,
        engine: _core.Engine,
        place: Place,
        tally: Tally | None = None,
    ) -> None:
        self.adopt(register, policy)
        self._place = place
        self._settings = settings
        self._engine = engine
        self._tally = tally
        self._cases, self._first_seen, self._attempts = Cases(), FirstSeen(), Attempts()
        self._said: dict[int, Judgement] = {}  # by tag
        self._tags: dict[Said, int] = {}
        self._events = 0
        self.clock_ns = self.latest_ns = 0
        self.first_ns: int | None = None

    def adopt(self, register: Register | None, policy: Policy | None) -> None:
        self._register = register
        self._policy = replace(policy) if policy else Policy(sha256="", rules=())

    def counters(self) -> dict[str, int]:
        return {
            "events.vpn": self._events,
            "attempts.summarised": self._attempts.summarised,
            "attempts.windows_evicted": self._attempts.evicted,
            "cases.evicted": self._cases.evicted,
            "cases.first_seen_evicted": self._first_seen.evicted,
        }

    def batch(self, capture: str, batch: _core.FlowBatch) -> Iterator[Event | VpnLine]:
        tags: dict[int, int] = {}
        columns = {name: getattr(batch, name) for name in COLUMNS}
        for place in range(len(batch)):
            row = SimpleNamespace(**{name: column[place] for name, column in columns.items()})
            yield from self.advance(capture, row.time_ns)
            row.tag = tags.get(row.handle, row.tag)
            line = self._line(capture, row)
            tags[row.handle] = row.tag
            if line is not None:
                self._events += 1
                self._note(row.time_ns)
                yield line
        self._engine.set_tags(list(tags), list(tags.values()))

    def advance(self, capture: str, time_ns: int) -> Iterator[Event]:
        if time_ns > self.clock_ns:
            self.clock_ns = time_ns
            yield from self._summaries(capture, self._attempts.due(time_ns))

    def end(self, capture: str) -> Iterator[Event]:
        yield from self._summaries(capture, self._attempts.drain(self.clock_ns))
        self._cases.clear()
        self._first_seen.clear()
        self.clock_ns = 0

    def _summaries(self, capture: str, summaries: Iterable[Summary]) -> Iterator[Event]:
        for summary in summaries:
            self._note(summary[0])
            item = attempts_item(summary)
            yield attempts_event(summary[0], self._settings.sensor, self._place, capture, item)

    def _note(self, time_ns: int) -> None:
        self.first_ns = time_ns if self.first_ns is None else self.first_ns
        self.latest_ns = max(self.latest_ns, time_ns)

    def _judge(self, row: Any, at_ns: int) -> Judgement:
        start_ns, end_ns = row.start_ns, row.end_ns
        if self._settings.as_of_ns is not None:
            start_ns, end_ns = at_ns - (end_ns - start_ns), at_ns
        facts = FlowFacts(
            row.protocol,
            row.variant,
            row.confidence,
            row.phase,
            row.transport,
            row.source,
            row.destination,
            row.source_port,
            row.destination_port,
            row.packets_to_server,
            row.packets_to_client,
            start_ns,
            end_ns,
            row.via_proxy,
        )
        return self._policy.judge(facts, self._register, at_ns, self._first_seen.since)

    def _line(self, capture: str, row: Any) -> VpnLine | None:
        event, as_of_ns = row.report, self._settings.as_of_ns
        said = self._said.get(row.tag)
        if said is None and row.phase == "attempt":
            admitted = event == "recognised" and self._attempts.admit(
                row.source, row.destination, row.protocol, row.time_ns
            )
            if event == "recognised" and not admitted and self._tally is not None:
                self._tally.summarised(row.protocol, row.confidence)
            if not admitted:
                return None
        if said is None and event != "ended":
            event = "recognised"
        at_ns = as_of_ns if as_of_ns is not None else row.time_ns
        if as_of_ns is None and event == "ended":
            at_ns = min(row.time_ns, row.end_ns)
        now = self._judge(row, at_ns)
        is_silent = as_of_ns is None and row.end_ns < row.time_ns - MINUTE
        if now.action == "flag" and said is not None and said.action != "flag" and is_silent:
            silent = self._judge(row, row.end_ns)
            if silent.action != "flag":
                if event == "milestone":
                    return None
                now = silent
        row.tag = self._tags.setdefault(_said(now), len(self._tags) + 1)
        self._said[row.tag] = now
        is_changed = said is not None and (now.verdict, now.action, now.rule) != (
            said.verdict,
            said.action,
            said.rule,
        )
        if said is not None and event in ("milestone", "update"):
            if is_changed:
                event = "changed"
            elif event == "milestone":
                return None
        return self._written(capture, row, event, now, said if is_changed else None, said)

    def _written(
        self,
        capture: str,
        row: Any,
        event: str,
        now: Judgement,
        was: Judgement | None,
        said: Judgement | None,
    ) -> VpnLine:
        subject, remote = row.source, row.destination
        if now.subject == "destination":
            subject, remote = remote, subject
        case = case_id(subject, remote, row.protocol)
        newly_flagged = now.action == "flag" and (said is None or said.action != "flag")
        first = newly_flagged and self._cases.first(subject, remote, row.protocol, row.time_ns)
        if self._tally is not None:
            before_it = None if said is None else _said(said)
            self._tally.told(row.protocol, subject, row.time_ns, before_it, _said(now), first)
        why = now.why
        before: dict[str, object] = {}
        if was is not None:
            before = {"verdict": str(was.verdict), "action": str(was.action), "rule": was.rule}
            taken = []
            if now.register_serial != was.register_serial:
                old = "no register" if was.register_serial is None else f"serial {was.register_serial}"
                taken.append(f"the register of serial {now.register_serial} took the place of {old}")
            if now.policy_hash != was.policy_hash:
                taken.append("another policy came into force")
            if taken:
                before |= {"register_serial": was.register_serial, "policy_hash": was.policy_hash}
                why += f" Since it was judged before, {' and '.join(taken)}."
        policy = {
            "verdict": str(now.verdict),
            "action": str(now.action),
            "rule": now.rule,
            "direction": str(now.direction),
            "subject": subject_prefix(subject),
            "first": first,
            "case_id": case,
            "entries": entry_items(now.entries),
            "register_serial": now.register_serial,
            "policy_hash": now.policy_hash,
            "why": why,
            **({"was": before} if before else {}),
        }
        head = {
            "schema": SCHEMA_VERSION,
            "sensor": self._settings.sensor,
            "event_type": "vpn",
            "event": event,
        }
        line = event_line(
            row,
            orjson.dumps(head)[1:-1],
            orjson.dumps({self._place: capture})[1:-1],
            orjson.dumps(policy),
            orjson.dumps({"version": _core.version})[1:-1],
        )
        counted = Counted(row.protocol, str(now.verdict), str(now.action))
        return VpnLine(line, row.flow_id, row.report == "ended", counted)


def _said(judgement: Judgement) -> Said:
    return Said(
        str(judgement.verdict),
        str(judgement.action),
        judgement.rule,
        judgement.register_serial,
        judgement.policy_hash,
        judgement.flow.confidence,
        judgement.flow.phase,
    )
