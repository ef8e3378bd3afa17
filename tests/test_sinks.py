"""Event lines and the report for people."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from fake_engine import Row, Step
from test_pipeline import NEW, entry, register, run, scan

from classifier.errors import OutputError
from classifier.events import Event, VpnLines
from classifier.screen import Cell, Screen
from classifier.sinks.jsonl import JsonLines
from classifier.sinks.report import Report, endpoint

STREAM = cast(list[Event], run([[NEW], [NEW.then("ended")]]))


def block(events: list[Event]) -> VpnLines:
    """Lines that come together, as the core writes them; what a file does not look at is left out."""
    text = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    return VpnLines(text, [], [], [], [], [])


def write(path: str, stream: Sequence[Event | VpnLines]) -> None:
    sink = JsonLines(path)
    try:
        for event in stream:
            sink.write(event)
    finally:
        sink.close()


def test_lines_are_the_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("what stood there before")
    write(str(path), STREAM)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == STREAM


def test_more_than_the_buffer_holds(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(str(path), STREAM * 500)
    assert path.read_bytes().count(b"\n") == 500 * len(STREAM)
    assert path.stat().st_size > 1 << 18


def test_blocks_of_lines_stand_where_they_came(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    long = STREAM * 100
    assert len(block(long).text) > 1 << 16
    write(str(path), [STREAM[0], block(STREAM), block(long), STREAM[1], block(long)])
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert events == [STREAM[0], *STREAM, *long, STREAM[1], *long]


def test_standard_output_stays_open(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write("-", STREAM)
    os.write(1, b"after\n")
    lines = capfdbinary.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines[:-1]] == STREAM
    assert lines[-1] == b"after"


def test_an_output_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "events.jsonl"):
        with pytest.raises(OutputError) as caught:
            JsonLines(str(path))
        assert caught.value.path == str(path)
        assert caught.value.reason in ("Is a directory", "No such file or directory")


def test_a_full_disk() -> None:
    with pytest.raises(OutputError, match="/dev/full: cannot be written: No space left on device"):
        write("/dev/full", STREAM)


@pytest.mark.parametrize("stream", [STREAM * 500, [block(STREAM * 500)]], ids=["one by one", "a block"])
def test_what_a_full_disk_holds_are_whole_lines(stream: Sequence[Event | VpnLines], tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(OutputError, match="File too large"):
            write(str(path), stream)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    data = path.read_bytes()
    assert 90_000 < len(data) <= 100_000
    assert data.endswith(b"\n")
    assert [json.loads(line) for line in data.splitlines()][: len(STREAM)] == STREAM


def test_a_reader_that_has_left() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    sink = JsonLines(f"/dev/fd/{writing}")
    os.close(writing)
    sink.write(STREAM[0])
    with pytest.raises(BrokenPipeError):
        sink.close()


def printed(steps: list[Step], width: int = 200, rows: int = 100, *, good: bool = False) -> str:
    report = Report(rows)
    for event in run(steps, with_register=register(entry()) if good else None):
        report.write(cast(Event, event))
    file = io.StringIO()
    screen = Screen(file, width)
    report.print_flows(screen)
    report.print_summary(screen, seconds=2.0)
    return file.getvalue()


def ended(row: Row) -> list[Row]:
    return [row, row.then("ended")]


def test_a_flow_is_shown_in_its_last_state_with_rule_and_ends() -> None:
    few = replace(NEW, packets_to_server=1, packets_to_client=1, phase="handshake")
    text = printed([[few], [few.then("ended", phase="established", packets_to_server=30)]])
    (row,) = [line for line in text.splitlines() if "192.0.2.10:51820" in line]
    for word in ("wireguard", "confirmed", "established", "198.51.100.20:51820", "unregistered", "flag"):
        assert word in row
    assert "rule unregistered-established" in row


def test_an_entry_is_shown_where_a_verdict_rests_on_one() -> None:
    assert "R-1" in printed([ended(NEW)], good=True)
    assert "rule registered" not in printed([ended(NEW)], good=True)


def test_nothing_is_lost_on_a_narrow_terminal() -> None:
    client, server = "2001:db8:1111:2222:3333:4444:5555:6666", "2001:db8::20"
    row = replace(NEW, source_ip=client, destination_ip=server, variant="tls-crypt-v2")
    text = printed([ended(row)], width=80)
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    (header,) = [line for line in lines if "source, destination" in line]
    begin, end = header.index("source"), header.index("verdict")
    column = "".join(line[begin:end].strip() for line in lines[lines.index(header) + 2 :])
    assert column.startswith(f"[{client}]:51820[{server}]:51820")
    for words in (
        "wireguard tls-crypt-v2",
        "confirmed, established",
        f"[{server}]:51820",
        "unregistered, flag",
    ):
        assert words in text


def test_flagged_rows_come_first_and_what_is_left_out_is_said() -> None:
    bad = replace(NEW, flow_id=99, source_ip="203.0.113.77", destination_ip="203.0.113.78")
    steps: list[Step] = [*(ended(row) for row in scan(8)), ended(bad)]
    text = printed(steps, rows=3)
    assert text.index("203.0.113.77") < text.index("192.0.2.10")
    assert "6 more flows are not shown (6 observe)" in text
    assert text.count("192.0.2.10:") == 2


def test_the_summary_counts_flows_and_cases() -> None:
    other = replace(NEW, flow_id=2, source_port=7)
    text = printed([ended(NEW), ended(other), *(ended(row) for row in scan(3))])
    assert "1 capture, 10 packets, 1,000 bytes, 5 packets/s" in text
    words = [line.split() for line in text.splitlines()]
    assert ["wireguard", "unregistered", "flag", "2", "1"] in words
    assert ["wireguard", "unregistered", "observe", "3", "3"] in words


def test_the_summary_says_what_was_not_decoded_and_what_was_summarised() -> None:
    text = printed([scan(15)])
    assert "Not decoded, ipv4 truncated: 3" in text
    assert "Link type USER0 (147) is not decoded: 2 packets" in text
    assert "Summarised by prefix: 5 openings that nobody answered" in text


def test_nothing_found() -> None:
    assert printed([]).startswith("No VPN flow was found.")


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report()
    for event in STREAM:
        report.write(event)
    monkeypatch.setenv("COLUMNS", "200")
    texts = []
    for variable, value in (("TERM", "xterm"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "")
        monkeypatch.setenv(variable, value)
        file = io.StringIO()
        monkeypatch.setattr(file, "isatty", lambda: True)
        report.print_flows(Screen.of(file))
        texts.append(file.getvalue())
    assert "\x1b[1;31munregistered\x1b[0m" in texts[0]
    assert "\x1b" not in texts[1] + texts[2]


def test_endpoints_as_people_write_them() -> None:
    assert endpoint("192.0.2.1", 500) == "192.0.2.1:500"
    assert endpoint("2001:db8::1", 500) == "[2001:db8::1]:500"
    assert endpoint("2001:db8::1", None) == "2001:db8::1"


def test_a_table_folds_what_does_not_fit() -> None:
    file = io.StringIO()
    rows = [[Cell("a\x1b[2J"), Cell("12345678\nnine", "bold", 6), Cell("7")]]
    Screen(file, 18, colour=True).table("Some", ("one", "two", "n"), rows, right=("n",))
    bold, plain = "\x1b[1m", "\x1b[0m"
    assert file.getvalue().splitlines() == [
        f"{bold}Some{plain}",
        "",
        f" {bold}one{plain}     {bold}two{plain}     {bold}n{plain}",
        " ─────────────────",
        f" a\\x1b   {bold}12345{plain}   7",
        f" [2J     {bold}6{plain}78",
        "         nine",
        "",
    ]
    assert max(map(len, drawn_plain(rows))) <= 18


def drawn_plain(rows: list[list[Cell]]) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Screen(file, 18).table("Some", ("one", "two", "n"), rows, right=("n",))
    file.seek(0)
    return file.read().splitlines()
