"""Which captures are meant by the names that a person gave.

A file is itself, "-" is standard input, a directory stands for the captures below it (any depth, in the
order of their paths), and a name that does not exist but has `*`, `?` or `[` in it is a glob. In a
directory a file is a capture when its name says so (`.pcap`, `.pcapng`, `.cap`, `.dmp`, also with a
number or `.gz`, `.zst`) or its first bytes do: what cannot be read is then reported, not left out.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from classifier.errors import ClassifierError

_NAME = re.compile(r"\.(pcap|pcapng|cap|dmp)\d*(\.(gz|zst))?$", re.IGNORECASE)
_MAGICS = (
    b"\xd4\xc3\xb2\xa1",  # pcap, microseconds, little-endian
    b"\xa1\xb2\xc3\xd4",
    b"\x4d\x3c\xb2\xa1",  # pcap, nanoseconds, little-endian
    b"\xa1\xb2\x3c\x4d",
    b"\x0a\x0d\x0d\x0a",  # pcapng section header
)


@dataclass(frozen=True, slots=True)
class InputFault:
    """Why an input could not be read, or not to its end."""

    path: str
    reason: str  # a stable word, as in `_core.CaptureError.reason`
    found: str
    expected: str
    offset: int | None = None

    def __str__(self) -> str:
        place = "" if self.offset is None else f" at byte {self.offset}"
        expected = f"; expected {self.expected}" if self.expected else ""
        return f"{self.path}: {self.reason.replace('_', ' ')}{place}: {self.found}{expected}"


class InputError(ClassifierError):
    """Some input could not be read. What could be read has been."""

    def __init__(self, faults: tuple[InputFault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Inputs:
    """What to read, in order, and what cannot be."""

    paths: tuple[str, ...]
    faults: tuple[InputFault, ...]
    size: int | None
    """Bytes on disk of all of them; None when that of one is unknown, such as standard input."""


def find(names: Iterable[str]) -> Inputs:
    """The captures that these names stand for, each once."""
    found: dict[str, None] = {}
    faults: list[InputFault] = []
    for name in names:
        for item in _one(name):
            if isinstance(item, InputFault):
                faults.append(item)
            else:
                found[item] = None
    paths = tuple(found)
    sizes = [_size(path) for path in paths]
    known = [size for size in sizes if size is not None]
    return Inputs(paths, tuple(faults), sum(known) if len(known) == len(sizes) else None)


def _one(name: str) -> Iterator[str | InputFault]:
    if name == "-":
        yield name
        return
    path = Path(name)
    if path.is_dir():
        captures = sorted(_below(name))
        if not captures:
            yield InputFault(
                name, "no_captures", "no file below this directory is a capture", "pcap or pcapng files"
            )
        yield from map(_readable, captures)
    elif path.exists():
        yield _readable(name)
    elif glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207, names stay as given
        if not matches:
            yield InputFault(name, "not_found", "no file matches", "a pattern that matches captures")
        for match in matches:
            yield from _one(match)
    else:
        yield InputFault(name, "not_found", "no such file", "a capture, a directory, a glob or '-'")


def _readable(name: str) -> str | InputFault:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        return InputFault(shown, "file_name", "the name is not UTF-8", "a name in UTF-8, or the file at '-'")
    return name


def _size(path: str) -> int | None:
    try:
        found = None if path == "-" else Path(path).stat()
    except OSError:  # gone since it was found: the engine will say so
        return 0
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None


def _below(directory: str) -> Iterator[str]:
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            if (
                not name.startswith(".")
                and path.is_file()
                and (_NAME.search(name) or _begins_as_capture(path))
            ):
                yield os.path.join(folder, name)  # noqa: PTH118, keeps a leading "./" as given


def _begins_as_capture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in _MAGICS
    except OSError:
        return False
