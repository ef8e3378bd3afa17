"""The core's counters against dpkt's reading of the same captures (tests/oracle.py)."""

from collections.abc import Iterable
from functools import cache
from ipaddress import ip_address

import pytest
from oracle import Capture, Endpoint, FlowKey, read_capture
from pcap_cases import Case, all_cases, run

from classifier._core import CaptureError, Engine

every_case = pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)


@cache
def decoded(case: Case) -> Capture:
    return read_capture(case.capture)


def total(stats: dict[str, int], group: str) -> int:
    return sum(value for name, value in stats.items() if name.startswith(group + "."))


def test_oracle_sees_every_kind_of_frame() -> None:
    """The comparison means something: each transport, both IP versions and frames of no flow occur."""
    captures = [decoded(case) for case in all_cases()]
    keys = [key for capture in captures for key in capture.flows]
    assert {key.transport for key in keys} == {"UDP", "TCP", "ESP", "AH"}
    assert {ip_address(key.low.address).version for key in keys} == {4, 6}
    assert sum((capture.no_flow for capture in captures), start=captures[0].no_flow.copy()).keys() >= {
        "arp",
        "icmp",
    }
    assert not any(capture.undecoded for capture in captures)
    assert sum(capture.cut for capture in captures) == 2


@every_case
def test_counters_of_the_capture(case: Case) -> None:
    engine, errors = Engine(), list[CaptureError]()
    list(run(engine, case, errors))
    stats, oracle = engine.stats(), decoded(case)
    assert stats["frames"] == oracle.frames
    assert stats["bytes"] == oracle.octets
    assert total(stats, "undecoded") == oracle.undecoded.total()
    assert total(stats, "no_flow") == oracle.no_flow.total()
    assert stats.get("no_flow.arp", 0) == oracle.no_flow["arp"]
    assert stats.get("fragments_unmatched", 0) == len(oracle.waiting)
    assert total(stats, "refused") == 0
    assert stats["flow_packets"] == oracle.flow_packets
    assert [error.reason for error in errors] == ["truncated"] * oracle.cut


@every_case
def test_counters_of_each_flow(case: Case) -> None:
    engine = Engine(min_confidence="possible")
    for batch in run(engine, case, []):
        ends: Iterable[tuple[str, int | None, str, int | None]] = zip(
            batch.source_ip, batch.source_port, batch.destination_ip, batch.destination_port, strict=True
        )
        for row, (source, source_port, destination, destination_port) in enumerate(ends):
            if batch.report[row] != "ended":
                continue
            initiator, responder = Endpoint(source, source_port), Endpoint(destination, destination_port)
            flow = decoded(case).flows[FlowKey.of(batch.transport[row], initiator, responder)]
            assert batch.source[row] == ip_address(source).packed
            assert batch.destination[row] == ip_address(destination).packed
            assert (batch.packets_to_server[row], batch.bytes_to_server[row]) == flow.count(initiator)
            assert (batch.packets_to_client[row], batch.bytes_to_client[row]) == flow.count(responder)
            assert batch.start_ns[row] == flow.first_packet.time_ns
            assert batch.end_ns[row] == flow.end_ns
            assert batch.flipped[row] == (flow.first_packet.source != initiator)
            assert tuple(batch.encap[row]) == flow.first_packet.path
            assert batch.oneway[row] == (len({packet.source for packet in flow.packets}) == 1)
