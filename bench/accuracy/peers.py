"""The same captures through nDPI's `ndpiReader` and Wireshark's `tshark`, as Debian packages them.

When a flow counts as found:

- ndpiReader: its line in the CSV output (`-C`) names WireGuard, OpenVPN or IPsec, as master or as
  application protocol. Once with its defaults, by which a flow whose packets told nothing is named after
  its port, and once without such guesses (`-d`). Tunnels are dissected (`-t`).
- tshark: it dissects packets, not flows, so one packet is enough that it shows as `wg`, `openvpn`,
  `isakmp`, `esp`, `ah`, `udpencap` or `tcpencap` and does not call malformed. Default settings, no name
  resolution; packets inside ICMP errors are left out. The flow is that of the innermost IP header, or of the
  one before AH, as in the tables of labels.

Both have one level of confidence. Compressed captures are unpacked first, so that no program fails
for want of a library. What a program cannot read it has not found.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import zstandard

from bench.accuracy.findings import Finding, Findings, gather
from bench.accuracy.truth import PROTOCOLS, FlowKey

TIMEOUT_S = 120
IP_PROTOCOLS = {"6": "TCP", "17": "UDP", "50": "ESP", "51": "AH"}
TSHARK_NAMES = {
    "wg": "wireguard",
    "openvpn": "openvpn",
    "isakmp": "ipsec",
    "esp": "ipsec",
    "ah": "ipsec",
    "udpencap": "ipsec",
    "tcpencap": "ipsec",
}
TSHARK_FIELDS = ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst")
TSHARK_PORTS = ("udp.srcport", "udp.dstport", "tcp.srcport", "tcp.dstport")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another program: how it is called, what its output says."""

    name: str
    program: str
    package: str
    version_command: tuple[str, ...]
    version_pattern: str
    read: Callable[[str, Path], Iterator[Finding]]

    @property
    def version(self) -> str | None:
        """None when the program is not installed."""
        if shutil.which(self.program) is None:
            return None
        done = subprocess.run(self.version_command, capture_output=True, text=True, check=False)
        match = re.search(self.version_pattern, done.stdout + done.stderr)
        return match[1] if match else "unknown version"

    @property
    def what_to_install(self) -> str:
        return f"{self.program} is missing, so it is not compared: apt-get install {self.package}"

    def find(self, captures: Mapping[str, Path]) -> Findings:
        with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:

            def of_one(item: tuple[str, Path]) -> list[Finding]:
                file, capture = item
                return list(self.read(file, unpacked(capture, Path(scratch) / file)))

            found = [finding for findings in pool.map(of_one, captures.items()) for finding in findings]
        return gather(found)


def all_peers() -> tuple[Peer, ...]:
    ndpi = ("ndpiReader", "libndpi-bin", ("ndpiReader", "-h"), r"nDPI ([\d.]+)")
    tshark = ("tshark", "tshark", ("tshark", "--version"), r"TShark \(Wireshark\) ([\d.]*\d)")
    return (
        Peer("ndpiReader", *ndpi, lambda file, capture: read_ndpi(file, capture)),
        Peer("ndpiReader -d", *ndpi, lambda file, capture: read_ndpi(file, capture, "-d")),
        Peer("tshark", *tshark, read_tshark),
    )


def unpacked(capture: Path, scratch: Path) -> Path:
    """The capture itself, or a copy without its compression."""
    if capture.suffix == ".gz":
        scratch.write_bytes(gzip.decompress(capture.read_bytes()))
    elif capture.suffix == ".zst":
        scratch.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(capture.read_bytes()))
    else:
        return capture
    return scratch


def run(command: list[str]) -> str:
    """What a program printed, whatever its exit code: some captures are broken on purpose."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace")
    return done.stdout.decode(errors="replace")


def read_ndpi(file: str, capture: Path, *options: str) -> Iterator[Finding]:
    with tempfile.NamedTemporaryFile(suffix=".csv") as output:
        run(["ndpiReader", "-q", "-t", *options, "-i", str(capture), "-C", output.name])
        text = Path(output.name).read_text(encoding="utf-8", errors="replace")
    yield from parse_ndpi(file, text)


def parse_ndpi(file: str, text: str) -> Iterator[Finding]:
    """Findings in ndpiReader's CSV output."""
    # Unquoted: names from the packets are in later columns, with whatever is in them, line ends too.
    for row in csv.DictReader(text.splitlines(), quoting=csv.QUOTE_NONE):
        transport = IP_PROTOCOLS.get(row["protocol"] or "")
        said = set((row["ndpi_proto"] or "").lower().split(".")) & set(PROTOCOLS)
        if transport is None or not said:
            continue
        key = FlowKey.of(transport, row["src_ip"], row["src_port"], row["dst_ip"], row["dst_port"])
        packets = int(row["c_to_s_pkts"]) + int(row["s_to_c_pkts"])
        for protocol in sorted(said):
            yield Finding(file, key, protocol, packets=packets)


def read_tshark(file: str, capture: Path) -> Iterator[Finding]:
    fields = [part for name in (*TSHARK_FIELDS, *TSHARK_PORTS) for part in ("-e", name)]
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-e", "frame.protocols", *fields]
    yield from parse_tshark(file, run(command))


def parse_tshark(file: str, text: str) -> Iterator[Finding]:
    """Findings in tshark's lines of frame.protocols, TSHARK_FIELDS and TSHARK_PORTS, one line a packet."""
    for line in text.splitlines():
        stack, *columns = line.split("\t")
        layers = stack.split(":")
        said = {TSHARK_NAMES[layer] for layer in layers if layer in TSHARK_NAMES}
        if not said or "_ws.malformed" in layers or {"icmp", "icmpv6"} & set(layers):
            continue
        names = (*TSHARK_FIELDS, *TSHARK_PORTS)
        values = {name: column.split(",") for name, column in zip(names, columns, strict=True)}
        key = innermost_flow(layers, values)
        if key is not None:
            for protocol in sorted(said):
                yield Finding(file, key, protocol, packets=1)


def innermost_flow(layers: list[str], values: Mapping[str, list[str]]) -> FlowKey | None:
    """The flow of a dissected packet; every layer takes the next value of its fields."""
    turns = {name: iter(column) for name, column in values.items()}
    addresses: tuple[str, str] | None = None
    key: FlowKey | None = None
    for layer in layers:
        if layer in ("ip", "ipv6"):
            addresses = next(turns[f"{layer}.src"]), next(turns[f"{layer}.dst"])
            key = None
        elif layer in ("udp", "tcp") and addresses is not None:
            source, destination = next(turns[f"{layer}.srcport"]), next(turns[f"{layer}.dstport"])
            key = FlowKey.of(layer, addresses[0], source, addresses[1], destination)
        elif layer in ("esp", "ah") and addresses is not None:
            return key or FlowKey.of(layer, addresses[0], None, addresses[1], None)
    return key
