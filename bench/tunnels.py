"""What an operator's stack of VLAN, MPLS and GTP-U costs: the same packets bare and wrapped, in turn.

The wrapped load is made from the bare one, frame by frame; its outer headers are the same for every packet
but for lengths, as between one base station and one gateway.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from bench.loads import PCAP_HEADER, Load
from bench.measure import alternate, median_cpu
from bench.replay import Programs, Start

RATIO_LIMIT = 1.3
"""Most that a wrapped packet may cost, in bare ones."""

_ETHERNET = bytes.fromhex("020000000001020000000002")
_TAG_AND_LABEL = bytes.fromhex(
    "81000064 8847 0001f140".replace(" ", "")
)  # VLAN 100, label 31, bottom of stack
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_UDP_AND_GTP = struct.Struct(">HHHHBBHI")


@dataclass(frozen=True, slots=True)
class Tunnels:
    """CPU nanoseconds per packet, start-up subtracted."""

    load: str
    bare_ns: float
    wrapped_ns: float

    @property
    def ratio(self) -> float:
        return self.wrapped_ns / self.bare_ns


def build(load: Load) -> Path:
    """The load in VLAN, MPLS and GTP-U over IPv4, beside it; what an earlier run wrote is taken as it is."""
    path = load.path.with_suffix(".tunnels.pcap")
    if path.exists():
        return path
    partial = path.with_suffix(".partial.pcap")
    with load.path.open("rb") as bare, partial.open("wb") as wrapped:
        bare.seek(len(PCAP_HEADER))
        wrapped.write(PCAP_HEADER)
        while header := bare.read(16):
            seconds, fraction, captured, original = struct.unpack("<IIII", header)
            outer = _outer(original - 14)
            packet = bare.read(captured)[14:]
            record = seconds, fraction, len(outer) + len(packet), len(outer) + original - 14
            wrapped.write(struct.pack("<IIII", *record) + outer + packet)
    partial.rename(path)
    return path


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


def measure(programs: Programs, load: Load, start: Start, runs: int) -> Tunnels:
    """Bare and wrapped in turn."""
    commands = {"bare": programs.whole_command(load.path), "wrapped": programs.whole_command(build(load))}
    results = alternate(commands, runs)
    bare, wrapped = (
        (median_cpu(results[name]) - start.whole_s) / load.packets * 1e9 for name in ("bare", "wrapped")
    )
    return Tunnels(load.name, bare, wrapped)
