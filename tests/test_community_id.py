"""Community ID v1: the core's column against an implementation of our own, and that one against the
specification's published vectors (corelight/community-id-spec, baseline/baseline_deflt.json)."""

import base64
import hashlib
import struct
from ipaddress import ip_address

import pytest
from pcap_cases import Case, all_cases, run

from classifier._core import Engine


def community_id(protocol: int, source: str, destination: str, ports: tuple[int, int] | None) -> str:
    """Seed 0. The smaller end (address, then port) comes first; protocols without ports hash none."""
    ends = [(ip_address(source).packed, 0), (ip_address(destination).packed, 0)]
    if ports is not None:
        ends = [(address, port) for (address, _), port in zip(ends, ports, strict=True)]
    (low, low_port), (high, high_port) = sorted(ends)
    hashed = struct.pack(">H", 0) + low + high + bytes([protocol, 0])
    if ports is not None:
        hashed += struct.pack(">HH", low_port, high_port)
    return "1:" + base64.b64encode(hashlib.sha1(hashed, usedforsecurity=False).digest()).decode()


@pytest.mark.parametrize(
    ("protocol", "source", "destination", "ports", "expected"),
    [
        (6, "128.232.110.120", "66.35.250.204", (34855, 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        (6, "66.35.250.204", "128.232.110.120", (80, 34855), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        (17, "192.168.1.52", "8.8.8.8", (54585, 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        (17, "8.8.8.8", "192.168.1.52", (53, 54585), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        (
            6,
            "2001:470:e5bf:dead:4957:2174:e82c:4887",
            "2607:f8b0:400c:c03::1a",
            (63943, 25),
            "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
        ),
        (
            6,
            "2607:f8b0:400c:c03::1a",
            "2001:470:e5bf:dead:4957:2174:e82c:4887",
            (25, 63943),
            "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
        ),
        (46, "10.1.12.1", "10.1.12.2", None, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="),
        (46, "10.1.12.2", "10.1.12.1", None, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="),
    ],
)
def test_vectors_of_the_specification(
    protocol: int, source: str, destination: str, ports: tuple[int, int] | None, expected: str
) -> None:
    assert community_id(protocol, source, destination, ports) == expected


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_every_flow_of_the_captures(case: Case) -> None:
    numbers = {"TCP": 6, "UDP": 17, "ESP": 50, "AH": 51}
    for batch in run(Engine(min_confidence="possible"), case, []):
        for row, transport in enumerate(batch.transport):
            source_port, destination_port = batch.source_port[row], batch.destination_port[row]
            ports = None
            if source_port is not None and destination_port is not None:
                ports = (source_port, destination_port)
            expected = community_id(
                numbers[transport], batch.source_ip[row], batch.destination_ip[row], ports
            )
            assert batch.community_id[row] == expected
