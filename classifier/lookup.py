"""What the register says about one address: every covering entry, and what a VPN flow there would get.

Takes a register, a policy, an address and a time. The verdicts are not worked out here: flows that might
be seen are made up (an established tunnel with many packets, of each protocol) and given to the policy, once
with the address as the subscriber's line that dials out and once as the endpoint that is dialled.

One rule a reader would get wrong: a verdict is about both ends. The other end of a made-up flow is an
address that no entry covers, so that what is said holds for anywhere; ends that an entry has filed, and a
`remote` that was asked for, get lines of their own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any

from classifier.events import rfc3339
from classifier.judgement import Judgement
from classifier.policy import Confidence, FlowFacts, Phase, Policy
from classifier.register import Endpoint, Entry, Prefix, Protocol, Register, Side
from classifier.register.prefixes import address_text
from classifier.register.snapshot import Source
from classifier.standing import standing_at
from classifier.toml_file import NS_PER_S
from classifier.words import day, last_day, moment

__all__ = ["Lookup", "look_up"]

_PORTS = {Protocol.WIREGUARD: 51820, Protocol.OPENVPN: 1194, Protocol.IPSEC: 4500}
_MAX_FILED = 8  # filed remote ends that get lines of their own
_TRIES = 512  # addresses of a network that are tried in search of one without an entry
# Nobody's: reserved for the future (RFC 1112, 4), and discard-only (RFC 6666).
_NOWHERE = {4: b"\xf0\x00\x00\x01", 16: b"\x01" + bytes(14) + b"\x01"}


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow that might be seen, and what it would get."""

    part: str
    """What the address is in it: "subscriber" (it dials) or "endpoint" (it is dialled)."""
    remote: str
    """The other end, in words."""
    protocol: str
    judgement: Judgement
    why: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """The answer for one address at one time."""

    address: bytes
    at_ns: int
    register: Register
    policy: Policy
    networks: tuple[str, ...]
    entries: tuple[tuple[Entry, str], ...]
    """Each covering entry, the most specific prefix first, and how it stands."""
    flows: tuple[Flow, ...]

    def item(self) -> dict[str, Any]:
        """The same for programs."""
        register = self.register
        return {
            "address": address_text(self.address),
            "at": rfc3339(self.at_ns),
            "networks": list(self.networks),
            "register": {
                "source": register.source,
                "serial": register.serial,
                "issued_at": rfc3339(register.issued_at_ns),
                "feeds": [
                    {"source": feed.name, "serial": feed.serial, "issued_at": rfc3339(feed.issued_at_ns)}
                    for feed in _feeds(register)
                ],
            },
            "policy_hash": self.policy.sha256,
            "entries": [_entry_item(entry, standing) for entry, standing in self.entries],
            "flows": [
                {
                    "part": flow.part,
                    "remote": flow.remote,
                    "protocol": flow.protocol,
                    "direction": str(flow.judgement.direction),
                    "verdict": str(flow.judgement.verdict),
                    "action": str(flow.judgement.action),
                    "rule": flow.judgement.rule,
                    "why": flow.why,
                }
                for flow in self.flows
            ],
        }

    def text(self, zone: tzinfo = UTC) -> str:
        """The same for people."""
        register = self.register
        ours = " and ".join(self.networks) or "no network of ours"
        lines = [
            f"{address_text(self.address)} at {moment(self.at_ns, zone)}",
            f"  Register: {register.source}, serial {register.serial}, "
            f"issued {moment(register.issued_at_ns, zone)}",
            *(
                f"    with {feed.name} {feed.serial}, issued {moment(feed.issued_at_ns, zone)}"
                for feed in _feeds(register)
            ),
            f"  Networks of the policy that hold it: {ours}",
            "",
            _covering(len(self.entries)),
        ]
        for entry, standing in self.entries:
            lines += _entry_lines(entry, standing, self.at_ns, self.policy.grace_ns, zone)
        lines += ["", "What a flow there would get (established, confirmed, with packets enough)"]
        lines += _flow_lines(self.flows)
        return "\n".join(lines) + "\n"


def look_up(
    address: bytes, register: Register, policy: Policy, at_ns: int, remote: Endpoint | None = None
) -> Lookup:
    """Ask register and policy about an address at a time; `remote` is one other end to ask for as well."""
    networks = tuple(
        name
        for name, prefixes in (("local", policy.local), ("shared", policy.shared))
        if any(prefix.holds(address) for prefix in prefixes)
    )
    entries = register.covering(address)
    return Lookup(
        address,
        at_ns,
        register,
        policy,
        networks,
        tuple((entry, str(standing_at(entry, at_ns, policy.grace_ns))) for entry in entries),
        tuple(_flows(address, register, policy, at_ns, remote, bool(networks))),
    )


def _flows(
    address: bytes, register: Register, policy: Policy, at_ns: int, remote: Endpoint | None, is_ours: bool
) -> Iterator[Flow]:
    nowhere = _NOWHERE[len(address)]
    for part, other_side in (("subscriber", Side.ENDPOINT), ("endpoint", Side.SUBSCRIBER)):
        others: list[tuple[str, bytes, int | None]] = [("anywhere", nowhere, None)]
        filed = dict.fromkeys(
            end
            for entry in register.covering(address)
            if entry.side is not other_side
            for end in entry.endpoints
        )
        ends = [(end, "as filed") for end in list(filed)[:_MAX_FILED]]
        if remote is not None:
            ends.append((remote, "as asked"))
        for end, how in ends:
            if len(end.prefix.address) == len(address):
                # The port of who dials is arbitrary.
                shown = end if part == "subscriber" else Endpoint(end.prefix, None)
                others.append((f"{shown}, {how}", end.prefix.address, end.port))
        for name, other, port in others:
            said = name
            if other == nowhere and part == "endpoint" and not is_ours:
                other = _without_entry(policy.local, register, len(address)) or nowhere
                said = "a subscriber of ours without an entry" if other != nowhere else name
            for protocol in Protocol:
                judgement, why = _judge(
                    *((address, other) if part == "subscriber" else (other, address)),
                    protocol,
                    port if part == "subscriber" else None,
                    register,
                    policy,
                    at_ns,
                )
                if name == "anywhere":
                    place = "any other end" if other == nowhere else "that subscriber"
                    why = why.replace(f"for {address_text(other)} at the other end", "for any other end")
                    why = why.replace(address_text(other), place)
                yield Flow(part, said, str(protocol), judgement, why)


def _judge(
    source: bytes,
    destination: bytes,
    protocol: Protocol,
    port: int | None,
    register: Register,
    policy: Policy,
    at_ns: int,
) -> tuple[Judgement, str]:
    longest_ns = max((rule.min_duration_ns for rule in policy.rules), default=0)
    facts = FlowFacts(
        protocol=str(protocol),
        variant=str(protocol),
        confidence=str(Confidence.CONFIRMED),
        phase=str(Phase.ESTABLISHED),
        transport="UDP",
        source=source,
        destination=destination,
        source_port=port or _PORTS[protocol],
        destination_port=port or _PORTS[protocol],
        packets_to_server=1 << 31,
        packets_to_client=1 << 31,
        start_ns=at_ns - max(longest_ns, 60 * NS_PER_S),
        end_ns=at_ns,
    )
    judgement = policy.judge(facts, register, at_ns)
    return judgement, judgement.why


def _without_entry(prefixes: tuple[Prefix, ...], register: Register, size: int) -> bytes | None:
    """An address in one of our networks that no entry covers."""
    for prefix in prefixes:
        if len(prefix.address) != size:
            continue
        first = int.from_bytes(prefix.address, "big")
        for place in range(min(_TRIES, 1 << (size * 8 - prefix.length))):
            address = (first + place).to_bytes(size, "big")
            if not register.covering(address):
                return address
    return None


def _feeds(register: Register) -> list[Source]:
    """What a store was filled with, whose serials are not its own; nothing where there is but one."""
    feeds = [source for source in register.sources if source.next_update_ns is not None]
    alone = len(feeds) == 1 and (feeds[0].name, feeds[0].serial) == (register.source, register.serial)
    return [] if alone else feeds


def _covering(count: int) -> str:
    if count == 0:
        return "No entry covers it"
    return (
        "1 entry covers it" if count == 1 else f"{count:,} entries cover it, the most specific prefix first"
    )


def _entry_item(entry: Entry, standing: str) -> dict[str, Any]:
    return {
        "entry_id": entry.entry_id,
        "source": entry.source,
        "kind": entry.kind.value,
        "category": entry.category.value,
        "prefix": str(entry.prefix),
        "side": entry.side.value,
        "endpoints": [str(endpoint) for endpoint in entry.endpoints],
        "protocols": [protocol.value for protocol in entry.protocols],
        "valid_from": rfc3339(entry.valid_from_ns),
        "valid_until": None if entry.valid_until_ns is None else rfc3339(entry.valid_until_ns),
        "status": entry.status.value,
        "status_since": rfc3339(entry.status_since_ns),
        "missing_since": None if entry.missing_since_ns is None else rfc3339(entry.missing_since_ns),
        "reason": None if entry.reason is None else entry.reason.value,
        "standing": standing,
    }


def _entry_lines(entry: Entry, standing: str, at_ns: int, grace_ns: int, zone: tzinfo) -> list[str]:
    source = f", from {entry.source}" if entry.source else ""
    reason = f", reason {entry.reason}" if entry.reason is not None else ""
    until = "no end" if entry.valid_until_ns is None else f"until {last_day(entry.valid_until_ns, zone)}"
    protocols = ", ".join(entry.protocols) or "any protocol"
    ends = [str(endpoint) for endpoint in entry.endpoints]
    more = f" and {len(ends) - _MAX_FILED} more" if len(ends) > _MAX_FILED else ""
    remote = ", ".join(ends[:_MAX_FILED]) + more if ends else "any remote end"
    side = {"either": "side not filed", "subscriber": "as the subscriber", "endpoint": "as the endpoint"}
    lines = [
        f"  {entry.entry_id}: {entry.kind}, {entry.category}, {entry.prefix}{source}{reason}",
        f"    stands as {standing.replace('_', ' ')}",
        f"    filed {entry.status} since {day(entry.status_since_ns, zone)}, "
        f"valid from {day(entry.valid_from_ns, zone)}, {until}",
    ]
    lines += textwrap.wrap(
        f"{side[entry.side.value]}; {protocols}; {remote}",
        width=100,
        initial_indent="    ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    if entry.missing_since_ns is not None and at_ns >= entry.missing_since_ns:
        lines.append(
            f"    missing from its feed since {moment(entry.missing_since_ns, zone)}; "
            f"in grace until {moment(entry.missing_since_ns + grace_ns, zone)}"
        )
    if standing == "in_grace" and entry.valid_until_ns is not None and at_ns >= entry.valid_until_ns:
        lines.append(f"    ended; in grace until {moment(entry.valid_until_ns + grace_ns, zone)}")
    return lines


def _flow_lines(flows: tuple[Flow, ...]) -> Iterator[str]:
    """Flows that differ in nothing but the protocol share a line."""
    heading = ""
    groups: dict[tuple[str, str, str], list[str]] = {}
    parts = {
        "subscriber": "As the subscriber's line, dialling",
        "endpoint": "As the endpoint, dialled from",
    }
    for flow in flows:
        said = f"{flow.judgement.verdict}, {flow.judgement.action} (rule {flow.judgement.rule})"
        why = flow.why
        for protocol in Protocol:  # mismatches name it
            why = why.replace(f"protocols than {protocol}", "protocols")
        groups.setdefault((f"  {parts[flow.part]} {flow.remote}", said, why), []).append(flow.protocol)
    for (where, said, why), protocols in groups.items():
        if where != heading:
            heading = where
            yield where
        yield from textwrap.wrap(
            f"{', '.join(protocols)}: {said}. {why}",
            width=100,
            initial_indent="    ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )
