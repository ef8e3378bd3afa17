"""What an operator's stack of VLAN, MPLS and GTP-U costs: the same packets bare and wrapped, in turn.

The wrapped load is made from the bare one, frame by frame; its outer headers are the same for every packet
but for lengths, as between one base station and one gateway.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.loads import PCAP_HEADER, Load
from bench.replay import Bench, Start, beside_starts, per_packet
from bench.results import Limit, Row

RATIO_LIMIT = 1.3
"""Most that a wrapped packet may cost, in bare ones."""

_ETHERNET = bytes.fromhex("020000000001020000000002")
_TAG_AND_LABEL = bytes.fromhex(
    "81000064 8847 0001f140".replace(" ", "")
)  # VLAN 100, label 31, bottom of stack
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_UDP_AND_GTP = struct.Struct(">HHHHBBHI")


@contextmanager
def wrapped(load: Load) -> Iterator[Path]:
    """The load in VLAN, MPLS and GTP-U over IPv4, beside it."""
    path = load.path.with_suffix(".tunnels.pcap")
    try:
        wrap(load.path, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def wrap(source: Path, target: Path) -> None:
    with source.open("rb") as bare, target.open("wb") as out:
        bare.seek(len(PCAP_HEADER))
        out.write(PCAP_HEADER)
        while header := bare.read(16):
            seconds, fraction, captured, original = struct.unpack("<IIII", header)
            outer = _outer(original - 14)
            packet = bare.read(captured)[14:]
            record = seconds, fraction, len(outer) + len(packet), len(outer) + original - 14
            out.write(struct.pack("<IIII", *record) + outer + packet)


def _outer(length: int) -> bytes:
    """Headers in front of an IP packet of `length` octets."""
    # Between two hosts of the operator: with a subscriber at an end, the policy of rules/ leaves it shut.
    ends = bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2])
    before = _IPV4.pack(0x45, 0, length + 36, 0, 0x4000, 64, 17, 0, *ends)
    # The decoder takes MPLS at its word only when the IP header's checksum is right (RFC 4928).
    total = sum(struct.unpack(">10H", before))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    ip = before[:10] + struct.pack(">H", ~total & 0xFFFF) + before[12:]
    return (
        _ETHERNET + _TAG_AND_LABEL + ip + _UDP_AND_GTP.pack(2152, 2152, length + 16, 0, 0x30, 255, length, 7)
    )


def measure(bench: Bench, _start: Start) -> Iterator[Row]:
    """Bare and wrapped in turn."""
    with bench.loads.made("mix", 2_000_000, 100_000) as load, wrapped(load) as path:
        results, begun = beside_starts(bench, {"bare": bench.ours(load.path), "wrapped": bench.ours(path)})
    found = per_packet(results, dict.fromkeys(results, begun["ours"]), load.packets)
    yield Row(
        "compressed",
        "mix in VLAN, MPLS and GTP-U",
        "CPU ns per packet",
        found["wrapped"],
        {"bare": found["bare"]},
        (Limit(RATIO_LIMIT, "bare"),),
    )
