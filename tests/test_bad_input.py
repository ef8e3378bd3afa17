"""Captures that are none, or not whole: what the command says, and that the rest is read.

The real command on files made here byte by byte; each run also reads one good capture.
"""

from __future__ import annotations

import collections
import gzip
import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from classifier import InputError, replay
from classifier.events import Event, schema

ROOT = Path(__file__).parents[1]
GOOD = ROOT / "pcaps" / "ovpn-udp-plain-1194" / "capture.pcap"
VALIDATOR = jsonschema.Draft202012Validator(schema())


def header(linktype: int = 1) -> bytes:
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)


def record(data: bytes, claimed: int | None = None) -> bytes:
    length = len(data) if claimed is None else claimed
    return struct.pack("<IIII", 1_772_366_400, 0, length, length) + data


def cut_in_a_record() -> tuple[bytes, int]:
    """All of the good capture but the last bytes, and where its last record begins."""
    data = GOOD.read_bytes()
    offset = 24
    while (end := offset + 16 + struct.unpack_from("<I", data, offset + 8)[0]) < len(data):
        offset = end
    return data[:-3], offset


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "classifier", "replay", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def events(path: Path) -> list[dict[str, Any]]:
    loaded = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for event in loaded:
        VALIDATOR.validate(event)
    return loaded


def found(stream: Sequence[dict[str, Any]], capture: Path) -> list[dict[str, Any]]:
    return [event for event in stream if event.get("pcap_filename") == str(capture)]


BAD = {
    "empty": (b"", "empty", None),
    "text": (b"This is a letter and no capture at all.\n" * 9, "not_a_capture", 0),
    "short": (header()[:11], "truncated", None),
    "four-gigabytes": (header() + record(b"", claimed=0xFFFFFFF0), "malformed", 24),
    "half-a-record-header": (header() + record(bytes(60)) + bytes(7), "truncated", 24 + 16 + 60),
    "corrupt-gzip": (
        gzip.compress(header() + record(bytes(600)) * 40, 9)[:60] + bytes(99),
        "compression",
        None,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_capture_is_named_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    data, reason, offset = BAD[name]
    bad, output = tmp_path / f"{name}.pcap", tmp_path / "events.jsonl"
    bad.write_bytes(data)
    done = run(str(bad), str(GOOD), "-o", str(output))
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"vpn-classifier: {bad}: {reason.replace('_', ' ')}")
    if offset is not None:
        assert f" at byte {offset}: " in line
    stream = events(output)
    assert [item["reason"] for item in stream[-1]["stats"]["unreadable"]] == [reason]
    assert found(stream, GOOD)


def test_a_capture_cut_inside_a_record_is_classified_as_far_as_it_is_whole(tmp_path: Path) -> None:
    data, offset = cut_in_a_record()
    cut, output = tmp_path / "cut.pcap", tmp_path / "events.jsonl"
    cut.write_bytes(data)
    done = run(str(cut), "-o", str(output))
    assert done.returncode == 4
    assert f"{cut}: truncated at byte {offset}: " in done.stderr
    last = [event for event in found(events(output), cut) if event["event"] == "ended"]
    assert [event["vpn"]["protocol"] for event in last] == ["openvpn"]
    assert last[0]["flow"]["reason"] == "forced_end"


def test_frames_of_an_unknown_link_type_are_named_and_counted(tmp_path: Path) -> None:
    strange, output = tmp_path / "strange.pcap", tmp_path / "events.jsonl"
    strange.write_bytes(header(linktype=147) + record(bytes(60)) * 5)
    done = run(str(strange), "-o", str(output))
    assert done.returncode == 0
    assert "147" in done.stdout
    last = events(output)[-1]["stats"]
    (link,) = last["link_types"]
    assert (link["number"], link["frames"], link["decoded"]) == (147, 5, False)
    counters = last["counters"]
    assert sum(count for name, count in counters.items() if name.startswith("undecoded.")) == 5


def test_the_same_through_python(tmp_path: Path) -> None:
    data, offset = cut_in_a_record()
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(data)
    stream = replay([cut, GOOD, tmp_path / "missing"])
    seen: list[Event] = []
    with pytest.raises(InputError) as caught:
        collections.deque(map(seen.append, stream))
    assert [(fault.reason, fault.offset) for fault in caught.value.faults] == [
        ("not_found", None),
        ("truncated", offset),
    ]
    captures = {event["pcap_filename"] for event in seen if event["event_type"] == "vpn"}
    assert captures == {str(cut), str(GOOD)}
    assert seen[-1]["event_type"] == "stats"


def test_standard_input_is_read_like_a_file(tmp_path: Path) -> None:
    output = tmp_path / "events.jsonl"
    with GOOD.open("rb") as capture:
        done = subprocess.run(
            [sys.executable, "-m", "classifier", "replay", "-", "-o", str(output)],
            stdin=capture,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    from_file = tmp_path / "file.jsonl"
    assert run(str(GOOD), "-o", str(from_file)).returncode == 0

    def told(path: Path) -> list[Any]:
        return [event["vpn"] for event in events(path) if event["event_type"] == "vpn"]

    assert told(output) == told(from_file)
    assert told(output)
