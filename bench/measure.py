"""CPU time of whole processes, and what it was measured on."""

import os
import platform
import re
import statistics
import subprocess
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
    began = os.times().elapsed
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        raise BenchError(f"status {process.returncode}: {' '.join(command)}")
    return Run(usage.ru_utime + usage.ru_stime, os.times().elapsed - began, usage.ru_maxrss / 1024, output)


def alternate(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, list[Run]]:
    """Run each command `runs` times, in turn, so that a slow minute of the machine meets all of them.

    One round before them is thrown away: it brings the input into the page cache.
    """
    results: dict[str, list[Run]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            result = run(command)
            if turn:
                results[name].append(result)
    return results


def median_cpu(runs: Sequence[Run]) -> float:
    return statistics.median(run.cpu_s for run in runs)


def machine() -> str:
    """The kind of machine, without its name."""
    cpu_info = Path("/proc/cpuinfo")
    text = cpu_info.read_text(encoding="utf-8") if cpu_info.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return f"{model[1].strip() if model else platform.machine()}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Everything whose version matters to the numbers."""
    found = {name: version(name) for name in ("vpn-classifier", "dpkt", "pytricia", "numpy")}
    found["python"] = platform.python_version()
    found["kernel"] = platform.release().partition("-")[0]
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
