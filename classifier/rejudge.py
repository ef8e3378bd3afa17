"""A stored vpn event judged again: the flow that it told of, against another register or policy.

Takes event files and gives, once for each flow, what its last event said (`Told`) and what register and
policy make of the same flow now (`Rejudge`). `recheck`, `register plan` and `register health` share it.
Bounded: a flow is held from its first event to its `ended` one, as some hundred bytes, and no more than
`limit` flows at once; beyond that the one that was silent longest is given as it stands (counted in
`Flows.early`), and again if more events of it follow.

One rule a reader would get wrong: the time of judgement is not the event's `timestamp`. As in the pipeline,
an `ended` event is judged at the flow's last packet (the clock is an idle timeout further by then), and a run
with --as-of at that one time.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from classifier._core import RUNS_NS, FirstSeen
from classifier.cases import case_id, subject_prefix
from classifier.errors import ClassifierError
from classifier.event_file import EventFiles, Line
from classifier.events import Judged, Place, parse_time, place
from classifier.judgement import ACTIONS, Judgement
from classifier.policy import Confidence, FlowFacts, Phase, Policy, UnregisteredAfter
from classifier.register import Protocol, Register
from classifier.standing import VERDICTS

__all__ = ["Flows", "Rejudge", "Told", "differs", "facts_of", "judged", "load_both", "packed", "seen_at"]

_LIMIT = 262_144
_PROTOCOLS = frozenset(map(str, Protocol))
_CONFIDENCES = frozenset(map(str, Confidence))
_PHASES = frozenset(map(str, Phase))
_VERDICTS = frozenset(map(str, VERDICTS))
_ACTIONS = frozenset(map(str, ACTIONS))


class Named(NamedTuple):
    """An entry as an event names it."""

    entry_id: str
    kind: str
    category: str
    prefix: str
    standing: str


class Told(NamedTuple):
    """What the last event of a flow says."""

    place: Place
    """Of its event: whether the capture is a file or interfaces."""
    capture: str
    flow_id: int
    community_id: str
    sensor: str
    timestamp: str
    source_ip: str
    destination_ip: str
    ended: bool
    facts: FlowFacts
    at_ns: int
    """The time by which it was judged."""
    direction: str
    judged: Judged
    entries: tuple[Named, ...]
    """Those that it names, the decisive ones first."""
    seen_ns: int
    """When its case was first seen, as far as anything asked; else when it began."""

    def first_seen(self, _subject: bytes, _remote: bytes, _protocol: str, start_ns: int) -> int:
        """As `Policy.judge` asks; a flow that is taken to come again later was seen when it was seen."""
        return min(start_ns, self.seen_ns)


@dataclass(frozen=True, slots=True)
class Rejudge:
    """A register and a policy, asked about flows of the past."""

    register: Register
    policy: Policy
    assumed: str | None = None
    """The policy's path, when nobody named it: then it must be the one that judged the events."""

    @classmethod
    def load(
        cls, rules: str | None, register: str | None, policy: str | None, loaded: Register | None = None
    ) -> Rejudge:
        """The register and policy that these names stand for; see `recheck --help` for a policy not named.

        `loaded` takes the place of the register of that name, which then only says where to look.
        """
        assumed = None
        if rules is not None:
            register = register or str(Path(rules, "register.csv"))
            policy = policy or str(Path(rules, "policy.toml"))
        elif policy is None and register is not None:
            assumed = policy = str(Path(register).parent / "policy.toml")
            if not Path(assumed).exists():
                raise ClassifierError(f"{register}: a register needs a policy: name one (--policy FILE)")
        if loaded is not None and policy is not None:
            return cls(loaded, Policy.load(Path(policy)), assumed)
        return cls(*load_both(None, register, policy), assumed)

    def accept(self, told: Told) -> None:
        """ClassifierError when nobody named the policy and it is not the one that judged this flow."""
        if self.assumed is not None and told.judged["policy_hash"] != self.policy.sha256:
            raise ClassifierError(
                f"{self.assumed}: lies beside the register, but is not the policy that judged these events "
                "(its hash is another one); name the policy to judge by: --policy FILE"
            )

    def meet(self, told: Told, seen: FirstSeen) -> Told:
        """The same, with the time at which its case was first seen (`unregistered_after`).

        As in the pipeline, `seen` learns of a case by every event that is judged, not by the last ones only.
        """
        if self.policy.unregistered_after is UnregisteredAfter.IMMEDIATELY:
            return told
        asked: list[int] = []

        def since(subject: bytes, remote: bytes, protocol: str, start_ns: int) -> int:
            asked.append(seen.since(subject, remote, protocol, start_ns))
            return asked[-1]

        self.policy.judge(told.facts, self.register, told.at_ns, since)
        return told._replace(seen_ns=asked[-1]) if asked else told

    def judge(self, told: Told, at_ns: int | None = None) -> Judgement:
        """As the pipeline would have: by the time of the event, or as if the flow had ended at `at_ns`."""
        facts = told.facts
        if at_ns is not None and at_ns != told.at_ns:
            return self.policy.judge(seen_at(facts, at_ns), self.register, at_ns, told.first_seen)
        judgement = self.policy.judge(facts, self.register, told.at_ns, told.first_seen)
        newly_flagged = judgement.action == "flag" and told.judged["action"] != "flag"
        if newly_flagged and facts.end_ns < told.at_ns - RUNS_NS:
            # Silent for so long, it may be over: what was never sent is not flagged, here as there.
            silent = self.policy.judge(facts, self.register, facts.end_ns, told.first_seen)
            return judgement if silent.action == "flag" else silent
        return judgement


def load_both(
    rules: str | None, register: str | None, policy: str | None, serial: int | None = None
) -> tuple[Register, Policy]:
    """The register (a past state of a store with `serial`) and the policy; neither is ever implied."""
    if rules is not None:
        register = register or str(Path(rules, "register.csv"))
        policy = policy or str(Path(rules, "policy.toml"))
    if register is None or policy is None:
        raise ClassifierError(
            "a register and a policy are needed: --register PATH and --policy FILE, or --rules DIR with both"
        )
    loaded = Register.load(Path(register)) if serial is None else Register.load(Path(register), serial)
    return loaded, Policy.load(Path(policy))


class Flows:
    """The last event of each flow in some event files, in the order in which flows end."""

    def __init__(
        self,
        files: EventFiles,
        against: Rejudge | None = None,
        *,
        limit: int = _LIMIT,
        all_needed: str | None = None,
        on_ledger: Callable[[Line], None] | None = None,
    ) -> None:
        """`against`: what the flows will be judged by, so that every event of theirs is met in its order.

        With `all_needed`, a file without its passing flows is refused; the text says what for.
        `on_ledger` takes the lines of ledgers; without it they are refused, since they tell of no flow.
        """
        self.stats: dict[str, Any] | None = None
        """The `stats` of the first line."""
        self.kept_all = True
        """No file says that flows that pass were left out."""
        self.early = 0
        """Flows given before their end, because too many were running."""
        self.count = 0
        """Flows given."""
        self._files = files
        self._limit = limit
        self._all_needed = all_needed
        self._on_ledger = on_ledger
        self._as_of_ns: int | None = None
        self._against = against
        self._seen = FirstSeen()
        self._capture = ""

    def __iter__(self) -> Iterator[Told]:
        held: OrderedDict[tuple[str, int], Told] = OrderedDict()
        for line in self._files:
            kind = line.event["event_type"]
            if kind == "ledger":
                self._ledger(line)
                continue
            if line.number == 1:
                self._begin(line)
            elif kind == "stats" and line.event.get("event") == "started":
                self._started(line)
            if kind != "vpn":
                continue
            try:
                told = self._tell(line.event)
            except (KeyError, TypeError, ValueError, OSError) as error:
                raise line.fault(error) from None
            key = told.capture, told.flow_id
            held.pop(key, None)
            if told.ended:
                self.count += 1
                yield told
                continue
            if len(held) >= self._limit:
                self.early += 1
                self.count += 1
                yield held.popitem(last=False)[1]
            held[key] = told
        for told in held.values():
            self.count += 1
            yield told

    def _ledger(self, line: Line) -> None:
        if self._on_ledger is None:
            raise ClassifierError(
                f"{line.path}: is a ledger, which has counts and no flows; name the events of its time"
            )
        line.check()
        self._on_ledger(line)

    def _tell(self, event: Mapping[str, Any]) -> Told:
        told = _told(event, self._as_of_ns)
        if self._against is None:
            return told
        if told.capture != self._capture:
            self._capture = told.capture
            self._seen.clear()  # captures are independent
        return self._against.meet(told, self._seen)

    def _begin(self, line: Line) -> None:
        if line.event["event_type"] == "stats" and line.event.get("event") == "started":
            self._started(line)
            return
        self._as_of_ns = None
        self.kept_all = False
        if self._all_needed:
            raise ClassifierError(
                f"{line.path}: does not begin with the `stats` event `started`, so nothing says whether "
                f"flows that pass were left out; {self._all_needed}. Expected a whole file, as "
                "`vpn-classifier replay -o` writes it"
            )

    def _started(self, line: Line) -> None:
        try:
            stats = line.event["stats"]
            keep, as_of = stats["keep"], stats["as_of"]
            self._as_of_ns = None if as_of is None else parse_time(as_of)
        except (KeyError, TypeError, ValueError) as error:
            raise line.fault(error) from None
        if keep == "corrections":
            raise ClassifierError(
                f"{line.path}: holds corrections (`recheck` wrote it), not the flows themselves; "
                "name the events that were rechecked"
            )
        if keep != "all":
            self.kept_all = False
            if self._all_needed:
                raise ClassifierError(
                    f"{line.path}: line {line.number} says keep: {keep!r}, so flows that pass were left out; "
                    f"{self._all_needed}. Name events that were kept whole (keep: 'all')"
                )
        if self.stats is None:
            self.stats = stats


def seen_at(facts: FlowFacts, at_ns: int) -> FlowFacts:
    """The same flow as if its last packet came at `at_ns`."""
    return replace(facts, start_ns=at_ns - (facts.end_ns - facts.start_ns), end_ns=at_ns)


def facts_of(event: Mapping[str, Any]) -> FlowFacts:
    """The flow that a vpn event tells of; KeyError, TypeError or ValueError when it is no good event."""
    vpn, flow = event["vpn"], event["flow"]
    protocol, confidence, phase = vpn["protocol"], vpn["confidence"], vpn["phase"]
    if protocol not in _PROTOCOLS or confidence not in _CONFIDENCES or phase not in _PHASES:
        raise ValueError("an unknown protocol, confidence or phase")
    return FlowFacts(
        protocol=protocol,
        variant=vpn["variant"],
        confidence=confidence,
        phase=phase,
        transport=event["proto"],
        source=packed(event["src_ip"]),
        destination=packed(event["dest_ip"]),
        source_port=_port(event.get("src_port")),
        destination_port=_port(event.get("dest_port")),
        packets_to_server=index(flow["pkts_toserver"]),
        packets_to_client=index(flow["pkts_toclient"]),
        start_ns=parse_time(flow["start"]),
        end_ns=parse_time(flow["end"]),
        via_proxy=bool(vpn.get("via_proxy", False)),
    )


def packed(text: str) -> bytes:
    """An address as bytes; ValueError when it is none."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        raise ValueError("text that is no address") from None


def judged(judgement: Judgement, facts: FlowFacts) -> Judged:
    """A judgement as events compare it."""
    subject, remote = facts.source, facts.destination
    if judgement.subject == "destination":
        subject, remote = remote, subject
    return {
        "verdict": str(judgement.verdict),
        "action": str(judgement.action),
        "rule": judgement.rule,
        "subject": subject_prefix(subject),
        "case_id": case_id(subject, remote, facts.protocol),
        "register_serial": judgement.register_serial,
        "policy_hash": judgement.policy_hash,
    }


def differs(was: Judged, now: Judged) -> bool:
    """Whether whoever consumed the one must hear of the other: another rule alone says nothing new."""
    return (was["verdict"], was["action"]) != (now["verdict"], now["action"])


def _told(event: Mapping[str, Any], as_of_ns: int | None) -> Told:
    facts = facts_of(event)
    policy = event["policy"]
    ended = event["event"] == "ended"
    at_ns = parse_time(event["timestamp"])
    if as_of_ns is not None:
        facts, at_ns = seen_at(facts, as_of_ns), as_of_ns
    elif ended:
        at_ns = min(at_ns, facts.end_ns)
    if policy["verdict"] not in _VERDICTS or policy["action"] not in _ACTIONS:
        raise ValueError("an unknown verdict or action")
    where, capture = place(event)
    return Told(
        place=where,
        capture=capture,
        flow_id=index(event["flow_id"]),
        community_id=event["community_id"],
        sensor=event["sensor"],
        timestamp=event["timestamp"],
        source_ip=event["src_ip"],
        destination_ip=event["dest_ip"],
        ended=ended,
        facts=facts,
        at_ns=at_ns,
        direction=policy["direction"],
        judged={
            "verdict": policy["verdict"],
            "action": policy["action"],
            "rule": policy["rule"],
            "subject": policy["subject"],
            "case_id": policy["case_id"],
            "register_serial": policy["register_serial"],
            "policy_hash": policy["policy_hash"],
        },
        entries=tuple(
            Named(*(entry["entry_id"], entry["kind"], entry["category"], entry["prefix"], entry["standing"]))
            for entry in policy["entries"]
        ),
        seen_ns=facts.start_ns,
    )


def _port(value: Any) -> int | None:
    return None if value is None else index(value)
