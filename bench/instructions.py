"""Instructions per packet: counted by callgrind on small fixed loads, and compared with committed figures.

A count does not depend on how busy a machine is, so that CI can hold it: one that differs from
bench/instructions.toml by more than 2 % fails, a gain too, so that the figures are always the present ones.
`make instructions` prints the comparison and where the instructions are; `make instructions UPDATE=1` writes
the figures and the table of docs/performance.md.

Only what runs between begin and end of `replay` in engine.rs is counted, in user space: neither the start of
the program nor the kernel's copy of the file. The C library chooses how to copy by the processor; it is told
to take what every x86-64 has. Nothing of ours asks for the processor. Another compiler makes other code: the
figures are those of one version, and with another one there is nothing to compare.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.measure import ROOT, BenchError, between
from bench.stages import stages

FIGURES = Path(__file__).with_suffix(".toml")
PAGE = ROOT / "docs" / "performance.md"
TOLERANCE = 0.02
LIBRARY = "C library: copies, clearing, allocation"
LOADS = {
    "mix": ("mix", 100_000, 5_000),
    "elephants": ("elephants", 100_000, 50),
    "small": ("uniform", 100_000, 100_000),
    "streams": ("streams", 50_000, 2_500),
}
"""Shape, packets and flows, for bench/workload.rs."""
ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-ERMS,-FSRM"
    ",-AVX_Fast_Unaligned_Load"
    ":glibc.cpu.x86_non_temporal_threshold=0xc0000",
    "LC_ALL": "C",
}
_COST = re.compile(r"0x([0-9a-f]+) \d+ (\d+)")


@dataclass(frozen=True, slots=True)
class Counted:
    """Instructions per packet of one program on one load."""

    total: float
    by_file: Mapping[str, float]
    by_function: Mapping[str, float]


def count(program: Path, function: str, capture: Path, packets: int) -> Counted:
    """Run a program under callgrind and count what it executes within a function."""
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "callgrind"
        done = subprocess.run(
            [
                shutil.which("valgrind") or "valgrind",
                "--tool=callgrind",
                f"--toggle-collect={function}*",
                "--dump-instr=yes",
                "--compress-pos=no",
                "--compress-strings=no",
                f"--callgrind-out-file={written}",
                program,
                capture,
            ],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"valgrind, status {done.returncode}: {done.stderr.strip()[-2000:]}")
        text = written.read_text(encoding="utf-8", errors="replace")
    of_program, of_others, by_function = parse(text, program)
    total = sum(of_program.values()) + sum(of_others.values())
    if not total:
        raise BenchError(f"{program.name} has no function {function}, or it was never called")
    places = stages(program, of_program)
    by_file: Counter[str] = Counter()
    for address, cost in of_program.items():
        by_file[places[address]] += cost
    by_file[LIBRARY] += sum(of_others.values())
    return Counted(
        total / packets,
        {name: cost / packets for name, cost in by_file.most_common()},
        {name: cost / packets for name, cost in by_function.most_common()},
    )


def parse(text: str, program: Path) -> tuple[Counter[int], Counter[str], Counter[str]]:
    """Of callgrind's output: own cost of the program's addresses, of others' functions, of all functions."""
    of_program: Counter[int] = Counter()
    of_others: Counter[str] = Counter()
    by_function: Counter[str] = Counter()
    inside = False
    function = ""
    call = False
    for line in text.splitlines():
        if line.startswith("ob="):
            inside = line[3:] == str(program)
        elif line.startswith("fn="):
            function = line[3:]
        elif line.startswith("calls="):
            call = True
        elif match := _COST.match(line):
            # What follows a call is the callee's cost, counted there already.
            if not call:
                cost = int(match[2])
                by_function[function] += cost
                if inside:
                    of_program[int(match[1], 16)] += cost
                else:
                    of_others[function] += cost
            call = False
    return of_program, of_others, by_function


def compiler() -> str:
    done = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=False)
    match = re.match(r"rustc (\S+)", done.stdout)
    return match[1] if match else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="where cargo put engine and workload")
    parser.add_argument("--update", action="store_true", help="write the figures and the table of the page")
    arguments = parser.parse_args()
    programs = arguments.programs.resolve()
    counted: dict[str, Counted] = {}
    floors: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (shape, packets, flows) in LOADS.items():
            capture = Path(scratch) / f"{name}.pcap"
            subprocess.run(
                [
                    programs / "workload",
                    shape,
                    capture,
                    *("--packets", str(packets)),
                    *("--flows", str(flows)),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            counted[name] = count(programs / "engine", "engine::replay", capture, packets)
            floors[name] = count(programs / "floor", "floor::count", capture, packets).total
    print_places(counted)
    version = compiler()
    if arguments.update:
        write(version, counted)
        PAGE.write_text(
            between(PAGE.read_text(encoding="utf-8"), "instructions", table(counted, floors)),
            encoding="utf-8",
        )
        print(f"written: {FIGURES.name}, {PAGE.name}")
    sys.exit(compare(version, {name: one.total for name, one in counted.items()}, floors))


def compare(version: str, counted: Mapping[str, float], floors: Mapping[str, float]) -> int:
    """Print the figures beside the committed ones; 1 when one is out of its bounds."""
    committed = tomllib.loads(FIGURES.read_text(encoding="utf-8"))
    known = committed["instructions-per-packet"]
    print(f"\n{'instructions per packet':<24} {'now':>9} {'committed':>10} {'change':>9} {'floor':>8}")
    wrong = []
    for name, now in counted.items():
        change = now / known[name] - 1 if name in known else float("inf")
        print(f"{name:<24} {now:9.1f} {known.get(name, 0):10.1f} {change:+9.2%} {floors[name]:8.1f}")
        if abs(change) > TOLERANCE:
            wrong.append(name)
    if version != committed["rustc"]:
        print(
            f"The committed figures are those of rustc {committed['rustc']}, this is {version}: "
            "nothing to compare. "
            f"With rustup: make instructions CARGO='cargo +{committed['rustc']}'. "
            "For a new compiler: make instructions UPDATE=1."
        )
        return 1
    if wrong:
        print(
            f"{', '.join(wrong)}: more than {TOLERANCE:.0%} from the committed figure. "
            "If that is meant: make instructions UPDATE=1, "
            "and commit bench/instructions.toml and docs/performance.md."
        )
        return 1
    return 0


def print_places(counted: Mapping[str, Counted]) -> None:
    """Where the instructions are: by symbol, then by the source file of what was put inline."""
    for title, parts in (
        ("by function", {name: one.by_function for name, one in counted.items()}),
        ("by source file", {name: one.by_file for name, one in counted.items()}),
    ):
        print(f"\n{title:<72}" + "".join(f"{name:>11}" for name in counted))
        for place in order(parts)[:24]:
            shares = "".join(f"{part.get(place, 0):11.1f}" for part in parts.values())
            print(f"{place[:71]:<72}{shares}")


def order(parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Places by what they cost on all loads together."""
    together: Counter[str] = Counter()
    for part in parts.values():
        together.update({name: int(cost * 10) for name, cost in part.items()})
    return [name for name, _ in together.most_common()]


def table(counted: Mapping[str, Counted], floors: Mapping[str, float]) -> str:
    """Instructions per packet by source file, as Markdown."""
    parts = {name: one.by_file for name, one in counted.items()}
    lines = [
        "| source file | " + " | ".join(counted) + " |",
        "| --- |" + " ---: |" * len(counted),
    ]
    rest = dict.fromkeys(counted, 0.0)
    for place in order(parts):
        costs = [part.get(place, 0) for part in parts.values()]
        if max(costs) >= 5:
            lines.append(f"| {place} | " + " | ".join(f"{cost:.0f}" for cost in costs) + " |")
        else:
            rest = {name: rest[name] + part.get(place, 0) for name, part in parts.items()}
    lines.append("| what has less than 5 | " + " | ".join(f"{cost:.0f}" for cost in rest.values()) + " |")
    lines.append("| **all** | " + " | ".join(f"**{one.total:.0f}**" for one in counted.values()) + " |")
    lines.append("| floor | " + " | ".join(f"{floors[name]:.0f}" for name in counted) + " |")
    return "\n".join(lines)


def write(version: str, counted: Mapping[str, Counted]) -> None:
    figures = "".join(f"{name} = {one.total:.1f}\n" for name, one in counted.items())
    FIGURES.write_text(
        "# Written by `make instructions UPDATE=1`; CI compares with them (bench/instructions.py).\n"
        f'rustc = "{version}"\n\n[instructions-per-packet]\n{figures}',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
