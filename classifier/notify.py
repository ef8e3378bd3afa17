"""What a service manager is told: systemd's notification protocol (man 3 sd_notify).

In: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, which the manager puts into the environment. Out: datagrams
of `NAME=value` lines to that socket. Without it, all of this does nothing.

The rule a reader would get wrong: the watchdog is fed not because this process lives, but only when every
thread that captures has taken a turn since the last look, and the loop of the run came by here. When one
hangs, the manager ends the process and starts another one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

__all__ = ["Manager"]

_LOOKS: Final = 4  # in the time within which the watchdog is to be fed
_LOOK_S: Final = 10.0  # without a watchdog
_PATIENCE_S: Final = 1.0  # with a manager whose queue is full


class Manager:
    """The manager that started this process, if any."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # @: abstract, not a file
        interval = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._has_watchdog = is_ours and interval.isdecimal() and int(interval) > 0
        self._look_s = int(interval) / 1e6 / _LOOKS if self._has_watchdog else _LOOK_S
        self._look_at = 0.0
        self._turns: Sequence[int] = ()
        self._is_stopping = False

    def ready(self) -> None:
        """It captures; or a reload is over, whatever came of it."""
        if not self._is_stopping:
            self._tell("READY=1")

    def reloading(self) -> None:
        """Register and policy are being read again."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """It takes what has arrived, and ends."""
        self._is_stopping = True
        self._tell("STOPPING=1")

    def tick(self, turns: Callable[[], Sequence[int]], status: Callable[[], str]) -> None:
        """Look whether all goes on, if it is time to. `turns`: of each capturing thread; `status`: a line."""
        now = time.monotonic()
        if not self._address or now < self._look_at:
            return
        self._look_at = now + self._look_s
        before, self._turns = self._turns, turns()
        told = [f"STATUS={status()}"]
        if self._has_watchdog and _have_advanced(before, self._turns):
            told.append("WATCHDOG=1")
        self._tell(*told)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A manager that does not listen must not stop the capture.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.settimeout(_PATIENCE_S)
            told.connect(self._address)
            told.send("\n".join(lines).encode())


def _have_advanced(before: Sequence[int], now: Sequence[int]) -> bool:
    """Whether every thread took a turn; where their number has changed, it is the next look that tells."""
    if len(before) != len(now):
        return True
    return bool(now) and all(earlier != later for earlier, later in zip(before, now, strict=True))
