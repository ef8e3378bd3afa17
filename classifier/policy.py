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
moves between them); behind a proxy the other end is unseen, and they do not apply. Side: only in an outbound
flow whose opening was seen is it known which end is the subscriber; there a `subscriber` must be the local
end and an `endpoint` the remote one.

**Held back.** A rule that flags gives `observe` before `enforce_from`; and, with `unregistered_after =
"next_register"`, for an `unregistered` or `expired` flow until a register issued after its case was first
seen has come without an entry in force for it.

One rule a reader would get wrong: a prefix in `local` or `shared` registers nobody; it only says which end
is ours.

A flow is judged several times, most within moments, and most flows meet entries that others met before. So
what the ends of a flow and the entries of a prefix amount to is remembered for as long as no date passes, and
which rules can hold for each combination of names; none of it changes an answer.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from typing import Protocol as Structural

from classifier.register.entry import IKE_PORTS, Category, Entry, Kind, Protocol, Side, Status
from classifier.register.prefixes import Prefix, PrefixTable, address_text, coverings
from classifier.register.snapshot import Register
from classifier.toml_file import NS_PER_S

if TYPE_CHECKING:
    from classifier._core import PrefixMap

__all__ = [
    "ACTIONS",
    "ALWAYS",
    "DIRECTIONS",
    "SUSPENSIONS",
    "VERDICTS",
    "Action",
    "Confidence",
    "Direction",
    "End",
    "FirstSeen",
    "Flow",
    "FlowFacts",
    "Judgement",
    "Match",
    "Phase",
    "Policy",
    "Rule",
    "Standing",
    "UnregisteredAfter",
    "Verdict",
    "instants_of",
    "standing_at",
    "time_text",
]


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


class UnregisteredAfter(StrEnum):
    """When a flow without an entry may be flagged."""

    IMMEDIATELY = "immediately"
    NEXT_REGISTER = "next_register"
    """Once a register issued after its case was first seen has come without an entry for it."""


SUSPENSIONS: Final = ("stale", "before_enforcement", "no_register")
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
REASONS: Final = {
    Verdict.REGISTERED: "{address} is registered ({ids})",
    Verdict.LICENSED_PROVIDER: "{address} belongs to a licensed provider ({ids})",
    Verdict.CARRIER_SERVICE: "{address} is a gateway of a carrier ({ids})",
    Verdict.OPERATOR_INFRASTRUCTURE: "{address} is infrastructure of the operator ({ids})",
    Verdict.EXCEPTED: "The operator made an exception for {address} ({ids})",
    Verdict.IP_WHITELISTED: "{address} is whitelisted ({ids})",
    Verdict.PENDING: "A registration of {address} is pending or starts later ({ids})",
    Verdict.EXPIRED_IN_GRACE: "The registration of {address} {ended} and is still in grace ({ids})",
    Verdict.PROTOCOL_MISMATCH: "{address} is registered, but for other protocols than {protocol} ({ids})",
    Verdict.ENDPOINT_MISMATCH: "{address} is registered, but not for {peer} at the other end ({ids})",
    Verdict.SHARED_ADDRESS: "No registration matched {address}, which many subscribers share",
    Verdict.EXPIRED: "The registration of {address} {ended} ({ids}), and no other matched",
    Verdict.SUSPENDED: "The registration of {address} is suspended ({ids}), and no other matched",
    Verdict.REVOKED: "The registration of {address} was revoked ({ids}), and no other matched",
    Verdict.OUT_OF_SCOPE: "Neither {address} nor {peer} is in a network of ours",
}
ENDED: Final = frozenset({Verdict.EXPIRED_IN_GRACE, Verdict.EXPIRED})
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
# Under names of their own: in Python 3.11 reading a member from its class is a call, and `judge` reads many.
PASS: Final = Action.PASS
OBSERVE: Final = Action.OBSERVE
FLAG: Final = Action.FLAG
OUTBOUND: Final = Direction.OUTBOUND
INBOUND: Final = Direction.INBOUND
INTERNAL: Final = Direction.INTERNAL
TRANSIT: Final = Direction.TRANSIT
UNKNOWN: Final = Direction.UNKNOWN
SCOPE_LOCAL: Final = Direction.SCOPE_LOCAL
UNREGISTERED: Final = Verdict.UNREGISTERED
SHARED_ADDRESS: Final = Verdict.SHARED_ADDRESS
OUT_OF_SCOPE: Final = Verdict.OUT_OF_SCOPE
INDETERMINATE: Final = Verdict.INDETERMINATE
NOT_EVALUATED: Final = Verdict.NOT_EVALUATED
ATTEMPT: Final = Phase.ATTEMPT
DATA_ONLY: Final = Phase.DATA_ONLY
APPROVED: Final = Standing.APPROVED
REJECTED: Final = Standing.REJECTED
SUBSCRIBER: Final = Side.SUBSCRIBER
ENDPOINT: Final = Side.ENDPOINT
NEXT_REGISTER: Final = UnregisteredAfter.NEXT_REGISTER
GRACE_NS: Final = 14 * 86_400 * NS_PER_S
STALE_AFTER_NS: Final = 24 * 3_600 * NS_PER_S
PENDING_TERM_NS: Final = 3 * 86_400 * NS_PER_S
NO_REGISTER_RULE: Final = "no-register"
DEFAULT_RULE: Final = "default"
# Link-local, multicast and loopback (RFC 6890; RFC 4291, 2.4).
SCOPE_LOCAL_PREFIXES: Final = ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1", "fe80::/10", "ff00::/8")
TRIAL: Final = "trial"
WAITING: Final = "waiting"
NOTHING_IN_FORCE: Final = frozenset({Verdict.UNREGISTERED, Verdict.EXPIRED})
ALWAYS: Final = (-(1 << 63), 1 << 63)
REMEMBERED: Final = 65_536
"""Most that is remembered of the entries of prefixes; then it begins anew."""
FLOWS_REMEMBERED: Final = 8_192
"""Most that is remembered of flows: the reports of one come close together."""

FirstSeen = Callable[[bytes, bytes, str, int], int]
"""(subject, remote, protocol, start of a flow) -> when the case was first seen; see `cases.FirstSeen`."""


class Flow(Structural):
    """What the policy needs to know about a flow; names and values are those of `FlowBatch`."""

    @property
    def protocol(self) -> str: ...
    @property
    def confidence(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def source(self) -> bytes: ...
    @property
    def destination(self) -> bytes: ...
    @property
    def destination_port(self) -> int | None: ...
    @property
    def via_proxy(self) -> bool: ...
    @property
    def packets_to_server(self) -> int: ...
    @property
    def packets_to_client(self) -> int: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """A `Flow` of its own, for who has no row of a batch."""

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
    via_proxy: bool = False


class Match(NamedTuple):
    """One entry that covers an end, and how it was judged."""

    entry: Entry
    end: str
    """ "source" or "destination"."""
    standing: Standing
    decisive: bool = False
    """The verdict rests on it."""


@dataclass(slots=True, eq=False)  # not frozen, which takes three times as long to make
class End:
    """What the entries that cover one end amount to; equal to itself only, so that others can remember it."""

    verdict: Verdict
    rank: int
    entries: tuple[Entry, ...] = ()
    standings: tuple[Standing, ...] = ()
    decisive: tuple[int, ...] = ()
    """Places of the entries that the verdict rests on."""
    decisive_ids: str = ""
    """Their ids, as a reason names them."""
    rejected: tuple[str, ...] = ()
    """Ids of rejected applications."""

    def matches(self, end: str, decisive: tuple[int, ...]) -> Iterator["Match"]:
        """All entries, those at the places `decisive` first."""
        entries, standings = self.entries, self.standings
        for place in decisive:
            yield Match(entries[place], end, standings[place], True)
        for place, entry in enumerate(entries):
            if place not in decisive:
                yield Match(entry, end, standings[place])


class _Remembered(NamedTuple):
    """What is known of a tuple of covering entries from one instant until another."""

    entries: tuple[Entry, ...]
    """Held, so that no other tuple can have their id."""
    from_ns: int
    until_ns: int
    standings: tuple[Standing, ...]
    """Whatever the flow."""
    end: End | None
    """For this protocol and side; None where it depends on the other end of the flow, too."""


class _Ends(NamedTuple):
    """What networks and register say about the two ends of a flow, from one instant until another."""

    register: Register
    from_ns: int
    until_ns: int
    direction: Direction
    subject: str
    verdict: Verdict
    """Before the register's own limits."""
    subject_end: End
    other_end: End


class _Place(NamedTuple):
    """How a flow lies to our networks."""

    direction: Direction
    source_is_shared: bool
    destination_is_shared: bool
    destination_first: bool
    """It is ours, and the source is not."""


class Judgement(NamedTuple):
    """The policy's answer for one flow at one time; entries and reason are put together when asked for."""

    verdict: Verdict
    action: Action
    rule: str
    """Id of the rule that gave the action; "default" when none matched, "no-register" without a register."""
    direction: Direction
    subject: str
    """The end that the verdict is about: "source" or "destination"."""
    register_serial: int | None
    policy_hash: str
    looked_up: Verdict
    """The verdict before the register's own limits."""
    held_back: str
    """Why a rule that flags gave `observe`: "trial", or "waiting" for the next register; else empty."""
    seen_ns: int
    """When the case was first seen, as far as that counts."""
    flow: Flow
    policy: "Policy"
    register: Register | None
    subject_end: End
    other_end: End
    from_ns: int
    """Since when every entry of both ends stands as it does."""
    until_ns: int
    """Until when."""

    @property
    def entries(self) -> tuple[Match, ...]:
        """All entries that cover either end: the decisive ones, the subject's, the other end's."""
        other = "source" if self.subject == "destination" else "destination"
        return (
            *self.subject_end.matches(self.subject, self.decisive),
            *self.other_end.matches(other, ()),
        )

    @property
    def decisive(self) -> tuple[int, ...]:
        """Places of the subject's entries that the verdict rests on."""
        return () if self.looked_up is OUT_OF_SCOPE else self.subject_end.decisive

    @property
    def why(self) -> str:
        """One plain sentence for people, and a second one when a flag is held back."""
        source, destination = address_text(self.flow.source), address_text(self.flow.destination)
        return self.reason(source, destination) + self.reservation(time_text(self.seen_ns))

    def reason(self, source: str, destination: str) -> str:
        """The first sentence, with these names for the two ends."""
        return _why(self, source, destination)

    def reservation(self, seen: str) -> str:
        """The second one, with this for the time when the case was first seen."""
        return _held_back(self, seen)

    @property
    def grounds(self) -> Hashable:
        """All that the policy compares of protocol and ends, and of what they amount to."""
        flow, end = self.flow, NOTHING if self.looked_up is OUT_OF_SCOPE else self.subject_end
        entries = [end.entries[place] for place in end.decisive]
        return (
            flow.protocol,
            self.direction,
            self.subject,
            self.looked_up,
            frozenset(entry.kind for entry in entries),
            frozenset(entry.category for entry in entries),
            self.other_end.verdict,
            tuple(
                prefix
                for prefix in self.policy.prefixes
                if prefix.holds(flow.source) or prefix.holds(flow.destination)
            ),
        )


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
    other_ends: frozenset[Verdict] = frozenset()
    """What the end that the verdict is not about amounts to by itself."""
    prefixes: tuple[Prefix, ...] = ()
    """Either end lies in one of them."""
    min_packets: int = 0
    """In both directions together."""
    min_subject_packets: int = 0
    min_duration_ns: int = 0
    from_ns: int | None = None
    until_ns: int | None = None

    def can_hold(self, verdict: str, confidence: str, phase: str, direction: str, protocol: str) -> bool:
        """Whether the conditions on names are met."""
        return (
            (not self.verdicts or verdict in self.verdicts)
            and (not self.confidences or confidence in self.confidences)
            and (not self.phases or phase in self.phases)
            and (not self.directions or direction in self.directions)
            and (not self.protocols or protocol in self.protocols)
        )

    def asks_more(self) -> bool:
        """Whether there are other conditions than those on names."""
        return self != Rule(
            self.rule_id,
            self.action,
            self.verdicts,
            self.confidences,
            self.phases,
            self.directions,
            self.protocols,
        )

    def holds(self, flow: Flow, subject: str, end: End, other: End, at_ns: int, one_way: bool) -> bool:
        """Whether all others are met, too; `end` is what the verdict rests on, `other` the other one.

        A one-way sensor cannot ask for the subject's packets.
        """
        if (
            flow.packets_to_server + flow.packets_to_client < self.min_packets
            or flow.end_ns - flow.start_ns < self.min_duration_ns
            or (self.from_ns is not None and at_ns < self.from_ns)
            or (self.until_ns is not None and at_ns >= self.until_ns)
        ):
            return False
        if self.min_subject_packets and not one_way:
            sent = flow.packets_to_server if subject == "source" else flow.packets_to_client
            if sent < self.min_subject_packets:
                return False
        if self.other_ends and other.verdict not in self.other_ends:
            return False
        if self.kinds and not any(end.entries[place].kind in self.kinds for place in end.decisive):
            return False
        if self.categories and not any(
            end.entries[place].category in self.categories for place in end.decisive
        ):
            return False
        return not self.prefixes or any(
            prefix.holds(flow.source) or prefix.holds(flow.destination) for prefix in self.prefixes
        )


@dataclass(slots=True)
class _Memory:
    """What `judge` has worked out before. Losing any of it changes no answer."""

    flows: OrderedDict[tuple[bytes, bytes, int | None, str, bool, bool], _Ends] = field(
        default_factory=OrderedDict
    )
    """By all of a flow that entries are compared with: ends, port, protocol, whether it was joined mid-flow,
    whether it goes through a proxy. One goes for one that comes: memory that is given back and filled again
    in the course of minutes would look as if it grew."""
    ends: dict[tuple[int, str, Side | None], _Remembered] = field(default_factory=dict)
    places: dict[tuple[tuple[str, ...], tuple[str, ...]], _Place] = field(default_factory=dict)
    rules: dict[tuple[Verdict, str, str, Direction, str], tuple[tuple[Rule, bool], ...]] = field(
        default_factory=dict
    )
    issued: tuple[Register, int] | None = None
    """When what a register says was last issued."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Ordered rules, and the settings that judging needs. Immutable but for what it remembers."""

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
    pending_term_ns: int = PENDING_TERM_NS
    """How long an application may be pending before `register health` names it."""
    unregistered_after: UnregisteredAfter = UnregisteredAfter.IMMEDIATELY
    time_zone: tzinfo = UTC
    """Zone of its bare dates, and of the times that people are told."""
    packet_milestones: tuple[int, ...] = field(init=False)
    """Packet counts at which a flow's outcome can change."""
    duration_milestones_s: tuple[float, ...] = field(init=False)
    """Durations at which it can."""
    prefixes: tuple[Prefix, ...] = field(init=False, repr=False)
    """Those that rules name."""
    _networks: PrefixTable[str] = field(init=False, repr=False, compare=False)
    _memory: _Memory = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = {count for rule in self.rules for count in (rule.min_packets, rule.min_subject_packets)}
        durations = {rule.min_duration_ns for rule in self.rules if rule.min_duration_ns}
        # A frozen dataclass sets what it derives this way.
        object.__setattr__(self, "packet_milestones", tuple(sorted(count for count in counts if count > 1)))
        object.__setattr__(self, "duration_milestones_s", tuple(ns / NS_PER_S for ns in sorted(durations)))
        prefixes = dict.fromkeys(prefix for rule in self.rules for prefix in rule.prefixes)
        object.__setattr__(self, "prefixes", tuple(prefixes))
        object.__setattr__(self, "_networks", PrefixTable(self._named_networks()))
        object.__setattr__(self, "_memory", _Memory())

    def _named_networks(self) -> list[tuple[Prefix, str]]:
        networks = [(prefix, "local") for prefix in self.local]
        networks += [(prefix, "shared") for prefix in self.shared]
        return networks + [(Prefix.parse(text), SCOPE_LOCAL) for text in SCOPE_LOCAL_PREFIXES]

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read policy.toml (rules/README.md explains its keys); ConfigError, PolicyError list every fault."""
        from classifier.policy_file import read_policy

        return read_policy(Path(path))

    def instants(self, register: Register | None) -> tuple[int, ...]:
        """Every time at which the answer for some flow may change by itself, ascending."""
        if register is None:
            return ()
        found = {instant for entry in register.entries for instant in instants_of(entry, self.grace_ns)}
        found.update(self.own_instants(register))
        return tuple(sorted(instant for instant in found if 0 < instant < ALWAYS[1]))

    def own_instants(self, register: Register | None) -> tuple[int, ...]:
        """Of these, the ones that no entry brings about; ascending, between the ends of time."""
        found = [instant for rule in self.rules for instant in (rule.from_ns, rule.until_ns)]
        found += [*ALWAYS, self.enforce_from_ns]
        if register is not None:
            found.append(self.stale_from_ns(register))
        return tuple(sorted({instant for instant in found if instant is not None}))

    def compiled(self) -> "PrefixMap":
        """For the core (`_core.Classes`): in which of its networks and rules' prefixes an address lies."""
        from classifier._core import PrefixMap

        items: list[tuple[Prefix, Hashable]] = [
            *self._named_networks(),
            *zip(self.prefixes, self.prefixes, strict=True),
        ]
        # Prefixes that lie in the same networks are one class, however many they are.
        numbers: dict[frozenset[Hashable], int] = {}
        found = {
            prefix: numbers.setdefault(frozenset(covering), len(numbers) + 1)
            for prefix, covering in coverings(items)
        }
        return PrefixMap(list(found), list(found.values()))

    def suspended(self, register: Register | None, at_ns: int) -> frozenset[str]:
        """Why nothing can be flagged at this time, in words of `SUSPENSIONS`; empty: flags can be given."""
        found = set()
        if register is None:
            found.add("no_register")
        elif at_ns >= self.stale_from_ns(register):
            found.add("stale")
        if self.enforce_from_ns is None or at_ns < self.enforce_from_ns:
            found.add("before_enforcement")
        return frozenset(found)

    def judge(
        self, flow: Flow, register: Register | None, at_ns: int, first_seen: FirstSeen | None = None
    ) -> Judgement:
        """Verdict, action and reason for a flow, with dates judged by `at_ns`.

        `first_seen` knows when a case was first seen; without it a flow's own start counts.
        """
        if register is None:
            direction = self._place(flow).direction
            subject = "destination" if direction is INBOUND else "source"
            nothing = End(NOT_EVALUATED, 0)
            return Judgement(
                verdict=NOT_EVALUATED,
                action=OBSERVE,
                rule=NO_REGISTER_RULE,
                direction=direction,
                subject=subject,
                register_serial=None,
                policy_hash=self.sha256,
                looked_up=NOT_EVALUATED,
                held_back="",
                seen_ns=flow.start_ns,
                flow=flow,
                policy=self,
                register=None,
                subject_end=nothing,
                other_end=nothing,
                from_ns=ALWAYS[0],
                until_ns=ALWAYS[1],
            )
        midflow = flow.phase == DATA_ONLY
        proxied = flow.via_proxy
        key = (flow.source, flow.destination, flow.destination_port, flow.protocol, midflow, proxied)
        ends = self._memory.flows.get(key)
        if ends is None or ends.register is not register or not ends.from_ns <= at_ns < ends.until_ns:
            if ends is None and len(self._memory.flows) >= FLOWS_REMEMBERED:
                self._memory.flows.popitem(last=False)
            ends = self._memory.flows[key] = self._ends(flow, register, at_ns)
        _, _, _, direction, subject, looked_up, subject_end, other_end = ends

        verdict = looked_up
        if verdict in FLAGGED and (
            at_ns >= self.stale_from_ns(register) or flow.start_ns < register.first_record_ns
        ):
            verdict = INDETERMINATE
        rule_id, action = DEFAULT_RULE, PASS if RANK[verdict] <= WORST_GOOD else OBSERVE
        grounds = NOTHING if looked_up is OUT_OF_SCOPE else subject_end
        for rule, asks_more in self._rules(verdict, flow, direction):
            if not asks_more or rule.holds(flow, subject, grounds, other_end, at_ns, self.one_way):
                rule_id, action = rule.rule_id, rule.action
                break
        held_back, seen_ns = "", flow.start_ns
        # Behind an entry that has ended somebody else may have the address, whose own is on its way.
        if looked_up in NOTHING_IN_FORCE and self.unregistered_after is NEXT_REGISTER:
            if first_seen is not None and flow.phase != ATTEMPT:
                here, there = flow.source, flow.destination
                if subject == "destination":
                    here, there = there, here
                seen_ns = first_seen(here, there, flow.protocol, flow.start_ns)
            if verdict is looked_up and seen_ns >= self.waits_from_ns(register):
                held_back = WAITING
        if self.enforce_from_ns is None or at_ns < self.enforce_from_ns:
            held_back = TRIAL
        if action is not FLAG:
            held_back = ""
        elif held_back:
            action = OBSERVE
        return Judgement(
            verdict,
            action,
            rule_id,
            direction,
            subject,
            register.serial,
            self.sha256,
            looked_up,
            held_back,
            seen_ns,
            flow,
            self,
            register,
            subject_end,
            other_end,
            ends.from_ns,
            ends.until_ns,
        )

    def _ends(self, flow: Flow, register: Register, at_ns: int) -> _Ends:
        """The table "Both ends" at the top, for a flow that nothing is remembered of."""
        direction, source_is_shared, destination_is_shared, destination_first = self._place(flow)
        # Only here it is known which end is the subscriber.
        sided = direction is OUTBOUND and flow.phase != DATA_ONLY
        source, from_ns, until_ns = self._end(True, flow, register, sided, source_is_shared, at_ns)
        destination, *times = self._end(False, flow, register, sided, destination_is_shared, at_ns)

        first, second = (destination, source) if destination_first else (source, destination)
        takes_first = first.rank <= second.rank
        looked_up = first.verdict if takes_first else second.verdict
        if (first.rank if takes_first else second.rank) > WORST_GOOD:
            if direction is OUTBOUND or direction is INBOUND:
                takes_first, looked_up = True, first.verdict
            elif direction is SCOPE_LOCAL or direction is TRANSIT:
                takes_first, looked_up = not destination_first, OUT_OF_SCOPE
        return _Ends(
            register,
            max(from_ns, times[0]),
            min(until_ns, times[1]),
            direction,
            "source" if takes_first != destination_first else "destination",
            looked_up,
            *((first, second) if takes_first else (second, first)),
        )

    def _place(self, flow: Flow) -> _Place:
        """How the flow lies to our networks."""
        source, destination = self._networks.covering(flow.source), self._networks.covering(flow.destination)
        place = self._memory.places.get((source, destination))
        if place is None:
            # Prefixes of few kinds nest in few ways, so this stays small.
            place = self._memory.places[source, destination] = self._new_place(source, destination)
        return place

    def _new_place(self, source: tuple[str, ...], destination: tuple[str, ...]) -> _Place:
        ours = [
            bool(self.local) and not networks_of <= {SCOPE_LOCAL}
            for networks_of in map(set, (source, destination))
        ]
        if SCOPE_LOCAL in source or SCOPE_LOCAL in destination:
            direction = Direction.SCOPE_LOCAL
        elif not self.local:
            direction = Direction.UNKNOWN
        elif ours[0]:
            direction = Direction.INTERNAL if ours[1] else Direction.OUTBOUND
        else:
            direction = Direction.INBOUND if ours[1] else Direction.TRANSIT
        return _Place(direction, "shared" in source, "shared" in destination, ours == [False, True])

    def _end(
        self, is_source: bool, flow: Flow, register: Register, sided: bool, is_shared: bool, at_ns: int
    ) -> tuple[End, int, int]:
        """What the entries of one end amount to, from when and until when.

        `sided`: it is known which end is the subscriber's.
        """
        entries = register.covering(flow.source if is_source else flow.destination)
        if not entries:
            return (NOTHING_SHARED if is_shared else NOTHING, *ALWAYS)
        side = None if not sided else SUBSCRIBER if is_source else ENDPOINT
        key = (id(entries), flow.protocol, side)
        known = self._memory.ends.get(key)
        if known is None or not known.from_ns <= at_ns < known.until_ns:
            known = self._remember(key, entries, at_ns)
        end = known.end
        if end is None:
            peer: bytes | None
            peer, port = (flow.destination, flow.destination_port) if is_source else (flow.source, None)
            if flow.via_proxy:
                peer = None
            standings = [
                _fit(entry, flow.protocol, side, peer, port) if standing is APPROVED else standing
                for entry, standing in zip(entries, known.standings, strict=True)
            ]
            end = _amounts_to(entries, standings)
        if is_shared and end.rank > NOTHING_SHARED.rank:
            end = replace(end, verdict=SHARED_ADDRESS, rank=NOTHING_SHARED.rank, decisive=(), decisive_ids="")
        return end, known.from_ns, known.until_ns

    def _remember(
        self, key: tuple[int, str, Side | None], entries: tuple[Entry, ...], at_ns: int
    ) -> _Remembered:
        """How these entries stand until the next of their dates."""
        standings = [standing_at(entry, at_ns, self.grace_ns) for entry in entries]
        instants = [instant for entry in entries for instant in instants_of(entry, self.grace_ns)]
        end = None
        approved = [index for index, standing in enumerate(standings) if standing is Standing.APPROVED]
        if not any(entries[index].endpoints for index in approved):
            fitted = standings.copy()
            for index in approved:
                fitted[index] = _fit(entries[index], key[1], key[2], b"", None)
            end = _amounts_to(entries, fitted)
        known = _Remembered(
            entries,
            max((instant for instant in instants if instant <= at_ns), default=ALWAYS[0]),
            min((instant for instant in instants if instant > at_ns), default=ALWAYS[1]),
            tuple(standings),
            end,
        )
        if len(self._memory.ends) >= REMEMBERED:
            self._memory.ends.clear()
        self._memory.ends[key] = known
        return known

    def _rules(self, verdict: Verdict, flow: Flow, direction: Direction) -> tuple[tuple[Rule, bool], ...]:
        """The rules that can hold for these names, in order, and whether they ask for more."""
        key = (verdict, flow.confidence, flow.phase, direction, flow.protocol)
        rules = self._memory.rules.get(key)
        if rules is None:
            some = (rule for rule in self.rules if rule.can_hold(*key))
            rules = self._memory.rules[key] = tuple((rule, rule.asks_more()) for rule in some)
        return rules

    def waits_from_ns(self, register: Register) -> int:
        """A case without an entry that was first seen since then waits for the next register.

        When what is renewed from time to time was last issued, the oldest of its sources.
        """
        known = self._memory.issued
        if known is None or known[0] is not register:
            renewed = [
                source.issued_at_ns for source in register.sources if source.next_update_ns is not None
            ]
            known = self._memory.issued = register, min(renewed, default=register.issued_at_ns)
        return known[1]

    def stale_from_ns(self, register: Register) -> int:
        """From when on the register is too old to flag by; the end of time: never."""
        due_ns = register.next_update_ns
        return ALWAYS[1] if due_ns is None else due_ns + self.stale_after_ns + 1


NOTHING: Final = End(Verdict.UNREGISTERED, RANK[Verdict.UNREGISTERED])
NOTHING_SHARED: Final = End(Verdict.SHARED_ADDRESS, RANK[Verdict.SHARED_ADDRESS])


def instants_of(entry: Entry, grace_ns: int) -> Iterator[int]:
    """Every time at which `standing_at` can change."""
    yield entry.status_since_ns
    yield entry.valid_from_ns
    for end_ns in (entry.valid_until_ns, entry.missing_since_ns):
        if end_ns is not None:
            yield end_ns
            yield end_ns + grace_ns


def standing_at(entry: Entry, at_ns: int, grace_ns: int) -> Standing:
    """How an entry stands at a time, whatever the flow.

    Before `status_since` it was what precedes its state: approved before a suspension or revocation,
    pending before an approval or rejection, and not there before it was submitted; an exception is the
    operator's own, and nobody applied for it before it was made. It ends with
    `valid_until`, or when complete feeds of its source begin to lack it. A suspension or revocation does not
    outlive that end: by then the address may be somebody else's.
    """
    status: Status | None = entry.status
    if at_ns < entry.status_since_ns:
        made = entry.kind is Kind.EXCEPTION and entry.status is Status.APPROVED
        status = None if made else BEFORE[entry.status]
    if status is None:
        return Standing.NOT_FILED
    if status is Status.REJECTED:
        return Standing.REJECTED
    withdrawn = status in (Status.SUSPENDED, Status.REVOKED)
    ends = [end_ns for end_ns in (entry.valid_until_ns, entry.missing_since_ns) if end_ns is not None]
    if ends and at_ns >= (end_ns := min(ends)):
        in_grace = not withdrawn and at_ns < end_ns + grace_ns
        return Standing.IN_GRACE if in_grace else Standing.EXPIRED
    if withdrawn:
        return Standing.SUSPENDED if status is Status.SUSPENDED else Standing.REVOKED
    if status is not Status.APPROVED:
        return Standing.PENDING
    return Standing.APPROVED if at_ns >= entry.valid_from_ns else Standing.NOT_YET_VALID


def _fit(entry: Entry, protocol: str, side: Side | None, peer: bytes | None, port: int | None) -> Standing:
    """Whether an approved entry covers a flow with `peer`, which answers at `port`.

    `peer` is None behind a proxy: the far end is unseen, and endpoints that were filed do not apply.
    """
    if entry.protocols and protocol not in entry.protocols:
        return Standing.PROTOCOL_MISMATCH
    if side is not None and entry.side not in (Side.EITHER, side):
        return Standing.ENDPOINT_MISMATCH
    if peer is None or not entry.endpoints:
        return Standing.APPROVED
    for endpoint in entry.endpoints:
        if endpoint.prefix.holds(peer) and (
            endpoint.port is None
            or port is None
            or port == endpoint.port
            or (protocol == Protocol.IPSEC and port in IKE_PORTS and endpoint.port in IKE_PORTS)
        ):
            return Standing.APPROVED
    return Standing.ENDPOINT_MISMATCH


def _amounts_to(entries: tuple[Entry, ...], standings: Sequence[Standing]) -> End:
    """The verdict of an end, and what it rests on."""
    amounts = [
        GOOD[entry.kind] if standing is Standing.APPROVED else AMOUNTS_TO[standing]
        for entry, standing in zip(entries, standings, strict=True)
    ]
    counting = _counting(entries, standings)
    rank = min((RANK[amounts[index]] for index in counting), default=NOTHING.rank)
    verdict = VERDICTS[rank]
    decisive = tuple(index for index in counting if amounts[index] is verdict)
    ids = _listed([entries[index].entry_id for index in decisive])
    return End(verdict, rank, entries, tuple(standings), decisive, ids, _rejected(entries, standings))


def _rejected(entries: tuple[Entry, ...], standings: Sequence[Standing]) -> tuple[str, ...]:
    if REJECTED not in standings:
        return ()
    return tuple(
        entry.entry_id for entry, standing in zip(entries, standings, strict=True) if standing is REJECTED
    )


def _counting(entries: tuple[Entry, ...], standings: Sequence[Standing]) -> list[int]:
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


def _why(judgement: Judgement, address: str, peer: str) -> str:
    flow, register, verdict = judgement.flow, judgement.register, judgement.verdict
    if register is None:
        return "No register was given, so nothing was looked up."
    if judgement.subject == "destination":
        address, peer = peer, address
    end = judgement.subject_end
    if verdict is UNREGISTERED:
        either = judgement.direction is UNKNOWN or judgement.direction is INTERNAL
        text = f"No registration matched {address}" + (f" or {peer}" if either else "")
    elif verdict is OUT_OF_SCOPE and judgement.direction is SCOPE_LOCAL:
        text = f"{address} to {peer} stays on its link (link-local, multicast or loopback)"
    elif verdict is INDETERMINATE:
        limit = (
            f"it began before the register's first record, {time_text(register.first_record_ns)}"
            if flow.start_ns < register.first_record_ns
            else f"the register was due for renewal on {time_text(register.next_update_ns or 0)}"
        )
        text = f"The flow of {address} would be {judgement.looked_up}, but {limit}"
    else:
        ended = ""
        if verdict in ENDED:
            is_missing = any(_is_missing(end.entries[place]) for place in end.decisive)
            ended = "is missing from newer feeds" if is_missing else "has ended"
        text = REASONS[verdict].format(
            address=address, peer=peer, ids=end.decisive_ids, protocol=flow.protocol, ended=ended
        )
    rejected = end.rejected + judgement.other_end.rejected
    if rejected:
        text += f"; an application was rejected ({_listed(rejected)})"
    return text + "."


def _held_back(judgement: Judgement, seen: str) -> str:
    if not judgement.held_back:
        return ""
    enforce_from_ns = judgement.policy.enforce_from_ns
    if judgement.held_back == WAITING:
        reason = (
            f"it was first seen on {seen}, and only a register issued after that "
            "can show that no entry is in force"
        )
    elif enforce_from_ns is None:
        reason = "the policy sets no enforce_from: a trial"
    else:
        reason = f"the policy flags nothing before {time_text(enforce_from_ns)}: a trial"
    return f" Rule {judgement.rule} would flag it, but {reason}."


def _is_missing(entry: Entry) -> bool:
    """It ended since feeds lack it, not by its own date."""
    since_ns = entry.missing_since_ns
    return since_ns is not None and (entry.valid_until_ns is None or since_ns < entry.valid_until_ns)


def _listed(ids: Sequence[str]) -> str:
    """At most three ids, each once."""
    if len(ids) == 1:
        return f"entry {ids[0]}"
    unique = list(dict.fromkeys(ids))
    if not unique:
        return ""
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return ("entry " if len(unique) == 1 else "entries ") + ", ".join(unique[:3]) + more


def time_text(time_ns: int) -> str:
    """A time as reasons name it, to the second."""
    return _second_text(time_ns // NS_PER_S)


@lru_cache(maxsize=1024)  # reasons that are given one after the other name the same few times
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
