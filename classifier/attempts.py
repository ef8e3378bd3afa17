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
from dataclasses import dataclass
from itertools import islice

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
    flows: int
    destinations: set[bytes]
    is_capped: bool = False
    prefixes: int = 0
    """Of the rest: so many windows of a prefix."""


@dataclass(slots=True)
class _Window:
    start_ns: int
    made: int
    """Announced or not."""
    counts: dict[str, _Count]
    """By protocol, of those that were not announced."""


_Single = tuple[int, str, bytes, bool]
"""The only attempt of a prefix until now: time, protocol, destination, and whether it was announced.

A flood from forged sources has few others, and the garbage collector has no work with such a tuple."""


class Attempts:
    """Decides which attempts are announced, and counts the others."""

    def __init__(self, rate: Rate | None = None) -> None:
        self._rate = rate or Rate()
        self._windows: OrderedDict[bytes, _Single | _Window] = OrderedDict()  # in the order in which they end
        self._rest: dict[tuple[int, str], _Count] = {}  # by bytes of an address, and protocol
        self._rest_start_ns = 0
        self._closed: list[tuple[int, AttemptsItem]] = []
        self._overall_start_ns = 0
        self._overall = self._summaries = 0
        self.due_ns = _NEVER_NS
        """Before that, `due` has nothing to give."""
        self.summarised = 0
        """Attempts counted instead of announced."""
        self.evicted = 0
        """Windows that ended early because too many prefixes were active."""

    def admit(self, source: bytes, destination: bytes, protocol: str, time_ns: int) -> bool:
        """Whether to announce this attempt; it is counted for a summary if not."""
        if time_ns - self._overall_start_ns >= WINDOW_NS:
            self._overall_start_ns = time_ns
            self._overall = self._summaries = 0
        prefix = source[:3] if len(source) == 4 else source[:6]
        window = self._windows.get(prefix)
        if window is None:
            is_announced = self._rate.per_prefix > 0 and self._overall < self._rate.overall
            self._open(prefix, (time_ns, protocol, destination, is_announced))
        else:
            if isinstance(window, tuple):
                window = self._windows[prefix] = _window(window)
            window.made += 1
            is_announced = window.made <= self._rate.per_prefix and self._overall < self._rate.overall
            if not is_announced:
                self._add(window, protocol, destination, time_ns)
        if is_announced:
            self._overall += 1
        else:
            self.summarised += 1
        return is_announced

    def due(self, time_ns: int) -> list[tuple[int, AttemptsItem]]:
        """Summaries of the windows that have ended by now, each with the time of its end."""
        while self._windows:
            end_ns = _start_ns(next(iter(self._windows.values()))) + WINDOW_NS
            if end_ns > time_ns:
                break
            self._close(end_ns)
        if self._rest and self._rest_start_ns + WINDOW_NS <= time_ns:
            self._close_rest(self._rest_start_ns + WINDOW_NS)
        closed, self._closed = self._closed, []
        starts_ns = [_start_ns(window) for window in islice(self._windows.values(), 1)]
        if self._rest:
            starts_ns.append(self._rest_start_ns)
        self.due_ns = min(starts_ns) + WINDOW_NS if starts_ns else _NEVER_NS
        return closed

    def drain(self, time_ns: int) -> list[tuple[int, AttemptsItem]]:
        """Summaries of all windows: the capture has ended."""
        while self._windows:
            self._close(time_ns)
        self._close_rest(time_ns)
        self._overall_start_ns = self._overall = self._summaries = 0
        return self.due(time_ns)

    def _open(self, prefix: bytes, single: _Single) -> None:
        time_ns = single[0]
        if len(self._windows) >= self._rate.prefixes:
            self._close(time_ns)
            self.evicted += 1
        self._windows[prefix] = single
        self.due_ns = min(self.due_ns, time_ns + WINDOW_NS)

    def _add(self, window: _Window, protocol: str, destination: bytes, time_ns: int) -> None:
        count = window.counts.get(protocol)
        if count is None:
            window.counts[protocol] = _Count(time_ns, time_ns, 1, {destination})
            return
        count.flows += 1
        count.last_ns = time_ns
        self._add_destination(count, destination)

    def _add_destination(self, count: _Count, destination: bytes) -> None:
        if destination in count.destinations:
            return
        if len(count.destinations) < self._rate.destinations:
            count.destinations.add(destination)
        else:
            count.is_capped = True

    def _close(self, end_ns: int) -> None:
        """The oldest window ends."""
        prefix, window = self._windows.popitem(last=False)
        family = 4 if len(prefix) == 3 else 16
        if isinstance(window, tuple) and self._rate.per_prefix > 0:
            time_ns, protocol, destination, is_announced = window
            if not is_announced:
                rest = self._rest_of(family, protocol, time_ns, end_ns)
                rest.last_ns = max(rest.last_ns, time_ns)
                rest.flows += 1
                rest.prefixes += 1
                self._add_destination(rest, destination)
            return
        if isinstance(window, tuple):
            window = _window(window)
        if window.made > self._rate.per_prefix and self._summaries < self._rate.summaries:
            self._summaries += bool(window.counts)
            for protocol, count in window.counts.items():
                self._closed.append((end_ns, _item(_text(prefix), protocol, count)))
                self.due_ns = 0
        else:
            for protocol, count in window.counts.items():
                rest = self._rest_of(family, protocol, count.first_ns, end_ns)
                rest.last_ns = max(rest.last_ns, count.last_ns)
                rest.flows += count.flows
                rest.prefixes += 1
                rest.is_capped |= count.is_capped
                for destination in sorted(count.destinations):
                    self._add_destination(rest, destination)

    def _rest_of(self, family: int, protocol: str, first_ns: int, end_ns: int) -> _Count:
        """Where windows that ended at `end_ns` are counted together, the first attempt of one included."""
        if not self._rest:
            self._rest_start_ns = end_ns
            self.due_ns = min(self.due_ns, end_ns + WINDOW_NS)
        rest = self._rest.get((family, protocol))
        if rest is None:
            rest = self._rest[family, protocol] = _Count(first_ns, first_ns, 0, set())
        elif first_ns < rest.first_ns:
            rest.first_ns = first_ns
        return rest

    def _close_rest(self, end_ns: int) -> None:
        for (family, protocol), count in self._rest.items():
            item = _item("0.0.0.0/0" if family == 4 else "::/0", protocol, count)
            item["prefixes"] = count.prefixes
            self._closed.append((end_ns, item))
        self._rest.clear()


def _window(single: _Single) -> _Window:
    time_ns, protocol, destination, is_announced = single
    counts = {} if is_announced else {protocol: _Count(time_ns, time_ns, 1, {destination})}
    return _Window(time_ns, 1, counts)


def _start_ns(window: _Single | _Window) -> int:
    return window[0] if isinstance(window, tuple) else window.start_ns


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
