"""Event files, line by line: what `explain`, `recheck`, `register plan` and `register health` start from.

Takes paths ("-" is standard input) and gives every event with the place that it came from. Nothing but one
line is held. A line that is no JSON object with an `event_type` is an EventFileError naming file, line and
column. One rule a reader would get wrong: an event is not checked against the schema here, since that costs
thirty times its parsing; who only needs some fields takes them, and calls `Line.check` to name a fault.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from classifier.errors import ClassifierError
from classifier.events import faults, schema

__all__ = ["EventFileError", "EventFiles", "Line"]

_LONGEST = 1 << 26  # bytes of one line; events have a few thousand
_TICK = 1_000  # lines between two calls of `on_tick`
_EXPECTED = "expected an event a line, as `vpn-classifier replay -o` writes them"


class EventFileError(ClassifierError):
    """An event file cannot be understood: which line, which field."""


class Line(NamedTuple):
    """One event, and where it stands."""

    path: str
    number: int
    """From 1."""
    event: dict[str, Any]

    def check(self, document: Mapping[str, Any] | None = None) -> None:
        """EventFileError with the first field that breaks the schema (`document`, if it is at hand)."""
        found = next(faults(self.event, document or schema()), None)
        if found is not None:
            raise EventFileError(f"{self.path}, line {self.number}: {found}")

    def fault(self, error: Exception) -> EventFileError:
        """What to raise when a field could not be used: the schema's words where it has some."""
        self.check()
        return EventFileError(f"{self.path}, line {self.number}: a field that cannot be used: {error}")


class EventFiles:
    """The events of some files, one after the other, as one stream."""

    def __init__(self, paths: Sequence[str], on_warning: Callable[[str], None] | None = None) -> None:
        """`on_warning` is told of each gap, and of each file that is not complete at its end."""
        self.paths = tuple(paths)
        self.read = 0
        """Bytes read so far."""
        self.on_tick: Callable[[], None] | None = None
        """Called every thousand lines, for a progress bar."""
        self._on_warning = on_warning

    @property
    def size(self) -> int | None:
        """Bytes in all; None when that is unknown, as of a pipe."""
        try:
            return sum(Path(path).stat().st_size for path in self.paths) if "-" not in self.paths else None
        except OSError:
            return None

    def __iter__(self) -> Iterator[Line]:
        for path in self.paths:
            yield from self._file(path)

    def _file(self, path: str) -> Iterator[Line]:
        event: Any = None
        for number, text in enumerate(_lines(path), 1):
            self.read += len(text)
            if self.on_tick is not None and number % _TICK == 0:
                self.on_tick()
            if len(text) == _LONGEST:
                raise EventFileError(f"{path}, line {number}: longer than {_LONGEST:,} bytes; {_EXPECTED}")
            try:
                event = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                reason = error.msg.split(": line ")[0]
                raise EventFileError(
                    f"{path}, line {number}, column {error.colno}: not JSON ({reason}); {_EXPECTED}"
                ) from None
            line = Line(path, number, event)
            if not isinstance(event, dict) or not isinstance(event.get("event_type"), str):
                line.check()
            if (
                self._on_warning is not None
                and event["event_type"] == "stats"
                and event.get("event") == "gap"
            ):
                self._on_warning(_gap(line))
            yield line
        if event is None:
            raise EventFileError(f"{path}: empty; {_EXPECTED}")
        if self._on_warning is not None and not _is_last(event):
            self._on_warning(
                f"{path}: not complete: its last line is not the `stats` event `ended`, "
                "so events may be missing"
            )


def _is_last(event: Mapping[str, Any]) -> bool:
    """Whether a file that ends with it is whole; a ledger always is."""
    kind: str = event["event_type"]
    return kind == "ledger" or (kind == "stats" and event.get("event") in ("ended", "rotated"))


def _gap(line: Line) -> str:
    try:
        lost = line.event["stats"]["lost"]
        return (
            f"{line.path}: a gap at line {line.number}: {lost['lines']:,} lines of {lost['first']} to "
            f"{lost['last']} could not be written"
        )
    except (KeyError, TypeError, ValueError) as error:
        raise line.fault(error) from None


def _lines(path: str) -> Iterator[bytes]:
    if path == "-":
        if sys.stdin is None:  # closed by the caller (<&-)
            raise EventFileError(f"{path}: cannot be read: standard input is closed")
        yield from iter(lambda: sys.stdin.buffer.readline(_LONGEST), b"")
        return
    try:
        with Path(path).open("rb") as file:
            yield from iter(lambda: file.readline(_LONGEST), b"")
    except OSError as error:
        raise EventFileError(f"{path}: cannot be read: {error.strerror or error}") from error
