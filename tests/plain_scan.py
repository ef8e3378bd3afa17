"""The verdict of a flow by a scan over all entries, written from the design and not from the code.

No trees, no memory of anything: every question is asked of every entry, each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from classifier.policy import FlowFacts, Policy
from classifier.register import Entry, Prefix, Register

GOOD_OF = {
    "vpn_registration": "registered",
    "licensed_provider": "licensed_provider",
    "carrier_service": "carrier_service",
    "operator_infrastructure": "operator_infrastructure",
    "exception": "excepted",
    "ip_whitelist": "ip_whitelisted",
}
TABLE = [
    *GOOD_OF.values(),
    *("pending", "expired_in_grace", "protocol_mismatch", "endpoint_mismatch", "shared_address"),
    *("unregistered", "expired", "suspended", "revoked"),
]
"""The design's table, the best first."""
SCOPE_LOCAL = [
    ip_network(text)
    for text in ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1", "fe80::/10", "ff00::/8")
]


@dataclass(frozen=True)
class Answer:
    """What can be compared."""

    verdict: str
    direction: str
    subject: str
    covering: frozenset[tuple[int, str]]
    """Place in the register and end of every entry that covers one."""
    decisive: frozenset[tuple[int, str]]
    standings: frozenset[tuple[int, str, str]]
    other: str
    """What the end that the verdict is not about amounts to."""


def inside(address: bytes, prefix: Prefix) -> bool:
    network = ip_network((prefix.address, prefix.length))
    here = ip_address(address)
    return here.version == network.version and here in network


def scan(flow: FlowFacts, register: Register, policy: Policy, at_ns: int) -> Answer:
    ours, shared = {}, {}
    for end in ("source", "destination"):
        address = getattr(flow, end)
        shared[end] = any(inside(address, prefix) for prefix in policy.shared)
        ours[end] = shared[end] or any(inside(address, prefix) for prefix in policy.local)
    direction = direction_of(flow, policy, ours["source"], ours["destination"])

    judged: dict[str, tuple[str, set[int]]] = {}
    standings: set[tuple[int, str, str]] = set()
    covering: set[tuple[int, str]] = set()
    for end in ("source", "destination"):
        address = getattr(flow, end)
        found = {
            place: (entry.prefix.length, *stands(entry, end, flow, direction, policy.grace_ns, at_ns))
            for place, entry in enumerate(register.entries)
            if inside(address, entry.prefix)
        }
        covering |= {(place, end) for place in found}
        standings |= {(place, end, standing) for place, (_, standing, _) in found.items()}
        judged[end] = one_end(found, shared[end])

    local_end = "destination" if direction == "inbound" else "source"
    order = ["source", "destination"]
    if ours["destination"] and not ours["source"] and policy.local:
        order.reverse()
    subject = min(order, key=lambda end: TABLE.index(judged[end][0]))
    verdict = judged[subject][0]
    if verdict not in GOOD_OF.values():
        if direction in ("transit", "scope_local"):
            return Answer(
                "out_of_scope",
                direction,
                "source",
                frozenset(covering),
                frozenset(),
                frozenset(standings),
                judged["destination"][0],
            )
        if direction in ("outbound", "inbound"):
            subject, verdict = local_end, judged[local_end][0]
    decisive = frozenset((place, subject) for place in judged[subject][1])
    too_old = register.next_update_ns is not None and at_ns > register.next_update_ns + policy.stale_after_ns
    if verdict in ("unregistered", "expired", "suspended", "revoked") and (
        too_old or flow.start_ns < register.first_record_ns
    ):
        verdict = "indeterminate"
    other = judged["destination" if subject == "source" else "source"][0]
    return Answer(verdict, direction, subject, frozenset(covering), decisive, frozenset(standings), other)


def direction_of(flow: FlowFacts, policy: Policy, source_ours: bool, destination_ours: bool) -> str:
    for address in map(ip_address, (flow.source, flow.destination)):
        if any(address.version == network.version and address in network for network in SCOPE_LOCAL):
            return "scope_local"
    if not policy.local:
        return "unknown"
    return {
        (True, True): "internal",
        (True, False): "outbound",
        (False, True): "inbound",
        (False, False): "transit",
    }[source_ours, destination_ours]


def stands(
    entry: Entry, end: str, flow: FlowFacts, direction: str, grace_ns: int, at_ns: int
) -> tuple[str, str]:
    """How an entry stands, and what it amounts to: "" is nothing."""
    state = str(entry.status)
    if at_ns < entry.status_since_ns:
        state = {
            "submitted": "",
            "pending": "submitted",
            "approved": "pending",
            "rejected": "pending",
            "suspended": "approved",
            "revoked": "approved",
        }[state]
        if str(entry.kind) == "exception" and str(entry.status) == "approved":
            state = ""
    if state == "":
        return "not_filed", ""
    if state == "rejected":
        return "rejected", ""
    ends = {entry.valid_until_ns, entry.missing_since_ns} - {None}
    if any(end_ns <= at_ns for end_ns in ends if end_ns is not None):
        long_ago = any(end_ns + grace_ns <= at_ns for end_ns in ends if end_ns is not None)
        if state in ("suspended", "revoked") or long_ago:
            return "expired", "expired"
        return "in_grace", "expired_in_grace"
    if state in ("suspended", "revoked"):
        return state, state
    if state in ("submitted", "pending"):
        return "pending", "pending"
    if at_ns < entry.valid_from_ns:
        return "not_yet_valid", "pending"
    if entry.protocols and flow.protocol not in map(str, entry.protocols):
        return "protocol_mismatch", "protocol_mismatch"
    known_side = direction == "outbound" and flow.phase != "data_only"
    if known_side and str(entry.side) not in ("either", "subscriber" if end == "source" else "endpoint"):
        return "endpoint_mismatch", "endpoint_mismatch"
    if (
        entry.endpoints
        and not flow.via_proxy
        and not any(meets(flow, end, endpoint) for endpoint in entry.endpoints)
    ):
        return "endpoint_mismatch", "endpoint_mismatch"
    return "approved", GOOD_OF[str(entry.kind)]


def meets(flow: FlowFacts, end: str, endpoint: object) -> bool:
    """The other end is the one filed; its port counts where it answers."""
    prefix, port = endpoint.prefix, endpoint.port  # type: ignore[attr-defined]
    if not inside(flow.destination if end == "source" else flow.source, prefix):
        return False
    if port is None or end == "destination" or flow.destination_port is None:
        return True
    if flow.protocol == "ipsec" and {port, flow.destination_port} <= {500, 4500}:
        return True
    return bool(port == flow.destination_port)


def one_end(found: dict[int, tuple[int, str, str]], shared: bool) -> tuple[str, set[int]]:
    """The verdict of an end from all that covers it, (length, standing, amount) by place; and its grounds."""
    approved_standings = ("approved", "protocol_mismatch", "endpoint_mismatch")
    in_force = [
        length
        for length, standing, _ in found.values()
        if standing in (*approved_standings, "suspended", "revoked")
    ]
    top = max(in_force, default=None)
    at_top = {place: row for place, row in found.items() if row[0] == top}
    longer = {place: row for place, row in found.items() if top is None or row[0] > top}
    approved = {place: row for place, row in at_top.items() if row[1] in approved_standings}
    if any(row[1] == "approved" for row in approved.values()):
        counting = {place: row for place, row in approved.items() if row[1] == "approved"}
    elif approved:
        counting = longer | approved
    else:
        counting = longer | at_top
        if top is not None:  # a suspension or revocation stands in for what has expired
            counting = {place: row for place, row in counting.items() if row[1] != "expired"}
    amounts = [amount for _, _, amount in counting.values() if amount]
    verdict = min(amounts, key=TABLE.index, default="unregistered")
    if shared and TABLE.index(verdict) > TABLE.index("shared_address"):
        verdict = "shared_address"
    return verdict, {place for place, row in counting.items() if row[2] == verdict}


def action(
    flow: FlowFacts, answer: Answer, entries: Sequence[Entry], policy: Policy, issued_ns: int, at_ns: int
) -> tuple[str, str]:
    """Action and rule, for an answer that is known; each condition read on its own."""
    sent = flow.packets_to_server if answer.subject == "source" else flow.packets_to_client
    behind = [entries[place] for place, _ in answer.decisive]
    for rule in policy.rules:
        conditions = [
            not rule.verdicts or answer.verdict in map(str, rule.verdicts),
            not rule.confidences or flow.confidence in map(str, rule.confidences),
            not rule.phases or flow.phase in map(str, rule.phases),
            not rule.directions or answer.direction in map(str, rule.directions),
            not rule.protocols or flow.protocol in map(str, rule.protocols),
            not rule.kinds or bool({entry.kind for entry in behind} & rule.kinds),
            not rule.categories or bool({entry.category for entry in behind} & rule.categories),
            not rule.other_ends or answer.other in map(str, rule.other_ends),
            not rule.prefixes
            or any(
                inside(end, prefix) for end in (flow.source, flow.destination) for prefix in rule.prefixes
            ),
            flow.packets_to_server + flow.packets_to_client >= rule.min_packets,
            policy.one_way or sent >= rule.min_subject_packets,
            flow.end_ns - flow.start_ns >= rule.min_duration_ns,
            rule.from_ns is None or at_ns >= rule.from_ns,
            rule.until_ns is None or at_ns < rule.until_ns,
        ]
        if all(conditions):
            taken = str(rule.action)
            if taken == "flag":
                if policy.enforce_from_ns is None or at_ns < policy.enforce_from_ns:
                    taken = "observe"
                waits = str(policy.unregistered_after) == "next_register" and answer.verdict in (
                    "unregistered",
                    "expired",
                )
                if waits and flow.start_ns >= issued_ns:
                    taken = "observe"
            return taken, rule.rule_id
    return ("pass" if answer.verdict in GOOD_OF.values() else "observe"), "default"
