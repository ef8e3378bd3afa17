"""The embedded store: one SQLite file.

In: row versions and changes. Out: any state as a `Register`. The file is made readable for its owner and
group alone, since who has a VPN is nobody else's business.

The journal is a rollback journal, not a write-ahead log: a reader needs no right to write beside the file,
and an import does everything in memory before it locks readers out for the moment of its commit. A process
that was killed leaves a journal, from which the next one restores the state before.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from classifier.errors import Fault, RegisterError
from classifier.register.entry import Category, Endpoint, Entry, Kind, Protocol, Reason, Side, Status
from classifier.register.prefixes import Prefix
from classifier.register.snapshot import Register, Source
from classifier.register.store import Change, Version, is_store

__all__ = ["SqliteStore"]

T = TypeVar("T")

APPLICATION_ID: Final = 0x76706E72  # "vpnr"
SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE change (
    serial INTEGER PRIMARY KEY,
    action TEXT NOT NULL,
    source TEXT NOT NULL,
    source_serial INTEGER NOT NULL,
    issued_at_ns INTEGER NOT NULL,
    next_update_ns INTEGER,
    first_record_ns INTEGER,
    sha256 TEXT NOT NULL,
    options_sha256 TEXT NOT NULL,
    at_ns INTEGER NOT NULL,
    counts TEXT NOT NULL,       -- JSON: how many rows are new, changed ...
    rows INTEGER NOT NULL,      -- of the whole register after it
    state_sha256 TEXT NOT NULL  -- of everything that went in so far
);
CREATE TABLE nature (           -- what many rows have in common
    nature INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    category TEXT NOT NULL,
    side TEXT NOT NULL,
    protocols TEXT NOT NULL,
    status TEXT NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE TABLE entry (            -- a version of a row
    entry_id TEXT NOT NULL,
    address BLOB NOT NULL,
    length INTEGER NOT NULL,
    nature INTEGER NOT NULL REFERENCES nature,
    endpoints TEXT NOT NULL,
    valid_from_ns INTEGER NOT NULL,
    valid_until_ns INTEGER,
    status_since_ns INTEGER NOT NULL,
    missing_since_ns INTEGER,
    from_serial INTEGER NOT NULL,
    to_serial INTEGER           -- NULL: it still is so
);
CREATE INDEX present ON entry (entry_id, address, length) WHERE to_serial IS NULL;
CREATE TABLE set_aside (entry_id TEXT NOT NULL, serial INTEGER NOT NULL);
CREATE TABLE pruned (serial INTEGER NOT NULL);  -- the oldest state that can still be had
"""
COLUMNS: Final = (
    "entry_id, address, length, nature, endpoints, valid_from_ns, valid_until_ns, status_since_ns, "
    "missing_since_ns"
)
CHANGE_COLUMNS: Final = (
    "action, source, source_serial, issued_at_ns, next_update_ns, first_record_ns, sha256, options_sha256, "
    "at_ns, counts, serial"
)
WAIT_S: Final = 30.0
# What "read-only" means to who wants to read (SQLite must write first), and to who wants to write.
READONLY_READING: Final = (
    "a store that an interrupted import left to be restored",
    "`register check` to be run once by somebody who may write it",
)
READONLY_WRITING: Final = (
    "a store or a directory that may not be written",
    "the right to write both: the journal of a change stands beside the store",
)


class SqliteStore:
    """One transaction on the file; made by `reading` and `writing`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    @contextmanager
    def reading(cls, path: Path, wait_s: float = WAIT_S) -> Iterator["SqliteStore"]:
        """A store whose state stands still until the end of the block."""
        if not path.exists():
            raise _error(path, "no such file", "a store that `register import` wrote")
        if not is_store(path):
            raise _error(path, "a file that is no store", "a store that `register import` wrote")
        with _in_words(path):
            connection = _connect(path, "ro", wait_s)
            try:
                try:
                    connection.execute("BEGIN")
                    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                except sqlite3.OperationalError as error:
                    if "readonly" not in str(error):
                        raise
                    # A killed import left its journal: restoring the state before takes the right to write.
                    connection.close()
                    connection = _connect(path, "rw", wait_s)
                    connection.execute("BEGIN")
                _check_file(path, connection)
                yield cls(path, connection)
            finally:
                connection.close()

    @classmethod
    @contextmanager
    def writing(cls, path: Path, wait_s: float = WAIT_S) -> Iterator["SqliteStore"]:
        """A store that nobody else changes until the end of the block, where all is committed.

        A missing file becomes an empty store. An exception leaves everything as it was.
        """
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o640))
        except OSError as error:
            expected = "a path where the store can be written"
            raise _error(path, str(error.strerror or error), expected) from None
        if path.stat().st_size and not is_store(path):
            raise _error(
                path, "a file that is no store", "a store that `register import` wrote, or a new path"
            )
        with _in_words(path, READONLY_WRITING):
            connection = _connect(path, "rw", wait_s)
            try:
                connection.execute("PRAGMA cache_spill = OFF")
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    _check_file(path, connection)
                else:
                    _create(connection)
                yield cls(path, connection)
                connection.execute("COMMIT")
            finally:
                connection.close()  # without a commit this rolls back

    @classmethod
    @contextmanager
    def copied(cls, path: Path) -> Iterator["SqliteStore"]:
        """A store in memory, to try things on: the same as the file, or empty without one."""
        with _in_words(path):
            connection = sqlite3.connect(":memory:", isolation_level=None)
            try:
                if path.exists() and path.stat().st_size:
                    with cls.reading(path) as store:
                        store._connection.backup(connection)
                else:
                    _create(connection)
                yield cls(path, connection)
            finally:
                connection.close()

    def latest(self) -> int:
        """Serial of the last change; 0 in an empty store."""
        return int(self._one("SELECT coalesce(max(serial), 0) FROM change")[0])

    def register(self, serial: int | None = None) -> Register:
        """The state after that change, by default the last; RegisterError when there is none."""
        latest, oldest = self.latest(), self.oldest()
        if not latest:
            raise _error(self._path, "a store without an import", "`register import` to fill it")
        if serial is None:
            serial = latest
        elif not oldest <= serial <= latest:
            found = f"no serial {serial}"
            kept = f"from {oldest} to {latest}" if oldest < latest else f"only {latest}"
            raise _error(self._path, found, f"one of those that it keeps: {kept}")
        rows, state_sha256 = self._one("SELECT rows, state_sha256 FROM change WHERE serial = ?", serial)
        where = "to_serial IS NULL"
        values: tuple[int, ...] = ()
        if serial < latest:
            where, values = "from_serial <= ?1 AND (to_serial IS NULL OR to_serial > ?1)", (serial,)
        query = f"SELECT {COLUMNS} FROM entry WHERE {where} "
        order = "ORDER BY length(address), address, length, entry_id, nature"
        entries = tuple(self._entries(query + order, *values))
        if len(entries) != rows:
            found = f"{len(entries)} rows where its last change left {rows}"
            raise _error(self._path, found, "a whole store: take it from a backup, or import again")
        last = {change.source: change for change in self.changes() if change.serial <= serial}
        sources = tuple(
            Source(
                change.source,
                change.source_serial,
                change.issued_at_ns,
                change.next_update_ns,
                change.sha256,
                change.at_ns,
            )
            for _, change in sorted(last.items())
        )
        starts = [change.first_record_ns for change in last.values() if change.first_record_ns is not None]
        return Register.merge(
            entries,
            sources,
            serial=serial,
            first_record_ns=max(starts, default=None),
            sha256=state_sha256,
        )

    def changes(self) -> list[Change]:
        """All that history still has, the oldest first."""
        rows = self._connection.execute(f"SELECT {CHANGE_COLUMNS} FROM change ORDER BY serial")
        return [_change(row) for row in rows]

    def last_change(self, source: str) -> Change | None:
        """The last one of a source."""
        query = f"SELECT {CHANGE_COLUMNS} FROM change WHERE source = ? ORDER BY serial DESC LIMIT 1"
        row = self._connection.execute(query, (source,)).fetchone()
        return None if row is None else _change(row)

    def rows_of(self, source: str) -> Iterator[Entry]:
        """The present rows of a source, in the order of their ids."""
        return self._entries(
            f"SELECT {COLUMNS} FROM entry WHERE to_serial IS NULL "
            "AND nature IN (SELECT nature FROM nature WHERE source = ?) "
            "ORDER BY entry_id, address, length",
            source,
        )

    def commit(self, change: Change, rows: Iterable[Entry], set_aside: Iterable[str] = ()) -> int:
        """Put rows in, in place of those with the same source, id and prefix; its serial."""
        serial = self.latest() + 1
        rows = list(rows)
        # Natures of this source, since another one may use the same ids.
        execute = self._connection.execute
        execute("CREATE TEMP TABLE own (nature INTEGER PRIMARY KEY)")
        execute("INSERT INTO own SELECT nature FROM nature WHERE source = ?", (change.source,))
        self._connection.executemany(
            "UPDATE entry SET to_serial = ? WHERE entry_id = ? AND address = ? AND length = ? "
            "AND to_serial IS NULL AND nature IN own",
            ((serial, row.entry_id, *row.prefix) for row in rows) if self._count() else (),
        )
        execute("DROP TABLE own")
        natures = {tuple(what): number for number, *what in execute("SELECT * FROM nature")}
        for row in rows:
            if (what := _nature(row)) not in natures:
                natures[what] = len(natures) + 1
                execute("INSERT INTO nature VALUES (?,?,?,?,?,?,?,?)", (natures[what], *what))
        self._connection.executemany(
            f"INSERT INTO entry ({COLUMNS}, from_serial) VALUES (?,?,?,?,?,?,?,?,?,?)",
            ((*_columns(row, natures[_nature(row)]), serial) for row in rows),
        )
        self._connection.executemany(
            "INSERT INTO set_aside (entry_id, serial) VALUES (?, ?)",
            ((entry_id, serial) for entry_id in sorted(set_aside)),
        )
        before = self._connection.execute(
            "SELECT state_sha256 FROM change WHERE serial = ?", (serial - 1,)
        ).fetchone()
        state = "\n".join(
            (
                *(before or ()),
                change.action,
                change.source,
                str(change.source_serial),
                change.sha256,
                change.options_sha256,
            )
        )
        self._connection.execute(
            f"INSERT INTO change ({CHANGE_COLUMNS}, rows, state_sha256) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                change.action,
                change.source,
                change.source_serial,
                change.issued_at_ns,
                change.next_update_ns,
                change.first_record_ns,
                change.sha256,
                change.options_sha256,
                change.at_ns,
                json.dumps(dict(change.counts)),
                serial,
                self._count(),
                hashlib.sha256(state.encode()).hexdigest(),
            ),
        )
        return serial

    def history(self, entry_id: str) -> list[Version]:
        """Every version of every row of an entry, the oldest first."""
        query = (
            f"SELECT {COLUMNS}, from_serial, to_serial FROM entry WHERE entry_id = ? "
            "ORDER BY from_serial, length(address), address, length"
        )
        rows = self._connection.execute(query, (entry_id,)).fetchall()
        entries = _entries((row[:-2] for row in rows), self._natures())
        return [Version(entry, *row[-2:]) for entry, row in zip(entries, rows, strict=True)]

    def ids_at(self, address: bytes) -> list[str]:
        """Ids of all entries that ever covered an address."""
        query = (
            "SELECT DISTINCT entry_id, address, length FROM entry WHERE length(address) = ? AND address <= ?"
        )
        rows = self._connection.execute(query, (len(address), address))
        return sorted({entry_id for entry_id, *prefix in rows if Prefix(*prefix).holds(address)})

    def set_aside(self, entry_id: str) -> list[int]:
        """Serials of the imports that left the entry as it was, since its rows in the feed were faulty."""
        query = "SELECT serial FROM set_aside WHERE entry_id = ? ORDER BY serial"
        return [serial for (serial,) in self._connection.execute(query, (entry_id,))]

    def prune(self, serial: int) -> int:
        """Forget what was only before that state; how many row versions that were."""
        if serial <= self.oldest():
            return 0  # gone before, and no earlier state comes back
        execute = self._connection.execute
        count = execute("DELETE FROM entry WHERE to_serial <= ?", (serial,)).rowcount
        execute("DELETE FROM set_aside WHERE serial < ?", (serial,))
        # The last change of each source says what that state consists of.
        execute(
            "DELETE FROM change WHERE serial < ?1 AND serial NOT IN "
            "(SELECT max(serial) FROM change WHERE serial <= ?1 GROUP BY source)",
            (serial,),
        )
        execute("DELETE FROM pruned")
        execute("INSERT INTO pruned (serial) VALUES (?)", (serial,))
        return count

    @classmethod
    def compact(cls, path: Path, wait_s: float = WAIT_S) -> None:
        """Give the space of what was pruned back."""
        with _in_words(path):
            connection = _connect(path, "rw", wait_s)
            try:
                connection.execute("VACUUM")
            finally:
                connection.close()

    def damage(self) -> list[str]:
        """What SQLite's own check of the file finds."""
        found = [text for (text,) in self._connection.execute("PRAGMA integrity_check(20)")]
        return [] if found == ["ok"] else found

    def oldest(self) -> int:
        """Serial of the oldest state that can be had; 0 in an empty store."""
        return int(
            self._one("SELECT coalesce((SELECT serial FROM pruned), (SELECT min(serial) FROM change), 0)")[0]
        )

    def _count(self) -> int:
        return int(self._one("SELECT count(*) FROM entry WHERE to_serial IS NULL")[0])

    def _one(self, query: str, *values: object) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._connection.execute(query, values).fetchone()
        return row

    def _entries(self, query: str, *values: object) -> Iterator[Entry]:
        return _entries(self._connection.execute(query, values), self._natures())

    def _natures(self) -> dict[int, tuple[Any, ...]]:
        try:
            return {
                number: (
                    Kind(kind),
                    Category(category),
                    Side(side),
                    tuple(map(Protocol, protocols.split(";"))) if protocols else (),
                    Status(status),
                    source,
                    Reason(reason) if reason else None,
                )
                for number, kind, category, side, protocols, status, source, reason in (
                    self._connection.execute("SELECT * FROM nature")
                )
            }
        except ValueError as error:
            raise _DamagedError(str(error)) from None


class _DamagedError(Exception):
    """A row that this module cannot have written."""


class _Memo(dict[str, T]):
    """What is written the same in many rows is made once."""

    def __init__(self, convert: Callable[[str], T]) -> None:
        self._convert = convert

    def __missing__(self, text: str) -> T:
        value = self[text] = self._convert(text)
        return value


def _entries(rows: Iterable[tuple[Any, ...]], natures: Mapping[int, tuple[Any, ...]]) -> Iterator[Entry]:
    """Entries of rows of `COLUMNS`. Tuples straight from the database: a million of them count."""
    endpoints = _Memo(lambda text: tuple(map(Endpoint.parse, text.split(";"))) if text else ())
    new = tuple.__new__
    try:
        for entry_id, address, length, number, filed, valid_from, valid_until, since, missing_since in rows:
            kind, category, side, protocols, status, source, reason = natures[number]
            yield new(
                Entry,
                (
                    entry_id,
                    kind,
                    category,
                    new(Prefix, (address, length)),
                    side,
                    endpoints[filed],
                    protocols,
                    valid_from,
                    valid_until,
                    status,
                    since,
                    source,
                    missing_since,
                    reason,
                ),
            )
    except (LookupError, ValueError, TypeError) as error:
        raise _DamagedError(str(error)) from None


def _columns(entry: Entry, nature: int) -> tuple[object, ...]:
    return (
        entry.entry_id,
        *entry.prefix,
        nature,
        ";".join(map(str, entry.endpoints)),
        entry.valid_from_ns,
        entry.valid_until_ns,
        entry.status_since_ns,
        entry.missing_since_ns,
    )


def _nature(entry: Entry) -> tuple[str, ...]:
    return (
        entry.kind,
        entry.category,
        entry.side,
        ";".join(entry.protocols),
        entry.status,
        entry.source,
        entry.reason or "",
    )


def _change(row: tuple[Any, ...]) -> Change:
    values: tuple[Any, ...] = (*row[:-2], json.loads(row[-2]), row[-1])
    return Change(*values)


def _connect(path: Path, mode: str, wait_s: float) -> sqlite3.Connection:
    # Autocommit: transactions begin and end where the code says so.
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=wait_s, isolation_level=None
    )


def _create(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check_file(path: Path, connection: sqlite3.Connection) -> None:
    """Whether the file is a store, of a format that is known, and as long as it says."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise _error(path, "an SQLite database of something else", "a store that `register import` wrote")
    if version != SCHEMA_VERSION:
        found = f"a store of format {version}"
        raise _error(path, found, f"format {SCHEMA_VERSION}, or a later vpn-classifier that knows it")
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size < pages * page_size:
        raise _DamagedError("its end is missing")


@contextmanager
def _in_words(path: Path, readonly: tuple[str, str] = READONLY_READING) -> Iterator[None]:
    """Errors of the database as errors of its file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            found, expected = "a store that another command is using", "to be tried again when that is done"
        elif "readonly" in str(error):
            found, expected = readonly
        else:
            found, expected = str(error), "a store that can be opened, with room beside it for its journal"
        raise _error(path, found, expected) from None
    except (sqlite3.DatabaseError, _DamagedError) as error:
        found = f"a damaged store ({error})"
        raise _error(path, found, "a whole one: take it from a backup, or import again") from None


def _error(path: Path, found: str, expected: str) -> RegisterError:
    return RegisterError([Fault(str(path), None, None, found, expected)])
