"""CPU time of whole processes, and what it was measured on."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


class BenchError(Exception):
    """A measured program failed or gave another answer than expected."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one process, its threads and children included."""

    cpu_s: float
    wall_s: float
    memory_mb: float
    output: str


def run(command: Sequence[str], accepted: tuple[int, ...] = (0,)) -> Run:
    """Run a command to its end; its CPU time is what the kernel charged, user and system."""
    between = [sys.executable, "-I", "-S", str(Path(__file__).with_name("timed.py"))]
    done = subprocess.run([*between, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        took = json.loads(done.stderr)
    except ValueError:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}") from None
    if took["status"] not in accepted:
        raise BenchError(f"status {took['status']}: {' '.join(command)}")
    return Run(took["cpu_s"], took["wall_s"], took["memory_mb"], done.stdout)


def alternate(
    commands: Mapping[str, Sequence[str]], runs: int, patience_s: float = 15.0
) -> dict[str, list[Run]]:
    """Run each command `runs` times, in turn, so that a slow minute of the machine meets all of them.

    One round before them is thrown away: it brings the input into the page cache. A command that would take
    longer than `patience_s` for all of its runs gets fewer; one that does for one run keeps its first.
    """
    results: dict[str, list[Run]] = {}
    wanted: dict[str, int] = {}
    for name, command in commands.items():
        first = run(command)
        wanted[name] = min(runs, max(1, int(patience_s / max(first.cpu_s, 1e-3))))
        results[name] = [first] if first.cpu_s > patience_s else []
    for turn in range(runs):
        for name, command in commands.items():
            if turn < wanted[name] and len(results[name]) < wanted[name]:
                results[name].append(run(command))
    return results


def median_cpu(runs: Sequence[Run]) -> float:
    return statistics.median(run.cpu_s for run in runs)


def machine() -> dict[str, str]:
    """The kind of machine, without its name."""
    model = _of_proc("cpuinfo", r"model name\s*: (.*)") or platform.machine()
    memory = int(_of_proc("meminfo", r"MemTotal:\s*(\d+) kB") or 0) / (1 << 20)
    return {
        "processor": model.strip(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release().partition("-")[0],
    }


def _of_proc(name: str, pattern: str) -> str | None:
    path = Path("/proc") / name
    match = (
        re.search(f"^{pattern}$", path.read_text(encoding="utf-8"), re.MULTILINE) if path.exists() else None
    )
    return match[1] if match else None


def versions() -> dict[str, str]:
    """Everything of ours whose version matters to the numbers."""
    found = {name: version(name) for name in ("vpn-classifier", "dpkt", "pytricia", "numpy")}
    found["python"] = platform.python_version()
    for name, command in (
        ("rustc", ["rustc", "--version"]),
        ("commit", ["git", "describe", "--always", "--dirty", "--exclude=*"]),
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        found[name] = done.stdout.strip().removeprefix(f"{name} ") or "unknown"
    return found


def between(page: str, name: str, text: str) -> str:
    """A page with other text between `<!-- NAME: begin ... -->` and `<!-- NAME: end -->`."""
    pattern = re.compile(rf"(<!-- {name}: begin\b[^>]*-->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    if not pattern.search(page):
        raise BenchError(f"the page has no place for {name}")
    return pattern.sub(lambda match: f"{match[1]}{text.rstrip()}\n{match[2]}", page)
