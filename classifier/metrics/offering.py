"""What a command offers of its metrics: a page, a file, both or nothing.

Made before anything is loaded, so that a port in use is said at once; `begin` when the run is made,
`tick` from its loop, `close` when it is over. With nothing asked for, all of it does nothing, and
prometheus-client is not loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier.metrics.meter import Meter
from classifier.metrics.names import Where
from classifier.metrics.tally import Tally
from classifier.pipeline import Replay
from classifier.sinks import CountedSink

if TYPE_CHECKING:
    from classifier.metrics.server import Server, Tls
    from classifier.metrics.textfile import FileWriter

__all__ = ["Offering", "Wanted", "write_replay"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a live run was asked to offer."""

    address: str | None = None
    tls: Tls | None = None
    file: str | None = None


class Offering:
    """The page and the file of a live run."""

    def __init__(self, wanted: Wanted) -> None:
        """MetricsError when nobody can listen there; ValueError for what is no address."""
        self._wanted = wanted
        self._server: Server | None = None
        self._file: FileWriter | None = None
        self._meter: Meter | None = None
        if wanted.address is not None:
            from classifier.metrics.server import Server, parse_address

            self._server = Server(parse_address(wanted.address), wanted.tls)
        self.tally = Tally() if wanted.address is not None or wanted.file is not None else None
        """What the run is to count; None: nobody asks."""

    def begin(self, run: Replay, sinks: Sequence[CountedSink], say: Callable[[str], None]) -> None:
        """Answer from now on."""
        if self.tally is None:
            return
        from classifier.metrics.collector import RunCollector, registry_of
        from classifier.metrics.textfile import FileWriter

        self._meter = Meter(run, self.tally, sinks)
        collector = RunCollector(self._meter, Where.WATCH)
        if self._server is not None:
            collector.add(self._server.closed_connections)
            self._server.start(self._meter, registry_of(collector, process=True))
        if self._wanted.file is not None:
            self._file = FileWriter(self._wanted.file, registry_of(collector, process=False), say)
            collector.add(self._file.numbers)
            self._file.start()

    def tick(self) -> None:
        """The run has come by."""
        if self._meter is not None:
            self._meter.tick()

    def close(self) -> None:
        """The run is over: the file gets its last numbers, and the page is gone."""
        if self._meter is not None:
            self._meter.take()
        if self._file is not None:
            self._file.close()
        if self._server is not None:
            self._server.close()


def write_replay(path: str, run: Replay, tally: Tally, seconds: float) -> None:
    """The metrics of a replay that is over, which took so long; OutputError when they cannot be written."""
    from classifier.metrics.collector import RunCollector, registry_of
    from classifier.metrics.textfile import write

    collector = RunCollector(Meter(run, tally), Where.REPLAY)
    collector.add(
        lambda: {
            "run_end_timestamp_seconds": {(): time.time()},
            "run_duration_seconds": {(): seconds},
            "run_success": {(): not run.faults and not run.interrupted},
        }
    )
    write(path, registry_of(collector, process=False))
