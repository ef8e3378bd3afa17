"""The captures that the benchmarks read, written to bench/loads/ once and kept.

They come from the workload generator beside the project where there is one; else the captures of pcaps/ are
repeated under shifted addresses, and the table says so.
"""

import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import dpkt

from bench.measure import ROOT, BenchError

LOADS = Path(__file__).parent / "loads"
GENERATOR = ROOT.parent / "shared" / "tools" / "make_workload.py"
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)


@dataclass(frozen=True, slots=True)
class Load:
    """One capture; `path` and `cut`, its first packets for slow programs, are classic little-endian pcap."""

    name: str
    path: Path
    packets: int
    cut: Path
    cut_packets: int


PROFILES = {
    "mix": ("mix, 2 M packets, 100 k flows", "--packets", "2000000", "--flows", "100000"),
    "elephants": ("elephants, 1 M packets, 50 flows", "--packets", "1000000"),
    "small": ("small, 2 M packets, 2 M flows", "--packets", "2000000", "--flows", "2000000"),
}
CUT_PACKETS = 100_000
REPEATED_PACKETS = 2_000_000


def build(profile: str) -> Load:
    """The load of one profile; what an earlier run wrote is taken as it is."""
    LOADS.mkdir(exist_ok=True)
    if GENERATOR.exists():
        name, *arguments = PROFILES[profile]
        path = LOADS / f"{profile}.pcap"
        if not path.exists():
            partial = LOADS / f"{profile}.partial.pcap"
            subprocess.run(
                [sys.executable, GENERATOR, profile, *arguments, "-o", partial],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            partial.rename(path)
        packets = int(arguments[1])
    elif profile == "mix":
        path = LOADS / "repeated.pcap"
        if not path.exists():
            repeat_captures(path)
        packets = count_packets(path)
        name = f"pcaps/ repeated, {packets:,} packets"
    else:
        raise BenchError(f"the load {profile} needs {GENERATOR.name} beside the project")
    cut = path.with_suffix(".cut.pcap")
    cut_packets = min(packets, CUT_PACKETS)
    if not cut.exists():
        write_cut(path, cut, cut_packets)
    return Load(name, path, packets, cut, cut_packets)


def almost_empty() -> Path:
    """One packet: what a run on it costs is start-up."""
    LOADS.mkdir(exist_ok=True)
    path = LOADS / "one-packet.pcap"
    udp = dpkt.udp.UDP(sport=53, dport=40_000, data=b"\0" * 32, ulen=40)
    packet = dpkt.ip.IP(src=b"\xc0\0\2\1", dst=b"\xc0\0\2\2", p=17, data=udp, len=60)
    frame = bytes(dpkt.ethernet.Ethernet(src=b"\2\0\0\0\0\1", dst=b"\2\0\0\0\0\2", data=packet))
    path.write_bytes(PCAP_HEADER + struct.pack("<IIII", 1_700_000_000, 0, len(frame), len(frame)) + frame)
    return path


def write_cut(source: Path, target: Path, packets: int) -> None:
    """The first packets of a little-endian pcap."""
    with source.open("rb") as capture:
        capture.seek(len(PCAP_HEADER))
        for _ in range(packets):
            captured = struct.unpack("<IIII", capture.read(16))[2]
            capture.seek(captured, 1)
        end = capture.tell()
        capture.seek(0)
        target.write_bytes(capture.read(end))


def count_packets(path: Path) -> int:
    packets = 0
    with path.open("rb") as capture:
        capture.seek(len(PCAP_HEADER))
        while header := capture.read(16):
            capture.seek(struct.unpack("<IIII", header)[2], 1)
            packets += 1
    return packets


def repeat_captures(target: Path) -> None:
    """Plain Ethernet frames of IPv4 and IPv6 from pcaps/, again and again under other addresses.

    Checksums are left as they were: no program measured here looks at them.
    """
    frames = [frame for path in sorted((ROOT / "pcaps").glob("*/*.pcap")) for frame in ethernet_frames(path)]
    if not frames:
        raise BenchError("pcaps/ has no plain Ethernet capture to repeat")
    partial = target.with_suffix(".partial.pcap")
    with partial.open("wb") as capture:
        capture.write(PCAP_HEADER)
        for number in range(REPEATED_PACKETS):
            copy, index = divmod(number, len(frames))
            frame = bytearray(frames[index])
            # Bytes 2 and 3 of both IPv4 addresses, bytes 5 and 6 of both IPv6 addresses.
            for at in (27, 31) if frame[12:14] == b"\x08\x00" else (26, 42):
                (word,) = struct.unpack_from(">H", frame, at)
                struct.pack_into(">H", frame, at, word ^ copy & 0xFFFF)
            seconds, microseconds = divmod(number * 30, 1_000_000)
            record = struct.pack("<IIII", 1_700_000_000 + seconds, microseconds, len(frame), len(frame))
            capture.write(record + frame)
    partial.rename(target)


def ethernet_frames(path: Path) -> list[bytes]:
    with path.open("rb") as capture:
        try:
            reader = dpkt.pcap.Reader(capture)
            if reader.datalink() != dpkt.pcap.DLT_EN10MB:
                return []
            frames = [frame for _, frame in reader]
        except (ValueError, dpkt.UnpackError):
            return []
    return [bytes(frame) for frame in frames if is_plain(bytes(frame))]


def is_plain(frame: bytes) -> bool:
    """Whether the floor and dpkt must read a frame alike: TCP, UDP or ESP right behind an IP header."""
    protocols = (dpkt.ip.IP_PROTO_TCP, dpkt.ip.IP_PROTO_UDP, dpkt.ip.IP_PROTO_ESP)
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
        whole = not int.from_bytes(frame[20:22], "big") & 0x3FFF
        return whole and frame[14] == 0x45 and frame[23] in protocols
    return frame[12:14] == b"\x86\xdd" and len(frame) >= 54 and frame[20] in protocols
