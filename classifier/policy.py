"""What a flow amounts to: facts about it and the entries of both ends -> verdict, action, rule.

**One end.** Each entry that covers the end's address has a standing at the time of judgement (`standing_at`).
*In force* are entries that are approved and in date, and suspensions and revocations. From the most
specific prefix to the least:

    nothing in force at this prefix     remember what is pending, in grace or expired; go on to the next
    something approved in date          it wins over every other entry of this prefix: good where side,
                                        endpoints and protocols fit, else a mismatch; look no further
    else a suspension or revocation     it stands in for everything that has expired and for all shorter
                                        prefixes, but not for what is pending or in grace; look no further

The end's verdict is the best of what was found, in the order of `Verdict`; `unregistered` when nothing was.
In a `shared` network everything that is worse becomes `shared_address`: whoever an entry was about, the
address may be somebody else's by now.

**Both ends.**

    some end has a good verdict         the better one           subject: that end (local first, then source)
    scope_local, transit                out_of_scope             source
    outbound, inbound                   the local end's          local end
    internal, unknown                   the better one           that end (source first)

**The register's own limits.** `unregistered`, `expired`, `suspended`, `revoked` become `indeterminate` when
the time of judgement is past the register's `next_update` + `stale_after`, or the flow began before the
register's first record. Without a register everything is `not_evaluated` and observed, whatever the rules
say.

**Fit.** Protocols: the flow's is among them. Endpoints: the other end is in one of them; a filed port counts
where that end answers (the destination), ESP and AH have none, and 500 and 4500 are one for IPsec (RFC 3947
moves between them). Side: only in an outbound flow whose opening was seen is it known which end is the
subscriber; there a `subscriber` must be the local end and an `endpoint` the remote one.

One rule a reader would get wrong: a prefix in `local` or `shared` registers nobody; it only says which end
is ours.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from classifier.errors import ConfigError, PolicyError
from classifier.register.entry import Category, Entry, Kind, Protocol, Side, Status
from classifier.register.prefixes import Prefix, PrefixTable, address_text
from classifier.register.snapshot import Register
from classifier.toml_file import NS_PER_S, Table, TomlFile, instant_ns, nearest, zone_of

__all__ = [
    "ACTIONS",
    "DIRECTIONS",
    "VERDICTS",
    "Action",
    "Confidence",
    "Direction",
    "FlowFacts",
    "Judgement",
    "Match",
    "Phase",
    "Policy",
    "Rule",
    "Standing",
    "Verdict",
    "standing_at",
]

T = TypeVar("T")
Named = TypeVar("Named", bound=StrEnum)


class Verdict(StrEnum):
    """What the register says about a flow, the best first. The order decides between two ends."""

    REGISTERED = "registered"
    LICENSED_PROVIDER = "licensed_provider"
    CARRIER_SERVICE = "carrier_service"
    OPERATOR_INFRASTRUCTURE = "operator_infrastructure"
    EXCEPTED = "excepted"
    IP_WHITELISTED = "ip_whitelisted"
    PENDING = "pending"
    EXPIRED_IN_GRACE = "expired_in_grace"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    ENDPOINT_MISMATCH = "endpoint_mismatch"
    SHARED_ADDRESS = "shared_address"
    UNREGISTERED = "unregistered"
    EXPIRED = "expired"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    OUT_OF_SCOPE = "out_of_scope"
    INDETERMINATE = "indeterminate"
    NOT_EVALUATED = "not_evaluated"


class Action(StrEnum):
    """What is done about a flow. Nothing is ever blocked."""

    PASS = "pass"
    OBSERVE = "observe"
    FLAG = "flag"


class Direction(StrEnum):
    """Who of the two ends is ours; the initiator is the source."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    INTERNAL = "internal"
    TRANSIT = "transit"
    UNKNOWN = "unknown"
    """No `local` networks are set."""
    SCOPE_LOCAL = "scope_local"
    """Link-local, multicast or loopback."""


class Confidence(StrEnum):
    """How sure the core is of the protocol."""

    POSSIBLE = "possible"
    LIKELY = "likely"
    CONFIRMED = "confirmed"


class Phase(StrEnum):
    """How far the tunnel has come."""

    ATTEMPT = "attempt"
    HANDSHAKE = "handshake"
    ESTABLISHED = "established"
    DATA_ONLY = "data_only"


class Standing(StrEnum):
    """How one covering entry was judged."""

    APPROVED = "approved"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    """Approved and in date, but not for this protocol."""
    ENDPOINT_MISMATCH = "endpoint_mismatch"
    """Approved and in date, but not for this other end, or not on this side."""
    PENDING = "pending"
    NOT_YET_VALID = "not_yet_valid"
    """Approved, with a start that is still to come."""
    IN_GRACE = "in_grace"
    EXPIRED = "expired"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    REJECTED = "rejected"
    NOT_FILED = "not_filed"
    """Was submitted only later."""


VERDICTS: Final = tuple(Verdict)
ACTIONS: Final = tuple(Action)
DIRECTIONS: Final = tuple(Direction)

FLAGGED: Final = frozenset({Verdict.UNREGISTERED, Verdict.EXPIRED, Verdict.SUSPENDED, Verdict.REVOKED})
RANK: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}
GOOD: Final = {
    Kind.VPN_REGISTRATION: Verdict.REGISTERED,
    Kind.LICENSED_PROVIDER: Verdict.LICENSED_PROVIDER,
    Kind.CARRIER_SERVICE: Verdict.CARRIER_SERVICE,
    Kind.OPERATOR_INFRASTRUCTURE: Verdict.OPERATOR_INFRASTRUCTURE,
    Kind.EXCEPTION: Verdict.EXCEPTED,
    Kind.IP_WHITELIST: Verdict.IP_WHITELISTED,
}
WORST_GOOD: Final = RANK[Verdict.IP_WHITELISTED]
AMOUNTS_TO: Final = {
    Standing.PROTOCOL_MISMATCH: Verdict.PROTOCOL_MISMATCH,
    Standing.ENDPOINT_MISMATCH: Verdict.ENDPOINT_MISMATCH,
    Standing.PENDING: Verdict.PENDING,
    Standing.NOT_YET_VALID: Verdict.PENDING,
    Standing.IN_GRACE: Verdict.EXPIRED_IN_GRACE,
    Standing.EXPIRED: Verdict.EXPIRED,
    Standing.SUSPENDED: Verdict.SUSPENDED,
    Standing.REVOKED: Verdict.REVOKED,
    Standing.REJECTED: Verdict.UNREGISTERED,  # it is no entry
    Standing.NOT_FILED: Verdict.UNREGISTERED,
}
APPROVED_IN_DATE: Final = frozenset(
    {Standing.APPROVED, Standing.PROTOCOL_MISMATCH, Standing.ENDPOINT_MISMATCH}
)
WITHDRAWN: Final = frozenset({Standing.SUSPENDED, Standing.REVOKED})
NO_ENTRY: Final = frozenset({Standing.REJECTED, Standing.NOT_FILED})
# What an entry was before it came into its present state; None: it was not in the register.
BEFORE: Final = {
    Status.SUBMITTED: None,
    Status.PENDING: Status.SUBMITTED,
    Status.APPROVED: Status.PENDING,
    Status.REJECTED: Status.PENDING,
    Status.SUSPENDED: Status.APPROVED,
    Status.REVOKED: Status.APPROVED,
}
GRACE_NS: Final = 14 * 86_400 * NS_PER_S
STALE_AFTER_NS: Final = 24 * 3_600 * NS_PER_S
IKE_PORTS: Final = (500, 4500)
NO_REGISTER_RULE: Final = "no-register"
DEFAULT_RULE: Final = "default"


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """What the policy needs to know about a flow; names and values are those of `FlowBatch`."""

    protocol: str
    variant: str
    confidence: str
    phase: str
    transport: str
    source: bytes
    destination: bytes
    source_port: int | None
    destination_port: int | None
    packets_to_server: int
    packets_to_client: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Match:
    """One entry that covers an end, and how it was judged."""

    entry: Entry
    end: str
    """ "source" or "destination"."""
    standing: str
    """One of `Standing`."""
    decisive: bool = False
    """The verdict rests on it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The policy's answer for one flow at one time."""

    verdict: str
    """One of `VERDICTS`."""
    action: str
    """One of `ACTIONS`."""
    rule: str
    """Id of the rule that gave the action; "default" when none matched, "no-register" without a register."""
    direction: str
    """One of `DIRECTIONS`."""
    subject: str
    """The end that the verdict is about: "source" or "destination"."""
    entries: tuple[Match, ...]
    """All entries that cover either end: the decisive ones first, then the subject's, most specific first."""
    register_serial: int | None
    policy_hash: str
    why: str
    """One plain sentence for people."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the policy. Conditions that are not set hold for every flow; all that are set must hold."""

    rule_id: str
    action: Action
    verdicts: frozenset[Verdict] = frozenset()
    confidences: frozenset[Confidence] = frozenset()
    phases: frozenset[Phase] = frozenset()
    directions: frozenset[Direction] = frozenset()
    protocols: frozenset[Protocol] = frozenset()
    kinds: frozenset[Kind] = frozenset()
    """Kind of an entry that the verdict rests on."""
    categories: frozenset[Category] = frozenset()
    prefixes: tuple[Prefix, ...] = ()
    """Either end lies in one of them."""
    min_packets: int = 0
    """In both directions together."""
    min_subject_packets: int = 0
    min_duration_ns: int = 0
    from_ns: int | None = None
    until_ns: int | None = None

    def holds(
        self,
        flow: FlowFacts,
        verdict: Verdict,
        direction: Direction,
        subject: str,
        decisive: Iterable[Match],
        at_ns: int,
        one_way: bool,
    ) -> bool:
        """Whether every condition is met; a one-way sensor cannot ask for the subject's packets."""
        if (
            (self.verdicts and verdict not in self.verdicts)
            or (self.confidences and flow.confidence not in self.confidences)
            or (self.phases and flow.phase not in self.phases)
            or (self.directions and direction not in self.directions)
            or (self.protocols and flow.protocol not in self.protocols)
            or flow.packets_to_server + flow.packets_to_client < self.min_packets
            or flow.end_ns - flow.start_ns < self.min_duration_ns
            or (self.from_ns is not None and at_ns < self.from_ns)
            or (self.until_ns is not None and at_ns >= self.until_ns)
        ):
            return False
        if self.min_subject_packets and not one_way:
            sent = flow.packets_to_server if subject == "source" else flow.packets_to_client
            if sent < self.min_subject_packets:
                return False
        if self.kinds and not any(match.entry.kind in self.kinds for match in decisive):
            return False
        if self.categories and not any(match.entry.category in self.categories for match in decisive):
            return False
        return not self.prefixes or any(
            prefix.holds(flow.source) or prefix.holds(flow.destination) for prefix in self.prefixes
        )


@dataclass(frozen=True, slots=True)
class _End:
    """One end, judged."""

    name: str
    address: bytes
    is_ours: bool
    verdict: Verdict
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Ordered rules, and the settings that judging needs. Immutable; `judge` keeps nothing."""

    sha256: str
    rules: tuple[Rule, ...]
    enforce_from_ns: int | None = None
    """Before it, and without it, nothing is flagged: a trial."""
    grace_ns: int = GRACE_NS
    stale_after_ns: int = STALE_AFTER_NS
    one_way: bool = False
    """The sensor sees one direction of the traffic only."""
    local: tuple[Prefix, ...] = ()
    shared: tuple[Prefix, ...] = ()
    packet_milestones: tuple[int, ...] = field(init=False)
    """Packet counts at which a flow's outcome can change."""
    duration_milestones_s: tuple[float, ...] = field(init=False)
    """Durations at which it can."""
    _ours: PrefixTable[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = {count for rule in self.rules for count in (rule.min_packets, rule.min_subject_packets)}
        durations = {rule.min_duration_ns for rule in self.rules if rule.min_duration_ns}
        networks = [(prefix, "local") for prefix in self.local] + [
            (prefix, "shared") for prefix in self.shared
        ]
        # A frozen dataclass sets what it derives this way.
        object.__setattr__(self, "packet_milestones", tuple(sorted(count for count in counts if count > 1)))
        object.__setattr__(self, "duration_milestones_s", tuple(ns / NS_PER_S for ns in sorted(durations)))
        object.__setattr__(self, "_ours", PrefixTable(networks))

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read policy.toml (rules/README.md explains its keys); ConfigError, PolicyError list every fault."""
        file = TomlFile(Path(path))
        table = file.root
        zone = table.get("time_zone", zone_of, UTC)
        enforce_from_ns = table.get("enforce_from", lambda value: instant_ns(value, zone), None)
        grace_ns = table.get("grace", _duration_ns, GRACE_NS)
        stale_after_ns = table.get("stale_after", _duration_ns, STALE_AFTER_NS)
        sensor = table.table("sensor")
        one_way = sensor.get("one_way", _boolean, False)
        sensor.finish()
        networks = table.table("networks")
        local = networks.get("local", _prefixes, ())
        shared = networks.get("shared", _prefixes, ())
        networks.finish()
        rule_tables = table.tables("rule")
        rules = tuple(_read_rule(rule_table, zone) for rule_table in rule_tables)
        table.finish()
        if file.faults:
            raise ConfigError(file.faults)
        _check_rules(rule_tables, rules)
        if file.faults:
            raise PolicyError(file.faults)
        return cls(
            sha256=file.sha256,
            rules=rules,
            enforce_from_ns=enforce_from_ns,
            grace_ns=grace_ns,
            stale_after_ns=stale_after_ns,
            one_way=one_way,
            local=local,
            shared=shared,
        )

    def judge(self, flow: FlowFacts, register: Register | None, at_ns: int) -> Judgement:
        """Verdict, action and reason for a flow, with dates judged by `at_ns`."""
        source_networks = self._ours.covering(flow.source)
        destination_networks = self._ours.covering(flow.destination)
        direction = self._direction(flow, bool(source_networks), bool(destination_networks))
        if register is None:
            subject = "destination" if direction is Direction.INBOUND else "source"
            return Judgement(
                Verdict.NOT_EVALUATED,
                Action.OBSERVE,
                NO_REGISTER_RULE,
                direction,
                subject,
                (),
                None,
                self.sha256,
                "No register was given, so nothing was looked up.",
            )
        source = self._judge_end("source", source_networks, flow, register, direction, at_ns)
        destination = self._judge_end("destination", destination_networks, flow, register, direction, at_ns)
        subject_end, verdict = _of_both(source, destination, direction)
        other_end = destination if subject_end is source else source
        looked_up = verdict
        if verdict in FLAGGED and (
            at_ns > register.next_update_ns + self.stale_after_ns or flow.start_ns < register.first_record_ns
        ):
            verdict = Verdict.INDETERMINATE
        matches = _cleared(other_end.matches)
        if looked_up is Verdict.OUT_OF_SCOPE:
            matches = _cleared(subject_end.matches) + matches
        else:
            matches = subject_end.matches + matches
        decisive = tuple(match for match in matches if match.decisive)
        if decisive:
            matches = decisive + tuple(match for match in matches if not match.decisive)
        rule_id, action = DEFAULT_RULE, Action.PASS if RANK[verdict] <= WORST_GOOD else Action.OBSERVE
        for rule in self.rules:
            if rule.holds(flow, verdict, direction, subject_end.name, decisive, at_ns, self.one_way):
                rule_id, action = rule.rule_id, rule.action
                break
        trial = action is Action.FLAG and (self.enforce_from_ns is None or at_ns < self.enforce_from_ns)
        why = self._why(flow, register, verdict, looked_up, direction, subject_end, other_end, matches)
        if trial:
            until = (
                "sets no enforce_from"
                if self.enforce_from_ns is None
                else (f"flags nothing before {_time_text(self.enforce_from_ns)}")
            )
            why += f" Rule {rule_id} would flag it, but the policy {until}: a trial."
        return Judgement(
            verdict,
            Action.OBSERVE if trial else action,
            rule_id,
            direction,
            subject_end.name,
            matches,
            register.serial,
            self.sha256,
            why,
        )

    def _direction(self, flow: FlowFacts, source_is_ours: bool, destination_is_ours: bool) -> Direction:
        if _is_scope_local(flow.source) or _is_scope_local(flow.destination):
            return Direction.SCOPE_LOCAL
        if not self.local:
            return Direction.UNKNOWN
        if source_is_ours:
            return Direction.INTERNAL if destination_is_ours else Direction.OUTBOUND
        return Direction.INBOUND if destination_is_ours else Direction.TRANSIT

    def _judge_end(
        self,
        name: str,
        networks: tuple[str, ...],
        flow: FlowFacts,
        register: Register,
        direction: Direction,
        at_ns: int,
    ) -> _End:
        address = flow.source if name == "source" else flow.destination
        is_ours = bool(networks) and bool(self.local)
        is_shared = "shared" in networks
        entries = register.covering(address)
        if not entries:
            verdict = Verdict.SHARED_ADDRESS if is_shared else Verdict.UNREGISTERED
            return _End(name, address, is_ours, verdict, ())
        standings = [standing_at(entry, at_ns, self.grace_ns) for entry in entries]
        for index, standing in enumerate(standings):
            if standing is Standing.APPROVED:
                standings[index] = _fit(entries[index], name, flow, direction)
        amounts = [
            GOOD[entry.kind] if standing is Standing.APPROVED else AMOUNTS_TO[standing]
            for entry, standing in zip(entries, standings, strict=True)
        ]
        counting = _counting(entries, standings)
        verdict = min(
            (amounts[index] for index in counting), key=RANK.__getitem__, default=Verdict.UNREGISTERED
        )
        if is_shared and RANK[verdict] > RANK[Verdict.SHARED_ADDRESS]:
            verdict = Verdict.SHARED_ADDRESS
        matches = tuple(
            Match(
                entry,
                name,
                standings[index],
                index in counting and amounts[index] is verdict,
            )
            for index, entry in enumerate(entries)
        )
        return _End(name, address, is_ours, verdict, matches)

    def _why(
        self,
        flow: FlowFacts,
        register: Register,
        verdict: Verdict,
        looked_up: Verdict,
        direction: Direction,
        subject: _End,
        other: _End,
        matches: tuple[Match, ...],
    ) -> str:
        address = address_text(subject.address)
        peer = address_text(other.address)
        ids = _listed(match.entry.entry_id for match in matches if match.decisive)
        match verdict:
            case Verdict.REGISTERED:
                text = f"{address} is registered ({ids})"
            case Verdict.LICENSED_PROVIDER:
                text = f"{address} belongs to a licensed provider ({ids})"
            case Verdict.CARRIER_SERVICE:
                text = f"{address} is a gateway of a carrier ({ids})"
            case Verdict.OPERATOR_INFRASTRUCTURE:
                text = f"{address} is infrastructure of the operator ({ids})"
            case Verdict.EXCEPTED:
                text = f"The operator made an exception for {address} ({ids})"
            case Verdict.IP_WHITELISTED:
                text = f"{address} is whitelisted ({ids})"
            case Verdict.PENDING:
                text = f"A registration of {address} is pending or starts later ({ids})"
            case Verdict.EXPIRED_IN_GRACE:
                text = f"The registration of {address} has ended and is still in grace ({ids})"
            case Verdict.PROTOCOL_MISMATCH:
                text = f"{address} is registered, but for other protocols than {flow.protocol} ({ids})"
            case Verdict.ENDPOINT_MISMATCH:
                text = f"{address} is registered, but not for {peer} at the other end ({ids})"
            case Verdict.SHARED_ADDRESS:
                text = f"No registration matched {address}, which many subscribers share"
            case Verdict.UNREGISTERED:
                either = direction in (Direction.UNKNOWN, Direction.INTERNAL)
                text = f"No registration matched {address}" + (f" or {peer}" if either else "")
            case Verdict.EXPIRED:
                text = f"The registration of {address} has ended ({ids}), and no other matched"
            case Verdict.SUSPENDED:
                text = f"The registration of {address} is suspended ({ids}), and no other matched"
            case Verdict.REVOKED:
                text = f"The registration of {address} was revoked ({ids}), and no other matched"
            case Verdict.OUT_OF_SCOPE if direction is Direction.SCOPE_LOCAL:
                text = f"{address} to {peer} stays on its link (link-local, multicast or loopback)"
            case Verdict.OUT_OF_SCOPE:
                text = f"Neither {address} nor {peer} is in a network of ours"
            case _:
                limit = (
                    f"it began before the register's first record, {_time_text(register.first_record_ns)}"
                    if flow.start_ns < register.first_record_ns
                    else f"the register was due for renewal on {_time_text(register.next_update_ns)}"
                )
                text = f"The flow of {address} would be {looked_up}, but {limit}"
        rejected = _listed(match.entry.entry_id for match in matches if match.standing is Standing.REJECTED)
        return text + (f"; an application was rejected ({rejected})." if rejected else ".")


def standing_at(entry: Entry, at_ns: int, grace_ns: int) -> Standing:
    """How an entry stands at a time, whatever the flow.

    Before `status_since` it was what precedes its state: approved before a suspension or revocation,
    pending before an approval or rejection, and not there before it was submitted. A suspension or
    revocation does not outlive the entry's own end: by then the address may be somebody else's.
    """
    status: Status | None = entry.status
    if at_ns < entry.status_since_ns:
        status = BEFORE[entry.status]
    if status is None:
        return Standing.NOT_FILED
    if status is Status.REJECTED:
        return Standing.REJECTED
    withdrawn = status in (Status.SUSPENDED, Status.REVOKED)
    if entry.valid_until_ns is not None and at_ns >= entry.valid_until_ns:
        in_grace = not withdrawn and at_ns < entry.valid_until_ns + grace_ns
        return Standing.IN_GRACE if in_grace else Standing.EXPIRED
    if withdrawn:
        return Standing.SUSPENDED if status is Status.SUSPENDED else Standing.REVOKED
    if status is not Status.APPROVED:
        return Standing.PENDING
    return Standing.APPROVED if at_ns >= entry.valid_from_ns else Standing.NOT_YET_VALID


def _fit(entry: Entry, end: str, flow: FlowFacts, direction: Direction) -> Standing:
    """Whether an approved entry covers this flow."""
    if entry.protocols and flow.protocol not in entry.protocols:
        return Standing.PROTOCOL_MISMATCH
    if direction is Direction.OUTBOUND and flow.phase != Phase.DATA_ONLY:
        wanted = Side.SUBSCRIBER if end == "source" else Side.ENDPOINT
        if entry.side not in (Side.EITHER, wanted):
            return Standing.ENDPOINT_MISMATCH
    if not entry.endpoints:
        return Standing.APPROVED
    peer = flow.destination if end == "source" else flow.source
    port = flow.destination_port if end == "source" else None
    for endpoint in entry.endpoints:
        if endpoint.prefix.holds(peer) and (
            endpoint.port is None
            or port is None
            or port == endpoint.port
            or (flow.protocol == Protocol.IPSEC and port in IKE_PORTS and endpoint.port in IKE_PORTS)
        ):
            return Standing.APPROVED
    return Standing.ENDPOINT_MISMATCH


def _counting(entries: tuple[Entry, ...], standings: list[Standing]) -> list[int]:
    """Which entries the verdict of an end may rest on; the table "One end" at the top."""
    counting: list[int] = []
    start = 0
    while start < len(entries):
        length = entries[start].prefix.length
        stop = start
        while stop < len(entries) and entries[stop].prefix.length == length:
            stop += 1
        here = [index for index in range(start, stop) if standings[index] not in NO_ENTRY]
        approved = [index for index in here if standings[index] in APPROVED_IN_DATE]
        if any(standings[index] is Standing.APPROVED for index in approved):
            return [index for index in approved if standings[index] is Standing.APPROVED]
        if approved:
            return counting + approved
        counting += here
        if any(standings[index] in WITHDRAWN for index in here):
            return [index for index in counting if standings[index] is not Standing.EXPIRED]
        start = stop
    return counting


def _cleared(matches: tuple[Match, ...]) -> tuple[Match, ...]:
    """The matches of an end that the verdict is not about."""
    return tuple(replace(match, decisive=False) if match.decisive else match for match in matches)


def _of_both(source: _End, destination: _End, direction: Direction) -> tuple[_End, Verdict]:
    """The end that the verdict is about, and the verdict; the table "Both ends" at the top."""
    first, second = source, destination
    if destination.is_ours and not source.is_ours:
        first, second = destination, source
    better = first if RANK[first.verdict] <= RANK[second.verdict] else second
    if RANK[better.verdict] <= WORST_GOOD:
        return better, better.verdict
    if direction in (Direction.SCOPE_LOCAL, Direction.TRANSIT):
        return source, Verdict.OUT_OF_SCOPE
    if direction in (Direction.OUTBOUND, Direction.INBOUND):
        return first, first.verdict
    return better, better.verdict


def _is_scope_local(address: bytes) -> bool:
    """Link-local, multicast or loopback (RFC 6890; RFC 4291, 2.4)."""
    first = address[0]
    if len(address) == 4:
        return first == 127 or 224 <= first < 240 or address[:2] == b"\xa9\xfe"
    return first == 0xFF or (first == 0xFE and address[1] & 0xC0 == 0x80) or address == b"\x00" * 15 + b"\x01"


def _listed(ids: Iterable[str]) -> str:
    """At most three ids, each once."""
    unique = list(dict.fromkeys(ids))
    if not unique:
        return ""
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return ("entry " if len(unique) == 1 else "entries ") + ", ".join(unique[:3]) + more


def _time_text(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _read_rule(table: Table, zone: tzinfo) -> Rule:
    rule = Rule(
        rule_id=table.need("id", _rule_id, "", "a short name, unique in the file"),
        action=table.need("action", _action, Action.OBSERVE, "one of " + ", ".join(Action)),
        verdicts=table.get("verdict", _some_of(Verdict), frozenset()),
        confidences=table.get("confidence", _some_of(Confidence), frozenset()),
        phases=table.get("phase", _some_of(Phase), frozenset()),
        directions=table.get("direction", _some_of(Direction), frozenset()),
        protocols=table.get("protocol", _some_of(Protocol), frozenset()),
        kinds=table.get("kind", _some_of(Kind), frozenset()),
        categories=table.get("category", _some_of(Category), frozenset()),
        prefixes=table.get("prefix", _prefixes, ()),
        min_packets=table.get("min_packets", _count, 0),
        min_subject_packets=table.get("min_subject_packets", _count, 0),
        min_duration_ns=table.get("min_duration", _duration_ns, 0),
        from_ns=table.get("from", lambda value: instant_ns(value, zone), None),
        until_ns=table.get("until", lambda value: instant_ns(value, zone, end_of_day=True), None),
    )
    table.finish()
    return rule


def _check_rules(tables: list[Table], rules: tuple[Rule, ...]) -> None:
    """Find what is well written and still makes no sense."""
    seen: dict[str, int] = {}
    for index, (table, rule) in enumerate(zip(tables, rules, strict=True)):
        if rule.rule_id in seen:
            table.fault(
                "id", f"the id of rule[{seen[rule.rule_id]}] again ({rule.rule_id})", "an id of its own"
            )
        seen.setdefault(rule.rule_id, index)
        unconditional = rule == Rule(rule.rule_id, rule.action)
        if unconditional and index + 1 < len(rules):
            table.fault(
                "",
                f"a rule without conditions ({rule.rule_id})",
                "it in the last place: none after it applies",
            )
        if rule.action is Action.FLAG:
            unfit = {Verdict.INDETERMINATE, Verdict.NOT_EVALUATED} & rule.verdicts
            if not rule.verdicts:
                table.fault("verdict", "a rule that flags whatever the verdict", "the verdicts that it flags")
            elif unfit:
                table.fault("verdict", f"{min(unfit)} with action flag", "only verdicts that say something")
        if rule.from_ns is not None and rule.until_ns is not None and rule.until_ns <= rule.from_ns:
            table.fault("until", "an end before from", "a later time")


def _rule_id(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", value):
        raise ValueError("a short name in small letters, digits, '-', '_' and '.'")
    if value in (DEFAULT_RULE, NO_REGISTER_RULE):
        raise ValueError(
            f"another name: {DEFAULT_RULE!r} and {NO_REGISTER_RULE!r} stand for outcomes without a rule"
        )
    return value


def _action(value: object) -> Action:
    return _named(Action, value)


def _named(names: type[Named], value: object) -> Named:
    if isinstance(value, str):
        try:
            return names(value)
        except ValueError:
            if close := nearest(value, [str(name) for name in names]):
                raise ValueError(repr(close)) from None
    raise ValueError("one of " + ", ".join(names))


def _some_of(names: type[Named]) -> Callable[[object], frozenset[Named]]:
    """A converter for one name or an array of them."""

    def convert(value: object) -> frozenset[Named]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError("at least one of " + ", ".join(names))
        return frozenset(_named(names, item) for item in values)

    return convert


def _prefixes(value: object) -> tuple[Prefix, ...]:
    values = value if isinstance(value, list) else [value]
    prefixes = []
    for item in values:
        if not isinstance(item, str):
            raise ValueError("prefixes as strings, like 203.0.113.0/24")
        try:
            prefixes.append(Prefix.parse(item))
        except ValueError as error:
            raise ValueError(f"{error} (for {item!r})") from None
    return tuple(prefixes)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31:
        return value
    raise ValueError("a whole number from 0")


def _duration_ns(value: object) -> int:
    if isinstance(value, str) and (parts := re.fullmatch(r"(\d{1,6})(s|m|h|d)", value, re.ASCII)):
        return int(parts.group(1)) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[parts.group(2)] * NS_PER_S
    raise ValueError('a duration: a whole number with s, m, h or d, like "14d"')
