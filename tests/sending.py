"""The benchmarks' sender of frames, built where it is needed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import dpkt
from pcap_cases import repository

PATIENCE_S = 600


def sender() -> Path:
    """Its program. A debug build: it is fast enough, and cargo has its parts from the tests in Rust."""
    built = subprocess.run(
        [
            *("cargo", "build", "--locked", "--package", "vpn-classifier-bench", "--bin", "sender"),
            *("--message-format", "json"),
        ],
        cwd=repository(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    artifacts = map(json.loads, built.stdout.splitlines())
    (program,) = (found["executable"] for found in artifacts if found.get("executable"))
    return Path(program)


def ethernet_frames(path: Path) -> list[bytes]:
    """The plain frames of a capture; none when it is no Ethernet."""
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
    """Whether a frame is one that everything reads alike: TCP, UDP or ESP right behind an IP header."""
    protocols = (dpkt.ip.IP_PROTO_TCP, dpkt.ip.IP_PROTO_UDP, dpkt.ip.IP_PROTO_ESP)
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
        whole = not int.from_bytes(frame[20:22], "big") & 0x3FFF
        return whole and frame[14] == 0x45 and frame[23] in protocols
    return frame[12:14] == b"\x86\xdd" and len(frame) >= 54 and frame[20] in protocols
