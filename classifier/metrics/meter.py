"""The numbers of a run, taken when somebody asks, between two polls: so all of them are of one moment.

In: `tick` from the loop of the run. Out: `reading`, for other threads. A thread that asks waits until the
run comes by, a poll's length, and no longer than `_PATIENCE_S`: of a run that hangs it gets the last
numbers, whose time says so.

The rule a reader would get wrong: who asks never touches the run, so that no packet waits for a scrape,
and a hundred who ask at once cost the run one look.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from classifier.metrics.tally import Tally, TallyCopy
from classifier.pipeline import Figures, Replay
from classifier.sinks import CountedSink, SinkCounters

__all__ = ["Meter", "Reading"]

_PATIENCE_S: Final = 0.2
_FRESH_S: Final = 0.1  # a reading that is as young as this is given again
_HANGS_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a run had counted at one moment."""

    time_s: float
    """By the host's clock since 1970."""
    figures: Figures
    tally: TallyCopy
    sinks: tuple[SinkCounters, ...]


class Meter:
    """Reads one run. Made before the run begins, by the thread that runs it."""

    def __init__(self, run: Replay, tally: Tally, sinks: Sequence[CountedSink] = ()) -> None:
        self._run = run
        self._tally = tally
        self._sinks = sinks
        self.thread = threading.get_native_id()
        """Of the run."""
        self._asked = False
        self._taken = threading.Condition()
        self._turned = time.monotonic()
        self._reading = self._read()
        self._read_at = self._turned

    def tick(self) -> None:
        """The run has come by: it does what it does many times a second."""
        self._turned = time.monotonic()
        if self._asked:
            self.take()

    def take(self) -> None:
        """Take the numbers now; by the thread of the run."""
        self._asked = False
        self._turned = time.monotonic()
        reading = self._read()
        with self._taken:
            self._reading, self._read_at = reading, self._turned
            self._taken.notify_all()

    def reading(self) -> Reading:
        """The numbers of this moment, or the latest there are."""
        began = time.monotonic()
        with self._taken:
            if began - self._read_at > _FRESH_S:
                self._asked = True
                self._taken.wait_for(lambda: self._read_at >= began, _PATIENCE_S)
            return self._reading

    def is_healthy(self) -> bool:
        """Whether the run goes on."""
        return time.monotonic() - self._turned < _HANGS_S

    def is_ready(self) -> bool:
        """Whether it listens: an interface is up, and nobody told it to stop. Its register may be stale."""
        figures = self.reading().figures
        return not figures.is_stopping and any(interface.up for interface in figures.interfaces)

    def _read(self) -> Reading:
        figures = self._run.figures()
        sinks = tuple(sink.counters() for sink in self._sinks)
        return Reading(time.time(), figures, self._tally.copy(figures.at_ns), sinks)
