"""A network namespace of a benchmark's own, with a virtual wire in it, and programs that run there.

Needs root, or a system that lets everybody have user namespaces; unshare, nsenter (util-linux), ip
(iproute2). The namespace goes, with all that is in it, when the process that holds it ends.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from bench.measure import BenchError

MTU = 9000  # jumbo frames of a load fit, too
PATIENCE_S = 60.0


class Namespace:
    """One namespace, in a `with` statement."""

    def __init__(self) -> None:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            ["unshare", *user, "--net", "sh", "-c", "echo ready && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            _, said = self._holder.communicate()
            raise BenchError(f"no network namespace (be root): {said.decode().strip()}")
        entered = ["--user", "--preserve-credentials"] if user else []
        self.enter = ["nsenter", "--target", str(self._holder.pid), *entered, "--net"]
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for started in self._started:
            if started.poll() is None:
                started.kill()
            started.wait()
        self._holder.communicate()

    def wire(self, here: str, there: str) -> None:
        """Two interfaces and the wire between them, which nobody else speaks on."""
        mtu = ("mtu", str(MTU))
        self.run("ip", "link", "add", here, *mtu, "type", "veth", "peer", "name", there, *mtu)
        for name in (here, there):
            self.run("ip", "link", "set", name, "addrgenmode", "none", "up")

    def run(self, *command: str, timeout: float = PATIENCE_S) -> str:
        """A command that ends by itself; its output."""
        done = subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode != 0:
            raise BenchError(f"status {done.returncode}: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def start(
        self, command: Sequence[str], stdout: int | IO[bytes], stderr: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """A program that goes on until it is stopped; a signal to it reaches it, since nsenter becomes it."""
        started = subprocess.Popen(
            [*self.enter, *command], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        self._started.append(started)
        return started


def stop(program: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End it by this signal."""
    if program.poll() is None:
        program.send_signal(number)
    program.wait(PATIENCE_S)


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
