"""`make bench`: builds the loads, measures, prints the table and keeps it in bench/results/."""

import argparse
import json
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import events, lookups, replay, tunnels
from bench.loads import GENERATOR, PROFILES, build
from bench.measure import machine, versions

RESULTS = Path(__file__).parent / "results"
LOOKUP_SIZES = (1_000, 30_000, 1_000_000)
WIDTH = 110
CAPTION = (
    "Medians of alternating runs; start-up is subtracted from the CPU time per packet. "
    "floor: a program that only reads the file and counts packets by five-tuple; in look-ups bare pytricia. "
    "dpkt: the same counting in Python."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Speed of vpn-classifier; see bench/README.md"
    )
    parser.add_argument("--floor", type=Path, required=True, help="the floor program, built in release mode")
    parser.add_argument("--runs", type=int, default=7, help="runs of each program and load (%(default)s)")
    parser.add_argument(
        "--load",
        action="append",
        choices=PROFILES,
        help="only this load, can be given again (all that can be built)",
    )
    parser.add_argument("--no-save", action="store_true", help="leave bench/results/ as it is")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    progress = Console(stderr=True)

    programs = replay.Programs(arguments.floor)
    profiles = arguments.load or (list(PROFILES) if GENERATOR.exists() else ["mix"])
    progress.print("start-up ...")
    start = replay.measure_start(programs, 2 * arguments.runs)
    speeds, wrapped = [], []
    for profile in profiles:
        progress.print(f"{profile}: building the load where it is missing, then {arguments.runs} runs ...")
        speeds.append(replay.measure(programs, build(profile), start, arguments.runs))
        if profile == "mix":
            progress.print("mix in VLAN, MPLS and GTP-U ...")
            wrapped.append(tunnels.measure(programs, build(profile), start, arguments.runs))
    found = []
    for size in LOOKUP_SIZES:
        progress.print(f"look-ups, {size:,} prefixes ...")
        found.append(lookups.measure(size, arguments.runs))

    progress.print(f"event lines, {events.FLOWS:,} recognised flows ...")
    lines = events.measure(events.FLOWS, max(1, arguments.runs // 3))

    table = make_table(start, speeds, wrapped, lines, found)
    console.print(table)
    console.print(about_line(), highlight=False)
    if not arguments.no_save:
        numbers = {"start": start, "replay": speeds, "tunnels": wrapped, "events": lines, "lookups": found}
        save(table, json.loads(json.dumps(numbers, default=asdict)))


def make_table(
    start: replay.Start,
    speeds: list[replay.Speed],
    wrapped: list[tunnels.Tunnels],
    lines: events.Events,
    found: list[lookups.Lookups],
) -> Table:
    """All results, one row each."""
    table = Table(title="vpn-classifier beside the least that the machine needs", caption=CAPTION)
    for heading in ("", "ours", "floor", "ratio", "limit", "dpkt"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row(
        "start-up: CPU ms on one packet",
        f"{start.whole_s * 1e3:,.0f}",
        f"{start.floor_s * 1e3:,.0f}",
        "",
        f"{replay.START_LIMIT_S * 1e3:,.0f} ms",
        f"{start.dpkt_s * 1e3:,.0f}",
        end_section=True,
    )
    for speed in speeds:
        table.add_row(
            f"CPU ns per packet: {speed.load}",
            f"{speed.whole_ns:,.0f}",
            f"{speed.floor_ns:,.0f}",
            f"{speed.ratio:.1f}",
            f"{replay.FLOOR_RATIO_LIMIT:g} floors" if speed.load == PROFILES["mix"][0] else "",
            f"{speed.dpkt_ns:,.0f}",
            end_section=speed is speeds[-1],
        )
    for pair in wrapped:
        table.add_row(
            "CPU ns per packet: mix in VLAN, MPLS, GTP-U beside bare",
            f"{pair.wrapped_ns:,.0f}",
            f"{pair.bare_ns:,.0f}",
            f"{pair.ratio:.2f}",
            f"{tunnels.RATIO_LIMIT:g} bare",
            end_section=True,
        )
    table.add_row(
        f"CPU µs per event line: {lines.flows:,} recognised flows",
        f"{lines.line_us:.1f}",
        "",
        "",
        f"{events.LINE_LIMIT_US:g} µs",
        "",
        end_section=True,
    )
    for row in found:
        table.add_row(
            f"M look-ups per CPU s: register, {row.prefixes:,} prefixes",
            f"{row.register:.2f}",
            f"{row.pytricia:.2f}",
            f"{row.register / row.pytricia:.2f}",
            end_section=row is found[-1],
        )
    for row in found:
        bare = row.pytricia * 1e6 / 2
        table.add_row(
            f"k flows judged per CPU s: {row.prefixes:,} prefixes",
            f"{row.judged / 1e3:,.0f}",
            f"{bare / 1e3:,.0f}",
            f"{row.judged / bare:.2f}",
            f"{lookups.JUDGED_LIMIT / 1e3:,.0f} k" if row.prefixes == LOOKUP_SIZES[1] else "",
        )
    return table


def about_line() -> str:
    return f"{machine()}; " + ", ".join(f"{name} {value}" for name, value in versions().items())


def save(table: Table, numbers: dict[str, object]) -> None:
    """Keep the run: numbers as JSON, and the table as it was printed."""
    RESULTS.mkdir(exist_ok=True)
    today = datetime.now(UTC).date().isoformat()
    kind = re.sub(r"[^a-z0-9]+", "-", machine().lower()).strip("-")
    about: dict[str, object] = {"date": today, "machine": machine(), "versions": versions()}
    path = RESULTS / f"{today}-{kind}"
    path.with_suffix(".json").write_text(json.dumps(about | numbers, indent=2) + "\n", encoding="utf-8")
    with path.with_suffix(".md").open("w", encoding="utf-8") as file:
        print(f"# {today}\n\n{about_line()}\n\n```", file=file)
        Console(file=file, width=WIDTH, no_color=True).print(table)
        print("```", file=file)


if __name__ == "__main__":
    main()
