"""A network namespace of a test's own, with pairs of virtual Ethernet interfaces, and programs in it.

Needs unshare and nsenter (util-linux), ip (iproute2) and tcpdump; root, or a system that lets everybody have
user namespaces. What is missing fails the test and is named: a live capture that nobody tried is not known to
work. The namespace goes, with all that is in it, when the process that holds it ends.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_TOOLS = ("unshare", "nsenter", "setpriv", "ip", "tcpdump")
DEADLINE_S = 60.0


def run(*command: str, stdin: str | None = None) -> str:
    """A command that ends by itself; its output."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def until(done: Callable[[], bool], what: str) -> None:
    """Wait for something that must come. The deadline is for failures; nothing is measured by it."""
    end = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < end, f"waited {DEADLINE_S:.0f} s for {what}"
        time.sleep(0.01)


def until_it_says(text: str, log: Path, program: subprocess.Popen[bytes]) -> None:
    """Wait for a text in the log of a program, which must go on running."""

    def says() -> bool:
        said = log.read_text() if log.exists() else ""
        assert program.poll() is None, f"{log}: ended with status {program.returncode}: {said}"
        return text in said

    until(says, f"{text!r} in {log}")


class Namespace:
    """A network namespace, and what is started in it.

    One that is made `beside` another can share wires with it. With `own_run` its programs
    have a /run of their own: daemons of one kind would meet there, in process id files and control sockets.
    """

    def __init__(self, beside: Namespace | None = None, *, own_run: bool = False) -> None:
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            pytest.fail(f"live capture cannot be tried without {', '.join(missing)} (.ci/run installs them)")
        if os.geteuid() == 0:
            within, enter = ["unshare"], []
        elif beside is None:
            within, enter = ["unshare", "--user", "--map-root-user"], ["--user", "--preserve-credentials"]
        else:  # wires only go from namespace to namespace of one user namespace
            enter = ["--user", "--preserve-credentials"]
            within = ["nsenter", "--target", str(beside.pid), *enter, "unshare"]
        ready = "echo ready && exec cat"
        self._holder = subprocess.Popen(
            [
                *(*within, "--net", *(["--mount"] if own_run else []), "sh", "-c"),
                f"mount -t tmpfs tmpfs /run && {ready}" if own_run else ready,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # a Ctrl-C is for who holds it, and ends it in order
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            _, said = self._holder.communicate()
            pytest.fail(
                "live capture cannot be tried without a network namespace (run as root, or where users "
                f"may have namespaces): {said.decode().strip()}"
            )
        self.pid: int = self._holder.pid
        self.enter = [
            *("nsenter", "--target", str(self.pid), *enter, "--net"),
            *(["--mount", f"--wd={Path.cwd()}"] if own_run else []),
        ]
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str, stdin: str | None = None) -> str:
        """A command that ends by itself; its output."""
        return run(*self.enter, *command, stdin=stdin)

    def start(self, *command: str, stderr: Path, keep: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        """A program that goes on until it is stopped; a signal to it reaches it, since nsenter becomes it.

        It keeps these file descriptors, and is killed when this process ends, however that ends.
        """
        with stderr.open("wb") as errors:
            started = subprocess.Popen(
                [*self.enter, "setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=keep,
                process_group=0,
            )
        self._started.append(started)
        return started

    def close(self) -> None:
        """End what was started, and the namespace."""
        for started in self._started:
            if started.poll() is None:
                started.kill()
            started.wait()
        self._holder.communicate()


class Laboratory(Namespace):
    """The namespace that listens, with pairs of virtual Ethernet interfaces."""

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

    def watch(self, *arguments: str, stderr: Path, under: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """`vpn-classifier watch`, listening; `under` a command that becomes it."""
        program = [*under, sys.executable, "-m", "classifier", "watch", *arguments]
        started = self.start(*program, stderr=stderr)
        until_it_says("listening on", stderr, started)
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
        until_it_says("listening on", errors, program)
        yield
        until(lambda: file.stat().st_size >= size, f"{size} bytes from tcpdump")
        stop(program, signal.SIGINT)
        assert file.stat().st_size == size


def stop(program: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """Its exit status after this signal."""
    program.send_signal(number)
    return program.wait(DEADLINE_S)


def write_frames(file: Path, frames: Sequence[bytes]) -> None:
    """Each with its length before it, four bytes, big-endian."""
    file.write_bytes(b"".join(len(frame).to_bytes(4) + frame for frame in frames))


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a tunnel."""

    name: str
    """Of its files."""
    namespace: Namespace
    address: str
    inner: str
    """Its address inside of the tunnel."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel between a subscriber and a server, as planned."""

    name: str
    """At most ten letters: interfaces are named after it."""
    subscriber: Side
    server: Side

    def sides(self) -> tuple[tuple[Side, Side], tuple[Side, Side]]:
        """Each with the other one; the server first, since it has to be there when the subscriber dials."""
        return (self.server, self.subscriber), (self.subscriber, self.server)


class Network:
    """Subscribers, an edge router, servers elsewhere, and a sensor that gets a copy of what passes.

        subscribers  up0 ---- lan0  edge  wan0 ---- net0  servers
                                     |
                                  mirror0 ---- tap0  sensor

    tc copies what comes in and what goes out at lan0: a u32 filter that matches everything, and mirred. Each
    tunnel has an address of its own at either end.
    """

    def __init__(self, sensor: Laboratory, place: Path) -> None:
        self.sensor = sensor
        self.place = place
        self._made: list[Namespace] = []
        self.subscribers, self.edge, self.servers = (self._namespace() for _ in range(3))
        self._wire(self.subscribers, "up0", "lan0", "198.51.100.1/24")
        self._wire(self.servers, "net0", "wan0", "203.0.113.1/24")
        self.edge.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.edge.run("tc", "qdisc", "add", "dev", "lan0", "clsact")
        self.mirror()
        self.servers.start(*_TALK, "serve", stderr=place / "serve.stderr")

    def mirror(self) -> None:
        """Begin to copy to the sensor, also after its interface was deleted."""
        for command in self.mirror_commands():
            run(*command)

    def mirror_commands(self) -> list[list[str]]:
        """What that takes."""
        edge, sensor = self.edge.enter, self.sensor.enter
        peer = f"peer name tap0 mtu 65000 netns {self.sensor.pid}"
        copy = "protocol all u32 match u32 0 0 action mirred egress mirror dev mirror0"
        steps = [
            (edge, f"ip link add mirror0 mtu 65000 type veth {peer}"),
            (edge, "ip link set mirror0 addrgenmode none up"),
            (sensor, "ip link set tap0 addrgenmode none up"),
            *((edge, f"tc filter delete dev lan0 {direction}") for direction in ("ingress", "egress")),
            *((edge, f"tc filter add dev lan0 {direction} {copy}") for direction in ("ingress", "egress")),
        ]
        return [[*enter, *step.split()] for enter, step in steps]

    def tunnel(self, name: str, number: int) -> Tunnel:
        """A tunnel of its own addresses: 198.51.100.NUMBER dials 203.0.113.NUMBER; 10.NUMBER.0.0 inside."""
        subscriber = Side(f"{name}-subscriber", self.subscribers, f"198.51.100.{number}", f"10.{number}.0.2")
        server = Side(f"{name}-server", self.servers, f"203.0.113.{number}", f"10.{number}.0.1")
        for here, there, name_of_wire, router in (
            (subscriber, server, "up0", "198.51.100.1"),
            (server, subscriber, "net0", "203.0.113.1"),
        ):
            here.namespace.run("ip", "address", "add", f"{here.address}/24", "dev", name_of_wire)
            here.namespace.run(
                "ip", "route", "add", f"{there.address}/32", "via", router, "src", here.address
            )
        return Tunnel(name, subscriber, server)

    def talk(self, tunnel: Tunnel, count: int) -> None:
        """So many datagrams through the tunnel, and as many answers."""
        self.subscribers.run(*_TALK, "ask", tunnel.server.inner, str(count))

    def keep_talking(self, tunnel: Tunnel) -> None:
        """Some datagrams a second through the tunnel, and their answers, until the end."""
        errors = self.place / f"{tunnel.name}-talk.stderr"
        self.subscribers.start(*_TALK, "ask", tunnel.server.inner, "0", stderr=errors)

    def cut(self) -> None:
        """Let nothing pass any more, and nothing be copied."""
        self.edge.run("ip", "link", "set", "lan0", "down")

    def close(self) -> None:
        """End what runs in it."""
        for namespace in self._made:
            namespace.close()

    def _namespace(self) -> Namespace:
        self._made.append(Namespace(self.sensor, own_run=True))
        self._made[-1].run("ip", "link", "set", "lo", "up")
        return self._made[-1]

    def _wire(self, outside: Namespace, there: str, here: str, address: str) -> None:
        self.edge.run(
            *("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(outside.pid))
        )
        for namespace, name in ((self.edge, here), (outside, there)):
            # Segments as on a wire, not as the kernel hands them from one end of a virtual wire to the other.
            namespace.run("ip", "link", "set", name, "addrgenmode", "none", "gso_max_segs", "1", "up")
        self.edge.run("ip", "address", "add", address, "dev", here)


_TALK = (sys.executable, str(Path(__file__).with_name("talk.py")))
