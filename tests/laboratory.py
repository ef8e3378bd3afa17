"""A network namespace of a test's own, with pairs of virtual Ethernet interfaces, and programs in it.

Needs unshare and nsenter (util-linux), ip (iproute2) and tcpdump; root, or a system that lets everybody have
user namespaces. What is missing fails the test and is named: a live capture that nobody tried is not known to
work. The namespace goes, with all that is in it, when the process that holds it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_TOOLS = ("unshare", "nsenter", "ip", "tcpdump")
DEADLINE_S = 60.0


def until(done: Callable[[], bool], what: str) -> None:
    """Wait for something that must come. The deadline is for failures; nothing is measured by it."""
    end = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < end, f"waited {DEADLINE_S:.0f} s for {what}"
        time.sleep(0.01)


class Laboratory:
    """One namespace."""

    def __init__(self) -> None:
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            pytest.fail(f"live capture cannot be tried without {', '.join(missing)} (.ci/run installs them)")
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
            pytest.fail(
                "live capture cannot be tried without a network namespace (run as root, or where users "
                f"may have namespaces): {said.decode().strip()}"
            )
        enter = ["--user", "--preserve-credentials"] if user else []
        self.enter = ["nsenter", "--target", str(self._holder.pid), *enter, "--net"]
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str) -> str:
        """A command that ends by itself; its output."""
        done = subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def start(self, *command: str, stderr: Path) -> subprocess.Popen[bytes]:
        """A program that goes on until it is stopped; a signal to it reaches it, since nsenter becomes it."""
        with stderr.open("wb") as errors:
            started = subprocess.Popen([*self.enter, *command], stdin=subprocess.DEVNULL, stderr=errors)
        self._started.append(started)
        return started

    def pair(self, here: str, there: str) -> None:
        """Two interfaces and the wire between them, which nobody else speaks on."""
        if self.has(here):
            self.run("ip", "link", "delete", here)
        self.run(
            *("ip", "link", "add", here, "mtu", "65000", "type", "veth"),
            *("peer", "name", there, "mtu", "65000"),
        )
        for name in (here, there):
            # No address of their own, so no router solicitations.
            self.run("ip", "link", "set", name, "addrgenmode", "none", "up")

    def has(self, name: str) -> bool:
        return f": {name}@" in self.run("ip", "link")

    def send(self, frames: Path, *wires: str) -> None:
        """Send the frames of a file (`write_frames`) in turn through these (FROM:TO), until they arrive."""
        self.run(sys.executable, str(Path(__file__).with_name("send_frames.py")), str(frames), *wires)

    def watch(self, *arguments: str, stderr: Path) -> subprocess.Popen[bytes]:
        """`vpn-classifier watch`, listening."""
        program = [sys.executable, "-m", "classifier", "watch", *arguments]
        started = self.start(*program, stderr=stderr)

        def listens() -> bool:
            assert started.poll() is None, stderr.read_text()
            return "listening on" in stderr.read_text()

        until(listens, "watch to listen")
        return started

    @contextmanager
    def tcpdump(self, interface: str, file: Path, size: int) -> Iterator[None]:
        """Write what comes to a file, until it has this many bytes."""
        errors = file.with_suffix(".stderr")
        program = self.start(
            *("tcpdump", "-i", interface, "-w", str(file), "-U", "--immediate-mode", "-Z", "root"),
            *("-B", "65536", "--time-stamp-precision", "nano", "-s", "0"),
            stderr=errors,
        )
        until(lambda: "listening on" in errors.read_text(), "tcpdump to listen")
        yield
        until(lambda: file.stat().st_size >= size, f"{size} bytes from tcpdump")
        stop(program, signal.SIGINT)
        assert file.stat().st_size == size

    def close(self) -> None:
        """End what was started, and the namespace."""
        for started in self._started:
            if started.poll() is None:
                started.kill()
            started.wait()
        self._holder.communicate()


def stop(program: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """Its exit status after this signal."""
    program.send_signal(number)
    return program.wait(DEADLINE_S)


def write_frames(file: Path, frames: Sequence[bytes]) -> None:
    """Each with its length before it, four bytes, big-endian."""
    file.write_bytes(b"".join(len(frame).to_bytes(4) + frame for frame in frames))
