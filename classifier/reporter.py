"""From batches to events: what the core says of flows, and what it cannot answer by itself.

In: the batches of one capture after the other. Out: events, those of flows as the lines they are written as.
The core decides what is told and when (`core/src/reporter.rs`): every flow is judged when it is first
reported and whenever a report about it arrives. It asks `answers` for what it has not been told about
others that are alike; what was said about a flow last is kept as a tag in the engine, so no second table of
flows exists here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import orjson

from classifier import _core
from classifier.answers import Answers
from classifier.attempts import Summary, attempts_item
from classifier.events import SCHEMA_VERSION, AttemptsEvent, Event, Place, VpnLines, attempts_event
from classifier.policy import Policy
from classifier.register import Register

if TYPE_CHECKING:
    from classifier.metrics.tally import Tally
    from classifier.pipeline import Settings

__all__ = ["Reporter"]

_EVENTS: Final = ("recognised", "changed", "update", "ended")


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
        constant = {"schema": SCHEMA_VERSION, "sensor": settings.sensor, "event_type": "vpn"}
        self._core = _core.Reporter(
            heads={event: _members(constant | {"event": event}) for event in _EVENTS},
            tail=_members({"version": _core.version}),
            as_of_ns=settings.as_of_ns,
            counts=tally is not None,
        )
        self._answers = Answers(register, policy or _no_policy(), settings.as_of_ns, self._core)
        self._place = place
        self._sensor = settings.sensor
        self._engine = engine
        self._events = 0
        self.first_ns: int | None = None
        """The time of the first event."""
        self.latest_ns = 0
        """The latest time of an event, whatever the capture."""

    @property
    def clock_ns(self) -> int:
        """Of the packets of the present capture, as far as rows have shown it."""
        return self._core.clock_ns

    def adopt(self, register: Register | None, policy: Policy | None) -> None:
        """Judge by these from here on."""
        self._answers.adopt(register, policy or _no_policy())

    def counters(self) -> dict[str, int]:
        """What this side counts, beside the engine's counters."""
        return {"events.vpn": self._events, **self._core.counters()}

    def batch(self, capture: str, batch: _core.FlowBatch) -> Iterator[Event | VpnLines]:
        """The events of one batch."""
        core = self._core
        core.begin(batch, _members({self._place: capture}))
        stop = ""
        while stop != "done":
            stop = core.go_on()
            if self._tally is not None:
                self._count(self._tally)
            if stop == "question":
                self._answers.learn()
                continue
            lines = core.lines()
            if lines is not None:
                yield self._told(lines)
            if stop == "summaries":
                yield from self._summaries(capture, core.summaries())
        handles, tags = core.tags()
        if handles:
            self._engine.set_tags(handles, tags)

    def _told(self, lines: _core.Lines) -> VpnLines:
        counted = self._answers.counted
        ends = lines.ends
        self._events += len(ends)
        self._meet(lines.first_ns)
        self._meet(lines.latest_ns)
        return VpnLines(
            lines.text, ends, lines.cases, lines.flow_ids, lines.ended, [counted[n] for n in lines.counted]
        )

    def _count(self, tally: Tally) -> None:
        """For metrics, what was said since the last time; before the core learns, since tags may be
        forgotten."""
        said = self._answers.said
        told, summarised, looked_up = self._core.counts()
        for protocol, subject, time_ns, before, now, first in told:
            tally.told(protocol, subject, time_ns, said.get(before), said[now], first)
        for protocol, confidence in summarised:
            tally.summarised(protocol, confidence)
        for seconds in looked_up:
            tally.looked_up(seconds)

    def advance(self, capture: str, time_ns: int) -> Iterator[AttemptsEvent]:
        """It is this time now, if it was not already: the summaries that are due."""
        yield from self._summaries(capture, self._core.advance(time_ns))

    def end(self, capture: str) -> Iterator[AttemptsEvent]:
        """The capture has ended: the summaries still open."""
        yield from self._summaries(capture, self._core.end())

    def _summaries(self, capture: str, summaries: Iterable[Summary]) -> Iterator[AttemptsEvent]:
        for summary in summaries:
            self._meet(summary[0])
            yield attempts_event(summary[0], self._sensor, self._place, capture, attempts_item(summary))

    def _meet(self, time_ns: int) -> None:
        """An event has this time."""
        if self.first_ns is None:
            self.first_ns = time_ns
        self.latest_ns = max(self.latest_ns, time_ns)


def _no_policy() -> Policy:
    """Which says that nothing was evaluated."""
    return Policy(sha256="", rules=())


def _members(part: dict[str, str]) -> bytes:
    """Members of a JSON object without its braces."""
    return orjson.dumps(part)[1:-1]
