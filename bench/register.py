"""`python -m bench.register`: CPU time and memory of an import and of a snapshot, each in its own process.

Makes a feed of so many rows (every tenth entry has a second prefix, one row in seven is IPv6), imports it,
imports its next issue (one row in a hundred differs), and loads the store.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.lookups import make_networks
from bench.measure import run
from classifier.register import Category, Register, Status
from classifier.register.feed_map import COLUMNS

MAP = """
delimiter = ";"
separator = "|"
time_zone = "Asia/Karachi"
date_formats = ["%d/%m/%Y"]
[values.status]
"Active" = "approved"
[manifest]
update_every = "7d"
"""
# CPU seconds of an import, CPU seconds and megabytes of a snapshot.
LIMITS = {100_000: (8.0, 0.5, 150.0), 1_000_000: (60.0, 10.0, 1200.0)}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process, interpreter and imports included."""

    what: str
    rows: int
    cpu_s: float
    memory_mb: float
    limit_s: float | None
    limit_mb: float | None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.register", description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="size of the feed (100000 and 1000000)")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load is not None:
        report_load(arguments.load)
        return
    table = Table(title="The register: one process each")
    for heading in ("", "CPU s", "limit", "MB", "limit "):
        table.add_column(heading, justify="right" if heading else "left")
    for rows in arguments.rows or list(LIMITS):
        for cost in measure(rows):
            table.add_row(
                f"{cost.what}, {cost.rows:,} rows",
                f"{cost.cpu_s:.2f}",
                "" if cost.limit_s is None else f"{cost.limit_s:g}",
                f"{cost.memory_mb:,.0f}",
                "" if cost.limit_mb is None else f"{cost.limit_mb:,.0f}",
            )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def measure(rows: int) -> list[Cost]:
    """What each step costs with a feed of so many rows."""
    import_s, load_s, memory_mb = LIMITS.get(rows, (None, None, None))
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "register.db")
        Path(folder, "map.toml").write_text(MAP, encoding="utf-8")
        for serial, what in ((1, "first import"), (2, "next issue")):
            feed = Path(folder, f"feed-{serial}.csv")
            write_feed(feed, rows, serial)
            issued = f"2026-11-{20 + serial}T12:00:00Z"
            command = [sys.executable, "-m", "classifier", "register", "import", str(feed), "--complete"]
            command += ["--source", "regulator", "--map", str(Path(folder, "map.toml")), "--db", str(store)]
            done = run([*command, "--serial", str(serial), "--issued-at", issued])
            costs.append(Cost(what, rows, done.cpu_s, done.memory_mb, import_s, None))
        done = run([sys.executable, "-m", "bench.register", "--load", str(store)])
        cpu_s, memory = map(float, done.output.split())
        costs.append(Cost("snapshot to ready", rows, cpu_s, memory, load_s, memory_mb))
    return costs


def report_load(path: Path) -> None:
    """In a process of its own: CPU time of one load, and the whole process's memory."""
    began = time.process_time()
    register = Register.load(path)
    cpu_s = time.process_time() - began
    assert register.entries
    print(cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def write_feed(path: Path, rows: int, serial: int) -> None:
    """The issue of that number; the first and the second differ in one row of a hundred."""
    generator = random.Random(rows)
    categories, statuses = list(Category), ["Active"] * 12 + [str(status) for status in Status]
    with path.open("w", encoding="utf-8") as file:
        print(*COLUMNS, sep=";", file=file)
        for number, network in enumerate(make_networks(generator, rows)):
            entry = number - 1 if number % 10 == 1 else number
            own = random.Random(entry)
            status = own.choice(statuses)
            if serial > 1 and entry % 100 == 50:
                status = "suspended"
            first = f"{own.randrange(1, 29):02}/{own.randrange(1, 13):02}/2025"
            print(
                f"R-2025-{entry:07}",
                "vpn_registration",
                own.choice(categories),
                network,
                own.choice(("", "subscriber", "endpoint")),
                f"198.51.100.{own.randrange(256)}:51820" if own.random() < 0.3 else "",
                own.choice(("", "wireguard", "openvpn|ipsec")),
                first,
                f"{own.randrange(1, 29):02}/{own.randrange(1, 13):02}/2027",
                status,
                first,
                sep=";",
                file=file,
            )


if __name__ == "__main__":
    main()
