"""CPU time of this process by thread, as Linux counts it.

The core names its threads vpn-worker-N and vpn-capture-N, of which sixteen each are told apart; Python knows
those of the sinks, which bear the name of their sink. The rule a reader would get wrong: threads end, and a
counter must not go back; so all that are not named here are what is left of the process' own CPU time.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

__all__ = ["ThreadTimes"]

_TASKS: Final = Path("/proc/self/task")
_OF_THE_CORE: Final = re.compile(r"vpn-((?:worker|capture)-(?:[0-9]|1[0-5]))")
_OTHERS: Final = "others"


class ThreadTimes:
    """Reads the times of this process' threads."""

    def __init__(self, run: int, sinks: Collection[str]) -> None:
        """`run`: native id of the thread that runs; `sinks`: names of theirs."""
        self._run = run
        self._sinks = frozenset(sinks)
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self._others = 0.0

    def seconds(self) -> dict[str, float]:
        """CPU time of each thread that has a name here, and of the others together."""
        of_python = {thread.native_id: thread.name for thread in threading.enumerate()}
        found: dict[str, float] = {}
        for task in _TASKS.iterdir():
            try:
                stat = (task / "stat").read_text()
            except OSError:  # it has ended since
                continue
            # The name stands in brackets, and may hold some itself (proc_pid_stat(5)).
            command, _, rest = stat.partition("(")[2].rpartition(")")
            fields = rest.split()
            name = self._name(int(task.name), command, of_python)
            if name is not None:
                found[name] = found.get(name, 0.0) + (int(fields[11]) + int(fields[12])) * self._tick_s
        self._others = max(self._others, time.process_time() - sum(found.values()))
        return found | {_OTHERS: self._others}

    def _name(self, number: int, command: str, of_python: dict[int | None, str]) -> str | None:
        if number == self._run:
            return "run"
        if core := _OF_THE_CORE.fullmatch(command):
            return core[1]
        name = of_python.get(number)
        return f"sink-{name}" if name in self._sinks else None
