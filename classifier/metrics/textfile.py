"""Metrics in a file, in Prometheus' text format, as node_exporter's textfile collector reads it.

The file is whole at any time: it is written beside itself and renamed. The rule a reader would get wrong:
process metrics are not in it, since node_exporter has its own of the same names and refuses a second.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from classifier.errors import OutputError

__all__ = ["FileWriter", "write"]

_EVERY_S: Final = 15.0


def write(path: str, registry: Collector) -> None:
    """Put the metrics there; OutputError when that fails, and what was there stays."""
    text = generate_latest(registry)
    # Not *.prom, which node_exporter would read, too.
    beside = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.{threading.get_native_id()}")
    try:
        try:
            beside.write_bytes(text)
            beside.replace(path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        raise OutputError(path, error.strerror or str(error)) from error


class FileWriter:
    """Writes the file again and again, in a thread of its own: a slow disk keeps nobody waiting."""

    def __init__(
        self, path: str, registry: Collector, say: Callable[[str], None], every_s: float = _EVERY_S
    ) -> None:
        self._path = path
        self._registry = registry
        self._say = say
        self._every_s = every_s
        self._ended = threading.Event()
        self._failures = 0
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="metrics-file", daemon=True)

    def start(self) -> None:
        """Write now, and from now on."""
        self._thread.start()

    def close(self) -> None:
        """Write once more, and no longer."""
        self._ended.set()
        self._thread.join(self._every_s)

    def numbers(self) -> Mapping[str, Mapping[tuple[str, ...], float]]:
        """How often it could not be written, for the metric of that name."""
        return {"metrics_file_failures_total": {(): self._failures}}

    def _run(self) -> None:
        while not self._ended.is_set():
            self._write()
            self._ended.wait(self._every_s)
        self._write()

    def _write(self) -> None:
        try:
            write(self._path, self._registry)
        except OutputError as error:
            self._failures += 1
            if not self._failing:  # once, until it goes well again
                self._say(f"--metrics-file: {error}")
            self._failing = True
        else:
            self._failing = False
