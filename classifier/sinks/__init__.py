"""Where events go. Every sink has the same three methods."""

from __future__ import annotations

from typing import Protocol

from classifier.events import Event, VpnLine


class Sink(Protocol):
    """Takes events one by one, in order."""

    def write(self, event: Event | VpnLine) -> None:
        """Take one event; OutputError when it cannot be kept."""

    def flush(self) -> None:
        """Bring what was taken to where it goes."""

    def close(self) -> None:
        """Flush and release; safe to call twice."""
