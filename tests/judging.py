"""Entries, registers and flows for tests of what they amount to, each the usual one but for what is given."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from classifier.judgement import Judgement
from classifier.policy import FlowFacts, Policy
from classifier.register import Category, Entry, Kind, Prefix, Protocol, Register, Side, Status

S = 1_000_000_000
DAY = 86_400 * S
NOW = 20_000 * DAY
PAST = NOW - 400 * DAY
SOURCE, DESTINATION = "198.51.100.7", "203.0.113.10"
OPEN = Policy("hash", ())
OURS = replace(OPEN, local=(Prefix.parse("198.51.100.0/24"),))


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def entry(prefix: str = SOURCE, **fields: object) -> Entry:
    """An approved registration in date, but for what is given."""
    filed: dict[str, object] = {
        "entry_id": "R-1",
        "kind": Kind.VPN_REGISTRATION,
        "category": Category.BANK,
        "prefix": Prefix.parse(prefix),
        "side": Side.EITHER,
        "endpoints": (),
        "protocols": (),
        "valid_from_ns": PAST,
        "valid_until_ns": None,
        "status": Status.APPROVED,
        "status_since_ns": PAST,
    }
    return Entry(**(filed | fields))  # type: ignore[arg-type]


def named(what: str, prefix: str = SOURCE) -> Entry:
    """An entry by how it stands now."""
    ended = {
        "in_grace": NOW - 3 * DAY,
        "expired": NOW - 30 * DAY,
    }
    if what in ended:
        return entry(prefix, entry_id=f"R-{what}-1", valid_until_ns=ended[what])
    if what == "later":
        return entry(prefix, entry_id="R-later-1", valid_from_ns=NOW + DAY)
    if what == "mismatch":
        return entry(prefix, entry_id="R-mismatch-1", protocols=(Protocol.IPSEC,))
    if what in set(Kind):
        return entry(prefix, entry_id=f"R-{what}-1", kind=Kind(what))
    return entry(prefix, entry_id=f"R-{what}-1", status=Status(what))


def register(*entries: Entry) -> Register:
    return Register.build(
        entries,
        source="test",
        serial=3,
        issued_at_ns=NOW - DAY,
        next_update_ns=NOW + DAY,
        first_record_ns=PAST,
    )


def flow(source: str = SOURCE, destination: str = DESTINATION, **fields: object) -> FlowFacts:
    facts: dict[str, object] = {
        "protocol": "wireguard",
        "variant": "wireguard",
        "confidence": "confirmed",
        "phase": "established",
        "transport": "UDP",
        "source": packed(source),
        "destination": packed(destination),
        "source_port": 40_000,
        "destination_port": 51_820,
        "packets_to_server": 50,
        "packets_to_client": 50,
        "start_ns": NOW - 10 * S,
        "end_ns": NOW,
    }
    return FlowFacts(**(facts | fields))  # type: ignore[arg-type]


def judge(policy: Policy, *entries: Entry, of: FlowFacts | None = None, at_ns: int = NOW) -> Judgement:
    return policy.judge(of or flow(), register(*entries), at_ns)
