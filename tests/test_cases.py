"""First flags and first sight of cases: bounded, the same ids everywhere."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from classifier._core import Cases, FirstSeen
from classifier.cases import case_id, subject_prefix

DAY_NS = 86_400 * 1_000_000_000


def packed(text: str) -> bytes:
    return ip_address(text).packed


A, B = packed("192.0.2.1"), packed("192.0.2.2")


def first(cases: Cases, name: str, time_ns: int) -> bool:
    return cases.first(packed(f"192.0.2.{ord(name)}"), B, "ipsec", time_ns)


def test_first_then_not_until_a_day_has_passed() -> None:
    cases = Cases()
    assert first(cases, "a", 0)
    assert not first(cases, "a", 0)
    assert not first(cases, "a", DAY_NS - 1)
    assert first(cases, "a", DAY_NS)
    assert not first(cases, "a", 2 * DAY_NS - 1)


def test_it_is_bounded_and_counts_what_it_forgets() -> None:
    cases = Cases(limit=2)
    assert [first(cases, name, number) for number, name in enumerate("abc")] == [True, True, True]
    assert cases.evicted == 1
    assert not first(cases, "c", 3)
    assert first(cases, "a", 4)
    assert cases.evicted == 2


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, DAY_NS)), max_size=50))
def test_agrees_with_the_definition(steps: list[tuple[str, int]]) -> None:
    cases = Cases()
    clock = 0
    firsts: list[tuple[str, int]] = []
    for name, step in steps:
        clock += step
        expected = not any(known == name and clock - time < DAY_NS for known, time in firsts)
        assert first(cases, name, clock) == expected
        if expected:
            firsts.append((name, clock))


def test_clear_forgets() -> None:
    cases = Cases()
    first(cases, "a", 0)
    cases.clear()
    assert first(cases, "a", 1)


def test_subject_prefix_is_the_address_or_its_64() -> None:
    assert subject_prefix(packed("192.0.2.1")) == "192.0.2.1"
    assert subject_prefix(packed("2001:db8:1:2:3:4:5:6")) == "2001:db8:1:2::/64"


def test_case_id_is_stable_and_tells_cases_apart() -> None:
    one = case_id(packed("192.0.2.1"), packed("198.51.100.1"), "wireguard")
    # printf 'c0000201|c6336401|wireguard' | b2sum -l 64
    assert one == "bf52ec69f6c7f5f7"
    others = {
        case_id(packed("198.51.100.1"), packed("192.0.2.1"), "wireguard"),
        case_id(packed("192.0.2.1"), packed("198.51.100.1"), "openvpn"),
        case_id(packed("192.0.2.2"), packed("198.51.100.1"), "wireguard"),
        case_id(packed("192.0.2.1"), packed("198.51.100.2"), "wireguard"),
    }
    assert len(others | {one}) == 5


def test_addresses_of_one_64_are_one_subject() -> None:
    remote = packed("2001:db8:ffff::1")
    ids = {case_id(packed(f"2001:db8::{host}"), remote, "ipsec") for host in ("1", "2", "a:b:c:d")}
    assert len(ids) == 1
    assert case_id(packed("2001:db8:0:1::1"), remote, "ipsec") not in ids
    assert case_id(remote, packed("2001:db8::1"), "ipsec") != case_id(remote, packed("2001:db8::2"), "ipsec")


def test_a_case_is_first_seen_when_its_earliest_flow_began() -> None:
    seen = FirstSeen()
    assert [seen.since(A, B, "ipsec", start_ns) for start_ns in (7, 5, 9)] == [7, 5, 5]
    assert seen.since(A, B, "openvpn", 9) == 9
    assert seen.since(B, A, "ipsec", 9) == 9
    assert seen.since(packed("2001:db8:1:2::3"), A, "ipsec", 4) == 4
    assert seen.since(packed("2001:db8:1:2::9"), A, "ipsec", 6) == 4
    assert seen.since(packed("2001:db8:1:3::3"), A, "ipsec", 6) == 6
    seen.clear()
    assert seen.since(A, B, "ipsec", 9) == 9
    assert seen.evicted == 0


def test_the_case_not_met_for_longest_is_forgotten_and_counted() -> None:
    seen = FirstSeen(limit=2)
    for remote, start_ns in ((A, 1), (B, 2), (A, 3), (packed("192.0.2.9"), 4)):
        seen.since(packed("192.0.2.1"), remote, "ipsec", start_ns)
    assert seen.evicted == 1
    assert seen.since(packed("192.0.2.1"), A, "ipsec", 9) == 1
    assert seen.since(packed("192.0.2.1"), B, "ipsec", 9) == 9
