"""`make corpus-replay CORPUS=DIR`: replays every capture under a directory, the malformed ones included.

Nothing may crash, every frame must be accounted for, and what is counted must not depend on the number of
workers. A file that cannot be read (any further) counts by its reason; that is no failure. Status 1: it does
not add up; the files are named.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from classifier._core import CaptureError, Engine

SLOWEST_SHOWN = 3
LEAST_BYTES = 100_000  # of a file whose time per byte means something


@dataclass(slots=True)
class Result:
    """What replaying one file gave."""

    stats: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    flows: int = 0
    seconds: float = 0.0

    def total(self, group: str) -> int:
        return sum(value for name, value in self.stats.items() if name.startswith(f"{group}."))

    def faults(self) -> list[str]:
        """What does not add up."""
        stats = self.stats
        found = []
        accounted = stats["decoded"] + self.total("undecoded") + self.total("ignored")
        if stats["frames"] != accounted:
            found.append(f"{stats['frames']} frames, {accounted} decoded, undecoded and ignored")
        fragments = stats["fragments_unmatched"] + stats["fragments_waiting"]
        accounted = stats["flow_packets"] + self.total("no_flow") + fragments
        if stats["decoded"] != accounted:
            found.append(f"{stats['decoded']} decoded, {accounted} of flows, of none and fragments")
        return found


def replay(path: Path, *, workers: int = 1, flow_key: str = "five-tuple", peel: str = "operator") -> Result:
    engine = Engine(workers=workers, min_confidence="possible", flow_key=flow_key, peel=peel)
    result = Result()
    begun = time.perf_counter()
    try:
        engine.open(str(path), path.name)
        result.flows = polled(engine, result.errors)
    except CaptureError as error:
        result.errors.append(error.reason)
    result.seconds = time.perf_counter() - begun
    result.stats = engine.stats()
    return result


def polled(engine: Engine, errors: list[str]) -> int:
    """Flows whose end was reported."""
    flows = 0
    while True:
        try:
            batch = engine.poll()
        except CaptureError as error:
            errors.append(error.reason)
            continue
        if batch is None:
            return flows
        flows += batch.report.count("ended")


def faults(path: Path) -> tuple[Result, list[str]]:
    """What a file gave, and what is wrong with it."""
    first = replay(path)
    found = first.faults()
    again = replay(path, workers=3)
    if (again.stats, again.errors, again.flows) != (first.stats, first.errors, first.flows):
        found.append("three workers count something else than one")
    other = replay(path, flow_key="+path", peel="all")
    found += [f"flow_key +path, peel all: {fault}" for fault in other.faults()]
    if other.stats["frames"] != first.stats["frames"]:
        found.append("flow_key +path, peel all: another number of frames")
    return first, found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.corpus_replay", description="Replays every capture of a directory"
    )
    parser.add_argument("corpus", type=Path, metavar="DIR", help="captures, in directories of any depth")
    corpus: Path = parser.parse_args(arguments).corpus
    files = sorted(path for path in corpus.rglob("*") if path.is_file())
    if not files:
        sys.exit(f"{corpus}: no files; name a directory of captures: make corpus-replay CORPUS=DIR")

    unread: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    slow: list[tuple[float, Path]] = []
    wrong: list[str] = []
    for number, path in enumerate(files, 1):
        if sys.stderr.isatty():
            print(f"\r{number} of {len(files)}", end="", file=sys.stderr, flush=True)
        try:
            result, found = faults(path)
        except (Exception, KeyboardInterrupt):
            print(f"\n{path.relative_to(corpus)}:", file=sys.stderr)
            raise
        wrong += [f"{path.relative_to(corpus)}: {fault}" for fault in found]
        unread.update(result.errors)
        totals.update(result.stats)
        totals["reported"] += result.flows
        if path.stat().st_size >= LEAST_BYTES:
            slow.append((1e9 * result.seconds / path.stat().st_size, path))
    if sys.stderr.isatty():
        print(file=sys.stderr)

    print(f"{len(files)} files, {totals['frames']:,} frames, {totals['reported']:,} flows possible or more")
    undecoded = sum(count for name, count in totals.items() if name.startswith("undecoded."))
    print(f"{totals['decoded']:,} frames decoded, {undecoded:,} not: ", end="")
    print(
        ", ".join(
            f"{n.partition('.')[2]} {totals[n]:,}" for n in sorted(totals) if n.startswith("undecoded.")
        )
    )
    print(
        "not read to the end: " + (", ".join(f"{n} {reason}" for reason, n in unread.most_common()) or "none")
    )
    for nanoseconds, path in sorted(slow, reverse=True)[:SLOWEST_SHOWN]:
        print(f"slow: {nanoseconds:.0f} ns per byte, {path.relative_to(corpus)}")
    for line in wrong:
        print(f"wrong: {line}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
