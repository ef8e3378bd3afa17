"""What metrics count of the judging side, while it judges.

In: from `reporter.Reporter`, each thing that is said of a flow. Out: counts by closed lists, and sketches
of the subjects, for `Figures` of the same moment. What only the engine knows is not here.

The rule a reader would get wrong: a flow counts once in every (confidence, phase) that it reaches, so
that a counter moves when it happens and never back; sums over confidence or phase count flows several
times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Final, Protocol

from classifier.metrics.distinct import Distinct

__all__ = ["LOOKUP_BOUNDS", "Tally", "TallyCopy"]

LOOKUP_BOUNDS: Final = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3, 1e-2)
"""Upper bounds in seconds of the buckets of look-up times; the last bucket has none."""
_ATTEMPT: Final = "attempt"


class _Said(Protocol):
    """What is said of a flow, and how far it was then."""

    @property
    def verdict(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def confidence(self) -> str: ...
    @property
    def phase(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TallyCopy:
    """The counts of one moment."""

    flows: Counter[tuple[str, ...]]
    """By protocol, confidence and phase that were reached."""
    verdicts: Counter[tuple[str, ...]]
    """Given to flows past attempt, by protocol, verdict and action."""
    cases: Counter[str]
    """First flags, by verdict."""
    subscribers: dict[str, list[bytes]]
    """By verdict, sketches for `distinct.estimate`."""
    lookups: tuple[int, ...]
    """Timed look-ups in each bucket."""
    lookup_seconds: float
    """All timed look-ups together."""


class Tally:
    """Counts what is said of flows. `windowed`: only the subscribers of the last hours count, else all."""

    def __init__(self, *, windowed: bool = True) -> None:
        self._windowed = windowed
        self._flows: Counter[tuple[str, ...]] = Counter()
        self._verdicts: Counter[tuple[str, ...]] = Counter()
        self._cases: Counter[str] = Counter()
        self._subscribers = Distinct()
        self._lookups = [0] * (len(LOOKUP_BOUNDS) + 1)
        self._lookup_seconds = 0.0

    def summarised(self, protocol: str, confidence: str) -> None:
        """An attempt that is counted in a summary, and never told of."""
        self._flows[protocol, confidence, _ATTEMPT] += 1

    def told(
        self, protocol: str, subject: bytes, time_ns: int, before: _Said | None, now: _Said, first: bool
    ) -> None:
        """Something is said of a flow. `first`: it is the first flag of a case."""
        phase, confidence = now.phase, now.confidence
        if before is None or before.phase != phase or before.confidence != confidence:
            self._flows[protocol, confidence, phase] += 1
        if phase == _ATTEMPT:
            return
        verdict, action = now.verdict, now.action
        if before is None or before.phase == _ATTEMPT or before.verdict != verdict or before.action != action:
            self._verdicts[protocol, verdict, action] += 1
        if first:
            self._cases[verdict] += 1
        subscriber = subject if len(subject) == 4 else subject[:8]
        self._subscribers.add(verdict, subscriber, time_ns if self._windowed else 0)

    def looked_up(self, seconds: float) -> None:
        """So long took a look-up that was timed."""
        self._lookups[bisect_left(LOOKUP_BOUNDS, seconds)] += 1
        self._lookup_seconds += seconds

    def copy(self, time_ns: int) -> TallyCopy:
        """The counts at this time."""
        return TallyCopy(
            flows=self._flows.copy(),
            verdicts=self._verdicts.copy(),
            cases=self._cases.copy(),
            subscribers=self._subscribers.sketches(time_ns if self._windowed else 0),
            lookups=tuple(self._lookups),
            lookup_seconds=self._lookup_seconds,
        )
