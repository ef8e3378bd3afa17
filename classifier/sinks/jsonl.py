"""Event lines: one JSON object a line, in UTF-8.

Lines leave whole. When the disk fills up in the middle of one, the file is cut back to the last whole
line before the error is raised; what was written before stays readable.
"""

from __future__ import annotations

import os
import stat
import sys

import orjson

from classifier.errors import OutputError
from classifier.events import Event, VpnLine, VpnLines

_FULL = 1 << 18  # bytes gathered before they are written


class JsonLines:
    """Writes to a file, which is made or emptied, or to standard output when the name is "-".

    With `append`, a file that is there goes on behind its last whole line: a process that was killed may have
    left part of one, which is cut off.
    """

    def __init__(self, path: str, *, append: bool = False) -> None:
        self._path = path
        self._append = append
        self._lines: list[bytes] = []
        self._held = 0
        self._open = True
        if path == "-":
            if sys.__stdout__ is None:  # closed by the caller (>&-); sys.stdout may be a stand-in by now
                raise OutputError(path, "standard output is closed")
            sys.stdout.flush()
            self._file = sys.stdout.fileno()
            return
        self._file = self._opened()

    def reopen(self) -> None:
        """Open the name anew: whoever moved the file away keeps what was written until now. Not for "-"."""
        if self._path == "-":
            return
        self.flush()
        file = self._opened()
        self._close()
        self._file = file

    def _opened(self) -> int:
        # Two processes that append to one file do not write over each other's lines.
        how = os.O_RDWR | os.O_APPEND if self._append else os.O_WRONLY | os.O_TRUNC
        try:
            file = os.open(self._path, how | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if self._append:
                _cut_partial_line(file)
            return file
        except OSError as error:
            raise OutputError(self._path, _reason(error)) from error

    def write(self, event: Event | VpnLine | VpnLines) -> None:
        """Take one event, or several."""
        if isinstance(event, VpnLine):
            line = event.line
        elif isinstance(event, VpnLines):
            line = event.text
        else:
            line = orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
        self._lines.append(line)
        self._held += len(line)
        if self._held >= _FULL:
            self.flush()

    def flush(self) -> None:
        """Write the lines taken. BrokenPipeError when the reader of a pipe has left."""
        data = b"".join(self._lines)
        self._lines.clear()
        self._held = 0
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except BrokenPipeError:
            raise
        except OSError as error:
            self._cut(written - (data.rfind(b"\n", 0, written) + 1))
            raise OutputError(self._path, _reason(error)) from error

    def close(self) -> None:
        """Write what is left; a file is closed, standard output is not."""
        if not self._open:
            return
        self._open = False
        try:
            self.flush()
        finally:
            if self._path != "-":
                self._close()

    def _close(self) -> None:
        # Network file systems report a full disk only here.
        try:
            os.close(self._file)
        except OSError as error:
            raise OutputError(self._path, _reason(error)) from error

    def _cut(self, partial: int) -> None:
        if partial and stat.S_ISREG(os.fstat(self._file).st_mode):
            os.ftruncate(self._file, os.lseek(self._file, 0, os.SEEK_CUR) - partial)


def _cut_partial_line(file: int) -> None:
    """Cut a file back to the end of its last whole line; what is no regular file has none."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return
    size = end = os.lseek(file, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _FULL)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
