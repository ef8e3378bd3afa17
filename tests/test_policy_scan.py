"""The fast judge against a plain scan, on generated registers, policies and flows at generated times.

One policy answers many questions in a row, so that whatever it remembers between them is put to the test.
"""

import ipaddress

from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_scan import action, scan

from classifier.judgement import Action, Direction
from classifier.policy import Confidence, FlowFacts, Phase, Policy, Rule, UnregisteredAfter
from classifier.register import Category, Endpoint, Entry, Kind, Prefix, Protocol, Register, Side, Status
from classifier.standing import Verdict

DAY = 86_400 * 1_000_000_000
START = 20_000 * DAY
TIMES = st.integers(-40, 40).map(lambda days: START + days * DAY)
MAYBE = st.none() | TIMES
HOSTS = {
    4: [
        *("198.51.100.7", "198.51.100.8", "198.51.100.130", "203.0.113.10", "203.0.113.20"),
        *("100.64.3.4", "127.0.0.1", "169.254.7.7", "224.0.0.5", "192.0.2.1"),
    ],
    16: [
        *("2001:db8:1::7", "2001:db8:1::8", "2001:db8:2::1", "2001:db8:ff::1"),
        *("fe80::1", "ff02::5", "::1", "::2", "fec0::1"),
    ],
}
LENGTHS = {4: [0, 1, 8, 16, 24, 25, 28, 31, 32], 16: [0, 10, 32, 40, 48, 64, 124, 127, 128]}


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    family = draw(st.sampled_from([4, 4, 16]))
    host, length = draw(st.sampled_from(HOSTS[family])), draw(st.sampled_from(LENGTHS[family]))
    network = ipaddress.ip_network((host, length), strict=False)
    return Prefix(network.network_address.packed, network.prefixlen)


def some(names: type[Protocol]) -> st.SearchStrategy[tuple[Protocol, ...]]:
    chosen = st.just(frozenset[Protocol]()) | st.frozensets(st.sampled_from(names), min_size=1)
    return chosen.map(lambda those: tuple(name for name in names if name in those))


ENTRIES = st.builds(
    Entry,
    entry_id=st.sampled_from(["R-1", "R-2", "R-3"]),
    kind=st.sampled_from(Kind),
    category=st.sampled_from([Category.BANK, Category.FREELANCER]),
    prefix=prefixes(),
    side=st.sampled_from(Side),
    endpoints=st.lists(
        st.builds(Endpoint, prefixes(), st.sampled_from([None, 51_820, 500, 4_500])), max_size=2
    ).map(tuple),
    protocols=some(Protocol),
    valid_from_ns=TIMES,
    valid_until_ns=MAYBE,
    status=st.sampled_from([Status.APPROVED, *Status]),
    status_since_ns=TIMES,
    source=st.just(""),
    missing_since_ns=MAYBE,
    reason=st.none(),
)
REGISTERS = st.builds(
    lambda entries, issued_ns, next_ns, first_ns: Register.build(
        entries,
        source="test",
        serial=3,
        issued_at_ns=issued_ns,
        next_update_ns=next_ns,
        first_record_ns=first_ns,
    ),
    st.lists(ENTRIES, max_size=10),
    TIMES,
    TIMES,
    TIMES,
)


def sets(names: type) -> st.SearchStrategy[frozenset[object]]:
    return st.just(frozenset[object]()) | st.frozensets(st.sampled_from(list(names)), min_size=1)  # type: ignore[call-overload]


RULES = st.builds(
    Rule,
    rule_id=st.just("rule"),
    action=st.sampled_from(Action),
    verdicts=sets(Verdict),
    confidences=sets(Confidence),
    phases=sets(Phase),
    directions=sets(Direction),
    protocols=sets(Protocol),
    kinds=sets(Kind),
    categories=sets(Category),
    other_ends=sets(Verdict),
    prefixes=st.lists(prefixes(), max_size=1).map(tuple),
    min_packets=st.sampled_from([0, 10]),
    min_subject_packets=st.sampled_from([0, 1, 10]),
    min_duration_ns=st.sampled_from([0, DAY]),
    from_ns=MAYBE,
    until_ns=MAYBE,
)
FLAG_ALL = Rule("flag-all", Action.FLAG, verdicts=frozenset(Verdict))
POLICIES = st.builds(
    Policy,
    sha256=st.just(""),
    rules=st.lists(RULES, max_size=3).map(lambda rules: (*rules, FLAG_ALL)),
    enforce_from_ns=MAYBE,
    grace_ns=st.sampled_from([0, DAY, 14 * DAY]),
    stale_after_ns=st.sampled_from([0, DAY]),
    one_way=st.booleans(),
    local=st.lists(prefixes(), max_size=3).map(tuple),
    shared=st.lists(prefixes(), max_size=2).map(tuple),
    unregistered_after=st.sampled_from(UnregisteredAfter),
)


@st.composite
def questions(draw: st.DrawFn) -> tuple[FlowFacts, int]:
    hosts = HOSTS[draw(st.sampled_from([4, 4, 16]))]
    port = draw(st.sampled_from([None, 51_820, 500, 4_500]))
    end_ns = draw(TIMES)
    facts = FlowFacts(
        protocol=draw(st.sampled_from([str(name) for name in Protocol])),
        variant="",
        confidence=draw(st.sampled_from([str(name) for name in Confidence])),
        phase=draw(st.sampled_from([str(name) for name in Phase])),
        transport="UDP",
        source=ipaddress.ip_address(draw(st.sampled_from(hosts))).packed,
        destination=ipaddress.ip_address(draw(st.sampled_from(hosts))).packed,
        source_port=None if port is None else 40_000,
        destination_port=port,
        packets_to_server=draw(st.sampled_from([0, 1, 9, 50])),
        packets_to_client=draw(st.sampled_from([0, 1, 9, 50])),
        start_ns=end_ns - draw(st.sampled_from([0, DAY])),
        end_ns=end_ns,
        via_proxy=draw(st.sampled_from([False, False, True])),
    )
    return facts, draw(st.just(end_ns) | TIMES)


@settings(max_examples=400)
@given(REGISTERS, POLICIES, st.lists(questions(), min_size=1, max_size=12))
@example(
    Register.build([], source="", serial=1, issued_at_ns=0, next_update_ns=2 * START, first_record_ns=0),
    Policy("", (FLAG_ALL,), enforce_from_ns=0),
    [],
)
def test_the_judge_agrees_with_a_plain_scan(
    register: Register, policy: Policy, asked: list[tuple[FlowFacts, int]]
) -> None:
    place_of = {id(entry): place for place, entry in enumerate(register.entries)}
    for facts, at_ns in asked * 2:
        judged = policy.judge(facts, register, at_ns)
        expected = scan(facts, register, policy, at_ns)
        assert (judged.verdict, judged.direction, judged.subject) == (
            expected.verdict,
            expected.direction,
            expected.subject,
        )
        found = [(place_of[id(match.entry)], match.end, str(match.standing)) for match in judged.entries]
        assert len(found) == len(set(found)) == len(expected.covering)
        assert set(found) == expected.standings
        decisive = [(place_of[id(match.entry)], match.end) for match in judged.entries if match.decisive]
        assert set(decisive) == expected.decisive
        # The decisive first, then the subject's, then the other end's; each the most specific first.
        groups = [
            (not match.decisive, match.end != judged.subject, -match.entry.prefix.length)
            for match in judged.entries
        ]
        assert groups == sorted(groups)
        taken = action(facts, expected, register.entries, policy, register.issued_at_ns, at_ns)
        assert (judged.action, judged.rule) == taken
        assert judged.why.endswith(".")


@settings(max_examples=100)
@given(REGISTERS, REGISTERS, POLICIES, st.lists(questions(), min_size=1, max_size=8))
def test_what_was_remembered_of_one_register_says_nothing_about_another(
    first: Register, second: Register, policy: Policy, asked: list[tuple[FlowFacts, int]]
) -> None:
    for facts, at_ns in asked:
        for register in (first, second):
            assert (
                policy.judge(facts, register, at_ns).verdict == scan(facts, register, policy, at_ns).verdict
            )
