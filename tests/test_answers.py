"""What is kept for many flows gives the lines that each flow judged by itself would, byte for byte."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import dpkt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pcap_cases import repository
from plain_reporter import PlainReporter
from test_policy_scan import DAY, FLAG_ALL, HOSTS, POLICIES, REGISTERS, START, TIMES

from classifier import answers
from classifier.events import Event, VpnLine
from classifier.inputs import Inputs
from classifier.metrics.tally import Tally, TallyCopy
from classifier.pipeline import Replay, Settings
from classifier.policy import Policy, UnregisteredAfter
from classifier.register import Prefix, Register
from classifier.reporter import Reporter

MINUTE = 60 * 1_000_000_000
CASES = (
    *("wg-plain-51820", "wg-53", "wg-unanswered", "wg-midflow-51820", "ovpn-udp-plain-1194"),
    *(
        "ovpn-udp-midflow",
        "ikev2-psk-natt",
        "ikev2-port500-native-esp",
        "ikev1-unanswered",
        "espudp-midflow-4500",
    ),
)
ETHERNET = bytes.fromhex("020000000001020000000002")
Packet = tuple[float, bool, int, bytes]
"""Seconds after the first, from the client, IP protocol, and what is above the IP header."""


def packets(case: str) -> list[Packet]:
    """Those of UDP and ESP over IPv4 in a capture of pcaps/."""
    with (repository() / "pcaps" / case / "capture.pcap").open("rb") as file:
        frames = [(time, frame[14:]) for time, frame in dpkt.pcap.Reader(file) if frame[12:14] == b"\x08\x00"]
    found = [
        (time, ip[12:16], ip[9], ip[20 : int.from_bytes(ip[2:4], "big")])
        for time, ip in frames
        if ip[9] in (17, 50)
    ]
    first_s, client, *_ = found[0]
    return [(time - first_s, source == client, protocol, above) for time, source, protocol, above in found]


def frame(source: bytes, destination: bytes, protocol: int, above: bytes) -> bytes:
    if len(source) == 4:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(above), 0, 0x4000, 64, protocol, 0)
        return ETHERNET + b"\x08\x00" + header + source + destination + above
    return (
        ETHERNET
        + b"\x86\xdd"
        + struct.pack(">IHBB", 6 << 28, len(above), protocol, 64)
        + source
        + destination
        + above
    )


def flows() -> Iterator[tuple[int, bytes]]:
    """Frames of flows of all kinds between the hosts that registers and policies are about, over three days.

    A packet clock takes no jump of more than an hour, so they follow each other closely.
    """
    generator = random.Random(7)
    cases = [packets(case) for case in CASES]
    for number in range(-75, 75):
        hosts = [ip_address(host).packed for host in HOSTS[generator.choice((4, 4, 16))]]
        source, destination = generator.sample(hosts, 2)
        start_ns = START + number * 29 * MINUTE
        stretch = generator.choice((1, 1, 40))
        chosen = generator.choice(cases)[: generator.choice((1, 3, 9, 12, 30))]
        for after_s, from_client, protocol, above in chosen:
            ends = (source, destination) if from_client else (destination, source)
            yield start_ns + int(after_s * stretch * 1e9), frame(*ends, protocol, above)
    # One that goes on all the time.
    long = packets("wg-plain-51820")
    client, server = (ip_address(host).packed for host in ("198.51.100.7", "203.0.113.10"))
    for number in range(400):
        _, from_client, protocol, above = long[number % len(long)]
        time_ns = START - 75 * 29 * MINUTE + number * 9 * MINUTE
        ends = (client, server) if from_client else (server, client)
        yield time_ns, frame(*ends, protocol, above)
    # And openings that nobody answers, so many that they are summarised.
    _, _, protocol, above = packets("wg-unanswered")[0]
    for number in range(60):
        source = ip_address("198.51.100.0").packed[:3] + bytes([number])
        yield START + number, frame(source, ip_address("203.0.113.10").packed, protocol, above)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "flows.pcap"
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2_3C4D, 2, 4, 0, 0, 65_535, 1))
        for time_ns, one in sorted(flows()):
            file.write(struct.pack("<IIII", *divmod(time_ns, 10**9), len(one), len(one)) + one)
    return path


def written(
    reporter: type, capture: Path, how: Settings, *judging: tuple[Register | None, Policy]
) -> tuple[list[Event | VpnLine], TallyCopy]:
    """All that a replay gives, and what is counted of it.

    With more than one register and policy, the others are taken before it begins.
    """
    tally = Tally(windowed=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classifier.pipeline.Reporter", reporter)
        (register, policy), *others = judging
        run = Replay(
            Inputs((str(capture), str(capture)), (), None), register, replace(policy), how, tally=tally
        )
        for register, policy in others:
            run.reload(register, replace(policy))
        lines = list(run.lines())
    return lines, replace(tally.copy(0), lookups=(), lookup_seconds=0)


def test_all_kinds_of_flows_are_in_the_capture(capture: Path) -> None:
    told = [
        line.event()
        for line in written(Reporter, capture, Settings(), (None, Policy("", ())))[0]
        if isinstance(line, VpnLine)
    ]
    assert {event["vpn"]["protocol"] for event in told} == {"wireguard", "openvpn", "ipsec"}
    assert {event["vpn"]["phase"] for event in told} == {"attempt", "handshake", "established", "data_only"}
    assert {event["proto"] for event in told} == {"UDP", "ESP"}
    assert {event["ip_v"] for event in told} == {4, 6}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.none() | REGISTERS,
    POLICIES,
    st.lists(st.tuples(REGISTERS, POLICIES), max_size=1),
    st.none() | TIMES,
    st.sampled_from(["possible", "likely"]),
)
def test_lines_are_those_of_flows_judged_one_by_one(
    capture: Path,
    register: Register | None,
    policy: Policy,
    others: list[tuple[Register, Policy]],
    as_of_ns: int | None,
    min_confidence: str,
) -> None:
    how = Settings(min_confidence=min_confidence, as_of_ns=as_of_ns)
    judging = (register, policy), *others
    assert written(Reporter, capture, how, *judging) == written(PlainReporter, capture, how, *judging)


@pytest.mark.parametrize("limit", ["_MAX_ENDS", "_MAX_ANSWERS"])
def test_what_is_forgotten_is_worked_out_again(
    capture: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    policy = Policy(
        "p", (FLAG_ALL,), enforce_from_ns=START, unregistered_after=UnregisteredAfter.NEXT_REGISTER
    )
    register = Register.build([], source="a", serial=1, issued_at_ns=START, next_update_ns=START + 20 * DAY)
    expected = written(PlainReporter, capture, Settings(), (register, policy))
    assert any(b'"changed"' in line.line for line in expected[0] if isinstance(line, VpnLine))
    monkeypatch.setattr(answers, limit, 2)
    assert written(Reporter, capture, Settings(), (register, policy)) == expected


def test_prefixes_in_the_same_networks_are_one_class() -> None:
    local = tuple(Prefix.parse(f"10.{number}.0.0/16") for number in range(200))
    compiled = Policy(
        "", (), local=(*local, Prefix.parse("10.7.0.0/24")), shared=(Prefix.parse("10.8.0.0/16"),)
    ).compiled()
    numbers = {
        host: compiled.number(ip_address(host).packed)
        for host in ("10.0.0.1", "10.7.0.1", "10.8.0.1", "9.0.0.1")
    }
    assert numbers["10.0.0.1"] == numbers["10.7.0.1"] != numbers["10.8.0.1"]
    assert numbers["9.0.0.1"] == 0
