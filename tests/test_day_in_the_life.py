"""People who must not be flagged, each in a scene of its own, and beside most of them somebody who must be.

The packets are those of real daemons (`scenes.take`), the rules are the shipped ones. One week: feeds come on
Sundays at noon, each in force until the next one; the scenes play in the days between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from scenes import Frame, OneBlockAPoll, filed, issue, ordinary, take, write

from classifier import _core
from classifier.events import Event, VpnEvent
from classifier.inputs import find
from classifier.pipeline import Replay
from classifier.policy import Policy, UnregisteredAfter
from classifier.register import Category, Endpoint, Entry, Kind, Prefix, Protocol, Register, Side, Status

S = 1_000_000_000
HOUR = 3_600 * S
DAY = 24 * HOUR


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * S


LONG_AGO = at("2026-01-01")
LAST_SUNDAY, SUNDAY, NEXT_SUNDAY = (at(f"2026-03-{day:02}T12:00") for day in (1, 8, 15))
MONDAY, TUESDAY, WEDNESDAY = (at(f"2026-03-{day:02}") for day in (9, 10, 11))
THURSDAY = at("2026-03-12T10:00")

HOME, OFFICE, PHONE, ROUTER = "192.0.2.10", "192.0.2.20", "100.64.9.9", "192.0.2.1"
BANK, SERVER, GATEWAY, SCANNER = "203.0.113.10", "203.0.113.99", "203.0.113.150", "198.51.100.66"
SHIPPED = Policy.load(Path(__file__).parents[1] / "rules" / "policy.toml")
POLICY = replace(
    SHIPPED,
    local=(Prefix.parse("192.0.2.0/24"),),
    shared=(Prefix.parse("100.64.0.0/10"),),
    enforce_from_ns=LONG_AGO,
)
AT_ONCE = replace(POLICY, unregistered_after=UnregisteredAfter.IMMEDIATELY)


def wireguard(here: str, there: str, start_ns: int, **how: Any) -> list[Frame]:
    return take("wg-plain-51820", {"100.64.7.22": here, "203.0.113.10": there}, start_ns, **how)


def openvpn(here: str, there: str, start_ns: int) -> list[Frame]:
    return take("ovpn-udp-plain-1194", {"198.51.100.77": here, "203.0.113.194": there}, start_ns)


def ipsec(here: str, there: str, start_ns: int) -> list[Frame]:
    return take("ikev2-psk-natt", {"100.64.50.5": here, "203.0.113.150": there}, start_ns)


def entry(prefix: str, **fields: object) -> Entry:
    return filed(prefix, LONG_AGO, **fields)


def feed(*entries: Entry, issued_ns: int = SUNDAY, serial: int = 48) -> Register:
    return issue(*entries, serial=serial, issued_ns=issued_ns, next_ns=issued_ns + 7 * DAY)


class Sensor:
    """Sees some packets, judges by a feed, and takes another one when told to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sees(
        self,
        *parts: Iterable[Frame],
        by: Register,
        policy: Policy = POLICY,
        then: Register | None = None,
    ) -> list[VpnEvent]:
        """The events of flows; `then` arrives when the first tunnel has been recognised."""
        capture = write(self._folder / "scene.pcap", *parts)
        engine = cast(_core.Engine, OneBlockAPoll(policy))
        run = Replay(find([str(capture)]), by, policy, engine=engine)
        found: list[VpnEvent] = []
        event: Event
        for event in run.events():
            if event["event_type"] == "vpn":
                found.append(event)
                if then is not None:
                    run.reload(then)
                    then = None
        assert found, "a scene in which nothing is recognised shows nothing"
        return found


@pytest.fixture
def sensor(tmp_path: Path) -> Sensor:
    return Sensor(tmp_path)


def flags(events: Iterable[VpnEvent]) -> set[tuple[str, str]]:
    """The flows that were flagged at any time, with the verdict."""
    return {
        (event["policy"]["subject"], event["policy"]["verdict"])
        for event in events
        if event["policy"]["action"] == "flag"
    }


def verdicts(events: Iterable[VpnEvent]) -> set[str]:
    return {event["policy"]["verdict"] for event in events}


def established(events: Iterable[VpnEvent]) -> bool:
    """A tunnel was up: nothing but register and policy can have kept it from being flagged."""
    return any(
        event["vpn"]["confidence"] == "confirmed"
        and event["vpn"]["phase"] in ("established", "data_only")
        and event["flow"]["pkts_toserver"] >= 10
        for event in events
    )


def test_a_tunnel_that_nobody_registered_is_flagged(sensor: Sensor) -> None:
    """What all of the scenes below are to be compared with."""
    for tunnel, name in (
        (wireguard(HOME, SERVER, THURSDAY), "wireguard"),
        (openvpn(HOME, SERVER, THURSDAY), "openvpn"),
        (ipsec(HOME, SERVER, THURSDAY), "ipsec"),
    ):
        seen = sensor.sees(tunnel, by=feed(), policy=AT_ONCE)
        assert flags(seen) == {(HOME, "unregistered")}
        assert {event["vpn"]["protocol"] for event in seen} == {name}
        # A flag is one for the case: each of its flows is flagged, one of them first.
        assert sum(event["policy"]["first"] for event in seen) == 1


# --- a freelancer approved on Tuesday, in a feed of Sunday ------------------------------------------------


def freelancer(**fields: object) -> Entry:
    return entry(HOME, category=Category.FREELANCER, side=Side.SUBSCRIBER, **fields)


def test_a_freelancer_whom_sundays_feed_has_as_pending(sensor: Sensor) -> None:
    applied = freelancer(status=Status.PENDING, status_since_ns=SUNDAY - DAY, valid_from_ns=MONDAY)
    seen = sensor.sees(wireguard(HOME, SERVER, THURSDAY), by=feed(applied), policy=AT_ONCE)
    assert established(seen)
    assert flags(seen) == set()
    assert verdicts(seen) == {"pending"}


def test_a_freelancer_who_applied_after_sundays_feed(sensor: Sensor) -> None:
    """Approved on Tuesday, in no feed before the next Sunday: the shipped policy waits for that one."""
    approved = freelancer(status_since_ns=TUESDAY, valid_from_ns=TUESDAY)
    tunnel = wireguard(HOME, SERVER, THURSDAY)
    seen = sensor.sees(tunnel, by=feed())
    assert established(seen)
    assert flags(seen) == set()
    assert "only a register issued after that" in seen[-1]["policy"]["why"]
    later = sensor.sees(tunnel, by=feed(approved, issued_ns=NEXT_SUNDAY, serial=49))
    assert verdicts(later) == {"registered"}


def test_who_is_not_in_the_next_feed_either_is_flagged(sensor: Sensor) -> None:
    tunnel = wireguard(HOME, SERVER, NEXT_SUNDAY - 30 * S, stretch=40)
    between = ordinary(NEXT_SUNDAY - 20 * S, NEXT_SUNDAY + 60 * S)
    seen = sensor.sees(tunnel, between, by=feed(), then=feed(issued_ns=NEXT_SUNDAY, serial=49))
    assert flags(seen) == {(HOME, "unregistered")}
    assert seen[0]["policy"]["action"] == "observe"
    assert seen[-1]["policy"]["register_serial"] == 49


# --- an address swapped to a new holder ---------------------------------------------------------------------


def test_the_new_holder_of_a_revoked_address(sensor: Sensor) -> None:
    before = entry(HOME, entry_id="R-1", status=Status.REVOKED, status_since_ns=MONDAY)
    now = entry(HOME, entry_id="R-2", valid_from_ns=WEDNESDAY, status_since_ns=TUESDAY)
    for entries in ((before, now), (now, before)):
        seen = sensor.sees(wireguard(HOME, SERVER, THURSDAY), by=feed(*entries), policy=AT_ONCE)
        assert verdicts(seen) == {"registered"}
        assert {item["entry_id"] for item in seen[-1]["policy"]["entries"][:1]} == {"R-2"}
    alone = sensor.sees(wireguard(HOME, SERVER, THURSDAY), by=feed(before))
    assert flags(alone) == {(HOME, "revoked")}
    # Until he is approved nothing is held against him either.
    waiting = now._replace(status=Status.PENDING)
    assert flags(sensor.sees(wireguard(HOME, SERVER, THURSDAY), by=feed(before, waiting))) == set()


# --- an employee at home, a phone, a customer: the other end is known ---------------------------------------


def test_an_employee_at_home_who_dials_a_registered_bank(sensor: Sensor) -> None:
    bank = entry(BANK, category=Category.BANK, side=Side.ENDPOINT)
    dialled = [
        *wireguard(HOME, BANK, THURSDAY),
        *openvpn(OFFICE, BANK, THURSDAY),
        *ipsec(PHONE, BANK, THURSDAY),
    ]
    seen = sensor.sees(dialled, by=feed(bank), policy=AT_ONCE)
    assert flags(seen) == set()
    assert verdicts(seen) == {"registered"}
    # What the bank filed as its own line is no server that others may dial; nor is its neighbour.
    line = bank._replace(side=Side.SUBSCRIBER)
    assert flags(sensor.sees(wireguard(HOME, BANK, THURSDAY), by=feed(line), policy=AT_ONCE))
    assert flags(sensor.sees(wireguard(HOME, "203.0.113.11", THURSDAY), by=feed(bank), policy=AT_ONCE))


def test_a_phone_on_wifi_calling(sensor: Sensor) -> None:
    gateway = entry(
        GATEWAY,
        kind=Kind.CARRIER_SERVICE,
        category=Category.MOBILE_CARRIER,
        side=Side.ENDPOINT,
        protocols=(Protocol.IPSEC,),
    )
    for phone in (HOME, PHONE):
        seen = sensor.sees(ipsec(phone, GATEWAY, THURSDAY), by=feed(gateway), policy=AT_ONCE)
        assert established(seen)
        assert flags(seen) == set()
        assert verdicts(seen) == {"carrier_service"}
    # A gateway for calls is not one for WireGuard.
    other = sensor.sees(wireguard(HOME, GATEWAY, THURSDAY), by=feed(gateway), policy=AT_ONCE)
    assert flags(other) == {(HOME, "unregistered")}


def test_a_customer_of_a_licensed_provider_on_a_server_added_an_hour_ago(sensor: Sensor) -> None:
    server = filed(
        SERVER,
        THURSDAY,
        kind=Kind.LICENSED_PROVIDER,
        category=Category.VPN_PROVIDER,
        side=Side.ENDPOINT,
    )
    already = wireguard(OFFICE, SERVER, THURSDAY - 60 * S, stretch=2_400)  # runs for almost two hours
    customer = wireguard(HOME, SERVER, THURSDAY + HOUR)
    between = ordinary(THURSDAY - 30 * S, THURSDAY + HOUR - S)
    new = feed(server, issued_ns=THURSDAY, serial=49)
    seen = sensor.sees(already, customer, between, by=feed(), then=new)
    assert flags(seen) == set()
    assert {event["policy"]["verdict"] for event in seen if event["src_ip"] == HOME} == {"licensed_provider"}
    running = [event["policy"] for event in seen if event["src_ip"] == OFFICE]
    assert running[-1]["verdict"] == "licensed_provider"
    without = sensor.sees(customer, by=feed(), policy=AT_ONCE)
    assert flags(without) == {(HOME, "unregistered")}


# --- addresses that several people have --------------------------------------------------------------------


def test_the_neighbour_of_a_registrant_behind_carrier_grade_nat(sensor: Sensor) -> None:
    registrant = entry("100.64.9.8", endpoints=(Endpoint.parse(BANK),))
    neighbour = wireguard("100.64.9.9", SERVER, THURSDAY)
    seen = sensor.sees(neighbour, by=feed(registrant), policy=AT_ONCE)
    assert established(seen)
    assert flags(seen) == set()
    assert verdicts(seen) == {"shared_address"}
    # Both behind one address: what the one filed tells nothing about the other.
    both = sensor.sees(wireguard("100.64.9.8", SERVER, THURSDAY), by=feed(registrant), policy=AT_ONCE)
    assert flags(both) == set()
    # Whoever had the address before: a revocation was about somebody else.
    revoked = registrant._replace(status=Status.REVOKED, status_since_ns=MONDAY)
    assert flags(sensor.sees(wireguard("100.64.9.8", SERVER, THURSDAY), by=feed(revoked))) == set()


def test_a_whitelisted_call_centre_with_openvpn(sensor: Sensor) -> None:
    listed = entry(OFFICE, kind=Kind.IP_WHITELIST, category=Category.CALL_CENTRE, side=Side.SUBSCRIBER)
    seen = sensor.sees(openvpn(OFFICE, SERVER, THURSDAY), by=feed(listed), policy=AT_ONCE)
    assert established(seen)
    assert verdicts(seen) == {"ip_whitelisted"}
    next_door = sensor.sees(openvpn("192.0.2.21", SERVER, THURSDAY), by=feed(listed), policy=AT_ONCE)
    assert flags(next_door) == {("192.0.2.21", "unregistered")}


# --- what is no tunnel of anybody's -------------------------------------------------------------------------


def test_a_router_that_answers_a_scanner(sensor: Sensor) -> None:
    probe = take("ikev2-no-proposal", addresses("ikev2-no-proposal", SCANNER, ROUTER), THURSDAY, stretch=1)
    seen = sensor.sees(probe, by=feed(), policy=AT_ONCE)
    assert {event["vpn"]["phase"] for event in seen} <= {"attempt", "handshake"}
    assert any(event["flow"]["pkts_toclient"] for event in seen)
    assert flags(seen) == set()


def test_one_spoofed_wireguard_packet(sensor: Sensor) -> None:
    opening = wireguard(HOME, SERVER, THURSDAY, first=1)
    seen = sensor.sees(opening, by=feed(), policy=AT_ONCE)
    assert flags(seen) == set()
    assert {event["vpn"]["phase"] for event in seen} == {"attempt"}
    # Nor a stranger who floods a subscriber with what looks like one half of a tunnel.
    half = wireguard(SERVER, HOME, THURSDAY, only_from=SERVER)
    flood = sensor.sees(half, by=feed(), policy=AT_ONCE)
    assert sum(event["flow"]["pkts_toserver"] for event in flood if event["event"] == "ended") > 10
    assert flags(flood) == set()


def test_routing_protocols_under_ah(sensor: Sensor) -> None:
    """OSPF speaks to a group of the link, and its packets are authenticated by AH."""
    hello = take(
        "ah4-tunnel-sha256",
        {"198.51.100.136": ROUTER, "203.0.113.230": "224.0.0.5"},
        THURSDAY,
        only_from=ROUTER,
    )
    seen = sensor.sees(hello, by=feed(), policy=AT_ONCE)
    assert {(event["proto"], event["policy"]["direction"]) for event in seen} == {("AH", "scope_local")}
    assert flags(seen) == set()
    assert verdicts(seen) == {"out_of_scope"}
    # To a host elsewhere the same packets are a tunnel.
    tunnel = take("ah4-tunnel-sha256", {"198.51.100.136": HOME, "203.0.113.230": SERVER}, THURSDAY)
    assert flags(sensor.sees(tunnel, by=feed(), policy=AT_ONCE)) == {(HOME, "unregistered")}


# --- a feed late by an hour ---------------------------------------------------------------------------------


def test_a_feed_late_by_an_hour(sensor: Sensor) -> None:
    """Sunday noon has come, the feed has not: who is registered, who renewed, and who is new all go on."""
    late_ns = NEXT_SUNDAY + HOUR
    held = entry(HOME)
    renewed = entry(OFFICE, valid_until_ns=NEXT_SUNDAY)
    known = feed(held, renewed)
    assert verdicts(sensor.sees(wireguard(HOME, SERVER, late_ns), by=known)) == {"registered"}
    assert verdicts(sensor.sees(wireguard(OFFICE, SERVER, late_ns), by=known)) == {"expired_in_grace"}
    assert flags(sensor.sees(wireguard("192.0.2.30", SERVER, late_ns), by=known)) == set()
    # By an hour a register is not too old to flag by; by a day and an hour it is.
    for late, verdict, flagged in ((HOUR, "unregistered", True), (25 * HOUR, "indeterminate", False)):
        seen = sensor.sees(wireguard("192.0.2.30", SERVER, NEXT_SUNDAY + late), by=feed(), policy=AT_ONCE)
        assert verdicts(seen) == {verdict}
        assert bool(flags(seen)) == flagged


def addresses(case: str, initiator: str, responder: str) -> dict[str, str]:
    """New addresses for the two ends of the only tunnel of a case."""
    from pcap_cases import read_truth

    found = {(truth.found.source, truth.found.destination) for truth in read_truth()[case]}
    ((source, destination),) = found
    return {source: initiator, destination: responder}
