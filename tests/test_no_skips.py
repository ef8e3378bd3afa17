"""The plugin that makes `make test` fail when a test was skipped."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(directory: Path, body: str) -> int:
    (directory / "test_case.py").write_text(f"import pytest\n\n{body}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.no_skips", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--rootdir", directory, directory], cwd=ROOT, capture_output=True, check=False
    )
    return done.returncode


def test_a_run_that_passed_is_left_alone(tmp_path: Path) -> None:
    assert run(tmp_path, "def test_one(): assert True") == pytest.ExitCode.OK


@pytest.mark.parametrize(
    "body",
    [
        "def test_one(): assert True\ndef test_two(): pytest.skip('no tool')",
        "pytest.importorskip('no_such_module')\ndef test_one(): assert True",
        "@pytest.mark.xfail(strict=False)\ndef test_one(): assert False",
        "@pytest.mark.xfail(strict=False)\ndef test_one(): assert True",
    ],
    ids=["skipped", "module skipped", "failed as expected", "passed unexpectedly"],
)
def test_a_run_that_left_something_out_fails(tmp_path: Path, body: str) -> None:
    assert run(tmp_path, body) not in (pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR)
