"""`make demo` and `make test` where something is missing: one line that names it, and nothing is built."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a bare machine has anyway.
COMMON = ("sh", "sed", "find", "cut", "sort", "head", "printf")
TOOLS = {
    "python3": f"exec '{sys.executable}' \"$@\"",
    "rustc": "echo 'rustc 99.0.0 (0000000 2099-01-01)'",
    "cargo": "echo 'cargo 99.0.0'",
    "cc": "exit 0",
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Makefile and manifest in a directory with a space in its name, beside a `bin` with the common tools."""
    clone = tmp_path / "a clone"
    (clone / "core" / "src").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", clone)
    shutil.copy(ROOT / "core" / "Cargo.toml", clone / "core")
    (tmp_path / "bin").mkdir()
    for name in COMMON:
        program = shutil.which(name)
        assert program is not None, name
        (tmp_path / "bin" / name).symlink_to(program)
    return clone


def demo(clone: Path, tools: dict[str, str], target: str = "demo") -> str:
    """What `make demo` says where only these tools are; it must fail and build nothing."""
    programs = clone.parent / "bin"
    for name, script in tools.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    make = shutil.which("make")
    assert make is not None
    environment = {"PATH": str(programs), "HOME": str(clone), "LC_ALL": "C"}
    done = subprocess.run(
        [make, target], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert {path.name for path in clone.iterdir()} == {"Makefile", "core"}
    (line,) = done.stderr.splitlines()
    return line


def test_everything_that_is_missing_is_said_at_once(clone: Path) -> None:
    line = demo(clone, {})
    assert "Python 3.11 or newer" in line
    assert "Rust" in line
    assert "a C compiler" in line


@pytest.mark.parametrize(
    ("tool", "script", "said"),
    [
        ("python3", None, "Python 3.11 or newer"),
        ("python3", "exit 1", "Python 3.11 or newer"),
        ("python3", "case $2 in *ensurepip*) exit 1; esac", "python3-venv"),
        ("python3", "case $2 in *Python.h*) exit 1; esac", "Python.h"),
        ("rustc", None, "rustup.rs"),
        ("rustc", "echo 'rustc 1.70.0 (90c541806 2023-05-31)'", "this is 1.70.0"),
        ("cargo", None, "with cargo"),
        ("cc", None, "build-essential"),
        ("cc", "exit 1", "C library headers"),
    ],
)
def test_one_missing_tool_is_named_alone(clone: Path, tool: str, script: str | None, said: str) -> None:
    tools = {name: text for name, text in TOOLS.items() if name != tool}
    line = demo(clone, tools if script is None else tools | {tool: script})
    assert said in line
    assert "; and" not in line


def test_what_the_tests_of_live_capture_run_is_named_before_anything_is_built(clone: Path) -> None:
    named = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("TOOLS :="))
    here = [tool for tool in named.split()[2:] if tool != "tcpdump" and not tool.startswith("/")]
    line = demo(clone, TOOLS | dict.fromkeys(here, "exit 0"), "test")
    assert "Please install tcpdump, which" in line
