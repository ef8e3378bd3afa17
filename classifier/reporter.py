"""From rows of batches to events: what is said of a flow, and when.

In: the batches of one capture after the other. Out: events, those of flows as the lines they are written as.
Every flow is judged when it is first reported and whenever a report about it arrives (`answers`); what was
said about it last is kept as a tag in the engine, so no second table of flows exists here. Cases, rates and
the packet clock begin anew with each capture.

The rule a reader would get wrong: the tag that a batch shows for a flow is the one from before the batch, so
several rows of one flow need the batch's own memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import orjson

from classifier import _core
from classifier.answers import Answers
from classifier.attempts import Attempts
from classifier.cases import Cases, FirstSeen
from classifier.events import (
    NANOSECONDS,
    SCHEMA_VERSION,
    AttemptsEvent,
    AttemptsItem,
    Counted,
    Event,
    Place,
    VpnLines,
    attempts_event,
)
from classifier.policy import Policy
from classifier.register import Register

if TYPE_CHECKING:
    from classifier.metrics.tally import Tally
    from classifier.pipeline import Settings

__all__ = ["RUNS_NS", "Reporter"]

RUNS_NS: Final = 60 * NANOSECONDS
"""So long after its last packet, a flow may be over."""
_ROWS: Final = 256  # at once: with their lines, what a core's cache holds
_EVENTS: Final = ("recognised", "changed", "update", "ended")
_COLUMNS: Final = (
    *("report", "protocol", "phase", "time_ns", "start_ns", "end_ns"),
    *("flow_id", "handle", "tag", "source", "destination"),
)
_Line = tuple[int, bytes, tuple[bytes, ...], int, bool, Counted]
"""To be written: row, head and policy for `_core.FlowBatch.event_lines`; what stands beside the line."""


class Reporter:
    """Turns the rows of batches into events."""

    def __init__(
        self,
        register: Register | None,
        policy: Policy | None,
        settings: Settings,
        engine: _core.Engine,
        place: Place,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally
        self._first_seen = FirstSeen()
        self._answers = Answers(register, policy or _no_policy(), settings.as_of_ns, self._first_seen.since)
        self._place = place
        self._as_of_ns = settings.as_of_ns
        self._sensor = settings.sensor
        self._engine = engine
        self._cases = Cases()
        self._attempts = Attempts()
        self._events = 0
        constant = {"schema": SCHEMA_VERSION, "sensor": settings.sensor, "event_type": "vpn"}
        self._heads = {event: _members(constant | {"event": event}) for event in _EVENTS}
        self._tail = _members({"version": _core.version})
        self.clock_ns = 0
        """Of the packets of the present capture, as far as rows have shown it."""
        self.first_ns: int | None = None
        """The time of the first event."""
        self.latest_ns = 0
        """The latest time of an event, whatever the capture."""

    def adopt(self, register: Register | None, policy: Policy | None) -> None:
        """Judge by these from here on."""
        self._answers.adopt(register, policy or _no_policy())

    def counters(self) -> dict[str, int]:
        """What this side counts, beside the engine's counters."""
        return {
            "events.vpn": self._events,
            "attempts.summarised": self._attempts.summarised,
            "attempts.windows_evicted": self._attempts.evicted,
            "cases.evicted": self._cases.evicted,
            "cases.first_seen_evicted": self._first_seen.evicted,
        }

    def batch(self, capture: str, batch: _core.FlowBatch) -> Iterator[Event | VpnLines]:
        """The events of one batch."""
        tags: dict[int, int] = {}  # by handle: set in this batch
        for part in batch.parts(_ROWS):
            yield from self._part(capture, part, tags)
        if tags:
            self._engine.set_tags(list(tags), list(tags.values()))

    def _part(self, capture: str, part: _core.FlowBatch, tags: dict[int, int]) -> Iterator[Event | VpnLines]:
        answers, attempts, tally = self._answers, self._attempts, self._tally
        as_of_ns, heads = self._as_of_ns, self._heads
        began = time.perf_counter()
        classes = part.of_ends(answers.classes), part.of_state(answers.classes)
        classified_s = (time.perf_counter() - began) / len(part)
        columns = (getattr(part, column) for column in _COLUMNS)
        lines: list[_Line] = []
        for (
            place,
            report,
            protocol,
            phase,
            time_ns,
            start_ns,
            end_ns,
            flow_id,
            handle,
            tag,
            source,
            destination,
            ends_class,
            state_class,
        ) in zip(range(len(part)), *columns, *classes, strict=True):
            if time_ns > self.clock_ns:
                self.clock_ns = time_ns
                if attempts.due_ns <= time_ns and (summaries := attempts.due(time_ns)):
                    yield from self._written(part, lines, capture)
                    lines = []
                    yield from self._summaries(capture, summaries)
            if handle in tags:
                tag = tags[handle]
            if phase == "attempt" and tag not in answers.said:
                if report != "recognised":
                    continue  # counted in a summary, and still an attempt
                if not attempts.admit(source, destination, protocol, time_ns):
                    if tally is not None:
                        tally.summarised(protocol, part.row(place).confidence[0])
                    continue

            if as_of_ns is not None:
                at_ns, start_ns = as_of_ns, as_of_ns - (end_ns - start_ns)
            else:
                # When a flow ends, the clock may be an idle timeout past its last packet: nothing was sent.
                at_ns = end_ns if report == "ended" and end_ns < time_ns else time_ns
            row = part, place, report, protocol, phase, source, destination, start_ns, tag
            if tally is None or not tally.is_timed():
                ends, answer, seen_ns = answers.of(*row, ends_class, state_class, at_ns)
            else:
                began = time.perf_counter()
                ends, answer, seen_ns = answers.of(*row, ends_class, state_class, at_ns)
                tally.looked_up(classified_s + time.perf_counter() - began)
            if answer.turns and as_of_ns is None and end_ns < time_ns - RUNS_NS:
                # It may be over, and a date may have passed since: what was never sent is not flagged.
                silent = answers.of(*row, ends_class, state_class, end_ns)
                if silent[1].now.action != "flag":
                    if report == "milestone":
                        continue
                    ends, answer, seen_ns = silent

            if report == "ended":
                tags.pop(handle, None)
            elif answer.tag != tag:
                tags[handle] = answer.tag
            if answer.event is None:
                continue
            here, there = (destination, source) if ends.subject_answers else (source, destination)
            first = answer.newly_flagged and self._cases.first(here, there, protocol, time_ns)
            if tally is not None:
                tally.told(protocol, here, time_ns, answers.said.get(tag), answer.now, first)
            if self.first_ns is None:
                self.first_ns = time_ns
            if time_ns > self.latest_ns:
                self.latest_ns = time_ns
            policy = answer.policy(ends, first, seen_ns)
            lines.append((place, heads[answer.event], policy, flow_id, report == "ended", answer.counted))
        yield from self._written(part, lines, capture)

    def _written(self, part: _core.FlowBatch, lines: list[_Line], capture: str) -> Iterator[VpnLines]:
        """What has been gathered, if anything."""
        if lines:
            self._events += len(lines)
            rows, heads, policies, flow_ids, ended, counted = zip(*lines, strict=True)
            name = _members({self._place: capture})
            text, ends = part.event_lines(rows, heads, policies, name, self._tail)
            yield VpnLines(text, ends, flow_ids, ended, counted)

    def advance(self, capture: str, time_ns: int) -> Iterator[AttemptsEvent]:
        """It is this time now, if it was not already: the summaries that are due."""
        if time_ns > self.clock_ns:
            self.clock_ns = time_ns
            if self._attempts.due_ns <= time_ns:
                yield from self._summaries(capture, self._attempts.due(time_ns))

    def end(self, capture: str) -> Iterator[AttemptsEvent]:
        """The capture has ended: the summaries still open."""
        yield from self._summaries(capture, self._attempts.drain(self.clock_ns))
        self._cases.clear()
        self._first_seen.clear()
        self.clock_ns = 0

    def _summaries(self, capture: str, items: Iterable[tuple[int, AttemptsItem]]) -> Iterator[AttemptsEvent]:
        for time_ns, item in items:
            if self.first_ns is None:
                self.first_ns = time_ns
            self.latest_ns = max(self.latest_ns, time_ns)
            yield attempts_event(time_ns, self._sensor, self._place, capture, item)


def _no_policy() -> Policy:
    """Which says that nothing was evaluated."""
    return Policy(sha256="", rules=())


def _members(part: dict[str, str]) -> bytes:
    """Members of a JSON object without its braces."""
    return orjson.dumps(part)[1:-1]
