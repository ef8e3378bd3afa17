"""`make bench`: measures and prints the tables; --write keeps the run, rewrites README.md and the plots."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from bench import python_side, replay, tunnels
from bench.loads import Loads
from bench.measure import between, machine, versions
from bench.peers import peers
from bench.plots import draw
from bench.replay import Bench, Start
from bench.results import README, RESULTS, Result, Row, load, newest, save, shown, tables

Part = Callable[[Bench, Start], Iterable[Row]]
PARTS: dict[str, Part] = {
    "speed": replay.speeds,
    "flows": replay.flows,
    "sizes": replay.sizes,
    "compressed": replay.compressed,
    "tunnels": tunnels.measure,
    "workers": replay.workers,
    "memory": lambda bench, _: replay.memories(bench),
    "python": lambda bench, _: python_side.measure(bench.runs, bench.loads.scale),
}
QUICK_SCALE, QUICK_RUNS, RUNS = 0.1, 3, 7


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Speed of vpn-classifier; see bench/README.md"
    )
    parser.add_argument("--programs", type=Path, help="where cargo put floor, workload and unpack")
    parser.add_argument("--quick", action="store_true", help="a tenth of every load, fewer runs: two minutes")
    parser.add_argument("--runs", type=int, help=f"runs of each program ({RUNS}; --quick: {QUICK_RUNS})")
    parser.add_argument("--seed", type=int, default=1, help="of the generator (%(default)s)")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part, can be given again")
    parser.add_argument(
        "--capture", action="append", type=Path, default=[], help="measure a capture of yours"
    )
    parser.add_argument("--write", action="store_true", help="keep the run, rewrite README.md and the plots")
    parser.add_argument("--render", action="store_true", help="README.md and plots of the newest run again")
    arguments = parser.parse_args()
    if arguments.render:
        kept = newest()
        if kept is None:
            sys.exit("bench/results/ has no run")
        render(load(kept), kept)
        return
    if arguments.programs is None:
        parser.error("--programs is needed: make bench gives it")
    if arguments.write and (arguments.quick or arguments.only or arguments.capture):
        parser.error("--write keeps full runs only")
    result = measure(arguments)
    print(tables(result))
    if arguments.write:
        path = RESULTS / f"{result.about['date'].replace(':', '')}.jsonl"
        save(result, path)
        render(load(path), path)


def measure(arguments: argparse.Namespace) -> Result:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", file=sys.stderr, flush=True)

    known, missing = peers()
    bench = Bench(
        arguments.programs.resolve(),
        known,
        Loads(
            arguments.programs.resolve() / "workload", QUICK_SCALE if arguments.quick else 1, arguments.seed
        ),
        arguments.runs or (QUICK_RUNS if arguments.quick else RUNS),
    )
    said = [f"{peer.name} {peer.version} ({peer.setting})." for peer in known]
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        **machine(),
        **versions(),
        "peers": "\n".join(said + [f"{text}." for text in missing]),
        "mode": "quick" if arguments.quick else "full",
        "runs": str(bench.runs),
        "seed": str(arguments.seed),
    }
    say("start")
    start, rows = replay.measure_start(bench)
    for path in arguments.capture:
        say(str(path))
        rows.append(replay.capture_of_yours(bench, start, path.resolve()))
    for name, part in PARTS.items():
        if name in arguments.only if arguments.only else not arguments.capture:
            say(name)
            for row in part(bench, start):
                rows.append(row)
                say(f"  {row.name}: {row.ours:,.4g} {row.unit}")
    say("done")
    rows.sort(key=lambda row: (row.section == "flows") * row.detail.get("flows", 0))
    return Result(about, rows)


def render(result: Result, path: Path) -> None:
    """The tables of README.md and the plots, from a file of results."""
    page = README.read_text(encoding="utf-8")
    README.write_text(between(page, "results", shown(result, path.name)), encoding="utf-8")
    draw(result, path.name, RESULTS)


if __name__ == "__main__":
    main()
