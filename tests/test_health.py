"""Where register and traffic drift apart: each finding on entries made for it, and on real events."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from event_files import RULES, pcap_events, save
from test_pipeline import NEW, entry, run

from classifier import cli
from classifier.events import parse_time
from classifier.policy import Policy
from classifier.register import Entry, Prefix, Protocol, Register, Status
from classifier.register.health import DAY_NS, Finding, Health, Sighting, What, page, sighting_of, summary
from classifier.rejudge import facts_of

AT = parse_time("2026-11-22T12:00:00Z")
LOCAL = Policy("p", (), local=(Prefix.parse("192.0.2.0/24"),))


def filed(entry_id: str, prefix: str = "192.0.2.10", **fields: Any) -> Entry:
    return entry(prefix, None)._replace(entry_id=entry_id, **fields)


def seen(source: str, destination: str, protocol: str = "wireguard", at_ns: int = AT) -> Sighting:
    return Sighting(protocol, ip_address(source).packed, ip_address(destination).packed, at_ns, at_ns)


def check(
    entries: list[Entry], sightings: list[Sighting] | None = None, **options: Any
) -> set[tuple[str, str]]:
    health = make(entries, sightings)
    return {(found.what.value, found.entry_id or found.address) for found in health.findings(AT, **options)}


def make(entries: list[Entry], sightings: list[Sighting] | None = None, **options: Any) -> Health:
    register = Register.build(entries, source="s", serial=1, issued_at_ns=AT, next_update_ns=AT + DAY_NS)
    health = Health(register, LOCAL, **options)
    for sighting in sightings or []:
        health.take(sighting)
    return health


def test_what_is_about_to_end() -> None:
    entries = [
        filed("SOON-1", valid_until_ns=AT + 14 * DAY_NS),
        filed("LATER-1", valid_until_ns=AT + 14 * DAY_NS + 1),
        filed("NEVER-1"),
        filed("OVER-1", valid_until_ns=AT),
        filed("PENDING-1", valid_until_ns=AT + DAY_NS, status=Status.PENDING, status_since_ns=AT - 1),
    ]
    assert check(entries) == {("expiring", "SOON-1")}
    assert check(entries, within_ns=15 * DAY_NS) == {("expiring", "SOON-1"), ("expiring", "LATER-1")}


def test_what_is_pending_for_longer_than_the_term() -> None:
    term = LOCAL.pending_term_ns
    entries = [
        filed("OLD-1", status=Status.PENDING, status_since_ns=AT - term - 1),
        filed("OLD-2", status=Status.SUBMITTED, status_since_ns=AT - term - 1),
        filed("NEW-1", status=Status.PENDING, status_since_ns=AT - term),
    ]
    assert check(entries) == {("pending_long", "OLD-1"), ("pending_long", "OLD-2")}


def test_what_has_ended_and_is_still_seen_unless_something_else_is_approved_there() -> None:
    ended = filed("ENDED-1", valid_until_ns=AT - DAY_NS)
    other = filed("NEXT-1")
    sightings = [seen("192.0.2.10", "203.0.113.1")]
    assert check([ended], sightings) == {("expired_seen", "ENDED-1")}
    assert check([ended, other], sightings) == set()
    assert check([ended], [seen("192.0.2.10", "203.0.113.1", at_ns=AT - 2 * DAY_NS)]) == set()


def test_what_is_never_seen_is_told_only_when_something_was_looked_at() -> None:
    entries = [filed("SEEN-1"), filed("UNSEEN-1", "192.0.2.11"), filed("UNSEEN-2", "192.0.2.12")]
    assert check(entries) == set()
    sightings = [seen("192.0.2.10", "203.0.113.1")]
    assert check(entries, sightings) == {("never_seen", "UNSEEN-1"), ("never_seen", "UNSEEN-2")}


def test_a_row_that_is_seen_speaks_for_all_rows_of_its_entry() -> None:
    entries = [filed("TWO-1"), filed("TWO-1", "192.0.2.11")]
    assert check(entries, [seen("203.0.113.1", "192.0.2.11")]) == set()


def test_another_protocol_than_was_filed() -> None:
    wireguard = filed("W-1", protocols=(Protocol.WIREGUARD,))
    openvpn = filed("O-1", "192.0.2.0/24", protocols=(Protocol.OPENVPN,))
    sightings = [seen("192.0.2.10", "203.0.113.1", "openvpn")]
    assert check([wireguard], sightings) == {("other_protocol", "W-1")}
    assert check([wireguard, openvpn], sightings) == set(), "filed beside it"
    assert check([wireguard], [seen("192.0.2.10", "203.0.113.1")]) == set()


def test_an_endpoint_without_an_entry_that_many_subscribers_use() -> None:
    sightings = [seen(f"192.0.2.{number}", "203.0.113.1") for number in range(20, 25)]
    assert check([], sightings) == {("gap", "203.0.113.1")}
    assert check([], sightings[:4]) == set()
    assert check([], sightings[:4] * 3) == set(), "flows are not subscribers"
    assert check([], sightings[:2], subscribers=2) == {("gap", "203.0.113.1")}
    assert check([filed("L-1", "203.0.113.0/24")], sightings) == set()
    # Whoever dialled: the subscriber is the end in our networks.
    turned = [
        sighting._replace(source=s.destination, destination=s.source) for s in sightings for sighting in [s]
    ]
    assert check([], turned) == {("gap", "203.0.113.1")}
    assert check([], [seen(f"198.51.100.{number}", "203.0.113.1") for number in range(9)]) == set()


def test_addresses_of_one_ipv6_line_are_one_subscriber() -> None:
    policy = replace(LOCAL, local=(Prefix.parse("2001:db8::/32"),))
    register = Register.build([], source="s", serial=1, issued_at_ns=AT, next_update_ns=AT + 1)
    health = Health(register, policy)
    for number in range(1, 9):
        health.take(seen(f"2001:db8:1:1::{number}", "2001:db9::1"))
    assert list(health.findings(AT, subscribers=2)) == []
    health.take(seen("2001:db8:1:2::1", "2001:db9::1"))
    (found,) = health.findings(AT, subscribers=2)
    assert (found.what, found.text.split(",")[0]) == (What.GAP, "2 subscribers")


def test_subscribers_beyond_the_limit_are_counted() -> None:
    health = make([], [seen(f"192.0.2.{number}", "203.0.113.1") for number in (1, 2, 3, 3, 1)], pairs=2)
    assert health.not_followed == 2
    (found,) = health.findings(AT, subscribers=2)
    assert found.text.split(",")[:2] == ["2 subscribers", " 5 flows"]


def test_endpoints_beyond_the_limit_are_counted() -> None:
    health = make([], [seen("192.0.2.1", f"203.0.113.{number}") for number in range(5)], endpoints=3)
    assert health.not_followed == 2
    assert len(list(health.findings(AT, subscribers=1))) == 3
    assert "2 flows: more endpoints, or subscribers there, than are told apart" in list(
        page(health, [], 5, LOCAL.time_zone)
    )


def test_what_a_complete_feed_lacks() -> None:
    assert check([filed("GONE-1", missing_since_ns=AT - DAY_NS)]) >= {("missing", "GONE-1")}
    assert check([filed("GONE-1", missing_since_ns=AT + DAY_NS)]) == set()


def test_an_opening_that_nobody_answered_is_no_sighting() -> None:
    for phase in ("attempt", "handshake", "established", "data_only"):
        (event,) = [e for e in run([[replace(NEW, phase=phase)]]) if e["event_type"] == "vpn"]
        assert (sighting_of(facts_of(event)) is None) is (phase == "attempt")


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["register", "health", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_on_all_captures(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "e", pcap_events())
    options = ["--rules", str(RULES), "--at", "2026-11-23"]
    assert command(path, *options) == 0
    out = capfd.readouterr().out
    assert "R-2025-00388: vpn_registration, software_house; last seen 2026-11-22" in out
    assert "203.0.113.194, openvpn:" in out
    assert out.index("finding ") < out.index("R-2025-00388"), "counts come first"
    assert command(path, *options, "--json") == 0
    item = json.loads(capfd.readouterr().out)
    counts = Counter(found["finding"] for found in item["findings"])
    assert counts == Counter(
        {what: sum(c["count"] for c in item["counts"] if c["finding"] == what) for what in counts}
    )
    # Only of an endpoint without an entry is an address told.
    for found in item["findings"]:
        assert ("address" in found) is (found["finding"] == "gap")


def test_the_command_without_events(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("--rules", str(RULES), "--at", "2026-11-23", "--within", "10d") == 0
    out = capfd.readouterr().out
    assert "No flows were given" in out
    assert "X-2026-00010: exception, education; last day 2026-11-30" in out
    assert "never_seen" not in out
    assert command("--rules", str(RULES), "--within", "soon") == 2


def test_counts_by_finding_kind_and_category() -> None:
    entries = [filed(f"S-{number}", valid_until_ns=AT + DAY_NS) for number in range(3)]
    found = list(make(entries).findings(AT))
    assert summary(found) == [("expiring", "vpn_registration", "bank", 3)]
    assert all(isinstance(one, Finding) for one in found)
