"""What the counters say of the mirror: whether its traffic looks one-way, sampled, duplicated or stripped.

In: the counters of a live capture (`mirror.*` from the core's survey, `duplicates`, what was lost on this
side), now and then. Out: a line each time that a look begins or ends, and the set of looks for the metrics.

Two rules a reader would get wrong. A look is judged on enough cases of its own, or not at all, and a sound
mirror shows none of them even on a bad network: the shares below are far beyond what loss, reordering, scans
or asymmetric routes of some hosts make. And what this side lost itself says nothing of the mirror: counts of
gaps are thrown away when packets were dropped meanwhile, or an interface was away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from classifier.pipeline import Settings

__all__ = ["LOOKS", "MirrorLog"]

_LOOK_S: Final = 1.0
_AGAIN_S: Final = 60.0
"""Between two judgements of a look; the first comes as soon as there is enough."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One way in which a mirror may be unsound."""

    kind: str
    part: str
    """Counter of the cases that look like it,"""
    whole: str
    """and of all cases."""
    enough: int
    """So many cases are needed."""
    share: float
    """From this share on it is said, and no longer below half of it."""
    words: str
    """What is said, with `part`, `whole` and `share` in it."""
    by_loss: bool = False
    """Losses on this side look the same."""


# Shares: a sound mirror shows (nearly) none of these cases, an unsound one nearly all.
_LOOKS: Final = (
    # Twenty segments of one side and none of the other cannot be where both pass; some hosts' routes are
    # asymmetric, those of half of all connections are not.
    _Look(
        "one-way",
        "mirror.connections_one_way",
        "mirror.connections",
        50,
        0.5,
        "of {whole:,} TCP connections, {part:,} show one direction only. Check that the mirror copies what "
        "is received and what is sent, and that both directions of a path come here",
    ),
    # More than a tenth of a stream that never comes, where TCP sends again what is lost.
    _Look(
        "sampled",
        "mirror.streams_with_gaps",
        "mirror.streams",
        50,
        0.5,
        "in {part:,} of {whole:,} numbered streams (TCP, ESP, WireGuard) more than a tenth never came, and "
        "nothing was lost here. Check for sampling, and for a mirror port that is slower than what it copies",
        by_loss=True,
    ),
    # Retransmissions have another identification; what is left is rare.
    _Look(
        "duplicated",
        "duplicates",
        "flow_packets",
        5_000,
        0.1,
        "{share:.0%} of {whole:,} packets came twice within 10 ms. Check that the mirror copies one "
        "direction of each port, and one VLAN of a trunk; --remove-duplicates counts them once",
    ),
    # No sound frame is shorter than its IP packet.
    _Look(
        "stripped",
        "mirror.payloads_cut",
        "mirror.payloads",
        500,
        0.1,
        "{share:.0%} of {whole:,} packets hold less than their IP header says (frames of up to {cut:,} "
        "bytes). Check truncation (packet slicing) at the mirror, and --snap-length",
    ),
    # A flow that begins with the same byte over and over is a rarity.
    _Look(
        "stripped",
        "mirror.first_payloads_blank",
        "mirror.first_payloads",
        50,
        0.5,
        "of {whole:,} flows, {part:,} begin with one byte over and over. Check whether payload is masked on "
        "its way here",
    ),
)

LOOKS: Final = tuple(dict.fromkeys(look.kind for look in _LOOKS))
"""All kinds, for a metric's label."""


@dataclass(slots=True)
class _State:
    """Of one look."""

    began: Mapping[str, int] = field(default_factory=dict)
    """The counters when its time began."""
    judged_at: float | None = None
    is_seen: bool = False
    is_spoilt: bool = False
    """Something was lost here, in this time or just before."""


class MirrorLog:
    """Says once when the traffic begins to look unsound, and when it no longer does."""

    def __init__(
        self,
        counters: Callable[[], Mapping[str, int]],
        settings: Settings,
        say: Callable[[str], None],
    ) -> None:
        self._counters = counters
        self._expression = settings.filter
        self._say = say
        removes = settings.remove_duplicates
        self._states = {look: _State() for look in _LOOKS if not (removes and look.kind == "duplicated")}
        self._lost = 0
        self._look_at = 0.0

    def suspected(self) -> frozenset[str]:
        """The kinds that the traffic looks like now."""
        return frozenset(look.kind for look, state in self._states.items() if state.is_seen)

    def tick(self, *, last: bool = False) -> None:
        """Look, if it is time to; the last time it always is."""
        now = time.monotonic()
        if now < self._look_at and not last:
            return
        self._look_at = now + _LOOK_S
        counted = self._counters()
        lost = counted.get("kernel.dropped", 0) + counted.get("interfaces.downs", 0)
        is_spoilt, self._lost = lost > self._lost, lost
        for look, state in self._states.items():
            state.is_spoilt |= is_spoilt and look.by_loss
            if state.judged_at is None or now >= state.judged_at + _AGAIN_S:
                self._judge(look, state, counted, now)

    def _judge(self, look: _Look, state: _State, counted: Mapping[str, int], now: float) -> None:
        part, whole = (counted.get(name, 0) - state.began.get(name, 0) for name in (look.part, look.whole))
        if whole < look.enough:
            return
        was_spoilt, state.is_spoilt = state.is_spoilt, False
        state.began, state.judged_at = counted, now
        share = part / whole
        is_seen = share >= (look.share / 2 if state.is_seen else look.share)
        if was_spoilt or is_seen == state.is_seen:
            return
        state.is_seen = is_seen
        if not state.is_seen:
            self._say(f"the traffic no longer looks {look.kind}")
            return
        cut = counted.get("mirror.longest_cut_frame", 0)
        words = look.words.format(part=part, whole=whole, share=share, cut=cut)
        also = f" (or the expression {self._expression!r} selects it so)" if self._expression else ""
        self._say(f"the traffic looks {look.kind}{also}: {words}")
