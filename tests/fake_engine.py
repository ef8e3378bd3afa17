"""A stand-in for the compiled engine: captures are lists of batches, written by hand.

It keeps the contract of `_core.pyi` as far as the Python side relies on it: a batch shows the tag that a
flow had before the batch, handles end with their flow, an error is raised once, `finish` cuts a capture
short, and reviews report the running flows once more, on demand and when the clock passes an instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from typing import Any, cast

import orjson

from classifier import _core
from classifier.cases import case_id, subject_prefix
from classifier.events import rfc3339
from classifier.inputs import Inputs

SECOND = 1_000_000_000
IDLE_S = 600
T0 = 1_772_366_400 * SECOND  # 2026-03-01T12:00:00Z


@dataclass(frozen=True)
class Row:
    """One row of a batch; the defaults are an established WireGuard flow that is seen for the first time."""

    report: str = "recognised"
    number: int = 1
    time_ns: int = T0
    flow_id: int = 1
    source_ip: str = "192.0.2.10"
    destination_ip: str = "198.51.100.20"
    source_port: int | None = 51820
    destination_port: int | None = 51820
    transport: str = "UDP"
    vlan: list[int] = field(default_factory=list)
    encap: list[str] = field(default_factory=lambda: ["ethernet", "ipv4"])
    protocol: str = "wireguard"
    variant: str = "standard"
    confidence: str = "confirmed"
    phase: str = "established"
    midflow: bool = False
    via_proxy: bool = False
    flipped: bool = False
    evidence: list[tuple[str, int, int, int, str, int, int]] = field(
        default_factory=lambda: [("wireguard.mac2_zero", 128, 1, T0, "to_server", 148, 1)]
    )
    ruled_out: list[str] = field(default_factory=list)
    packets_to_server: int = 10
    packets_to_client: int = 9
    bytes_to_server: int = 1_000
    bytes_to_client: int = 900
    start_ns: int = T0
    end_ns: int = T0 + SECOND
    end_reason: str | None = None

    @property
    def handle(self) -> int:
        return self.flow_id + 1_000

    @property
    def source(self) -> bytes:
        return ip_address(self.source_ip).packed

    @property
    def destination(self) -> bytes:
        return ip_address(self.destination_ip).packed

    def then(self, report: str, seconds: float = 1, **changes: Any) -> Row:
        """A later report about the same flow."""
        time_ns = self.time_ns + int(seconds * SECOND)
        if report == "ended":
            changes.setdefault("end_reason", "idle_timeout")
        changes.setdefault("end_ns", time_ns)
        return replace(self, report=report, time_ns=time_ns, number=self.number + 1, **changes)


def batch(rows: Sequence[Row], tags: dict[int, int]) -> _core.FlowBatch:
    """The rows as the engine reports them."""
    names = [field.name for field in fields(Row)] + ["handle", "source", "destination"]
    return _core.FlowBatch(
        [{name: getattr(row, name) for name in names} | {"tag": tags.get(row.handle, 0)} for row in rows]
    )


def event_line(row: Any, head: bytes, capture: bytes, policy: bytes, tail: bytes) -> bytes:
    """A line as `_core.Reporter` writes it, from the columns of a row; tests compare the two."""
    evidence = [
        dict(zip(("id", "bits", "packet", "time", "direction", "length", "count"), item, strict=True))
        | {"time": rfc3339(item[3])}
        for item in row.evidence
    ]
    event = {
        "timestamp": rfc3339(row.time_ns),
        **orjson.loads(b"{%b}" % head),
        "flow_id": row.flow_id,
        "community_id": row.community_id,
        **orjson.loads(b"{%b}" % capture),
        "vlan": row.vlan,
        "encap": row.encap,
        "src_ip": row.source_ip,
        "dest_ip": row.destination_ip,
        "proto": row.transport,
        "ip_v": 4 if len(row.source) == 4 else 6,
        "vpn": {
            "protocol": row.protocol,
            "variant": row.variant,
            "confidence": row.confidence,
            "phase": row.phase,
            "oneway": row.oneway,
            "midflow": row.midflow,
            "via_proxy": row.via_proxy,
            "evidence": evidence,
            "ruled_out": row.ruled_out,
        },
        "policy": orjson.Fragment(filled(policy, row)),
        "flow": {
            "pkts_toserver": row.packets_to_server,
            "pkts_toclient": row.packets_to_client,
            "bytes_toserver": row.bytes_to_server,
            "bytes_toclient": row.bytes_to_client,
            "start": rfc3339(row.start_ns),
            "end": rfc3339(row.end_ns),
            **({} if row.end_reason is None else {"reason": row.end_reason}),
        },
        **orjson.loads(b"{%b}" % tail),
    }
    if row.source_port is not None:
        event |= {"src_port": row.source_port, "dest_port": row.destination_port}
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)


def filled(policy: bytes, row: Any) -> bytes:
    """A judgement without its holes (`_core.HOLES`)."""
    ends = {"source": row.source, "destination": row.destination}
    for (name, end), other in zip(ends.items(), reversed(ends.values()), strict=True):
        policy = policy.replace(_core.HOLES[name], str(ip_address(end)).encode())
        policy = policy.replace(_core.HOLES[f"{name}_subject"], subject_prefix(end).encode())
        policy = policy.replace(_core.HOLES[f"{name}_case"], case_id(end, other, row.protocol).encode())
    return policy


Step = Sequence[Row] | Exception


class FakeEngine:
    """Plays captures that were written down as steps: rows of a batch, or an error."""

    def __init__(self, captures: dict[str, Sequence[Step] | Exception]) -> None:
        self.captures = captures
        self.settings: dict[str, Any] = {}
        self.tags: dict[int, int] = {}
        self.finished = False
        self.frames = 0
        self.opened = 0
        self._steps: list[Step] = []
        self.instants: list[int] = []
        self.subscribers: list[tuple[bytes, int]] = []
        self.milestones: tuple[Sequence[int], Sequence[float]] = (), ()
        self._clock_ns = 0
        self._running: dict[int, Row] = {}
        self._wanted = False

    def __call__(self, **settings: Any) -> FakeEngine:
        """Takes the place of the class `_core.Engine`."""
        self.settings = settings
        return self

    def announce(self, paths: Sequence[str]) -> None:
        """What is worked ahead cannot be seen."""

    def open(self, path: str, name: str) -> None:
        assert path == name
        assert not self._steps, "another capture is not finished"
        capture = self.captures[path]
        if isinstance(capture, Exception):
            raise capture
        self.opened += 1
        self._steps = list(capture)
        self.tags.clear()
        self.finished = False
        self._clock_ns = 0
        self._running.clear()

    def poll(self, max_ms: int = 100) -> _core.FlowBatch | None:
        assert 0 < max_ms <= 100, "longer, and Ctrl-C is noticed late"
        if self.finished:
            self._steps = [step for step in self._steps if _is_end(step)]
        if not self._steps:
            return None
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        self.frames += len(step)
        rows = [row for one in step for row in self._reviewed(one)]
        return batch(rows, self.tags)

    def _reviewed(self, row: Row) -> list[Row]:
        """The row, after the reviews that are due before it."""
        due = self._wanted or (
            self._clock_ns > 0 and any(self._clock_ns < instant <= row.time_ns for instant in self.instants)
        )
        clock_ns = max(self._clock_ns, row.time_ns)
        reviews = [
            replace(running, report="milestone", time_ns=self._clock_ns if self._wanted else clock_ns)
            for running in self._running.values()
            if due and clock_ns - running.end_ns < IDLE_S * SECOND
        ]
        self._clock_ns, self._wanted = clock_ns, False
        if row.report == "ended":
            self._running.pop(row.flow_id, None)
        else:
            self._running[row.flow_id] = row
        return [*reviews, row]

    def review_at(self, instants_ns: Sequence[int]) -> None:
        self.instants = list(instants_ns)

    def review(self) -> None:
        self._wanted = True

    def set_milestones(
        self, packet_milestones: Sequence[int], duration_milestones_s: Sequence[float]
    ) -> None:
        self.milestones = packet_milestones, duration_milestones_s

    def set_tags(self, handles: Sequence[int], tags: Sequence[int]) -> None:
        for handle, tag in zip(handles, tags, strict=True):
            assert 0 < tag < 1 << 32
            self.tags[handle] = tag

    def set_subscribers(self, subscribers: Sequence[tuple[bytes, int]]) -> None:
        self.subscribers = list(subscribers)

    def finish(self) -> None:
        self.finished = True

    def progress(self) -> tuple[int, int | None]:
        return 100, 100

    def link_types(self) -> list[tuple[int, str, int, bool]]:
        return [(1, "ETHERNET", 10, True), (147, "USER0", 2, False)]

    def interfaces(self) -> list[_core.Interface]:
        return []

    def stats(self) -> dict[str, int]:
        return {
            "frames": self.frames,
            "bytes": self.frames * 100,
            "captures": self.opened,
            "undecoded.ipv4_truncated": 3,
            "no_flow.arp": 0,
        }


def _is_end(step: Step) -> bool:
    return not isinstance(step, Exception) and all(row.report == "ended" for row in step)


def engine(captures: dict[str, Sequence[Step] | Exception]) -> _core.Engine:
    """A fake under the type of the real one."""
    return cast(_core.Engine, FakeEngine(captures))


def inputs(*paths: str) -> Inputs:
    """These captures, without a look at the disk."""
    return Inputs(paths, (), 100 * len(paths))


def capture_error(reason: str, path: str = "x.pcap", offset: int | None = None) -> _core.CaptureError:
    """An error as the engine raises it."""
    error = _core.CaptureError()
    error.reason, error.path, error.offset = reason, path, offset
    error.found, error.expected = "something", "something else"
    return error
