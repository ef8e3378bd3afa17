"""Many captures in one command: worked side by side by several workers, told as if one after the other."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pcap_cases import all_cases, repository

from classifier.inputs import find
from classifier.pipeline import Replay, Settings
from classifier.policy import Policy
from classifier.register import Register

ROOT = repository()
CAPTURES = [case.capture for case in all_cases()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captures of one name in folders of their own, packed ones; between them what is no capture, or cut."""
    folder = tmp_path_factory.mktemp("many")
    for number, capture in enumerate(CAPTURES):
        place = folder / f"{number:03}"
        place.mkdir()
        content = capture.read_bytes()
        shutil.copyfile(capture, place / "capture.pcap")
        if number % 3 == 0:
            (place / "packed.pcap.gz").write_bytes(gzip.compress(content, 1))
        if number % 4 == 0:
            (place / "cut.pcap").write_bytes(content[: len(content) // 2])
            (place / "cut.pcap.gz").write_bytes(gzip.compress(content, 1)[: len(content) // 3])
        if number % 5 == 0:
            (place / "empty.pcap").touch()
            (place / "text.pcap").write_text("no capture at all")
        if number % 7 == 0:
            (place / "again.pcap").hardlink_to(place / "capture.pcap")
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "classifier", "replay", *map(str, arguments)]


def test_any_number_of_workers_writes_the_same_bytes(folder: Path) -> None:
    outputs = []
    for workers in (1, 2, 3):
        options = ["--rules", "rules/", "--min-confidence", "possible", "--workers", workers, "-o", "-"]
        done = subprocess.run(command(folder, *options), cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 4
        faults = [line for line in done.stderr.splitlines() if line.startswith(b"vpn-classifier:")]
        outputs.append((done.stdout, faults))
    assert len(outputs[0][0].splitlines()) > 4 * len(CAPTURES)
    assert len(outputs[0][1]) > len(CAPTURES) // 2
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_stop_in_the_middle_ends_the_events_as_always(folder: Path) -> None:
    with subprocess.Popen(
        command(folder, folder / ".." / folder.name, "--rules", "rules/", "--workers", 2, "-o", "-"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        try:
            # Nobody reads on, so it cannot come to its end before it is told to stop.
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors.decode()
    stream = [json.loads(line) for line in (first + output).splitlines()]
    assert stream[-1]["stats"]["interrupted"] is True
    counters = stream[-1]["stats"]["counters"]
    assert 0 < counters["captures"] < len(find([str(folder)]).paths)
    undecoded = sum(count for name, count in counters.items() if name.startswith("undecoded."))
    assert counters["frames"] == counters["decoded"] + undecoded
    named = {event["pcap_filename"] for event in stream if "pcap_filename" in event}
    assert len(named) <= counters["captures"]


def test_a_capture_that_goes_away_in_the_middle_is_a_fault_and_no_more(folder: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    shutil.copytree(folder, many)
    inputs = find([str(many)])
    missing = many / "060" / "capture.pcap"
    found = []
    for workers in (1, 2):
        run = Replay(inputs, settings=Settings(workers=workers))
        missing.rename(tmp_path / "elsewhere")
        found.append((list(run.events()), run.faults))
        (tmp_path / "elsewhere").rename(missing)
    assert found[0] == found[1]
    reasons = {fault.path: fault.reason for fault in found[0][1]}
    assert reasons[str(missing)] == "not_found"
    assert len(reasons) > 20


def _changed(policy: Policy) -> Policy:
    """Reports at other packets, and other tunnels opened."""
    (first, *others) = policy.rules
    return replace(policy, rules=(replace(first, min_packets=37), *others), local=policy.local[:1])


def _events(workers: int, change_after: int | None = None) -> list[dict[str, Any]]:
    """With another policy from behind so many events."""
    known, policy = Register.load(ROOT / "rules/register.csv"), Policy.load(ROOT / "rules/policy.toml")
    inputs = find([str(path) for path in CAPTURES[:80]])
    run = Replay(inputs, known, policy, Settings(workers=workers))
    stream = []
    for event in run.events():
        stream.append(json.loads(json.dumps(event)))
        if len(stream) == change_after:
            run.reload(policy=_changed(policy))
    return stream


@pytest.mark.parametrize("capture", [0, 40])
def test_what_was_worked_ahead_is_worked_anew_when_another_policy_comes(capture: int) -> None:
    plain = _events(1)
    last = max(
        number
        for number, event in enumerate(plain, 1)
        if event.get("pcap_filename") == str(CAPTURES[capture])
    )
    streams = [_events(workers, last) for workers in (1, 2, 3)]
    assert streams[0][last]["event_type"] == "register"
    assert streams[0][last + 1 :] != plain[last:]
    assert streams[0] == streams[1] == streams[2]


def test_progress_reaches_the_end(folder: Path) -> None:
    inputs = find([str(folder)])
    seen = []
    run = Replay(inputs, settings=Settings(workers=3))
    for _ in run.blocks(lambda: seen.append(run.progress())):
        pass
    assert seen == sorted(seen)
    # Of a packed capture that is damaged, what comes behind the damage is not read.
    assert run.progress()[0] > 0.9 * (inputs.size or 0)
    assert os.fspath(folder) in inputs.paths[0]
