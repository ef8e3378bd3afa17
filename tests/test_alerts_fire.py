"""Every alert of `deploy/prometheus/` fires for what real sensors count, as a real Prometheus scrapes it.

Several `vpn-classifier watch` listen in a namespace, each brought into trouble of its own, until every alert
of the rule file has fired. The rules are those that are shipped but for time (`prometheus_server.compressed`)
and for one number: how busy a thread has to be, since a machine that runs tests cannot be kept busy at will.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice, product
from pathlib import Path

import pytest
from grafana_dashboard import expressions
from laboratory import Laboratory, stop, until, write_frames
from prometheus_server import Alert, Prometheus, compressed, shortened
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scenes import take

TESTS = Path(__file__).parent
RULES = TESTS.parent / "deploy" / "prometheus" / "vpn-classifier.rules.yml"
JOB = "vpn-classifier"
DEADLINE_S = 240.0
WATCH = ("-m", "classifier", "watch")
NOBODY = "02:00:00:00:00:01"
_SEIZE, _INTERRUPT = 0x4206, 0x4207  # linux/ptrace.h


class Sensors:
    """Watching processes in one namespace, each with a port for its metrics, and what is sent to them."""

    def __init__(self, laboratory: Laboratory, place: Path) -> None:
        self.laboratory = laboratory
        self._place = place
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._arguments: dict[str, tuple[str, ...]] = {}
        laboratory.run("ip", "link", "set", "lo", "up")

    def instance(self, name: str) -> str:
        """The address of its metrics, which is its label `instance`."""
        return f"127.0.0.1:{9469 + list(self._arguments).index(name)}"

    def start(self, name: str, *arguments: str, program: Sequence[str] = WATCH) -> None:
        """Begin to watch, or to watch again."""
        if arguments:
            self._arguments[name] = (*program, *arguments)
        errors = self._place / f"{name}.stderr"
        started = self.laboratory.start(
            sys.executable, *self._arguments[name], "--metrics", self.instance(name), stderr=errors
        )
        self.processes[name] = started

        def listens() -> bool:
            assert started.poll() is None, errors.read_text()
            return "listening on" in errors.read_text()

        until(listens, f"{name} to listen")

    def send(self, interface: str, frames: Sequence[bytes], rate: int) -> subprocess.Popen[bytes]:
        """These frames over and over, so many a second."""
        file = self._place / f"{interface}.frames"
        write_frames(file, frames)
        program = [sys.executable, str(TESTS / "send_again.py"), str(file), interface, str(rate)]
        return self.laboratory.start(*program, stderr=self._place / f"{interface}.stderr")

    def hang_up(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGHUP)

    def instances(self) -> list[str]:
        return [self.instance(name) for name in self._arguments]


class Fired:
    """What has fired so far, noted by who waits for it."""

    def __init__(self, prometheus: Prometheus) -> None:
        self.prometheus = prometheus
        self.alerts: dict[tuple[str, str], Alert] = {}
        self.done = threading.Event()

    def look(self) -> None:
        for alert in self.prometheus.alerts():
            if alert.state == "firing":
                self.alerts.setdefault((alert.name, alert.labels["severity"]), alert)

    def has(self, name: str, within_s: float = 0) -> bool:
        """Whether an alert of this name has fired, or fires within this time."""
        end = time.monotonic() + within_s
        while not any(known == name for known, _ in self.alerts):
            if self.done.wait(0.1):
                raise _OverError(f"waiting for {name}")
            if time.monotonic() > end:
                return False
        return True

    def wait(self, name: str) -> None:
        """Until an alert of this name has fired; the end of the test ends it, too."""
        while not self.has(name, within_s=1):
            pass


class _OverError(Exception):
    """The test is over."""


def ordinary(number: int) -> list[bytes]:
    """So many datagrams of one flow that is no VPN."""
    head = Ether(dst=NOBODY) / IP(src="198.51.100.1", dst="203.0.113.1") / UDP(sport=5004, dport=5004)
    return [
        bytes(head / Raw(bytes([128, 96]) + counted.to_bytes(4) + bytes(200))) for counted in range(number)
    ]


def undecided(number: int) -> list[bytes]:
    """So many flows of one datagram each."""
    return [
        bytes(
            Ether(dst=NOBODY)
            / IP(src="198.51.100.2", dst=f"203.0.113.{1 + counted % 200}")
            / UDP(sport=1024 + counted, dport=9)
            / Raw(b"\x80\xe1" * 20)
        )
        for counted in range(number)
    ]


def tunnels(number: int, packets: slice = slice(3)) -> list[bytes]:
    """So many WireGuard tunnels, each of a subscriber of its own; of each these packets."""
    return [
        frame
        for high, low in islice(product(range(256), range(256)), number)
        for _, frame in take(
            "wg-plain-51820",
            {"100.64.7.22": f"100.64.{high}.{low}", "203.0.113.10": "203.0.113.10"},
            0,
            first=packets.stop,
        )[packets]
    ]


def malformed(number: int) -> list[bytes]:
    return [bytes(Ether(dst=NOBODY, type=0x0800) / Raw(b"\x55" * 60))] * number


def doubled(frames: Sequence[bytes]) -> list[bytes]:
    return [frame for frame in frames for _ in range(2)]


def write_rules(place: Path, *, serial: int, registered: str, due: timedelta, enforced: bool = True) -> None:
    """A register with one entry whose next issue is due so long from now, and a policy."""
    now = datetime.now(UTC)
    place.mkdir(exist_ok=True)
    (place / "register.csv").write_text(
        "entry_id,kind,category,prefix,side,endpoints,protocols,valid_from,valid_until,status,status_since\n"
        f"R-1,vpn_registration,software_house,{registered},either,,,2020-01-01,2099-01-01,approved,2020-01-01\n"
    )
    (place / "register.toml").write_text(
        f'source = "test"\nserial = {serial}\nissued_at = {now - timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}\n'
        f'next_update = {now + due:%Y-%m-%dT%H:%M:%SZ}\ntime_zone = "UTC"\n'
        "first_record = 2001-01-01T00:00:00Z\n"
    )
    (place / "policy.toml").write_text(
        f'{"enforce_from = 2001-01-01" if enforced else ""}\ntime_zone = "UTC"\n\n'
        '[networks]\nlocal = ["100.64.0.0/10"]\n\n'
        '[[rule]]\nid = "no-entry"\nverdict = "unregistered"\nmin_packets = 10\naction = "flag"\n\n'
        '[[rule]]\nid = "rest"\naction = "observe"\n'
    )


WEEK = timedelta(days=7)


# ---- one trouble each


def begin_ring(sensors: Sensors) -> None:
    sensors.laboratory.pair("tap-ring", "gen-ring")
    sensors.start("ring", "-i", "tap-ring", "-o", "/dev/null", "--ring-size", "1", "--block-size", "64")
    frames = [bytes(12) + b"\x88\xb5" + bytes(1400)]
    sensors.send("gen-ring", frames, 6000)


def ring(sensors: Sensors, fired: Fired) -> None:
    """A sensor that gets no processor time now and then: its ring overflows, and packets wait."""
    process = sensors.processes["ring"]
    while not fired.done.wait(1.2):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        process.send_signal(signal.SIGCONT)


def begin_links(sensors: Sensors) -> None:
    for side in "ab":
        sensors.laboratory.pair(f"tap-{side}", f"gen-{side}")
    sensors.start("links", "-i", "tap-a", "-i", "tap-b", "-o", "/dev/null")


def links(sensors: Sensors, fired: Fired) -> None:
    """Two interfaces fall silent, go up and down, and the sensor ends and is started again and again."""
    laboratory, prometheus, instance = sensors.laboratory, fired.prometheus, sensors.instance("links")
    received = (
        f'increase(vpn_classifier_capture_received_packets_total{{instance="{instance}"}}[6s] offset 10s)'
    )
    going = sensors.send("gen-a", ordinary(100), 100)
    # Once is enough, but on a machine that has no time for a scrape just then; so it is further down.
    while not fired.has("VpnClassifierInterfaceSilent"):
        passing = sensors.send("gen-b", ordinary(100), 100)
        prometheus.until(f"count({received} > 100) == 2")
        stop(passing)
        fired.has("VpnClassifierInterfaceSilent", within_s=20)
    stop(going)
    fired.wait("VpnClassifierSilent")
    up = f'vpn_classifier_interface_up{{instance="{instance}",interface="tap-b"}}'
    while not fired.has("VpnClassifierInterfaceUnsteady"):
        laboratory.run("ip", "link", "set", "tap-b", "down")
        prometheus.until(f"{up} == 0")
        laboratory.run("ip", "link", "set", "tap-b", "up")
        prometheus.until(f"{up} == 1")
    laboratory.run("ip", "link", "set", "tap-b", "down")
    fired.wait("VpnClassifierInterfaceDown")
    assert stop(sensors.processes["links"]) == 0
    fired.wait("VpnClassifierDown")
    started = f'process_start_time_seconds{{instance="{instance}"}}'
    while not fired.has("VpnClassifierRestarting"):
        before = time.time()
        sensors.start("links")
        prometheus.until(f"{started} > {before - 1}")
        stop(sensors.processes["links"], signal.SIGKILL)


def begin_register(sensors: Sensors, place: Path) -> None:
    sensors.laboratory.pair("tap-reg", "gen-reg")
    write_rules(place / "register", serial=1, registered="100.64.0.0/16", due=WEEK)
    sensors.start("register", "-i", "tap-reg", "--rules", str(place / "register"), "-o", "/dev/null")


def register(sensors: Sensors, fired: Fired, place: Path) -> None:
    """A register that cannot be loaded, one that is late, one that is stale; and a policy that is a trial."""
    active = f'vpn_classifier_flagging_active{{instance="{sensors.instance("register")}"}}'
    rules = place / "register"
    fired.prometheus.until(f"{active} == 1")
    (rules / "register.csv").write_text("this is no register\n")
    sensors.hang_up("register")
    fired.wait("VpnClassifierReloadFailed")
    write_rules(rules, serial=2, registered="100.64.0.0/16", due=-timedelta(hours=2))
    sensors.hang_up("register")
    fired.wait("VpnClassifierRegisterOverdue")
    write_rules(rules, serial=3, registered="100.64.0.0/16", due=-timedelta(days=3))
    sensors.hang_up("register")
    fired.wait("VpnClassifierRegisterStale")
    serial = 4
    # Once is enough, but on a machine that has no time for a scrape just then.
    while not fired.has("VpnClassifierFlaggingSuspended"):
        for enforced in (True, False):
            write_rules(rules, serial=serial, registered="100.64.0.0/16", due=WEEK, enforced=enforced)
            serial += 1
            sensors.hang_up("register")
            fired.prometheus.until(f"{active} == {int(enforced)}")
        fired.has("VpnClassifierFlaggingSuspended", within_s=20)


def begin_share(sensors: Sensors, place: Path) -> None:
    sensors.laboratory.pair("tap-share", "gen-share")
    write_rules(place / "share", serial=47, registered="100.64.0.0/16", due=WEEK)
    sensors.start("share", "-i", "tap-share", "--rules", str(place / "share"), "-o", "/dev/null")


def share(sensors: Sensors, fired: Fired, place: Path) -> None:
    """Tunnels of registered subscribers, one after the other, and a register in which they are missing."""
    instance = f'instance="{sensors.instance("share")}"'
    sensors.send("gen-share", tunnels(8000), 200)
    share = f"instance:vpn_classifier_verdicts_unregistered:ratio_increase1h{{{instance}}}"
    share = f"avg_over_time({share}[10s] offset 10s)"
    count = f"instance:vpn_classifier_verdicts_evaluated:increase1h{{{instance}}} offset 10s"
    serial = 47
    while not fired.has("VpnClassifierUnregisteredShareChanged"):
        fired.prometheus.until(f"{share} == {0 if serial % 2 else 1} and on () {count} >= 100")
        serial += 1
        registered = "100.64.0.0/16" if serial % 2 else "100.65.0.0/16"
        write_rules(place / "share", serial=serial, registered=registered, due=WEEK)
        sensors.hang_up("share")
        fired.has("VpnClassifierUnregisteredShareChanged", within_s=20)


def begin_tables(sensors: Sensors) -> None:
    sensors.laboratory.pair("tap-tables", "gen-tables")
    # Tunnels joined in the middle: those that begin with an attempt have a pool of their own.
    small = (str(TESTS / "watch_with_small_tables.py"),)
    sensors.start("tables", "-i", "tap-tables", "-o", "/dev/null", program=small)
    sensors.send("gen-tables", undecided(2000) + tunnels(200, slice(4, 14)), 2000)


def begin_frames(sensors: Sensors) -> None:
    sensors.laboratory.pair("tap-frames", "gen-frames")
    sensors.start("frames", "-i", "tap-frames", "-o", "/dev/null")
    sensors.send("gen-frames", doubled(ordinary(500)) + malformed(500), 300)


def begin_disk(sensors: Sensors, place: Path) -> None:
    sensors.laboratory.pair("tap-disk", "gen-disk")
    output = ("-o", str(place / "events.jsonl"), "--keep", "all", "--queue-size", "1")
    sensors.start("disk", "-i", "tap-disk", *output)


def disk(sensors: Sensors, fired: Fired) -> None:
    """A file that takes no more: what is to be written waits, until the queue is full and it is lost."""
    limit = ["prlimit", f"--pid={sensors.processes['disk'].pid}"]
    subprocess.run([*limit, "--fsize=4096:"], check=True, timeout=60)
    sensors.send("gen-disk", tunnels(8000), 600)
    for name in ("VpnClassifierSinkFailing", "VpnClassifierSinkSlow", "VpnClassifierEventsLost"):
        fired.wait(name)


def begin_stuck(sensors: Sensors) -> None:
    sensors.laboratory.pair("tap-stuck", "gen-stuck")
    sensors.start("stuck", "-i", "tap-stuck", "-o", "/dev/null")


def stuck(sensors: Sensors, fired: Fired) -> None:
    """A run that stands still, as by a fault of the program or a disk that never answers."""
    fired.prometheus.until(f'vpn_classifier_interface_up{{instance="{sensors.instance("stuck")}"}}')
    process = sensors.processes["stuck"].pid
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ptrace.restype = ctypes.c_long
    for request in (_SEIZE, _INTERRUPT):
        # Of its threads only the first one, which is the run's; its metrics are served by others.
        assert ptrace(request, process, None, None) == 0, os.strerror(ctypes.get_errno())
    # It goes on when the thread that holds it, this one, ends.
    fired.wait("VpnClassifierStuck")


# ---- all of them together


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of the test: in little time, and with a load that a thread surely has."""
    file = compressed(RULES, tmp_path_factory.mktemp("rules"))
    text = file.read_text()
    assert text.count("> 0.9\n") == 1
    file.write_text(text.replace("> 0.9\n", "> 0.001\n"))
    return file


@pytest.fixture(scope="module")
def expected() -> set[tuple[str, str]]:
    """Every alert of the file, and its severity."""
    pairs = re.findall(r"- alert: (\w+)\n(?:.*\n)*?\s+severity: (\w+)\n", RULES.read_text())
    assert len(pairs) == RULES.read_text().count("- alert: ")
    return set(pairs)


@pytest.fixture(scope="module")
def fired(
    tmp_path_factory: pytest.TempPathFactory, rules: Path, expected: set[tuple[str, str]]
) -> Iterator[Fired]:
    place = tmp_path_factory.mktemp("sensors")
    laboratory = Laboratory()
    sensors = Sensors(laboratory, place)
    try:
        begin_ring(sensors)
        begin_links(sensors)
        begin_register(sensors, place)
        begin_share(sensors, place)
        begin_tables(sensors)
        begin_frames(sensors)
        begin_disk(sensors, place)
        begin_stuck(sensors)
        targets = {JOB: sensors.instances()}
        server = Prometheus(place / "prometheus", targets, rules=[rules], enter=laboratory.enter)
        with server as prometheus, ThreadPoolExecutor() as threads:
            noted = Fired(prometheus)
            scenes: list[Callable[[], None]] = [
                lambda: ring(sensors, noted),
                lambda: links(sensors, noted),
                lambda: register(sensors, noted, place),
                lambda: share(sensors, noted, place),
                lambda: disk(sensors, noted),
                lambda: stuck(sensors, noted),
            ]
            try:
                _play(noted, [threads.submit(scene) for scene in scenes], expected)
                prometheus.scrape({JOB: []})
                prometheus.until_firing("VpnClassifierNotScraped")
                noted.look()
                prometheus.scrape(targets)
                yield noted
            finally:
                noted.done.set()
    finally:
        laboratory.close()


def _play(noted: Fired, scenes: Sequence[Future[None]], expected: set[tuple[str, str]]) -> None:
    """Until all has fired that fires while there are sensors, or nothing more is to be expected."""
    end = time.monotonic() + DEADLINE_S
    while expected - set(noted.alerts) - {("VpnClassifierNotScraped", "critical")}:
        noted.look()
        for scene in scenes:
            if scene.done():
                scene.result()
        if time.monotonic() > end:
            return
        time.sleep(0.2)


def test_every_alert_fires_from_real_counters(fired: Fired, expected: set[tuple[str, str]]) -> None:
    assert set(fired.alerts) == expected


def test_what_alerts_say_is_whole(fired: Fired) -> None:
    for alert in fired.alerts.values():
        for text in alert.annotations.values():
            assert "error" not in text.replace("error of the program", ""), alert
            assert not re.search(r"<no value>|%!|NaN|  |\bnil\b", text), alert


def test_the_change_names_the_reload_that_came_before(fired: Fired) -> None:
    said = fired.alerts["VpnClassifierUnregisteredShareChanged", "warning"].annotations["description"]
    # It is the first one, but on a machine that had no time for a scrape just then.
    assert re.search(r"brought serial (48|49|5\d)\.", said)
    assert re.search(r"The last reload was [\d.hms ]+ ago \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", said)
    assert re.search(r"was \d+(\.\d+)?% at this hour yesterday", said)


def test_every_rule_can_be_evaluated(fired: Fired) -> None:
    for rule in fired.prometheus.rules():
        assert (rule.health, rule.error) == ("ok", ""), rule.name
        if rule.kind == "recording":
            assert fired.prometheus.query(f"last_over_time({rule.name}[5m])"), rule.name


def test_every_expression_of_the_dashboard_gives_series(fired: Fired) -> None:
    empty = [
        text
        for text in expressions()
        # At some time, since some only have a value while something is wrong.
        if not fired.prometheus.query(f"last_over_time(({shortened(text)})[5m:1s])")
    ]
    assert not empty
