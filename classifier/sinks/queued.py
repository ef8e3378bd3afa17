"""Event lines of a run that must not wait: a bounded queue, and a thread that writes what is in it.

Takes events like any sink; where they go is `RotatingFile`'s. What cannot be written (a full disk, a
directory that is gone, a FIFO that nobody reads) is tried again for as long as the run goes on, the first
time after 0.1 s, later every 10 s. Meanwhile the queue fills; what it has no room for is lost, counted, and
named in the file afterwards, in its place: a `stats` event `gap`. Every file begins with a `stats` event
`started` and, if another one follows it, ends with `rotated`.

The rule a reader would get wrong: once the queue is full it takes nothing more until half of it is empty. So
what is lost is one gap with a beginning and an end, and not every other line.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from classifier.errors import OutputError
from classifier.events import Event, LostItem, Stats, StatsEvent, VpnLine, parse_time, stats_event
from classifier.logs import Log
from classifier.sinks import SinkCounters
from classifier.sinks.rotating import RotatingFile

__all__ = ["Queue", "QueuedLines"]

_BATCH: Final = 1 << 18  # bytes that are written at once
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_LOOK_S: Final = 1.0  # how often it is looked whether a file is due, or too old
_DELETE_S: Final = 60.0
_REMIND_S: Final = 60.0
_PATIENCE_S: Final = 5.0
_TIMESTAMP: Final = slice(len('{"timestamp":"'), len('{"timestamp":"2026-03-01T12:00:00.000000000Z'))


@dataclass(frozen=True, slots=True)
class Queue:
    """How much may wait."""

    size: int = 1 << 26
    """Bytes."""

    @property
    def lines(self) -> int:
        """Lines; those of flows have one or two KiB."""
        return max(1, self.size >> 10)


class _Item(NamedTuple):
    line: bytes
    event: Event | None = None
    """None of a flow's."""
    is_taken: bool = True
    """It was given to the sink; else it is the sink's own."""

    @property
    def is_own_head(self) -> bool:
        """It begins a file."""
        return not self.is_taken and self.event is None


@dataclass(slots=True)
class _Sum:
    lines: int = 0
    size: int = 0

    def add(self, item: _Item) -> None:
        if item.is_taken:
            self.lines += 1
            self.size += len(item.line)


@dataclass(slots=True)
class _Gap:
    """What is lost since the queue is full."""

    lines: int = 0
    first: str = "9"
    last: str = ""


class _Judging(NamedTuple):
    """What judges at a place of the queue: what a file that begins there begins with."""

    sensor: str
    stats: Stats

    def event(self, time_ns: int, name: str) -> StatsEvent:
        return stats_event(time_ns, self.sensor, name, self.stats)


class QueuedLines:
    """Writes events to a file, or to standard output when that is its name; `write` never waits."""

    def __init__(self, file: RotatingFile, queue: Queue | None = None, log: Log | None = None) -> None:
        """OutputError when the file cannot be opened now, unless it is a FIFO that nobody reads yet."""
        self._file = file
        self._limit = queue or Queue()
        self._log = log or Log()
        self._lock = threading.Condition()
        # Under the lock:
        self._queue: deque[_Item] = deque()  # what is being written stays in it until it is
        self._queued_size = 0
        self._taken, self._written, self._lost = _Sum(), _Sum(), _Sum()
        self._gap: _Gap | None = None
        self._tail: _Judging | None = None  # at the end of the queue
        self._wants_anew = False
        self._closing_at: float | None = None  # when to give up
        self._left = False  # the reader of standard output has
        self._retry_at = self._look_at = 0.0
        self._failing = False
        self._gaps = self._failures = self._rotations = 0
        self._success_ns = self._failure_ns = 0
        # Of the thread alone:
        self._head: _Judging | None = None  # at the beginning of the queue
        self._batch = b""  # the first lines of the queue
        self._at = self._done = 0  # bytes of it that were written, and that were whole lines
        self._pause_s = _FIRST_PAUSE_S
        self._look_pause_s = 0.0
        self._delete_at = self._remind_at = self._failing_since = 0.0
        if not file.is_fifo:
            file.open()
            self._say_cut(0)
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def write(self, event: Event | VpnLine) -> None:
        """Take one event."""
        if isinstance(event, VpnLine):
            item = _Item(event.line)
        else:
            item = _Item(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE), event)
        with self._lock:
            self._taken.add(item)
            self._tail = _follow(self._tail, item)
            if _is_end(item):
                self._name_gap()  # and there is room for it: it holds the counts
            elif self._gap is not None or not self._has_room(len(item.line)):
                self._lose(item)
                return
            self._put(item)

    def flush(self) -> None:
        """Wait until everything is written, unless that fails; for a second at most."""
        with self._lock:
            self._lock.wait_for(lambda: not self._queue or self._failing or self._left, _LOOK_S)

    def check(self) -> None:
        """BrokenPipeError when the reader of standard output has left."""
        if self._left:
            raise BrokenPipeError

    def reopen(self) -> None:
        """Open the name anew, soon: whoever moved the file away keeps what was taken until now."""
        with self._lock:
            self._wants_anew = True
            self._look_at = 0.0
            self._lock.notify_all()

    def close(self, patience_s: float = _PATIENCE_S) -> None:
        """Write what is left, for so long at most; what cannot be written then is lost, and counted.

        Safe to call twice.
        """
        with self._lock:
            if self._closing_at is not None:
                return
            self._closing_at = time.monotonic() + patience_s
            self._retry_at = 0.0
            self._lock.notify_all()
        # It may hang in a system call, for as long as a device does. Then the end of the process ends it.
        self._thread.join(patience_s + _LOOK_S)
        with self._lock:
            self._drop()
        if not self._thread.is_alive():
            self._file.close()

    def counters(self) -> SinkCounters:
        """What became of what it was given, until now."""
        with self._lock:
            return SinkCounters(
                name="events",
                taken_lines=self._taken.lines,
                taken_bytes=self._taken.size,
                written_lines=self._written.lines,
                written_bytes=self._written.size,
                lost_lines=self._lost.lines,
                lost_bytes=self._lost.size,
                queued_lines=self._taken.lines - self._written.lines - self._lost.lines,
                queued_bytes=self._taken.size - self._written.size - self._lost.size,
                queue_limit_lines=self._limit.lines,
                queue_limit_bytes=self._limit.size,
                failures=self._failures,
                failing=self._failing,
                last_success_ns=self._success_ns,
                last_failure_ns=self._failure_ns,
                gaps=self._gaps,
                rotations=self._rotations,
                deleted_files=self._file.deleted_files,
                cut_lines=self._file.cut_lines,
            )

    # ---- the queue; its lock is held

    def _has_room(self, size: int) -> bool:
        lines = len(self._queue)
        return not lines or (lines < self._limit.lines and self._queued_size + size <= self._limit.size)

    def _put(self, item: _Item) -> None:
        self._queue.append(item)
        self._queued_size += len(item.line)
        if len(self._queue) == 1:
            self._lock.notify_all()

    def _lose(self, item: _Item) -> None:
        if self._gap is None:
            self._gap = _Gap()
            self._gaps += 1
        self._lost.add(item)
        moment = item.line[_TIMESTAMP].decode(errors="replace")
        self._gap.lines += 1
        self._gap.first = min(self._gap.first, moment)
        self._gap.last = max(self._gap.last, moment)

    def _name_gap(self) -> None:
        gap, self._gap = self._gap, None
        if gap is None or self._tail is None:
            return
        event = self._tail.event(parse_time(gap.last), "gap")
        event["stats"] = {**event["stats"], "lost": LostItem(lines=gap.lines, first=gap.first, last=gap.last)}
        self._put(_Item(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE), event, is_taken=False))

    def _drop(self) -> None:
        for item in self._queue:
            self._lost.add(item)
        self._queue.clear()
        self._queued_size = 0

    # ---- the thread

    def _run(self) -> None:
        while self._has_more():
            try:
                self._work()
            except BrokenPipeError:
                with self._lock:
                    self._left = True
                    self._drop()
                    self._lock.notify_all()
                return
            except OutputError as error:
                self._fail(str(error))
            except Exception as error:
                # Lines are not to be lost by an error of ours either; its text could repeat one.
                self._fail(f"{self._file.path}: an error of the program: {type(error).__name__}")

    def _has_more(self) -> bool:
        """Wait for something to do; False when all is done, or it is time to give up."""
        with self._lock:
            until_retry = self._retry_at - time.monotonic()
            self._lock.wait_for(self._has_work, _LOOK_S if until_retry <= 0 else until_retry)
            if self._closing_at is None:
                return True
            return bool(self._queue) and time.monotonic() < self._closing_at

    def _has_work(self) -> bool:
        now = time.monotonic()
        if now < self._retry_at:
            return False
        return (
            bool(self._queue) or (self._wants_anew and now >= self._look_at) or self._closing_at is not None
        )

    def _work(self) -> None:
        """Write what can be written now."""
        now = time.monotonic()
        if now < self._retry_at:
            return
        if not self._file.is_open:
            self._begin()
        if now >= self._look_at or (not self._look_pause_s and self._file.is_due()):
            self._look(now)
        if not self._batch:
            self._gather()
        if self._batch:
            self._at, fault = self._file.write(self._batch, self._at)
            self._take_off()
            if fault is not None:
                raise fault

    def _begin(self, last: bytes = b"") -> None:
        """Open the name, and begin a file that is new."""
        cut = self._file.cut_lines
        is_new = self._file.open(last)
        self._batch = b""
        self._at = self._done = 0
        self._say_cut(cut)
        if is_new and self._head is not None:
            line = orjson.dumps(self._head.event(time.time_ns(), "started"), option=orjson.OPT_APPEND_NEWLINE)
            with self._lock:
                if self._queue and self._queue[0].is_own_head:  # of an attempt that failed
                    self._queued_size -= len(self._queue.popleft().line)
                self._queue.appendleft(_Item(line, None, is_taken=False))
                self._queued_size += len(line)

    def _look(self, now: float) -> None:
        """Rotate and delete, where it is time to. Where that fails, what is open is written to as before."""
        try:
            if self._file.is_due():
                self._file.put_aside()
                self._rotations += 1
                self._wants_anew = True
                self._delete_at = now
            if self._wants_anew:
                if self._file.is_moved():
                    self._begin(self._last_line())
                self._wants_anew = False
            if now >= self._delete_at:
                self._file.delete_old()
                self._delete_at = now + _DELETE_S
            self._look_pause_s = 0.0
        except OutputError as error:
            self._look_pause_s = min(2 * self._look_pause_s or _LOOK_S, _LONGEST_PAUSE_S)
            with self._lock:
                self._failures += 1
                self._failure_ns = time.time_ns()
            self._log.warning("events", str(error))
        self._look_at = now + max(self._look_pause_s, _LOOK_S)

    def _last_line(self) -> bytes:
        """Of a file that another one follows."""
        if self._head is None or self._at != self._done:  # in the middle of a line, of a FIFO
            return b""
        event = self._head.event(time.time_ns(), "rotated")
        return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)

    def _gather(self) -> None:
        lines, size = [], 0
        with self._lock:
            for item in self._queue:
                lines.append(item.line)
                size += len(item.line)
                if size >= _BATCH:
                    break
        self._batch = b"".join(lines)
        self._at = self._done = 0

    def _take_off(self) -> None:
        """What was written leaves the queue."""
        with self._lock:
            while self._queue and self._done + len(self._queue[0].line) <= self._at:
                item = self._queue.popleft()
                self._done += len(item.line)
                self._queued_size -= len(item.line)
                self._written.add(item)
                self._head = _follow(self._head, item)
            if self._done:
                self._success_ns = time.time_ns()
            has_recovered = self._failing and self._done > 0
            if has_recovered:
                self._failing = False
            is_half_empty = (
                2 * len(self._queue) <= self._limit.lines and 2 * self._queued_size <= self._limit.size
            )
            if self._gap is not None and is_half_empty:
                self._name_gap()
            if not self._queue:
                self._lock.notify_all()
        if self._at == len(self._batch):
            self._batch = b""
        if has_recovered:
            self._pause_s = _FIRST_PAUSE_S
            seconds = time.monotonic() - self._failing_since
            lost = self.counters().lost_lines
            self._log.info(
                "events",
                f"{self._file.path}: written to again, after {seconds:.0f} s; lost so far: {lost:,} lines",
            )

    def _fail(self, reason: str) -> None:
        now = time.monotonic()
        self._file.close()
        self._batch = b""
        self._delete_at = 0.0  # the disk may be full, and something old enough to go
        with self._lock:
            is_first = not self._failing
            self._failing = True
            self._failures += 1
            self._failure_ns = time.time_ns()
            pause_s = self._pause_s if self._closing_at is None else _FIRST_PAUSE_S
            self._retry_at = now + pause_s
            self._look_at = 0.0
            waiting, lost = len(self._queue), self._lost.lines
            self._lock.notify_all()
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if is_first:
            self._failing_since = now
        if is_first or now >= self._remind_at:
            self._remind_at = now + _REMIND_S
            self._log.warning("events", f"{reason}; tried again; waiting: {waiting:,} lines, lost: {lost:,}")

    def _say_cut(self, before: int) -> None:
        if self._file.cut_lines > before:
            self._log.warning(
                "events", f"{self._file.path}: a line that a killed process left unfinished was cut off"
            )


def _is_end(item: _Item) -> bool:
    event = item.event
    return event is not None and event["event_type"] == "stats" and event["event"] == "ended"


def _follow(judging: _Judging | None, item: _Item) -> _Judging | None:
    """What judges behind an event."""
    event = item.event
    if event is None:
        return judging
    if event["event_type"] == "stats" and event["event"] in ("started", "gap"):
        stats = event["stats"].copy()
        stats.pop("lost", None)
        return _Judging(event["sensor"], stats)
    if event["event_type"] == "register" and judging is not None:
        stats = judging.stats.copy()
        stats["register"], stats["policy_hash"] = event["register"], event["policy_hash"]
        return _Judging(judging.sensor, stats)
    return judging
