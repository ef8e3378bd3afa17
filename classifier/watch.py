"""Live: a run that listens on network interfaces until it is told to stop.

In: names of interfaces, register and policy, how to capture. Out: the events of `pipeline.Replay`, of which
it is a kind, with `in_iface` instead of `pcap_filename`. Its clock is that of its packets, and while none
come the host's, so that flows end and dates pass in silence too.

The rule a reader would get wrong: with `keep` "flagged", the default, a flow's events are kept from the first
one that flags it, or that changes its verdict or action, to its end. What was said before is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from classifier import _core
from classifier.errors import ClassifierError
from classifier.events import NANOSECONDS, Event, Place, VpnLine
from classifier.inputs import Inputs
from classifier.pipeline import Replay, Settings
from classifier.policy import Policy
from classifier.register import Register
from classifier.reporter import Reporter
from classifier.sinks import CountedSink

if TYPE_CHECKING:
    from classifier.ledger import LedgerWriter
    from classifier.metrics.tally import Tally

__all__ = ["Capture", "LossLog", "Watch", "WatchError", "available"]

_LAG_NS: Final = 2 * NANOSECONDS  # what came before has been reported
_SAY_EVERY_S: Final = 10
_MAX_NAME: Final = 15  # bytes of an interface's name
_MIB: Final = 1 << 20


class WatchError(ClassifierError):
    """Interfaces cannot be captured from. Usual cause: no capability, or a name that is not there."""


@dataclass(frozen=True, slots=True)
class Capture:
    """How to capture; the defaults are those of the command line."""

    threads: int = 1
    """Threads that take frames from the kernel; each has a ring of every interface."""
    snap_length: int = 262_144
    """Bytes kept of a frame."""
    block_size: int = 1 << 18
    """Bytes of a block of the ring: a power of two."""
    ring_size: int = 1 << 26
    """Bytes of a ring."""
    outgoing: bool = False
    """Frames that this host sends there are looked at, too."""
    promiscuous: bool = True

    def fault(self, interfaces: int, available: int | None) -> str | None:
        """What is wrong with these settings for so many interfaces, and what to use; None when nothing is.

        `available` is the memory in bytes that the host can still give, None when that is not known.
        """
        block, ring = self.block_size, self.ring_size
        if block & (block - 1) or not 1 << 16 <= block <= 1 << 24:
            nearest = 1 << max(16, min(24, block.bit_length()))
            expected = "a power of two from 64 KiB to 16 MiB"
            return f"a block of {_size(block)}: expected {expected}, such as {_size(nearest)}"
        if ring < 2 * block or ring % block:
            fitting = max(2, -(-ring // block)) * block
            expected = f"two blocks of {_size(block)} or more"
            return f"a ring of {_size(ring)}: expected {expected}, such as {_size(fitting)}"
        rings = interfaces * self.threads
        if available is not None and ring * rings > available // 2:
            most = available // 2 // rings // _MIB
            return (
                f"rings of {_size(ring)}, {rings} of them: memory that is never swapped out, and only "
                f"{available // _MIB:,} MiB are free; expected half of that in all, {most:,} MiB a ring"
            )
        return None


class Watch(Replay):
    """One run over some interfaces."""

    place: Place = "in_iface"
    _has_end = False  # but for being told to stop
    _poll_ms = 20  # how much later an event may be written than it could be

    def __init__(
        self,
        interfaces: Sequence[str],
        register: Register | None = None,
        policy: Policy | None = None,
        settings: Settings | None = None,
        keep: str = "flagged",
        engine: _core.Engine | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._interfaces = tuple(interfaces)
        super().__init__(
            Inputs((",".join(interfaces),), (), None),
            register,
            policy,
            settings or Settings(sensor="watch"),
            engine,
            tally,
        )
        self._keep = keep
        self._told: set[int] = set()  # flows whose events are kept
        self._left_out = 0
        self._ledger: LedgerWriter | None = None
        self.sinks: Sequence[CountedSink] = ()
        """Where events go; what they lose is in the last event."""

    def attach(self, sink: CountedSink, ledger: LedgerWriter | None = None) -> None:
        """Count what this sink loses, and give the ledger every flow, also those that are not kept."""
        self._ledger = ledger
        self.sinks = (sink,) if ledger is None else (sink, ledger)

    def open(self, capture: Capture) -> None:
        """Begin to capture; WatchError when that is not possible."""
        for name in self._interfaces:
            if not name or len(name.encode()) > _MAX_NAME:
                raise WatchError(f"{name!r}: not the name of a network interface: 1 to {_MAX_NAME} bytes")
        fault = capture.fault(len(self._interfaces), available())
        if fault is not None:
            raise WatchError(fault)
        try:
            self._engine.open_interfaces(
                self._interfaces,
                threads=capture.threads,
                snap_length=capture.snap_length,
                block_size=capture.block_size,
                blocks=capture.ring_size // capture.block_size,
                outgoing=capture.outgoing,
                promiscuous=capture.promiscuous,
            )
        except _core.CaptureError as error:
            raise WatchError(str(error)) from None

    def lines(self, on_poll: Callable[[], None] | None = None) -> Iterator[Event | VpnLine]:
        """What is to be kept, in order; `on_poll` is called many times a second."""
        for event in super().lines(on_poll):
            if self._ledger is not None and isinstance(event, VpnLine):
                self._ledger.take(event)
            if self._keep == "all" or self._is_kept(event):
                yield event
            else:
                self._left_out += 1

    def dropped(self) -> int:
        """Frames for which a ring had no room, so far."""
        return self._engine.stats().get("kernel.dropped", 0)

    @property
    def settings(self) -> Settings:
        return self._settings

    def counters(self) -> dict[str, int]:
        """What the core counts, so far."""
        return self._engine.stats()

    def listens(self) -> set[str]:
        """The interfaces that frames are taken from: those that are there, and up."""
        return {interface.name for interface in self._engine.interfaces() if interface.up}

    def turns(self) -> list[int]:
        """How often this thread and each that captures have looked for packets: one that hangs stops."""
        return self._engine.turns()

    def status(self) -> str:
        """What there is to say of the run, in one line."""
        counters = self._engine.stats()
        known = "no register" if self._register is None else f"register serial {self._register.serial}"
        active = sum(count for name, count in counters.items() if name.startswith("flows.active."))
        return (
            f"packets {counters.get('frames', 0):,}, unseen {counters.get('kernel.dropped', 0):,}, "
            f"flows {active:,}, {known}"
        )

    def _is_kept(self, event: Event | VpnLine) -> bool:
        if not isinstance(event, VpnLine):
            return event["event_type"] != "attempts"
        if event.flow_id not in self._told and event.counted.action != "flag" and not _is_changed(event):
            return False
        if event.ended:
            self._told.discard(event.flow_id)
        else:
            self._told.add(event.flow_id)
        return True

    def _open(self, _path: str) -> None:
        """Done by `open`, before anything is written."""

    def _now_ns(self, _reporter: Reporter) -> int:
        return time.time_ns()

    def _idle(self, path: str, reporter: Reporter) -> Iterable[Event]:
        return reporter.advance(path, time.time_ns() - _LAG_NS)

    def _counters(self) -> dict[str, int]:
        counters = [sink.counters() for sink in self.sinks]
        lost = {f"{sink.name}.lost": sink.lost_lines for sink in counters}
        return {"events.left_out": self._left_out, **lost}


class LossLog:
    """Says what is lost: packets, every ten seconds at most."""

    def __init__(self, watch: Watch, say: Callable[[str], None]) -> None:
        self._watch = watch
        self._say = say
        self._said = 0
        self._look_at = self._say_at = 0.0

    def tick(self, *, last: bool = False) -> None:
        """Look, if it is time to; the last time it always is."""
        now = time.monotonic()
        if now < self._look_at and not last:
            return
        self._look_at = now + 1
        dropped = self._watch.dropped()
        if dropped > self._said and (last or now >= self._say_at):
            self._say(
                f"{dropped - self._said:,} packets unseen by the sensor: the ring was full (--ring-size)"
            )
            self._said = dropped
            self._say_at = now + _SAY_EVERY_S


def _size(size: int) -> str:
    return f"{size // _MIB:,} MiB" if size % _MIB == 0 else f"{size // 1024:,} KiB"


def available() -> int | None:
    """Memory that the kernel can give without swapping, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(kib) * 1024 for kib in found), None)


def _is_changed(line: VpnLine) -> bool:
    """Whether it says another verdict or action than before."""
    if b'"was":' not in line.line:  # a quote inside of a value would be escaped
        return False
    policy = line.event()["policy"]
    was = policy["was"]
    return (was["verdict"], was["action"]) != (policy["verdict"], policy["action"])
