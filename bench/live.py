"""`make bench-live`: how much `watch` sees of a virtual wire, beside tcpdump, ndpiReader and NFStream.

In a namespace of its own, over one veth pair, from a sender of our own (sender.rs). Each round finds the
highest rate at which `tcpdump -w /dev/null` loses none, and then measures the others one after the other
at 0.8 of it; medians of the rounds are what is printed. Last: how long after the packet that decided
about a flow its event line is in the file, at half of that rate.

The rule a reader would get wrong: a packet is lost when it was sent and not looked at, whoever lost it.
So it is counted by what was sent, not by what a program says of itself. The sender takes one core; the
kernel delivers to the ring on that core, too, so that the other one is the program's own. On a machine
with two cores nothing else may run.
"""

import argparse
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.loads import Loads
from bench.measure import ROOT, BenchError, machine, versions
from bench.namespace import PATIENCE_S, Namespace, stop, text

HERE, THERE = "tap0", "gen0"
RESULTS = Path(__file__).parent / "results"
RING_MIB = 64
SHARE, LATENCY_SHARE = 0.8, 0.5
LATENCY_LIMIT_MS = 50.0
FRAMES = 200_000
PRECISION = 0.05  # of the rate that is looked for
WIDTH = 110
POLL_S = 0.001
NFSTREAM = """
import signal, sys
from nfstream import NFStreamer
signal.signal(signal.SIGINT, signal.default_int_handler)
seen = 0
try:
    for flow in NFStreamer(source=sys.argv[1], n_meters=1, idle_timeout=2, active_timeout=3):
        seen += flow.bidirectional_packets
        print(seen, flush=True)
except KeyboardInterrupt:
    pass
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the sender says."""

    sent: int
    bytes: int
    seconds: float
    rate: float
    worst_ms: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One program at one rate."""

    program: str
    sent: int
    rate: float
    unseen: int
    """Packets sent and not looked at."""
    cpu_s: float

    @property
    def share(self) -> float:
        return self.unseen / self.sent


@dataclass(frozen=True, slots=True)
class Latency:
    """From the deciding packet to the line in the file."""

    rate: float
    lines: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement needs."""

    namespace: Namespace
    sender: Path
    load: Path
    seconds: float
    place: Path

    def send(self, rate: float | None, seconds: float | None = None, vary: int = 0) -> Sent:
        """Sends the load, under other addresses in each pass; `None`: as fast as possible."""
        asked = [] if rate is None else ["--rate", f"{rate:.0f}"]
        seconds = seconds or self.seconds
        said = self.namespace.run(
            *(str(self.sender), str(self.load), THERE, "--seconds", str(seconds)),
            *("--frames", str(FRAMES), "--vary", str(vary), *asked),
            timeout=seconds + PATIENCE_S,
        )
        return Sent(**json.loads(said))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.live", description="watch on a virtual wire")
    parser.add_argument("--sender", type=Path, required=True, help="the sender, built in release mode")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of sending, each time (%(default)s)")
    parser.add_argument("--load", type=Path, help="a capture to send (the mix of the generator)")
    parser.add_argument("--no-save", action="store_true", help="leave bench/results/ as it is")
    parser.add_argument(
        "--nfstream", metavar="PYTHON", help="a Python that has NFStream (this one, if it has)"
    )
    arguments = parser.parse_args()
    progress = Console(stderr=True)
    with (
        chosen(arguments.load, arguments.sender) as (called, load),
        tempfile.TemporaryDirectory() as place,
        Namespace() as namespace,
    ):
        namespace.wire(HERE, THERE)
        bench = Bench(namespace, arguments.sender.resolve(), load, arguments.seconds, Path(place))
        peers, found = programs(bench, arguments.nfstream)
        limits, seen = [], []
        for number in range(1, arguments.rounds + 1):
            limit = highest_rate(bench)
            limits.append(limit)
            progress.print(f"round {number}: tcpdump takes {limit:,.0f} packets/s")
            for name, program in peers.items():
                seen.append(one := program(name, SHARE * limit))
                progress.print(
                    f"  {name}: {one.unseen:,} of {one.sent:,} unseen at {one.rate:,.0f} packets/s"
                )
        limit = statistics.median(limits)
        latencies = [latency(bench, LATENCY_SHARE * limit) for _ in range(arguments.rounds)]
    table = make_table(called, limit, list(peers), seen, latencies)
    known = machine() | versions() | found
    about = ", ".join(f"{name} {value}" for name, value in known.items())
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    Console().print(about, highlight=False)
    if not arguments.no_save:
        save(table, called, about, limits, seen, latencies)
    ours = [one for one in seen if one.program == "watch"]
    if statistics.median(one.unseen for one in ours) > 0:
        raise SystemExit("watch lost packets")
    if statistics.median(one.p99_ms for one in latencies) > LATENCY_LIMIT_MS:
        raise SystemExit(f"event lines came later than {LATENCY_LIMIT_MS:g} ms")


@contextmanager
def chosen(path: Path | None, sender: Path) -> Iterator[tuple[str, Path]]:
    """What the load is called, and the load; the generator of loads is beside the sender."""
    if path is not None:
        yield path.name, path
        return
    with Loads(sender.resolve().with_name("workload")).made("mix", 2_000_000, 100_000) as load:
        yield f"mix, {load.packets:,} packets, {load.flows:,} flows", load.path


def highest_rate(bench: Bench) -> float:
    """The highest rate at which tcpdump loses none; at most what the sender can do."""
    sent, lost = tcpdump(bench, None)
    if not lost:
        return sent.rate
    low, high = 0.0, sent.rate
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        sent, lost = tcpdump(bench, middle)
        low, high = (low, middle) if lost else (min(middle, sent.rate), high)
    return low


def tcpdump(bench: Bench, rate: float | None) -> tuple[Sent, int]:
    """With a ring as large as ours."""
    errors = bench.place / "tcpdump.stderr"
    with errors.open("wb") as said:
        program = bench.namespace.start(
            ["tcpdump", "-i", HERE, "-w", "/dev/null", "-B", str(RING_MIB << 10), "-Z", "root"],
            subprocess.DEVNULL,
            said,
        )
    wait_for(lambda: "listening on" in text(errors), "tcpdump to listen")
    sent = bench.send(rate)
    time.sleep(0.3)
    stop(program, signal.SIGINT)
    numbers = {words: int(count) for count, words in re.findall(r"^(\d+) packets (.*)$", text(errors), re.M)}
    return sent, sent.sent - numbers["received by filter"] + numbers["dropped by kernel"]


def programs(
    bench: Bench, python: str | None
) -> tuple[dict[str, Callable[[str, float], Seen]], dict[str, str]]:
    """Those that are there, and their versions; tcpdump's stands beside."""
    peers: dict[str, Callable[[str, float], Seen]] = {"watch": lambda name, rate: watch(bench, name, rate)}
    found = {"tcpdump": first_line("tcpdump", "--version").removeprefix("tcpdump version ")}
    if shutil.which("ndpiReader"):
        peers["ndpiReader"] = lambda name, rate: ndpi_reader(bench, name, rate)
        found["nDPI"] = first_line("ndpiReader", "--help").removeprefix("Welcome to nDPI ")
    python = python or sys.executable
    done = subprocess.run(
        [python, "-c", "import nfstream; print(nfstream.__version__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        peers["NFStream"] = lambda name, rate: nfstream(bench, name, rate, python)
        found["nfstream"] = done.stdout.strip()
    return peers, found


def first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def watch_command(events: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "classifier", "watch", "-i", HERE, "--rules", str(ROOT / "rules")),
        *("--keep", "all", "--ring-size", str(RING_MIB), "-o", str(events)),
    ]


def watch(bench: Bench, name: str, rate: float) -> Seen:
    """Ours: the whole command, with register, policy and events."""
    events, errors = bench.place / "events.jsonl", bench.place / "watch.stderr"
    events.unlink(missing_ok=True)
    with errors.open("wb") as said:
        program = bench.namespace.start(watch_command(events), subprocess.DEVNULL, said)
    wait_for(lambda: "listening on" in text(errors), "watch to listen")
    cpu = cpu_s(program.pid)
    sent = bench.send(rate)
    cpu = cpu_s(program.pid) - cpu
    stop(program, signal.SIGTERM)
    counted = counters(events)
    return Seen(name, sent.sent, sent.rate, sent.sent - counted["frames"], cpu)


def counters(events: Path) -> dict[str, int]:
    """Those of the last event of a run."""
    with events.open("rb") as file:
        file.seek(max(0, events.stat().st_size - (1 << 16)))
        last = json.loads(file.read().splitlines()[-1])
    if (last["event_type"], last["event"]) != ("stats", "ended"):
        raise BenchError(f"{events.name} does not end as a run ends")
    found: dict[str, int] = last["stats"]["counters"]
    return found


def ndpi_reader(bench: Bench, name: str, rate: float) -> Seen:
    """Debian's, as it is; what it looked at is what it says in the end."""
    output = bench.place / "ndpi.stdout"
    with output.open("wb") as said:
        program = bench.namespace.start(["ndpiReader", "-i", HERE, "-v", "0"], said, subprocess.STDOUT)
        wait_for_socket(program, name)
        cpu = cpu_s(program.pid)
        sent = bench.send(rate)
        cpu = cpu_s(program.pid) - cpu
        time.sleep(0.5)
        stop(program, signal.SIGINT)
    total = re.search(r"IP packets:\s*\d+\s+of (\d+) packets total", text(output))
    if total is None:
        raise BenchError("ndpiReader does not say how many packets it looked at")
    return Seen(name, sent.sent, sent.rate, sent.sent - int(total[1]), cpu)


def nfstream(bench: Bench, name: str, rate: float, python: str) -> Seen:
    """Packets of the flows that it gives; these end after two seconds of silence, so that all come."""
    output = bench.place / "nfstream.stdout"
    with output.open("wb") as said:
        program = bench.namespace.start([python, "-c", NFSTREAM, HERE], said, subprocess.DEVNULL)
        wait_for_socket(program, name)
        cpu = tree_cpu_s(program.pid)
        sent = bench.send(rate)
        cpu = tree_cpu_s(program.pid) - cpu
        settled(output)
        late = bench.send(100, 6)  # its clock is that of its packets
        settled(output)
        stop(program, signal.SIGINT)
    # Of what was sent last, it may have told a part.
    told = int((text(output).split() or ["0"])[-1])
    return Seen(name, sent.sent, sent.rate, min(sent.sent, max(0, sent.sent + late.sent - told)), cpu)


def wait_for_socket(program: subprocess.Popen[bytes], name: str) -> None:
    """A program that does not say when it listens: once there is a packet socket, it soon does."""
    sockets = Path(f"/proc/{program.pid}/net/packet")
    wait_for(lambda: len(text(sockets).splitlines()) > 1, f"{name} to listen")
    time.sleep(1)


def settled(output: Path) -> None:
    """Waits until a file has stopped growing."""
    size = -1
    while size != output.stat().st_size:
        size = output.stat().st_size
        time.sleep(3)


def cpu_s(process: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def tree_cpu_s(process: int) -> float:
    """And of its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    return cpu_s(process) + sum(tree_cpu_s(int(child)) for child in children)


def latency(bench: Bench, rate: float) -> Latency:
    """The host's time at which each line was in the file, less the kernel's time of its deciding packet."""
    events, errors = bench.place / "events.jsonl", bench.place / "watch.stderr"
    events.unlink(missing_ok=True)
    with errors.open("wb") as said:
        program = bench.namespace.start(watch_command(events), subprocess.DEVNULL, said)
    wait_for(lambda: "listening on" in text(errors), "watch to listen")
    arrived: list[tuple[int, bytes]] = []
    done = threading.Event()
    reader = threading.Thread(target=follow, args=(events, arrived, done))
    reader.start()
    sent = bench.send(rate)
    time.sleep(0.2)
    done.set()
    reader.join()
    stop(program, signal.SIGTERM)
    delays = []
    for at, chunk in arrived:
        for line in chunk.splitlines():
            event = json.loads(line)
            if event["event_type"] == "vpn" and event["event"] in ("recognised", "changed"):
                delays.append((at - nanoseconds(event["timestamp"])) / 1e6)
    if len(delays) < 100:
        raise BenchError(f"only {len(delays)} events to measure by")
    parts = statistics.quantiles(delays, n=100)
    return Latency(sent.rate, len(delays), parts[49], parts[98], max(delays))


def follow(file: Path, arrived: list[tuple[int, bytes]], done: threading.Event) -> None:
    """Notes when whole lines are there."""
    rest = b""
    with file.open("rb") as lines:
        while not done.is_set():
            read = lines.read()
            if not read:
                time.sleep(POLL_S)
                continue
            at = time.time_ns()
            whole, newline, rest = (rest + read).rpartition(b"\n")
            arrived.append((at, whole + newline))


def nanoseconds(timestamp: str) -> int:
    seconds, _, fraction = timestamp.removesuffix("Z").partition(".")
    whole = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
    return int(whole.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0"))


def wait_for(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > end:
            raise BenchError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(0.02)


def make_table(
    load: str, limit: float, names: list[str], seen: list[Seen], latencies: list[Latency]
) -> Table:
    table = Table(
        title="watch on a virtual wire",
        caption=f"Medians of {len(latencies)} rounds. Unseen: packets sent and not looked at. Load: {load}, "
        f"its first {FRAMES:,} packets, under other addresses in each pass. Rings: {RING_MIB} MiB for "
        "tcpdump and watch, those of libpcap for the others.",
    )
    for heading in ("", "packets/s", "unseen", "limit", "CPU ns per packet"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("the most that tcpdump -w /dev/null takes", f"{limit:,.0f}", "0", "", "", end_section=True)
    for name in names:
        own = [one for one in seen if one.program == name]
        median = statistics.median
        table.add_row(
            f"{name}, at {SHARE:g} of that",
            f"{median(one.rate for one in own):,.0f}",
            f"{median(one.share for one in own):.2%}" if median(one.unseen for one in own) else "0",
            "0" if name == "watch" else "",
            f"{median(one.cpu_s / one.sent for one in own) * 1e9:,.0f}",
            end_section=name == names[-1],
        )
    for name, value, bound in (
        ("50th", statistics.median(one.p50_ms for one in latencies), ""),
        ("99th", statistics.median(one.p99_ms for one in latencies), f"{LATENCY_LIMIT_MS:g} ms"),
    ):
        rate = statistics.median(one.rate for one in latencies)
        table.add_row(
            f"deciding packet to event line, {name} percentile", f"{rate:,.0f}", f"{value:.1f} ms", bound
        )
    return table


def save(
    table: Table, load: str, about: str, limits: list[float], seen: list[Seen], latencies: list[Latency]
) -> None:
    """Keep the run: numbers as JSON, and the table as it was printed."""
    RESULTS.mkdir(exist_ok=True)
    today = datetime.now(UTC).date().isoformat()
    kind = re.sub(r"[^a-z0-9]+", "-", f"{machine()['processor']} {machine()['cores']} cores".lower()).strip(
        "-"
    )
    path = RESULTS / f"{today}-{kind}-live"
    numbers = {
        "date": today,
        "load": load,
        "about": about,
        "limits": limits,
        "seen": [asdict(one) for one in seen],
        "latencies": [asdict(one) for one in latencies],
    }
    path.with_suffix(".json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    with path.with_suffix(".md").open("w", encoding="utf-8") as file:
        print(f"# {today}, live\n\n{about}\n\n```", file=file)
        Console(file=file, width=WIDTH, no_color=True).print(table)
        print("```", file=file)


if __name__ == "__main__":
    main()
