"""The page for Prometheus: what it answers, and whoever is slow, hostile or many, who must not be felt."""

from __future__ import annotations

import gzip
import http.client
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from fake_engine import T0
from fetch import fetch
from laboratory import until
from scrape import numbers, total

from classifier import _core
from classifier.cli import main
from classifier.metrics.collector import RunCollector, registry_of
from classifier.metrics.meter import Meter
from classifier.metrics.names import Where
from classifier.metrics.server import MetricsError, Server, Tls, parse_address
from classifier.metrics.tally import Tally
from classifier.pipeline import Figures, Replay

MOST = 16


class Run:
    """A run that counts its looks, and may hang."""

    def __init__(self) -> None:
        self.looks = 0
        self.up = True
        self.is_stopping = False
        self.delay_s = 0.0

    def figures(self) -> Figures:
        self.looks += 1
        tap = replace_tap(self.up)
        counters = {"frames": self.looks, "decoded": self.looks, "flow_packets": self.looks}
        return Figures(counters, [tap], None, None, T0, T0, True, self.is_stopping)


def replace_tap(up: bool) -> _core.Interface:
    tap = type("Tap", (), {})()
    counted = dict.fromkeys(("received", "delivered", "dropped", "outgoing", "freezes", "downs"), 0)
    for name, value in (counted | {"name": "tap0", "up": up, "ring_bytes": 1, "lag_ns": 0}).items():
        setattr(tap, name, value)
    return cast(_core.Interface, tap)


class Page:
    """A page over a run that goes on in a thread of its own."""

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        self.run = Run()
        self.meter = Meter(cast(Replay, self.run), Tally())
        self.server = Server(parse_address(address), tls)
        self.port = self.server.port
        collector = RunCollector(self.meter, Where.WATCH)
        collector.add(self.server.closed_connections)
        self.server.start(self.meter, registry_of(collector, process=True))
        self.hangs = threading.Event()
        self._ended = threading.Event()
        self.turns = 0
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def _turn(self) -> None:
        while not self._ended.wait(0.002):
            if not self.hangs.is_set():
                self.turns += 1
                self.meter.tick()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.server.close()


@contextmanager
def offered(address: str = "127.0.0.1:0", tls: Tls | None = None) -> Iterator[Page]:
    page = Page(address, tls)
    try:
        yield page
    finally:
        page.close()


@pytest.fixture
def page() -> Iterator[Page]:
    with offered() as made:
        yield made


def handlers() -> int:
    """Threads that answer, as socketserver names them."""
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_it_answers(page: Page) -> None:
    where = f"http://127.0.0.1:{page.port}"
    status, kind, text = fetch(f"{where}/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert total(numbers(text), "packets_total") > 0
    assert "process_resident_memory_bytes" in text
    assert fetch(f"{where}/-/healthy")[0::2] == (200, "The run goes on.\n")
    assert fetch(f"{where}/-/ready")[0::2] == (200, "Listening.\n")
    for path in ("", "/", "/metrics/", "/-/", "/../etc/passwd", "/metrics%00"):
        assert fetch(where + path)[0] == 404, path


def test_as_prometheus_asks(page: Page) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    connection.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert answer.getheader("Content-Encoding") == "gzip"
    assert answer.getheader("Content-Type", "").startswith("application/openmetrics-text")
    assert gzip.decompress(answer.read()).endswith(b"# EOF\n")
    connection.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_nothing_can_be_done_but_look(page: Page, method: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    connection.request(method, "/metrics")
    assert connection.getresponse().status == 501
    connection.close()


def test_every_scrape_is_of_now(page: Page) -> None:
    def seen() -> float:
        return total(numbers(fetch(f"http://127.0.0.1:{page.port}/metrics")[2]), "packets_total")

    first = seen()
    until(lambda: seen() > first, "another look at the run")


def test_a_run_that_hangs(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"http://127.0.0.1:{page.port}"
    page.hangs.set()
    turns = page.turns
    before = numbers(fetch(f"{where}/metrics")[2])
    status, _, text = fetch(f"{where}/metrics")
    assert status == 200
    assert total(numbers(text), "packets_total") == total(before, "packets_total")
    assert fetch(f"{where}/-/healthy")[0] == 200  # not for long yet
    monkeypatch.setattr("classifier.metrics.meter._HANGS_S", 0.0)
    assert fetch(f"{where}/-/healthy")[0::2] == (503, "The run hangs.\n")
    assert page.turns - turns <= 1


def test_ready_is_who_listens(page: Page) -> None:
    where = f"http://127.0.0.1:{page.port}/-/ready"
    page.run.up = False
    until(lambda: fetch(where)[0] == 503, "unready without an interface")
    page.run.up = True
    until(lambda: fetch(where)[0] == 200, "ready again")
    page.run.is_stopping = True
    until(lambda: fetch(where)[0] == 503, "unready while it stops")


def test_a_hundred_who_ask_at_once_cost_few_looks(page: Page) -> None:
    looks = page.run.looks
    began = time.monotonic()
    for _ in range(100):
        page.meter.reading()
    assert page.run.looks - looks <= 2 + (time.monotonic() - began) / 0.1


def test_ipv6() -> None:
    with offered("[::1]:0") as page:
        assert fetch(f"http://[::1]:{page.port}/metrics")[0] == 200


# ---- the slow, the hostile, the many


def test_clients_that_say_nothing_are_cut_when_others_come(page: Page) -> None:
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", page.port), 30))
            for _ in range(3 * MOST)
        ]
        for number, one in enumerate(silent):
            if number % 2:
                one.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")  # and then nothing
        for _ in range(3):
            assert fetch(f"http://127.0.0.1:{page.port}/metrics")[0] == 200
            assert handlers() <= MOST + 1  # one may be on its way out
        found = numbers(fetch(f"http://127.0.0.1:{page.port}/metrics")[2])
        assert total(found, "http_connections_closed_total", reason="crowded") >= 2 * MOST
        assert silent[0].recv(1) == b""
        turns = page.turns
        until(lambda: page.turns > turns + 100, "the run to go on")


def test_none_lasts_long(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.metrics.server._LONGEST_S", 0.2)
    with socket.create_connection(("127.0.0.1", page.port), 30) as slow:
        # A byte now and then would keep a connection for ever if only its silence were limited.
        def drips() -> bool:
            try:
                slow.sendall(b"G")
                slow.settimeout(0.05)
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        until(drips, "it to be cut")
    found = numbers(fetch(f"http://127.0.0.1:{page.port}/metrics")[2])
    assert total(found, "http_connections_closed_total", reason="slow") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00",
        b"\0" * 100_000,
        b"GET /metrics\r\n",
        b"GET " + b"a" * 70_000,
        b"X: y\r\n" * 500,
    ],
    ids=["TLS", "zeros", "HTTP/0.9", "long", "headers"],
)
def test_what_is_no_request(page: Page, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    # It may hang up before all has been said.
    with socket.create_connection(("127.0.0.1", page.port), 30) as client, suppress(OSError):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65_536):
            pass
    assert fetch(f"http://127.0.0.1:{page.port}/metrics")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_who_does_not_read_the_answer(page: Page) -> None:
    with ExitStack() as stack:
        for _ in range(MOST):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.connect(("127.0.0.1", page.port))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert fetch(f"http://127.0.0.1:{page.port}/metrics")[0] == 200
        assert handlers() <= MOST + 1


def test_when_it_is_over_nobody_is_left() -> None:
    before = threading.active_count()
    with offered() as page, socket.create_connection(("127.0.0.1", page.port), 30):
        fetch(f"http://127.0.0.1:{page.port}/metrics")
        port = page.port
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 30)
    until(lambda: threading.active_count() <= before, "its threads to end")


# ---- where it listens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9469", ("127.0.0.1", 9469)),
        ("127.0.0.1:9469", ("127.0.0.1", 9469)),
        ("localhost:80", ("localhost", 80)),
        ("[::1]:9469", ("::1", 9469)),
        ("[::]:1", ("::", 1)),
        ("0.0.0.0:65535", ("0.0.0.0", 65_535)),
    ],
)
def test_an_address(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", ":9469", "::1:9469", "[::1]", "127.0.0.1", "127.0.0.1:", "h:65536", "h:-1", "h:²", "h:http"],
)
def test_no_address(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"an? .*address"):
        parse_address(text)
    with pytest.raises(SystemExit) as ended:
        main(["watch", "-i", "lo", "--metrics", text])
    assert ended.value.code == 2
    assert "expected an" in " ".join(capsys.readouterr().err.split())


def test_a_port_in_use_is_one_clear_error(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["watch", "-i", "lo", "--rules", "nowhere", "--metrics", f"127.0.0.1:{page.port}"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"vpn-classifier: --metrics 127.0.0.1:{page.port}: Address already in use; expected an address of "
        "this host and a port that nobody else listens on\n"
    )


# ---- TLS


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and key of the server, one of a client, and another key; each signed by itself."""
    place = tmp_path_factory.mktemp("keys")
    for name in ("server", "client"):
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ),
                *("-keyout", str(place / f"{name}.key"), "-out", str(place / f"{name}.pem"), "-days", "2"),
                *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
            ],
            capture_output=True,
            check=True,
            timeout=60,
        )
    return place


def tls(keys: Path, **files: str) -> Tls:
    return Tls(**{"certificate": str(keys / "server.pem"), "key": str(keys / "server.key")} | files)


def test_tls(keys: Path) -> None:
    with offered(tls=tls(keys)) as page:
        where = f"127.0.0.1:{page.port}"
        # Who does not even begin the handshake is in nobody's way.
        with ExitStack() as stack:
            for _ in range(MOST + 4):
                stack.enter_context(socket.create_connection(("127.0.0.1", page.port), 30))
            assert fetch(f"https://{where}/metrics", str(keys / "server.pem"))[0] == 200
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(f"https://{where}/metrics", str(keys / "client.pem"))
        with pytest.raises((OSError, http.client.HTTPException)):
            fetch(f"http://{where}/metrics")
        assert fetch(f"https://{where}/-/ready", str(keys / "server.pem"))[0] == 200


def test_only_for_clients_that_show_a_certificate(keys: Path) -> None:
    with offered(tls=tls(keys, client_issuers=str(keys / "client.pem"))) as page:
        context = ssl.create_default_context(cafile=str(keys / "server.pem"))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(page.port, context)
        context.load_cert_chain(keys / "client.pem", keys / "client.key")
        assert ask(page.port, context) == 200


def ask(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status
    finally:
        connection.close()


def test_keys_that_do_not_do(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, found in (
        ({"key": str(keys / "client.key")}, "mismatch"),
        ({"certificate": str(keys / "nothing.pem")}, "No such file"),
        ({"client_issuers": str(keys / "server.key")}, "--metrics-client-ca"),
    ):
        with pytest.raises(MetricsError, match=found):
            Server(parse_address("127.0.0.1:0"), tls(keys, **given))
    for options in (
        ["--metrics-cert", "a.pem"],
        ["--metrics-key", "a.key"],
        ["--metrics-client-ca", "a.pem", "--metrics", "9469"],
        ["--metrics-cert", "a.pem", "--metrics-key", "a.key"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["watch", "-i", "lo", *options])
        assert ended.value.code == 2
    assert "come together" in capsys.readouterr().err
