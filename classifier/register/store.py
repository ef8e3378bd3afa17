"""What a store of the register must do, whatever database is behind it.

A store holds row versions: each says from which serial of the store, and until which, a row was as it is.
Every change is one transaction with the next serial; nothing is overwritten. A transaction that does not
reach its end leaves no trace. A `Database` opens stores; `sqlite.py` has the embedded one, and `database` is
the one place that names it: another takes its place there.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from classifier.register.entry import Entry
from classifier.register.snapshot import Register

__all__ = ["OPERATOR", "Change", "Database", "Store", "Version", "database", "host_time_ns", "is_store"]

_MAGIC: Final = b"SQLite format 3\x00"  # told apart without the database's module, which takes time to import
OPERATOR = "operator"
"""The source of the exceptions that the operator makes; no feed may have its name."""


def host_time_ns() -> int:
    """Now, by the host's clock, in whole microseconds: what a file of dates can hold."""
    return time.time_ns() // 1_000 * 1_000


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction: what came in, and what it did."""

    action: str
    """"import", "except" or "withdraw"."""
    source: str
    source_serial: int
    issued_at_ns: int
    next_update_ns: int | None
    first_record_ns: int | None
    sha256: str
    """Of the files; of an exception, of what was decided."""
    options_sha256: str
    """Of all else that decides what an import does: map, manifest, options."""
    at_ns: int
    """When it was done, by the host's clock."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many rows are new, changed and so on."""
    serial: int = 0
    """Of the store; the store gives it."""


class Version(NamedTuple):
    """A row as it was from one serial of the store until another."""

    entry: Entry
    from_serial: int
    to_serial: int | None
    """The first serial at which it was no longer so; None: it still is."""


class Store(Protocol):
    """A transaction on a store: all methods see one state."""

    def latest(self) -> int:
        """Serial of the last change; 0 in an empty store."""

    def oldest(self) -> int:
        """Serial of the oldest state that can be had; 0 in an empty store."""

    def register(self, serial: int | None = None) -> Register:
        """The state after that change, by default the last."""

    def changes(self) -> list[Change]:
        """All that history still has, the oldest first."""

    def last_change(self, source: str) -> Change | None:
        """The last one of a source."""

    def rows_of(self, source: str) -> Iterator[Entry]:
        """The present rows of a source, in the order of their ids."""

    def commit(self, change: Change, rows: Iterable[Entry], set_aside: Iterable[str] = ()) -> int:
        """Put rows in, in place of those with the same source, id and prefix; its serial.

        `set_aside` are ids whose rows in the feed were faulty, for history.
        """

    def history(self, entry_id: str) -> list[Version]:
        """Every version of every row of an entry, the oldest first."""

    def ids_at(self, address: bytes) -> list[str]:
        """Ids of all entries that ever covered an address."""

    def set_aside(self, entry_id: str) -> list[int]:
        """Serials of the imports that left the entry as it was, since its rows in the feed were faulty."""

    def prune(self, serial: int) -> int:
        """Forget what was only before that state; how many row versions that were."""

    def damage(self) -> list[str]:
        """What the database's own check of the store finds."""


class Database(Protocol):
    """Where stores are kept, each under a path; RegisterError where one cannot be opened."""

    def reading(self, path: Path) -> AbstractContextManager[Store]:
        """A store whose state stands still until the end of the block."""

    def writing(self, path: Path) -> AbstractContextManager[Store]:
        """A store that nobody else changes until the end of the block, where all is committed."""

    def copied(self, path: Path) -> AbstractContextManager[Store]:
        """A store to try things on: the same as that one, or empty without one, and forgotten afterwards."""

    def compact(self, path: Path) -> None:
        """Give the space of what was pruned back."""


def is_store(path: Path) -> bool:
    """Whether the file is a database's, and no CSV; `Database.reading` says whether it is a store.

    Not to be asked inside a transaction of this process on the same file: where locks are POSIX's,
    closing the file gives them up.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def database() -> Database:
    """The embedded one: each store is an SQLite file."""
    from classifier.register.sqlite import SqliteStore

    return SqliteStore
