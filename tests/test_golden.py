"""Whole events of every case in pcaps/ against the committed ones; `pytest --update-golden` rewrites them.

Read the difference before committing it: truth.csv says what must be found, these files keep the rest
(evidence, verdicts, times) from changing unseen.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pcap_cases import Case, all_cases, replay, repository

from classifier import _core


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture's name is part of its flow ids, so it is given the same way on every machine."""
    monkeypatch.chdir(repository())


def events(case: Case) -> list[dict[str, Any]]:
    """The events of a case, without the version of the program that wrote them."""
    result = replay(case)
    for event in result:
        assert event.pop("version") == _core.version
    return result


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_events_are_the_committed_ones(case: Case, update_golden: bool) -> None:
    now = events(case)
    if update_golden:
        lines = [json.dumps(event, separators=(",", ":"), ensure_ascii=False) + "\n" for event in now]
        case.golden.write_text("".join(lines), encoding="utf-8")
    assert case.golden.exists(), "no golden file: look at the events, then run pytest --update-golden"
    assert now == [json.loads(line) for line in case.golden.read_text(encoding="utf-8").splitlines()]


def test_output_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    captures = [str(case.capture.relative_to(repository())) for case in all_cases()]
    outputs = {}
    for workers in (1, 2, 7):
        output = tmp_path / f"{workers}.jsonl"
        command = [sys.executable, "-m", "classifier", "replay", *captures, "--rules", "rules/"]
        command += ["--workers", str(workers), "--min-confidence", "possible", "-o", str(output)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 4, result.stderr  # two captures end inside a record
        outputs[workers] = output.read_bytes()
    assert len(outputs[1].splitlines()) > len(captures)
    assert outputs[1] == outputs[2] == outputs[7]
