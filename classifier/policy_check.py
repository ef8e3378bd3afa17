"""What a policy says that its author may not have meant, beyond what stops it from loading.

Takes a policy that has loaded, a time, and optionally a register; gives remarks, warnings before notes. What
rules can be reached is worked out exactly: every combination of verdict, confidence, phase, direction and
protocol that can occur under this policy is a cell, and a rule that is given none, or only cells that rules
before it take with the same or weaker other conditions, never decides.

One rule a reader would get wrong: a remark is no fault. A policy that flags early is unwise, not broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from classifier.judgement import DIRECTIONS, Action, Direction
from classifier.policy import FLAGGED, Confidence, Phase, Policy, Rule, UnregisteredAfter
from classifier.register import Kind, Prefix, Protocol, Register, Side, Status
from classifier.standing import GOOD, VERDICTS, Verdict
from classifier.words import moment, number

__all__ = ["Remark", "remarks"]

CARRIER_GRADE = Prefix.parse("100.64.0.0/10")  # RFC 6598
NO_DECISIVE = frozenset({Verdict.UNREGISTERED, Verdict.SHARED_ADDRESS, Verdict.OUT_OF_SCOPE})
GOOD_VERDICTS = frozenset(GOOD.values())
Cell = tuple[Verdict, Confidence, Phase, Direction, Protocol]


class Remark(NamedTuple):
    """One thing to think about."""

    level: str
    """ "warning": probably not meant; "note": good to know."""
    where: str
    """The rule or the key."""
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.text}"


def remarks(policy: Policy, at_ns: int, register: Register | None = None) -> list[Remark]:
    """Everything worth a remark, warnings first."""
    found = [*_settings(policy, at_ns), *_networks(policy), *_rules(policy, at_ns)]
    if register is not None:
        found += _register(policy, register, at_ns)
    return sorted(found, key=lambda remark: remark.level != "warning")


def _settings(policy: Policy, at_ns: int) -> Iterator[Remark]:
    zone = policy.time_zone
    if policy.enforce_from_ns is None:
        yield Remark("warning", "enforce_from", "is not set: a trial without end, nothing is flagged")
    elif policy.enforce_from_ns > at_ns:
        begins = moment(policy.enforce_from_ns, zone)
        yield Remark("note", "enforce_from", f"is to come: nothing is flagged before {begins}")
    else:
        yield Remark(
            "note", "enforce_from", f"has passed: in force since {moment(policy.enforce_from_ns, zone)}"
        )
    flagged = frozenset().union(*(rule.verdicts for rule in policy.rules if rule.action is Action.FLAG))
    if not flagged:
        yield Remark("warning", "rule", "no rule flags anything")
    if Verdict.UNREGISTERED in flagged and policy.unregistered_after is UnregisteredAfter.IMMEDIATELY:
        text = "is `immediately`: who was approved since the register was issued is flagged"
        yield Remark("note", "unregistered_after", text)
    if Verdict.EXPIRED in flagged and policy.grace_ns == 0:
        yield Remark("warning", "grace", "is nothing: an entry is flagged as expired on the day it ends")


def _networks(policy: Policy) -> Iterator[Remark]:
    if not policy.local:
        yield Remark("note", "networks.local", "is not set: either end of a flow may be a subscriber")
    for name, prefixes in (("local", policy.local), ("shared", policy.shared)):
        for place, prefix in enumerate(prefixes):
            if prefix.length == 0:
                yield Remark("warning", f"networks.{name}", f"{prefix} makes every address ours")
            for other in prefixes[:place] + prefixes[place + 1 :]:
                if _inside(prefix, other) and (prefix != other or prefixes.index(other) == place):
                    yield Remark("warning", f"networks.{name}", f"{prefix} lies in {other}, named beside it")
            if prefixes[:place].count(prefix):
                yield Remark("warning", f"networks.{name}", f"{prefix} is named twice")
    for local in policy.local:
        for shared in policy.shared:
            if _inside(local, shared):
                yield Remark(
                    "warning",
                    "networks.shared",
                    f"{shared} holds all of {local} in local: nobody there is ever flagged",
                )
        if (_inside(local, CARRIER_GRADE) or _inside(CARRIER_GRADE, local)) and not any(
            _inside(local, shared) or _inside(CARRIER_GRADE, shared) for shared in policy.shared
        ):
            yield Remark(
                "warning",
                "networks.local",
                f"{local} has addresses of carrier-grade NAT ({CARRIER_GRADE}) that `shared` does not name",
            )


def _rules(policy: Policy, at_ns: int) -> Iterator[Remark]:
    cells = list(_cells(policy))
    for place, rule in enumerate(policy.rules):
        where = f"rule {rule.rule_id}"
        named = [cell for cell in cells if rule.can_hold(*cell)]
        own = [cell for cell in named if _can_rest(rule, cell[0])]
        before = policy.rules[:place]
        left = [
            cell
            for cell in own
            if not any(earlier.can_hold(*cell) and _weaker(earlier, rule, cell[0]) for earlier in before)
        ]
        if not own:
            yield Remark("warning", where, f"can never hold: {_why_never(policy, rule, bool(named))}")
            continue
        if not left:
            by = [
                earlier.rule_id
                for earlier in before
                if any(earlier.can_hold(*cell) and _weaker(earlier, rule, cell[0]) for cell in own)
            ]
            yield Remark("warning", where, f"is never reached: before it stands {' and '.join(by)}")
            continue
        if rule.until_ns is not None and rule.until_ns <= at_ns:
            ended = moment(rule.until_ns, policy.time_zone)
            yield Remark("warning", where, f"holds no more: its time ended {ended}")
        elif rule.from_ns is not None and rule.from_ns > at_ns:
            begins = moment(rule.from_ns, policy.time_zone)
            yield Remark("note", where, f"does not hold yet: its time begins {begins}")
        verdicts = {cell[0] for cell in left}
        if rule.action is Action.FLAG:
            yield from _flag(policy, rule, where, verdicts)
        elif rule.action is Action.OBSERVE and verdicts & GOOD_VERDICTS:
            yield Remark(
                "warning", where, f"takes flows that are {_listed(verdicts & GOOD_VERDICTS)}: no pass"
            )
        elif rule.action is Action.PASS and verdicts & FLAGGED and not _narrow(rule):
            yield Remark("warning", where, f"passes flows that are {_listed(verdicts & FLAGGED)}")


def _flag(policy: Policy, rule: Rule, where: str, verdicts: set[Verdict]) -> Iterator[Remark]:
    early = verdicts - FLAGGED
    if early:
        yield Remark(
            "warning",
            where,
            f"flags flows that are {_listed(early)}: before a grace or an approval had its time",
        )
    if rule.confidences != {Confidence.CONFIRMED}:
        yield Remark("warning", where, "flags flows that are not confirmed to be a VPN")
    if not rule.phases or Phase.ATTEMPT in rule.phases:
        yield Remark("warning", where, "flags openings that nobody answered: scanners make those")
    if rule.min_packets < 2:
        yield Remark("warning", where, "has no min_packets: one spoofed packet is enough")
    if not rule.min_subject_packets and not policy.one_way:
        yield Remark("warning", where, "has no min_subject_packets: the subject need not have sent anything")


def _register(policy: Policy, register: Register, at_ns: int) -> Iterator[Remark]:
    where = f"register {register.source}, serial {register.serial}"
    if at_ns > register.next_update_ns + policy.stale_after_ns:
        due = moment(register.next_update_ns, policy.time_zone)
        yield Remark("warning", where, f"was due for renewal {due}: nothing is flagged, but indeterminate")
    pools = policy.local + policy.shared
    for entry in register.entries:
        if entry.kind is Kind.OPERATOR_INFRASTRUCTURE:
            for pool in pools:
                if _inside(pool, entry.prefix):
                    text = (
                        f"{entry.entry_id} is infrastructure, and {entry.prefix} covers {pool} of subscribers"
                    )
                    yield Remark("warning", where, text)
    approved = [entry for entry in register.entries if entry.status is Status.APPROVED]
    if policy.local:
        outside = sum(
            entry.side is Side.SUBSCRIBER and not any(_meets(entry.prefix, pool) for pool in pools)
            for entry in approved
        )
        if outside:
            rows = number(outside, "approved row")
            yield Remark("note", where, f"{rows} of side `subscriber` outside the networks of the policy")
        if not any(_meets(entry.prefix, pool) for entry in approved for pool in pools):
            yield Remark("warning", where, "no approved entry lies in the networks of the policy")
    kinds = {entry.kind for entry in register.entries}
    categories = {entry.category for entry in register.entries}
    for rule in policy.rules:
        for name, asked, known in (("kind", rule.kinds, kinds), ("category", rule.categories, categories)):
            if asked and not asked & known:
                text = f"asks for a {name} that no entry of the register has: {_listed(asked)}"
                yield Remark("note", f"rule {rule.rule_id}", text)


def _cells(policy: Policy) -> Iterator[Cell]:
    """What can occur: see the table at the top of `policy.py`."""
    for verdict, confidence, phase, direction, protocol in product(
        VERDICTS, Confidence, Phase, DIRECTIONS, Protocol
    ):
        if verdict is Verdict.NOT_EVALUATED or (verdict is Verdict.SHARED_ADDRESS and not policy.shared):
            continue
        if direction is not Direction.SCOPE_LOCAL and (direction is Direction.UNKNOWN) is bool(policy.local):
            continue
        elsewhere = direction in (Direction.TRANSIT, Direction.SCOPE_LOCAL)
        if verdict in GOOD_VERDICTS or (verdict is Verdict.OUT_OF_SCOPE) is elsewhere:
            yield verdict, confidence, phase, direction, protocol


def _can_rest(rule: Rule, verdict: Verdict) -> bool:
    """Whether a verdict can rest on an entry such as the rule asks for."""
    if not rule.kinds and not rule.categories:
        return True
    if verdict in NO_DECISIVE:
        return False
    return verdict not in GOOD_VERDICTS or not rule.kinds or any(GOOD[kind] is verdict for kind in rule.kinds)


def _weaker(earlier: Rule, later: Rule, verdict: Verdict) -> bool:
    """Whether the conditions of `earlier` that are not on names hold whenever those of `later` do."""
    kinds = frozenset(kind for kind in Kind if GOOD[kind] is verdict) or later.kinds
    kinds = kinds & later.kinds if later.kinds else kinds
    return (
        (not earlier.other_ends or bool(later.other_ends and later.other_ends <= earlier.other_ends))
        and (not earlier.kinds or bool(kinds and kinds <= earlier.kinds))
        and (not earlier.categories or bool(later.categories and later.categories <= earlier.categories))
        and (
            not earlier.prefixes
            or (
                bool(later.prefixes)
                and all(any(_inside(mine, its) for its in earlier.prefixes) for mine in later.prefixes)
            )
        )
        and earlier.min_packets <= max(later.min_packets, later.min_subject_packets)
        and earlier.min_subject_packets <= later.min_subject_packets
        and earlier.min_duration_ns <= later.min_duration_ns
        and (earlier.from_ns is None or (later.from_ns is not None and earlier.from_ns <= later.from_ns))
        and (earlier.until_ns is None or (later.until_ns is not None and earlier.until_ns >= later.until_ns))
    )


def _why_never(policy: Policy, rule: Rule, named: bool) -> str:
    if named:
        return "no verdict of its list can rest on an entry of this kind or category"
    if rule.verdicts == {Verdict.NOT_EVALUATED}:
        return "without a register no rule is asked"
    if rule.verdicts == {Verdict.SHARED_ADDRESS} and not policy.shared:
        return "networks.shared is not set"
    ours = {Direction.OUTBOUND, Direction.INBOUND, Direction.INTERNAL, Direction.TRANSIT}
    if rule.directions and not policy.local and rule.directions <= ours:
        return "networks.local is not set, so the direction is unknown"
    if rule.directions == {Direction.UNKNOWN}:
        return "networks.local is set, so the direction is known"
    return "its verdicts do not occur in its directions"


def _narrow(rule: Rule) -> bool:
    """Whether it is made for some prefixes or a time, as a person's decision is."""
    return bool(rule.prefixes) or rule.until_ns is not None


def _inside(inner: Prefix, outer: Prefix) -> bool:
    return inner.length >= outer.length and outer.holds(inner.address)


def _meets(one: Prefix, other: Prefix) -> bool:
    return _inside(one, other) or _inside(other, one)


def _listed(names: frozenset[Verdict] | set[Verdict] | frozenset[Kind] | frozenset[object]) -> str:
    return ", ".join(sorted(map(str, names)))
