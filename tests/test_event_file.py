"""Event files as one stream: places, progress, and what is no event file."""

from __future__ import annotations

from pathlib import Path

import pytest
from event_files import save
from test_pipeline import NEW, run

from classifier.event_file import EventFileError, EventFiles

EVENTS = run([[NEW, NEW.then("ended")]])


def test_several_files_are_one_stream_and_every_event_has_its_place(tmp_path: Path) -> None:
    paths = [save(tmp_path / name, EVENTS) for name in ("a", "b")]
    files = EventFiles(paths)
    found = list(files)
    count = len(EVENTS)
    assert [(line.path, line.number) for line in found] == [
        (path, number) for path in paths for number in range(1, count + 1)
    ]
    assert [line.event for line in found] == EVENTS * 2
    assert files.read == files.size == sum(Path(path).stat().st_size for path in paths)


def test_progress_is_told_now_and_then(tmp_path: Path) -> None:
    files = EventFiles([save(tmp_path / "e", EVENTS * 600)])
    read: list[int] = []
    files.on_tick = lambda: read.append(files.read)
    list(files)
    assert len(read) == len(EVENTS) * 600 // 1_000
    assert read == sorted(read)


def test_the_size_of_a_pipe_is_unknown(tmp_path: Path) -> None:
    assert EventFiles(["-"]).size is None
    assert EventFiles([str(tmp_path / "missing")]).size is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]\n", "line 1: expected an object, found array"),
        (b"{}\n", "line 1: event_type: expected one of vpn, "),
        (b'{"event_type": 7}\n', "line 1: event_type: expected one of vpn, "),
        (b'{"event_type": "stats"}\nnonsense\n', "line 2, column 1: not JSON ("),
        (b"", "empty; expected an event a line"),
        (b'{"event_type": "stats"}' * 5, "line 1: longer than 100 bytes"),
    ],
)
def test_what_is_no_event_file_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, message: str
) -> None:
    monkeypatch.setattr("classifier.event_file._LONGEST", 100)
    path = tmp_path / "e"
    path.write_bytes(text)
    with pytest.raises(EventFileError) as caught:
        list(EventFiles([str(path)]))
    assert str(caught.value).removeprefix(str(path)).lstrip(":, ").startswith(message)
