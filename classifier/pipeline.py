"""From captures to events: poll the engine, have its batches reported, take new registers and policies.

When a date of register or policy passes, and when a new register or policy is taken, the engine reports the
running flows once more. Captures are independent: the events of one do not depend on what else was read. What
is said of a flow, and when, is for `reporter`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from classifier import _core
from classifier.errors import ClassifierError
from classifier.events import (
    Before,
    Event,
    LinkTypeItem,
    Place,
    RegisterEvent,
    RegisterItem,
    Stats,
    UnreadableItem,
    VpnLine,
    VpnLines,
    nanoseconds,
    parse_time,
    register_event,
    rfc3339,
    stats_event,
)
from classifier.inputs import InputError, InputFault, Inputs, find
from classifier.policy import Policy
from classifier.register import Register
from classifier.reporter import Reporter

if TYPE_CHECKING:
    from classifier.metrics.tally import Tally

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to replay; the defaults are those of the command line."""

    min_confidence: str = "likely"
    flow_key: str = "five-tuple"
    as_of_ns: int | None = None
    workers: int = 1
    sensor: str = "replay"
    peel: str = "operator"
    remove_duplicates: bool = False
    filter: str = ""


def replay(
    paths: Paths,
    *,
    rules: str | os.PathLike[str] | None = None,
    register: str | os.PathLike[str] | None = None,
    policy: str | os.PathLike[str] | None = None,
    min_confidence: str = "likely",
    as_of: str | date | None = None,
    workers: int = 1,
    flow_key: str = "five-tuple",
    sensor: str = "replay",
    peel: str = "operator",
    remove_duplicates: bool = False,
    filter: str = "",
) -> Iterator[Event]:
    """Read captures and yield events, the same that the command `vpn-classifier replay` writes.

    `paths`: files, directories, globs or "-", one or several. `rules`: a directory that holds
    `register.csv` and `policy.toml`; `register` and `policy` name one file each and come before it.
    Without a register every verdict is `not_evaluated`. `min_confidence`: "possible", "likely" or
    "confirmed". `as_of`: judge by this time (RFC 3339, a date, or a datetime) instead of the packets'.
    `workers`: threads that read, 1 to 64. `flow_key`: "five-tuple", "+vlan" or "+path". `sensor`: name of the
    observation point, for the events. `peel`: which tunnels over IP are opened: "operator" (those with no end
    in the policy's networks), "all" or "none". `remove_duplicates`: count a packet that a mirror delivers
    twice, within 10 ms, once. `filter`: a BPF expression such as "udp port 51820" that selects packets; it
    needs libpcap.

    A register or policy that cannot be used raises here (`RegisterError`, `PolicyError`, `ConfigError`), a
    wrong argument ValueError. Input that cannot be read does not end the iteration: when all else has been
    read and the last event was given, `InputError` is raised with every fault.
    """
    settings = Settings(
        min_confidence, flow_key, _as_of(as_of), workers, sensor, peel, remove_duplicates, filter
    )
    names = [paths] if isinstance(paths, str | os.PathLike) else paths
    run = Replay(find([os.fspath(name) for name in names]), *load_rules(rules, register, policy), settings)
    return _checked(run)


def _checked(run: Replay) -> Iterator[Event]:
    yield from run.events()
    if run.faults:
        raise InputError(tuple(run.faults))


def _as_of(moment: str | date | None) -> int | None:
    if moment is None:
        return None
    return parse_time(moment) if isinstance(moment, str) else nanoseconds(moment)


def load_rules(
    rules: str | os.PathLike[str] | None,
    register: str | os.PathLike[str] | None,
    policy: str | os.PathLike[str] | None,
) -> tuple[Register | None, Policy | None]:
    """The register and the policy that these names stand for; neither is ever implied.

    A register needs a policy, since only a policy says what a verdict leads to; a policy alone is fine.
    """
    if rules is not None:
        register = register or Path(rules, "register.csv")
        policy = policy or Path(rules, "policy.toml")
    if register is not None and policy is None:
        raise ClassifierError(
            f"{os.fspath(register)}: a register needs a policy: name one (--policy FILE), "
            "or a directory with both (--rules DIR)"
        )
    return (
        None if register is None else Register.load(Path(register)),
        None if policy is None else Policy.load(Path(policy)),
    )


@dataclass(frozen=True, slots=True)
class _Request:
    """To judge by something else from here on; None stands for what is in force."""

    register: Register | None = None
    policy: Policy | None = None
    faults: Sequence[str] = ()
    """Why nothing new could be loaded."""
    judging: tuple[Register | None, Policy | None] = (None, None)
    """What would be in force together, when this was asked for."""
    instants: Sequence[int] = ()
    """The dates of these two."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run has counted at one moment, and what it judges by then."""

    counters: dict[str, int]
    """Those of `_core.Engine.stats`, and of this side."""
    interfaces: Sequence[_core.Interface]
    register: Register | None
    policy: Policy | None
    at_ns: int
    """The time that dates are judged by."""
    in_force_since_ns: int
    """By the host's clock: when what judges came into force."""
    last_reload_loaded: bool
    is_stopping: bool


class Replay:
    """One run over some captures. `watch.Watch` is one that listens."""

    place: Place = "pcap_filename"
    """Under which name events say where their packets come from."""
    _has_end = True  # so that stopping before it is an interruption
    _keep = "all"
    _poll_ms = 20  # several workers read on meanwhile, so that nobody waits for anybody for long

    def __init__(
        self,
        inputs: Inputs,
        register: Register | None = None,
        policy: Policy | None = None,
        settings: Settings | None = None,
        engine: _core.Engine | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._inputs = inputs
        self._tally = tally
        self._reporter: Reporter | None = None
        self._in_force_since_ns = time.time_ns()
        self._last_reload_loaded = True
        self._register = register
        self._policy = policy
        self._requests: deque[_Request] = deque()
        self._loaded = self._refused = 0
        self._engine = engine or _core.Engine(
            workers=self._settings.workers,
            min_confidence=self._settings.min_confidence,
            flow_key=self._settings.flow_key,
            packet_milestones=() if policy is None else policy.packet_milestones,
            duration_milestones_s=() if policy is None else policy.duration_milestones_s,
            remove_duplicates=self._settings.remove_duplicates,
            peel=self._settings.peel,
            subscribers=_subscribers(policy),
            filter=_programs(self._settings.filter),
        )
        self._engine.review_at(self._instants(register, policy))
        self._links: dict[tuple[int, str, bool], int] = {}
        self._bytes = 0
        self._stopping = False
        self.current: str | None = None
        """The capture being read."""
        self.faults: list[InputFault] = list(inputs.faults)
        """What could not be read, so far."""
        self.interrupted = False
        """`stop` was called before the input was at its end."""

    def stop(self) -> None:
        """Read no further: the flows that are running end, and so do the events. Safe in a signal handler."""
        self._stopping = True

    def reload(self, register: Register | None = None, policy: Policy | None = None) -> None:
        """Judge by these from the next poll on, running flows too; None keeps what is in force.

        Safe in a signal handler and from another thread; the same goes for `refuse`. What takes long is done
        here, not between two polls.
        """
        judging = register or self._register, policy or self._policy
        if judging[0] is not None:
            judging[0].compiled()
        self._requests.append(_Request(register, policy, judging=judging, instants=self._instants(*judging)))

    def refuse(self, faults: Sequence[str]) -> None:
        """Say in an event that a register or policy could not be loaded; what is in force stays so."""
        self._requests.append(_Request(faults=tuple(faults) or ("no reason was given",)))

    def progress(self) -> tuple[int, int | None, int]:
        """Bytes read, bytes in all (None when unknown), and frames read."""
        here = self._engine.progress()[0] if self.current is not None else 0
        return self._bytes + here, self._inputs.size, self._engine.stats().get("frames", 0)

    def figures(self) -> Figures:
        """What metrics are made of. Between two polls, that is in `on_poll`, all of it is of one moment."""
        reporter = self._reporter
        now_ns = 0 if reporter is None else max(self._now_ns(reporter), reporter.latest_ns)
        # The kernel's numbers first: they are what the counters add up to.
        interfaces = self._engine.interfaces()
        return Figures(
            counters=self._all_counters(),
            interfaces=interfaces,
            register=self._register,
            policy=self._policy,
            at_ns=self._settings.as_of_ns or now_ns,
            in_force_since_ns=self._in_force_since_ns,
            last_reload_loaded=self._last_reload_loaded,
            is_stopping=self._stopping,
        )

    def events(self, on_poll: Callable[[], None] | None = None) -> Iterator[Event]:
        """Everything worth recording, in order; `on_poll` is called several times a second."""
        for event in self.lines(on_poll):
            yield event.event() if isinstance(event, VpnLine) else event

    def lines(self, on_poll: Callable[[], None] | None = None) -> Iterator[Event | VpnLine]:
        """The same; those of flows, which are many, as the lines they are written as."""
        for event in self.blocks(on_poll):
            if isinstance(event, VpnLines):
                yield from event.lines()
            else:
                yield event

    def blocks(self, on_poll: Callable[[], None] | None = None) -> Iterator[Event | VpnLines]:
        """The same, lines by the hundred; where one block ends and the next begins carries no meaning."""
        reporter = self._reporter = Reporter(
            self._register, self._policy, self._settings, self._engine, self.place, self._tally
        )
        started = self._stats()
        reporter.latest_ns = self._now_ns(reporter)
        begun = reporter.latest_ns > 0
        if begun:
            yield stats_event(reporter.latest_ns, self._settings.sensor, "started", started)
        self._engine.announce(self._inputs.paths)
        for path in self._inputs.paths:
            events = self._capture(path, reporter, on_poll)
            if not begun and (first := next(events, None)) is not None:
                begun = True
                time_ns = reporter.latest_ns if reporter.first_ns is None else reporter.first_ns
                yield stats_event(time_ns, self._settings.sensor, "started", started)
                yield first
            yield from events
            if self.interrupted:
                break
        if not begun:
            yield stats_event(reporter.latest_ns, self._settings.sensor, "started", started)
        reporter.latest_ns = max(reporter.latest_ns, self._now_ns(reporter))
        yield from self._take_requests(reporter, reporter.latest_ns)
        ended = self._stats()
        ended["counters"] = dict(sorted(self._all_counters().items()))
        ended["link_types"] = [
            LinkTypeItem(number=number, name=name, frames=frames, decoded=decoded)
            for (number, name, decoded), frames in sorted(self._links.items())
        ]
        ended["unreadable"] = [
            UnreadableItem(
                pcap_filename=fault.path,
                reason=fault.reason,
                offset=fault.offset,
                found=fault.found,
                expected=fault.expected,
            )
            for fault in self.faults
        ]
        ended["interrupted"] = self.interrupted
        yield stats_event(reporter.latest_ns, self._settings.sensor, "ended", ended)

    def _capture(
        self, path: str, reporter: Reporter, on_poll: Callable[[], None] | None
    ) -> Iterator[Event | VpnLines]:
        if self._stopping:
            self.interrupted = self._has_end
            return
        try:
            self._open(path)
        except _core.CaptureError as error:
            self.faults.append(_fault(path, error))
            return
        self.current = path
        finishing = False
        while True:
            if self._stopping and not finishing:
                finishing = True
                self.interrupted = self._has_end
                self._engine.finish()
            yield from self._take_requests(reporter, self._now_ns(reporter))
            try:
                batch = self._engine.poll(self._poll_ms)
            except _core.CaptureError as error:
                self.faults.append(_fault(path, error))
                continue
            if batch is None:
                break
            yield from reporter.batch(path, batch)
            yield from self._idle(path, reporter)
            if on_poll is not None:
                on_poll()
        yield from reporter.end(path)
        for number, name, frames, decoded in self._engine.link_types():
            key = (number, name, decoded)
            self._links[key] = self._links.get(key, 0) + frames
        self._bytes += self._engine.progress()[0]
        self.current = None

    def _open(self, path: str) -> None:
        self._engine.open(path, path)

    def _now_ns(self, reporter: Reporter) -> int:
        """The time of the run."""
        return reporter.clock_ns

    def _idle(self, _path: str, _reporter: Reporter) -> Iterable[Event]:
        """What the passing of time alone brings about, after each poll; with captures, nothing."""
        return ()

    def _all_counters(self) -> dict[str, int]:
        counters = self._engine.stats() | self._counters()
        if self._reporter is not None:
            counters |= self._reporter.counters()
        counters["captures.unreadable"] = len(self.faults)
        counters["reloads.loaded"], counters["reloads.refused"] = self._loaded, self._refused
        return counters

    def _counters(self) -> dict[str, int]:
        """What a kind of run counts beside the others."""
        return {}

    def _stats(self) -> Stats:
        register = self._register
        as_of_ns = self._settings.as_of_ns
        stats: Stats = {
            "keep": self._keep,
            "min_confidence": self._settings.min_confidence,
            "flow_key": self._settings.flow_key,
            "peel": self._settings.peel,
            "remove_duplicates": self._settings.remove_duplicates,
            "as_of": None if as_of_ns is None else rfc3339(as_of_ns),
            "register": None if register is None else register_item(register),
            "policy_hash": "" if self._policy is None else self._policy.sha256,
        }
        if self._settings.filter:
            stats["filter"] = self._settings.filter
        return stats

    def _take_requests(self, reporter: Reporter, time_ns: int) -> Iterator[RegisterEvent]:
        """What was asked for since the last poll, in order."""
        while self._requests:
            request = self._requests.popleft()
            was: Before = {
                "register_serial": None if self._register is None else self._register.serial,
                "policy_hash": "" if self._policy is None else self._policy.sha256,
            }
            faults = request.faults or self._adopt(request, reporter)
            self._loaded += not faults
            self._refused += bool(faults)
            self._last_reload_loaded = not faults
            if not faults:
                self._in_force_since_ns = time.time_ns()
            reporter.latest_ns = max(reporter.latest_ns, time_ns)
            yield register_event(
                time_ns,
                self._settings.sensor,
                "refused" if faults else "loaded",
                None if self._register is None else register_item(self._register),
                "" if self._policy is None else self._policy.sha256,
                was,
                faults,
            )

    def _adopt(self, request: _Request, reporter: Reporter) -> Sequence[str]:
        """Judge by what is asked for; what the engine says against it, and then all is as it was."""
        judging = request.register or self._register, request.policy or self._policy
        known, policy = judging
        if policy is not None:
            try:
                self._engine.set_milestones(policy.packet_milestones, policy.duration_milestones_s)
                self._engine.set_subscribers(_subscribers(policy))
            except ValueError as error:
                return (f"the policy: {error}",)
        self._register, self._policy = known, policy
        reporter.adopt(known, policy)
        # Something else may have been adopted since this was asked for.
        self._engine.review_at(
            request.instants
            if known is request.judging[0] and policy is request.judging[1]
            else self._instants(known, policy)
        )
        self._engine.review()
        return ()

    def _instants(self, register: Register | None, policy: Policy | None) -> Sequence[int]:
        """When running flows are to be judged again since an answer may change by itself."""
        if policy is None or self._settings.as_of_ns is not None:
            return ()
        return policy.instants(register)


def register_item(register: Register) -> RegisterItem:
    """A register, as events name it."""
    return {
        "source": register.source,
        "serial": register.serial,
        "issued_at": rfc3339(register.issued_at_ns),
        "next_update": None if register.next_update_ns is None else rfc3339(register.next_update_ns),
        "sha256": register.sha256,
        "entries": len(register.entries),
    }


def _programs(expression: str) -> Sequence[tuple[int, Sequence[tuple[int, int, int, int]]]]:
    if not expression:
        return ()
    from classifier.bpf import programs

    return programs(expression)


def _fault(path: str, error: _core.CaptureError) -> InputFault:
    return InputFault(path, error.reason, error.found, error.expected, error.offset)


def _subscribers(policy: Policy | None) -> list[tuple[bytes, int]]:
    """Whose own tunnels are not opened."""
    if policy is None:
        return []
    return [(prefix.address, prefix.length) for prefix in policy.local + policy.shared]
