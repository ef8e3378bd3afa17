"""A short `make soak`: flows that change all the time; what was sent adds up, and memory stays bounded."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from pcap_cases import repository
from sending import ethernet_frames, sender

from bench.live import HERE, THERE, Bench
from bench.loads import PCAP_HEADER
from bench.namespace import Namespace
from bench.soak import Soaked, soak

SECONDS, RATE = 5.0, 20_000.0
MAX_MEMORY_MB = 200


def write_load(path: Path) -> int:
    """All plain frames of pcaps/; how many there are."""
    frames = [
        frame for case in sorted((repository() / "pcaps").glob("*/*.pcap")) for frame in ethernet_frames(case)
    ]
    records = (struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
    path.write_bytes(PCAP_HEADER + b"".join(records))
    return len(frames)


def test_counters_add_up_and_memory_is_bounded(tmp_path: Path) -> None:
    frames = write_load(tmp_path / "load.pcap")
    with Namespace() as namespace:
        namespace.wire(HERE, THERE)
        soaked = soak(Bench(namespace, sender(), tmp_path / "load.pcap", SECONDS, tmp_path), RATE, vary=0)
    assert soaked.faults() == []
    # Each pass has flows of its own: there were several, and each one's were found.
    passes = soaked.sent.sent // frames
    assert passes >= 2
    assert soaked.counters["flows.recognised"] > 20 * passes
    assert 0 < max(soaked.memory_mb) < MAX_MEMORY_MB


@pytest.mark.parametrize(("an_hour", "grows"), [(0.0, False), (2.0, False), (60.0, True)])
def test_memory_that_grows_is_told(an_hour: float, grows: bool) -> None:
    # It fills up in the first third, wherever it goes from there.
    memory = [min(second, 600) / 10 + an_hour * max(0, second - 600) / 3600 for second in range(1800)]
    soaked = Soaked(sent=None, counters={}, memory_mb=memory)  # type: ignore[arg-type]
    assert soaked.grows() == grows
    assert soaked.growth()[0] == pytest.approx(an_hour, abs=1e-6)
