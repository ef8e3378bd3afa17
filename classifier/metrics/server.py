"""The page that Prometheus scrapes: /metrics, /-/healthy, /-/ready, over HTTP or TLS.

Whoever reaches the port may be slow or hostile, and must cost the capture nothing: each connection
carries one request and has a thread, of which there are `_MOST`; when all are taken, the oldest
connection is cut. None lasts longer than `_LONGEST_S`, and no more than fifty a second are begun, the
rest wait in the kernel.

The rule a reader would get wrong: prometheus-client's own server is not used, since it makes a thread for
every connection, without end, and does the TLS handshake before it accepts the next one, so that one
silent client blocks it. What is sent is prometheus-client's (`MetricsHandler`).
"""

from __future__ import annotations

import errno
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector

from classifier.errors import ClassifierError
from classifier.metrics.meter import Meter

__all__ = ["MetricsError", "Server", "Tls", "parse_address"]

_MOST: Final = 16  # connections at a time
_LONGEST_S: Final = 10.0  # of one, from its beginning to its end
_PAUSE_S: Final = 0.02  # between two
_LOOK_S: Final = 0.5
_PORTS: Final = range(65_536)


class MetricsError(ClassifierError):
    """The metrics cannot be offered. Usual cause: a port in use, a certificate that does not fit its key."""


class AddressInUseError(MetricsError):
    """Somebody listens there."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM format."""

    certificate: str
    """The server's, and those of its issuers."""
    key: str
    client_issuers: str | None = None
    """Clients must show a certificate of one of these."""

    def context(self) -> ssl.SSLContext:
        """For a server; MetricsError names the file that does not do."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise MetricsError(
                f"--metrics-cert {self.certificate}, --metrics-key {self.key}: {_reason(error)}; expected a "
                "certificate and the key that belongs to it, in PEM format, the key without a passphrase"
            ) from None
        if self.client_issuers is not None:
            try:
                context.load_verify_locations(self.client_issuers)
            except (OSError, ssl.SSLError) as error:
                raise MetricsError(
                    f"--metrics-client-ca {self.client_issuers}: {_reason(error)}; expected certificates of "
                    "issuers in PEM format"
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`127.0.0.1:9469`, `[::1]:9469`, or `9469` for loopback; ValueError says what is expected."""
    host, found, port = text.rpartition(":")
    if found and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address in brackets before its port, such as [::1]:9469")
    if found and not host:
        raise ValueError("an address before the port, such as 0.0.0.0:9469 for all of them")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) in _PORTS):
        raise ValueError("an address and a port, such as 127.0.0.1:9469")
    return Address(host or "127.0.0.1", int(port))


class Server:
    """Listens from when it is made, and answers from `start` on."""

    def __init__(self, address: Address, tls: Tls | None = None) -> None:
        """MetricsError when nothing can be offered there."""
        context = None if tls is None else tls.context()
        try:
            found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, *_, place = found[0]
            self._http = _Http(family, place, context)
        except OSError as error:
            kind = AddressInUseError if error.errno == errno.EADDRINUSE else MetricsError
            raise kind(
                f"--metrics {address}: {_reason(error)}; expected an address of this host and a port that "
                "nobody else listens on"
            ) from None
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(_LOOK_S,), name="metrics", daemon=True
        )

    @staticmethod
    def check(address: Address, tls: Tls | None) -> None:
        """MetricsError when nothing could be offered there. Who listens there already may be this program."""
        try:
            Server(address, tls).close()
        except AddressInUseError:
            return

    @property
    def port(self) -> int:
        """The one it listens on: the kernel chose it when 0 was asked for."""
        port: int = self._http.server_address[1]
        return port

    def start(self, meter: Meter, registry: Collector) -> None:
        """Answer, with the metrics of this registry."""
        self._http.meter, self._http.registry = meter, registry
        self._thread.start()

    def closed_connections(self) -> Mapping[str, Mapping[tuple[str, ...], float]]:
        """Those that were cut, for the metric of that name."""
        counts: dict[tuple[str, ...], float] = {
            (reason,): count for reason, count in self._http.closed.items()
        }
        return {"http_connections_closed_total": counts}

    def close(self) -> None:
        """Listen no longer."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join(_LONGEST_S)
        self._http.server_close()


class _Http(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The listening socket and its connections."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST
    meter: Meter
    registry: Collector

    def __init__(self, family: socket.AddressFamily, place: Any, context: ssl.SSLContext | None) -> None:
        self.address_family = family
        self.context = context
        self.closed = {"slow": 0, "crowded": 0}
        self._lock = threading.Lock()
        self._begun: dict[socket.socket, float] = {}  # by when they began, the oldest first
        super().__init__(place, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        time.sleep(_PAUSE_S)
        connection, place = super().get_request()
        if self.context is not None:
            # The handshake is the handler's, which may wait.
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, place

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            while len(self._begun) >= _MOST:
                self._cut(next(iter(self._begun)), "crowded")
            self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        latest = time.monotonic() - _LONGEST_S
        with self._lock:
            for connection in [one for one, begun in self._begun.items() if begun < latest]:
                self._cut(connection, "slow")

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._begun.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves, or speaks something else, is no matter of ours."""

    def _cut(self, connection: socket.socket, reason: str) -> None:
        # Its thread wakes up, finds no connection any more, and closes it.
        del self._begun[connection]
        self.closed[reason] += 1
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Handler(MetricsHandler):
    """One request."""

    server: _Http
    timeout = _LONGEST_S
    server_version = "vpn-classifier"
    sys_version = ""

    def setup(self) -> None:
        self.request.settimeout(self.timeout)
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()
        self.registry = self.server.registry

    def do_GET(self) -> None:
        meter = self.server.meter
        match urlsplit(self.path).path:
            case "/metrics":
                try:
                    super().do_GET()
                except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                    self.send_error(500, f"an error of the program: {type(error).__name__}")
            case "/-/healthy":
                self._say(meter.is_healthy(), "The run goes on.", "The run hangs.")
            case "/-/ready":
                self._say(meter.is_ready(), "Listening.", "No interface is up, or the run is being stopped.")
            case _:
                self.send_error(404, "There are /metrics, /-/healthy and /-/ready")

    def _say(self, good: bool, yes: str, no: str) -> None:
        text = f"{yes if good else no}\n".encode()
        self.send_response(200 if good else 503)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
