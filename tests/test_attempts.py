"""Openings that nobody answers: the first are announced, the rest summarised; nothing unbounded."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from classifier._core import Attempts
from classifier.attempts import Summary, attempts_item
from classifier.events import AttemptsItem

WINDOW_NS = 60 * 1_000_000_000


def packed(text: str) -> bytes:
    return ip_address(text).packed


A = packed("192.0.2.1")


def items(summaries: list[Summary]) -> list[tuple[int, AttemptsItem]]:
    return [(summary[0], attempts_item(summary)) for summary in summaries]


def host(number: int) -> bytes:
    return packed("198.51.100.0")[:3] + bytes([number])


def test_the_first_of_a_prefix_are_announced_and_the_rest_summarised() -> None:
    attempts = Attempts(per_prefix=2)
    sources = [packed(f"192.0.2.{last}") for last in range(5)]
    admitted = [attempts.admit(s, host(n), "ipsec", n) for n, s in enumerate(sources)]
    assert admitted == [True, True, False, False, False]
    assert items(attempts.due(WINDOW_NS - 1)) == []
    ((time_ns, item),) = items(attempts.due(WINDOW_NS))
    assert time_ns == WINDOW_NS
    assert item == {
        "source_prefix": "192.0.2.0/24",
        "protocol": "ipsec",
        "count": 3,
        "first": "1970-01-01T00:00:00.000000002Z",
        "last": "1970-01-01T00:00:00.000000004Z",
        "destinations": 3,
        "destinations_capped": False,
    }
    assert attempts.summarised == 3


def test_a_new_window_announces_again() -> None:
    attempts = Attempts(per_prefix=1)
    assert attempts.admit(A, host(1), "ipsec", 0)
    assert not attempts.admit(A, host(1), "ipsec", 1)
    assert len(items(attempts.due(WINDOW_NS))) == 1
    assert attempts.admit(A, host(1), "ipsec", WINDOW_NS)


def test_a_window_in_which_all_were_announced_gives_no_summary() -> None:
    attempts = Attempts()
    assert attempts.admit(A, host(1), "ipsec", 0)
    assert items(attempts.drain(5)) == []


def test_protocols_and_prefixes_are_summarised_apart() -> None:
    attempts = Attempts(per_prefix=0)
    for source in ("192.0.2.1", "2001:db8:1:2::3", "192.0.3.1"):
        attempts.admit(packed(source), host(1), "ipsec", 7)
    attempts.admit(A, host(1), "openvpn", 7)
    found = [(item["source_prefix"], item["protocol"]) for _, item in items(attempts.drain(9))]
    assert found == [
        ("192.0.2.0/24", "ipsec"),
        ("192.0.2.0/24", "openvpn"),
        ("2001:db8:1::/48", "ipsec"),
        ("192.0.3.0/24", "ipsec"),
    ]


def test_the_rate_over_all_prefixes_holds_and_recovers() -> None:
    attempts = Attempts(per_prefix=10, overall=3)
    sources = [packed(f"10.0.{third}.1") for third in range(5)]
    assert [attempts.admit(source, A, "ipsec", 0) for source in sources] == [True] * 3 + [False] * 2
    assert attempts.admit(packed("10.9.9.9"), A, "ipsec", WINDOW_NS)


def test_destinations_are_counted_up_to_a_bound() -> None:
    attempts = Attempts(per_prefix=0, destinations=2)
    for number in (1, 2, 1, 3):
        attempts.admit(A, host(number), "ipsec", 0)
    ((_, item),) = items(attempts.drain(1))
    assert (item["count"], item["destinations"], item["destinations_capped"]) == (4, 2, True)


def test_before_a_summary_is_due_there_is_none() -> None:
    attempts = Attempts(per_prefix=0, prefixes=2)
    assert attempts.due_ns > 1 << 62
    attempts.admit(packed("10.0.0.1"), A, "ipsec", 5)
    attempts.admit(packed("10.0.1.1"), A, "ipsec", 7)
    assert attempts.due_ns == 5 + WINDOW_NS
    assert items(attempts.due(attempts.due_ns - 1)) == []
    assert len(items(attempts.due(attempts.due_ns))) == 1
    attempts.admit(packed("10.0.2.1"), A, "ipsec", 8)
    attempts.admit(packed("10.0.3.1"), A, "ipsec", 9)  # pushes one out, whose summary is due at once
    assert attempts.due_ns < 9


def test_a_prefix_pushed_out_gives_its_summary_early() -> None:
    attempts = Attempts(per_prefix=0, prefixes=2)
    for third in range(3):
        attempts.admit(packed(f"10.0.{third}.1"), A, "ipsec", third)
    assert attempts.evicted == 1
    ((time_ns, item),) = items(attempts.due(3))
    assert (time_ns, item["source_prefix"]) == (2, "10.0.0.0/24")


def test_prefixes_with_few_attempts_are_counted_together() -> None:
    attempts = Attempts(per_prefix=2, overall=1)
    assert attempts.admit(packed("10.0.0.1"), A, "ipsec", 1)
    for number in (1, 2, 2, 3):
        assert not attempts.admit(packed(f"10.0.{number}.1"), host(number), "ipsec", number)
    for _ in range(3):  # more than would be announced of a prefix
        assert not attempts.admit(packed("10.0.9.1"), A, "openvpn", 4)
    assert not attempts.admit(packed("2001:db8::1"), packed("2001:db8::2"), "ipsec", 5)
    found = items(attempts.due(attempts.due_ns))
    assert found == []  # one that was announced
    found = items(attempts.due(WINDOW_NS + 5))
    assert [(time, item["source_prefix"], item["count"]) for time, item in found] == [
        (WINDOW_NS + 4, "10.0.9.0/24", 3)
    ]
    found = items(attempts.due(2 * WINDOW_NS + 1))
    assert [(time, item) for time, item in found] == [
        (
            2 * WINDOW_NS + 1,
            {
                "source_prefix": "0.0.0.0/0",
                "protocol": "ipsec",
                "count": 4,
                "first": "1970-01-01T00:00:00.000000001Z",
                "last": "1970-01-01T00:00:00.000000003Z",
                "destinations": 3,
                "destinations_capped": False,
                "prefixes": 3,
            },
        ),
        (
            2 * WINDOW_NS + 1,
            {
                "source_prefix": "::/0",
                "protocol": "ipsec",
                "count": 1,
                "first": "1970-01-01T00:00:00.000000005Z",
                "last": "1970-01-01T00:00:00.000000005Z",
                "destinations": 1,
                "destinations_capped": False,
                "prefixes": 1,
            },
        ),
    ]
    assert attempts.due_ns > 1 << 62


def test_the_number_of_summaries_is_bounded_and_the_others_are_counted_together() -> None:
    attempts = Attempts(per_prefix=1, overall=0, summaries=2)
    for number in range(5):
        for _ in range(3):
            attempts.admit(packed(f"10.0.{number}.1"), A, "ipsec", number)
    found = {item["source_prefix"]: item["count"] for _, item in items(attempts.drain(9))}
    assert found == {"10.0.0.0/24": 3, "10.0.1.0/24": 3, "0.0.0.0/0": 9}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, WINDOW_NS // 3)), max_size=60))
def test_every_attempt_is_announced_or_in_one_summary(steps: list[tuple[int, int]]) -> None:
    attempts = Attempts(per_prefix=2, overall=5, prefixes=3, summaries=2)
    clock = announced = summarised = 0
    for third, step in steps:
        clock += step
        summarised += sum(item["count"] for _, item in items(attempts.due(clock)))
        announced += attempts.admit(packed(f"10.0.{third}.1"), A, "ipsec", clock)
    summarised += sum(item["count"] for _, item in items(attempts.drain(clock)))
    assert announced + summarised == len(steps)
    assert summarised == attempts.summarised
