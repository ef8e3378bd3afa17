"""Where the time of a packet goes: the engine and the floor sampled on the same loads, by stage.

`make profile` prints nanoseconds per packet; UPDATE=1 writes the table of docs/performance.md. Samples are
taken by the clock (perf's cpu-clock: it exists on virtual machines, where counters mostly do not).
One belongs to the source file of the innermost function of ours, or to what the kernel did then. Address
randomisation is off, so that an address is a place in the program. What the whole command costs beyond the
engine, start-up left out, is Python's part.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.instructions import LIBRARY, PAGE, order
from bench.loads import Load, Loads, one_packet
from bench.measure import BenchError, between, machine, run, versions
from bench.replay import Bench, thousands
from bench.stages import stages

BASE = 0x5555_5555_4000
"""Where Linux puts the first program header of a position-independent program when it does not randomise."""
FREQUENCY = 4_000
LOADS = (("mix", 2_000_000, 100_000), ("uniform", 1_000_000, 1_000_000), ("elephants", 1_000_000, 50))
KERNEL = (
    (
        "kernel: copy from the page cache",
        r"copy|rep_movs|filemap|shmem|ext4|xfs|btrfs|vfs_read|ksys_read|folio_mark|erms",
    ),
    (
        "kernel: fresh memory",
        r"clear_page|clear_huge|fault|alloc|folio|lru|charge|pte|pmd|zap|unmap|free|rmap",
    ),
)
PYTHON = "Python: register, policy, events"
_SAMPLE = re.compile(r"\s*([0-9a-f]+) (.*) \((.*)\)$")


def cost(command: Sequence[str], runs: int) -> float:
    """CPU seconds."""
    return statistics.median(run(command).cpu_s for _ in range(runs))


def profile(program: Path, load: Load, runs: int) -> dict[str, float]:
    """Nanoseconds per packet by stage."""
    command = ["setarch", "-R", str(program), str(load.path)]
    each = cost(command, runs) / load.packets * 1e9
    with tempfile.TemporaryDirectory() as scratch:
        data = f"{scratch}/perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", data, "--", *command]
        subprocess.run(record, check=True, stdout=subprocess.DEVNULL)
        script = ["perf", "script", "-i", data, "-F", "ip,sym,dso"]
        text = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    samples = [match.groups() for line in text.splitlines() if (match := _SAMPLE.match(line))]
    if not samples:
        raise BenchError("perf took no sample: is the program too short, or perf not allowed to look?")
    ours = Counter(int(ip, 16) - BASE for ip, _, dso in samples if dso == str(program))
    places = stages(program, ours)
    found: Counter[str] = Counter()
    for address, count in ours.items():
        found[places[address]] += count
    for _, symbol, dso in samples:
        if dso == str(program):
            continue
        if "kernel" in dso or dso == "[unknown]":
            kinds = (name for name, pattern in KERNEL if re.search(pattern, symbol))
            found[next(kinds, "kernel: the rest")] += 1
        else:
            found[LIBRARY] += 1
    return {name: count / len(samples) * each for name, count in found.items()}


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """By load, our stages beside the floor's, as Markdown."""
    heads = [f"{load}: {program}" for load in found for program in ("ours", "floor")]
    columns = [found[load][program] for load in found for program in ("ours", "floor")]
    lines = [f"| ns per packet | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    places = order({str(place): column for place, column in enumerate(columns)})
    small = [0.0] * len(columns)
    for place in places:
        costs = [column.get(place, 0) for column in columns]
        if max(costs) >= 2:
            lines.append(f"| {place} | " + " | ".join(f"{cost:.0f}" if cost else "" for cost in costs) + " |")
        else:
            small = [sum(both) for both in zip(small, costs, strict=True)]
    lines.append("| what has less than 2 | " + " | ".join(f"{cost:.0f}" for cost in small) + " |")
    lines.append("| **all** | " + " | ".join(f"**{sum(column.values()):.0f}**" for column in columns) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.where", description=__doc__)
    parser.add_argument(
        "--programs", type=Path, required=True, help="where cargo put engine, floor, workload"
    )
    parser.add_argument("--runs", type=int, default=5, help="runs whose median is the whole (%(default)s)")
    parser.add_argument("--update", action="store_true", help="write the table of the page")
    chosen = parser.parse_args(arguments)
    programs = chosen.programs.resolve()
    found: dict[str, dict[str, dict[str, float]]] = {}
    bench = Bench(programs, (), Loads(programs / "workload"), chosen.runs)
    with one_packet() as load:
        start = cost(bench.ours(load.path), chosen.runs)
    for shape, packets, flows in LOADS:
        with bench.loads.made(shape, packets, flows) as load:
            name = f"{'small' if shape == 'uniform' else shape} {thousands(flows)}"
            found[name] = {
                "ours": profile(programs / "engine", load, chosen.runs),
                "floor": profile(programs / "floor", load, chosen.runs),
            }
            engine = found[name]["ours"]
            whole = (cost(bench.ours(load.path), chosen.runs) - start) / load.packets * 1e9
            engine[PYTHON] = max(0.0, whole - sum(engine.values()))
    about, kind = versions(), machine()
    said = f"{kind['processor']}, kernel {kind['kernel']}, rustc {about['rustc']}, commit {about['commit']}."
    text = f"{said}\n\n{table(found)}"
    print(text)
    if chosen.update:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), "time", text), encoding="utf-8")


if __name__ == "__main__":
    main()
