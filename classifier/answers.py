"""What register and policy say of flows, put so that the core can give it of all that are alike.

In: what `_core.Reporter` asks for, a row that it has no answer for, and what was said of the flow before.
Out: what is said of it now, as the JSON of its event with holes where flows differ (`_core.HOLES`).
`Policy.judge` is asked, and it alone decides. The core keeps two things (`core/src/reporter/answers.rs`):

    Ends      for each class of ends: the entries behind a judgement, as JSON, and the reason that names them
    Answer    for each class of what the policy compares (`Policy.grounds`) and of the flow's state, and
              for what was said before: everything else

so that a thousand registrants share the answers, and only their entries are held for each.

The rule a reader would get wrong: both hold from one instant until another, since dates pass. Nothing kept
changes an answer (`tests/test_answers.py` compares each line with one judged by itself); all of it is
forgotten when a register or policy is taken, and when it is too much.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Mapping
from itertools import count, islice
from typing import Final, NamedTuple

import orjson

from classifier import _core
from classifier.events import Counted, EntryItem, Was
from classifier.judgement import Judgement
from classifier.policy import NOTHING_IN_FORCE, Policy, UnregisteredAfter
from classifier.register import Compiled, Register
from classifier.standing import ALWAYS, Match

__all__ = ["Answers", "Row", "Said", "entry_items"]

_MAX_ENTRIES: Final = 16
_MAX_ENDS: Final = 32_768
_MAX_ANSWERS: Final = 16_384
_MAX_SAID: Final = 65_536
# In texts, where a name or a time will stand: Unicode keeps these for the inside of programs.
_SOURCE: Final = "\ufdd0"
_DESTINATION: Final = "\ufdd1"
_SEEN: Final = "\ufdd2"
_HOLES: Final = (
    (_SOURCE.encode(), _core.HOLES["source"]),
    (_DESTINATION.encode(), _core.HOLES["destination"]),
    (_SEEN.encode(), _core.HOLES["seen"]),
)
_LOOKED_UP, _TOO_OLD, _OVERDUE = range(3)
"""Why it is the verdict that it is: what was looked up, the register's first record, its renewal."""


class Row(NamedTuple):
    """What judging a row of a `FlowBatch` needs; the fields are its columns, as `_core.Reporter` asks."""

    source: bytes
    destination: bytes
    destination_port: int | None
    protocol: str
    confidence: str
    phase: str
    via_proxy: bool
    packets_to_server: int
    packets_to_client: int
    start_ns: int
    end_ns: int


class Said(NamedTuple):
    """What was last said about a flow, by which register and policy, and how far it was then."""

    verdict: str
    action: str
    rule: str
    register_serial: int | None
    policy_hash: str
    confidence: str
    phase: str

    def is_told_from(self, other: Said) -> bool:
        """Whether it says something else."""
        return self[:3] != other[:3]

    @property
    def judged_by(self) -> tuple[int | None, str]:
        return self.register_serial, self.policy_hash


class Answers:
    """The answers of one register and policy after the other; tags outlive both."""

    def __init__(
        self, register: Register | None, policy: Policy, as_of_ns: int | None, reporter: _core.Reporter
    ) -> None:
        self._as_of_ns = as_of_ns
        self._reporter = reporter
        self.said: dict[int, Said] = {}
        """By tag, the oldest first."""
        self.counted: list[Counted] = []
        """By the number that the core has for each; they are few."""
        self._tags: dict[Said, int] = {}
        self._last_tag = 0
        self._grounds: dict[Hashable, int] = {}
        self._numbers = count()
        self.adopt(register, policy)

    def adopt(self, register: Register | None, policy: Policy) -> None:
        """Answer by these from here on."""
        self._register = register
        self._policy = policy
        self._instants = policy.own_instants(register)
        self._waits = register is not None and policy.unregistered_after is UnregisteredAfter.NEXT_REGISTER
        self._grounds.clear()
        self._reporter.adopt(
            classes(register, policy, self._as_of_ns),
            ALWAYS[1] if register is None else policy.waits_from_ns(register),
        )

    def learn(self) -> None:
        """Answer what the core asks."""
        kept_ends, kept_answers = self._reporter.size()
        if kept_ends >= _MAX_ENDS or kept_answers >= _MAX_ANSWERS:
            self._forget()
        facts, report, tag, at_ns, known = self._reporter.question()
        row = Row(*facts)
        if self._as_of_ns is not None:
            # As if the flow ended just then: its age is compared with the register's, too.
            row = row._replace(start_ns=at_ns - (row.end_ns - row.start_ns), end_ns=at_ns)
        judgement = self._policy.judge(row, self._register, at_ns, self._reporter.first_seen)
        ends = None
        if known is None:
            ends = _core.Ends(
                from_ns=judgement.from_ns,
                until_ns=judgement.until_ns,
                entries=orjson.dumps(entry_items(judgement.entries)),
                asks_seen=self._waits and judgement.looked_up in NOTHING_IN_FORCE,
                subject_answers=judgement.subject == "destination",
                grounds=self._number(self._policy.grounds(judgement)),
            )
        reason = _LOOKED_UP
        if judgement.verdict is not judgement.looked_up:
            first_record_ns = 0 if self._register is None else self._register.first_record_ns
            reason = _TOO_OLD if row.start_ns < first_record_ns else _OVERDUE
        sentence = None
        if known is None or not known[reason]:
            sentence = _text(judgement.reason(_SOURCE, _DESTINATION))
        answer = self._answer(judgement, report, tag, reason, at_ns)
        self._reporter.learn(ends, sentence, answer, judgement.seen_ns)

    def _number(self, grounds: Hashable) -> int:
        """That stands for what the policy compares; none is given twice."""
        number = self._grounds.get(grounds)
        if number is None:
            number = self._grounds[grounds] = next(self._numbers)
        return number

    def _answer(self, judgement: Judgement, report: str, tag: int, reason: int, at_ns: int) -> _core.Answer:
        said = self.said.get(tag)
        now, now_tag = self._tagged(judgement)
        event: str | None = report
        is_changed = said is not None and now.is_told_from(said)
        if said is None:
            event = "ended" if report == "ended" else "recognised"
        elif report == "milestone" or report == "update":
            event = "changed" if is_changed else "update" if report == "update" else None
        subject = judgement.subject
        judged = {"verdict": now.verdict, "action": now.action, "rule": now.rule}
        opening = b'{%b,"subject":"%b","first":' % (
            _members(judged | {"direction": judgement.direction._value_}),
            _core.HOLES[f"{subject}_subject"],
        )
        behind_first = b',"case_id":"%b","entries":' % _core.HOLES[f"{subject}_case"]
        closing, was = judgement.reservation(_SEEN), b""
        if said is not None and is_changed:
            item: Was = {"verdict": said.verdict, "action": said.action, "rule": said.rule}
            if now.judged_by != said.judged_by:
                item["register_serial"] = said.register_serial
                item["policy_hash"] = said.policy_hash
                closing += _judged_anew(said, now)
            was = b',"was":' + orjson.dumps(item)
        by = {"register_serial": now.register_serial, "policy_hash": now.policy_hash}
        from_ns, until_ns = self._steady(at_ns)
        counted = Counted(judgement.flow.protocol, now.verdict, now.action)
        if counted not in self.counted:
            self.counted.append(counted)
        flags = now.action == "flag"
        return _core.Answer(
            from_ns=from_ns,
            until_ns=until_ns,
            event=event,
            tag=now_tag,
            flags=flags,
            newly_flagged=flags and (said is None or said.action != "flag"),
            turns=flags and said is not None and said.action != "flag",
            counted=self.counted.index(counted),
            reason=reason,
            opening=opening + b"false" + behind_first,
            opening_of_first=opening + b"true" + behind_first,
            middle=b',%b,"why":"' % _members(by),
            closing=_text(closing) + b'"' + was + b"}",
        )

    def _steady(self, at_ns: int) -> tuple[int, int]:
        """Since when and until when no date of the policy's own passes."""
        place = bisect_right(self._instants, at_ns)
        return self._instants[max(place - 1, 0)], self._instants[min(place, len(self._instants) - 1)]

    def _tagged(self, judgement: Judgement) -> tuple[Said, int]:
        """What is said now, and the number that stands for it."""
        key = Said(
            judgement.verdict,
            judgement.action,
            judgement.rule,
            judgement.register_serial,
            judgement.policy_hash,
            judgement.flow.confidence,
            judgement.flow.phase,
        )
        tag = self._tags.get(key)
        if tag is not None:
            return self.said[tag], tag
        if len(self.said) >= _MAX_SAID:
            # Every reload has all running flows judged and tagged anew, so nobody bears this one any more.
            oldest = next(iter(self.said))
            del self._tags[self.said.pop(oldest)]
            self._reporter.forget_tag(oldest)
            self._forget()
        self._last_tag = tag = self._last_tag % 0xFFFF_FFFF + 1
        now = key._replace(verdict=str(key.verdict), action=str(key.action))
        self.said[tag], self._tags[now] = now, tag
        return now, tag

    def _forget(self) -> None:
        self._grounds.clear()
        self._reporter.forget()


def classes(register: Register | None, policy: Policy, as_of_ns: int | None) -> _core.Classes:
    """What register and policy compare a flow with; what they do not is left out."""
    compiled = Compiled.of(()) if register is None else register.compiled()
    rules = policy.rules
    return _core.Classes(
        compiled.prefixes,
        policy.compiled(),
        ports=compiled.ports,
        packets=sorted({rule.min_packets for rule in rules}),
        packets_of_one=sorted({rule.min_subject_packets for rule in rules}),
        durations_ns=sorted({rule.min_duration_ns for rule in rules}),
        first_record_ns=ALWAYS[0] if register is None else register.first_record_ns,
        as_of_ns=as_of_ns,
    )


def entry_items(matches: Iterable[Match]) -> list[EntryItem]:
    """The entries behind a judgement, as events name them."""
    return [
        {
            "entry_id": entry.entry_id,
            "kind": entry.kind._value_,
            "category": entry.category._value_,
            "status": entry.status._value_,
            "standing": standing._value_,
            "end": end,
            "prefix": str(entry.prefix),
        }
        for entry, end, standing, _ in islice(matches, _MAX_ENTRIES)
    ]


def _members(part: Mapping[str, object]) -> bytes:
    """Members of a JSON object without its braces."""
    return orjson.dumps(part)[1:-1]


def _text(text: str) -> bytes:
    """Text as JSON inside of its quotes, with holes for the ends."""
    found = orjson.dumps(text)[1:-1]
    for mark, hole in _HOLES:
        found = found.replace(mark, hole)
    return found


def _judged_anew(said: Said, now: Said) -> str:
    """What came into force since the flow was last judged."""
    taken = []
    if now.register_serial != said.register_serial:
        before = "no register" if said.register_serial is None else f"serial {said.register_serial}"
        taken.append(f"the register of serial {now.register_serial} took the place of {before}")
    if now.policy_hash != said.policy_hash:
        taken.append("another policy came into force")
    return f" Since it was judged before, {' and '.join(taken)}."
