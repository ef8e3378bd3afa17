"""Which captures the names on a command line stand for."""

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

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


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (gzip.compress(CAPTURE), True),
        (gzip.compress(b"") + gzip.compress(CAPTURE[:2]) + gzip.compress(CAPTURE[2:]), True),
        (gzip.compress(b"\n\r\r\n" + bytes(24)), True),
        (zstandard.compress(CAPTURE), True),
        (gzip.compress(CAPTURE)[:11], True),  # cut: what it holds cannot be told
        (b"\x1f\x8bdamaged", True),
        (gzip.compress(b"a log file\n" * 9), False),
        (gzip.compress(b""), False),
        (b"", False),
    ],
    ids=["gzip", "members", "pcapng", "zstd", "cut", "damaged", "log", "nothing-inside", "empty"],
)
def test_a_compressed_capture_in_a_directory_is_told_by_its_bytes(
    folder: Path, data: bytes, taken: bool
) -> None:
    (folder / "none" / "upload").write_bytes(data)
    assert find(["none"]).paths == (("none/upload",) if taken else ())


def test_a_gzip_bomb_is_not_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a gzip file only the beginning is read, and of what is inside only four bytes are made."""
    made: list[int] = []

    class Watched:
        def __init__(self, wbits: int) -> None:
            self._inner = decompressobj(wbits=wbits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            out = self._inner.decompress(data, limit)
            made.extend((len(data), len(out)))
            return bytes(out)

    decompressobj = zlib.decompressobj
    (folder / "none" / "bomb").write_bytes(gzip.compress(bytes(100_000_000), 1))
    monkeypatch.setattr(zlib, "decompressobj", Watched)
    assert find(["none"]).paths == ()
    assert len(made) == 2
    assert made[0] < 70_000
    assert made[1] == 4


def test_a_directory_that_cannot_be_listed_is_a_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    assert folder.is_dir()
    monkeypatch.setattr(os, "scandir", refuse)
    found = find(["sub", "sub/deep"])
    assert found.paths == ("sub/c.pcap3", "sub/empty.pcap", "sub/told-by-its-bytes")
    assert [(fault.path, fault.reason, fault.found) for fault in found.faults] == [
        ("sub/deep", "permission", "Permission denied")
    ] * 2


def test_a_file_that_cannot_be_opened_is_a_fault_unless_its_name_says_capture(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    (folder / "sub" / "notes.txt").unlink()
    monkeypatch.setattr(Path, "open", refuse)
    found = find(["sub"])
    assert found.paths == ("sub/c.pcap3", "sub/deep/d.CAP", "sub/empty.pcap"), "the engine reports these"
    assert [(fault.path, fault.reason) for fault in found.faults] == [("sub/told-by-its-bytes", "permission")]


def test_a_file_in_a_directory_that_cannot_be_entered_is_a_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def refuse(path: Path, **options: Any) -> os.stat_result:
        if path.parent.name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    assert folder.is_dir()
    monkeypatch.setattr(Path, "stat", refuse)
    found = find(["sub/deep/d.CAP", "b.pcap"])
    assert found.paths == ("b.pcap",)
    assert [(fault.path, fault.reason) for fault in found.faults] == [("sub/deep/d.CAP", "permission")]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["x" * 300, "sub/" + "y" * 300 + "/z.pcap", "x/" * 3_000])
def test_a_name_that_is_too_long_is_a_fault(name: str) -> None:
    found = find([name, "b.pcap"])
    assert found.paths == ("b.pcap",)
    assert [(fault.path, fault.reason, fault.found) for fault in found.faults] == [
        (name, "io", "File name too long")
    ]


def test_links_that_lead_nowhere(folder: Path) -> None:
    (folder / "none" / "gone.pcap").symlink_to("nothing")
    (folder / "none" / "gone").symlink_to("nothing")
    (folder / "none" / "self").symlink_to("self")
    (folder / "none" / "[a].pcap").symlink_to("nothing")
    found = find(["none"])
    assert found.paths == ()
    assert [(fault.path, fault.reason) for fault in found.faults] == [
        ("none/[a].pcap", "not_found"),
        ("none/gone.pcap", "not_found"),
        ("none/self", "io"),
    ]
    assert [fault.path for fault in find(["none/*.pcap"]).faults] == ["none/[a].pcap", "none/gone.pcap"]


def test_directories_may_be_nested_deeper_than_the_stack(folder: Path) -> None:
    deep = "none" + "/d" * 1_200
    here = os.open("none", os.O_RDONLY)
    for _ in range(1_200):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    (folder / deep / "e.pcap").write_bytes(CAPTURE)
    try:
        assert find(["none"]).paths == (f"{deep}/e.pcap",)
    finally:  # the clean-up of the test run recurses
        (folder / deep / "e.pcap").unlink()
        for depth in range(1_200, 0, -1):
            Path("none" + "/d" * depth).rmdir()


def test_a_file_with_two_names_is_read_once_under_the_first(folder: Path) -> None:
    (folder / "link.pcap").symlink_to("b.pcap")
    (folder / "hard.pcap").hardlink_to("b.pcap")
    names = ["./b.pcap", "b.pcap", str(folder / "b.pcap"), "link.pcap", "hard.pcap", "sub/../b.pcap"]
    found = find(names)
    assert found.paths == ("./b.pcap",)
    assert found.size == len(CAPTURE)
    assert find(["sub", "sub/deep"]).paths == find(["sub"]).paths


def test_faults_name_files_in_utf8_only(folder: Path) -> None:
    (folder / "none" / os.fsdecode(b"caf\xe9.pcap")).symlink_to("nothing")
    for name in ("none", os.fsdecode(b"none/caf\xe9.pcap")):
        assert [fault.path for fault in find([name]).faults] == ["none/caf\\xe9.pcap"]
    assert [fault.reason for fault in find(["a\0b", "\ud800"]).faults] == ["not_found"] * 2


def test_an_error_says_every_fault() -> None:
    faults = (InputFault("a", "empty", "0 bytes", "a capture", 0), InputFault("b", "io", "broken", ""))
    error = InputError(faults)
    assert str(error) == "a: empty at byte 0: 0 bytes; expected a capture\nb: io: broken"
    assert error.faults == faults
