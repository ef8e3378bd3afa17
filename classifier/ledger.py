"""The daily ledger: which entries of the register were seen, with which protocol, how much, and when.

Takes every flow that somebody answered, kept as an event or not, and leaves one small file a day (UTC),
DAY.jsonl: a `ledger` event for each entry, protocol and standing. No address is in it, neither remote nor
local; flows without an entry are counted by verdict. `register health` reads it: whether an entry is used can
be told without keeping a year of events.

What is new is added to the file of its day every half minute, and the file replaced as a whole, so that a run
goes on where the one before it ended. The rule a reader would get wrong: a flow counts on each day on which
something of it was reported, and its bytes on the day of the report, up to half an hour after they were seen.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from classifier.errors import OutputError
from classifier.events import LedgerEvent, LedgerItem, VpnLine, ledger_event
from classifier.logs import Log
from classifier.sinks import SinkCounters

__all__ = ["Ledger", "LedgerWriter", "ledger_place"]

_WRITE_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 300.0
_MAX_ROWS: Final = 65_536  # of a day
_MAX_DAYS: Final = 3  # that wait for a disk
_MAX_RUNNING: Final = 262_144
_IN_FORCE: Final = frozenset({"approved", "endpoint_mismatch"})
_NS_PER_S: Final = 1_000_000_000
_SUFFIX: Final = ".jsonl"


def ledger_place(output: str, directory: str | None) -> str | None:
    """Where the ledger is kept: as told, else beside the event file; None where events go to no file."""
    path = Path(output)
    if directory is not None or output == "-" or (path.exists() and not path.is_file()):
        return directory
    return str(path.with_name(f"{path.stem}-ledger"))


class _Key(NamedTuple):
    """What a line of a ledger is about."""

    protocol: str
    entry_id: str | None = None
    kind: str | None = None
    category: str | None = None
    standing: str | None = None
    beside: bool = False
    verdict: str | None = None
    """Of flows without an entry. With neither: of all that is beyond the limit."""


@dataclass(slots=True)
class _Row:
    flows: int
    size: int
    first: str
    last: str

    def add(self, other: _Row) -> None:
        self.flows += other.flows
        self.size += other.size
        self.first = min(self.first, other.first)
        self.last = max(self.last, other.last)


@dataclass(slots=True)
class _Day:
    """What is not in the file yet."""

    rows: dict[_Key, _Row] = field(default_factory=dict)
    reports: int = 0

    def add(self, key: _Key, row: _Row) -> None:
        known = self.rows.get(key)
        if known is None and len(self.rows) >= _MAX_ROWS:
            key = _Key(key.protocol)
            known = self.rows.get(key)
        if known is None:
            self.rows[key] = replace(row)
        else:
            known.add(row)


class _Running(NamedTuple):
    """What was counted of a flow that goes on."""

    day: str
    keys: tuple[_Key, ...]
    size: int


class Ledger:
    """Counts flows by entry; what was counted is taken from it day by day."""

    def __init__(self) -> None:
        self._days: dict[str, _Day] = {}
        self._running: dict[int, _Running] = {}

    def take(self, line: VpnLine) -> bool:
        """Count what an event of a flow says, unless nobody answered it."""
        event = line.event()
        if event["vpn"]["phase"] == "attempt":
            return False
        flow = event["flow"]
        day = flow["end"][:10]
        size = flow["bytes_toserver"] + flow["bytes_toclient"]
        keys = tuple(_keys(event["vpn"]["protocol"], event["policy"]["verdict"], event["policy"]["entries"]))
        before = self._running.pop(line.flow_id, None)
        if not line.ended and len(self._running) < _MAX_RUNNING:
            self._running[line.flow_id] = _Running(day, keys, size)
        elif not line.ended:
            return False  # counted when it ends
        counted = before.size if before is not None else 0
        began = flow["start"] if flow["start"][:10] == day else f"{day}T00:00:00.000000000Z"
        here = self._days.setdefault(day, _Day())
        here.reports += 1
        for key in keys:
            is_known = before is not None and before.day == day and key in before.keys
            here.add(key, _Row(int(not is_known), size - counted, began, flow["end"]))
        return True

    def days(self) -> dict[str, _Day]:
        """What was counted since this was asked last."""
        days, self._days = self._days, {}
        return days

    def give_back(self, day: str, counted: _Day) -> None:
        """It could not be written."""
        here = self._days.setdefault(day, _Day())
        here.reports += counted.reports
        for key, row in counted.rows.items():
            here.add(key, row)

    def drop_beyond(self, days: int) -> int:
        """Forget the oldest days, where too many wait; reports that were counted in them."""
        dropped = 0
        while len(self._days) > days:
            dropped += self._days.pop(min(self._days)).reports
        return dropped


class LedgerWriter:
    """Writes a ledger into files, in a thread of its own."""

    def __init__(
        self,
        directory: str,
        sensor: str,
        retain_ns: int = 0,
        log: Log | None = None,
        every_s: float = _WRITE_S,
    ) -> None:
        """OutputError when the directory cannot be made or written to. `retain_ns`: 0 keeps all files."""
        self._directory = Path(directory)
        self._sensor = sensor
        self._retain_ns = retain_ns
        self._log = log or Log()
        self._every_s = every_s
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._taken = self._written = self._lost = 0
        self._failures = self._deleted = 0
        self._failing = False
        self._success_ns = self._failure_ns = 0
        self._closing = threading.Event()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if not os.access(self._directory, os.W_OK | os.X_OK):
                raise PermissionError(None, "Permission denied")
        except OSError as error:
            raise OutputError(directory, error.strerror or str(error)) from error
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def take(self, line: VpnLine) -> None:
        """Count an event of a flow."""
        with self._lock:
            self._taken += self._ledger.take(line)

    def close(self, patience_s: float = 5.0) -> None:
        """Write what is left, if that is possible; safe to call twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join(patience_s)
        with self._lock:
            self._lost = self._taken - self._written

    def counters(self) -> SinkCounters:
        """What became of the reports that were counted; they have no bytes."""
        with self._lock:
            return SinkCounters(
                name="ledger",
                taken_lines=self._taken,
                written_lines=self._written,
                lost_lines=self._lost,
                queued_lines=self._taken - self._written - self._lost,
                queue_limit_lines=_MAX_DAYS * _MAX_ROWS,
                failures=self._failures,
                failing=self._failing,
                last_success_ns=self._success_ns,
                last_failure_ns=self._failure_ns,
                deleted_files=self._deleted,
            )

    def _run(self) -> None:
        pause_s = self._every_s
        while True:
            is_last = self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if not self._write() else self._every_s
            if is_last:
                return

    def _write(self) -> bool:
        """Add what is new to the files of its days."""
        with self._lock:
            days = self._ledger.days()
        faults = []
        for day, counted in days.items():
            try:
                self._add(day, counted)
            except (OSError, ValueError) as error:
                faults.append(getattr(error, "strerror", None) or str(error))
                with self._lock:
                    self._ledger.give_back(day, counted)
            else:
                with self._lock:
                    self._written += counted.reports
                    self._success_ns = time.time_ns()
        try:
            self._delete_old()
        except OSError as error:
            faults.append(error.strerror or str(error))
        with self._lock:
            self._lost += self._ledger.drop_beyond(_MAX_DAYS)
            was_failing, self._failing = self._failing, bool(faults)
            if faults:
                self._failures += len(faults)
                self._failure_ns = time.time_ns()
        if faults and not was_failing:
            self._log.warning("ledger", f"{self._directory}: cannot be written: {faults[0]}; tried again")
        if was_failing and not faults:
            self._log.info("ledger", f"{self._directory}: written to again")
        return not faults

    def _add(self, day: str, counted: _Day) -> None:
        path = self._directory / f"{day}{_SUFFIX}"
        with _locked(self._directory):
            merged = _Day()
            try:
                for key, row in _read(path):
                    merged.add(key, row)
            except ValueError as error:
                aside = path.with_suffix(f".{time.time_ns()}.faulty")
                path.rename(aside)
                self._log.warning("ledger", f"{path}: no ledger ({error}); it is {aside.name} now")
                merged = _Day()
            for key, row in counted.rows.items():
                merged.add(key, row)
            rows = sorted(merged.rows.items(), key=lambda item: tuple(str(part or "") for part in item[0]))
            content = b"".join(
                orjson.dumps(_event(self._sensor, day, key, row), option=orjson.OPT_APPEND_NEWLINE)
                for key, row in rows
            )
            _replace(path, content)

    def _delete_old(self) -> None:
        if not self._retain_ns:
            return
        oldest = time.strftime("%Y-%m-%d", time.gmtime((time.time_ns() - self._retain_ns) // _NS_PER_S))
        for path in self._directory.glob(f"????-??-??{_SUFFIX}"):
            if path.stem < oldest and path.stem.replace("-", "").isdigit():
                path.unlink()
                self._deleted += 1


def _keys(protocol: str, verdict: str, entries: Iterable[Mapping[str, Any]]) -> Iterator[_Key]:
    """The lines that a flow counts in: one for each entry that covers an end, or one for all without."""
    entries = list(entries)
    if not entries:
        yield _Key(protocol, verdict=verdict)
    told = set()
    for entry in entries:
        others = {
            other["standing"] for other in entries if other is not entry and other["end"] == entry["end"]
        }
        beside = bool(others & _IN_FORCE) or (
            entry["standing"] != "protocol_mismatch" and "protocol_mismatch" in others
        )
        key = _Key(protocol, entry["entry_id"], entry["kind"], entry["category"], entry["standing"], beside)
        if key not in told:  # one entry may cover both ends
            told.add(key)
            yield key


def _event(sensor: str, day: str, key: _Key, row: _Row) -> LedgerEvent:
    item: LedgerItem = {
        "day": day,
        "protocol": key.protocol,
        "entry_id": key.entry_id,
        "flows": row.flows,
        "bytes": row.size,
        "first": row.first,
        "last": row.last,
    }
    if key.entry_id is not None and key.kind and key.category and key.standing:
        item["kind"], item["category"], item["standing"] = key.kind, key.category, key.standing
        item["beside"] = key.beside
    elif key.verdict is not None:
        item["verdict"] = key.verdict
    return ledger_event(row.last, sensor, item)


def _read(path: Path) -> Iterator[tuple[_Key, _Row]]:
    """The lines of a ledger, if there is one; ValueError when it is none."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    try:
        for line in lines:
            item = orjson.loads(line)["ledger"]
            key = _Key(
                item["protocol"],
                item["entry_id"],
                item.get("kind"),
                item.get("category"),
                item.get("standing"),
                item.get("beside", False),
                item.get("verdict"),
            )
            yield key, _Row(int(item["flows"]), int(item["bytes"]), str(item["first"]), str(item["last"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no such field: {error}") from None


def _replace(path: Path, content: bytes) -> None:
    """Who reads it sees what it was, or what it is."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two runs may keep one ledger."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
