"""What is wrong or doubtful in a register although each of its rows is right.

In: entries, and where each stands. Out: faults and warnings. A fault is something that cannot be meant:
two registrants for one prefix at one time, infrastructure that covers a pool of subscribers. A warning is
something to look at: prefixes that no subscriber of the Internet has, very short ones, a registrant inside
another's prefix.

One rule a reader would get wrong: two entries of different kinds, or of different sources, may share a
prefix (a whitelisted call centre registers a VPN, the operator makes an exception), and inside the prefix of
a provider or carrier there may be anybody.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Final

from classifier.errors import Fault
from classifier.register.entry import Entry, Kind, Status
from classifier.register.feed import read_feed
from classifier.register.feed_map import FeedMap
from classifier.register.manifest import beside, read_manifest
from classifier.register.prefixes import Prefix, PrefixTable, last_address
from classifier.register.store import database, is_store

__all__ = ["Checked", "check", "contradictions", "doubts", "is_very_short"]

REGISTRANTS: Final = (Kind.VPN_REGISTRATION, Kind.IP_WHITELIST)
TOLD: Final = 20  # warnings of a sort; more would only hide the others
# Shorter than these, one row is for more addresses than most registrants have.
SHORTEST: Final = {4: 16, 16: 32}
# IANA's registries of special-purpose addresses (RFC 6890), as far as they cannot be a subscriber's.
SPECIAL: Final = (
    ("0.0.0.0/8", "reserved"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "documentation"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmark"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/8", "reserved"),
    ("100::/64", "reserved"),
    ("2001:db8::/32", "documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
)


@dataclass(frozen=True, slots=True)
class Checked:
    """Everything that was found."""

    rows: int
    entries: int
    """Different ids."""
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]


Place = Callable[[int], tuple[str, int | None]]
"""File and line of the entry with that index."""


def check(paths: Sequence[Path], map_path: Path | None, local: Sequence[Prefix]) -> Checked:
    """Check a store, or the files of a feed: by the map, or with our own columns and a manifest beside."""
    if len(paths) == 1 and is_store(paths[0]):
        return _check_store(paths[0], local)
    faults: list[Fault] = []
    form = FeedMap.load(map_path) if map_path is not None else FeedMap()
    zone = form.zone
    for path in paths:
        manifest_path = beside(path, map_path)
        if manifest_path is None and map_path is not None:
            continue
        manifest, found = read_manifest(manifest_path or path.with_suffix(".toml"))
        faults += found
        zone = zone or (manifest.zone if manifest else None)
    feed = read_feed(paths, replace(form, zone=zone), source="")
    column = feed.names["prefix"]
    found = [*feed.faults, *contradictions(feed.entries, feed.place, local, column)]
    order = {str(path): number for number, path in enumerate(paths)}
    # Sorting is stable: faults of one line stay in the order in which they were found.
    found.sort(key=lambda fault: (order.get(fault.file, -1), fault.line or 0))
    return Checked(
        feed.rows,
        len({entry.entry_id for entry in feed.entries}),
        (*faults, *found),
        tuple(doubts(feed.entries, feed.place, column)),
    )


def _check_store(path: Path, local: Sequence[Prefix]) -> Checked:
    with database().reading(path) as store:
        whole = "a whole store: take it from a backup, or import again"
        faults = [Fault(str(path), None, None, text, whole) for text in store.damage()]
        entries = store.register().entries

    def place(_: int) -> tuple[str, None]:
        return str(path), None

    return Checked(
        len(entries),
        len({(entry.source, entry.entry_id) for entry in entries}),
        (*faults, *contradictions(entries, place, local)),
        tuple(doubts(entries, place)),
    )


def contradictions(
    entries: Sequence[Entry], place: Place, local: Sequence[Prefix], column: str = "prefix"
) -> Iterator[Fault]:
    """Faults, in no order. `local` are the networks of our subscribers."""
    for kind in REGISTRANTS:
        ordered = _approved(entries, kind)
        for _, group in groupby(ordered, lambda index: (entries[index].source, entries[index].prefix)):
            # The one that holds longest of those that began before.
            longest: int | None = None
            for index in sorted(group, key=lambda index: entries[index].valid_from_ns):
                if longest is not None and _overlap(entries[longest], entries[index]):
                    yield _fault(
                        entries,
                        place,
                        (longest, index),
                        column,
                        f"{entries[index].prefix}, approved for {{other}} at the same time",
                        "one registrant for a prefix at a time: an end for the former one",
                    )
                if longest is None or _end(entries[index]) > _end(entries[longest]):
                    longest = index
    for index, entry in enumerate(entries):
        if entry.kind is not Kind.OPERATOR_INFRASTRUCTURE:
            continue
        for pool in local:
            if entry.prefix.length <= pool.length and entry.prefix.holds(pool.address):
                file, line = place(index)
                found = f"infrastructure, {entry.prefix}, that covers the local network {pool}"
                yield Fault(
                    file, line, column, found, "single routers and gateways, never a pool of subscribers"
                )
                break


def doubts(entries: Sequence[Entry], place: Place, column: str = "prefix") -> Iterator[Fault]:
    """Warnings, in the order of the entries for each sort; of a sort with very many the first ones."""
    special = PrefixTable((Prefix.parse(text), what) for text, what in SPECIAL)
    of_sort: Counter[str] = Counter()

    def told(sort: str) -> bool:
        of_sort[sort] += 1
        return of_sort[sort] <= TOLD

    for index, entry in enumerate(entries):
        address = entry.prefix.address
        file, line = place(index)
        for what in special.covering(address):
            if told(f"{what} addresses"):
                yield Fault(file, line, column, f"{entry.prefix}, {what} addresses", "a public prefix")
        if is_very_short(entry.prefix):
            found = f"{entry.prefix}, a very short prefix"
            expected = f"/{SHORTEST[len(address)]} or longer, unless that many addresses are meant"
            yield Fault(file, line, column, found, expected)
    for kind in REGISTRANTS:
        above: list[int] = []
        for index in _approved(entries, kind):
            while above and not _may_hold(entries[above[-1]], entries[index]):
                above.pop()
            for outer in reversed(above[-16:]):
                if (
                    entries[outer].prefix != entries[index].prefix
                    and entries[outer].source == entries[index].source
                    and entries[outer].entry_id != entries[index].entry_id
                    and _overlap(entries[outer], entries[index])
                ):
                    name = entries[outer].entry_id
                    if told(f"prefixes inside {entries[outer].prefix} of {name}"):
                        file, line = place(index)
                        found = f"{entries[index].prefix}, inside {entries[outer].prefix} of {name}"
                        expected = "a prefix of its own, unless the one is a customer of the other"
                        yield Fault(file, line, column, f"{found}{_where(place, outer, file)}", expected)
                    break
            above.append(index)
    for sort, count in of_sort.items():
        if count > TOLD:
            yield Fault(place(0)[0], None, column, f"{count - TOLD:,} rows more with {sort}", "as above")


def is_very_short(prefix: Prefix) -> bool:
    """Whether it is for more addresses than most registrants have."""
    return prefix.length < SHORTEST[len(prefix.address)]


def _approved(entries: Sequence[Entry], kind: Kind) -> list[int]:
    """Indices of what is approved, in the order of source and prefix; a prefix comes after what holds it."""
    return sorted(
        (
            index
            for index, entry in enumerate(entries)
            if entry.kind is kind and entry.status is Status.APPROVED and entry.missing_since_ns is None
        ),
        key=lambda index: (
            entries[index].source,
            len(entries[index].prefix.address),
            entries[index].prefix,
        ),
    )


def _end(entry: Entry) -> float:
    return float("inf") if entry.valid_until_ns is None else entry.valid_until_ns


def _overlap(first: Entry, second: Entry) -> bool:
    return (
        first.entry_id != second.entry_id
        and first.valid_from_ns < _end(second)
        and second.valid_from_ns < _end(first)
    )


def _fault(
    entries: Sequence[Entry], place: Place, both: tuple[int, int], column: str, found: str, expected: str
) -> Fault:
    """Put at the later row of the two; in a store, which has no lines, both are named by their ids."""
    earlier, later = sorted(both)
    file, line = place(later)
    if line is None:
        column = f"{column} of {entries[later].entry_id}"
    other = entries[earlier].entry_id + _where(place, earlier, file)
    return Fault(file, line, column, found.format(other=other), expected)


def _where(place: Place, index: int, here: str) -> str:
    """Where the other row stands; a store has no lines."""
    file, line = place(index)
    if line is None:
        return ""
    return f" (line {line})" if file == here else f" (line {line} of {file})"


def _may_hold(outer: Entry, entry: Entry) -> bool:
    """Whether a prefix that came before can still hold what comes now, in the order of `_approved`."""
    address = entry.prefix.address
    return (
        outer.source == entry.source
        and len(outer.prefix.address) == len(address)
        and address <= last_address(*outer.prefix)
    )
