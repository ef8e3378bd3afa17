"""Which attempts are announced one by one, and which are summarised.

A scanner opens thousands of handshakes that nobody answers. Per source prefix (/24, /48) and window of
packet time the first few are announced; the rest are counted and given as one summary per protocol when
the window ends. A flood from forged sources is another matter, many prefixes with an attempt or two: what
the overall rate keeps from them goes into one summary of the rest for each family and protocol. All tables
are bounded, and so is the number of summaries; every attempt is announced or in exactly one of them.

The rule a reader would get wrong: a prefix has a summary of its own when it made more attempts than would be
announced, whether they were or not. A prefix that is pushed out of the table before gives its summary
early, or goes to the rest, and is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from classifier.events import NANOSECONDS, AttemptsItem, rfc3339
from classifier.register.prefixes import address_text

WINDOW_NS = 60 * NANOSECONDS
_NEVER_NS = 1 << 63


@dataclass(frozen=True, slots=True)
class Rate:
    """How much is announced and held."""

    per_prefix: int = 10  # announced per prefix and window
    overall: int = 1_000  # announced per window, all prefixes together
    summaries: int = 1_000  # of prefixes, per window
    prefixes: int = 4_096  # windows held at once
    destinations: int = 32  # distinct destinations counted per summary


@dataclass(slots=True)
class _Count:
    first_ns: int
    last_ns: int
    flows: int = 0
    destinations: set[bytes] = field(default_factory=set)
    is_capped: bool = False
    prefixes: int = 0
    """Of the rest: so many windows of a prefix."""


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
        self._rest: dict[tuple[int, str], _Count] = {}  # by bytes of an address, and protocol
        self._rest_start_ns = 0
        self._closed: list[tuple[int, AttemptsItem]] = []
        self._overall_start_ns = 0
        self._overall = self._summaries = 0
        self.due_ns = _NEVER_NS
        """When the next summary is due: before that, `due` has nothing to give."""
        self.summarised = 0
        """Attempts counted instead of announced."""
        self.evicted = 0
        """Windows that ended early because too many prefixes were active."""

    def admit(self, source: bytes, destination: bytes, protocol: str, time_ns: int) -> bool:
        """Whether to announce this attempt; it is counted for a summary if not."""
        rate = self._rate
        prefix = source[:3] if len(source) == 4 else source[:6]
        if time_ns - self._overall_start_ns >= WINDOW_NS:
            self._overall_start_ns = time_ns
            self._overall = self._summaries = 0
        window = self._windows.get(prefix)
        if window is None:
            if len(self._windows) >= rate.prefixes:
                self._close(time_ns)
                self.evicted += 1
            window = self._windows[prefix] = _Window(time_ns)
            self._look_ahead()
        if window.announced < rate.per_prefix and self._overall < rate.overall:
            window.announced += 1
            self._overall += 1
            return True
        self.summarised += 1
        count = window.counts.get(protocol)
        if count is None:
            count = window.counts[protocol] = _Count(time_ns, time_ns)
        count.flows += 1
        count.last_ns = time_ns
        if destination not in count.destinations:
            self._add_destination(count, destination)
        return False

    def due(self, time_ns: int) -> Iterator[tuple[int, AttemptsItem]]:
        """Summaries of the windows that have ended by now, each with the time of its end."""
        while self._windows:
            end_ns = next(iter(self._windows.values())).start_ns + WINDOW_NS
            if end_ns > time_ns:
                break
            self._close(end_ns)
        if self._rest and self._rest_start_ns + WINDOW_NS <= time_ns:
            self._close_rest(self._rest_start_ns + WINDOW_NS)
        closed, self._closed = self._closed, []
        self._look_ahead()
        yield from closed

    def drain(self, time_ns: int) -> Iterator[tuple[int, AttemptsItem]]:
        """Summaries of all windows: the capture has ended."""
        while self._windows:
            self._close(time_ns)
        self._close_rest(time_ns)
        self._overall_start_ns = self._overall = self._summaries = 0
        yield from self.due(time_ns)

    def _look_ahead(self) -> None:
        """Set `due_ns`."""
        if self._closed:
            self.due_ns = 0
            return
        self.due_ns = self._rest_start_ns + WINDOW_NS if self._rest else _NEVER_NS
        for window in self._windows.values():
            self.due_ns = min(self.due_ns, window.start_ns + WINDOW_NS)
            return

    def _add_destination(self, count: _Count, destination: bytes) -> None:
        if len(count.destinations) < self._rate.destinations:
            count.destinations.add(destination)
        else:
            count.is_capped = True

    def _close(self, end_ns: int) -> None:
        """The oldest window ends."""
        prefix, window = self._windows.popitem(last=False)
        if not window.counts:
            return
        made = window.announced + sum(count.flows for count in window.counts.values())
        if made > self._rate.per_prefix and self._summaries < self._rate.summaries:
            self._summaries += 1
            for protocol, count in window.counts.items():
                self._closed.append((end_ns, _item(_text(prefix), protocol, count)))
            return
        if not self._rest:
            self._rest_start_ns = end_ns
        for protocol, count in window.counts.items():
            self._merge(4 if len(prefix) == 3 else 16, protocol, count)

    def _merge(self, family: int, protocol: str, count: _Count) -> None:
        rest = self._rest.get((family, protocol))
        if rest is None:
            rest = self._rest[family, protocol] = _Count(count.first_ns, count.last_ns)
        rest.first_ns = min(rest.first_ns, count.first_ns)
        rest.last_ns = max(rest.last_ns, count.last_ns)
        rest.flows += count.flows
        rest.prefixes += 1
        rest.is_capped |= count.is_capped
        if not rest.is_capped:
            for destination in sorted(count.destinations - rest.destinations):
                self._add_destination(rest, destination)

    def _close_rest(self, end_ns: int) -> None:
        for (family, protocol), count in self._rest.items():
            item = _item("0.0.0.0/0" if family == 4 else "::/0", protocol, count)
            item["prefixes"] = count.prefixes
            self._closed.append((end_ns, item))
        self._rest.clear()


def _item(prefix: str, protocol: str, count: _Count) -> AttemptsItem:
    return {
        "source_prefix": prefix,
        "protocol": protocol,
        "count": count.flows,
        "first": rfc3339(count.first_ns),
        "last": rfc3339(count.last_ns),
        "destinations": len(count.destinations),
        "destinations_capped": count.is_capped,
    }


def _text(prefix: bytes) -> str:
    if len(prefix) == 3:
        return f"{address_text(prefix + bytes(1))}/24"
    return f"{address_text(prefix + bytes(10))}/48"
