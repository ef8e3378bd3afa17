"""A file of lines that a run appends to for months: opened, repaired, rotated, deleted when old. No threads.

The current file keeps its name, NAME.jsonl; one that is full or of a past period becomes
NAME-20261123T093015.123Z.jsonl by the time of its rotation (UTC), so that names sort by time and the current
file comes last. That is what logrotate and whoever follows files by inode (Filebeat) expect.

Lines are whole: what a failed write left of a line is cut off at once, what a killed process left when the
file is opened. The rule a reader would get wrong: a FIFO or device has no such end to cut; there a line that
was begun is written again, whole, once somebody else reads.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from classifier.errors import OutputError

__all__ = ["RotatingFile", "Rotation"]

_ROOM_MS: Final = 200  # how long to wait for a slow reader, before looking at what else there is to do
_CUT: Final = 1 << 18  # bytes read at once in search of the last newline
_NS_PER_MS: Final = 1_000_000
_PACKED: Final = r"(?:\.(?:gz|xz|zst|bz2))?"  # what people make of rotated files


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a new file is begun and old ones are deleted; 0: never."""

    size: int = 0
    """Bytes from which a file is full."""
    every_ns: int = 0
    """Periods are counted from 1970, so a day is a day in UTC, also after a restart."""
    retain_ns: int = 0
    """Age, since its rotation, beyond which a file is deleted."""
    retain_size: int = 0
    """Bytes of all files, the current one too, beyond which the oldest are deleted."""


class RotatingFile:
    """A file, FIFO or device by its name, or standard output as "-"."""

    def __init__(self, path: str, rotation: Rotation | None = None) -> None:
        self.path = path
        self.cut_lines = 0
        """Unfinished lines that were cut off."""
        self.deleted_files = 0
        self._rotation = rotation or Rotation()
        self._file = -1
        self._is_regular = False
        self._period = 0
        if path == "-" and sys.__stdout__ is None:  # closed by the caller (>&-); sys.stdout may be a stand-in
            raise OutputError(path, "standard output is closed")

    @property
    def is_open(self) -> bool:
        return self._file >= 0

    @property
    def is_fifo(self) -> bool:
        """It cannot be opened while nobody reads it."""
        return self.path != "-" and _is_fifo(self.path)

    def open(self, last: bytes = b"") -> bool:
        """Open the name. A file that was open until now gets `last` as its last line, and is closed.

        Whether it is new to its readers: empty, or no file at all. When it cannot be opened, what was open
        stays so.
        """
        if self.path == "-":
            sys.stdout.flush()
            self._file = sys.stdout.fileno()
            self._is_regular = stat.S_ISREG(os.fstat(self._file).st_mode)
            return False
        try:
            file, is_regular = self._opened()
        except OSError as error:
            raise self._error(error) from error
        if self.is_open:
            if last:
                self.write(last, 0)  # a full disk: without it the file is not called complete
            self.close()
        self._file, self._is_regular = file, is_regular
        found = os.fstat(file)
        is_new = found.st_size == 0
        self._period = self._period_of(time.time_ns() if is_new else found.st_mtime_ns)
        return is_new or not is_regular

    def write(self, data: bytes, start: int) -> tuple[int, OutputError | None]:
        """Write `data` from `start` on: where to go on, and why that is not its end.

        Without an error, a reader is slow. After one the file is closed, and it goes on at the beginning of a
        line. BrokenPipeError when the reader of standard output has left.
        """
        at = start
        try:
            # Whoever gave standard output may have made it so: a temporary file has no name.
            if self._is_regular and self.path != "-" and os.fstat(self._file).st_nlink == 0:
                raise OSError(None, "it was deleted")
            while at < len(data):
                end = len(data)
                if not self._is_regular:
                    if not self._has_room():
                        break
                    end = min(end, at + select.PIPE_BUF)  # as much as never has to wait (man 7 pipe)
                at += os.write(self._file, memoryview(data)[at:end])
        except BlockingIOError:
            pass
        except OSError as error:
            if self.path == "-" and isinstance(error, BrokenPipeError):
                raise
            whole = data.rfind(b"\n", 0, at) + 1
            self._cut(at - max(whole, start))
            self.close()
            return whole, self._error(error)
        return at, None

    def is_due(self) -> bool:
        """Whether a new file is to be begun."""
        if not self._is_regular or not self.is_open or self.path == "-":
            return False
        size = os.fstat(self._file).st_size
        is_past = self._period != self._period_of(time.time_ns())
        return size > 0 and (is_past or 0 < self._rotation.size <= size)

    def is_moved(self) -> bool:
        """Whether its name stands for another file by now, or for none."""
        if self.path == "-" or not self.is_open:
            return False
        try:
            return not os.path.samestat(Path(self.path).stat(), os.fstat(self._file))
        except OSError:
            return True

    def put_aside(self) -> None:
        """Give the current file its name among the rotated ones. It stays open; `open` begins the next."""
        try:
            now_ms = time.time_ns() // _NS_PER_MS
            latest_ms = max((rotated_ms for rotated_ms, _ in self._rotated()), default=0)
            path = Path(self.path)
            # Behind all that are there, whatever the clock does.
            path.rename(path.with_name(f"{path.stem}-{_stamp(max(now_ms, latest_ms + 1))}{path.suffix}"))
        except OSError as error:
            raise self._error(error) from error

    def delete_old(self) -> None:
        """Delete rotated files that are too old or too many."""
        if self.path == "-" or not (self._rotation.retain_ns or self._rotation.retain_size):
            return
        try:
            rotated = sorted(self._rotated())
            sizes = [path.stat().st_size for _, path in rotated]
            total = sum(sizes) + (os.fstat(self._file).st_size if self.is_open else 0)
            oldest_ms = (time.time_ns() - self._rotation.retain_ns) // _NS_PER_MS
            for (rotated_ms, path), size in zip(rotated, sizes, strict=True):
                is_old = self._rotation.retain_ns > 0 and rotated_ms < oldest_ms
                if not is_old and not 0 < self._rotation.retain_size < total:
                    break
                path.unlink()
                total -= size
                self.deleted_files += 1
        except OSError as error:
            raise OutputError(self.path, f"old files cannot be deleted: {_reason(error)}") from error

    def close(self) -> None:
        """Close it, if it is open; standard output stays open."""
        file, self._file = self._file, -1
        if file >= 0 and self.path != "-":
            with suppress(OSError):
                os.close(file)

    def _opened(self) -> tuple[int, bool]:
        # Opening a FIFO for writing alone fails while nobody reads it; O_NONBLOCK, or it would wait instead.
        access = os.O_WRONLY if _is_fifo(self.path) else os.O_RDWR
        how = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        file = os.open(self.path, access | how, 0o666)
        try:
            is_regular = stat.S_ISREG(os.fstat(file).st_mode)
            if is_regular:
                _lock(file)
                self.cut_lines += _cut_partial_line(file)
        except OSError:
            os.close(file)
            raise
        return file, is_regular

    def _rotated(self) -> Iterator[tuple[int, Path]]:
        """Rotated files, each with its time."""
        path = Path(self.path)
        name = re.compile(
            rf"{re.escape(path.stem)}-(\d{{8}}T\d{{6}}\.\d{{3}})Z{re.escape(path.suffix)}{_PACKED}"
        )
        for found in path.parent.iterdir():
            if (match := name.fullmatch(found.name)) and (
                moment_ms := _moment_ms(match.group(1))
            ) is not None:
                yield moment_ms, found

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        return bool(poll.poll(_ROOM_MS))

    def _cut(self, partial: int) -> None:
        """Take back what was written of a line; where that fails too, `open` does it."""
        if partial and self._is_regular:
            with suppress(OSError):
                os.ftruncate(self._file, os.fstat(self._file).st_size - partial)
                os.lseek(self._file, 0, os.SEEK_END)  # standard output need not append

    def _period_of(self, time_ns: int) -> int:
        return time_ns // self._rotation.every_ns if self._rotation.every_ns else 0

    def _error(self, error: OSError) -> OutputError:
        return OutputError(self.path, _reason(error))


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(Path(path).stat().st_mode)
    except OSError:
        return False


def _lock(file: int) -> None:
    """Until it is closed. Of two processes, each would cut off the line that the other is writing."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(None, "another process writes to it") from None
    except OSError:
        pass  # a file system without locks


def _cut_partial_line(file: int) -> int:
    """Cut a file back to the end of its last whole line; how many lines that were."""
    size = end = os.lseek(file, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _CUT)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end == size:
        return 0
    os.ftruncate(file, end)
    return 1


def _stamp(moment_ms: int) -> str:
    seconds, rest = divmod(moment_ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{rest:03d}Z"


def _moment_ms(stamp: str) -> int | None:
    """The time that a name says; None when there is no such time."""
    try:
        moment = datetime.strptime(f"{stamp}000+0000", "%Y%m%dT%H%M%S.%f%z")
    except ValueError:
        return None
    return round(moment.timestamp() * 1_000)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
