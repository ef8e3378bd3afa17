"""`watch` for months: files rotate, sinks fail, it is stopped in every way, it is set up from a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from laboratory import Laboratory, stop, until, write_frames
from test_watch import RULES, frames_of, laboratory, read, rules

__all__ = ["laboratory"]

CASES = ("wg-plain-51820", "ovpn-tcp-plain-443")


def send(laboratory: Laboratory, place: Path, *cases: str) -> int:
    """Send the frames of these cases; how many."""
    frames = [frame for case in cases for frame in frames_of(case)]
    write_frames(place / "frames", frames)
    laboratory.send(place / "frames", "gen0:tap0")
    return len(frames)


def ledger_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        for event in read(path):
            yield event["ledger"]


def test_files_rotate_and_the_ledger_has_what_they_leave_out(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    rules(tmp_path, 1, "198.51.100.23")  # one end of the second flow; the first has none of ours
    path = tmp_path / "events.jsonl"
    watch = laboratory.watch(
        *("-i", "tap0", "--rules", str(tmp_path), "-o", str(path), "--rotate-every", "1s"),
        stderr=tmp_path / "watch.stderr",
    )
    send(laboratory, tmp_path, *CASES)
    until(lambda: len(list(tmp_path.glob("events-*.jsonl"))) > 1, "rotations")
    assert stop(watch) == 0, (tmp_path / "watch.stderr").read_text()
    files = sorted(tmp_path.glob("events*.jsonl"))
    assert files[-1] == path
    streams = [read(file) for file in files]
    assert [stream[0]["event"] for stream in streams] == ["started"] * len(files)
    assert [stream[-1]["event"] for stream in streams] == ["rotated"] * (len(files) - 1) + ["ended"]
    assert not [event for stream in streams for event in stream if event["event_type"] == "vpn"]
    counted = streams[-1][-1]["stats"]["counters"]
    assert (counted["events.lost"], counted["ledger.lost"]) == (0, 0)
    assert counted["events.left_out"] > 0
    rows = list(ledger_rows(tmp_path / "events-ledger"))
    assert {(row["protocol"], row["entry_id"], row.get("verdict"), row["flows"]) for row in rows} == {
        ("wireguard", None, "out_of_scope", 1),
        ("openvpn", "R-1", None, 1),
    }
    assert all(row["bytes"] > 1_000 for row in rows)


def test_a_sink_that_nobody_reads_neither_stops_the_capture_nor_loses_count(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    laboratory.pair("tap0", "gen0")
    fifo = tmp_path / "events.fifo"
    os.mkfifo(fifo)
    watch = laboratory.watch(
        *("-i", "tap0", "--rules", RULES, "--keep", "all", "-o", str(fifo), "--log-format", "json"),
        stderr=tmp_path / "watch.stderr",
    )
    sent = send(laboratory, tmp_path, *CASES)
    with fifo.open("rb") as reader:
        watch.send_signal(signal.SIGTERM)
        stream = [json.loads(line) for line in reader]
    assert watch.wait(60) == 0
    assert [event["event"] for event in stream if event["event_type"] == "stats"] == ["started", "ended"]
    counted = stream[-1]["stats"]["counters"]
    assert (counted["frames"], counted["kernel.dropped"], counted["events.lost"]) == (sent, 0, 0)
    ended = [event for event in stream if event["event_type"] == "vpn" and event["event"] == "ended"]
    assert {event["vpn"]["protocol"] for event in ended} == {"wireguard", "openvpn"}
    said = [json.loads(line) for line in (tmp_path / "watch.stderr").read_text().splitlines()]
    assert {"start", "events", "ledger"} <= {item["kind"] for item in said}


def test_what_cannot_be_written_at_the_end_is_said(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    fifo = tmp_path / "events.fifo"
    os.mkfifo(fifo)
    errors = tmp_path / "watch.stderr"
    watch = laboratory.watch("-i", "tap0", "-o", str(fifo), "--ledger", str(tmp_path / "kept"), stderr=errors)
    assert stop(watch) == 1
    assert "2 lines could not be written, and are lost" in errors.read_text()


def catches(program: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    status = Path(f"/proc/{program.pid}/status").read_text(encoding="ascii")
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_second_signal_stops_at_once(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    fifo = tmp_path / "events.fifo"
    os.mkfifo(fifo)  # so that there is something to wait for
    watch = laboratory.watch("-i", "tap0", "-o", str(fifo), stderr=tmp_path / "watch.stderr")
    watch.send_signal(signal.SIGTERM)
    until(lambda: not catches(watch, signal.SIGTERM), "the first signal to be taken")
    assert stop(watch) == -signal.SIGTERM


def test_after_a_kill_a_run_goes_on_behind_whole_lines(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    path, errors = tmp_path / "events.jsonl", tmp_path / "watch.stderr"
    arguments = ["-i", "tap0", "--rules", RULES, "--keep", "all", "-o", str(path)]
    watch = laboratory.watch(*arguments, stderr=errors)
    send(laboratory, tmp_path, "wg-plain-51820")
    until(lambda: b'"recognised"' in path.read_bytes(), "an event")
    stop(watch, signal.SIGKILL)
    killed = path.read_bytes()
    path.write_bytes(killed[:-7])
    watch = laboratory.watch(*arguments, stderr=errors)
    assert stop(watch) == 0
    assert path.read_bytes().startswith(killed[: killed.rindex(b"\n", 0, -1) + 1])
    stats = [event["event"] for event in read(path) if event["event_type"] == "stats"]
    assert stats == ["started", "started", "ended"]
    assert "a line that a killed process left unfinished was cut off" in errors.read_text()


def test_a_reader_of_standard_output_that_leaves_ends_the_run(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    command = [*laboratory.enter, sys.executable, "-m", "classifier", "watch", "-i", "tap0", "--keep", "all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as watch:
        assert watch.stdout is not None
        assert json.loads(watch.stdout.readline())["event"] == "started"
        watch.stdout.close()
        send(laboratory, tmp_path, "wg-plain-51820")
        assert watch.wait(60) == 0


def test_a_run_from_a_file(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    output, errors = tmp_path / "events.jsonl", tmp_path / "watch.stderr"
    config = tmp_path / "watch.toml"
    config.write_text(
        '[capture]\ninterfaces = ["tap0"]\nfilter = "udp"\n'
        f"[rules]\ndirectory = {json.dumps(RULES)}\n"
        f'[events]\noutput = {json.dumps(str(output))}\nkeep = "all"\nsensor = "edge"\n'
        '[log]\nformat = "journal"\n'
    )
    watch = laboratory.watch("--config", str(config), stderr=errors)
    send(laboratory, tmp_path, *CASES)
    assert stop(watch) == 0
    stream = read(output)
    assert stream[0]["stats"]["filter"] == "udp"
    assert {event["sensor"] for event in stream} == {"edge"}
    protocols = {event["vpn"]["protocol"] for event in stream if event["event_type"] == "vpn"}
    assert protocols == {"wireguard"}
    assert errors.read_text().splitlines()[-1] == "<6>listening on tap0"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_run_that_cannot_begin_says_so_in_its_log(
    laboratory: Laboratory, tmp_path: Path, form: str
) -> None:
    errors = tmp_path / "watch.stderr"
    (tmp_path / "register.csv").write_text("entry_id\n")
    (tmp_path / "policy.toml").write_text('[networks]\nlocal = ["192.0.2.1/24"]\n')
    watch = laboratory.start(
        *(sys.executable, "-m", "classifier", "watch", "-i", "lo"),
        *("--rules", str(tmp_path), "--log-format", form, "-o", str(tmp_path / "events.jsonl")),
        stderr=errors,
    )
    assert watch.wait(60) == 1
    said = errors.read_text()
    assert "register.csv" in said
    assert "192.0.2" not in said
    if form == "json":
        assert {json.loads(line)["level"] for line in said.splitlines()} == {"error"}
    assert not (tmp_path / "events.jsonl").exists()
