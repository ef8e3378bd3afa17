"""What an entry was, change by change, in words; and which history is forgotten.

In: a store, and the id of an entry or an address that it covers, or neither: then the changes of the whole
store. Out: lines for people.
"""

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from classifier.errors import Fault, RegisterError
from classifier.register.entry import Entry
from classifier.register.store import Change, Version, database

__all__ = ["changes", "history", "prune"]

SHOWN: Final = (
    "kind",
    "category",
    "side",
    "endpoints",
    "protocols",
    "valid_from_ns",
    "valid_until_ns",
    "status",
    "status_since_ns",
    "missing_since_ns",
    "reason",
)
WHAT: Final = {"import": "feed", "except": "exception", "withdraw": "withdrawal"}


def changes(db: Path) -> Iterator[str]:
    """A line for every change that the store still knows, the latest last."""
    with database().reading(db) as store:
        done = store.changes()
    if not done:
        raise RegisterError(
            [Fault(str(db), None, None, "a store without a change", "`register import` first")]
        )
    for change in done:
        counts = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in change.counts.items() if count
        )
        yield f"{_headline(change)}: {counts or 'nothing changed'}"


def history(db: Path, entry: str) -> Iterator[str]:
    """Lines about the entry with this id, or about all that ever covered this address."""
    with database().reading(db) as store:
        try:
            address = ipaddress.ip_address(entry).packed
        except ValueError:
            ids = [entry]
        else:
            ids = store.ids_at(address)
        changes = {change.serial: change for change in store.changes()}
        found = False
        for entry_id in ids:
            versions, set_aside = store.history(entry_id), store.set_aside(entry_id)
            if versions or set_aside:
                found = True
                yield from _lines(entry_id, versions, set_aside, changes)
    if not found:
        what = "no entry with that id" if ids == [entry] else "no entry that covers it"
        raise RegisterError([Fault(str(db), None, entry, what, "an id or address of an entry")])


def prune(db: Path, before: int | str) -> tuple[int, int]:
    """Forget what was only before a serial, or before a time; the oldest serial that is left, and how many
    row versions are gone. What the register is now stays as it is.
    """
    from classifier.events import parse_time

    with database().reading(db):  # a missing file is no store to be made
        pass
    with database().writing(db) as store:
        changes = store.changes()
        if isinstance(before, int):
            serial = before
        else:
            before_ns = parse_time(before)
            # The state at that time is the oldest that is kept.
            serial = max((change.serial for change in changes if change.at_ns <= before_ns), default=0)
        if serial > store.latest():
            found, expected = f"no serial {serial}", f"one up to {store.latest()}"
            raise RegisterError([Fault(str(db), None, "--before", found, expected)])
        gone = store.prune(serial)
        oldest = store.oldest()
    if gone:
        database().compact(db)
    return oldest, gone


def _lines(
    entry_id: str, versions: list[Version], set_aside: list[int], changes: dict[int, Change]
) -> Iterator[str]:
    yield entry_id
    rows: dict[tuple[str, object], Entry] = {}
    at: dict[int, list[str]] = {
        serial: ["its rows in the feed were faulty: it stayed as it was"] for serial in set_aside
    }
    for version in versions:
        row = version.entry
        before = rows.get((row.source, row.prefix))
        rows[row.source, row.prefix] = row
        at.setdefault(version.from_serial, []).append(f"{row.prefix}: {_what(before, row)}")
    for serial, lines in sorted(at.items()):
        change = changes.get(serial)
        if change is None:
            yield f"  serial {serial} or before (pruned)"
        else:
            yield f"  {_headline(change)}"
        for line in lines:
            yield f"    {line}"


def _headline(change: Change) -> str:
    return (
        f"serial {change.serial}, {_time(change.at_ns)}: {WHAT[change.action]} {change.source_serial} of "
        f"{change.source}, issued {_time(change.issued_at_ns)}"
    )


def _what(before: Entry | None, row: Entry) -> str:
    if before is None:
        said = [_said(row, name) for name in SHOWN if getattr(row, name)]
        return "new: " + ", ".join(said)
    changed = [name for name in SHOWN if getattr(before, name) != getattr(row, name)]
    return ", ".join(f"{_said(row, name)} (was {_value(before, name)})" for name in changed)


def _said(row: Entry, name: str) -> str:
    return f"{name.removesuffix('_ns')} {_value(row, name)}"


def _value(row: Entry, name: str) -> str:
    value = getattr(row, name)
    if value is None or value == ():
        return "none"
    if isinstance(value, int):
        return _time(value)
    return ";".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
