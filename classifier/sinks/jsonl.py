"""Event lines of a run that has an end: one JSON object a line, in UTF-8.

Lines leave whole. When the disk fills up in the middle of one, the file is cut back to the last whole
line before the error is raised, which ends the run; what was written before stays readable. A run without an
end has `queued.QueuedLines`.
"""

from __future__ import annotations

import os
import stat
import sys

import orjson

from classifier.errors import OutputError
from classifier.events import Event, VpnLines

_FULL = 1 << 18  # bytes gathered before they are written
_LONG = 1 << 16  # lines that come together and are as long as this are not worth a copy


class JsonLines:
    """Writes to a file, which is made or emptied, or to standard output when the name is "-"."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._held = 0
        self._open = True
        if path == "-":
            if sys.__stdout__ is None:  # closed by the caller (>&-); sys.stdout may be a stand-in by now
                raise OutputError(path, "standard output is closed")
            sys.stdout.flush()
            self._file = sys.stdout.fileno()
            return
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(path, _reason(error)) from error

    def write(self, event: Event | VpnLines) -> None:
        """Take one event, or several."""
        if isinstance(event, VpnLines):
            line = event.text
            if len(line) >= _LONG:
                self.flush()
                self._put(line)
                return
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
        self._put(data)

    def _put(self, data: bytes) -> None:
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
                # Network file systems report a full disk only here.
                try:
                    os.close(self._file)
                except OSError as error:
                    raise OutputError(self._path, _reason(error)) from error

    def _cut(self, partial: int) -> None:
        if partial and stat.S_ISREG(os.fstat(self._file).st_mode):
            os.ftruncate(self._file, os.lseek(self._file, 0, os.SEEK_CUR) - partial)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
