"""Which attempts are announced one by one, and which are summarised.

A scanner opens thousands of handshakes that nobody answers. Per source prefix (/24, /48) and window of
packet time the first few are announced; the rest are counted and given as one summary per protocol when
the window ends. All tables are bounded: a prefix pushed out gives its summary early, and is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from classifier.events import NANOSECONDS, AttemptsItem, rfc3339
from classifier.register.prefixes import address_text

WINDOW_NS = 60 * NANOSECONDS


@dataclass(frozen=True, slots=True)
class Rate:
    """How much is announced and held."""

    per_prefix: int = 10  # announced per prefix and window
    overall: int = 1_000  # announced per window, all prefixes together
    prefixes: int = 4_096  # windows held at once
    destinations: int = 32  # distinct destinations counted per summary


@dataclass(slots=True)
class _Count:
    flows: int
    first_ns: int
    last_ns: int
    destinations: set[bytes] = field(default_factory=set)
    capped: bool = False


@dataclass(slots=True)
class _Window:
    start_ns: int
    announced: int = 0
    counts: dict[str, _Count] = field(default_factory=dict)


class Attempts:
    """The windows of one capture."""

    def __init__(self, rate: Rate | None = None) -> None:
        self._rate = rate or Rate()
        self._windows: OrderedDict[bytes, _Window] = OrderedDict()  # in the order in which they end
        self._closed: list[tuple[int, AttemptsItem]] = []
        self._overall_start_ns = 0
        self._overall = 0
        self.summarised = 0
        """Attempts counted instead of announced."""
        self.evicted = 0
        """Windows that ended early because too many prefixes were active."""

    @property
    def due_ns(self) -> int:
        """When the next summary is due: before that, `due` has nothing to give."""
        if self._closed:
            return 0
        for window in self._windows.values():
            return window.start_ns + WINDOW_NS
        return 1 << 63

    def admit(self, source: bytes, destination: bytes, protocol: str, time_ns: int) -> bool:
        """Whether to announce this attempt; it is counted for a summary if not."""
        prefix = source[:3] if len(source) == 4 else source[:6]
        window = self._windows.get(prefix)
        if window is None:
            if len(self._windows) >= self._rate.prefixes:
                self._close(time_ns)
                self.evicted += 1
            window = self._windows[prefix] = _Window(time_ns)
        if time_ns - self._overall_start_ns >= WINDOW_NS:
            self._overall_start_ns, self._overall = time_ns, 0
        if window.announced < self._rate.per_prefix and self._overall < self._rate.overall:
            window.announced += 1
            self._overall += 1
            return True
        self.summarised += 1
        count = window.counts.get(protocol)
        if count is None:
            count = window.counts[protocol] = _Count(0, time_ns, time_ns)
        count.flows += 1
        count.last_ns = time_ns
        if destination not in count.destinations:
            if len(count.destinations) < self._rate.destinations:
                count.destinations.add(destination)
            else:
                count.capped = True
        return False

    def due(self, time_ns: int) -> Iterator[tuple[int, AttemptsItem]]:
        """Summaries of the windows that have ended by now, each with the time of its end."""
        while self._windows:
            end_ns = next(iter(self._windows.values())).start_ns + WINDOW_NS
            if end_ns > time_ns:
                break
            self._close(end_ns)
        closed, self._closed = self._closed, []
        yield from closed

    def drain(self, time_ns: int) -> Iterator[tuple[int, AttemptsItem]]:
        """Summaries of all windows: the capture has ended."""
        while self._windows:
            self._close(time_ns)
        self._overall_start_ns = self._overall = 0
        yield from self.due(time_ns)

    def _close(self, end_ns: int) -> None:
        prefix, window = self._windows.popitem(last=False)
        for protocol, count in window.counts.items():
            item: AttemptsItem = {
                "source_prefix": _text(prefix),
                "protocol": protocol,
                "count": count.flows,
                "first": rfc3339(count.first_ns),
                "last": rfc3339(count.last_ns),
                "destinations": len(count.destinations),
                "destinations_capped": count.capped,
            }
            self._closed.append((end_ns, item))


def _text(prefix: bytes) -> str:
    if len(prefix) == 3:
        return f"{address_text(prefix + bytes(1))}/24"
    return f"{address_text(prefix + bytes(10))}/48"
