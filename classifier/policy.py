"""What a flow amounts to: facts about it and the entries of both ends -> verdict, action, rule.

What the entries of one end amount to is for `standing` to say.

**Both ends.**

    some end has a good verdict         the better one           subject: that end (local first, then source)
    scope_local, transit                out_of_scope             source
    outbound, inbound                   the local end's          local end
    internal, unknown                   the better one           that end (source first)

**The register's own limits.** `unregistered`, `expired`, `suspended`, `revoked` become `indeterminate` when
the time of judgement is past the register's `next_update` + `stale_after`, or the flow began before the
register's first record. Without a register everything is `not_evaluated` and observed, whatever the rules
say.

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
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from classifier.judgement import (
    DEFAULT_RULE,
    FLAG,
    INBOUND,
    NO_REGISTER_RULE,
    OBSERVE,
    OUTBOUND,
    PASS,
    SCOPE_LOCAL,
    TRANSIT,
    TRIAL,
    WAITING,
    Action,
    Direction,
    Flow,
    Judgement,
)
from classifier.register.entry import Category, Kind, Protocol, Side
from classifier.register.prefixes import Prefix, PrefixTable, coverings
from classifier.register.snapshot import Register
from classifier.standing import (
    ALWAYS,
    INDETERMINATE,
    NOT_EVALUATED,
    NOTHING,
    NOTHING_SHARED,
    OUT_OF_SCOPE,
    RANK,
    WORST_GOOD,
    End,
    Standings,
    Verdict,
    in_shared,
    instants_of,
)
from classifier.toml_file import NS_PER_S

if TYPE_CHECKING:
    from classifier._core import PrefixMap

__all__ = [
    "SUSPENSIONS",
    "Confidence",
    "FirstSeen",
    "FlowFacts",
    "Phase",
    "Policy",
    "Rule",
    "UnregisteredAfter",
]


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


class UnregisteredAfter(StrEnum):
    """When a flow without an entry may be flagged."""

    IMMEDIATELY = "immediately"
    NEXT_REGISTER = "next_register"
    """Once a register issued after its case was first seen has come without an entry for it."""


SUSPENSIONS: Final = ("stale", "before_enforcement", "no_register")
FLAGGED: Final = frozenset({Verdict.UNREGISTERED, Verdict.EXPIRED, Verdict.SUSPENDED, Verdict.REVOKED})
# Under names of their own: in Python 3.11 reading a member from its class is a call, and judging reads many.
ATTEMPT: Final = Phase.ATTEMPT
DATA_ONLY: Final = Phase.DATA_ONLY
SUBSCRIBER: Final = Side.SUBSCRIBER
ENDPOINT: Final = Side.ENDPOINT
NEXT_REGISTER: Final = UnregisteredAfter.NEXT_REGISTER
GRACE_NS: Final = 14 * 86_400 * NS_PER_S
STALE_AFTER_NS: Final = 24 * 3_600 * NS_PER_S
PENDING_TERM_NS: Final = 3 * 86_400 * NS_PER_S
# Link-local, multicast and loopback (RFC 6890; RFC 4291, 2.4).
SCOPE_LOCAL_PREFIXES: Final = ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1", "fe80::/10", "ff00::/8")
NOTHING_IN_FORCE: Final = frozenset({Verdict.UNREGISTERED, Verdict.EXPIRED})
REMEMBERED: Final = 65_536
"""Most that is remembered of the entries of prefixes; then it begins anew."""
FLOWS_REMEMBERED: Final = 8_192
"""Most that is remembered of flows: the reports of one come close together."""

FirstSeen = Callable[[bytes, bytes, str, int], int]
"""(subject, remote, protocol, start of a flow) -> when the case was first seen; see `cases.FirstSeen`."""


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
    ends: dict[tuple[int, str, Side | None], Standings] = field(default_factory=dict)
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
                enforce_from_ns=self.enforce_from_ns,
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
            self.enforce_from_ns,
            register,
            subject_end,
            other_end,
            ends.from_ns,
            ends.until_ns,
        )

    def grounds(self, judgement: Judgement) -> Hashable:
        """All that is compared here of a flow's protocol and ends, and of what they amount to."""
        flow, end = judgement.flow, judgement.subject_end
        entries = [end.entries[place] for place in judgement.decisive]
        return (
            flow.protocol,
            judgement.direction,
            judgement.subject,
            judgement.looked_up,
            frozenset(entry.kind for entry in entries),
            frozenset(entry.category for entry in entries),
            judgement.other_end.verdict,
            tuple(
                prefix
                for prefix in self.prefixes
                if prefix.holds(flow.source) or prefix.holds(flow.destination)
            ),
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
            if len(self._memory.ends) >= REMEMBERED:
                self._memory.ends.clear()
            known = Standings.of(entries, flow.protocol, side, at_ns, self.grace_ns)
            self._memory.ends[key] = known
        end = known.end
        if end is None:
            peer: bytes | None
            peer, port = (flow.destination, flow.destination_port) if is_source else (flow.source, None)
            if flow.via_proxy:
                peer = None
            end = known.towards(flow.protocol, side, peer, port)
        return in_shared(end) if is_shared else end, known.from_ns, known.until_ns

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
