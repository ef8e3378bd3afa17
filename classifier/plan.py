"""What another register or policy would say about flows that were seen: tried before it counts.

Takes the last event of each flow (`rejudge.Flows`, of files with all flows) and a register and policy that
may not be in force yet; gives counts of what changes, by verdict, reason, kind and category, and the cases
that would be flagged. Memory follows the number of cases and entries that change, up to a limit.

One rule a reader would get wrong: with another register, a flow is not judged by its own time alone, but as
if it came again when that register is issued. An entry that a complete feed lacks is missing only from then
on, and a plan that looked at the past would say that nothing changes. With the register that the events were
judged by, and another policy, flows keep their own time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from classifier.events import Judged, rfc3339
from classifier.judgement import Judgement
from classifier.rejudge import Flows, Named, Rejudge, Told, differs, judged
from classifier.standing import Match, Standing, Verdict
from classifier.words import moment, number

__all__ = ["NEEDS_ALL", "Plan"]

NEEDS_ALL = "a plan would miss those that are to be flagged"
_MAX_IDS = 1_048_576  # case and entry ids held to count them once
_MAX_FLAGGED = 65_536  # cases told by name


class Change(NamedTuple):
    """What flows that change have in common."""

    was: str
    was_action: str
    now: str
    now_action: str
    reason: str
    kind: str
    category: str


@dataclass(slots=True)
class Tally:
    """How much there is of a change."""

    flows: int = 0
    cases: set[str] = field(default_factory=set)
    entries: set[str] = field(default_factory=set)

    def item(self) -> dict[str, int]:
        return {"flows": self.flows, "cases": len(self.cases), "entries": len(self.entries)}

    def __str__(self) -> str:
        cases, entries = number(len(self.cases), "case"), number(len(self.entries), "entry", "entries")
        return f"{number(self.flows, 'flow')}, {cases}, {entries}"


@dataclass(slots=True)
class FlaggedCase:
    """A case that would be flagged, and was not."""

    case_id: str
    protocol: str
    was: str
    now: str
    reason: str
    entry_id: str
    flow_id: int
    """Of the first of its flows."""
    flows: int = 0

    def item(self) -> dict[str, Any]:
        return {
            "case_id": self.case_id,
            "protocol": self.protocol,
            "was": self.was,
            "now": self.now,
            "reason": self.reason,
            "entry_id": self.entry_id,
            "flow_id": self.flow_id,
            "flows": self.flows,
        }


class Plan:
    """One trial of a register and a policy."""

    def __init__(self, flows: Flows, against: Rejudge, as_of_ns: int | None = None) -> None:
        """`as_of_ns`: as if every flow came again at this time, instead of when the register is issued."""
        self.against = against
        self.changes: dict[Change, Tally] = {}
        self.flagged: dict[str, FlaggedCase] = {}
        self.newly_flagged = Tally()
        self.no_longer_flagged = Tally()
        self.after_grace = Tally()
        """Of what is missing from a feed: flows that would be flagged once its grace is over."""
        self.flows = 0
        self.from_ns: int | None = as_of_ns
        """From when on flows are taken to come again; None: they keep their own time."""
        self._told = flows
        self._as_of_ns = as_of_ns
        self._ids = 0
        self._last_ns = 0
        self.not_told_apart = 0
        """Cases and entries beyond the limit, which are in no count but that of flows."""

    def run(self) -> None:
        """Judge every flow."""
        for told in self._told:
            if self.flows == 0:
                self._begin()
                self.against.accept(told)
            self.flows += 1
            at_ns = self._as_of_ns
            if at_ns is None:
                at_ns = told.at_ns if self.from_ns is None else max(told.at_ns, self.from_ns)
            self._last_ns = max(self._last_ns, at_ns)
            self._flow(told, at_ns, self.against.judge(told, at_ns))

    def _begin(self) -> None:
        register = self.against.register
        judged_by = (self._told.stats or {}).get("register")
        if self._as_of_ns is None and (judged_by is None or judged_by.get("sha256") != register.sha256):
            self.from_ns = register.issued_at_ns

    def _flow(self, told: Told, at_ns: int, judgement: Judgement) -> None:
        was, now = told.judged, judged(judgement, told.facts)
        if now["action"] != "flag":
            self._grace(told, judgement)
        if not differs(was, now):
            return
        reason, entry = self._reason(told, at_ns, judgement)
        change = Change(
            was["verdict"], was["action"], now["verdict"], now["action"], reason, entry.kind, entry.category
        )
        tallies = [self.changes.setdefault(change, Tally())]
        was_flagged, is_flagged = was["action"] == "flag", now["action"] == "flag"
        if is_flagged and not was_flagged:
            tallies.append(self.newly_flagged)
            self._flag(told, was, now, reason, entry.entry_id)
        elif was_flagged and not is_flagged:
            tallies.append(self.no_longer_flagged)
        for tally in tallies:
            self._count(tally, now["case_id"] if is_flagged else was["case_id"], entry.entry_id)

    def _flag(self, told: Told, was: Judged, now: Judged, reason: str, entry_id: str) -> None:
        case = self.flagged.get(now["case_id"])
        if case is None:
            if len(self.flagged) >= _MAX_FLAGGED:
                return
            case = self.flagged[now["case_id"]] = FlaggedCase(
                now["case_id"],
                told.facts.protocol,
                was["verdict"],
                now["verdict"],
                reason,
                entry_id,
                told.flow_id,
            )
        case.flows += 1

    def _grace(self, told: Told, judgement: Judgement) -> None:
        """Whether it would be flagged once what is missing has been missing for the whole grace.

        At either end: a provider's server that is missing may be what spares those who dial it.
        """
        missing = [
            match.entry
            for match in judgement.entries
            if match.standing is Standing.IN_GRACE and match.entry.missing_since_ns is not None
        ]
        if not missing:
            return
        since_ns = max(entry.missing_since_ns or 0 for entry in missing)
        over_ns = since_ns + self.against.policy.grace_ns
        # By then there is a newer register, in which nothing but the time is another.
        current = replace(self.against.register, next_update_ns=over_ns)
        later = replace(self.against, register=current).judge(told, over_ns)
        if str(later.action) == "flag":
            self._count(self.after_grace, judged(later, told.facts)["case_id"], missing[0].entry_id)

    def _count(self, tally: Tally, case_id: str, entry_id: str) -> None:
        tally.flows += 1
        for ids, name in ((tally.cases, case_id), (tally.entries, entry_id)):
            if not name or name in ids:
                continue
            if self._ids >= _MAX_IDS:
                self.not_told_apart += 1
                continue
            self._ids += 1
            ids.add(name)

    def _reason(self, told: Told, at_ns: int, judgement: Judgement) -> tuple[str, Named]:
        """Why the answer is another one, and the entry that it turns on."""
        was = {(entry.entry_id, entry.prefix): entry.standing for entry in told.entries}
        here = set()
        for match in judgement.entries:  # the decisive ones come first
            name = _named(match)
            key = name.entry_id, name.prefix
            here.add(key)
            if key not in was:
                if match.decisive:
                    return "entry added", name
            elif was[key] != name.standing:
                missing_ns = match.entry.missing_since_ns
                if missing_ns is not None and at_ns >= missing_ns:
                    return "entry missing from the feed", name
                own = {_named(other) for other in self.against.judge(told).entries}
                waited = at_ns != told.at_ns and name._replace(standing=was[key]) in own
                return "time passed" if waited else "entry changed", name
        for entry in told.entries:
            if (entry.entry_id, entry.prefix) not in here:
                return "entry gone", entry
        nobody = told.entries[0] if told.entries else Named("", "", "", "", "")
        if Verdict.INDETERMINATE in (told.judged["verdict"], judgement.verdict):
            return "age of the register", nobody
        if told.judged["policy_hash"] != self.against.policy.sha256:
            return "policy", nobody
        return "time passed", nobody

    def item(self) -> dict[str, Any]:
        """The answer for programs."""
        register = self.against.register
        return {
            "register": {"source": register.source, "serial": register.serial},
            "policy_hash": self.against.policy.sha256,
            "as_if_from": None if self.from_ns is None else rfc3339(self.from_ns),
            "flows": self.flows,
            "newly_flagged": self.newly_flagged.item(),
            "no_longer_flagged": self.no_longer_flagged.item(),
            "flagged_after_grace": self.after_grace.item(),
            "flagged_cases": [case.item() for case in self.flagged.values()],
            "changes": [change._asdict() | tally.item() for change, tally in self._ordered()],
        }

    def lines(self, rows: int) -> Iterator[str]:
        """The answer for people: who would be flagged first, then all changes."""
        register, policy = self.against.register, self.against.policy
        zone = policy.time_zone
        yield (
            f"{number(self.flows, 'flow')} judged by {register.source}, serial {register.serial}, issued "
            f"{moment(register.issued_at_ns, zone)}, and policy {policy.sha256[:8]}"
        )
        if self._as_of_ns is not None:
            yield f"As if each came again at {moment(self._as_of_ns, zone)}"
        elif self.from_ns is not None:
            yield f"As if each came again at {moment(self.from_ns, zone)}, later ones at their own time"
        if policy.enforce_from_ns is None or policy.enforce_from_ns > self._last_ns:
            until = (
                "without an end"
                if policy.enforce_from_ns is None
                else f"until {moment(policy.enforce_from_ns, zone)}"
            )
            yield f"The policy is on trial {until}: --enforced says what it would flag after that"
        yield ""
        yield f"Newly flagged: {self.newly_flagged}"
        for case in list(self.flagged.values())[:rows]:
            entry = f" ({case.entry_id})" if case.entry_id else ""
            yield (
                f"  case {case.case_id}, {case.protocol}: {case.was} -> {case.now}, {case.reason}{entry}; "
                f"{number(case.flows, 'flow')}, first {case.flow_id}"
            )
        if len(self.flagged) > rows:
            yield f"  and {len(self.flagged) - rows:,} more cases (--rows, --json)"
        yield f"No longer flagged: {self.no_longer_flagged}"
        if self.after_grace.flows:
            yield f"Flagged when the grace of what is missing is over: {self.after_grace}"
        if self._told.early:
            yield f"{number(self._told.early, 'flow')} judged before the last event: too many ran at once"
        if self.not_told_apart:
            yield f"{self.not_told_apart:,} cases and entries are more than can be told apart: not counted"
        yield ""
        if not self.changes:
            yield "No verdict changes."
            return
        table: list[tuple[str, ...]] = [
            ("was", "now", "reason", "kind", "category", "flows", "cases", "entries")
        ]
        for change, tally in self._ordered():
            table.append(
                (
                    f"{change.was} ({change.was_action})",
                    f"{change.now} ({change.now_action})",
                    change.reason,
                    change.kind or "-",
                    change.category or "-",
                    *(f"{count:,}" for count in tally.item().values()),
                )
            )
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            cells = [
                cell.ljust(width) if place < 5 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            yield "  ".join(cells).rstrip()

    def _ordered(self) -> list[tuple[Change, Tally]]:
        """New flags first, then flags that go, then the rest; the most flows first."""

        def order(item: tuple[Change, Tally]) -> tuple[int, int, Change]:
            change, tally = item
            group = 0 if change.now_action == "flag" else 1 if change.was_action == "flag" else 2
            return group, -tally.flows, change

        return sorted(self.changes.items(), key=order)


def _named(match: Match) -> Named:
    entry = match.entry
    return Named(
        entry.entry_id, entry.kind.value, entry.category.value, str(entry.prefix), str(match.standing)
    )
