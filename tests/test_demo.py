"""`make demo`: the shipped captures, register and policy together show every verdict."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The verdicts of the design but two: without a register, and with one of the wrong date.
VERDICTS = {
    "registered",
    "licensed_provider",
    "carrier_service",
    "operator_infrastructure",
    "excepted",
    "ip_whitelisted",
    "pending",
    "expired_in_grace",
    "protocol_mismatch",
    "endpoint_mismatch",
    "shared_address",
    "unregistered",
    "expired",
    "suspended",
    "revoked",
    "out_of_scope",
}


@pytest.fixture(scope="module")
def events_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo's run wrote its events; what it printed stands beside it in `table.txt`."""
    path = tmp_path_factory.mktemp("demo") / "events.jsonl"
    done = run("replay", "pcaps/", "--rules", "rules/", "-o", str(path))
    assert done.returncode in (0, 4), done.stderr  # 4: a capture of pcaps/ ends inside a record
    path.with_name("table.txt").write_text(done.stdout, encoding="utf-8")
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "250", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "classifier", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_every_verdict_occurs_and_is_shown(events_file: Path) -> None:
    events = [json.loads(line) for line in events_file.read_text(encoding="utf-8").splitlines()]
    found = {event["policy"]["verdict"] for event in events if event["event_type"] == "vpn"}
    assert found == VERDICTS
    table = events_file.with_name("table.txt").read_text(encoding="utf-8")
    assert {verdict for verdict in VERDICTS if verdict not in table} == set()


def test_a_flagged_row_can_be_explained(events_file: Path) -> None:
    events = [json.loads(line) for line in events_file.read_text(encoding="utf-8").splitlines()]
    flagged = next(e for e in events if e.get("event") == "ended" and e["policy"]["action"] == "flag")
    done = run("explain", str(events_file), "--flow", str(flagged["flow_id"]))
    assert done.returncode == 0, done.stderr
    text = "".join(done.stdout.split())  # lines are wrapped
    for fact in (
        flagged["policy"]["rule"],
        flagged["policy"]["verdict"],
        flagged["src_ip"],
        flagged["dest_ip"],
    ):
        assert fact in text
