"""Event files of a run that goes on for months: whole lines, rotation, and what becomes of a sink that fails.

The disk is a real one (a small tmpfs), permissions are those of a user that is not root, and whoever does not
read a FIFO does not read it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from laboratory import until
from test_pipeline import NEW, run

from classifier import events
from classifier.errors import OutputError
from classifier.event_file import EventFiles
from classifier.events import Event, VpnLine, register_event
from classifier.logs import Log
from classifier.sinks import SinkCounters
from classifier.sinks.queued import Queue, QueuedLines
from classifier.sinks.rotating import RotatingFile, Rotation

VALIDATOR = jsonschema.Draft202012Validator(events.schema())
STARTED, FLOW, _, ENDED = cast(list[Event], run([[NEW], [NEW.then("ended")]]))
DAY_NS = 86_400 * 1_000_000_000


def numbered(number: int) -> VpnLine:
    """An event that can be told from others by its flow."""
    event = {**FLOW, "flow_id": number}
    line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
    return VpnLine(line, number, False, events.Counted("wireguard", "unregistered", "flag"))


def numbers(stream: list[dict[str, Any]]) -> list[int]:
    return [event["flow_id"] for event in stream if event["event_type"] == "vpn"]


def said(stream: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in stream if event["event_type"] == "stats"]


def read(path: Path) -> list[dict[str, Any]]:
    """Whole lines, every one an event."""
    data = path.read_bytes()
    assert data.endswith(b"\n") or not data
    stream = [json.loads(line) for line in data.splitlines()]
    for event in stream:
        VALIDATOR.validate(event)
    return stream


def files(folder: Path) -> list[Path]:
    """Rotated files in the order of their names, then the current one."""
    return sorted(folder.glob("events*.jsonl"))


def balanced(sink: QueuedLines) -> SinkCounters:
    counted = sink.counters()
    assert counted.taken_lines == counted.written_lines + counted.lost_lines + counted.queued_lines
    assert counted.taken_bytes == counted.written_bytes + counted.lost_bytes + counted.queued_bytes
    return counted


@pytest.fixture
def sinks() -> Iterator[list[QueuedLines]]:
    """Closed in the end, whatever happens."""
    made: list[QueuedLines] = []
    yield made
    for sink in made:
        sink.close(0.1)


Make = Callable[..., QueuedLines]


@pytest.fixture
def make(sinks: list[QueuedLines]) -> Make:
    def made(path: Path | str, rotation: Rotation | None = None, **options: Any) -> QueuedLines:
        sinks.append(QueuedLines(RotatingFile(str(path), rotation), **options))
        return sinks[-1]

    return made


def silent() -> tuple[Log, io.StringIO]:
    text = io.StringIO()
    return Log(stream=text), text


# --- lines -------------------------------------------------------------------------------------------


def test_lines_are_the_events_and_are_written_at_once(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    sink = make(path)
    sink.write(STARTED)
    sink.write(numbered(1))
    until(lambda: path.read_bytes().count(b"\n") == 2, "two lines without a flush")
    sink.write(ENDED)
    sink.close()
    assert [event for event in read(path) if event["event_type"] == "stats"] == [STARTED, ENDED]
    assert balanced(sink).written_lines == 3
    assert sink.counters().written_bytes == path.stat().st_size


def test_many_lines_come_in_order(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    sink = make(path)
    sink.write(STARTED)
    for number in range(5_000):
        sink.write(numbered(number))
    sink.close()
    assert numbers(read(path)) == list(range(5_000))


def test_a_file_goes_on_behind_its_last_whole_line(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    whole = numbered(7).line
    for rest in (b"", b'{"a', b"x" * (3 << 18)):
        path.write_bytes(whole + rest)
        log, text = silent()
        sink = make(path, log=log)
        sink.write(STARTED)
        sink.close()
        assert path.read_bytes().startswith(whole)
        assert said(read(path)) == ["started"]
        assert sink.counters().cut_lines == bool(rest)
        assert ("was cut off" in text.getvalue()) == bool(rest)
    path.write_bytes(b"no line at all")
    make(path).close()
    assert path.read_bytes() == b""


def test_a_second_process_that_writes_to_it_is_told(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    make(path)
    with pytest.raises(OutputError, match="another process writes to it"):
        make(path)


@pytest.mark.parametrize("place", ["", "missing/events.jsonl"])
def test_what_cannot_be_opened_at_the_start(tmp_path: Path, make: Make, place: str) -> None:
    with pytest.raises(OutputError, match=r"Is a directory|No such file or directory"):
        make(tmp_path / place)


# Of the programs below: the events of this file, without all that it takes to make them.
PRELUDE = """
import json, os, sys
from dataclasses import asdict
sys.path.insert(0, sys.argv[1])
started, ended, *lines = json.loads(os.environ["LINES_OF_A_TEST"])
from classifier.events import VpnLine
from classifier.sinks.queued import Queue, QueuedLines
from classifier.sinks.rotating import RotatingFile, Rotation
def numbered(number):
    return VpnLine(lines[0].replace("4711", str(number)).encode(), number, False, None)
"""


def program(code: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    lines = json.dumps([STARTED, ENDED, numbered(4711).line.decode()])
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(Path(__file__).parents[1]), *arguments],
        env={**os.environ, "LINES_OF_A_TEST": lines},
        **options,
    )


WRITER = """
sink = QueuedLines(RotatingFile(sys.argv[2], Rotation(size=1 << 20)))
sink.write(started)
for number in range(1 << 30):
    sink.write(numbered(number))
    if number % 1000 == 0:
        sink.flush()
"""


def content(path: Path) -> bytes:
    """Nothing, between two files."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_lines_are_whole_after_a_kill(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(5):
        before = content(path)
        with program(WRITER, str(path)) as writer:
            until(lambda: content(path) != before, "it to write")  # noqa: B023
            time.sleep(0.02)
            writer.send_signal(signal.SIGKILL)
        data = content(path)
        sink = make(path)
        sink.close()
        # A reader has met the end of a line that was cut off, or nothing.
        assert data.startswith(path.read_bytes())
        for file in files(tmp_path):
            stream = [json.loads(line) for line in file.read_bytes().splitlines(keepends=True)]
            assert not stream or stream[0]["event"] == "started"
            found = numbers(stream)
            assert all(later in (earlier + 1, 0) for earlier, later in pairwise(found))


# --- rotation ----------------------------------------------------------------------------------------


def test_rotation_by_size(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    sink = make(path, Rotation(size=20_000))
    sink.write(STARTED)
    for number in range(200):
        sink.write(numbered(number))
        sink.flush()
    sink.write(ENDED)
    sink.close()
    found = files(tmp_path)
    assert found[-1] == path
    assert len(found) == sink.counters().rotations + 1 > 5
    streams = [read(file) for file in found]
    assert [number for stream in streams for number in numbers(stream)] == list(range(200))
    assert [said(stream) for stream in streams[:-1]] == [["started", "rotated"]] * (len(found) - 1)
    assert said(streams[-1]) == ["started", "ended"]
    assert {json.dumps(stream[0]["stats"]) for stream in streams} == {json.dumps(STARTED["stats"])}  # type: ignore[typeddict-item]
    assert all(file.stat().st_size < 25_000 for file in found)
    warnings: list[str] = []
    assert len(list(EventFiles([str(file) for file in found], warnings.append))) == sum(map(len, streams))
    assert warnings == []


def test_a_new_file_says_what_judges_there(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    sink = make(path, Rotation(size=1))
    sink.write(STARTED)
    sink.flush()
    loaded = replace_register(48)
    sink.write(loaded)
    sink.flush()
    sink.write(numbered(1))
    sink.close()
    begun = [read(file)[0] for file in files(tmp_path)]
    assert [event["stats"]["register"]["serial"] for event in begun[:3]] == [7, 7, 48]


def replace_register(serial: int) -> Event:
    item: events.RegisterItem = {
        "source": "regulator",
        "serial": serial,
        "issued_at": "2026-03-01T00:00:00.000000000Z",
        "next_update": None,
        "sha256": "0" * 64,
        "entries": 1,
    }
    was: events.Before = {"register_serial": None, "policy_hash": ""}
    return register_event(events.parse_time("2026-03-01"), "replay", "loaded", item, "p" * 64, was)


def test_rotation_by_time_counts_from_the_last_line_also_after_a_restart(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    sink = make(path, Rotation(every_ns=DAY_NS))
    sink.write(STARTED)
    sink.close()
    assert files(tmp_path) == [path]
    yesterday = time.time() - 86_400
    os.utime(path, (yesterday, yesterday))
    sink = make(path, Rotation(every_ns=DAY_NS))
    sink.write(STARTED)
    until(lambda: len(files(tmp_path)) == 2, "a rotation")
    sink.close()
    old, new = map(read, files(tmp_path))
    assert (said(old), said(new)) == (["started"], ["started"])


def test_time_passes_without_events(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    sink = make(path, Rotation(every_ns=1_000_000_000))
    sink.write(STARTED)
    until(lambda: len(files(tmp_path)) > 2, "rotations")
    sink.close()
    assert [said(read(file)) for file in files(tmp_path)[:-1]] == [["started", "rotated"]] * (
        len(files(tmp_path)) - 1
    )


def test_names_are_new_and_sort_by_time_whatever_the_clock_does(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    ahead = tmp_path / "events-29991231T235959.999Z.jsonl"
    ahead.write_bytes(b"")
    file = RotatingFile(str(path), Rotation(size=1))
    for _ in range(3):
        file.open()
        file.write(b"{}\n", 0)
        file.put_aside()
    file.close()
    assert [found.name for found in files(tmp_path)] == [
        ahead.name,
        "events-30000101T000000.000Z.jsonl",
        "events-30000101T000000.001Z.jsonl",
        "events-30000101T000000.002Z.jsonl",
    ]


def aged(folder: Path, days: float, size: int, suffix: str = ".jsonl") -> Path:
    moment = time.gmtime(time.time() - days * 86_400)
    path = folder / f"events-{time.strftime('%Y%m%dT%H%M%S', moment)}.{int(days) % 1000:03d}Z{suffix}"
    path.write_bytes(b"x" * size)
    return path


def test_old_files_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    kept = [aged(tmp_path, 6.9, 10), aged(tmp_path, 0, 10)]
    others = ["events.jsonl.1", "other-20200101T000000.000Z.jsonl", "events-20200101T000000Z.jsonl"]
    others += ["events-2020.jsonl", "events-99999999T999999.999Z.jsonl", "events-20200101T000000.000Z.txt"]
    for name in others:
        (tmp_path / name).write_bytes(b"x" * 1_000)
    gone = [aged(tmp_path, 8, 10), aged(tmp_path, 900, 10, ".jsonl.gz")]
    file = RotatingFile(str(tmp_path / "events.jsonl"), Rotation(retain_ns=7 * DAY_NS))
    file.open()
    file.delete_old()
    assert file.deleted_files == 2
    file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*others, *(path.name for path in kept), "events.jsonl"]
    )
    assert not any(path.exists() for path in gone)


def test_the_oldest_are_deleted_while_all_are_too_large(tmp_path: Path) -> None:
    old, middle, new = (aged(tmp_path, days, 1_000) for days in (3, 2, 1))
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * 999 + b"\n")
    for limit, left in ((4_000, [old, middle, new]), (3_999, [middle, new]), (1_999, []), (10, [])):
        file = RotatingFile(str(path), Rotation(retain_size=limit))
        file.open()
        file.delete_old()
        file.close()
        assert files(tmp_path)[:-1] == left
    assert path.stat().st_size == 1_000


def test_a_run_deletes_as_it_rotates(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.jsonl"
    sink = make(path, Rotation(size=20_000, retain_size=100_000))
    sink.write(STARTED)
    for number in range(500):
        sink.write(numbered(number))
        sink.flush()
    sink.close()
    assert sum(file.stat().st_size for file in files(tmp_path)) < 125_000
    assert sink.counters().deleted_files > 10
    found = [number for file in files(tmp_path) for number in numbers(read(file))]
    assert found == list(range(found[0], 500))


# --- reopening ---------------------------------------------------------------------------------------


def test_a_file_that_is_moved_away_is_opened_anew(tmp_path: Path, make: Make) -> None:
    path, moved = tmp_path / "events.jsonl", tmp_path / "moved.jsonl"
    sink = make(path)
    sink.write(STARTED)
    sink.write(numbered(1))
    sink.flush()
    path.rename(moved)
    sink.write(numbered(2))  # nobody said anything yet
    sink.flush()
    sink.reopen()
    until(path.exists, "a new file")
    sink.write(numbered(3))
    sink.reopen()  # it is where it was
    sink.write(numbered(4))
    sink.close()
    assert numbers(read(moved)) == [1, 2]
    assert said(read(moved)) == ["started", "rotated"]
    assert numbers(read(path)) == [3, 4]
    assert said(read(path)) == ["started"]


def test_what_cannot_be_opened_anew_goes_on_where_it_was_and_is_tried_again(
    tmp_path: Path, make: Make
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    sink = make(place / "events.jsonl")
    sink.write(STARTED)
    sink.flush()
    place.rename(tmp_path / "moved")
    sink.reopen()
    until(lambda: sink.counters().failures > 0, "a failure")
    sink.write(numbered(1))
    sink.flush()
    assert numbers(read(tmp_path / "moved" / "events.jsonl")) == [1]
    place.mkdir()
    until((place / "events.jsonl").exists, "a new file")
    sink.write(numbered(2))
    sink.close()
    assert numbers(read(place / "events.jsonl")) == [2]
    assert balanced(sink).lost_lines == 0


def test_a_file_that_is_deleted_is_made_anew(tmp_path: Path, make: Make) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = place / "events.jsonl"
    sink = make(path)
    sink.write(STARTED)
    sink.flush()
    path.unlink()
    place.rmdir()
    sink.write(numbered(1))
    until(lambda: sink.counters().failures > 1, "failures")
    assert sink.counters().failing
    assert balanced(sink).queued_lines == 1
    place.mkdir()
    until(path.exists, "a new file")
    sink.close()
    assert (said(read(path)), numbers(read(path))) == (["started"], [1])
    assert not sink.counters().failing


# --- sinks that fail ---------------------------------------------------------------------------------


def test_a_full_disk(small_disk: Path, make: Make) -> None:
    path, filler = small_disk / "events.jsonl", small_disk / "filler"
    log, text = silent()
    sink = make(path, queue=Queue(32 << 10), log=log)
    sink.write(STARTED)
    for number in range(20):
        sink.write(numbered(number))
        sink.flush()
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1 << 20))
    number = 20
    while balanced(sink).lost_lines < 50:
        sink.write(numbered(number))
        number += 1
    until(lambda: sink.counters().failures > 2, "it to be tried again")
    assert sink.counters().failing
    read(path)  # whole lines, meanwhile
    lost_first = number - 50
    filler.unlink()
    until(lambda: not sink.counters().queued_lines, "recovery")
    for more in range(number, number + 5):
        sink.write(numbered(more))
    sink.write(ENDED)
    sink.close()
    stream = read(path)
    assert said(stream) == ["started", "gap", "ended"]
    assert numbers(stream) == [*range(lost_first), *range(number, number + 5)]
    (place,) = (index for index, event in enumerate(stream) if event.get("event") == "gap")
    assert numbers(stream[:place]) == list(range(lost_first))
    moment = FLOW["timestamp"]
    assert stream[place]["stats"]["lost"] == {"lines": 50, "first": moment, "last": moment}
    counted = balanced(sink)
    assert (counted.lost_lines, counted.gaps, counted.failing) == (50, 1, False)
    assert counted.written_lines == counted.taken_lines - 50
    assert "cannot be written: No space left on device; tried again" in text.getvalue()
    assert "written to again" in text.getvalue()
    warnings: list[str] = []
    list(EventFiles([str(path)], warnings.append))
    assert len(warnings) == 1
    assert "50 lines of" in warnings[0]


def test_a_full_disk_makes_room_by_what_may_be_deleted(small_disk: Path, make: Make) -> None:
    path = small_disk / "events.jsonl"
    sink = make(path, Rotation(size=8 << 10, retain_size=1 << 20))
    sink.write(STARTED)
    number = 0
    while not sink.counters().failing:
        sink.write(numbered(number))
        sink.flush()
        number += 1
    sink.close(0.1)
    assert balanced(sink).lost_lines > 0
    sink = make(path, Rotation(size=8 << 10, retain_size=40 << 10))
    sink.write(STARTED)
    for more in range(number, number + 60):
        sink.write(numbered(more))
        sink.flush()
    sink.close()
    assert sink.counters().deleted_files > 0
    assert balanced(sink).lost_lines == 0
    found = numbers([event for file in files(small_disk) for event in read(file)])
    assert found == list(range(found[0], number + 60))


def test_what_cannot_be_written_at_the_end_is_counted(small_disk: Path, make: Make) -> None:
    sink = make(small_disk / "events.jsonl")
    sink.write(STARTED)
    sink.flush()
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(1 << 20))
    for number in range(20):
        sink.write(numbered(number))
    sink.close(0.5)
    counted = balanced(sink)
    assert counted.queued_lines == 0
    assert counted.lost_lines > 0
    assert counted.lost_lines == 20 - len(numbers(read(small_disk / "events.jsonl")))


NOBODY = 65534


PERMISSION = """
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
sink = QueuedLines(RotatingFile(sys.argv[2], Rotation(size=5000)))
sink.write(started)
number = 0
for line in sys.stdin:
    for _ in range(int(line)):
        sink.write(numbered(number))
        number += 1
        sink.flush()
    print(json.dumps(asdict(sink.counters())), flush=True)
sink.close()
"""


def test_a_directory_that_may_not_be_written_to(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)  # pytest's own are closed to others
    place = tmp_path / "place"
    place.mkdir()
    if os.geteuid() == 0:
        os.chown(place, NOBODY, NOBODY)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with program(PERMISSION, str(place / "events.jsonl"), **pipes) as writer:

        def write(lines: int) -> dict[str, Any]:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write(b"%d\n" % lines)
            writer.stdin.flush()
            counted: dict[str, Any] = json.loads(writer.stdout.readline())
            return counted

        write(1)
        place.chmod(0o555)
        counted = write(20)
        # It cannot rotate, and writes to what is open.
        assert counted["failures"] > 0
        assert (counted["rotations"], counted["lost_lines"], counted["queued_lines"]) == (0, 0, 0)
        assert len(files(place)) == 1
        place.chmod(0o755)
        until(lambda: write(1)["rotations"] > 0, "a rotation")
    assert writer.returncode == 0
    found = numbers([event for file in files(place) for event in read(file)])
    assert found == list(range(len(found)))
    assert len(found) > 21


def test_a_fifo_that_nobody_reads(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.fifo"
    os.mkfifo(path)
    sink = make(path, queue=Queue(300 << 10))
    sink.write(STARTED)
    for number in range(20):
        sink.write(numbered(number))
    until(lambda: sink.counters().failures > 1, "failures")
    assert balanced(sink).queued_lines == 21
    # A reader that stops reading: what it has not taken waits, then is lost.
    reader = path.open("rb")  # not closed while the thread reads
    lines = [reader.readline()]
    number = 20
    while balanced(sink).lost_lines < 30:
        sink.write(numbered(number))
        number += 1

    def go_on() -> None:
        while b'"event":"ended"' not in lines[-1]:
            lines.append(reader.readline())

    reading = threading.Thread(target=go_on, daemon=True)
    reading.start()
    until(lambda: sink.counters().queued_lines == 0, "the queue to be read")
    sink.write(numbered(number))
    sink.write(ENDED)
    until(lambda: not reading.is_alive(), "the last line")
    reader.close()
    stream = [json.loads(line) for line in lines]
    assert said(stream) == ["started", "gap", "ended"]
    assert stream[-3]["stats"]["lost"]["lines"] == balanced(sink).lost_lines >= 30
    found = numbers(stream)
    assert found == [*range(len(found) - 1), number]


def test_the_next_reader_of_a_fifo_gets_whole_lines_with_what_judges_before_them(
    tmp_path: Path, make: Make
) -> None:
    path = tmp_path / "events.fifo"
    os.mkfifo(path)
    sink = make(path)
    sink.write(STARTED)
    with path.open("rb") as reader:
        assert json.loads(reader.readline())["event"] == "started"
        for number in range(200):  # more than a pipe holds: a line is cut
            sink.write(numbered(number))
        reader.read(100)
        failures = sink.counters().failures  # while nobody had opened it
    until(lambda: sink.counters().failures > failures, "it to be noticed that nobody reads")
    with path.open("rb") as reader:
        assert json.loads(reader.readline())["event"] == "started"
        first = json.loads(reader.readline())["flow_id"]
        assert first > 0
        for number in range(first + 1, 200):
            assert json.loads(reader.readline())["flow_id"] == number
    sink.close(0.5)
    assert balanced(sink).lost_lines == 0


STDOUT = """
sink = QueuedLines(RotatingFile("-"), Queue(64 << 10))
sink.write(started)
number = 0
while sink.counters().lost_lines < 10:
    sink.write(numbered(number))
    number += 1
print(number, file=sys.stderr, flush=True)
sys.stdin.readline()
while sink.counters().queued_lines:
    sink.flush()
sink.write(ended)
sink.close()
"""


def test_standard_output_that_nobody_reads_keeps_nobody_waiting() -> None:
    ours, theirs = socket.socketpair()
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ours, theirs, program(STDOUT, stdout=theirs.fileno(), **pipes) as writer:
        theirs.close()
        assert writer.stdin is not None
        assert writer.stderr is not None
        taken = int(writer.stderr.readline())
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        with ours.makefile("rb") as reader:
            stream = [json.loads(line) for line in reader]
        assert writer.wait(60) == 0
    assert said(stream) == ["started", "gap", "ended"]
    assert numbers(stream) == list(range(taken - 10))
    assert stream[-2]["stats"]["lost"]["lines"] == 10


def test_standard_output_may_be_a_file_without_a_name(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile() as file:
        monkeypatch.setattr(sys, "stdout", file)
        sink = make("-")
        sink.write(STARTED)
        sink.write(numbered(1))
        sink.close()
        file.seek(0)
        stream = [json.loads(line) for line in file]
    assert (said(stream), numbers(stream)) == (["started"], [1])
    assert (balanced(sink).failures, balanced(sink).lost_lines) == (0, 0)


def test_a_reader_that_has_left_is_said(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        sink = make("-")
        sink.write(STARTED)

        def has_left() -> bool:
            try:
                sink.check()
            except BrokenPipeError:
                return True
            return False

        until(has_left, "it to be noticed")
        assert balanced(sink).lost_lines == 1


def test_an_error_of_the_program_loses_nothing(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, text = silent()
    sink = make(tmp_path / "events.jsonl", log=log)
    with monkeypatch.context() as patched:
        patched.setattr(RotatingFile, "write", lambda *_: 1 / 0)
        sink.write(STARTED)
        until(lambda: sink.counters().failing, "a failure")
    sink.close()
    assert said(read(tmp_path / "events.jsonl")) == ["started"]
    assert "an error of the program: ZeroDivisionError" in text.getvalue()


def test_the_queue_takes_nothing_until_half_of_it_is_empty(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.fifo"
    os.mkfifo(path)
    sink = make(path, queue=Queue(100 << 10))
    sink.write(STARTED)
    for number in range(500):
        sink.write(numbered(number))
    counted = balanced(sink)
    assert counted.queued_lines <= counted.queue_limit_lines == 100
    assert counted.queued_bytes <= counted.queue_limit_bytes
    assert counted.gaps == 1
    assert counted.lost_lines == 501 - counted.queued_lines


def test_a_register_that_came_in_a_gap_is_named_by_the_gap(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "events.fifo"
    os.mkfifo(path)
    sink = make(path, queue=Queue(20 << 10))
    sink.write(STARTED)
    while not balanced(sink).lost_lines:
        sink.write(numbered(0))
    sink.write(replace_register(48))
    with path.open("rb") as reader:
        line = json.loads(reader.readline())
        while line.get("event") != "gap":
            line = json.loads(reader.readline())
    assert line["stats"]["register"]["serial"] == 48
    assert line["stats"]["lost"]["lines"] == 2
    VALIDATOR.validate(line)
