"""What is kept for many flows gives the lines that each flow judged by itself would, byte for byte."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import islice
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
from classifier.judgement import Action, Direction
from classifier.metrics.tally import Tally, TallyCopy
from classifier.pipeline import Replay, Settings
from classifier.policy import Confidence, Phase, Policy, Rule, UnregisteredAfter
from classifier.register import (
    Category,
    Endpoint,
    Entry,
    Kind,
    Prefix,
    PrefixTable,
    Protocol,
    Register,
    Side,
    Status,
)
from classifier.reporter import Reporter
from classifier.standing import Verdict

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
        # Mostly the same few, so that many flows are in one class.
        some = HOSTS[generator.choice((4, 4, 4, 16))][: generator.choice((4, 4, 4, 10))]
        hosts = [ip_address(host).packed for host in some]
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
    reporter: type[Reporter] | type[PlainReporter],
    capture: Path,
    how: Settings,
    *judging: tuple[Register | None, Policy],
) -> tuple[list[Event | VpnLine], TallyCopy]:
    """All that a replay of the capture gives, and what is counted of it.

    With more than one register and policy, the capture is read again after each.
    """
    tally = Tally(windowed=False)
    (register, policy), *others = judging
    waiting = iter(others)

    class Reloading(reporter):  # type: ignore[misc, valid-type]
        def end(self, capture: str) -> Iterator[Event]:
            yield from super().end(capture)
            for register, policy in islice(waiting, 1):
                run.reload(register, replace(policy))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classifier.pipeline.Reporter", Reloading)
        captures = (str(capture),) * (1 + len(judging))
        run = Replay(Inputs(captures, (), None), register, replace(policy), how, tally=tally)
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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def known(address: str, kind: Kind, *, until_ns: int | None = None, at: str = "", port: int = 0) -> Entry:
    return Entry(
        entry_id=f"R-{address}",
        kind=kind,
        category=Category.BANK if kind is Kind.VPN_REGISTRATION else Category.OTHER,
        prefix=Prefix.parse(address),
        side=Side.EITHER,
        endpoints=(Endpoint(Prefix.parse(at), port or None),) if at else (),
        protocols=(),
        valid_from_ns=0,
        valid_until_ns=until_ns,
        status=Status.APPROVED,
        status_since_ns=0,
    )


ENTRIES = [
    known("198.51.100.7", Kind.VPN_REGISTRATION, at="203.0.113.10", port=51_820),
    known("198.51.100.8", Kind.IP_WHITELIST, until_ns=START),
    known("198.51.100.130", Kind.VPN_REGISTRATION, at="203.0.113.0/28"),
    known("203.0.113.20", Kind.CARRIER_SERVICE, until_ns=START + DAY),
    known("2001:db8:1::/64", Kind.VPN_REGISTRATION, at="2001:db8:2::1", port=500),
    known("2001:db8:ff::/48", Kind.IP_WHITELIST),
]


def register(issued_at_ns: int = START, first_record_ns: int = START - DAY) -> Register:
    return Register.build(
        ENTRIES,
        source="test",
        serial=3,
        issued_at_ns=issued_at_ns,
        next_update_ns=START + DAY,
        first_record_ns=first_record_ns,
    )


KNOWN = register()
# What holds for some flows of the capture and not for others, one condition each.
CONDITIONS: dict[str, Rule] = {
    "verdict": Rule("it", Action.FLAG, verdicts=frozenset({Verdict.REGISTERED})),
    "phase": Rule("it", Action.FLAG, phases=frozenset({Phase.ESTABLISHED})),
    "confidence": Rule("it", Action.FLAG, confidences=frozenset({Confidence.CONFIRMED})),
    "direction": Rule("it", Action.FLAG, directions=frozenset({Direction.OUTBOUND})),
    "protocol": Rule("it", Action.FLAG, protocols=frozenset({Protocol.IPSEC})),
    "kind": Rule("it", Action.FLAG, kinds=frozenset({Kind.IP_WHITELIST})),
    "category": Rule("it", Action.FLAG, categories=frozenset({Category.BANK})),
    "other end": Rule("it", Action.FLAG, other_ends=frozenset({Verdict.ENDPOINT_MISMATCH})),
    "prefix": Rule("it", Action.FLAG, prefixes=(Prefix.parse("198.51.100.8/31"),)),
    "packets": Rule("it", Action.FLAG, min_packets=7),
    "packets of the subject": Rule("it", Action.FLAG, min_subject_packets=4),
    "duration": Rule("it", Action.FLAG, min_duration_ns=10 * 10**9),
    "from": Rule("it", Action.FLAG, from_ns=START),
    "until": Rule("it", Action.FLAG, until_ns=START),
}
LOCAL = tuple(map(Prefix.parse, ("198.51.100.0/24", "2001:db8:1::/48")))


@pytest.mark.parametrize("rule", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("local", [(), LOCAL], ids=["no networks", "networks"])
@pytest.mark.parametrize("as_of_ns", [None, START], ids=["packet time", "as of"])
def test_flows_that_differ_in_one_condition(
    capture: Path, rule: Rule, local: tuple[Prefix, ...], as_of_ns: int | None
) -> None:
    policy = Policy("p", (rule, Rule("else", Action.OBSERVE)), enforce_from_ns=START - DAY, local=local)
    # The same once more with everything withdrawn, then with what was there before.
    empty = replace(KNOWN, entries=(), _prefixes=PrefixTable([]), serial=4)
    judging = (KNOWN, policy), (empty, policy), (KNOWN, policy)
    lines, counts = written(PlainReporter, capture, Settings(as_of_ns=as_of_ns), *judging)
    assert written(Reporter, capture, Settings(as_of_ns=as_of_ns), *judging) == (lines, counts)
    given = {line.event()["policy"]["rule"] for line in lines if isinstance(line, VpnLine)}
    is_dated = rule.from_ns is not None or rule.until_ns is not None
    if (local or not rule.directions) and not (is_dated and as_of_ns is not None):
        assert given == {"it", "else"}


@pytest.mark.parametrize("days", [-2, -1, 0, 2])
def test_cases_wait_for_the_next_register(capture: Path, days: int) -> None:
    asked = register(START + days * DAY, first_record_ns=0)
    policy = Policy(
        "p", (FLAG_ALL,), enforce_from_ns=0, unregistered_after=UnregisteredAfter.NEXT_REGISTER, local=LOCAL
    )
    expected = written(PlainReporter, capture, Settings(), (asked, policy))
    assert written(Reporter, capture, Settings(), (asked, policy)) == expected
    waiting = [b"was first seen on" in line.line for line in expected[0] if isinstance(line, VpnLine)]
    assert any(waiting) == (days < 1)


FIRST, SECOND = "192.0.2.1", "192.0.2.2"


def alike(path: Path, *flows: tuple[int, str, bytes]) -> Path:
    """A capture of flows to one server that differ in time, client and its port only."""
    server = ip_address("192.0.2.99").packed
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2_3C4D, 2, 4, 0, 0, 65_535, 1))
        for at_ns, host, port in flows:
            client = ip_address(host).packed
            for after_s, from_client, protocol, above in packets("wg-plain-51820")[:12]:
                ends = (client, server) if from_client else (server, client)
                above = port + above[2:] if from_client else above[:2] + port + above[4:]
                one, time_ns = frame(*ends, protocol, above), at_ns + int(after_s * 1e9)
                file.write(struct.pack("<IIII", *divmod(time_ns, 10**9), len(one), len(one)) + one)
    return path


@pytest.mark.parametrize(
    ("one", "other", "rule"),
    [
        (
            {"kind": Kind.IP_WHITELIST},
            {"kind": Kind.CARRIER_SERVICE},
            Rule("it", Action.PASS, kinds=frozenset({Kind.IP_WHITELIST})),
        ),
        (
            {"category": Category.BANK},
            {"category": Category.EMBASSY},
            Rule("it", Action.PASS, categories=frozenset({Category.BANK})),
        ),
    ],
    ids=["kind", "category"],
)
def test_ends_of_one_verdict_that_rest_on_other_entries(
    tmp_path: Path, one: dict[str, object], other: dict[str, object], rule: Rule
) -> None:
    """Both entries are in grace, and differ in one thing that the policy asks for."""
    ended = known(FIRST, Kind.VPN_REGISTRATION, until_ns=START)
    entries = [ended._replace(**one), ended._replace(prefix=Prefix.parse(SECOND), **other)]  # type: ignore[arg-type]
    asked = Register.build(entries, source="a", serial=1, issued_at_ns=START, next_update_ns=START + DAY)
    path = alike(
        tmp_path / "two.pcap", (START + MINUTE, FIRST, b"\xc0\x01"), (START + 2 * MINUTE, SECOND, b"\xc0\x01")
    )
    policy = Policy("p", (rule, Rule("else", Action.OBSERVE)))
    lines, counts = written(Reporter, path, Settings(), (asked, policy))
    assert (lines, counts) == written(PlainReporter, path, Settings(), (asked, policy))
    told = [line.event() for line in lines if isinstance(line, VpnLine)]
    said = {(event["src_ip"], event["policy"]["verdict"], event["policy"]["rule"]) for event in told}
    assert said == {(FIRST, "expired_in_grace", "it"), (SECOND, "expired_in_grace", "else")}


def test_one_case_waits_and_another_that_looks_the_same_does_not(tmp_path: Path) -> None:
    """Two hosts without an entry; one was there before the register was issued, and has a flow later."""
    path = alike(
        tmp_path / "two.pcap",
        (START - 50 * MINUTE, FIRST, b"\xc0\x01"),
        (START + 5 * MINUTE, FIRST, b"\xc0\x02"),
        (START + 6 * MINUTE, SECOND, b"\xc0\x02"),
    )
    asked = register(START, first_record_ns=0)
    policy = Policy("p", (FLAG_ALL,), enforce_from_ns=0, unregistered_after=UnregisteredAfter.NEXT_REGISTER)
    lines, counts = written(Reporter, path, Settings(), (asked, policy))
    assert (lines, counts) == written(PlainReporter, path, Settings(), (asked, policy))
    told = [line.event() for line in lines if isinstance(line, VpnLine)]
    last = {event["src_ip"]: event["policy"]["action"] for event in told if event["src_port"] == 0xC002}
    assert last == {FIRST: "flag", SECOND: "observe"}


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
