"""What register and policy say of flows, each answer kept for all flows that they cannot tell apart.

In: of a row of a batch, the classes that the core puts it into (`_core.Classes`), and what was said of the
flow before. Out: what is said of it now, as the JSON of its event with holes where flows differ
(`_core.HOLES`). `Policy.judge` is asked when no answer is kept, and it alone decides. Two things are kept:

    Ends      for each class of ends: the entries behind a judgement, as JSON, and the reason that names them
    Answer    for each class of what the policy compares (`Judgement.grounds`) and of the flow's state, and
              for what was said before: everything else

so that a thousand registrants share the answers, and only their entries are held for each.

The rule a reader would get wrong: both hold from one instant until another, since dates pass. Nothing kept
changes an answer (`tests/test_answers.py` compares each line with one judged by itself); all of it is
forgotten when a register or policy is taken, and when it is too much.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

import orjson

from classifier import _core
from classifier.events import Counted, EntryItem, Was
from classifier.policy import (
    ALWAYS,
    NOTHING_IN_FORCE,
    FirstSeen,
    Judgement,
    Match,
    Policy,
    UnregisteredAfter,
    time_text,
)
from classifier.register import Compiled, Register

__all__ = ["Answer", "Answers", "Ends", "Row", "Said", "entry_items"]

_MAX_ENTRIES: Final = 16
_MAX_ENDS: Final = 32_768
_MAX_ANSWERS: Final = 16_384
_MAX_SAID: Final = 65_536
# In texts, where a name or a time will stand: Unicode keeps these for the inside of programs.
_SOURCE: Final = "\ufdd0"
_DESTINATION: Final = "\ufdd1"
_SEEN: Final = "\ufdd2"
_SEEN_BYTES: Final = _SEEN.encode()
_HOLES: Final = (
    (_SOURCE.encode(), _core.HOLES["source"]),
    (_DESTINATION.encode(), _core.HOLES["destination"]),
)


class Row(NamedTuple):
    """What judging a row of a `FlowBatch` needs; the fields are its columns."""

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

    @classmethod
    def of(cls, batch: _core.FlowBatch) -> Row:
        """The only row of a batch."""
        return cls(*(getattr(batch, column)[0] for column in cls._fields))


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


@dataclass(slots=True)
class Ends:
    """What is kept for a class of ends."""

    from_ns: int
    until_ns: int
    entries: bytes
    """Behind the judgement, as JSON."""
    asks_seen: bool
    """When a case was first seen matters."""
    subject_answers: bool
    """The subject is the destination."""
    reasons: dict[str, bytes]
    """Sentences, as JSON inside of its quotes, by `Answer.reason`."""
    answers: dict[tuple[bytes, int, bool], Answer] = field(repr=False)
    """By state, tag and whether the case waits for the next register; shared by all with the same grounds."""


@dataclass(slots=True)
class Answer:
    """What is said of a flow; all but what its ends tell."""

    from_ns: int
    until_ns: int
    event: str | None
    """None: nothing is said."""
    now: Said
    tag: int
    """That stands for it."""
    newly_flagged: bool
    turns: bool
    """So is a flow of which something else was said."""
    counted: Counted
    reason: str
    """Which of `Ends.reasons` is given."""
    opening: bytes
    opening_of_first: bytes
    middle: bytes
    closing: bytes
    names_seen: bool
    """The closing says when the case was first seen."""

    def policy(self, ends: Ends, first: bool, seen_ns: int) -> tuple[bytes, ...]:
        """The JSON of an `events.PolicyItem` in pieces, with holes."""
        closing = self.closing
        if self.names_seen:
            closing = closing.replace(_SEEN_BYTES, time_text(seen_ns).encode())
        opening = self.opening_of_first if first else self.opening
        return opening, ends.entries, self.middle, ends.reasons[self.reason], closing


class Answers:
    """The answers of one register and policy after the other; tags outlive both."""

    def __init__(
        self, register: Register | None, policy: Policy, as_of_ns: int | None, first_seen: FirstSeen
    ) -> None:
        self._as_of_ns = as_of_ns
        self._first_seen = first_seen
        self.said: dict[int, Said] = {}
        """By tag, the oldest first."""
        self._tags: dict[Said, int] = {}
        self._last_tag = 0
        self._ends: dict[bytes, Ends] = {}  # by class; each holds for a time
        self._grounds: dict[Hashable, dict[tuple[bytes, int, bool], Answer]] = {}
        self._count = 0
        self.adopt(register, policy)

    def adopt(self, register: Register | None, policy: Policy) -> None:
        """Answer by these from here on."""
        self._register = register
        self._policy = policy
        self.classes = classes(register, policy, self._as_of_ns)
        """Which rows get one answer."""
        self._instants = policy.own_instants(register)
        self._waits = register is not None and policy.unregistered_after is UnregisteredAfter.NEXT_REGISTER
        # Of `Ends.asks_seen`: first seen from then on, a case waits for the next register.
        self._waits_from_ns = ALWAYS[1] if register is None else policy.waits_from_ns(register)
        self._forget()

    def of(
        self,
        batch: _core.FlowBatch,
        place: int,
        report: str,
        protocol: str,
        phase: str,
        source: bytes,
        destination: bytes,
        start_ns: int,
        tag: int,
        ends_class: bytes,
        state_class: bytes,
        at_ns: int,
    ) -> tuple[Ends, Answer, int]:
        """What is said at this time of a row of a batch; beside it when its case was first seen."""
        ends = self._ends.get(ends_class)
        if ends is not None and ends.from_ns <= at_ns < ends.until_ns:
            seen_ns, waits = start_ns, False
            if ends.asks_seen:
                if phase != "attempt":
                    here, there = (destination, source) if ends.subject_answers else (source, destination)
                    seen_ns = self._first_seen(here, there, protocol, start_ns)
                waits = seen_ns >= self._waits_from_ns
            answer = ends.answers.get((state_class, tag, waits))
            if (
                answer is not None
                and answer.from_ns <= at_ns < answer.until_ns
                and answer.reason in ends.reasons
            ):
                return ends, answer, seen_ns
        return self._learn(Row.of(batch.row(place)), report, ends_class, state_class, tag, at_ns)

    def _learn(
        self, row: Row, report: str, ends_class: bytes, state_class: bytes, tag: int, at_ns: int
    ) -> tuple[Ends, Answer, int]:
        """Ask for a judgement and keep what it says."""
        if self._as_of_ns is not None:
            # As if the flow ended just then: its age is compared with the register's, too.
            row = row._replace(start_ns=at_ns - (row.end_ns - row.start_ns), end_ns=at_ns)
        judgement = self._policy.judge(row, self._register, at_ns, self._first_seen)
        if len(self._ends) >= _MAX_ENDS or self._count >= _MAX_ANSWERS:
            self._forget()
        ends = self._ends.get(ends_class)
        if ends is None or not ends.from_ns <= at_ns < ends.until_ns:
            ends = self._ends[ends_class] = Ends(
                judgement.from_ns,
                judgement.until_ns,
                orjson.dumps(entry_items(judgement.entries)),
                self._waits and judgement.looked_up in NOTHING_IN_FORCE,
                judgement.subject == "destination",
                {},
                self._grounds.setdefault(judgement.grounds, {}),
            )
        reason = "looked_up"
        if judgement.verdict is not judgement.looked_up:
            first_record_ns = 0 if self._register is None else self._register.first_record_ns
            reason = "too_old" if row.start_ns < first_record_ns else "overdue"
        if reason not in ends.reasons:
            ends.reasons[reason] = _text(judgement.reason(_SOURCE, _DESTINATION))
        answer = self._answer(judgement, report, tag, reason, at_ns)
        waits = ends.asks_seen and judgement.seen_ns >= self._waits_from_ns
        self._count += (state_class, tag, waits) not in ends.answers
        ends.answers[state_class, tag, waits] = answer
        return ends, answer, judgement.seen_ns

    def _answer(self, judgement: Judgement, report: str, tag: int, reason: str, at_ns: int) -> Answer:
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
        return Answer(
            from_ns,
            until_ns,
            event,
            now,
            now_tag,
            now.action == "flag" and (said is None or said.action != "flag"),
            now.action == "flag" and said is not None and said.action != "flag",
            Counted(judgement.flow.protocol, now.verdict, now.action),
            reason,
            opening + b"false" + behind_first,
            opening + b"true" + behind_first,
            b',%b,"why":"' % _members(by),
            _text(closing) + b'"' + was + b"}",
            _SEEN in closing,
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
            del self._tags[self.said.pop(next(iter(self.said)))]
            self._forget()
        self._last_tag = tag = self._last_tag % 0xFFFF_FFFF + 1
        now = key._replace(verdict=str(key.verdict), action=str(key.action))
        self.said[tag], self._tags[now] = now, tag
        return now, tag

    def _forget(self) -> None:
        self._ends.clear()
        self._grounds.clear()
        self._count = 0


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
