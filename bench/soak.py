"""`make soak`: `watch` for half an hour under ever new flows: memory flat, counters add up.

Flows are those of the mix, under other addresses in each pass; after CYCLE_S seconds the first addresses
come again, when what was not recognised has long been given up, so that everything that is kept has
reached its level in the first third. Of the rest a straight line through the memory (resident, sampled
every second) is fitted: it may rise by no more than a hundredth, or a megabyte, over that time.

The rule a reader would get wrong: packets may be lost on a busy machine, and that is no failure here.
That one is lost and not counted is.
"""

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.live import FRAMES, HERE, THERE, Bench, Sent, chosen, counters, wait_for
from bench.measure import ROOT
from bench.namespace import Namespace, stop, text

RATE = 30_000.0
CYCLE_S = 300
WARM_UP = 1 / 3
MAX_GROWTH, MAX_GROWTH_MB = 0.01, 1.0
FEWEST_SAMPLES = 30


@dataclass(frozen=True, slots=True)
class Soaked:
    """What came of it."""

    sent: Sent
    counters: dict[str, int]
    memory_mb: list[float]
    """Every second."""

    def faults(self) -> list[str]:
        """What does not add up."""
        counted = self.counters
        ignored = sum(count for name, count in counted.items() if name.startswith(("undecoded.", "ignored.")))
        without = sum(count for name, count in counted.items() if name.startswith("no_flow."))
        fragments = counted["fragments_unmatched"] + counted["fragments_waiting"]
        sums = {
            "sent = received": (self.sent.sent, counted["kernel.received"]),
            "received = frames + dropped": (
                counted["kernel.received"],
                counted["frames"] + counted["kernel.dropped"],
            ),
            "frames = decoded + undecoded + ignored": (counted["frames"], counted["decoded"] + ignored),
            "decoded = flows + none + fragments": (
                counted["decoded"],
                counted["flow_packets"] + without + fragments,
            ),
        }
        return [f"{name}: {left:,} and {right:,}" for name, (left, right) in sums.items() if left != right]

    def growth(self) -> tuple[float, float]:
        """Megabytes an hour, and over the time that counts, by a straight line."""
        level = self.memory_mb[int(len(self.memory_mb) * WARM_UP) :]
        slope = statistics.linear_regression(range(len(level)), level).slope
        return slope * 3600, slope * len(level)

    def grows(self) -> bool:
        _, growth = self.growth()
        return growth > max(MAX_GROWTH_MB, MAX_GROWTH * max(self.memory_mb))


def passes(seconds: float, rate: float) -> int:
    """After how many of them the first addresses come again: within the time that does not count."""
    return max(1, round(min(CYCLE_S, 0.8 * WARM_UP * seconds) * rate / FRAMES))


def soak(bench: Bench, rate: float, vary: int) -> Soaked:
    """One run with the settings that people have; `vary` is the sender's."""
    events, errors = bench.place / "events.jsonl", bench.place / "watch.stderr"
    with errors.open("wb") as said:
        program = bench.namespace.start(
            [
                *(sys.executable, "-m", "classifier", "watch", "-i", HERE),
                *("--rules", str(ROOT / "rules"), "-o", str(events)),
            ],
            subprocess.DEVNULL,
            said,
        )
    wait_for(lambda: "listening on" in text(errors), "watch to listen")
    memory: list[float] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(1):
            memory.append(resident_mb(program.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        sent = bench.send(rate, vary=vary)
    finally:
        done.set()
        sampler.join()
    stop(program, signal.SIGTERM)
    return Soaked(sent, counters(events), memory)


def resident_mb(process: int) -> float:
    """Without the ring, which is the kernel's."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="watch for a long time")
    parser.add_argument("--sender", type=Path, required=True, help="the sender, built in release mode")
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long (%(default)s)")
    parser.add_argument("--rate", type=float, default=RATE, help="packets a second (%(default)s)")
    parser.add_argument("--load", type=Path, help="a capture to send (the mix of the generator)")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with (
        chosen(arguments.load, arguments.sender) as (name, load),
        tempfile.TemporaryDirectory() as place,
        Namespace() as namespace,
    ):
        namespace.wire(HERE, THERE)
        bench = Bench(namespace, arguments.sender.resolve(), load, arguments.seconds, Path(place))
        soaked = soak(bench, arguments.rate, passes(arguments.seconds, arguments.rate))
    sent, counted = soaked.sent, soaked.counters
    console.print(
        f"{name}: {sent.sent:,} packets in {sent.seconds:,.0f} s ({sent.rate:,.0f}/s), "
        f"{counted['kernel.dropped']:,} unseen; "
        f"{counted['flows.created']:,} flows begun, {counted['flows.recognised']:,} recognised"
    )
    faults = soaked.faults()
    if len(soaked.memory_mb) >= FEWEST_SAMPLES:
        hourly, growth = soaked.growth()
        first, last = soaked.memory_mb[int(len(soaked.memory_mb) * WARM_UP)], soaked.memory_mb[-1]
        console.print(
            f"memory {first:,.1f} MB after a third of the time, {last:,.1f} MB at the end: "
            f"{hourly:+.2f} MB an hour"
        )
        if soaked.grows():
            faults.append(f"memory grew by {growth:.1f} MB")
    for fault in faults:
        console.print(f"FAILED {fault}")
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
