"""What a run that goes on for long says on standard error: as text, as JSON, or for systemd's journal.

A message has a level and a kind, a word out of the code. Of one kind, ten are said in a minute; the others
are counted, and the count is said. Addresses are left out unless the level is "debug": a log is read by more
people than an event file. One rule a reader would get wrong: nothing waits for whoever reads the log. What
standard error does not take at once is counted, too, and said later.
"""

from __future__ import annotations

import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final, TextIO

__all__ = ["Form", "Level", "Log", "printable"]

_WINDOW_S: Final = 60.0
_IN_A_WINDOW: Final = 10
_MAX_LINE: Final = select.PIPE_BUF - 1  # what a pipe that has room takes whole (man 7 pipe)
_ADDRESS: Final = re.compile(  # of this host itself (RFC 1122, 3.2.1.3) it says nothing
    r"(?<![\w.:])(?:(?!127\.)\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f.]*){2,})"
)
_HIDDEN: Final = "(address)"


class Form(StrEnum):
    """Choices of --log-format."""

    TEXT = "text"
    JSON = "json"
    JOURNAL = "journal"


class Level(StrEnum):
    """Choices of --log-level: the least that is said."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_PRIORITY: Final = {Level.DEBUG: 7, Level.INFO: 6, Level.WARNING: 4, Level.ERROR: 3}  # man 3 sd-daemon


class _Window:
    """What was said of one kind lately."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.said = 0
        self.suppressed = 0


class Log:
    """Says messages. Any thread may."""

    def __init__(
        self,
        form: Form = Form.TEXT,
        level: Level = Level.INFO,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._form = form
        self._least = list(Level).index(level)
        self._hides = level is not Level.DEBUG
        self._stream = stream
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()

    def debug(self, kind: str, text: str) -> None:
        self._say(Level.DEBUG, kind, text)

    def info(self, kind: str, text: str) -> None:
        self._say(Level.INFO, kind, text)

    def warning(self, kind: str, text: str) -> None:
        self._say(Level.WARNING, kind, text)

    def error(self, kind: str, text: str) -> None:
        self._say(Level.ERROR, kind, text)

    def tick(self, *, last: bool = False) -> None:
        """Say what was not said, where a minute is over; the last time, at once."""
        if not self._windows:
            return
        with self._lock:
            now = self._clock()
            for kind, window in list(self._windows.items()):
                if last or now >= window.ends:
                    del self._windows[kind]
                    if window.suppressed:
                        text = f"and {window.suppressed:,} more about {kind}, not said"
                        self._write(Level.WARNING, kind, text, window.suppressed)

    def _say(self, level: Level, kind: str, text: str) -> None:
        if list(Level).index(level) < self._least:
            return
        self.tick()
        with self._lock:
            window = self._windows.setdefault(kind, _Window(self._clock() + _WINDOW_S))
            if window.said < _IN_A_WINDOW and self._write(level, kind, text):
                window.said += 1
            else:
                window.suppressed += 1

    def _write(self, level: Level, kind: str, text: str, suppressed: int = 0) -> bool:
        """Whether standard error took it."""
        if self._hides:
            text = _ADDRESS.sub(_hidden, text)
        stream = self._stream or sys.stderr
        try:
            for line in text.splitlines():
                if not _put(stream, self._line(level, kind, printable(line), suppressed) + "\n"):
                    return False
        except (OSError, ValueError):  # nobody reads, or it is closed
            return False
        return True

    def _line(self, level: Level, kind: str, text: str, suppressed: int) -> str:
        if self._form is Form.JSON:
            line = _json(level, kind, text, suppressed)
            while len(line) > _MAX_LINE:
                text = text[: len(text) * 3 // 4]
                line = _json(level, kind, text, suppressed)
            return line.decode()
        head = "vpn-classifier: " if self._form is Form.TEXT else f"<{_PRIORITY[level]}>"
        return (head + text).encode()[:_MAX_LINE].decode(errors="ignore")


def printable(text: str) -> str:
    """Text, without what a terminal would obey: file names may hold anything."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _json(level: Level, kind: str, text: str, suppressed: int) -> bytes:
    import orjson

    from classifier.events import rfc3339

    item = {"time": rfc3339(time.time_ns()), "level": level.value, "kind": kind, "message": text}
    return orjson.dumps(item | ({"suppressed": suppressed} if suppressed else {}))


def _put(stream: TextIO, line: str) -> bool:
    """Write a line, unless that would have to wait."""
    try:
        file = stream.fileno()
    except (OSError, AttributeError):  # a stand-in
        stream.write(line)
        stream.flush()
        return True
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    if not any(event & select.POLLOUT for _, event in poll.poll(0)):
        return False
    os.write(file, line.encode(errors="backslashreplace"))
    return True


def _hidden(found: re.Match[str]) -> str:
    """In place of an address; what only looks like one, such as a time, stays."""
    import ipaddress

    text = found.group().rstrip(".:")
    rest = found.group()[len(text) :]
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return found.group()
    return _HIDDEN + rest
