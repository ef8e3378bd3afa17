"""README.md says only what is so: its examples run, its commands, options and targets exist.

Python examples (```python) run from the top of the repository. Sessions (```console) are lines `$ command`,
each followed by its output; those of `vpn-classifier` are run and compared, where a line `...` stands for
any lines and `...` inside a line for any text; tables are 110 columns wide. A command with a word in
capitals is a pattern for the reader and not run.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PROGRAM = "vpn-classifier"
OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, where it begins, and its text."""

    language: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}"


@dataclass(frozen=True, slots=True)
class Session:
    """One command of a console block and the output that README shows for it."""

    line: int
    arguments: tuple[str, ...]
    output: tuple[str, ...]

    def __str__(self) -> str:
        return f"line {self.line}"


def readme() -> str:
    return README.read_text(encoding="utf-8") if README.exists() else ""


def blocks(language: str) -> list[Block]:
    fences = re.finditer(r"^```([\w-]*)\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)
    found = [Block(match[1], readme().count("\n", 0, match.start()) + 1, match[2]) for match in fences]
    return [block for block in found if block.language == language]


def sessions() -> list[Session]:
    found = []
    for block in blocks("console"):
        for part in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
            arguments = shlex.split(part[1], comments=True)
            pattern = any(re.fullmatch(r"[A-Z][A-Z.]*(\.\w+)?", argument) for argument in arguments)
            if arguments and Path(arguments[0]).name == PROGRAM and not pattern:
                line = block.line + 1 + block.text.count("\n", 0, part.start())
                found.append(Session(line, tuple(arguments[1:]), tuple(part[2].splitlines())))
    return found


def code() -> list[str]:
    """Every line of code in README: of fenced blocks, and each `span` in the text."""
    text = readme()
    fenced = re.findall(r"^```[\w-]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```[\w-]*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(fenced).replace("\\\n", " ").splitlines()
    return [*lines, *re.findall(r"`([^`]+)`", rest)]


def named(pattern: str) -> set[str]:
    return {name for line in code() for name in re.findall(pattern, line)}


def run(*arguments: str, columns: int = 110) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "classifier", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def options(*command: str) -> set[str]:
    helped = run(*command, "--help", columns=200)
    assert helped.returncode == 0, f"README names `{PROGRAM} {' '.join(command)}`: {helped.stderr}"
    return set(OPTION.findall(helped.stdout))


def test_it_is_there_with_an_example_in_python_and_one_in_the_shell() -> None:
    assert README.exists(), "README.md is missing"
    assert blocks("python"), "README.md has no ```python block"
    assert sessions(), f"README.md has no ```console block with a `$ {PROGRAM} ...` that can be run"


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_examples_run(block: Block) -> None:
    command = [sys.executable, "-W", "error", "-c", "\n" * block.line + block.text]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"README.md, example at line {block.line}:\n{done.stderr}"
    assert done.stdout.strip(), f"README.md, example at line {block.line} prints nothing"


@pytest.mark.parametrize("session", sessions(), ids=str)
def test_output_shown_is_the_output(session: Session) -> None:
    done = run(*session.arguments)
    shown = "".join(f"{re.escape(line.rstrip())}\n" for line in session.output)
    pattern = re.sub(r"^\\\.\\\.\\\.\n", "(?:.*\n)*", shown, flags=re.MULTILINE).replace(r"\.\.\.", ".*")
    output = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
    assert re.fullmatch(pattern, output), (
        f"README.md, line {session.line}; the real output is\n{output}{done.stderr}"
    )


def test_its_make_targets_exist() -> None:
    targets = set(
        re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named(r"\bmake ([a-z][\w-]*)") <= targets
    assert {"demo", "test"} <= named(r"\bmake ([a-z][\w-]*)")


def test_its_commands_and_options_exist() -> None:
    command_and_rest = rf"{PROGRAM} +((?:register +|policy +)?[a-z]\w*)((?: [^|;&]*)?)"
    uses = [(line, *use) for line in code() for use in re.findall(command_and_rest, line)]
    known = {command: options(*command.split()) for _, command, _ in uses}
    assert {"replay", "explain"} <= known.keys()
    for line, command, rest in uses:
        assert set(OPTION.findall(rest)) <= known[command], line
    alone = {option for line in code() if line.startswith("-") for option in OPTION.findall(line)}
    assert alone <= options().union(*known.values())


def test_its_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", readme())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []
