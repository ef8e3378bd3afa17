"""Which captures the names on a command line stand for."""

import os
import struct
from pathlib import Path

import pytest

from classifier.inputs import InputError, InputFault, find

CAPTURE = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with captures and other files."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.pcap", "a.pcapng.gz", "sub/c.pcap3", "sub/deep/d.CAP", "sub/.hidden.pcap"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CAPTURE)
    (tmp_path / "sub" / "told-by-its-bytes").write_bytes(CAPTURE)
    (tmp_path / "sub" / "empty.pcap").write_bytes(b"")
    (tmp_path / "sub" / "notes.txt").write_text("no capture")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no capture")
    return tmp_path


def test_files_and_standard_input_stay_in_order_and_come_once(folder: Path) -> None:
    assert find(["b.pcap", "-", "a.pcapng.gz", "b.pcap", "-"]).paths == ("b.pcap", "-", "a.pcapng.gz")
    assert (folder / "b.pcap").exists()


@pytest.mark.usefixtures("folder")
def test_a_directory_gives_what_looks_like_a_capture_even_an_empty_one() -> None:
    found = find(["sub"])
    assert found.paths == ("sub/c.pcap3", "sub/deep/d.CAP", "sub/empty.pcap", "sub/told-by-its-bytes")
    assert found.faults == ()
    assert found.size == 3 * len(CAPTURE)


@pytest.mark.usefixtures("folder")
def test_a_file_named_by_hand_is_taken_whatever_it_is_called() -> None:
    assert find(["sub/notes.txt"]).paths == ("sub/notes.txt",)


def test_globs(folder: Path) -> None:
    assert find(["*.pcap*"]).paths == ("a.pcapng.gz", "b.pcap")
    assert "sub/deep/d.CAP" in find(["**/*.CAP"]).paths
    assert find(["su[b]"]).paths[0] == "sub/c.pcap3"
    (folder / "*.pcap").write_bytes(CAPTURE)
    assert find(["*.pcap"]).paths == ("*.pcap",), "a file of that very name comes before the pattern"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("missing.pcap", "not_found", "no such file"),
        ("miss*.pcap", "not_found", "no file matches"),
        ("none", "no_captures", "no file below this directory is a capture"),
    ],
)
def test_what_is_not_there_is_a_fault_and_the_rest_is_read(name: str, reason: str, words: str) -> None:
    found = find([name, "b.pcap"])
    assert found.paths == ("b.pcap",)
    (fault,) = found.faults
    assert (fault.path, fault.reason, fault.found) == (name, reason, words)
    assert str(fault).startswith(f"{name}: {reason.replace('_', ' ')}: {words}; expected ")


def test_a_name_that_is_not_utf8_is_a_fault(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.pcap")
    (folder / name).write_bytes(CAPTURE)
    found = find([name])
    assert found.paths == ()
    assert [(fault.path, fault.reason) for fault in found.faults] == [("caf\\xe9.pcap", "file_name")]


@pytest.mark.usefixtures("folder")
def test_size_is_unknown_with_standard_input() -> None:
    assert find(["b.pcap"]).size == len(CAPTURE)
    assert find(["b.pcap", "-"]).size is None


def test_a_link_that_leads_round_in_circles_is_not_followed(folder: Path) -> None:
    (folder / "sub" / "round").symlink_to(folder / "sub")
    assert len(find(["sub"]).paths) == 4


def test_an_error_says_every_fault() -> None:
    faults = (InputFault("a", "empty", "0 bytes", "a capture", 0), InputFault("b", "io", "broken", ""))
    error = InputError(faults)
    assert str(error) == "a: empty at byte 0: 0 bytes; expected a capture\nb: io: broken"
    assert error.faults == faults
