"""Corrections: what was said about flows, compared with what another register or policy says.

Takes the last event of each flow (`rejudge.Flows`) and gives an event stream of its own: `stats` (keep:
corrections), a `correction` for each flow whose verdict or action changes, then one for each case that stops
or begins to be flagged, then `stats` with counts. A flow is judged as the pipeline would have judged it then:
by the time of its event, since a corrected register also says better what was true before.

One rule a reader would get wrong: a recheck stands against the events themselves, not against an earlier
recheck. What it does not name is as its events say, so the latest recheck alone is enough.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from classifier import _core
from classifier.answers import entry_items
from classifier.events import (
    SCHEMA_VERSION,
    CorrectionEvent,
    CorrectionItem,
    EntryItem,
    Event,
    Judged,
    Stats,
    parse_time,
    stats_event,
)
from classifier.judgement import Judgement
from classifier.pipeline import register_item
from classifier.rejudge import Flows, Rejudge, Told, differs, judged

__all__ = ["Recheck"]

_MAX_CASES = 262_144
_COUNTS = (
    "flows",
    "changed",
    "flags_withdrawn",
    "flags_new",
    "cases_withdrawn",
    "cases_flagged",
    "flows_of_cases_not_followed",
)


@dataclass(slots=True)
class _Case:
    """A case that was flagged, or is now: what is known of its flows."""

    protocol: str
    was: Judged
    now: Judged
    timestamp: str = ""
    sensor: str = ""
    was_flagged: int = 0
    """Flows of it that were flagged."""
    now_flagged: int = 0
    entries: list[EntryItem] = field(default_factory=list)
    why: str = ""


class Recheck:
    """One run over some event files."""

    def __init__(self, flows: Flows, against: Rejudge, cases: int = _MAX_CASES) -> None:
        """At most `cases` flagged cases are followed; more are counted, and get corrections of flows only."""
        self.counts: Counter[str] = Counter()
        """What the last `stats` event counts, without its prefix `corrections.`."""
        self._flows = flows
        self._against = against
        self._cases: OrderedDict[str, _Case] = OrderedDict()
        self._limit = cases
        self._sensor = "recheck"

    def events(self) -> Iterator[Event]:
        """The corrections, between the two `stats` events."""
        begun = False
        clock_ns = 0
        for told in self._flows:
            clock_ns = max(clock_ns, parse_time(told.timestamp))
            self._sensor = told.sensor
            if not begun:
                begun = True
                yield self._stats("started", clock_ns)
            self._against.accept(told)
            yield from self._flow(told, self._against.judge(told))
        if not begun:
            yield self._stats("started", clock_ns)
        for name, case in self._cases.items():
            if bool(case.was_flagged) is not bool(case.now_flagged):
                self.counts["cases_withdrawn" if case.was_flagged else "cases_flagged"] += 1
                yield _of_case(name, case)
        yield self._stats("ended", clock_ns)

    def summary(self) -> Iterator[str]:
        """What a person wants to know at the end, a line each."""
        count = self.counts
        yield (
            f"{count['flows']:,} flows judged again by register serial {self._against.register.serial}: "
            f"{count['changed']:,} change; flags withdrawn {count['flags_withdrawn']:,}, "
            f"new {count['flags_new']:,}; cases withdrawn {count['cases_withdrawn']:,}, "
            f"new {count['cases_flagged']:,}"
        )
        if not self._flows.kept_all:
            yield "flows that pass may have been left out of these events: new flags may be missing"
        if self._flows.early:
            yield f"{self._flows.early:,} flows were judged before their last event: too many ran at once"
        if missed := count["flows_of_cases_not_followed"]:
            yield f"{missed:,} flagged flows belong to cases beyond the {self._limit:,} that are followed"

    def _flow(self, told: Told, judgement: Judgement) -> Iterator[Event]:
        was, now = told.judged, judged(judgement, told.facts)
        entries = entry_items(judgement.entries)
        self.counts["flows"] += 1
        if was["action"] == "flag" and (case := self._follow(was["case_id"], told)) is not None:
            case.was_flagged += 1
            if now["action"] != "flag":
                case.was, case.now, case.entries, case.why = was, now, entries, judgement.why
        if now["action"] == "flag" and (case := self._follow(now["case_id"], told)) is not None:
            case.now_flagged += 1
            case.was, case.now, case.entries, case.why = was, now, entries, judgement.why
        if not differs(was, now):
            return
        self.counts["changed"] += 1
        if (was["action"] == "flag") is not (now["action"] == "flag"):
            self.counts["flags_withdrawn" if was["action"] == "flag" else "flags_new"] += 1
        event = _event(
            told.timestamp,
            told.sensor,
            {
                "scope": "flow",
                "case_id": was["case_id"],
                "protocol": told.facts.protocol,
                "flows": 1,
                "was": was,
                "now": now,
                "entries": entries,
                "why": _why(judgement.why, was, now),
            },
        )
        event["flow_id"] = told.flow_id
        event["community_id"] = told.community_id
        event[told.place] = told.capture
        event["src_ip"] = told.source_ip
        event["dest_ip"] = told.destination_ip
        if told.facts.source_port is not None:
            event["src_port"] = told.facts.source_port
        if told.facts.destination_port is not None:
            event["dest_port"] = told.facts.destination_port
        yield event

    def _follow(self, case_id: str, told: Told) -> _Case | None:
        case = self._cases.get(case_id)
        if case is None:
            if len(self._cases) >= self._limit:
                self.counts["flows_of_cases_not_followed"] += 1
                return None
            case = self._cases[case_id] = _Case(told.facts.protocol, told.judged, told.judged)
        case.timestamp, case.sensor = told.timestamp, told.sensor
        return case

    def _stats(self, event: str, clock_ns: int) -> Event:
        began = self._flows.stats or {}
        register = self._against.register
        stats: Stats = {
            "keep": "corrections",
            "min_confidence": began.get("min_confidence", "likely"),
            "flow_key": began.get("flow_key", "five-tuple"),
            "peel": began.get("peel", "operator"),
            "remove_duplicates": began.get("remove_duplicates", False),
            "as_of": began.get("as_of"),
            "register": register_item(register),
            "policy_hash": self._against.policy.sha256,
        }
        if event == "ended":
            counts = {name: self.counts[name] for name in _COUNTS} | {"flows_early": self._flows.early}
            stats["counters"] = {f"corrections.{name}": count for name, count in sorted(counts.items())}
            stats["link_types"], stats["unreadable"], stats["interrupted"] = [], [], False
        return stats_event(clock_ns, self._sensor, event, stats)


def _of_case(case_id: str, case: _Case) -> CorrectionEvent:
    flagged = bool(case.now_flagged)
    flows = case.now_flagged if flagged else case.was_flagged
    number = f"{flows:,} flow{'' if flows == 1 else 's'}"
    why = (
        f"The case is flagged: {number} of it would have been. "
        if flagged
        else f"The flag of the case is withdrawn: none of its {number} would have been flagged. "
    )
    return _event(
        case.timestamp,
        case.sensor,
        {
            "scope": "case",
            "case_id": case_id,
            "protocol": case.protocol,
            "flows": flows,
            "was": case.was,
            "now": case.now,
            "entries": case.entries,
            "why": why + _why(case.why, case.was, case.now),
        },
    )


def _why(why: str, was: Judged, now: Judged) -> str:
    """What is said now, and by what it was said otherwise."""
    serial = was["register_serial"]
    by = "without a register" if serial is None else f"by register serial {serial}"
    if was["policy_hash"] != now["policy_hash"]:
        by += " and another policy"
    return f"{why} Before, {by}, it was {was['verdict']} ({was['action']}, rule {was['rule']})."


def _event(timestamp: str, sensor: str, correction: CorrectionItem) -> CorrectionEvent:
    return {
        "timestamp": timestamp,
        "schema": SCHEMA_VERSION,
        "sensor": sensor,
        "event_type": "correction",
        "correction": correction,
        "version": _core.version,
    }
