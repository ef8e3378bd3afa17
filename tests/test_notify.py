"""What a service manager is told: a datagram socket stands for it; the real command runs in a namespace."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from laboratory import Laboratory, stop, until, write_frames
from pcap_cases import repository

from classifier.notify import Manager

RULES = str(repository() / "rules")


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    made = Laboratory()
    try:
        yield made
    finally:
        made.close()


class Ear:
    """The manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self.heard: list[dict[str, str]] = []

    def listen(self) -> list[dict[str, str]]:
        """Everything so far, a datagram each."""
        while True:
            try:
                text = self._socket.recv(65_536).decode()
            except BlockingIOError:
                return self.heard
            self.heard.append(dict(line.split("=", 1) for line in text.splitlines()))

    def has(self, name: str, value: str | None = None) -> bool:
        return any(told.get(name) == (value or told.get(name, "")) for told in self.listen() if name in told)

    def fed(self) -> int:
        return sum("WATCHDOG" in told for told in self.listen())

    def looked(self) -> int:
        return sum("STATUS" in told for told in self.listen())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["a file", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As NOTIFY_SOCKET says it."""
    return str(tmp_path / "notify") if request.param == "a file" else f"@vpn-classifier-test-{os.getpid()}"


@pytest.fixture
def ear(address: str) -> Iterator[Ear]:
    made = Ear("\0" + address[1:] if address.startswith("@") else address)
    yield made
    made.close()


def test_states_are_told(address: str, ear: Ear) -> None:
    manager = Manager({"NOTIFY_SOCKET": address})
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.ready()
    manager.reloading()
    manager.ready()
    manager.stopping()
    manager.ready()  # of a reload that ends while it stops
    ready, reloading, again, stopping = ear.listen()
    assert ready == again == {"READY": "1"}
    assert stopping == {"STOPPING": "1"}
    assert reloading.pop("RELOADING") == "1"
    assert (
        before <= int(reloading.pop("MONOTONIC_USEC")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    )
    assert reloading == {}


def looks(manager: Manager, ear: Ear, turns: Sequence[Sequence[int]]) -> list[bool]:
    """Whether the watchdog was fed at each look; `tick` is called until it looks."""
    fed = []
    for one in turns:
        before, looked = ear.fed(), ear.looked()

        def tick(one: Sequence[int] = one, looked: int = looked) -> bool:
            manager.tick(lambda: one, lambda: "well")
            return ear.looked() > looked

        until(tick, "a look")
        fed.append(ear.fed() > before)
    return fed


def test_the_watchdog_is_fed_only_while_every_thread_goes_on(address: str, ear: Ear) -> None:
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    turns = [(5, 5), (6, 7), (7, 7), (8, 7), (8, 7), (9, 8), (9,), (), ()]
    expected = [True, True, False, False, False, True, True, True, False]
    assert looks(Manager(environment), ear, turns) == expected
    assert ear.listen()[0]["STATUS"] == "well"


@pytest.mark.parametrize(
    "watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}]
)
def test_a_watchdog_that_is_not_ours_is_not_fed(address: str, ear: Ear, watchdog: dict[str, str]) -> None:
    assert looks(Manager({"NOTIFY_SOCKET": address, **watchdog}), ear, [(1,)]) == [False]


def test_without_a_manager_nothing_is_asked_or_told(tmp_path: Path) -> None:
    for environment in ({}, {"WATCHDOG_USEC": "1"}):
        manager = Manager(environment)
        manager.ready()
        manager.tick(lambda: pytest.fail("asked"), lambda: pytest.fail("asked"))
    gone = Manager({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    gone.ready()
    gone.tick(lambda: (1,), lambda: "well")


def test_a_manager_that_does_not_listen_stops_nothing(tmp_path: Path) -> None:
    deaf = Ear(str(tmp_path / "notify"))
    full = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 2
    manager = Manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    threads = [threading.Thread(target=manager.ready) for _ in range(full)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert 0 < len(deaf.listen()) < full
    deaf.close()


def watch(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, address: str, errors: Path, *arguments: str
) -> subprocess.Popen[bytes]:
    """The real command under this manager."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    return laboratory.watch("-i", "tap0", "-o", os.devnull, *arguments, stderr=errors)


def test_the_command_tells_its_manager(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    laboratory.pair("tap0", "gen0")
    ear = Ear(str(tmp_path / "notify"))
    running = watch(laboratory, monkeypatch, str(tmp_path / "notify"), tmp_path / "stderr", "--rules", RULES)
    until(lambda: ear.has("READY"), "that it is ready")
    until(lambda: ear.fed() >= 3, "the watchdog to be fed, while nothing comes")
    write_frames(tmp_path / "frames", [bytes(12) + b"\x88\xb5" + bytes(100)] * 1234)
    laboratory.send(tmp_path / "frames", "gen0:tap0")
    until(lambda: ear.has("STATUS", "packets 1,234, unseen 0, flows 0, register serial 47"), "the status")
    laboratory.run("ip", "link", "delete", "tap0")
    fed = ear.fed()
    until(lambda: ear.fed() >= fed + 3, "the watchdog to be fed, while the interface is away")
    running.send_signal(signal.SIGHUP)
    until(lambda: ear.has("RELOADING"), "that it reloads")
    until(lambda: _order(ear) == ["READY", "RELOADING", "READY"], "the reload's end")
    assert stop(running) == 0
    assert _order(ear) == ["READY", "RELOADING", "READY", "STOPPING"]
    ear.close()


def _order(ear: Ear) -> list[str]:
    return [name for told in ear.listen() for name in told if name in ("READY", "RELOADING", "STOPPING")]


def test_a_thread_that_hangs_is_not_hidden_by_the_others(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    laboratory.pair("tap0", "gen0")
    ear = Ear(str(tmp_path / "notify"))
    running = watch(laboratory, monkeypatch, str(tmp_path / "notify"), tmp_path / "stderr", "--workers", "2")
    until(lambda: ear.fed() >= 3, "the watchdog to be fed")

    def starves() -> bool:
        fed = ear.fed()
        time.sleep(1)  # more than twice the watchdog's time
        return ear.fed() == fed

    with _held(running.pid, "vpn-worker-1"):
        write_frames(tmp_path / "frames", [bytes(12) + b"\x88\xb5" + bytes(100)] * 10)
        laboratory.send(tmp_path / "frames", "gen0:tap0")
        until(starves, "the watchdog not to be fed")
        fed = ear.fed()
    until(lambda: ear.fed() > fed, "the watchdog to be fed again")
    assert stop(running) == 0
    ear.close()


class _held:
    """Stops one thread of a process, by its name, as a bug or a broken driver would: the others go on."""

    _SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17  # linux/ptrace.h

    def __init__(self, process: int, name: str) -> None:
        tasks = Path(f"/proc/{process}/task").iterdir()
        (self._thread,) = (int(task.name) for task in tasks if (task / "comm").read_text().strip() == name)

    def __enter__(self) -> None:
        self._ptrace(self._SEIZE)
        self._ptrace(self._INTERRUPT)
        os.waitpid(self._thread, 0x4000_0000)  # __WALL

    def __exit__(self, *_: object) -> None:
        self._ptrace(self._DETACH)

    def _ptrace(self, request: int) -> None:
        ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        ptrace.restype = ctypes.c_long
        assert ptrace(request, self._thread, None, None) == 0, os.strerror(ctypes.get_errno())
