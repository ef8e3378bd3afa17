"""The whole command beside the floor and beside dpkt, in CPU nanoseconds per packet."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.loads import Load, almost_empty
from bench.measure import ROOT, BenchError, alternate, median_cpu

FLOOR_RATIO_LIMIT = 5.0
"""Most that the whole command may cost on the mix of 2 M packets in 100 k flows, in floors."""
START_LIMIT_S = 0.25
"""Most CPU time that the command may take to start."""


@dataclass(frozen=True, slots=True)
class Start:
    """CPU seconds of each program on a capture of one packet."""

    whole_s: float
    floor_s: float
    dpkt_s: float


@dataclass(frozen=True, slots=True)
class Speed:
    """CPU nanoseconds per packet of each program on one load, start-up subtracted."""

    load: str
    packets: int
    flows: int
    floor_ns: float
    whole_ns: float
    dpkt_ns: float
    whole_wall_ns: float
    whole_memory_mb: float

    @property
    def ratio(self) -> float:
        return self.whole_ns / self.floor_ns


@dataclass(frozen=True, slots=True)
class Programs:
    """How each program is called; the capture's path is to be put in."""

    floor: Path

    def whole_command(self, capture: Path) -> Sequence[str]:
        program = Path(sys.executable).with_name("vpn-classifier")
        return [str(program), "replay", str(capture), "--rules", "rules/", "-o", "/dev/null"]

    def floor_command(self, capture: Path) -> Sequence[str]:
        return [str(ROOT / self.floor), str(capture)]

    def dpkt_command(self, capture: Path) -> Sequence[str]:
        return [sys.executable, str(Path(__file__).with_name("dpkt_loop.py")), str(capture)]


def measure_start(programs: Programs, runs: int) -> Start:
    capture = almost_empty()
    results = alternate(
        {
            "whole": programs.whole_command(capture),
            "floor": programs.floor_command(capture),
            "dpkt": programs.dpkt_command(capture),
        },
        runs,
    )
    return Start(*(median_cpu(results[name]) for name in ("whole", "floor", "dpkt")))


def measure(programs: Programs, load: Load, start: Start, runs: int) -> Speed:
    """Floor and command in turn on the whole load, dpkt on its cut; floor and dpkt must count alike."""
    results = alternate(
        {"whole": programs.whole_command(load.path), "floor": programs.floor_command(load.path)}, runs
    )
    slow = alternate(
        {"dpkt": programs.dpkt_command(load.cut), "floor": programs.floor_command(load.cut)},
        max(1, runs // 2),
    )
    answers = {runs[0].output for runs in slow.values()}
    if len(answers) != 1:
        raise BenchError(f"the floor and dpkt count differently: {answers}")
    counted = results["floor"][0].output.split()
    if int(counted[0]) != load.packets:
        raise BenchError(f"the floor read {counted[0]} packets of {load.name}, not {load.packets}")
    whole = results["whole"]
    return Speed(
        load=load.name,
        packets=load.packets,
        flows=int(counted[-2]),
        floor_ns=(median_cpu(results["floor"]) - start.floor_s) / load.packets * 1e9,
        whole_ns=(median_cpu(whole) - start.whole_s) / load.packets * 1e9,
        dpkt_ns=(median_cpu(slow["dpkt"]) - start.dpkt_s) / load.cut_packets * 1e9,
        whole_wall_ns=min(run.wall_s for run in whole) / load.packets * 1e9,
        whole_memory_mb=max(run.memory_mb for run in whole),
    )
