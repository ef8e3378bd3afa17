"""The whole command beside the floor and the peers: CPU time per packet, and what else is held of `replay`.

Everything is CPU time as the kernel charged it, user and system, of whole processes with all their threads;
only two workers are compared by time on the clock.
"""

import gzip
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

from bench.loads import LOADS, Load, Loads, cut, many_small, one_packet, split
from bench.measure import BenchError, Run, alternate, median_cpu, run
from bench.peers import Peer
from bench.results import Limit, Row

FLOWS = (50, 1_000, 10_000)
"""Below those of the first table, which are the rest of the series."""
SIZES = (64, 128, 256, 512, 1_024, 1_500)
CUT_PACKETS = 100_000
CAPTURES = 2_000
PARTS = 40
SPLIT_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Bench:
    """How each program is called, and how often."""

    programs: Path
    """Where cargo put the floor, the generator and the decompressor."""
    peers: Sequence[Peer]
    loads: Loads
    runs: int

    def ours(self, *captures: Path, output: Path | str = "/dev/null", workers: int = 1) -> list[str]:
        program = Path(sys.executable).with_name("vpn-classifier")
        options = ["--rules", "rules/", "-o", str(output), "--workers", str(workers)]
        return [str(program), "replay", *map(str, captures), *options]

    def floor(self, capture: Path) -> list[str]:
        return [str(self.programs / "floor"), str(capture)]

    def commands(self, capture: Path) -> dict[str, Sequence[str]]:
        ours: dict[str, Sequence[str]] = {"ours": self.ours(capture), "floor": self.floor(capture)}
        return ours | {peer.name: peer.command(capture) for peer in self.peers}


def dpkt(capture: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("dpkt_loop.py")), str(capture)]


Start = Mapping[str, float]
"""CPU seconds of each program on a capture of one packet."""


def measure_start(bench: Bench) -> tuple[Start, list[Row]]:
    with one_packet() as load:
        results = alternate(bench.commands(load.path) | {"dpkt": dpkt(load.path)}, 2 * bench.runs)
    start = {name: median_cpu(runs) for name, runs in results.items()}
    others = {name: seconds * 1e3 for name, seconds in start.items() if name != "ours"}
    row = Row("start", "start, on one packet", "CPU ms", start["ours"] * 1e3, others, (Limit(200),))
    return start, [row]


def beside_starts(bench: Bench, commands: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[Run]], Start]:
    """Each command in turn, and between them ours and the floor on one packet: what starts cost drifts by ten
    percent within an hour, which on a million packets is ten nanoseconds each."""
    with one_packet() as one:
        begun = {f"{name}, on one packet": bench.commands(one.path)[name] for name in ("ours", "floor")}
        results = alternate({**commands, **begun}, bench.runs)
    return results, {name: median_cpu(results.pop(f"{name}, on one packet")) for name in ("ours", "floor")}


def per_packet(results: Mapping[str, Sequence[Run]], start: Start, packets: int) -> dict[str, float]:
    """CPU nanoseconds of each program, what it takes to start left out."""
    return {name: (median_cpu(runs) - start[name]) / packets * 1e9 for name, runs in results.items()}


def speed(
    bench: Bench,
    start: Start,
    load: Load,
    row: tuple[str, str],
    limits: Sequence[Limit] = (),
    peers: bool = True,
    detail: Mapping[str, float] | None = None,
) -> Row:
    """One load, all programs in turn."""
    commands = bench.commands(load.path)
    if not peers:
        commands = {name: commands[name] for name in ("ours", "floor")}
    results, begun = beside_starts(bench, commands)
    check(results["floor"][0].output, load)
    found = per_packet(results, {**start, **begun}, load.packets)
    more = {"packets": load.packets, "flows": load.flows, "memory_mb": memory(results["ours"])}
    return Row(
        row[0], row[1], "CPU ns per packet", found.pop("ours"), found, limits, more | dict(detail or {})
    )


def check(said: str, load: Load) -> None:
    """The floor must have counted the packets and flows that the generator wrote."""
    words = said.split()
    if (int(words[0]), int(words[-2])) != (load.packets, load.flows):
        raise BenchError(f"the floor said {said.strip()} of {load.packets:,} packets, {load.flows:,} flows")


def memory(runs: Sequence[Run]) -> float:
    return max(run.memory_mb for run in runs)


def thousands(number: int) -> str:
    return (
        f"{number / 1e6:g} M"
        if number >= 1_000_000
        else f"{number / 1e3:g} k"
        if number >= 1_000
        else str(number)
    )


def speeds(bench: Bench, start: Start) -> Iterator[Row]:
    """The loads that limits are about."""
    for shape, packets, flows, limits, peers in (
        ("mix", 2_000_000, 100_000, (Limit(1.5, "floor"), Limit(1 / 10, "ndpiReader")), True),
        ("mix", 4_000_000, 1_000_000, (Limit(1.5, "floor"), Limit(1 / 30, "ndpiReader")), True),
        ("uniform", 500_000, 500_000, (Limit(1.5, "floor"), Limit(1 / 40, "ndpiReader")), True),
        ("uniform", 10_000_000, 10_000_000, (Limit(1.5, "floor"),), False),
        ("elephants", 1_000_000, 50, (Limit(1.3, "floor"), Limit(1 / 2.5, "ndpiReader")), True),
    ):
        with bench.loads.made(shape, packets, flows) as load:
            shown = "small" if shape == "uniform" else shape
            name = f"{shown}, {thousands(load.packets)} packets, {thousands(load.flows)} flows"
            row = speed(bench, start, load, ("speed", name), limits, peers)
            if shape == "mix":
                yield replace(row, section="flows", name=f"mix, {thousands(load.flows)} flows", limits=())
            if (shape, flows) == ("mix", 100_000):
                row = replace(row, others={**row.others, "dpkt": slow(bench, start, load)})
            yield row


def slow(bench: Bench, start: Start, load: Load) -> float:
    """Plain Python on the first packets; the floor must count what it counts."""
    with cut(load, CUT_PACKETS) as first:
        results = alternate({"floor": bench.floor(first.path), "dpkt": dpkt(first.path)}, bench.runs)
    said = {runs[0].output for runs in results.values()}
    if len(said) != 1:
        raise BenchError(f"the floor and dpkt count differently: {said}")
    return per_packet(results, start, first.packets)["dpkt"]


def flows(bench: Bench, start: Start) -> Iterator[Row]:
    """The rest of the series by number of flows."""
    for number in FLOWS:
        with bench.loads.made("mix", 1_000_000, number) as load:
            yield speed(bench, start, load, ("flows", f"mix, {thousands(load.flows)} flows"))


def sizes(bench: Bench, start: Start) -> Iterator[Row]:
    for octets in SIZES:
        with bench.loads.made("uniform", 500_000, 10_000, octets) as load:
            yield speed(bench, start, load, ("sizes", f"{octets:,} octets"), detail={"octets": octets})


def compressed(bench: Bench, _start: Start) -> Iterator[Row]:
    """The mix in gzip and zstd: the decompressor alone plus the plain run is the measure."""
    with bench.loads.made("mix", 2_000_000, 100_000) as load:
        for suffix, pack in ((".gz", to_gzip), (".zst", to_zstd)):
            packed = load.path.with_suffix(f".pcap{suffix}")
            try:
                pack(load.path, packed)
                commands = {
                    "ours": bench.ours(packed),
                    "plain": bench.ours(load.path),
                    "alone": [str(bench.programs / "unpack"), str(packed)],
                }
                results, begun = beside_starts(bench, commands)
            finally:
                packed.unlink(missing_ok=True)
            if int(results["alone"][0].output) != load.path.stat().st_size:
                raise BenchError("the decompressor gave something else than was packed")
            found = per_packet(results, {**begun, "plain": begun["ours"], "alone": 0}, load.packets)
            total = found["plain"] + found["alone"]
            yield Row(
                "compressed",
                f"mix in {suffix[1:]}, {thousands(load.packets)} packets",
                "CPU ns per packet",
                found["ours"],
                {"plain + decompressor": total},
                (Limit(1.1, "plain + decompressor"),),
                {"plain": found["plain"], "decompressor": found["alone"]},
            )


def to_gzip(source: Path, target: Path) -> None:
    with source.open("rb") as plain, gzip.open(target, "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)


def to_zstd(source: Path, target: Path) -> None:
    with source.open("rb") as plain, target.open("wb") as packed:
        zstandard.ZstdCompressor(level=3).copy_stream(plain, packed)


def workers(bench: Bench, start: Start) -> Iterator[Row]:
    """Two workers beside one, by the clock; and 2,000 small captures in one command."""
    limit = (Limit(0.6, "one worker"),)
    with bench.loads.made("mix", 2_000_000, 100_000) as load:
        yield two(bench, "two workers, one file", [load.path], limit)
        with split(load, PARTS) as directory:
            yield two(bench, f"two workers, the same in {PARTS} files", [directory], limit)
    number = max(100, int(CAPTURES * bench.loads.scale))
    with many_small(number) as directory:
        # Status 4: one of the laboratory's captures ends inside a record, as it should.
        row = two(bench, f"two workers, {number:,} small captures", [directory], limit, (0, 4))
        cost = (row.detail["cpu_s"] - start["ours"]) / number * 1e3
        yield row
        yield Row("many", f"{number:,} small captures", "CPU ms each", cost, {}, (Limit(3),))


def two(
    bench: Bench,
    name: str,
    inputs: Sequence[Path],
    limits: Sequence[Limit],
    accepted: tuple[int, ...] = (0,),
) -> Row:
    commands = {f"{count}": bench.ours(*inputs, workers=count) for count in (1, SPLIT_WORKERS)}
    with one_packet() as packet:
        commands["start"] = bench.ours(packet.path)
        results: dict[str, list[Run]] = {called: [] for called in commands}
        for turn in range(bench.runs + 1):
            for called, command in commands.items():
                done = run(command, accepted)
                if turn:
                    results[called].append(done)
    digests = set()
    for count in (1, SPLIT_WORKERS):
        output = LOADS / "events.jsonl"
        try:
            run(bench.ours(*inputs, output=output, workers=count), accepted)
            digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
        finally:
            output.unlink(missing_ok=True)
    if len(digests) != 1:
        raise BenchError(f"{name}: one worker and two give different events")
    one, both, begun = (statistics.median(run.wall_s for run in runs) for runs in results.values())
    one, both = one - begun, both - begun
    detail = {"cpu_s": median_cpu(results["1"]), "cpu_two_s": median_cpu(results[str(SPLIT_WORKERS)])}
    return Row("workers", name, "s on the clock, identical output", both, {"one worker": one}, limits, detail)


def memories(bench: Bench) -> Iterator[Row]:
    """Undecided flows, a flood of them, and a file of any size."""
    with bench.loads.made("uniform", 100_000, 50) as load:
        few, _ = peak(bench, load)
    for packets, limits in ((500_000, ()), (10_000_000, (Limit(250),))):
        with bench.loads.made("uniform", packets, packets) as load:
            most, counters = peak(bench, load)
        evicted = counters["flows.evicted.undecided"]
        held = counters["flows.created"] - evicted
        if counters["flows.evicted.attempt"] or counters["flows.unreported"]:
            raise BenchError("a flow that was past undecided was evicted in a flood of one-packet flows")
        name = f"{thousands(load.packets)} one-packet flows"
        detail = {"evicted_undecided": evicted, "held": held}
        others = {"evicted": float(evicted)} if evicted else {}
        yield Row("memory", f"memory, {name}", "MB at most", most, others, limits, detail)
        each = (most - few) * (1 << 20) / held
        yield Row("memory", f"memory per undecided flow, {name}", "bytes", each, {}, (Limit(176),), detail)
    with bench.loads.made("elephants", 1_000_000, 50) as load:
        whole, _ = peak(bench, load)
        with cut(load, load.packets // 10) as first:
            tenth, _ = peak(bench, first)
    yield Row(
        "memory",
        "memory, elephants",
        "MB at most",
        whole,
        {"a tenth of it": tenth},
        (Limit(1.1, "a tenth of it"),),
    )


def peak(bench: Bench, load: Load) -> tuple[float, Mapping[str, int]]:
    """Memory of a run (the median of three), and its counters."""
    output = LOADS / "events.jsonl"
    try:
        runs = [run(bench.ours(load.path, output=output)) for _ in range(3)]
        last = subprocess.run(["tail", "-n", "1", output], capture_output=True, check=True).stdout
    finally:
        output.unlink(missing_ok=True)
    return statistics.median(run.memory_mb for run in runs), json.loads(last)["stats"]["counters"]


def capture_of_yours(bench: Bench, start: Start, path: Path) -> Row:
    """A capture that somebody names, classic pcap of Ethernet frames."""
    said = run(bench.floor(path)).output.split()
    load = Load(path, int(said[0]), int(said[-2]))
    name = f"{path.name}, {thousands(load.packets)} packets, {thousands(load.flows)} flows"
    return speed(bench, start, load, ("speed", name))
