"""About how many distinct things were seen lately, by kind, in little memory: HyperLogLog (Flajolet et al.,
2007), read with Ertl's estimator (2017), which needs no correction for small numbers.

In: things and their times. Out: an estimate for each kind, with a standard error of 2.3 %, over the last
`WINDOWS` windows of four hours, the present one included: the last 20 to 24 hours. A kind has 2 KiB a
window.

The rule a reader would get wrong: what is counted in two windows is counted once, since sketches are
merged by their greatest values and not added up. Hashes are keyed anew in every process (Python's
SipHash), so nobody can choose addresses that spoil the estimate, and no sketch means anything to another
process.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Final

__all__ = ["STANDARD_ERROR", "WINDOWS", "WINDOW_NS", "Distinct", "estimate"]

WINDOW_NS: Final = 4 * 3600 * 1_000_000_000
WINDOWS: Final = 6
_PLACE_BITS: Final = 11
_PLACES: Final = 1 << _PLACE_BITS
_RANK_BITS: Final = 64 - _PLACE_BITS
STANDARD_ERROR: Final = 1.04 / math.sqrt(_PLACES)


class Distinct:
    """Sketches by window and kind; the oldest window goes when a new one begins."""

    def __init__(self) -> None:
        self._windows: dict[int, dict[str, bytearray]] = {}

    def add(self, kind: str, thing: Hashable, time_ns: int = 0) -> None:
        """Count a thing that was seen at this time."""
        number = time_ns // WINDOW_NS
        window = self._windows.get(number)
        if window is None:
            window = self._windows[number] = {}
            for old in sorted(self._windows)[:-WINDOWS]:
                del self._windows[old]
        sketch = window.get(kind)
        if sketch is None:
            sketch = window[kind] = bytearray(_PLACES)
        number = hash(thing) & 0xFFFF_FFFF_FFFF_FFFF
        place = number & (_PLACES - 1)
        rank = _RANK_BITS + 1 - (number >> _PLACE_BITS).bit_length()
        if rank > sketch[place]:
            sketch[place] = rank

    def sketches(self, time_ns: int = 0) -> dict[str, list[bytes]]:
        """A copy of what is still in its time, for `estimate`."""
        oldest = time_ns // WINDOW_NS - WINDOWS + 1
        found: dict[str, list[bytes]] = {}
        for number, window in self._windows.items():
            if number >= oldest:
                for kind, sketch in window.items():
                    found.setdefault(kind, []).append(bytes(sketch))
        return found


def estimate(sketches: Mapping[str, Iterable[bytes]]) -> dict[str, float]:
    """The number of distinct things of each kind."""
    return {kind: _estimate(windows) for kind, windows in sketches.items()}


def _estimate(windows: Iterable[bytes]) -> float:
    first, *others = windows
    ranks: Counter[int] = Counter(map(max, first, *others) if others else first)
    empty = ranks.pop(0, 0)
    if empty == _PLACES:
        return 0.0
    weight = _PLACES * _sigma(empty / _PLACES) + sum(
        math.ldexp(count, -rank) for rank, count in ranks.items()
    )
    return _PLACES * _PLACES / (2 * math.log(2) * weight)


def _sigma(share: float) -> float:
    """What the share of empty places, below 1, adds: share + the sum of share^(2^k) 2^(k-1) for k from 1."""
    found, power, weight = share, share * share, 1.0
    while found + power * weight != found:
        found += power * weight
        power, weight = power * power, 2 * weight
    return found
