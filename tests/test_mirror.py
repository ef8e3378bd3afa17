"""What is said of a mirror: nothing of a sound one, and of each fault its own."""

from __future__ import annotations

import random
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from laboratory import DEADLINE_S, Laboratory, stop
from pcap_cases import repository
from sending import ethernet_frames, sender

from bench.loads import PCAP_HEADER
from classifier.mirror import LOOKS, MirrorLog
from classifier.pipeline import Settings

# Real daemons over TCP and UDP, whole and both ways.
SOUND = ("ovpn-tcp-tlscrypt-8080", "ovpn-tcp-plain-443", "wg-psk-41194", "wg-plain-51820", "neg-https-443")
COPIES = 60
# Each flow must take longer than a round trip may, a second.
SECONDS = 3
IP, CUT = 14, 96


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    made = Laboratory()
    try:
        yield made
    finally:
        made.close()


def traffic() -> list[bytes]:
    """The sound cases, copied under other addresses, all at the same time."""
    flows = []
    for name in SOUND:
        (file,) = (repository() / "pcaps" / name).glob("*.pcap")
        for copy in range(COPIES):
            frames = [bytearray(frame) for frame in ethernet_frames(file) if frame[12:14] == b"\x08\x00"]
            for frame in frames:
                frame[27] ^= copy
                frame[31] ^= copy
            flows.append([bytes(frame) for frame in frames])
    # Spread evenly over the time.
    placed = [(place / len(flow), frame) for flow in flows for place, frame in enumerate(flow)]
    return [frame for _, frame in sorted(placed, key=lambda one: one[0])]


def whole(frames: Sequence[bytes]) -> list[bytes]:
    return list(frames)


def one_way(frames: Sequence[bytes]) -> list[bytes]:
    """What comes from the lower address."""
    return [frame for frame in frames if frame[26:30] < frame[30:34]]


def sampled(frames: Sequence[bytes]) -> list[bytes]:
    chance = random.Random(7)
    return [frame for frame in frames if chance.random() < 1 / 3]


def duplicated(frames: Sequence[bytes]) -> list[bytes]:
    return [copy for frame in frames for copy in (frame, frame)]


def cut(frames: Sequence[bytes]) -> list[bytes]:
    return [frame[:CUT] for frame in frames]


def blank(frames: Sequence[bytes]) -> list[bytes]:
    return [frame[: payload_at(frame)] + bytes(len(frame) - payload_at(frame)) for frame in frames]


def payload_at(frame: bytes) -> int:
    transport = IP + (frame[IP] & 15) * 4
    return transport + ((frame[transport + 12] >> 4) * 4 if frame[IP + 9] == 6 else 8)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (whole, None),
        (one_way, "one-way"),
        (sampled, "sampled"),
        (duplicated, "duplicated"),
        (cut, "stripped"),
        (blank, "stripped"),
    ],
)
def test_traffic_over_a_wire(
    laboratory: Laboratory,
    tmp_path: Path,
    change: Callable[[Sequence[bytes]], list[bytes]],
    kind: str | None,
) -> None:
    laboratory.pair("tap0", "gen0")
    frames = change(traffic())
    load, errors = tmp_path / "load.pcap", tmp_path / "watch.stderr"
    records = (struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
    load.write_bytes(PCAP_HEADER + b"".join(records))
    watch = laboratory.watch("-i", "tap0", "-o", str(tmp_path / "events.jsonl"), stderr=errors)
    rate = len(frames) / SECONDS
    command = [*laboratory.enter, str(sender()), str(load), "gen0", "--rate", f"{rate}"]
    subprocess.run([*command, "--seconds", str(SECONDS)], check=True, capture_output=True, timeout=DEADLINE_S)
    assert stop(watch) == 0
    said = [line for line in errors.read_text().splitlines() if "traffic looks" in line]
    assert [line.split("looks ")[1].partition(":")[0] for line in said] == ([] if kind is None else [kind])


class Counters(dict[str, int]):
    """Counters that are added to."""

    def __missing__(self, name: str) -> int:
        return 0

    def add(self, part: str, of: str, *, count: int, whole: int) -> None:
        self[part] += count
        self[of] += whole


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_look_is_said_once_and_when_it_ends(clock: Callable[[float], None]) -> None:
    counters, said = Counters(), list[str]()
    log = MirrorLog(counters.copy, Settings(), said.append)

    def after(seconds: float, part: int, of: int) -> int:
        counters.add("mirror.connections_one_way", "mirror.connections", count=part, whole=of)
        clock(seconds)
        log.tick()
        return len(said)

    assert after(1, 30, 30) == 0, "too few"
    assert after(1, 19, 20) == 1
    assert said[0].startswith(
        "the traffic looks one-way: of 50 TCP connections, 49 show one direction only. "
    )
    assert log.suspected() == {"one-way"}
    assert after(61, 100, 100) == 1, "it is known"
    assert after(61, 30, 100) == 1, "not few enough"
    assert after(30, 0, 100) == 1, "not yet time"
    assert after(31, 0, 100) == 2
    assert said[1] == "the traffic no longer looks one-way"
    assert log.suspected() == frozenset()


def test_losses_on_this_side_are_none_of_the_mirrors(clock: Callable[[float], None]) -> None:
    for name in ("kernel.dropped", "interfaces.downs"):
        counters, said = Counters({name: 1}), list[str]()
        log = MirrorLog(counters.copy, Settings(), said.append)
        counters.add("mirror.streams_with_gaps", "mirror.streams", count=100, whole=100)
        log.tick()
        assert said == []
        counters.add("mirror.streams_with_gaps", "mirror.streams", count=100, whole=100)
        clock(61)
        log.tick()
        assert len(said) == 1


def test_what_was_asked_for_is_no_fault_of_the_mirror() -> None:
    counters, said = Counters(), list[str]()
    counters.add("duplicates", "flow_packets", count=9_000, whole=9_000)
    counters.add("mirror.connections_one_way", "mirror.connections", count=50, whole=50)
    MirrorLog(
        counters.copy, Settings(remove_duplicates=True, filter="src net 192.0.2.0/24"), said.append
    ).tick()
    (line,) = said
    assert "one-way (or the expression 'src net 192.0.2.0/24' selects it so): of 50" in line


def test_kinds_have_one_name_each() -> None:
    assert LOOKS == ("one-way", "sampled", "duplicated", "stripped")
