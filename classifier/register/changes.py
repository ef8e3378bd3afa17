"""What a feed changes: the former rows of its source and the rows of the feed -> rows to put, and counts.

    in the feed, not in the store               new
    in both, alike                              nothing
    in both, another state (approved ...)       status
    in both, something else differs             changed
    missing since some issue, in the feed now   back
    not in the feed, and the feed is complete   missing: in grace from the feed's issue on
    not in the feed otherwise                   nothing
    of an id that was set aside                 nothing: as it was

Rows of one id agree in everything but the prefix, so what a feed says of an id holds for those of its rows
too that the feed lacks.

One rule a reader would get wrong: a row that is lost is one that may have made a flow pass or wait (approved
or on its way there, not ended), and no longer will; what had ended before may leave unnoticed.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

from classifier.register.entry import Category, Entry, Kind, Status
from classifier.register.prefixes import Prefix

__all__ = ["COUNTS", "IRREPLACEABLE", "Changes", "Loss", "changes_of"]

COUNTS: Final = ("new", "changed", "status", "missing", "back", "unchanged", "set_aside")
HOPEFUL: Final = frozenset({Status.SUBMITTED, Status.PENDING, Status.APPROVED})
# Of these, thousands depend on every row.
IRREPLACEABLE: Final = frozenset({Kind.LICENSED_PROVIDER, Kind.CARRIER_SERVICE, Kind.OPERATOR_INFRASTRUCTURE})
GREATEST_LOSS: Final = 0.1
# Suspending or revoking a few rows is a decision, and most kinds and categories are small.
FEW: Final = 5

Group = tuple[Kind, Category]


@dataclass(frozen=True, slots=True)
class Loss:
    """How much of a kind and category a feed takes away, where that is too much to be done unasked."""

    kind: Kind
    category: Category
    rows: int
    of: int

    def __str__(self) -> str:
        return (
            f"a loss of {self.rows:,} of {self.of:,} rows of {self.kind}, {self.category} "
            f"({100 * self.rows / self.of:.0f} %)"
        )


@dataclass(slots=True)
class Changes:
    """What an import does."""

    rows: list[Entry] = field(default_factory=list)
    """As they are from now on."""
    counts: dict[Group, Counter[str]] = field(default_factory=dict)
    """How many rows of each kind and category (as they are now) are `COUNTS`."""
    statuses: Counter[tuple[Kind, Status, Status]] = field(default_factory=Counter)
    """Kind, status before, status now."""
    backdated: int = 0
    """Rows of another state whose `status_since` stayed the same: the past looks as if it had been so."""
    _live: Counter[Group] = field(default_factory=Counter)
    _gone: Counter[Group] = field(default_factory=Counter)
    _withdrawn: Counter[Group] = field(default_factory=Counter)

    def total(self, name: str) -> int:
        """How many rows are `name`, all kinds together."""
        return sum(counter[name] for counter in self.counts.values())

    def losses(self) -> list[Loss]:
        """What must not be lost unasked: see `Loss`."""
        found = []
        for group, of in self._live.items():
            gone, withdrawn = self._gone[group], self._withdrawn[group]
            lost = gone + withdrawn
            if group[0] not in IRREPLACEABLE:
                if withdrawn < FEW:
                    lost = gone
                if lost <= GREATEST_LOSS * of:
                    continue
            if lost:
                found.append(Loss(*group, lost, of))
        return sorted(found, key=lambda loss: (loss.kind, loss.category))

    def count(self, entry: Entry, name: str) -> None:
        """One more row that is `name`."""
        self.counts.setdefault((entry.kind, entry.category), Counter())[name] += 1

    def compare(self, was: Entry, now: Entry, at_ns: int) -> None:
        """A row that was there before."""
        if now == was:
            self.count(now, "unchanged")
        else:
            self.rows.append(now)
            if was.missing_since_ns is None and now.missing_since_ns is not None:
                self.count(now, "missing")
            elif was.missing_since_ns is not None and now.missing_since_ns is None:
                self.count(now, "back")
            else:
                self.count(now, "status" if was.status is not now.status else "changed")
            if was.status is not now.status:
                self.statuses[now.kind, was.status, now.status] += 1
                self.backdated += was.status_since_ns == now.status_since_ns
        if _is_live(was, at_ns):
            group = (was.kind, was.category)
            self._live[group] += 1
            if now.missing_since_ns is not None or group != (now.kind, now.category):
                self._gone[group] += 1
            elif not _is_live(now, at_ns):
                self._withdrawn[group] += 1


def changes_of(
    former: Iterable[Entry],
    feed: Sequence[Entry],
    *,
    at_ns: int,
    is_complete: bool,
    set_aside: Collection[str] = (),
) -> Changes:
    """What `feed` does to the `former` rows of its source, which come in the order of their ids.

    `at_ns` is when the feed was issued. `set_aside` are ids whose rows stay as they were; none of the feed's
    rows is theirs.
    """
    changes = Changes()
    of_id: dict[str, list[Entry]] = {}
    for entry in feed:
        of_id.setdefault(entry.entry_id, []).append(entry)
    for entry_id, group in groupby(former, attrgetter("entry_id")):
        rows = list(group)
        if entry_id in set_aside:
            for was in rows:
                changes.count(was, "set_aside")
            continue
        said = of_id.pop(entry_id, [])
        left: dict[Prefix, Entry] = {entry.prefix: entry for entry in said}
        for was in rows:
            now = left.pop(was.prefix, None)
            if now is None:
                missing_since_ns = was.missing_since_ns
                if is_complete and missing_since_ns is None:
                    missing_since_ns = at_ns
                as_said = said[0] if said else was
                now = as_said._replace(prefix=was.prefix, missing_since_ns=missing_since_ns)
            changes.compare(was, now, at_ns)
        for entry in left.values():
            changes.count(entry, "new")
            changes.rows.append(entry)
    for entries in of_id.values():
        for entry in entries:
            changes.count(entry, "new")
            changes.rows.append(entry)
    return changes


def _is_live(entry: Entry, at_ns: int) -> bool:
    return (
        entry.missing_since_ns is None
        and entry.status in HOPEFUL
        and (entry.valid_until_ns is None or entry.valid_until_ns > at_ns)
    )
