"""Both ends and the rules, as tables, and against a plain reading on generated registers and flows."""

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import (
    DAY,
    DESTINATION,
    NOW,
    OPEN,
    OURS,
    PAST,
    SOURCE,
    S,
    entry,
    flow,
    judge,
    named,
    packed,
    register,
)

from classifier import _core
from classifier.errors import ConfigError, PolicyError
from classifier.judgement import ACTIONS, DIRECTIONS, Action
from classifier.policy import Confidence, FlowFacts, Phase, Policy, Rule, UnregisteredAfter
from classifier.register import Category, Endpoint, Entry, Kind, Prefix, Protocol, Register, Side, Status
from classifier.register.snapshot import Source
from classifier.standing import VERDICTS, Verdict

RULES = Path(__file__).parent.parent / "rules"


# --- what is remembered ------------------------------------------------------------------------------


def test_what_is_remembered_holds_for_one_side_protocol_and_time_only() -> None:
    known = register(entry(side=Side.ENDPOINT, protocols=(Protocol.WIREGUARD,), valid_until_ns=NOW + DAY))
    asked = [
        (flow(), NOW, "endpoint_mismatch"),
        (flow(phase="data_only"), NOW, "registered"),
        (flow(DESTINATION, SOURCE), NOW, "registered"),
        (flow(phase="data_only", protocol="ipsec"), NOW, "protocol_mismatch"),
        (flow(phase="data_only"), NOW + DAY, "expired_in_grace"),
        (flow(phase="data_only"), NOW + DAY - 1, "registered"),
    ]
    for facts, at_ns, verdict in asked * 2 + asked[::-1]:
        assert OURS.judge(facts, known, at_ns).verdict == verdict


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.policy.REMEMBERED", 3)
    monkeypatch.setattr("classifier.policy.FLOWS_REMEMBERED", 5)
    policy = replace(OURS)
    known = register(*(entry(f"198.51.100.{number}") for number in range(50)))
    for number in range(50):
        assert judge(policy, of=flow(f"198.51.100.{number}")).verdict == "unregistered"
        assert policy.judge(flow(f"198.51.100.{number}"), known, NOW).verdict == "registered"
        assert len(policy._memory.ends) <= 3
        assert len(policy._memory.flows) == min(number + 1, 5)


# --- both ends ---------------------------------------------------------------------------------------

A, B, FAR, FARTHER, POOL = "198.51.100.7", "198.51.100.8", "203.0.113.10", "203.0.113.20", "198.51.100.200"
# Source and its entry, destination and its entry; then direction, verdict, subject.
BOTH_ENDS = [
    (A, "", FAR, "", "outbound", "unregistered", "source"),
    (FAR, "", A, "", "inbound", "unregistered", "destination"),
    (A, "", FAR, "vpn_registration", "outbound", "registered", "destination"),
    (A, "suspended", FAR, "licensed_provider", "outbound", "licensed_provider", "destination"),
    (A, "ip_whitelist", FAR, "vpn_registration", "outbound", "registered", "destination"),
    (A, "vpn_registration", FAR, "vpn_registration", "outbound", "registered", "source"),
    (FAR, "vpn_registration", A, "vpn_registration", "inbound", "registered", "destination"),
    (FAR, "vpn_registration", A, "", "inbound", "registered", "source"),
    # Without a good entry the local end has the word.
    (A, "", FAR, "pending", "outbound", "unregistered", "source"),
    (A, "pending", FAR, "revoked", "outbound", "pending", "source"),
    (A, "revoked", FAR, "pending", "outbound", "revoked", "source"),
    (FAR, "mismatch", A, "expired", "inbound", "expired", "destination"),
    # Both ours: the better end.
    (A, "", B, "", "internal", "unregistered", "source"),
    (A, "", B, "pending", "internal", "pending", "destination"),
    (A, "revoked", B, "expired", "internal", "expired", "destination"),
    (A, "expired", B, "", "internal", "unregistered", "destination"),
    (A, "", B, "carrier_service", "internal", "carrier_service", "destination"),
    # Neither is ours.
    (FAR, "", FARTHER, "", "transit", "out_of_scope", "source"),
    (FAR, "revoked", FARTHER, "pending", "transit", "out_of_scope", "source"),
    (FAR, "", FARTHER, "operator_infrastructure", "transit", "operator_infrastructure", "destination"),
    # Link-local, multicast, loopback.
    (A, "", "224.0.0.5", "", "scope_local", "out_of_scope", "source"),
    (A, "revoked", "239.255.0.1", "", "scope_local", "out_of_scope", "source"),
    ("169.254.1.1", "", "169.254.1.2", "", "scope_local", "out_of_scope", "source"),
    ("127.0.0.1", "", "127.0.0.2", "", "scope_local", "out_of_scope", "source"),
    ("fe80::1", "", "ff02::5", "", "scope_local", "out_of_scope", "source"),
    ("febf::1", "", "2001:db8::1", "", "scope_local", "out_of_scope", "source"),
    ("fec0::1", "", "2001:db8::1", "", "transit", "out_of_scope", "source"),
    ("::1", "", "::1", "", "scope_local", "out_of_scope", "source"),
    (A, "operator_infrastructure", "224.0.0.5", "", "scope_local", "operator_infrastructure", "source"),
    # Addresses that are nobody's for long; they are ours, too.
    (POOL, "", FAR, "", "outbound", "shared_address", "source"),
    (FAR, "", POOL, "", "inbound", "shared_address", "destination"),
    (POOL, "revoked", FAR, "", "outbound", "shared_address", "source"),
    (POOL, "expired", FAR, "", "outbound", "shared_address", "source"),
    (POOL, "pending", FAR, "", "outbound", "pending", "source"),
    (POOL, "mismatch", FAR, "", "outbound", "protocol_mismatch", "source"),
    (POOL, "vpn_registration", FAR, "", "outbound", "registered", "source"),
    (POOL, "", FAR, "vpn_registration", "outbound", "registered", "destination"),
    (A, "", POOL, "", "internal", "shared_address", "destination"),
    ("100.64.0.9", "", FAR, "", "outbound", "shared_address", "source"),
]


@pytest.mark.parametrize(
    ("source", "source_entry", "destination", "destination_entry", "direction", "verdict", "subject"),
    BOTH_ENDS,
)
def test_both_ends(
    source: str,
    source_entry: str,
    destination: str,
    destination_entry: str,
    direction: str,
    verdict: str,
    subject: str,
) -> None:
    policy = replace(OURS, shared=(Prefix.parse("198.51.100.192/26"), Prefix.parse("100.64.0.0/10")))
    entries = [
        named(what, address)
        for what, address in ((source_entry, source), (destination_entry, destination))
        if what
    ]
    result = judge(policy, *entries, of=flow(source, destination))
    assert (result.direction, result.verdict, result.subject) == (direction, verdict, subject)


@pytest.mark.parametrize(
    ("source_entry", "destination_entry", "verdict", "subject"),
    [
        ("", "", "unregistered", "source"),
        ("", "pending", "pending", "destination"),
        ("mismatch", "expired", "protocol_mismatch", "source"),
        ("revoked", "expired", "expired", "destination"),
        ("vpn_registration", "revoked", "registered", "source"),
    ],
)
def test_without_local_either_end_may_be_the_subscriber(
    source_entry: str, destination_entry: str, verdict: str, subject: str
) -> None:
    entries = [
        named(what, address)
        for what, address in ((source_entry, SOURCE), (destination_entry, DESTINATION))
        if what
    ]
    result = judge(OPEN, *entries)
    assert (result.direction, result.verdict, result.subject) == ("unknown", verdict, subject)


# --- against a plain reading -------------------------------------------------------------------------

ORDER = [str(verdict) for verdict in VERDICTS]
GOOD = [
    "registered",
    "licensed_provider",
    "carrier_service",
    "operator_infrastructure",
    "excepted",
    "ip_whitelisted",
]
OF_KIND = dict(zip([str(kind) for kind in (
    Kind.VPN_REGISTRATION, Kind.LICENSED_PROVIDER, Kind.CARRIER_SERVICE, Kind.OPERATOR_INFRASTRUCTURE,
    Kind.EXCEPTION, Kind.IP_WHITELIST,
)], GOOD, strict=True))  # fmt: skip


def inside(address: bytes, prefix: Prefix) -> bool:
    network = ipaddress.ip_network((prefix.address, prefix.length))
    return ipaddress.ip_address(address) in network


def plain_end(
    entries: Sequence[Entry], facts: FlowFacts, end: str, outbound: bool, shared: bool, grace: int
) -> str:
    """The verdict of one end by a scan over all entries, written from the design's words."""
    here, there = facts.source, facts.destination
    port = facts.destination_port
    role = Side.SUBSCRIBER
    if end == "destination":
        here, there, port, role = there, here, None, Side.ENDPOINT
    found = []  # (length, in force: "approved" | "withdrawn" | "", verdict)
    for filed in entries:
        if not inside(here, filed.prefix):
            continue
        length = filed.prefix.length
        changed = filed.status_since_ns <= NOW
        begun = filed.valid_from_ns <= NOW
        ends = [end for end in (filed.valid_until_ns, filed.missing_since_ns) if end is not None]
        over = any(end <= NOW for end in ends)
        fresh = all(end + grace > NOW for end in ends)
        if filed.status is Status.REJECTED and changed:
            continue
        made = filed.kind is Kind.EXCEPTION and filed.status is Status.APPROVED
        if (made or filed.status is Status.SUBMITTED) and not changed:
            continue
        withdrawn = filed.status in (Status.SUSPENDED, Status.REVOKED)
        if over:
            found.append(
                (length, "", "expired_in_grace" if fresh and not (withdrawn and changed) else "expired")
            )
        elif withdrawn and changed:
            found.append((length, "withdrawn", str(filed.status)))
        elif not (withdrawn or (filed.status is Status.APPROVED and changed)) or not begun:
            found.append((length, "", "pending"))
        elif filed.protocols and facts.protocol not in filed.protocols:
            found.append((length, "approved", "protocol_mismatch"))
        elif (outbound and facts.phase != "data_only" and filed.side not in (Side.EITHER, role)) or (
            filed.endpoints
            and not any(
                inside(there, endpoint.prefix) and (port is None or endpoint.port in (None, port))
                for endpoint in filed.endpoints
            )
        ):
            found.append((length, "approved", "endpoint_mismatch"))
        else:
            found.append((length, "approved", OF_KIND[str(filed.kind)]))
    in_force = [length for length, force, _ in found if force]
    top = max(in_force, default=-1)
    at_top = [(force, verdict) for length, force, verdict in found if length == top and top >= 0]
    fitting = [verdict for force, verdict in at_top if force == "approved"]
    longer = [verdict for length, force, verdict in found if length > top and not force]
    if any(verdict in GOOD for verdict in fitting):
        candidates = fitting
    elif fitting:
        candidates = fitting + longer
    elif at_top:
        candidates = [
            verdict for verdict in longer + [verdict for _, verdict in at_top] if verdict != "expired"
        ]
    else:
        candidates = longer
    best = min(candidates, key=ORDER.index, default="unregistered")
    if shared and ORDER.index(best) > ORDER.index("shared_address"):
        return "shared_address"
    return best


def plain(entries: Sequence[Entry], facts: FlowFacts, policy: Policy) -> str:
    ours = [
        bool(policy.local) and any(inside(address, prefix) for prefix in policy.local + policy.shared)
        for address in (facts.source, facts.destination)
    ]
    shared = [
        any(inside(address, prefix) for prefix in policy.shared)
        for address in (facts.source, facts.destination)
    ]
    outbound = ours == [True, False]
    ends = [
        plain_end(entries, facts, end, outbound, shared[index], policy.grace_ns)
        for index, end in enumerate(("source", "destination"))
    ]
    best = min(ends, key=ORDER.index)
    if best in GOOD:
        return best
    if not policy.local or all(ours):
        return best
    return ends[ours.index(True)] if any(ours) else "out_of_scope"


TIMES = st.sampled_from([NOW - 30 * DAY, NOW - 14 * DAY, NOW - DAY, NOW, NOW + DAY])
HOSTS = {
    4: ["198.51.100.7", "198.51.100.8", "198.51.100.200", "203.0.113.10", "203.0.113.20"],
    16: ["2001:db8:1::7", "2001:db8:1::8", "2001:db8:2::1", "2001:db8:ff::1"],
}
LENGTHS = {4: [0, 16, 24, 26, 28, 31, 32], 16: [0, 32, 40, 48, 64, 124, 128]}
PROTOCOLS = st.sets(st.sampled_from(list(Protocol)), max_size=2).map(
    lambda some: tuple(protocol for protocol in Protocol if protocol in some)
)


@st.composite
def networks(draw: st.DrawFn) -> Prefix:
    family = draw(st.sampled_from([4, 16]))
    address = draw(st.sampled_from(HOSTS[family]))
    network = ipaddress.ip_network((address, draw(st.sampled_from(LENGTHS[family]))), strict=False)
    return Prefix(network.network_address.packed, network.prefixlen)


ENTRIES = st.builds(
    Entry,
    entry_id=st.sampled_from(["R-1", "R-2", "R-3"]),
    kind=st.sampled_from(Kind),
    category=st.just(Category.OTHER),
    prefix=networks(),
    side=st.sampled_from(Side),
    endpoints=st.lists(
        st.builds(Endpoint, prefix=networks(), port=st.sampled_from([None, 51_820, 1194])), max_size=1
    ).map(tuple),
    protocols=PROTOCOLS,
    valid_from_ns=TIMES,
    valid_until_ns=st.none() | TIMES,
    status=st.sampled_from(Status),
    status_since_ns=TIMES,
    source=st.just(""),
    missing_since_ns=st.none() | TIMES,
    reason=st.none(),
)


@st.composite
def flows(draw: st.DrawFn) -> FlowFacts:
    hosts = HOSTS[draw(st.sampled_from([4, 16]))]
    return flow(
        draw(st.sampled_from(hosts)),
        draw(st.sampled_from(hosts)),
        protocol=draw(st.sampled_from(["wireguard", "openvpn"])),
        phase=draw(st.sampled_from(["established", "data_only"])),
        destination_port=draw(st.sampled_from([51_820, 1194])),
    )


POLICIES = st.builds(
    Policy,
    sha256=st.just(""),
    rules=st.just(()),
    local=st.sampled_from([(), ("198.51.100.0/24", "2001:db8:1::/48"), ("203.0.113.0/28",)]).map(
        lambda texts: tuple(map(Prefix.parse, texts))
    ),
    shared=st.sampled_from([(), ("198.51.100.192/26", "2001:db8:2::/48")]).map(
        lambda texts: tuple(map(Prefix.parse, texts))
    ),
)


@settings(max_examples=400)
@given(st.lists(ENTRIES, max_size=8), flows(), POLICIES)
def test_verdicts_agree_with_a_plain_scan(entries: list[Entry], facts: FlowFacts, policy: Policy) -> None:
    result = policy.judge(facts, register(*entries), NOW)
    assert result.verdict == plain(entries, facts, policy)
    # Every covering entry of either end is listed, and what the verdict rests on comes first.
    covering = [
        (filed, end)
        for end, address in (("source", facts.source), ("destination", facts.destination))
        for filed in entries
        if inside(address, filed.prefix)
    ]
    assert len(result.entries) == len(covering)
    assert {(id(match.entry), match.end) for match in result.entries} == {
        (id(filed), end) for filed, end in covering
    }
    decisive = [match.decisive for match in result.entries]
    assert decisive == sorted(decisive, reverse=True)
    assert all(match.end == result.subject for match in result.entries if match.decisive)
    assert any(decisive) == (result.verdict not in ("unregistered", "shared_address", "out_of_scope"))


def test_a_shared_network_alone_makes_neither_end_ours() -> None:
    policy = replace(OPEN, shared=(Prefix.parse("203.0.113.0/24"),))
    result = judge(policy, entry(SOURCE), entry(DESTINATION))
    assert (result.direction, result.subject) == ("unknown", "source")


# --- the register's own limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", ["", "expired", "suspended", "revoked", "pending", "in_grace", "mismatch", "exception"]
)
def test_a_stale_register_finds_nothing_wrong(what: str) -> None:
    entries = [named(what)] if what else []
    limit = NOW + DAY + 24 * 3_600 * S
    at_the_limit = judge(OURS, *entries, at_ns=limit)
    past = judge(OURS, *entries, at_ns=limit + 1)
    would_be_flagged = at_the_limit.verdict in ("unregistered", "expired", "suspended", "revoked")
    assert would_be_flagged == (what in ("", "expired", "suspended", "revoked"))
    assert past.verdict == ("indeterminate" if would_be_flagged else at_the_limit.verdict)
    assert past.action == ("observe" if would_be_flagged else at_the_limit.action)
    if would_be_flagged:
        assert f"would be {at_the_limit.verdict}" in past.why
        assert "due for renewal on" in past.why


def test_a_flow_older_than_the_register_is_indeterminate() -> None:
    assert judge(OURS, of=flow(start_ns=PAST)).verdict == "unregistered"
    result = judge(OURS, of=flow(start_ns=PAST - 1))
    assert (result.verdict, result.action) == ("indeterminate", "observe")
    assert "before the register's first record" in result.why
    assert judge(OURS, entry(), of=flow(start_ns=PAST - 1)).verdict == "registered"


@pytest.mark.parametrize("source", [SOURCE, DESTINATION])
def test_without_a_register_nothing_is_evaluated(source: str) -> None:
    flag_all = Rule("flag-all", Action.FLAG, verdicts=frozenset(Verdict))
    policy = replace(OURS, rules=(flag_all,), enforce_from_ns=0)
    destination = DESTINATION if source == SOURCE else SOURCE
    result = policy.judge(flow(source, destination), None, NOW)
    assert (result.verdict, result.action, result.rule) == ("not_evaluated", "observe", "no-register")
    assert result.subject == ("source" if source == SOURCE else "destination")
    assert (result.register_serial, result.entries) == (None, ())


# --- rules -------------------------------------------------------------------------------------------

FLAG = Rule("flag-it", Action.FLAG, verdicts=frozenset({Verdict.UNREGISTERED}))
ENFORCED = replace(OURS, enforce_from_ns=NOW - DAY)


def test_without_a_rule_good_entries_pass_and_all_else_is_observed() -> None:
    for what in ("vpn_registration", "ip_whitelist"):
        result = judge(ENFORCED, named(what))
        assert (result.action, result.rule) == ("pass", "default")
    for what in ("pending", "in_grace", "mismatch", "expired", "suspended", "revoked", "rejected"):
        result = judge(ENFORCED, named(what))
        assert (result.action, result.rule) == ("observe", "default")


def test_the_first_rule_that_matches_decides() -> None:
    rules = (
        Rule("first", Action.OBSERVE, protocols=frozenset({Protocol.OPENVPN})),
        FLAG,
        Rule("rest", Action.PASS),
    )
    policy = replace(ENFORCED, rules=rules)
    assert judge(policy, of=flow(protocol="openvpn")).rule == "first"
    flagged = judge(policy)
    assert (flagged.rule, flagged.action, flagged.register_serial) == ("flag-it", "flag", 3)
    rest = judge(policy, named("pending"))
    assert (rest.rule, rest.action) == ("rest", "pass")


@pytest.mark.parametrize(
    ("enforce_from", "action"), [(None, "observe"), (NOW + 1, "observe"), (NOW, "flag"), (NOW - DAY, "flag")]
)
def test_a_trial_flags_nothing(enforce_from: int | None, action: str) -> None:
    result = judge(replace(OURS, rules=(FLAG,), enforce_from_ns=enforce_from))
    assert (result.verdict, result.rule, result.action) == ("unregistered", "flag-it", action)
    assert ("a trial" in result.why) == (action == "observe")


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        ({"confidences": frozenset({"confirmed"})}, {}, {"confidence": "likely"}),
        ({"phases": frozenset({"established", "data_only"})}, {}, {"phase": "handshake"}),
        ({"directions": frozenset({"outbound"})}, {}, {"destination": packed(A)}),
        ({"protocols": frozenset({"wireguard"})}, {}, {"protocol": "ipsec"}),
        ({"prefixes": (Prefix.parse("203.0.113.0/24"),)}, {}, {"destination": packed("192.0.2.1")}),
        ({"prefixes": (Prefix.parse("198.51.100.0/24"),)}, {}, {"source": packed("192.0.2.1")}),
        ({"min_packets": 10}, {"packets_to_client": 0}, {"packets_to_server": 9, "packets_to_client": 0}),
        ({"min_subject_packets": 2}, {"packets_to_server": 2}, {"packets_to_server": 1}),
        ({"min_duration_ns": 10 * S}, {}, {"start_ns": NOW - 10 * S + 1}),
    ],
)  # fmt: skip
def test_conditions_of_a_rule(
    condition: dict[str, object], yes: dict[str, object], no: dict[str, object]
) -> None:
    policy = replace(ENFORCED, rules=(Rule("here", Action.OBSERVE, **condition),))  # type: ignore[arg-type]
    assert judge(policy, of=replace(flow(), **yes)).rule == "here"  # type: ignore[arg-type]
    assert judge(policy, of=replace(flow(), **no)).rule == "default"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("from_ns", "until_ns", "holds"),
    [
        (NOW, None, True),
        (NOW + 1, None, False),
        (None, NOW + 1, True),
        (None, NOW, False),
        (NOW, NOW + 1, True),
    ],
)
def test_dates_of_a_rule(from_ns: int | None, until_ns: int | None, holds: bool) -> None:
    policy = replace(ENFORCED, rules=(Rule("here", Action.OBSERVE, from_ns=from_ns, until_ns=until_ns),))
    assert (judge(policy).rule == "here") == holds


def test_kind_and_category_are_those_of_the_entries_behind_the_verdict() -> None:
    by_kind = replace(
        ENFORCED, rules=(Rule("here", Action.OBSERVE, kinds=frozenset({Kind.LICENSED_PROVIDER})),)
    )
    by_category = replace(
        ENFORCED, rules=(Rule("here", Action.OBSERVE, categories=frozenset({Category.BANK})),)
    )
    expired = named("expired")
    covering = entry("198.51.100.0/24", kind=Kind.LICENSED_PROVIDER, category=Category.VPN_PROVIDER)
    for policy, entries, rule in (
        (by_kind, [covering], "here"),
        (by_kind, [covering, expired], "here"),
        (by_kind, [expired], "default"),
        (by_category, [expired], "here"),
        (by_category, [covering, expired], "default"),
        (by_category, [], "default"),
    ):
        assert judge(policy, *entries).rule == rule


def test_out_of_scope_rests_on_no_entry() -> None:
    rules = (Rule("here", Action.OBSERVE, kinds=frozenset({Kind.VPN_REGISTRATION})),)
    policy = replace(ENFORCED, rules=rules)
    transit = flow(FAR, FARTHER)
    assert judge(policy, named("revoked", FAR), of=transit).rule == "default"
    assert judge(policy, named("vpn_registration", FAR), of=transit).rule == "here"


def test_the_subjects_packets_count_by_its_end_and_not_for_a_one_way_sensor() -> None:
    policy = replace(ENFORCED, rules=(replace(FLAG, min_subject_packets=1),))
    unseen = flow(packets_to_server=0, packets_to_client=60)
    assert judge(policy, of=unseen).action == "observe"
    assert judge(replace(policy, one_way=True), of=unseen).action == "flag"
    inbound = flow(DESTINATION, SOURCE, packets_to_server=0, packets_to_client=60)
    assert judge(policy, of=inbound).action == "flag"
    assert judge(policy, of=replace(inbound, packets_to_server=60, packets_to_client=0)).action == "observe"


@pytest.mark.parametrize(
    ("issued", "action"),
    [
        ({"regulator": 1}, "flag"),
        ({"regulator": 0}, "observe"),
        ({"regulator": -1}, "observe"),
        # Every source that is renewed has to have come; the operator's own exceptions are not renewed.
        ({"regulator": 1, "authority": -1}, "observe"),
        ({"regulator": 1, "authority": 2}, "flag"),
        ({"regulator": -1, "operator": 5}, "observe"),
        ({"regulator": 1, "operator": -5}, "flag"),
    ],
)
def test_a_register_has_to_be_issued_after_the_first_sight(issued: dict[str, int], action: str) -> None:
    """Times in seconds from the flow's start."""
    policy = replace(ENFORCED, rules=(FLAG,), unregistered_after=UnregisteredAfter.NEXT_REGISTER)
    facts = flow()
    sources = tuple(
        Source(name, 1, facts.start_ns + after * S, None if name == "operator" else NOW + DAY, "", None)
        for name, after in issued.items()
    )
    known = replace(register(), sources=sources)
    assert policy.judge(facts, known, NOW).action == action
    seen_long_ago = policy.judge(facts, known, NOW, lambda *_case: PAST)
    assert seen_long_ago.action == "flag"


def test_milestones_come_from_the_rules() -> None:
    rules = (
        replace(FLAG, min_packets=10, min_subject_packets=1),
        Rule("b", Action.OBSERVE, min_packets=200, min_duration_ns=90 * S),
        Rule("c", Action.OBSERVE, min_packets=10, min_subject_packets=5, min_duration_ns=S // 2),
    )
    policy = replace(OPEN, rules=rules)
    assert policy.packet_milestones == (5, 10, 200)
    assert policy.duration_milestones_s == (0.5, 90.0)


# --- the file ----------------------------------------------------------------------------------------


def load(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return Policy.load(path)


def test_every_key_is_read(tmp_path: Path) -> None:
    policy = load(
        tmp_path,
        """
time_zone = "Asia/Karachi"
enforce_from = 2026-11-01
grace = "2d"
stale_after = "90m"
pending_term = "5d"
unregistered_after = "next_register"
[sensor]
one_way = true
[networks]
local = ["198.51.100.0/24", "2001:db8::/32"]
shared = "100.64.0.0/10"
[[rule]]
id = "all"
verdict = "unregistered"
confidence = ["likely", "confirmed"]
phase = "established"
direction = "outbound"
protocol = "openvpn"
kind = "vpn_registration"
category = "bank"
prefix = ["203.0.113.0/24"]
min_packets = 3
min_subject_packets = 2
min_duration = "30s"
from = 2026-11-02
until = 2026-11-03
action = "flag"
""",
    )

    def ns(text: str) -> int:
        return int(datetime.fromisoformat(text).timestamp()) * S

    assert policy.enforce_from_ns == ns("2026-10-31T19:00:00Z")
    assert (policy.grace_ns, policy.stale_after_ns, policy.one_way) == (2 * DAY, 5_400 * S, True)
    assert (policy.pending_term_ns, policy.unregistered_after) == (5 * DAY, "next_register")
    assert policy.local == (Prefix.parse("198.51.100.0/24"), Prefix.parse("2001:db8::/32"))
    assert policy.shared == (Prefix.parse("100.64.0.0/10"),)
    assert policy.rules == (
        Rule(
            rule_id="all",
            action=Action.FLAG,
            verdicts=frozenset({Verdict.UNREGISTERED}),
            confidences=frozenset({"likely", "confirmed"}),  # type: ignore[arg-type]
            phases=frozenset({"established"}),  # type: ignore[arg-type]
            directions=frozenset({"outbound"}),  # type: ignore[arg-type]
            protocols=frozenset({Protocol.OPENVPN}),
            kinds=frozenset({Kind.VPN_REGISTRATION}),
            categories=frozenset({Category.BANK}),
            prefixes=(Prefix.parse("203.0.113.0/24"),),
            min_packets=3,
            min_subject_packets=2,
            min_duration_ns=30 * S,
            from_ns=ns("2026-11-01T19:00:00Z"),
            until_ns=ns("2026-11-03T19:00:00Z"),  # the day is included
        ),
    )


def test_an_empty_policy_is_a_trial_with_the_defaults(tmp_path: Path) -> None:
    policy = load(tmp_path, "")
    assert (policy.enforce_from_ns, policy.grace_ns, policy.stale_after_ns) == (None, 14 * DAY, DAY)
    assert (policy.local, policy.shared, policy.rules, policy.one_way) == ((), (), (), False)
    assert (policy.pending_term_ns, policy.unregistered_after) == (3 * DAY, "immediately")


RULE = '[[rule]]\nid = "a"\naction = "observe"\n'


@pytest.mark.parametrize(
    ("text", "line", "key", "found", "expected"),
    [
        ('\nenforce_form = "x"\n', 2, "enforce_form", "an unknown key", "'enforce_from'"),
        ("[network]\nlocal = []\n", 1, "network", "an unknown key", "'networks'"),
        ('[networks]\nlocals = ["198.51.100.0/24"]\n', 2, "networks.locals", "an unknown key", "'local'"),
        (RULE + "min_packet = 3\n", 4, "rule[0].min_packet", "an unknown key", "'min_packets'"),
        (RULE + "zzzzzz = 3\n", 4, "rule[0].zzzzzz", "an unknown key", "one of the keys id, action"),
        (RULE + 'verdict = ["unregisterd"]\n', 4, "rule[0].verdict", "", "'unregistered'"),
        (RULE + "verdict = []\n", 4, "rule[0].verdict", "an array", "at least one of registered"),
        (RULE + "verdict = 3\n", 4, "rule[0].verdict", "3", "one of registered"),
        (RULE + 'min_packets = "3"\n', 4, "rule[0].min_packets", "'3'", "a whole number"),
        (RULE + "min_packets = true\n", 4, "rule[0].min_packets", "true", "a whole number"),
        (RULE + "min_packets = -1\n", 4, "rule[0].min_packets", "-1", "a whole number"),
        (RULE + 'min_duration = "3"\n', 4, "rule[0].min_duration", "'3'", "a duration"),
        (RULE + 'prefix = "203.0.113.1/24"\n', 4, "rule[0].prefix", "", "no host bits"),
        (RULE + "from = 2026-11-01T00:00:00\n", 4, "rule[0].from", "", "a time with its offset"),
        ('[[rule]]\naction = "observe"\n', 1, "rule[0].id", "no such key", "a short name"),
        ('[[rule]]\nid = "a"\n', 1, "rule[0].action", "no such key", "one of pass, observe, flag"),
        ('[[rule]]\nid = "default"\naction = "pass"\n', 2, "rule[0].id", "'default'", "another name"),
        ('[[rule]]\nid = "a"\naction = "block"\n', 3, "rule[0].action", "'block'", "one of pass, observe"),
        ('[rule]\nid = "a"\n', 1, "rule", "a table", "each under its own [[rule]]"),
        ("networks = 3\n", 1, "networks", "3", "a table: [networks]"),
        ('grace = "two weeks"\n', 1, "grace", "'two weeks'", "a duration"),
        ("pending_term = 3\n", 1, "pending_term", "3", "a duration"),
        ('unregistered_after = "next_registr"\n', 1, "unregistered_after", "", "'next_register'"),
        ("unregistered_after = true\n", 1, "unregistered_after", "true", "one of immediately, next_register"),
        ('[networks]\nlocal = ["198.51.100.0/33"]\n', 2, "networks.local", "", "'198.51.100.0/33'"),
        ("[sensor]\none_way = 1\n", 2, "sensor.one_way", "1", "true or false"),
        ("grace = \n", 1, None, "", "valid TOML"),
        ('grace = "1d"\ngrace = "2d"\n', 2, None, "", "valid TOML"),
    ],
)
def test_a_fault_names_file_line_and_key(
    tmp_path: Path, text: str, line: int, key: str | None, found: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    (fault,) = error.value.faults
    assert (fault.file, fault.line, fault.column) == (str(tmp_path / "policy.toml"), line, key)
    assert found in fault.found
    assert expected in fault.expected


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (RULE + "min_packets = 1\n" + RULE, 6, "an id of its own"),
        (RULE + RULE.replace('"a"', '"b"'), 1, "it in the last place"),
        ('[[rule]]\nid = "a"\naction = "flag"\nmin_packets = 3\n', 1, "the verdicts that it flags"),
        (
            '[[rule]]\nid = "a"\naction = "flag"\nverdict = "indeterminate"\n',
            4,
            "only verdicts that say something",
        ),
        (RULE + "from = 2026-11-02\nuntil = 2026-11-01\n", 5, "a later time"),
    ],
)
def test_rules_that_make_no_sense_are_refused(tmp_path: Path, text: str, line: int, expected: str) -> None:
    with pytest.raises(PolicyError) as error:
        load(tmp_path, text)
    (fault,) = error.value.faults
    assert fault.line == line
    assert expected in fault.expected


def test_all_faults_of_a_policy_come_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, 'grace = 3\nstale = "1h"\n' + RULE + 'phase = "estblished"\n')
    assert [fault.line for fault in error.value.faults] == [1, 6, 2]
    assert len(str(error.value).splitlines()) == 3


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: found no such file"):
        Policy.load(tmp_path / "nowhere.toml")


# --- the shipped policy ------------------------------------------------------------------------------


@given(
    st.sampled_from(["", "expired", "suspended", "revoked", "pending", "in_grace", "mismatch", "exception"]),
    st.sampled_from(["possible", "likely", "confirmed"]),
    st.sampled_from(["attempt", "handshake", "established", "data_only"]),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_the_shipped_rules_flag_only_tunnels_that_are_up(
    what: str, confidence: str, phase: str, to_server: int, to_client: int
) -> None:
    policy = replace(Policy.load(RULES / "policy.toml"), enforce_from_ns=0)
    facts = flow(confidence=confidence, phase=phase, packets_to_server=to_server, packets_to_client=to_client)
    # The register was issued after the flow was first seen: nothing is left to wait for.
    known = replace(register(*([named(what)] if what else [])), issued_at_ns=NOW, sources=())
    result = policy.judge(facts, known, NOW)
    flagged = (
        what in ("", "expired", "suspended", "revoked")
        and confidence == "confirmed"
        and phase in ("established", "data_only")
        and to_server + to_client >= 10
        and to_server >= 1
    )
    assert (result.action == "flag") == flagged


def test_the_shipped_policy_enforces_before_the_captures_and_names_every_verdict() -> None:
    policy = Policy.load(RULES / "policy.toml")
    captured = datetime(2026, 11, 22, 4, 27, tzinfo=UTC)
    assert policy.enforce_from_ns is not None
    assert policy.enforce_from_ns < captured.timestamp() * S
    assert policy.unregistered_after == "next_register"
    issued_ns = Register.load(RULES / "register.csv").issued_at_ns
    assert captured.timestamp() * S < issued_ns, "else nothing of the demonstration could be flagged"
    assert policy.packet_milestones == (10,)
    assert policy.rules[-1] == Rule(policy.rules[-1].rule_id, Action.OBSERVE)
    assert len(policy.sha256) == 64


def test_names_of_the_core_are_the_cores() -> None:
    assert tuple(Protocol) == _core.PROTOCOLS
    assert tuple(Confidence) == _core.CONFIDENCES
    assert tuple(Phase) == _core.PHASES


def test_the_words_are_those_of_the_design() -> None:
    assert ACTIONS == ("pass", "observe", "flag")
    assert DIRECTIONS == ("outbound", "inbound", "internal", "transit", "unknown", "scope_local")
    assert ORDER[: len(GOOD)] == GOOD
    assert len(VERDICTS) == 18


def test_a_rule_can_ask_what_the_other_end_would_be() -> None:
    rules = (
        Rule("spared", Action.OBSERVE, other_ends=frozenset({Verdict.EXPIRED_IN_GRACE, Verdict.PENDING})),
        Rule("flag", Action.FLAG, verdicts=frozenset({Verdict.UNREGISTERED})),
    )
    policy = replace(OPEN, local=(Prefix.parse(f"{SOURCE}/32"),), rules=rules, enforce_from_ns=PAST)
    for what, rule in (("in_grace", "spared"), ("pending", "spared"), ("expired", "flag"), ("", "flag")):
        result = judge(policy, *([named(what, DESTINATION)] if what else []))
        assert (result.verdict, result.subject, result.rule) == ("unregistered", "source", rule), what


def test_behind_an_ended_entry_a_new_holder_may_be_on_the_way() -> None:
    flag_all = Rule("flag-it", Action.FLAG, verdicts=frozenset(Verdict))
    policy = replace(ENFORCED, rules=(flag_all,), unregistered_after=UnregisteredAfter.NEXT_REGISTER)
    for what, action in (("expired", "observe"), ("revoked", "flag"), ("suspended", "flag")):
        result = policy.judge(flow(), register(named(what)), NOW)
        assert (result.verdict, result.action) == (what, action)
