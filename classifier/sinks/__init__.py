"""Where events go. Every sink has the same three methods; one with a thread of its own also counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from classifier.events import Event, VpnLines


class Sink(Protocol):
    """Takes the events of a run that has an end, in order; `watch` picks lines one by one, for a queue."""

    def write(self, event: Event | VpnLines) -> None:
        """Take one event, or several; OutputError when they cannot be kept."""

    def flush(self) -> None:
        """Bring what was taken to where it goes."""

    def close(self) -> None:
        """Flush and release; safe to call twice."""


@dataclass(frozen=True, slots=True)
class SinkCounters:
    """What became of what a sink was given; `taken` is `written`, `lost` and `queued` together, always.

    Lines that the sink writes of its own accord (the beginning of a file, gaps) are not among them.
    """

    name: str
    """Of the sink, from a closed list; never a path."""
    taken_lines: int = 0
    taken_bytes: int = 0
    written_lines: int = 0
    written_bytes: int = 0
    lost_lines: int = 0
    """Refused since the queue was full, or left over at the end."""
    lost_bytes: int = 0
    queued_lines: int = 0
    queued_bytes: int = 0
    queue_limit_lines: int = 0
    queue_limit_bytes: int = 0
    failures: int = 0
    """Attempts to open, write, rotate or delete a file that failed."""
    failing: bool = False
    """What was taken cannot be written now; the next attempt comes by itself."""
    last_success_ns: int = 0
    """By the host's clock; 0 before the first."""
    last_failure_ns: int = 0
    gaps: int = 0
    """Gaps that the file names, or will."""
    rotations: int = 0
    deleted_files: int = 0
    """Rotated files that were deleted, since they were too old or too many."""
    cut_lines: int = 0
    """Unfinished lines, of a process that was killed, that were cut off."""


class CountedSink(Protocol):
    """A sink that counts, and can be asked from any thread."""

    def counters(self) -> SinkCounters:
        """What became of what it was given, until now."""
